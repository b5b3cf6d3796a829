//! The messages that leave us: byte for byte as they were agreed on (tests/golden/messages), and run by a real Celery
//! worker over Redis and over RabbitMQ. One malformed message kills a worker, and the next one that takes it up.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it golden` writes the files anew; read the difference before you keep it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lapin::options::QueueDeleteOptions;
use redis::Commands as _;
use serde_json::{Map, Value, json};
use trigger_dispatcher::clock;
use trigger_dispatcher::config::{Argument, Broker, CeleryConfig, Scope};
use trigger_dispatcher::intake::{Batch, Record};
use trigger_dispatcher::rules::{Rule, RuleSet, Skips};
use trigger_dispatcher::tasks::amqp::AmqpQueue;
use trigger_dispatcher::tasks::celery::{Encoder, redis_list};
use trigger_dispatcher::tasks::redis::{RedisQueue, Results, TaskResult};
use trigger_dispatcher::tasks::{Publication, Task, TaskQueue, trigger_id, trigger_text};
use uuid::Uuid;

use crate::support::settings::config;
use crate::support::{service, unique, wait_for};

const PIPELINE: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// Of the keys of results. Celery puts an underscore behind it.
const RESULT_PREFIX: &str = "golden";
/// Longer files keep a message's head, length and digest only.
const WHOLE: usize = 30_000;

/// One kind of message.
struct Row {
    name: &'static str,
    celery: CeleryConfig,
    task: Task,
    expires: Timestamp,
}

impl Row {
    fn has_expired(&self) -> bool {
        self.name.starts_with("expired")
    }
}

/// The table. `salt` tells one run's ids from another's.
struct Table {
    celery: CeleryConfig,
    salt: String,
    rows: Vec<Row>,
}

impl Table {
    fn new(celery: &CeleryConfig, salt: &str) -> Self {
        let mut table = Self { celery: celery.clone(), salt: salt.to_owned(), rows: Vec::new() };
        table.plain();
        table.texts();
        table.sizes();
        table.settings();
        table
    }

    /// A task as the dispatcher makes it of a signal.
    fn signal(&mut self, name: &'static str, fields: Value, change: impl FnOnce(&mut CeleryConfig)) {
        let mut celery = self.celery.clone();
        change(&mut celery);
        let mut signal = json!({"signal_id": format!("{name} {}", self.salt), "tickers": [{"ticker": "AAPL"}]});
        signal.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let task = told(&celery, &self.salt, &signal.to_string());
        let expires = Timestamp::from_second(4_102_444_800).unwrap();
        self.rows.push(Row { name, celery, task, expires });
    }

    /// A task whose arguments no signal could make.
    fn arguments(&mut self, name: &'static str, kwargs: &Value) {
        let task = Task { trigger_id: trigger_id(PIPELINE, name, &self.salt), kwargs: kwargs.to_string() };
        let expires = Timestamp::from_second(4_102_444_800).unwrap();
        self.rows.push(Row { name, celery: self.celery.clone(), task, expires });
    }

    fn plain(&mut self) {
        let unchanged = |_: &mut CeleryConfig| {};
        let golden_cross = json!({
            "signal_type": "golden_cross",
            "source": "golden-cross-generator",
            "timestamp": "2026-11-22T10:00:00Z",
            "tickers": [{"ticker": "AAPL", "signal": "BULLISH", "confidence": 85.0, "reasoning": "SMA 50 crossed SMA 200"}],
            "metadata": {"sma_50": 191.25, "sma_200": 190.5, "timeframe": "1d"},
        });
        self.signal("plain", golden_cross.clone(), unchanged);
        self.signal("least", json!({}), unchanged);
        self.signal(
            "several_tickers",
            json!({"tickers": [{"ticker": "MSFT"}, {"ticker": " aapl "}, {"ticker": "XYZ"}]}),
            unchanged,
        );
        self.signal("expires_within_the_year_and_with_microseconds", golden_cross.clone(), unchanged);
        self.rows.last_mut().unwrap().expires = "2099-12-31T23:59:59.123456789Z".parse().unwrap();
        self.signal("expired", golden_cross.clone(), unchanged);
        self.rows.last_mut().unwrap().expires = Timestamp::from_second(1_577_836_800).unwrap();
        self.signal("expired_with_a_fraction", golden_cross, unchanged);
        self.rows.last_mut().unwrap().expires = Timestamp::from_microsecond(1_577_836_800_000_001).unwrap();
    }

