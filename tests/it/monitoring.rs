//! What operators see without a log: whether an instance could decide now, and how far behind it is.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use url::Url;

use super::support::dispatcher::Setting;
use super::support::gate::Gate;
use super::support::rights::{Operation, Resource};
use super::support::scene::{Scene, signal};
use super::support::{host_and_port, service, wait_for};

/// An address of a test's own for HTTP.
fn with_http(setting: &mut Setting) -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    setting.set("HTTP_ADDRESS", &free);
    free
}

/// The whole answer; nothing while nobody answers. `header` ends in a line break, if it is not empty.
fn answer(address: &str, path: &str, header: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The status and the body of an answer; nothing while nobody answers.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let text = answer(address, path, "")?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn reasons(address: &str) -> Option<(u16, Vec<String>)> {
    let (status, body) = get(address, "/readyz")?;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"], status == 200, "{body}");
    Some((status, body["reasons"].as_array()?.iter().map(|reason| reason["reason"].as_str().unwrap().to_owned()).collect()))
}

fn wait_until_ready(address: &str) {
    wait_for("an instance that is ready", 60, || reasons(address).filter(|(status, _)| *status == 200));
}

fn wait_for_reason(address: &str, reason: &str) {
    wait_for(&format!("the reason {reason}"), 60, || {
        reasons(address).filter(|(status, reasons)| *status == 503 && reasons.iter().any(|known| known == reason))
    });
}

/// The value of a gauge.
fn gauge(address: &str, name: &str) -> Option<i64> {
    let (_, text) = get(address, "/metrics")?;
    let line = text.lines().find(|line| line.starts_with(&format!("trigger_dispatcher_{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn wait_for_gauge(address: &str, name: &str, is_right: impl Fn(i64) -> bool) {
    wait_for(&format!("the right {name}"), 60, || gauge(address, name).filter(|value| is_right(*value)));
}

#[tokio::test]
async fn metrics_are_classic_text_unless_openmetrics_is_asked_for() {
    let mut scene = Scene::new(1).await;
    let address = with_http(&mut scene.setting);
    let _dispatcher = scene.setting.start();
    // As Prometheus asks.
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4\r\n";
    let newer = answer(&address, "/metrics", accept).unwrap();
    assert!(newer.contains("content-type: application/openmetrics-text; version=1.0.0") && newer.ends_with("# EOF\n"), "{newer}");
    for header in ["", "Accept: */*\r\n"] {
        let classic = answer(&address, "/metrics", header).unwrap();
        assert!(classic.contains("content-type: text/plain; version=0.0.4") && !classic.contains("# EOF"), "{classic}");
        assert!(classic.contains("# TYPE trigger_dispatcher_batches_total counter\n"), "{classic}");
    }
}

#[tokio::test]
async fn an_instance_is_ready_while_its_database_and_its_broker_answer_and_says_which_does_not() {
    let mut scene = Scene::new(2).await;
    let address = with_http(&mut scene.setting);
    let mut database = Gate::closed(&format!("127.0.0.1:{}", scene.variable("POSTGRES_PORT")));
    let mut broker = Gate::closed(&host_and_port(&service("TEST_REDIS_URL")));
    scene.setting.set("POSTGRES_HOST", &database.address.ip().to_string());
    scene.setting.set("POSTGRES_PORT", &database.address.port().to_string());
    scene.setting.set("CELERY_BROKER_URL", &format!("redis://{}/0", broker.address));
    let _dispatcher = scene.setting.launch();
    wait_for_reason(&address, "rules_not_read");
    database.open();
    broker.open();
    wait_until_ready(&address);
    wait_for_gauge(&address, "partitions_assigned", |partitions| partitions == 2);
    // No signal comes: what is wrong is seen all the same.
    broker.close();
    wait_for_reason(&address, "broker_not_asked");
    wait_for_gauge(&address, "dependency_up{dependency=\"broker\"}", |up| up == 0);
    wait_for_gauge(&address, "dependency_up{dependency=\"postgresql\"}", |up| up == 1);
    broker.open();
    wait_until_ready(&address);
    database.close();
    wait_for_reason(&address, "sweep_failed");
    wait_for_gauge(&address, "dependency_up{dependency=\"postgresql\"}", |up| up == 0);
    // What comes meanwhile is seen to wait.
    scene.send(&[signal("1", "NOBODY"), signal("2", "NOBODY"), signal("3", "NOBODY")]);
    wait_for_gauge(&address, "lag_records", |records| records == 3);
    wait_for_gauge(&address, "lag_seconds", |seconds| seconds > 0);
    database.open();
    wait_until_ready(&address);
    wait_for_gauge(&address, "lag_records", |records| records == 0);
    wait_for_gauge(&address, "group_records{disposition=\"unmatched\"}", |records| records == 3);
}

#[tokio::test]
async fn a_topic_that_is_missing_is_a_reason_not_to_be_ready() {
    let mut scene = Scene::new(1).await;
    let address = with_http(&mut scene.setting);
    scene.topic.delete().await;
    Resource::Topic(&scene.topic.name).deny(Operation::Create);
    let _dispatcher = scene.setting.launch();
    wait_for_reason(&address, "kafka_not_asked");
    wait_for_reason(&address, "no_partitions_yet");
}

#[tokio::test]
async fn outbox_entries_that_wait_and_tasks_that_have_not_started_are_counted() {
    let mut scene = Scene::new(1).await;
    let address = with_http(&mut scene.setting);
    let mut broker = Gate::closed(&host_and_port(&service("TEST_REDIS_URL")));
    scene.setting.set("CELERY_BROKER_URL", &format!("redis://{}/0", broker.address));
    scene.database.pipeline("watches", &["AAPL"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    wait_for_gauge(&address, "outbox_waiting", |entries| entries == 1);
    wait_for_gauge(&address, "outbox_oldest_seconds", |seconds| seconds > 0);
    wait_for_reason(&address, "enqueue_failed");
    broker.open();
    wait_for_gauge(&address, "outbox_waiting", |entries| entries == 0);
    wait_for_gauge(&address, "tasks_not_started", |tasks| tasks == 1);
    wait_until_ready(&address);
}

#[tokio::test]
async fn a_dead_letter_topic_is_made_where_it_is_missing_and_without_one_an_instance_is_not_ready() {
    let mut scene = Scene::new(1).await;
    let address = with_http(&mut scene.setting);
    scene.topic.delete_dead_letters().await;
    let letters = scene.topic.dead_letter_topic();
    // Only this user: the other tests make topics meanwhile.
    let url = Url::parse(&service("TEST_KAFKA_SASL")).unwrap();
    Resource::Cluster.deny_to(&format!("User:{}", url.username()), Operation::Create);
    Resource::Topic(&letters).deny(Operation::Create);
    let kafka = [
        ("KAFKA_BOOTSTRAP_SERVERS", host_and_port(url.as_str())),
        ("KAFKA_CONFIG_SECURITY_PROTOCOL", "SASL_PLAINTEXT".to_owned()),
        ("KAFKA_CONFIG_SASL_MECHANISM", "PLAIN".to_owned()),
        ("KAFKA_CONFIG_SASL_USERNAME", url.username().to_owned()),
        ("KAFKA_CONFIG_SASL_PASSWORD", url.password().unwrap().to_owned()),
    ];
    for (name, value) in kafka {
        scene.setting.set(name, &value);
    }
    let dispatcher = scene.setting.launch();
    wait_for_reason(&address, "dead_letter_topic_missing");
    let line = dispatcher.wait_for_event("dead_letter_topic_missing");
    assert!(line["error"].as_str().unwrap().contains(&letters), "{line}");
    scene.send(&[signal("good", "NOBODY")]);
    scene.decided(1).await;
    assert!(!scene.topic.has_dead_letters());
    Resource::Topic(&letters).allow();
    wait_until_ready(&address);
    assert!(scene.topic.has_dead_letters());
    scene.topic.send(0, b"bad");
    scene.topic.flush();
    scene.decided(2).await;
    assert_eq!(scene.topic.dead_letters().len(), 1);
}
