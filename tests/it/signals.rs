//! What a signal starts: once, for which slot, with which tickers, and when the slot is free again.

use serde_json::{Value, json};
use uuid::Uuid;

use super::support::scene::{Scene, signal};
use super::support::wait_until;

/// Adds the platform's record of an execution that is over.
async fn over(scene: &Scene, execution: Uuid, pipeline: Uuid) {
    let sql = "insert into executions (id, pipeline_id, status) values ($1, $2, 'COMPLETED')";
    scene.database.client.execute(sql, &[&execution, &pipeline]).await.unwrap();
}

#[tokio::test]
async fn a_redelivered_signal_starts_nothing_even_after_its_execution_is_over() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("one", "AAPL")]);
    scene.enqueued(1);
    let first = scene.queue.tasks()[0].clone();
    over(&scene, first.id, pipeline).await;
    scene.send(&[signal("one", "AAPL")]);
    assert_eq!(scene.decided(2).await.redelivered, 1);
    assert_eq!(scene.queue.len(), 1);
    // Another signal shows that the slot was free.
    scene.send(&[signal("two", "AAPL")]);
    scene.enqueued(2);
    let total = scene.decided(3).await;
    assert_eq!((total.triggered, total.redelivered), (2, 1));
}

#[tokio::test]
async fn the_same_offset_and_id_in_a_topic_read_again_start_nothing_new() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.start();
    // Without an id: the record's place and time are its id.
    scene.send(&[json!({"tickers": [{"ticker": "AAPL"}]})]);
    let first = scene.enqueued(1);
    assert_eq!(first, [pipeline]);
    let started = scene.queue.tasks()[0].id;
    over(&scene, started, pipeline).await;
    assert!(dispatcher.stop().success());
    // A group that was made anew reads everything again.
    let again = super::support::unique("group");
    scene.setting.set("KAFKA_CONSUMER_GROUP", &again);
    scene.setting.group = again;
    let _dispatcher = scene.setting.start();
    assert_eq!(scene.decided(1).await.redelivered, 1);
    assert_eq!(scene.queue.len(), 1);
}

#[tokio::test]
async fn a_signal_with_several_tickers_makes_one_task_that_lists_all_that_matched() {
    let mut scene = Scene::new(1).await;
    scene.database.pipeline("watches three", &["MSFT", "AAPL", "TSLA"]).await;
    let _dispatcher = scene.setting.start();
    let tickers = json!([
        {"ticker": "IBM", "signal": "BEARISH", "confidence": 10},
        {"ticker": " aapl ", "signal": "BULLISH", "confidence": 85.5},
        {"ticker": "MSFT", "signal": "BEARISH", "confidence": 60},
        {"ticker": "AAPL", "signal": "BEARISH", "confidence": 1},
    ]);
    let metadata = json!({"sma_50": 1.5, "note": "Ünïcode 📈", "nested": {"list": [1, null, true]}});
    let sent = json!({
        "signal_id": "several", "signal_type": "golden_cross", "source": "test", "timestamp": "2026-01-02T03:04:05+01:00",
        "tickers": tickers, "metadata": metadata, "unknown": {"field": 1},
    });
    scene.send(&[sent]);
    scene.enqueued(1);
    let total = scene.decided(1).await;
    assert_eq!(total.triggered, 1);
    let tasks = scene.queue.tasks();
    assert_eq!((tasks.len(), tasks[0].symbol()), (1, "AAPL"));
    let mut context = tasks[0].context().clone();
    let timestamp: jiff::Timestamp = context["timestamp"].as_str().unwrap().parse().unwrap();
    assert_eq!(timestamp, "2026-01-02T02:04:05Z".parse().unwrap());
    assert!(context["timestamp"].as_str().unwrap().ends_with("+00:00"), "UTC, said so: {context}");
    let time = context.as_object_mut().unwrap().remove("timestamp").unwrap();
    // AAPL BEARISH contradicts what the signal says before, and is left out.
    let entry = |ticker, signal, confidence| json!({"ticker": ticker, "signal": signal, "confidence": confidence, "reasoning": null, "signal_id": "several", "timestamp": time});
    let expected = json!({
        "signal_id": "several", "signal_type": "golden_cross", "source": "test",
        "tickers": ["AAPL", "MSFT"], "bias": "BULLISH", "confidence": 85.5, "metadata": metadata,
        "signals": [entry("AAPL", "BULLISH", 85.5), entry("MSFT", "BEARISH", 60.0)],
    });
    assert_eq!(context, expected);
}

