//! What the Redis queue promises beyond the conformance suite: one message per task, whatever breaks on the way.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use redis::Commands as _;
use serde_json::{Value, json};
use trigger_dispatcher::config::{Broker, CeleryConfig, RedisAddress};
use trigger_dispatcher::tasks::redis::{RedisQueue, Results, TaskResult};
use trigger_dispatcher::tasks::{Publication, Task, TaskQueue as _};
use uuid::Uuid;

use crate::support::cutter::{Cut, Cutter};
use crate::support::settings::config;
use crate::support::{service, unique, wait_for};

const LEASE: Duration = Duration::from_secs(60);

fn publication(tasks: usize, bytes: usize) -> Publication {
    let kwargs = json!({"text": "x".repeat(bytes)}).to_string();
    let task = |_| Task { trigger_id: Uuid::new_v4(), kwargs: kwargs.clone() };
    Publication {
        id: Uuid::new_v4(),
        expires: Timestamp::from_second(4_000_000_000).unwrap(),
        publish_by: trigger_dispatcher::clock::timer() + Duration::from_secs(300),
        tasks: (0..tasks).map(task).collect(),
    }
}

/// A queue of a test's own behind some address of Redis, and a direct connection to look into it.
struct World {
    celery: CeleryConfig,
    redis: redis::Connection,
}

impl World {
    fn new(url: &str) -> Self {
        Self::through(url, url)
    }

    fn through(broker: &str, direct: &str) -> Self {
        let mut celery = config(broker, None).celery;
        celery.task_queue = unique("queue");
        celery.global_keyprefix = format!("{}:", unique("prefix"));
        Self { celery, redis: redis::Client::open(direct).unwrap().get_connection().unwrap() }
    }

    fn address(&self) -> &RedisAddress {
        match &self.celery.broker {
            Broker::Redis(address) => address,
            Broker::Amqp(_) => panic!("not redis"),
        }
    }

    fn queue(&self) -> RedisQueue {
        RedisQueue::new(self.address(), &self.celery, LEASE, None).unwrap()
    }

    /// Every key that our prefix has.
    fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.redis.keys(format!("{}*", self.celery.global_keyprefix)).unwrap();
        keys.sort_unstable();
        keys
    }

    /// The ids of the tasks in the list, in the order in which workers take them.
    fn tasks(&mut self) -> Vec<Uuid> {
        let list = format!("{}{}", self.celery.global_keyprefix, self.celery.task_queue);
        let messages: Vec<String> = self.redis.lrange(list, 0, -1).unwrap();
        let id = |message: &String| {
            let message: Value = serde_json::from_str(message).unwrap();
            BASE64.decode(message["body"].as_str().unwrap()).unwrap();
            message["headers"]["id"].as_str().unwrap().parse().unwrap()
        };
        messages.iter().rev().map(id).collect()
    }
}

fn ids(publication: &Publication) -> Vec<Uuid> {
    publication.tasks.iter().map(|task| task.trigger_id).collect()
}

