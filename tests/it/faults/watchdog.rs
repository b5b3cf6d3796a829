//! A client that is stuck: Kafka answers everything else, and gives none of its records, or never says whose they are.

use std::time::Duration;

use crate::support::dispatcher::Instance;
use crate::support::drill::{Drill, outlast};
use crate::support::gate::{FETCH, Gate, JOIN_GROUP, SYNC_GROUP, Weather};
use crate::support::scene::{Scene, signal};
use crate::support::{service, stopwatch};

use super::kafka::kafka_behind_a_gate;

/// Room for so many rounds, behind an open gate, with a watchdog of `patience` seconds.
async fn watched(rounds: usize, patience: &str) -> (Drill, Gate) {
    let mut drill = Drill::new(rounds).await;
    drill.scene.setting.set("STALL_SECONDS", patience).set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000");
    let mut gate = kafka_behind_a_gate(&mut drill.scene.setting);
    gate.open();
    (drill, gate)
}

/// The watchdog ends the process, between `least` and `most` seconds from now.
fn assert_stalls(dispatcher: Instance, least: u64, most: u64) {
    let (log, took) = (dispatcher.log(), stopwatch());
    let status = dispatcher.ended(60);
    assert_eq!(status.code(), Some(1), "{:?}", log.lines());
    let time = took();
    assert!(time > Duration::from_secs(least) && time < Duration::from_secs(most), "{time:?} {:#?}", log.lines());
    assert_eq!(log.events("intake_stalled").len(), 1);
}

/// Whoever supervises starts it again; the group has to notice that the first is gone.
async fn the_next_one_decides_all(mut drill: Drill, gate: &Gate) {
    gate.weather(Weather::Fair);
    let _next = drill.scene.setting.launch();
    drill.settles_within(30).await;
}

#[tokio::test]
async fn records_that_kafka_has_and_never_gives_end_the_process_and_the_next_one_decides_them() {
    let (mut drill, gate) = watched(3, "2").await;
    let dispatcher = drill.start().await;
    // What a stuck client looks like from here: everything is answered but what it asks records with.
    gate.weather(Weather::Without(FETCH));
    outlast(Duration::from_secs(1));
    drill.round();
    assert_stalls(dispatcher, 1, 15);
    drill.assert_nothing_moved();
    the_next_one_decides_all(drill, &gate).await;
}

#[tokio::test]
async fn records_that_were_there_before_the_start_and_never_come_end_the_process_and_the_next_one_decides_them() {
    let (mut drill, gate) = watched(1, "2").await;
    gate.weather(Weather::Without(FETCH));
    drill.round();
    let dispatcher = drill.scene.setting.launch();
    dispatcher.wait_for_event("partitions_started");
    assert_stalls(dispatcher, 1, 15);
    drill.assert_nothing_moved();
    the_next_one_decides_all(drill, &gate).await;
}

/// The last offset of such a partition never comes to anyone, and its end moves on without a record.
#[tokio::test]
async fn a_topic_that_ends_in_a_transactions_marker_is_no_stall() {
    let mut scene = Scene::new(1).await;
    // Not so little that a busy machine's Kafka is taken for a stuck one.
    scene.setting.set("STALL_SECONDS", "5");
    let quiet = || outlast(Duration::from_secs(9));
    scene.topic.send_in_transaction(&[signal("1", "NOBODY"), signal("2", "NOBODY")], true);
    let first = scene.setting.start();
    scene.decided(2).await;
    quiet();
    scene.topic.send_in_transaction(&[signal("nobody ever", "NOBODY")], false);
    quiet();
    let log = first.log();
    assert!(first.stop().success(), "{:?}", log.lines());
    // The next one starts where there is nothing but markers.
    let next = scene.setting.start();
    quiet();
    scene.send(&[signal("3", "NOBODY")]);
    assert_eq!(scene.decided(3).await.consumed, 3);
    quiet();
    let logs = [log, next.log()];
    assert!(next.stop().success(), "{:?}", logs[1].lines());
    let errors: Vec<_> = logs.iter().flat_map(|log| ["kafka_error", "kafka_consume_failed"].map(|it| log.events(it))).collect();
    assert_eq!(errors.concat(), Vec::<serde_json::Value>::new(), "an end of a partition is no error");
}

/// What librdkafka's state `wait-unassign-to-complete` looks like, and the like of it: the partitions are taken, and nobody
/// ever says whose they are. `unanswered` is what the group is asked.
async fn a_silent_group(unanswered: i16, patience: u64) {
    let (mut drill, gate) = watched(3, &patience.to_string()).await;
    let dispatcher = drill.start().await;
    gate.weather(Weather::Without(unanswered));
    // A second member, past the gate: the group takes our partitions to share them out anew.
    let mut beside = drill.scene.setting.clone();
    beside.set("KAFKA_BOOTSTRAP_SERVERS", &service("TEST_KAFKA")).set("STALL_SECONDS", "0");
    let second = beside.launch();
    assert_stalls(dispatcher, patience, patience + 20);
    second.kill();
    drill.round();
    the_next_one_decides_all(drill, &gate).await;
}

#[tokio::test]
async fn a_group_that_takes_the_partitions_and_never_lets_us_in_again_ends_the_process() {
    a_silent_group(JOIN_GROUP, 2).await;
}

/// Longer than Kafka keeps a member that says nothing, so the client has tried to join anew.
#[tokio::test]
async fn a_group_that_takes_the_partitions_and_never_shares_them_out_again_ends_the_process() {
    a_silent_group(SYNC_GROUP, 12).await;
}
