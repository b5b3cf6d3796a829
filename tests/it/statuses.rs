//! Which executions keep a pipeline busy.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::support::scene::{Scene, signal};

const ACTIVE: [&str; 10] = [
    "pending",
    "queued",
    "running",
    "started",
    "retry",
    "monitoring",
    "paused",
    "awaiting_approval",
    "communication_error",
    "needs_reconciliation",
];
const OVER: [&str; 12] = [
    "completed",
    "succeeded",
    "success",
    "failed",
    "failure",
    "error",
    "cancelled",
    "canceled",
    "skipped",
    "revoked",
    "expired",
    "rejected",
];

/// A pipeline for each status, written as it is and in capitals, with its own ticker; returns those that are idle.
async fn one_pipeline_for_each_status(scene: &Scene) -> BTreeSet<Uuid> {
    let mut idle = BTreeSet::new();
    for (number, status) in ACTIVE.iter().chain(&OVER).enumerate() {
        for (spelling, status) in [(*status).to_owned(), status.to_uppercase()].into_iter().enumerate() {
            let ticker = format!("T{number}.{spelling}");
            let pipeline = scene.database.pipeline(&status, &[&ticker]).await;
            let sql = format!("insert into executions (id, pipeline_id, status, symbol) values ($1, $2, '{status}', 'ANY')");
            scene.database.client.execute(&sql, &[&Uuid::new_v4(), &pipeline]).await.unwrap();
            if number >= ACTIVE.len() {
                idle.insert(pipeline);
            }
            scene.topic.send_json(0, &signal(&status, &ticker));
        }
    }
    scene.topic.flush();
    idle
}

async fn assert_only_the_idle_start(mut scene: Scene, idle: BTreeSet<Uuid>) {
    let dispatcher = scene.setting.start();
    let total = scene.decided(44).await;
    assert_eq!((total.triggered, total.busy), (24, 20));
    let triggered = scene.enqueued(24);
    assert_eq!(triggered.len(), 24);
    assert_eq!(triggered.into_iter().collect::<BTreeSet<_>>(), idle);
    assert!(dispatcher.events("unknown_execution_status").is_empty());
}

#[tokio::test]
async fn active_statuses_keep_a_pipeline_busy_and_over_ones_do_not_whatever_their_case() {
    let scene = Scene::new(1).await;
    let idle = one_pipeline_for_each_status(&scene).await;
    assert_only_the_idle_start(scene, idle).await;
}

#[tokio::test]
async fn statuses_and_trigger_modes_may_be_enums() {
    let scene = Scene::new(1).await;
    let labels: Vec<String> =
        ACTIVE.iter().chain(&OVER).flat_map(|status| [format!("'{status}'"), format!("'{}'", status.to_uppercase())]).collect();
    let sql = format!(
        "create type execution_status as enum ({});
         alter table executions alter status type execution_status using status::execution_status;
         create type mode as enum ('signal', 'schedule');
         alter table pipelines alter trigger_mode drop default, alter trigger_mode type mode using trigger_mode::mode,
             alter trigger_mode set default 'signal'",
        labels.join(", ")
    );
    scene.database.client.batch_execute(&sql).await.unwrap();
    let idle = one_pipeline_for_each_status(&scene).await;
    assert_only_the_idle_start(scene, idle).await;
}

#[tokio::test]
async fn an_unknown_status_counts_as_active_and_is_named_once() {
    let scene = Scene::new(1).await;
    for ticker in ["A", "B"] {
        let pipeline = scene.database.pipeline(ticker, &[ticker]).await;
        scene.database.execution(pipeline, "Hibernating").await;
    }
    let dispatcher = scene.setting.start();
    for (number, ticker) in ["A", "B", "A"].iter().enumerate() {
        scene.send(&[signal(&number.to_string(), ticker)]);
        scene.decided(i64::try_from(number).unwrap() + 1).await;
    }
    assert_eq!(scene.total().await.busy, 3);
    scene.committed(3);
    let log = dispatcher.log();
    assert!(dispatcher.stop().success());
    let named: Vec<_> = log.events("unknown_execution_status").iter().map(|line| line["status"].clone()).collect();
    assert_eq!(named, ["hibernating"]);
}