    fn texts(&mut self) {
        let unchanged = |_: &mut CeleryConfig| {};
        let ticker = |ticker: &str| json!({"tickers": [{"ticker": ticker}]});
        self.signal("emoji", json!({"source": "🚀🌕 to the moon", "metadata": {"🇨🇭": "👩‍👩‍👧‍👦"}}), unchanged);
        self.signal(
            "other_scripts",
            json!({"source": "Zürich Ελλάδα 東京 اللغة العربية", "signal_type": "ゴールデンクロス"}),
            unchanged,
        );
        self.signal("a_ticker_with_an_emoji", ticker("🚀"), unchanged);
        self.signal("a_ticker_beyond_ascii", ticker("münch"), unchanged);
        self.signal("quotes_and_backslashes", json!({"source": r#"he said "no" to C:\new\table \u0041 '"#}), unchanged);
        self.signal(
            "control_characters",
            json!({"source": "\u{1}\u{8}\t\n\u{c}\r\u{1f}\u{7f}\u{85}\u{2028}\u{2029}\u{feff}\u{fffd}"}),
            unchanged,
        );
        self.signal(
            "python_and_templates",
            json!({"source": "{0} %s %(x)s {{ }} None True __import__('os') ${jndi:ldap}"}),
            unchanged,
        );
        self.signal("wrong_types", json!({"source": {"a": 1}, "timestamp": [], "metadata": [1], "signal_type": 7}), unchanged);
    }

    fn sizes(&mut self) {
        let unchanged = |_: &mut CeleryConfig| {};
        let metadata: Map<_, _> =
            (0..200).map(|number| (format!("indicator_{number}"), json!({"value": number, "text": "é".repeat(10)}))).collect();
        self.signal("big_metadata", json!({"metadata": metadata}), unchanged);
        let mut nested = json!({"deepest": null});
        for depth in 0..20 {
            nested = if depth % 2 == 0 { json!({"level": nested}) } else { json!({"levels": [nested, depth]}) };
        }
        // As deep as a record may be.
        self.signal("nested_metadata", json!({"metadata": nested}), unchanged);
        let numbers =
            json!({"zero": -0.0, "tiny": 5e-324, "huge": 1.797_693_134_862_315_7e308, "big": u64::MAX, "small": i64::MIN});
        self.signal(
            "numbers",
            json!({"metadata": numbers, "tickers": [{"ticker": "AAPL", "confidence": 99.999_999_999}]}),
            unchanged,
        );
        self.arguments(
            "a_symbol_of_300_characters",
            &json!({"symbol": "Ä".repeat(300), "signal_context": {"tickers": ["Ä".repeat(300)]}}),
        );
        self.arguments("no_arguments", &json!({}));
        self.arguments(
            "names_of_celery_s_own",
            &json!({"args": [1], "kwargs": {"a": 1}, "task_id": "x", "expires": 1, "": "", "callbacks": 1}),
        );
        self.signal("huge_arguments", json!({}), |celery| {
            celery.extra_kwargs.insert("blob".to_owned(), Value::from("0123456789 é🚀\"\\ ".repeat(10_000)));
        });
    }

    fn settings(&mut self) {
        for (name, priority) in [("priority_3", 3), ("priority_5", 5), ("priority_9", 9), ("priority_255", 255)] {
            self.signal(name, json!({}), |celery| celery.priority = priority);
        }
        self.signal("headers_of_a_trace", json!({}), |celery| {
            let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            celery.headers.insert("traceparent".to_owned(), json!(trace));
            celery.headers.insert("tracestate".to_owned(), json!("vendor=value"));
            celery.headers.insert("x-beyond-ascii".to_owned(), json!("Zürich 🚀"));
        });
        self.signal("headers_of_every_type", json!({}), |celery| {
            let values = json!({"x_null": null, "x_true": true, "x_integer": -7, "x_real": 1.5, "x_list": [1, "a", [null]], "x_object": {"a": {"b": []}}});
            celery.headers.extend(values.as_object().unwrap().clone());
        });
        self.signal("extra_arguments", json!({}), |celery| {
            celery
                .extra_kwargs
                .extend(json!({"mode": "paper", "limits": {"orders": 3}, "flag": false}).as_object().unwrap().clone());
        });
        self.signal("some_arguments", json!({}), |celery| celery.arguments = vec![Argument::Symbol, Argument::PipelineId]);
    }
}

/// What a signal's trigger is told.
fn told(celery: &CeleryConfig, topic: &str, payload: &str) -> Task {
    let mut batch = Batch::default();
    let headers = Vec::new;
    let (payload, time_ms) = (Some(payload.as_bytes()), 1_795_341_600_123);
    batch.push(&Record { partition: 3, offset: 17, time_ms, key: None, payload, headers: &headers }, 1, i64::MIN, clock::now());
    assert_eq!(batch.rejected().iter().map(|rejected| rejected.reason).collect::<Vec<_>>(), []);
    let tickers = ["AAPL", "MSFT", "🚀", "MÜNCH"].map(str::to_owned).to_vec();
    let user_id = Some("5d2c1a6e-0000-4000-8000-000000000001".to_owned());
    let rules = Arc::new(RuleSet::new(vec![Rule { pipeline_id: PIPELINE, user_id, tickers, subscriptions: Vec::new() }]));
    let matches = rules.match_batch(&batch, Scope::Pipeline, &Skips::default());
    let text = trigger_text(celery, topic, &batch, &matches, &matches.candidates[0], "");
    Task { trigger_id: text.trigger_id, kwargs: text.head }
}

/// What the golden file of a row says.
fn golden(row: &Row) -> String {
    let encoder = Encoder::new(&row.celery);
    let origin = encoder.headers(&row.task, row.expires)["origin"].as_str().unwrap().to_owned();
    assert!(origin.starts_with("trigger-dispatcher@"), "{origin}");
    // The machine's name is the one thing that differs from place to place.
    let message = encoder.redis_messages([&row.task], row.expires)[0].replace(&origin, "trigger-dispatcher@HOST");
    let list = redis_list(&row.celery).replace('\u{6}', "\\x06").replace('\u{16}', "\\x16");
    let mut text = String::new();
    for (title, content) in [("list", list), ("body", Encoder::body(&row.task)), ("message", message)] {
        writeln!(text, "== {title}, {} bytes", content.len()).unwrap();
        if content.len() > WHOLE {
            let head: String = content.chars().take(500).collect();
            writeln!(text, "{head}…\n== digest {}", Uuid::new_v5(&Uuid::nil(), content.as_bytes())).unwrap();
        } else {
            writeln!(text, "{content}").unwrap();
        }
    }
    text
}

#[test]
fn messages_are_byte_for_byte_the_golden_ones() {
    let folder = Path::new(FOLDER).join("messages");
    let table = Table::new(&config("redis://unused/0", None).celery, "golden");
    let file = |row: &Row| folder.join(format!("{}.txt", row.name));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for row in &table.rows {
            std::fs::write(file(row), golden(row)).unwrap();
        }
    }
    for row in &table.rows {
        let agreed = std::fs::read_to_string(file(row)).unwrap_or_else(|error| panic!("{}: {error}", file(row).display()));
        assert_eq!(golden(row), agreed, "{}: if this is meant, run with UPDATE_GOLDEN=1", row.name);
    }
    let files: HashSet<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, table.rows.iter().map(file).collect(), "a file without a row, or a row without a file");
}

/// A real Celery worker on the golden application. Killed when it goes out of scope.
struct Worker {
    child: Child,
    store: redis::Connection,
    list: String,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Worker {
    fn start(broker: &str, celery: &CeleryConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (list, log) = (unique("golden_seen"), folder.path().join("worker.log"));
        let output = File::create(&log).unwrap();
        let name = format!("{}@localhost", celery.task_queue);
        let child = Command::new(service("TEST_PYTHON"))
            .args(["-m", "celery", "-A", "app", "worker", "-P", "solo", "-l", "info", "--without-gossip", "--without-mingle"])
            .args(["-Q", &celery.task_queue, "-n", &name])
            .env("PYTHONPATH", FOLDER)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("GOLDEN_BROKER", broker)
            .env("GOLDEN_RESULTS", service("TEST_REDIS_URL"))
            .env("GOLDEN_LIST", &list)
            .env("GOLDEN_PREFIX", &celery.global_keyprefix)
            .env("GOLDEN_RESULT_PREFIX", RESULT_PREFIX)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let store = redis::Client::open(service("TEST_REDIS_URL")).unwrap().get_connection().unwrap();
        Self { child, store, list, log, _folder: folder }
    }

    /// Everything that it has recorded so far.
    fn seen(&mut self) -> Vec<Value> {
        let seen: Vec<String> = self.store.lrange(&self.list, 0, -1).unwrap();
        seen.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// Waits until it has recorded so many events.
    fn wait_for(&mut self, count: usize) -> Vec<Value> {
        wait_for("the worker's next event", 60, || {
            let ended = self.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(&self.log).unwrap();
            assert!(ended.is_none(), "the worker ended ({ended:?}):\n{}", log());
            let seen = self.seen();
            (seen.len() >= count).then_some(seen)
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ended already is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn publication(expires: Timestamp, task: Task) -> Publication {
    let publish_by = trigger_dispatcher::clock::timer() + Duration::from_secs(60);
    Publication { id: Uuid::new_v4(), expires, publish_by, tasks: vec![task] }
}

/// Sends the whole table and one more task, and compares what the worker saw with what we sent.
async fn run_by_a_worker<Q: TaskQueue>(broker: &str, celery: &CeleryConfig, queue: impl Fn(&CeleryConfig) -> Q) {
    let mut worker = Worker::start(broker, celery);
    let table = Table::new(celery, &celery.task_queue);
    worker.wait_for(1);
    for row in &table.rows {
        let publication = publication(row.expires, row.task.clone());
        queue(&row.celery).enqueue(&publication).await.unwrap();
    }
    worker.wait_for(1 + table.rows.len());
    // It lives on, and works on.
    let last = Task { trigger_id: Uuid::new_v4(), kwargs: "{}".to_owned() };
    let publication = publication(table.rows[0].expires, last.clone());
    queue(celery).enqueue(&publication).await.unwrap();
    let seen = worker.wait_for(2 + table.rows.len());

    let id_of = |event: &Value| event["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(id_of(&seen[seen.len() - 1]), last.trigger_id.to_string());
    let seen: BTreeMap<_, _> = seen[1..].iter().map(|event| (id_of(event), event)).collect();
    assert_eq!(seen.len(), table.rows.len() + 1, "a task ran twice");
    for row in &table.rows {
        let event = seen[&row.task.trigger_id.to_string()];
        if row.has_expired() {
            assert_eq!((&event["event"], &event["expired"]), (&json!("revoked"), &json!(true)), "{}", row.name);
        } else {
            assert_ran(row, event, celery);
        }
    }

    // What Celery calls over, we do: results of those that ran, and of those that were thrown away.
    let Broker::Redis(backend) = config(&service("TEST_REDIS_URL"), None).celery.broker else { panic!("not redis") };
    let ids: Vec<_> = table.rows.iter().map(|row| row.task.trigger_id).collect();
    let result = |row: &Row| if row.has_expired() { TaskResult::Revoked } else { TaskResult::Ended };
    let expected: Vec<_> = table.rows.iter().map(|row| (row.task.trigger_id, result(row))).collect();
    assert_eq!(Results::new(&backend, RESULT_PREFIX).unwrap().of(&ids).await.unwrap(), expected);
    assert!(worker.child.try_wait().unwrap().is_none());
}

fn assert_ran(row: &Row, event: &Value, celery: &CeleryConfig) {
    let name = row.name;
    let sent = Encoder::new(&row.celery).headers(&row.task, row.expires);
    assert_eq!(event["event"], "ran", "{name}");
    assert_eq!(event["args"], json!([]), "{name}");
    assert_eq!(event["kwargs"], serde_json::from_str::<Value>(&row.task.kwargs).unwrap(), "{name}");
    for field in ["root_id", "retries", "timelimit", "argsrepr", "kwargsrepr", "origin"] {
        assert_eq!(event[field], sent[field], "{name}: {field}");
    }
    assert_eq!(event["correlation_id"], row.task.trigger_id.to_string(), "{name}");
    let expires: Timestamp = event["expires"].as_str().unwrap().replace(' ', "T").parse().unwrap();
    assert_eq!(expires.as_microsecond(), row.expires.as_microsecond(), "{name}");
    assert_eq!(event["priority"], row.celery.priority, "{name}");
    assert_eq!(event["routing_key"], celery.task_queue, "{name}");
    for (header, value) in &row.celery.headers {
        assert_eq!(event["headers"].get(header), Some(value), "{name}: {header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_worker_runs_every_golden_message_over_redis() {
    let url = service("TEST_REDIS_URL");
    let mut celery = config(&url, None).celery;
    celery.task_queue = unique("golden");
    celery.global_keyprefix = format!("{}:", celery.task_queue);
    let Broker::Redis(address) = &celery.broker else { panic!("not redis") };
    run_by_a_worker(&url, &celery, |celery| RedisQueue::new(address, celery, Duration::from_secs(60), None).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_worker_runs_every_golden_message_over_rabbitmq() {
    let url = service("TEST_AMQP_URL");
    let mut celery = config(&url, None).celery;
    celery.task_queue = unique("golden");
    let Broker::Amqp(address) = &celery.broker else { panic!("not amqp") };
    run_by_a_worker(&url, &celery, |celery| AmqpQueue::new(address, celery)).await;
    let connection = lapin::Connection::connect(address.expose(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(celery.task_queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}