/// The address of Redis behind a cutter.
fn behind_a_cutter() -> (Cutter, World) {
    let direct = service("TEST_REDIS_URL");
    let url = url::Url::parse(&direct).unwrap();
    let cutter = Cutter::start(&format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(6379)));
    let mut through = url.clone();
    through.set_host(Some("127.0.0.1")).unwrap();
    through.set_port(Some(cutter.port)).unwrap();
    let world = World::through(through.as_str(), &direct);
    (cutter, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_reply_is_lost_a_retry_leaves_one_message_per_task() {
    let (cutter, mut world) = behind_a_cutter();
    let mut failures = 0;
    // From the first reply to the last: the hand-shake, the missing script, its loading, the publication itself.
    for reply in 0.. {
        let publication = publication(5, 100);
        let mut queue = world.queue();
        cutter.arm(Cut::Reply(reply));
        let first = queue.enqueue(&publication).await;
        let unharmed = cutter.disarm();
        assert_eq!(first.is_ok(), unharmed, "reply {reply}: {first:?}");
        queue.enqueue(&publication).await.unwrap();
        let tasks = world.tasks();
        assert_eq!(tasks[tasks.len() - 5..], ids(&publication), "reply {reply}");
        assert_eq!(tasks.len(), 5 * (reply + 1), "reply {reply}");
        if unharmed {
            break;
        }
        failures += 1;
    }
    assert!(failures >= 2, "only {failures} replies were ever lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_lost_on_an_established_connection_is_a_publication_that_was_there_already() {
    let (cutter, mut world) = behind_a_cutter();
    let mut queue = world.queue();
    let (before, lost) = (publication(1, 10), publication(3, 10));
    queue.enqueue(&before).await.unwrap();
    cutter.arm(Cut::Reply(0));
    assert!(queue.enqueue(&lost).await.is_err());
    // Redis had done it all: only the answer was lost.
    assert_eq!(world.tasks(), [ids(&before), ids(&lost)].concat());
    queue.enqueue(&lost).await.unwrap();
    assert_eq!(world.tasks(), [ids(&before), ids(&lost)].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_within_the_request_publishes_all_or_nothing() {
    let (cutter, mut world) = behind_a_cutter();
    let mut queue = world.queue();
    let mut expected = ids(&publication(0, 0));
    let (mut cuts, mut bytes) = (0, 1);
    loop {
        let publication = publication(40, 1_000);
        cutter.arm(Cut::Request(bytes));
        let first = queue.enqueue(&publication).await;
        let unharmed = cutter.disarm();
        assert_eq!(first.is_ok(), unharmed, "after {bytes} bytes: {first:?}");
        if !unharmed {
            assert_eq!(world.tasks(), expected, "after {bytes} bytes, something was there");
            let guard: bool = world.redis.exists(queue.guard(publication.id)).unwrap();
            assert!(!guard, "the guard without its tasks would lose them");
        }
        queue.enqueue(&publication).await.unwrap();
        expected.extend(ids(&publication));
        assert_eq!(world.tasks(), expected);
        if unharmed {
            break;
        }
        (cuts, bytes) = (cuts + 1, bytes * 3);
    }
    assert!(cuts >= 8, "only {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_in_parts_that_is_cut_anywhere_is_there_once_when_it_is_repeated() {
    let (cutter, mut world) = behind_a_cutter();
    let mut expected: Vec<Uuid> = Vec::new();
    let (mut cuts, mut torn, mut reply) = (0, 0, 0);
    loop {
        let publication = publication(3_500, 10);
        let mut queue = world.queue();
        cutter.arm(Cut::Reply(reply));
        let first = queue.enqueue(&publication).await;
        let unharmed = cutter.disarm();
        assert_eq!(first.is_ok(), unharmed, "reply {reply}: {first:?}");
        let there = world.tasks().len() - expected.len();
        torn += usize::from(0 < there && there < 3_500);
        // A sweeper, for which some slots have passed on meanwhile: so few are left that they would go in one part.
        let rest = Publication { tasks: publication.tasks[..700].to_vec(), ..publication.clone() };
        world.queue().enqueue(&rest).await.unwrap();
        queue.enqueue(&publication).await.unwrap();
        queue.enqueue(&publication).await.unwrap();
        let mut found = world.tasks().split_off(expected.len());
        expected.extend(&found);
        found.sort_unstable();
        // What the sweeper published stands for its whole part: the others of that part had passed on.
        let mut wanted = if unharmed { ids(&publication) } else { found.clone() };
        wanted.sort_unstable();
        assert_eq!(found, wanted, "reply {reply}");
        found.dedup();
        assert_eq!(found.len(), wanted.len(), "a task is there twice, reply {reply}");
        assert!(ids(&rest).iter().all(|id| found.contains(id)), "reply {reply}");
        if unharmed {
            break;
        }
        (cuts, reply) = (cuts + 1, reply + 1);
    }
    assert!(cuts >= 5 && torn >= 2, "only {cuts} cuts, {torn} of them between two parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_in_parts_that_one_publisher_repeats_is_complete_and_there_once() {
    let (cutter, mut world) = behind_a_cutter();
    for reply in 0..8 {
        let publication = publication(3_500, 10);
        let before = world.tasks().len();
        let mut queue = world.queue();
        cutter.arm(Cut::Reply(reply));
        queue.enqueue(&publication).await.ok();
        cutter.disarm();
        queue.enqueue(&publication).await.unwrap();
        let (mut found, mut wanted) = (world.tasks().split_off(before), ids(&publication));
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "reply {reply}");
    }
}

/// A Redis of a test's own. Killed when it goes out of scope.
struct PrivateRedis {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl PrivateRedis {
    /// Listens on a socket only, so that no port can be taken already.
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).args(arguments).current_dir(folder.path());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("redis-server, which scripts/test installs");
        wait_for("the private redis", 30, || Path::new(&socket).exists().then_some(()));
        Self { child, url: format!("redis+socket://{}", socket.display()), folder }
    }

    fn direct(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("redis.sock").display())
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        // Ended already is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_out_of_memory_takes_a_publication_whole_or_not_at_all() {
    let private = PrivateRedis::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let mut world = World::through(&private.url, &private.direct());
    let mut queue = world.queue();
    let mut expected = Vec::new();
    let (refused, error) = loop {
        let publication = publication(100, 500);
        match queue.enqueue(&publication).await {
            Ok(()) => expected.extend(ids(&publication)),
            Err(error) => break (publication, error.to_string()),
        }
        assert!(expected.len() < 100_000, "6 MB hold no such number");
    };
    assert!(error.contains("maxmemory"), "{error}");
    assert!(!expected.is_empty());
    assert_eq!(world.tasks(), expected, "what was refused left something, or what was taken is gone");
    let guard: bool = world.redis.exists(queue.guard(refused.id)).unwrap();
    assert!(!guard);
    assert!(queue.enqueue(&refused).await.is_err());

    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).query(&mut world.redis).unwrap();
    queue.enqueue(&refused).await.unwrap();
    queue.enqueue(&refused).await.unwrap();
    expected.extend(ids(&refused));
    assert_eq!(world.tasks(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_has_the_prefix_and_the_guard_does_not_stay() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    let mut queue = world.queue();
    let publication = publication(2, 10);
    queue.enqueue(&publication).await.unwrap();
    let prefix = world.celery.global_keyprefix.clone();
    let list = format!("{prefix}{}", world.celery.task_queue);
    let guard = queue.guard(publication.id);
    let mut expected = vec![list.clone(), guard.clone()];
    expected.sort_unstable();
    assert_eq!(world.keys(), expected);
    let unprefixed: bool = world.redis.exists(&world.celery.task_queue).unwrap();
    assert!(!unprefixed);
    // As long as anybody may repeat the publication: without a limit of age, a week.
    let left: i64 = world.redis.ttl(&guard).unwrap();
    assert!((61..=7 * 86_400 + 360).contains(&left), "{left}");
    let list_left: i64 = world.redis.ttl(&list).unwrap();
    assert_eq!(list_left, -1, "tasks stay until a worker takes them");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_priority_goes_to_the_list_where_workers_look_for_it() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    let base = format!("{}{}", world.celery.global_keyprefix, world.celery.task_queue);
    let stepped = |step: u8| format!("{base}\u{6}\u{16}{step}");
    for priority in (0..=10).chain([255]) {
        world.celery.priority = priority;
        world.queue().enqueue(&publication(1, 1)).await.unwrap();
    }
    for (list, expected) in [
        (base.clone(), [0, 1, 2].to_vec()),
        (stepped(3), vec![3, 4, 5]),
        (stepped(6), vec![6, 7, 8]),
        (stepped(9), vec![9, 10, 255]),
    ] {
        let messages: Vec<String> = world.redis.lrange(&list, 0, -1).unwrap();
        let priority =
            |message: &String| serde_json::from_str::<Value>(message).unwrap()["properties"]["priority"].as_u64().unwrap();
        assert_eq!(messages.iter().rev().map(priority).collect::<Vec<_>>(), expected, "{list:?}");
    }
    let lists = world.keys().into_iter().filter(|key| !key.contains("published")).count();
    assert_eq!(lists, 4, "a list that no worker looks into");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_steps_and_another_separator_are_heeded() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    world.celery.priority_steps = vec![0, 4];
    world.celery.priority_separator = ":".to_owned();
    for priority in [3, 4] {
        world.celery.priority = priority;
        world.queue().enqueue(&publication(1, 1)).await.unwrap();
    }
    let base = format!("{}{}", world.celery.global_keyprefix, world.celery.task_queue);
    let lists: Vec<_> = world.keys().into_iter().filter(|key| !key.contains("published")).collect();
    assert_eq!(lists, [base.clone(), format!("{base}:4")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_final_result_ends_a_task() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    let large = format!(r#"{{"status": "SUCCESS", "result": "{}"}}"#, "x".repeat(200_000));
    // In a pickled or a compressed result there are bytes that are no text. They hold up no other.
    let cases: [(TaskResult, &[u8]); 12] = [
        (TaskResult::Unfinished, b"\x80\x04\x95}\x94(\x8c\x06status\x94\x8c\x07SUCCESS\x94u."),
        (TaskResult::Unfinished, b"\x00celery-compressed\x00\x1f\x8b\x08\xff"),
        (TaskResult::Ended, br#"{"status": "SUCCESS", "result": null}"#),
        (TaskResult::Ended, large.as_bytes()),
        (TaskResult::Ended, br#"{"status": "FAILURE", "result": {"exc_type": "ValueError"}}"#),
        (TaskResult::Revoked, br#"{"result": null, "status": "REVOKED"}"#),
        (TaskResult::Unfinished, br#"{"status": "STARTED"}"#),
        (TaskResult::Unfinished, br#"{"status": "RETRY"}"#),
        (TaskResult::Unfinished, br#"{"status": "PENDING"}"#),
        (TaskResult::Unfinished, br#"{"status": "success"}"#),
        (TaskResult::Unfinished, br#"{"status": 1}"#),
        (TaskResult::Unfinished, b"SUCCESS"),
    ];
    let tasks: Vec<_> = cases.iter().map(|(result, meta)| (*result, Uuid::new_v4(), *meta)).collect();
    for (_, task, meta) in &tasks {
        let () = world.redis.set_ex(format!("celery-task-meta-{task}"), *meta, 60).unwrap();
    }
    let mut asked: Vec<_> = tasks.iter().map(|(_, task, _)| *task).collect();
    asked.push(Uuid::new_v4());
    let expected: Vec<_> = tasks.iter().map(|(result, task, _)| (*task, *result)).collect();
    let mut results = Results::new(world.address(), "").unwrap();
    assert_eq!(results.of(&asked).await.unwrap(), expected);
    assert_eq!(results.of(&[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_large_results_only_the_head_is_read() {
    let server = PrivateRedis::start(&[]);
    let world = World::through(&server.url, &server.direct());
    let mut redis = world.redis;
    let large = format!(r#"{{"status": "SUCCESS", "result": "{}"}}"#, "x".repeat(200_000));
    let tasks: Vec<_> = (0..50).map(|_| Uuid::new_v4()).collect();
    for task in &tasks {
        let () = redis.set(format!("prefix_celery-task-meta-{task}"), &large).unwrap();
    }
    let Broker::Redis(address) = &world.celery.broker else { panic!("not redis") };
    let mut results = Results::new(address, "prefix").unwrap();
    let mut sent = || redis::cmd("INFO").arg("stats").query::<redis::InfoDict>(&mut redis).unwrap().get("total_net_output_bytes");
    let before: Option<u64> = sent();
    let known = results.of(&tasks).await.unwrap();
    let bytes = sent().unwrap() - before.unwrap();
    assert!(known.len() == 50 && known.iter().all(|(_, result)| *result == TaskResult::Ended), "{known:?}");
    assert!(bytes < 50 * 2_000, "{bytes} bytes for 50 results");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_is_an_error_without_credentials() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::through(&format!("redis://user:hunter2@127.0.0.1:{closed}/3"), &service("TEST_REDIS_URL"));
    let error = world.queue().enqueue(&publication(1, 1)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("redis at redis://127.0.0.1:{closed}/3: ")), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_lives_as_long_as_its_publication_may_come_again() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    let day = Duration::from_secs(86_400);
    let mut queue = RedisQueue::new(world.address(), &world.celery, LEASE, Some(day)).unwrap();
    let (first, second) = (publication(2, 1), publication(1, 1));
    let mut redis = redis::Client::open(service("TEST_REDIS_URL")).unwrap().get_connection().unwrap();
    let mut life = |queue: &RedisQueue, id: Uuid| redis.ttl::<_, u64>(queue.guard(id)).unwrap();
    queue.enqueue(&first).await.unwrap();
    let unconfirmed = life(&queue, first.id);
    assert!((day.as_secs()..=day.as_secs() + 360).contains(&unconfirmed), "{unconfirmed}");
    assert_eq!(queue.has(first.id).await.unwrap(), Some(true));
    assert_eq!(queue.has(second.id).await.unwrap(), Some(false));

    // The store knows that it is published: only a request under way may still meet its guard.
    queue.settled(first.id);
    queue.enqueue(&second).await.unwrap();
    let (settled, unconfirmed) = (life(&queue, first.id), life(&queue, second.id));
    assert!((300..=360).contains(&settled), "{settled}");
    assert!(unconfirmed > day.as_secs(), "{unconfirmed}");
    queue.enqueue(&first).await.unwrap();
    assert_eq!(world.tasks().len(), 3, "it still guards");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_is_refused_and_leaves_no_guard() {
    let mut world = World::new(&service("TEST_REDIS_URL"));
    let mut queue = world.queue();
    let late = Publication { publish_by: trigger_dispatcher::clock::timer(), ..publication(1, 1) };
    let error = queue.enqueue(&late).await.unwrap_err().to_string();
    assert!(error.contains("no longer be in force"), "{error}");
    assert_eq!((queue.has(late.id).await.unwrap(), world.tasks().len()), (Some(false), 0));
    // With a new lease it is taken.
    let renewed = Publication { publish_by: late.publish_by + Duration::from_secs(60), ..late };
    queue.enqueue(&renewed).await.unwrap();
    assert_eq!((queue.has(renewed.id).await.unwrap(), world.tasks().len()), (Some(true), 1));
}
