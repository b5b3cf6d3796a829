//! How an instance ends: in order, in time, and with nothing lost.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::support::scene::{Scene, signal};
use super::support::{stopwatch, wait_for, wait_until};

/// Partitions that the instance's last assignment gave it.
fn partitions(log: &super::support::dispatcher::Log) -> usize {
    // Each with its next offset.
    log.events("partitions_started").last().map_or(0, |line| line["partitions"].as_array().unwrap().len())
}

/// Waits until the one batch that was sent waits for a lock that we hold.
async fn wait_for_the_lock(scene: &Scene) {
    let sql = "select count(*) from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())";
    wait_until("a claim that waits", 20, async || Some(scene.database.number(sql).await).filter(|waiting| *waiting > 0)).await;
}

#[tokio::test]
async fn sigterm_under_load_finishes_the_batch_commits_and_leaves_the_group() {
    const SIGNALS: i64 = 60_000;
    let mut scene = Scene::new(2).await;
    let mut expected = BTreeSet::new();
    for number in 0..300 {
        expected.insert(scene.database.pipeline("watches", &[&format!("T{number}")]).await);
    }
    for number in 0..SIGNALS {
        let partition = i32::try_from(number % 2).unwrap();
        scene.topic.send_json(partition, &signal(&format!("signal-{number}"), &format!("T{}", number / 200)));
    }
    scene.topic.flush();
    // Few signals in the first batch, and half a second until the next, so that the load lasts until we are there.
    scene.setting.set("DB_QUERIES_PER_SECOND", "2").set("KAFKA_CONFIG_FETCH_MESSAGE_MAX_BYTES", "8000");
    let stopping = scene.setting.start();
    scene.decided(1).await;
    let (log, took) = (stopping.log(), stopwatch());
    assert!(stopping.stop().success());
    assert!(took() < Duration::from_secs(25), "{:?}", took());
    let stopped = log.events("stopped");
    assert_eq!(stopped.len(), 1);
    let at_stop = scene.total().await;
    assert!(at_stop.consumed < SIGNALS, "stopped too late to show anything");
    // Kafka and the store agree.
    let decided: Vec<_> = scene.progress().await.iter().map(|progress| progress.next_offset.unwrap_or(0)).collect();
    let committed: Vec<_> = scene.topic.committed(&scene.setting.group).iter().map(|offset| offset.unwrap_or(0)).collect();
    assert_eq!(committed, decided);
    let unpublished = "select count(*) from dispatcher.publications where enqueued_at is null";
    assert_eq!(scene.database.number(unpublished).await, 0);

    let next = scene.setting.start();
    scene.decided(SIGNALS).await;
    scene.committed(SIGNALS);
    let triggered = scene.enqueued(300);
    assert_eq!(triggered.len(), 300);
    assert_eq!(triggered.into_iter().collect::<BTreeSet<Uuid>>(), expected);
    for progress in scene.progress().await {
        assert_eq!((progress.consumed, progress.reasons()), (SIGNALS / 2, SIGNALS / 2), "{progress:?}");
        assert_eq!(progress.redelivered, 0);
    }
    assert!(next.stop().success());
}

#[tokio::test]
async fn another_instance_takes_over_at_once() {
    let mut scene = Scene::new(2).await;
    // Had the group to notice the absence by itself, it would take a minute.
    scene.setting.set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "60000");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let (first, second) = (scene.setting.start(), scene.setting.start());
    let logs = [first.log(), second.log()];
    wait_for("one partition each", 30, || logs.iter().all(|log| partitions(log) == 1).then_some(()));
    assert!(first.stop().success());
    let took = stopwatch();
    wait_for("both partitions", 30, || Some(partitions(&logs[1])).filter(|partitions| *partitions == 2));
    assert!(took() < Duration::from_secs(10), "{:?}", took());
    scene.topic.send_json(0, &signal("0", "AAPL"));
    scene.topic.send_json(1, &signal("1", "AAPL"));
    scene.topic.flush();
    let total = scene.decided(2).await;
    assert_eq!(total.triggered, 1);
    scene.enqueued(1);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_and_loses_nothing() {
    let mut scene = Scene::new(1).await;
    // It does not leave the group, so the group has to notice.
    scene.setting.set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000");
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    let other = scene.database.another().await;
    other.batch_execute("begin; lock table dispatcher.slots in access exclusive mode").await.unwrap();
    scene.send(&[signal("1", "AAPL")]);
    wait_for_the_lock(&scene).await;
    dispatcher.signal("TERM");
    dispatcher.wait_for_event("signal_to_stop");
    let took = stopwatch();
    dispatcher.signal("INT");
    let status = dispatcher.ended(20);
    assert!(took() < Duration::from_secs(2), "{:?}", took());
    assert!(!status.success(), "not in order, and says so");
    other.batch_execute("rollback").await.unwrap();
    let _next = scene.setting.launch();
    assert_eq!(scene.enqueued(1), [pipeline]);
    assert_eq!(scene.decided(1).await.triggered, 1);
}

#[tokio::test]
async fn a_shutdown_takes_no_longer_than_its_grace() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("SHUTDOWN_GRACE_SECONDS", "1");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    let other = scene.database.another().await;
    other.batch_execute("begin; lock table dispatcher.slots in access exclusive mode").await.unwrap();
    scene.send(&[signal("1", "AAPL")]);
    wait_for_the_lock(&scene).await;
    let took = stopwatch();
    assert!(!dispatcher.stop().success());
    assert!(took() >= Duration::from_secs(1) && took() < Duration::from_secs(5), "{:?}", took());
    other.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn an_instance_that_waits_for_its_dependencies_stops_in_order() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("POSTGRES_PORT", "1");
    let dispatcher = scene.setting.launch();
    dispatcher.wait_for_event("store_not_ready");
    let took = stopwatch();
    assert!(dispatcher.stop().success());
    assert!(took() < Duration::from_secs(5), "{:?}", took());
}
