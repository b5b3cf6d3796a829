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
    // Its batch has left: what comes now is none of it.
    instance.wait_for_event("processing_signal_batch");
    scene.topic.send_json(1, &signal("cold", "COLD"));
    scene.topic.flush();
    let sent = scene.database.rows("select clock_timestamp()", &[]).await;
    let sent: std::time::SystemTime = sent[0].get(0);
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
    let sql = "select (extract(epoch from cold.claimed_at - $2::timestamptz) * 1000)::bigint,
            (extract(epoch from max(hot.claimed_at) - min(hot.claimed_at)) * 1000)::bigint,
            count(distinct hot.publication_id), max(hot.claimed_at) > cold.claimed_at
        from dispatcher.triggers cold join dispatcher.triggers hot on hot.pipeline_id <> cold.pipeline_id
        where cold.pipeline_id = $1 group by cold.claimed_at";
    let rows = scene.database.rows(sql, &[&other, &sent]).await;
    let (waited, hot, parts, passed_by): (i64, i64, i64, bool) = (rows[0].get(0), rows[0].get(1), rows[0].get(2), rows[0].get(3));
    println!("{number} watchers: their claims took {hot} ms in {parts} parts, the other signal waited {waited} ms for its own");
    assert!(passed_by, "the signal of another partition waited for all watchers");
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