#[tokio::test]
async fn the_lists_of_statuses_are_the_operators() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("EXECUTION_ACTIVE_STATUSES", "Busy").set("EXECUTION_OVER_STATUSES", "archived, RUNNING");
    let mut idle = Vec::new();
    for (status, is_idle) in [("busy", false), ("ARCHIVED", true), ("running", true), ("completed", false)] {
        let pipeline = scene.database.pipeline(status, &[status]).await;
        scene.database.execution(pipeline, status).await;
        scene.topic.send_json(0, &signal(status, status));
        if is_idle {
            idle.push(pipeline);
        }
    }
    scene.topic.flush();
    let _dispatcher = scene.setting.start();
    let total = scene.decided(4).await;
    assert_eq!((total.triggered, total.busy), (2, 2));
    let mut triggered = scene.enqueued(2);
    triggered.sort_unstable();
    idle.sort_unstable();
    assert_eq!(triggered, idle);
}

#[tokio::test]
async fn in_ticker_scope_an_execution_keeps_its_symbol_busy_and_one_without_symbol_the_whole_pipeline() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("TRIGGER_SCOPE", "ticker");
    let sql = "insert into executions (id, pipeline_id, status, symbol) values ($1, $2, 'RUNNING', $3)";
    let one = scene.database.pipeline("one symbol", &["AAPL", "MSFT"]).await;
    scene.database.client.execute(sql, &[&Uuid::new_v4(), &one, &" aapl "]).await.unwrap();
    let all = scene.database.pipeline("all symbols", &["IBM", "TSLA"]).await;
    scene.database.client.execute(sql, &[&Uuid::new_v4(), &all, &None::<&str>]).await.unwrap();
    let _dispatcher = scene.setting.start();
    scene.send(&["AAPL", "MSFT", "IBM", "TSLA"].map(|ticker| signal(ticker, ticker)));
    let total = scene.decided(4).await;
    assert_eq!((total.triggered, total.busy), (1, 3));
    assert_eq!(scene.enqueued(1), [one]);
    assert_eq!(scene.queue.tasks()[0].symbol(), "MSFT");
}

#[tokio::test]
async fn the_platforms_tables_are_never_written() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    scene.database.execution(pipeline, "COMPLETED").await;
    let sql = "select string_agg(md5(t::text), ',') from (select * from executions) t";
    let before: Option<String> = scene.database.rows(sql, &[]).await[0].get(0);
    let dispatcher = scene.setting.start();
    scene.send(&[signal("one", "AAPL"), signal("two", "AAPL")]);
    scene.enqueued(1);
    scene.decided(2).await;
    assert!(dispatcher.stop().success());
    let after: Option<String> = scene.database.rows(sql, &[]).await[0].get(0);
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_run_of_three_days_is_told_of_with_its_id_and_its_age_and_blocks_only_without_a_limit() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let old = scene.database.execution(pipeline, "RUNNING").await;
    scene.database.run("update executions set created_at = now() - interval '3 days'").await;
    let dispatcher = scene.setting.start();
    let told = dispatcher.wait_for_event("execution_old");
    assert_eq!(
        (told["execution_id"].as_str(), told["pipeline_id"].as_str()),
        (Some(&*old.to_string()), Some(&*pipeline.to_string()))
    );
    assert!((259_200..259_800).contains(&told["age_seconds"].as_i64().unwrap()), "{told}");
    assert_eq!((told["status"].as_str(), told["counts"].as_bool()), (Some("running"), Some(true)));
    scene.send(&[signal("1", "AAPL")]);
    assert_eq!(scene.decided(1).await.busy, 1);
    assert!(dispatcher.stop().success());

    scene.setting.set("EXECUTION_MAX_AGE_SECONDS", "86400");
    // In both ways to read executions, and for both kinds of columns.
    for (number, sql) in
        ["select 1", "drop index executions_pipeline_status", "alter table executions alter created_at type timestamp"]
            .into_iter()
            .enumerate()
    {
        scene.database.run(sql).await;
        let dispatcher = scene.setting.start();
        assert_eq!(dispatcher.wait_for_event("execution_old")["counts"], false);
        scene.send(&[signal(&format!("again {number}"), "AAPL")]);
        assert_eq!(scene.enqueued(number + 1).len(), number + 1, "{sql}");
        // A young one still counts; and it frees the slot, for it is over in the end.
        let young = scene.database.execution(pipeline, "RUNNING").await;
        scene.send(&[signal(&format!("busy {number}"), "AAPL")]);
        let decided = scene.decided(3 + 2 * i64::try_from(number).unwrap()).await;
        assert_eq!(decided.busy, 2 + i64::try_from(number).unwrap(), "{sql}");
        scene.database.run(&format!("update executions set status = 'COMPLETED' where id = '{young}'")).await;
        assert!(dispatcher.stop().success());
    }
}