#[tokio::test]
async fn opposite_directions_of_one_ticker_never_share_a_task() {
    let mut scene = Scene::new(1).await;
    // All are in the topic before the dispatcher starts, so that they are one batch.
    scene.setting.set("BATCH_FLUSH", "window");
    let pipeline = scene.database.pipeline("watches two", &["AAPL", "MSFT"]).await;
    let said = |id: &str, ticker: &str, direction: &str, reasoning: &str| json!({"signal_id": id, "tickers": [{"ticker": ticker, "signal": direction, "confidence": 90, "reasoning": reasoning}]});
    scene.send(&[
        said("bullish", "AAPL", "BULLISH", "first"),
        said("bearish", "AAPL", "BEARISH", "opposite"),
        said("other", "MSFT", "BEARISH", "another ticker"),
        said("newest", "AAPL", " bullish ", "newest"),
    ]);
    let dispatcher = scene.setting.start();
    let total = scene.decided(4).await;
    assert_eq!(dispatcher.events("processing_signal_batch").len(), 1, "one batch");
    assert_eq!((total.triggered, total.busy, total.merged), (1, 1, 2));
    assert_eq!(scene.enqueued(1), [pipeline]);
    let tasks = scene.queue.tasks();
    let context = tasks[0].context();
    assert_eq!(
        (&context["signal_id"], &context["bias"], &context["tickers"]),
        (&json!("bullish"), &json!("BULLISH"), &json!(["AAPL", "MSFT"]))
    );
    let entries = context["signals"].as_array().unwrap().iter();
    let entries: Vec<_> =
        entries.map(|entry| ["ticker", "signal", "reasoning", "signal_id"].map(|name| entry[name].as_str().unwrap())).collect();
    assert_eq!(entries, [["AAPL", "bullish", "newest", "newest"], ["MSFT", "BEARISH", "another ticker", "other"]]);
    // The opposite one was not known to the ledger: sent again, when the slot is free, it starts a task of its own.
    over(&scene, tasks[0].id, pipeline).await;
    scene.send(&[said("bearish", "AAPL", "BEARISH", "opposite")]);
    scene.enqueued(2);
    assert_eq!(scene.queue.tasks()[1].context()["bias"], "BEARISH");
}

#[tokio::test]
async fn what_a_signal_does_not_say_is_null_and_its_time_is_the_records() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL"]).await;
    let now_ms = scene.database.number("select (extract(epoch from now()) * 1000)::bigint").await;
    scene.topic.send_at(0, now_ms, br#"{"tickers": [{"ticker": "AAPL"}]}"#);
    scene.topic.flush();
    let _dispatcher = scene.setting.start();
    scene.enqueued(1);
    let task = scene.queue.tasks().remove(0);
    let context = task.context();
    for field in ["signal_type", "source", "bias", "confidence"] {
        assert_eq!(context[field], Value::Null, "{field}");
    }
    assert_eq!(context["metadata"], json!({}));
    assert!(context["signal_id"].as_str().unwrap().parse::<Uuid>().is_ok(), "derived: {context}");
    let timestamp: jiff::Timestamp = context["timestamp"].as_str().unwrap().parse().unwrap();
    assert_eq!(timestamp.as_millisecond(), now_ms);
    let owner =
        scene.database.rows("select user_id::text from pipelines where id = $1", &[&pipeline]).await[0].get::<_, String>(0);
    assert_eq!(task.kwargs["user_id"], json!(owner));
}

