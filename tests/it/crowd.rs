//! Many signals, many pipelines, several instances, and one that dies.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::support::scene::{Scene, signal};
use super::support::{PATIENCE, wait_until};

const SIGNALS: i64 = 200_000;
const PARTITIONS: i32 = 4;
const PIPELINES: usize = 1_000;
const TICKERS: u64 = 5_000;
const WATCHED: usize = 20;

/// The same numbers in every run, well mixed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Makes the pipelines, every third of ten with an execution in flight; returns the idle and the busy ones.
async fn pipelines(scene: &Scene, numbers: &mut Numbers) -> (BTreeMap<Uuid, Vec<String>>, BTreeSet<Uuid>) {
    let (mut idle, mut busy) = (BTreeMap::new(), BTreeSet::new());
    let statuses = ["RUNNING", "pending", "Queued"];
    for number in 0..PIPELINES {
        let tickers: Vec<String> = (0..WATCHED).map(|_| format!("T{}", numbers.below(TICKERS))).collect();
        let names: Vec<&str> = tickers.iter().map(String::as_str).collect();
        let id = scene.database.pipeline(&format!("pipeline {number}"), &names).await;
        if number % 10 < 3 {
            scene.database.execution(id, statuses[number % 3]).await;
            busy.insert(id);
        } else {
            idle.insert(id, tickers);
        }
    }
    (idle, busy)
}

/// Fills every partition alike; returns the tickers that were spoken of.
fn signals(scene: &Scene, numbers: &mut Numbers) -> BTreeSet<String> {
    let mut spoken = BTreeSet::new();
    for number in 0..SIGNALS {
        let ticker = format!("T{}", numbers.below(TICKERS));
        let partition = i32::try_from(number % i64::from(PARTITIONS)).unwrap();
        scene.topic.send_json(partition, &signal(&format!("signal-{number}"), &ticker));
        spoken.insert(ticker);
    }
    scene.topic.flush();
    spoken
}

#[tokio::test]
async fn every_idle_pipeline_gets_one_task_from_three_instances_one_of_which_is_killed() {
    let mut scene = Scene::new(PARTITIONS).await;
    let mut numbers = Numbers(2026);
    let (idle, busy) = pipelines(&scene, &mut numbers).await;
    let spoken = signals(&scene, &mut numbers);
    // The least that a broker allows: the dead instance's partitions are free again soon.
    scene.setting.set("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "6000").set("KAFKA_CONFIG_HEARTBEAT_INTERVAL_MS", "1000");
    // It reads in small bites and decides twice a second, so that it has work left when it dies.
    let mut slow = scene.setting.clone();
    slow.set("KAFKA_CONFIG_FETCH_MESSAGE_MAX_BYTES", "8000").set("DB_QUERIES_PER_SECOND", "2");
    let victim = slow.start();
    let others = [scene.setting.launch(), scene.setting.launch()];
    let at_kill = wait_until("the half of the signals", PATIENCE, async || {
        Some(scene.total().await).filter(|total| total.consumed >= SIGNALS / 2)
    })
    .await;
    victim.kill();
    assert!(at_kill.consumed < SIGNALS, "killed too late to show anything");
    let replacement = scene.setting.launch();

    scene.decided(SIGNALS).await;
    let expected: BTreeSet<Uuid> =
        idle.iter().filter(|(_, tickers)| tickers.iter().any(|ticker| spoken.contains(ticker))).map(|(id, _)| *id).collect();
    scene.enqueued(expected.len());
    scene.committed(SIGNALS);
    // What the killed one had claimed but not published is in the queue as well once no publication waits.
    let waiting = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
    wait_until("no publication that waits", PATIENCE, async || {
        Some(scene.database.number(waiting).await).filter(|waiting| *waiting == 0)
    })
    .await;

    let tasks = scene.queue.tasks();
    let ids: BTreeSet<Uuid> = tasks.iter().map(|task| task.id).collect();
    assert_eq!(ids.len(), tasks.len(), "a task id is there twice");
    let triggered: BTreeSet<Uuid> = tasks.iter().map(|task| task.pipeline_id).collect();
    assert_eq!(triggered.len(), tasks.len(), "a pipeline was triggered twice");
    assert_eq!(triggered.intersection(&busy).count(), 0, "a busy pipeline was triggered");
    assert_eq!(triggered, expected);
    for partition in scene.progress().await {
        assert_eq!(partition.next_offset, Some(SIGNALS / i64::from(PARTITIONS)));
        assert_eq!(partition.consumed, SIGNALS / i64::from(PARTITIONS));
        assert_eq!(partition.consumed, partition.reasons(), "{partition:?}");
        assert_eq!((partition.redelivered, partition.stale, partition.invalid), (0, 0, 0));
    }
    for instance in others.into_iter().chain([replacement]) {
        assert!(instance.stop().success());
    }
}
