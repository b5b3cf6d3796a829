//! Another member of the group, such as the service of before, has worked while we were down.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::{output, reaches, set};
use crate::support::scene::{Scene, signal};
use crate::support::{service, wait_for};

/// The service of before: a member of the same group that handles what comes, and commits it to Kafka. Returns what it handled.
fn old_service(scene: &Scene, records: usize) -> Vec<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", service("TEST_KAFKA"))
        .set("group.id", &scene.setting.group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&[&scene.topic.name]).unwrap();
    let mut handled = Vec::new();
    wait_for("the old service's records", 60, || {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            handled.push(message.offset());
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&scene.topic.name, message.partition(), Offset::Offset(message.offset() + 1)).unwrap();
            consumer.commit(&list, CommitMode::Sync).unwrap();
        }
        (handled.len() >= records).then_some(())
    });
    handled
}

fn sorted(mut ids: Vec<uuid::Uuid>) -> Vec<uuid::Uuid> {
    ids.sort_unstable();
    ids
}

/// One record is decided by us; two by the service of before, after a rollback.
async fn rolled_back() -> (Scene, Vec<uuid::Uuid>) {
    let mut scene = Scene::new(1).await;
    let mut pipelines = Vec::new();
    for ticker in ["AAPL", "MSFT", "TSLA", "NVDA"] {
        pipelines.push(scene.database.pipeline("watches", &[ticker]).await);
    }
    let dispatcher = scene.setting.start();
    scene.send(&[signal("1", "AAPL")]);
    scene.decided(1).await;
    scene.committed(1);
    assert_eq!(scene.enqueued(1), [pipelines[0]]);
    assert!(dispatcher.stop().success());
    scene.send(&[signal("2", "MSFT"), signal("3", "TSLA")]);
    assert_eq!(old_service(&scene, 2), [1, 2]);
    (scene, pipelines)
}

#[tokio::test]
async fn rolling_forward_after_a_rollback_decides_nothing_twice_and_says_so() {
    let (mut scene, pipelines) = rolled_back().await;
    let list = output(&scene, &["offsets", "list"]);
    assert!(list.contains("KAFKA AHEAD: another member of the group has decided up to 3"), "{list}");

    let dispatcher = scene.setting.start();
    let alarm = dispatcher.wait_for_event("progress_behind_kafka");
    let [partition, from, to] = ["partition", "from", "to"].map(|field| alarm[field].as_i64());
    assert_eq!((alarm["level"].as_str(), partition, from, to), (Some("error"), Some(0), Some(1), Some(3)));
    scene.send(&[signal("4", "NVDA")]);
    let total = reaches(&scene, [4]).await[0];
    assert_eq!((total.consumed, total.triggered), (2, 2), "what the other has decided is not ours: {total:?}");
    assert_eq!(scene.enqueued(2), [pipelines[0], pipelines[3]], "MSFT and TSLA were traded by the old service");
    assert!(dispatcher.stop().success());

    // Told once: from now on the store knows.
    let dispatcher = scene.setting.start();
    scene.send(&[signal("5", "NOBODY")]);
    reaches(&scene, [5]).await;
    assert_eq!(dispatcher.events("progress_behind_kafka").len(), 0);
    assert!(dispatcher.stop().success());
}

#[tokio::test]
async fn an_operator_may_take_kafkas_offset_over_beforehand() {
    let (mut scene, pipelines) = rolled_back().await;
    let said = output(&scene, &set("0", "committed"));
    assert!(said.contains("1 → 3; 2 offsets are not decided"), "{said}");
    let dispatcher = scene.setting.start();
    scene.send(&[signal("4", "NVDA")]);
    assert_eq!(reaches(&scene, [4]).await[0].consumed, 2);
    assert_eq!(scene.enqueued(2), [pipelines[0], pipelines[3]]);
    assert_eq!(dispatcher.events("progress_behind_kafka").len(), 0);
    assert!(dispatcher.stop().success());
}

/// The group's other member only committed, say: then its records are to be decided, and Kafka's offset must not undo that.
#[tokio::test]
async fn an_operator_may_say_that_our_offset_counts() {
    let (mut scene, pipelines) = rolled_back().await;
    let said = output(&scene, &set("0", "1"));
    assert!(said.contains("1 → 1; this offset counts, whatever Kafka has committed"), "{said}");
    assert_eq!(scene.database.number("select committed_seen from dispatcher.progress").await, 3);
    let dispatcher = scene.setting.start();
    let total = reaches(&scene, [3]).await[0];
    assert_eq!((total.consumed, total.triggered), (3, 3), "{total:?}");
    // What is decided together is enqueued in the order of the pipelines' ids.
    assert_eq!(sorted(scene.enqueued(3)), sorted(pipelines[..3].to_vec()));
    assert_eq!(dispatcher.events("progress_behind_kafka").len(), 0);
    scene.committed(3);
    assert!(dispatcher.stop().success());
    // Else an old service that works up to that very offset would go unnoticed.
    assert_eq!(scene.database.number("select count(*) from dispatcher.progress where committed_seen is null").await, 1);
    // What the operator has seen is over: the next one who works in the group counts again.
    scene.send(&[signal("4", "NVDA")]);
    assert_eq!(old_service(&scene, 1), [3]);
    let dispatcher = scene.setting.start();
    dispatcher.wait_for_event("progress_behind_kafka");
    reaches(&scene, [4]).await;
    assert_eq!(scene.queue.len(), 3);
    assert!(dispatcher.stop().success());
}
