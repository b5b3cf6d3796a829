//! One signal that a great many pipelines watch.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::support::scene::{Scene, signal};
use super::support::stopwatch;

/// Pipelines that watch the one ticker, and no other.
async fn watchers(scene: &Scene, number: i64) {
    let sql = "insert into pipelines (id, user_id, name, scanner_tickers)
        select gen_random_uuid(), gen_random_uuid(), 'watcher ' || number, '[\"HOT\"]' from generate_series(1, $1::bigint) as number";
    scene.database.client.execute(sql, &[&number]).await.unwrap();
    scene.database.client.batch_execute("analyze pipelines").await.unwrap();
}

#[expect(clippy::print_stdout, reason = "figures for docs/scaling.md")]
async fn every_watcher_gets_its_task_and_who_waits_behind_them_too(number: i64, seconds: u64) {
    let mut scene = Scene::new(2).await;
    watchers(&scene, number).await;
    let other = scene.database.pipeline("other", &["COLD"]).await;
    let instance = scene.setting.start();
    let took = stopwatch();
    scene.topic.send_json(0, &signal("hot", "HOT"));
    scene.topic.flush();
    scene.topic.send_json(1, &signal("cold", "COLD"));
    scene.topic.flush();
    let tasks = usize::try_from(number).unwrap() + 1;
    super::support::wait_for(&format!("{tasks} tasks"), seconds, || Some(scene.queue.len()).filter(|found| *found >= tasks));
    let took = took();
    let progress = scene.decided(2).await;
    assert_eq!((progress.consumed, progress.triggered, progress.busy), (2, 2, 0));
    scene.committed(2);

    let triggered: Vec<Uuid> = scene.queue.pipelines();
    let distinct: BTreeSet<Uuid> = triggered.iter().copied().collect();
    assert_eq!((triggered.len(), distinct.len()), (tasks, tasks), "a pipeline was triggered twice");
    assert!(distinct.contains(&other));
    assert_eq!(instance.events("claim_failed").len() + instance.events("enqueue_failed").len(), 0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("{number} watchers: all tasks there after {took:?}, {peak}");
    assert!(instance.stop().success());
}

#[tokio::test]
async fn a_signal_that_ten_thousand_pipelines_watch_gives_each_one_task() {
    every_watcher_gets_its_task_and_who_waits_behind_them_too(10_000, 60).await;
}

/// For docs/scaling.md: `cargo test --release … --test it -- --ignored --nocapture fan_out`.
#[tokio::test]
#[ignore = "takes Redis and PostgreSQL for itself for half a minute"]
async fn a_signal_that_a_hundred_thousand_pipelines_watch_gives_each_one_task() {
    every_watcher_gets_its_task_and_who_waits_behind_them_too(100_000, 300).await;
}
