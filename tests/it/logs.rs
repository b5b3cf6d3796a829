//! The log lines that the platform's people know, field by field.

use serde_json::{Value, json};

use super::support::scene::{Scene, signal};
use super::support::wait_for;

/// A field and how its value must look.
type Field = (&'static str, fn(&Value) -> bool);

#[rustfmt::skip]
const EVENTS: [(&str, &[Field]); 5] = [
    ("signal_received", &[("signal_id", Value::is_string), ("tickers", is_list_of_texts)]),
    ("processing_signal_batch", &[("batch_size", Value::is_u64)]),
    ("signal_matched_to_pipeline", &[("pipeline_id", is_id), ("matched_tickers", is_list_of_texts)]),
    ("pipeline_execution_enqueued", &[("pipeline_id", is_id)]),
    ("batch_enqueue_completed", &[("enqueued", Value::is_u64), ("skipped_running", Value::is_u64)]),
];

fn is_list_of_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string))
}

fn is_id(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<uuid::Uuid>().is_ok())
}

#[tokio::test]
async fn each_event_has_its_fields() {
    let mut scene = Scene::new(1).await;
    let pipeline = scene.database.pipeline("watches", &["AAPL", "MSFT"]).await;
    let dispatcher = scene.setting.start();
    let id = "a \"quoted\"\n\u{1b}[31m id";
    scene.send(&[json!({"signal_id": id, "tickers": [{"ticker": "msft"}, {"ticker": "AAPL"}, {"ticker": "IBM"}]})]);
    scene.enqueued(1);
    scene.send(&[signal("busy", "AAPL")]);
    scene.decided(2).await;
    scene.committed(2);
    let log = dispatcher.log();
    assert!(dispatcher.stop().success());
    for line in log.lines() {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["event"].is_string(), "{line}");
        let timestamp = value["timestamp"].as_str().unwrap();
        assert!(timestamp.parse::<jiff::Timestamp>().is_ok() && timestamp.ends_with('Z'), "{line}");
        assert!(["info", "warn", "error", "debug"].contains(&value["level"].as_str().unwrap()), "{line}");
        assert!(!line.contains('\u{1b}'), "control characters are escaped: {line}");
    }
    for (event, fields) in EVENTS {
        let lines = log.events(event);
        assert!(!lines.is_empty(), "{event}");
        for line in lines {
            assert_eq!(line["level"], "info", "{line}");
            for (name, is_right) in fields {
                assert!(is_right(&line[*name]), "{name} in {line}");
            }
        }
    }
    let received = &log.events("signal_received")[0];
    assert_eq!((&received["signal_id"], &received["tickers"]), (&json!(id), &json!(["MSFT", "AAPL", "IBM"])));
    let matched = &log.events("signal_matched_to_pipeline")[0];
    assert_eq!((&matched["pipeline_id"], &matched["matched_tickers"]), (&json!(pipeline), &json!(["MSFT", "AAPL"])));
    let enqueued = log.events("pipeline_execution_enqueued");
    assert_eq!((enqueued.len(), &enqueued[0]["pipeline_id"]), (1, &json!(pipeline)));
    let sums = ["enqueued", "skipped_running"].map(|field| log.sum("batch_enqueue_completed", field));
    assert_eq!((sums, log.sum("processing_signal_batch", "batch_size")), ([1, 1], 2));
}

#[tokio::test]
async fn lines_of_each_signal_are_limited_and_what_was_suppressed_is_counted() {
    const SIGNALS: u64 = 2_000;
    let mut scene = Scene::new(1).await;
    scene.setting.set("LOG_SIGNALS_PER_SECOND", "5");
    scene.database.pipeline("watches", &["AAPL"]).await;
    for number in 0..SIGNALS {
        scene.topic.send_json(0, &signal(&format!("signal-{number}"), "AAPL"));
    }
    scene.topic.flush();
    let dispatcher = scene.setting.start();
    scene.decided(i64::try_from(SIGNALS).unwrap()).await;
    let mut sent = SIGNALS;
    let told = || dispatcher.events("signal_received").len() as u64 + dispatcher.sum("signal_received", "suppressed");
    // The next line tells what was left out before it; one comes as soon as the second is over.
    wait_for("all signals told of or counted", 20, || {
        scene.send(&[signal(&format!("signal-{sent}"), "AAPL")]);
        sent += 1;
        Some(told()).filter(|told| *told >= SIGNALS)
    });
    assert!(told() <= sent);
    assert!((dispatcher.events("signal_received").len() as u64) < SIGNALS / 10, "they are limited");
    assert!(dispatcher.sum("signal_received", "suppressed") > 0);
    let batches = dispatcher.sum("processing_signal_batch", "batch_size");
    assert!(batches >= SIGNALS, "what comes once a batch is not limited: {batches}");
}

#[tokio::test]
async fn text_logs_are_for_people() {
    let mut scene = Scene::new(1).await;
    scene.setting.set("LOG_FORMAT", "text").set("LOG_LEVEL", "warn,trigger_dispatcher=info");
    scene.database.pipeline("watches", &["AAPL"]).await;
    let dispatcher = scene.setting.launch();
    scene.send(&[signal("1", "AAPL")]);
    scene.enqueued(1);
    let lines = wait_for("a completed batch", 20, || {
        let lines = dispatcher.lines();
        lines.iter().any(|line| line.contains("batch_enqueue_completed")).then_some(lines)
    });
    for line in lines {
        assert!(serde_json::from_str::<Value>(&line).is_err(), "{line}");
        assert!(!line.contains('\u{1b}'), "no colours into a pipe: {line}");
    }
}