#[tokio::test]
async fn no_field_of_a_signal_chooses_the_pipeline() {
    let mut scene = Scene::new(1).await;
    let right = scene.database.pipeline("watches", &["AAPL"]).await;
    let wrong = scene.database.pipeline("watches something else", &["MSFT"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[json!({
        "backtest_pipeline_id": wrong, "pipeline_id": wrong, "user_id": wrong, "tickers": [{"ticker": "AAPL", "pipeline_id": wrong}],
        "metadata": {"backtest_pipeline_id": wrong, "pipeline_id": wrong},
    })]);
    assert_eq!(scene.enqueued(1), [right]);
    assert_eq!(scene.decided(1).await.triggered, 1);
}

#[tokio::test]
async fn in_ticker_scope_each_pipeline_and_ticker_is_a_slot() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("TRIGGER_SCOPE", "ticker");
    let pipeline = scene.database.pipeline("watches two", &["AAPL", "MSFT"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[json!({"signal_id": "both", "tickers": [{"ticker": "AAPL"}, {"ticker": "MSFT"}]})]);
    assert_eq!(scene.enqueued(2), [pipeline, pipeline]);
    scene.send(&[signal("again", "AAPL")]);
    let total = scene.decided(2).await;
    assert_eq!((total.triggered, total.busy), (1, 1), "records, not tasks");
    let mut tasks = scene.queue.tasks();
    tasks.sort_by_key(|task| task.symbol().to_owned());
    let seen: Vec<_> = tasks.iter().map(|task| (task.symbol(), task.context()["tickers"].clone())).collect();
    assert_eq!(seen, [("AAPL", json!(["AAPL"])), ("MSFT", json!(["MSFT"]))]);
    assert_ne!(tasks[0].id, tasks[1].id);
    // One of them ends, and only its slot is free.
    let sql = "insert into executions (id, pipeline_id, status, symbol) values ($1, $2, 'COMPLETED', 'AAPL')";
    scene.database.client.execute(sql, &[&tasks[0].id, &pipeline]).await.unwrap();
    scene.send(&[signal("third", "AAPL"), signal("fourth", "MSFT")]);
    scene.decided(4).await;
    scene.enqueued(3);
    let symbols: Vec<_> = scene.queue.tasks().iter().map(|task| task.symbol().to_owned()).collect();
    assert_eq!(symbols.iter().filter(|symbol| *symbol == "AAPL").count(), 2);
    assert_eq!(symbols.len(), 3);
}

#[tokio::test]
async fn a_slot_is_free_once_its_lease_has_run_out() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("TRIGGER_LEASE_SECONDS", "1");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("one", "AAPL")]);
    scene.enqueued(1);
    let expired = "select count(*) from dispatcher.slots where leased_until <= now()";
    wait_until("the end of the lease", 10, async || Some(scene.database.number(expired).await).filter(|slots| *slots == 1)).await;
    scene.send(&[signal("two", "AAPL")]);
    scene.enqueued(2);
    let tasks = scene.queue.tasks();
    assert_ne!(tasks[0].id, tasks[1].id);
}

#[tokio::test]
async fn executions_that_are_over_free_a_slot_and_older_ones_do_not() {
    let mut scene = Scene::new(1).await;
    let by_id = scene.database.pipeline("its own execution", &["OWN"]).await;
    let by_later = scene.database.pipeline("a later execution", &["LATER"]).await;
    let by_earlier = scene.database.pipeline("an earlier execution", &["EARLIER"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("1", "OWN"), signal("2", "LATER"), signal("3", "EARLIER")]);
    scene.enqueued(3);
    let own = scene.queue.tasks().into_iter().find(|task| task.pipeline_id == by_id).unwrap();
    // Written by a worker whose clock is behind: the id tells.
    let sql = "insert into executions (id, pipeline_id, status, created_at) values ($1, $2, 'FAILED', now() + make_interval(secs => $3))";
    for (id, pipeline, seconds) in
        [(own.id, by_id, -3600.0), (Uuid::new_v4(), by_later, 0.0), (Uuid::new_v4(), by_earlier, -3600.0)]
    {
        scene.database.client.execute(sql, &[&id, &pipeline, &seconds]).await.unwrap();
    }
    scene.send(&[signal("4", "OWN"), signal("5", "LATER"), signal("6", "EARLIER")]);
    let total = scene.decided(6).await;
    assert_eq!((total.triggered, total.busy), (5, 1));
    let pipelines = scene.enqueued(5);
    assert_eq!(pipelines.iter().filter(|pipeline| **pipeline == by_earlier).count(), 1);
}

#[tokio::test]
async fn a_final_result_in_the_result_backend_frees_a_slot() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("CELERY_RESULT_BACKEND", &super::support::service("TEST_REDIS_URL"));
    let done = scene.database.pipeline("done", &["DONE"]).await;
    let started = scene.database.pipeline("started", &["STARTED"]).await;
    let _dispatcher = scene.setting.start();
    scene.send(&[signal("1", "DONE"), signal("2", "STARTED")]);
    scene.enqueued(2);
    for task in scene.queue.tasks() {
        scene.queue.put_result(task.id, if task.pipeline_id == done { "SUCCESS" } else { "STARTED" });
    }
    let sql = "select pipeline_id from dispatcher.slots";
    let left =
        wait_until("a slot that is free", 20, async || Some(scene.database.rows(sql, &[]).await).filter(|rows| rows.len() == 1))
            .await;
    assert_eq!(left[0].get::<_, Uuid>(0), started);
    scene.send(&[signal("3", "STARTED"), signal("4", "DONE")]);
    let total = scene.decided(4).await;
    assert_eq!((total.triggered, total.busy), (3, 1));
    assert_eq!(scene.enqueued(3)[2], done);
}
