//! What a task is told, without a broker.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::clock;
use crate::config::Scope;
use crate::intake::Record;
use crate::rules::{Rule, RuleSet, Skips};
use crate::trigger_ids::trigger_id;

const PIPELINE: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const USER: &str = "5d2c1a6e-0000-4000-8000-000000000001";
/// 2026-11-22T10:00:00.123Z.
const RECORD_TIME: i64 = 1_795_341_600_123;
const RECORD_TIME_TEXT: &str = "2026-11-22T10:00:00.123000+00:00";

fn celery() -> CeleryConfig {
    CeleryConfig::of_defaults()
}

/// The batch of one record; `None` when the record is rejected.
fn batch(payload: &str) -> Option<Batch> {
    let mut batch = Batch::default();
    let headers = Vec::new;
    let payload = Some(payload.as_bytes());
    let record = Record { partition: 3, offset: 17, time_ms: RECORD_TIME, key: None, payload, headers: &headers };
    batch.push(&record, 1, i64::MIN, clock::now());
    batch.rejected().is_empty().then_some(batch)
}

/// What the first pipeline that watches the signal's first ticker would be told.
fn text_of(celery: &CeleryConfig, user_id: Option<&str>, payload: &str) -> Option<TriggerText> {
    let batch = batch(payload)?;
    let tickers = batch.mentions(&batch.signals()[0]).iter().map(|mention| batch.text(mention.ticker).to_owned()).collect();
    let rule = Rule { pipeline_id: PIPELINE, user_id: user_id.map(str::to_owned), tickers, subscriptions: Vec::new() };
    let rules = Arc::new(RuleSet::new(vec![rule]));
    let matches = rules.match_batch(&batch, Scope::Pipeline, &Skips::default());
    Some(trigger_text(celery, "trading-signals", &batch, &matches, &matches.candidates[0], ""))
}

fn told(payload: &Value) -> Value {
    let text = text_of(&celery(), Some(USER), &payload.to_string()).unwrap();
    serde_json::from_str(&text.head).unwrap()
}

#[test]
fn trigger_ids_never_change() {
    for (slot, signal, id) in [
        ("", "signal-1", "a11f5e61-7578-56f6-af13-cd61f3d61969"),
        ("AAPL", "signal-1", "49396566-6983-5221-b30a-01f0ddca428d"),
        ("", "signal-2", "3e326e04-039a-5434-886d-c210e0cc9469"),
        ("", "Zürich 🚀", "5947c7f5-1b7d-512f-89d9-566c1b30800a"),
    ] {
        assert_eq!(trigger_id(PIPELINE, slot, signal).to_string(), id, "{slot:?} {signal:?}: every old signal would be new");
    }
}

#[test]
fn another_pipeline_slot_or_signal_is_another_trigger() {
    let other = Uuid::from_u128(1);
    // The last two differ only in where the slot ends.
    let parts = [
        (PIPELINE, "", "a"),
        (other, "", "a"),
        (PIPELINE, "A", "a"),
        (PIPELINE, "", "b"),
        (PIPELINE, "A|", "B"),
        (PIPELINE, "A", "|B"),
    ];
    let ids: HashSet<_> = parts.iter().map(|(pipeline, slot, signal)| trigger_id(*pipeline, slot, signal)).collect();
    assert_eq!(ids.len(), parts.len());
}

#[test]
fn a_signal_without_an_id_gets_one_of_its_place_and_time() {
    for unstated in [json!({}), json!({"signal_id": ""}), json!({"signal_id": null}), json!({"signal_id": "  "})] {
        let mut signal = json!({"tickers": [{"ticker": "AAPL"}]});
        signal.as_object_mut().unwrap().extend(unstated.as_object().unwrap().clone());
        let text = text_of(&celery(), None, &signal.to_string()).unwrap();
        assert_eq!(&*text.signal_id, "4a209356-618b-55d1-b4f4-cd7b79e4c0d5", "{signal}");
        assert_eq!(text.trigger_id, trigger_id(PIPELINE, "", &text.signal_id));
    }
    let stated = told(&json!({"signal_id": "my-id", "tickers": [{"ticker": "AAPL"}]}));
    assert_eq!(stated["signal_context"]["signal_id"], "my-id");
}

#[test]
fn a_task_is_told_everything_that_the_signal_said() {
    let kwargs = told(&json!({
        "signal_id": "s-1",
        "signal_type": "golden_cross",
        "source": "generator",
        "timestamp": "2026-11-22T09:00:00+01:00",
        "tickers": [{"ticker": " aapl ", "signal": "BULLISH", "confidence": 85, "reasoning": "a cross"}, {"ticker": "MSFT", "signal": "BEARISH"}],
        "metadata": {"sma_50": 191.25, "nested": [{"deep": true}]},
        "unknown": 1,
    }));
    let expected = json!({
        "pipeline_id": PIPELINE,
        "user_id": USER,
        "execution_id": trigger_id(PIPELINE, "", "s-1"),
        "symbol": "AAPL",
        "signal_context": {
            "signal_id": "s-1",
            "signal_type": "golden_cross",
            "source": "generator",
            "timestamp": "2026-11-22T08:00:00.000000+00:00",
            "tickers": ["AAPL", "MSFT"],
            "bias": "BULLISH",
            "confidence": 85.0,
            "signals": [
                {"ticker": "AAPL", "signal": "BULLISH", "confidence": 85.0, "reasoning": "a cross", "signal_id": "s-1", "timestamp": "2026-11-22T08:00:00.000000+00:00"},
                {"ticker": "MSFT", "signal": "BEARISH", "confidence": null, "reasoning": null, "signal_id": "s-1", "timestamp": "2026-11-22T08:00:00.000000+00:00"},
            ],
            "metadata": {"sma_50": 191.25, "nested": [{"deep": true}]},
        },
    });
    assert_eq!(kwargs, expected);
}

/// The `signal_context` of the one pipeline that watches A and B.
fn context_of(signals: &[Value]) -> Value {
    let mut batch = Batch::default();
    for (offset, signal) in (0..).zip(signals) {
        let (payload, headers) = (signal.to_string(), Vec::new);
        let payload = Some(payload.as_bytes());
        batch.push(
            &Record { partition: 3, offset, time_ms: RECORD_TIME, key: None, payload, headers: &headers },
            1,
            i64::MIN,
            clock::now(),
        );
    }
    let tickers = ["A", "B"].map(str::to_owned).to_vec();
    let rule = Rule { pipeline_id: PIPELINE, user_id: None, tickers, subscriptions: Vec::new() };
    let matches = Arc::new(RuleSet::new(vec![rule])).match_batch(&batch, Scope::Pipeline, &Skips::default());
    let text = trigger_text(&celery(), "trading-signals", &batch, &matches, &matches.candidates[0], "");
    serde_json::from_str::<Value>(&text.head).unwrap()["signal_context"].take()
}

#[test]
fn signals_holds_the_newest_that_was_said_of_each_ticker_in_its_direction_and_the_rest_is_of_the_first() {
    let context = context_of(&[
        json!({"signal_id": "1", "tickers": [{"ticker": "A", "signal": "BULLISH", "confidence": 91.5, "reasoning": "one"}, {"ticker": "X"}]}),
        json!({"signal_id": "2", "tickers": [{"ticker": "A", "signal": "BEARISH", "confidence": 99}]}),
        json!({"signal_id": "3", "tickers": [{"ticker": ""}, {"ticker": "B", "signal": "BEARISH", "confidence": 60, "reasoning": "three"}]}),
        json!({"signal_id": "4", "timestamp": 0, "tickers": [{"ticker": "X"}, {"ticker": "A", "signal": "bullish", "confidence": 70, "reasoning": "four"}]}),
    ]);
    assert_eq!((&context["signal_id"], &context["bias"], &context["confidence"]), (&json!("1"), &json!("BULLISH"), &json!(91.5)));
    assert_eq!(context["tickers"], json!(["A", "B"]));
    let expected = json!([
        {"ticker": "A", "signal": "bullish", "confidence": 70.0, "reasoning": "four", "signal_id": "4", "timestamp": "1970-01-01T00:00:00.000000+00:00"},
        {"ticker": "B", "signal": "BEARISH", "confidence": 60.0, "reasoning": "three", "signal_id": "3", "timestamp": RECORD_TIME_TEXT},
    ]);
    assert_eq!(context["signals"], expected);
}

#[test]
fn a_reasoning_is_a_text_of_at_most_1000_characters() {
    for (stated, expected) in [
        (json!("é".repeat(1_000)), json!("é".repeat(1_000))),
        (json!("é".repeat(1_001)), json!("é".repeat(1_000))),
        (json!(""), json!("")),
        (json!("a \"quote\", \u{1f680} and\ta tab"), json!("a \"quote\", \u{1f680} and\ta tab")),
        (json!("\"".repeat(1_001)), json!("\"".repeat(1_000))),
        (json!(7), Value::Null),
        (json!({"a": 1}), Value::Null),
        (Value::Null, Value::Null),
    ] {
        let context = context_of(&[json!({"tickers": [{"ticker": "A", "reasoning": stated}]})]);
        assert_eq!(context["signals"][0]["reasoning"], expected);
    }
}

#[test]
fn signals_are_found_after_records_before_them_were_refused() {
    let mut batch = Batch::default();
    for (offset, ticker) in (0..).zip(["X", "A", "X", "B"]) {
        let payload =
            format!(r#"{{"signal_id": "{offset}", "tickers": [{{"ticker": "{ticker}", "reasoning": "of {offset}"}}]}}"#);
        let (payload, headers) = (Some(payload.as_bytes()), Vec::new);
        batch.push(
            &Record { partition: 3, offset, time_ms: 0, key: None, payload, headers: &headers },
            1,
            i64::MIN,
            clock::now(),
        );
    }
    batch.refuse(&[0, 2].into(), crate::intake::Reason::Unstorable);
    assert_eq!([batch.signal_of(1), batch.signal_of(3)], [0, 1]);
    let tickers = ["A", "B"].map(str::to_owned).to_vec();
    let rule = Rule { pipeline_id: PIPELINE, user_id: None, tickers, subscriptions: Vec::new() };
    let matches = Arc::new(RuleSet::new(vec![rule])).match_batch(&batch, Scope::Pipeline, &Skips::default());
    let text = trigger_text(&celery(), "trading-signals", &batch, &matches, &matches.candidates[0], "");
    let signals = serde_json::from_str::<Value>(&text.head).unwrap()["signal_context"]["signals"].take();
    let said: Vec<_> = signals.as_array().unwrap().iter().map(|entry| (&entry["signal_id"], &entry["reasoning"])).collect();
    assert_eq!(said, [(&json!("1"), &json!("of 1")), (&json!("3"), &json!("of 3"))]);
}

#[test]
fn what_the_signal_did_not_say_is_null() {
    let text = text_of(&celery(), None, r#"{"tickers": [{"ticker": "AAPL"}]}"#).unwrap();
    let kwargs: Value = serde_json::from_str(&text.head).unwrap();
    assert_eq!(kwargs["user_id"], Value::Null);
    let context = kwargs["signal_context"].as_object().unwrap();
    for name in ["signal_type", "source", "bias", "confidence"] {
        assert_eq!(context.get(name), Some(&Value::Null), "{name}");
    }
    let entry = json!({"ticker": "AAPL", "signal": null, "confidence": null, "reasoning": null, "signal_id": &*text.signal_id, "timestamp": RECORD_TIME_TEXT});
    assert_eq!(context["signals"], json!([entry]));
    assert_eq!((&context["metadata"], &context["timestamp"]), (&json!({}), &json!(RECORD_TIME_TEXT)));
}

#[test]
fn identity_never_comes_from_the_payload() {
    let kwargs = told(
        &json!({"pipeline_id": "x", "user_id": "x", "execution_id": "x", "backtest_pipeline_id": "x", "tickers": [{"ticker": "AAPL"}]}),
    );
    assert_eq!((&kwargs["pipeline_id"], &kwargs["user_id"]), (&json!(PIPELINE), &json!(USER)));
    assert!(!kwargs.to_string().contains("\"x\""), "{kwargs}");
}

#[test]
fn timestamps_become_utc_or_the_records_own() {
    for (stated, expected) in [
        (json!("2026-11-22T10:00:00Z"), "2026-11-22T10:00:00.000000+00:00"),
        (json!("2026-11-22T10:00:00.5Z"), "2026-11-22T10:00:00.500000+00:00"),
        (json!("2026-11-22T10:00:00.123456789Z"), "2026-11-22T10:00:00.123456+00:00"),
        (json!("2026-11-22T10:00:00+02:00"), "2026-11-22T08:00:00.000000+00:00"),
        (json!("2026-11-22T00:30:00+05:30"), "2026-11-21T19:00:00.000000+00:00"),
        (json!("2026-11-22 10:00:00-0500"), "2026-11-22T15:00:00.000000+00:00"),
        (json!("2026-11-22t10:00:00z"), "2026-11-22T10:00:00.000000+00:00"),
        (json!(" 2026-11-22T10:00:00Z "), "2026-11-22T10:00:00.000000+00:00"),
        // Without an offset: Python's utcnow().isoformat().
        (json!("2026-11-22T10:00:00"), "2026-11-22T10:00:00.000000+00:00"),
        (json!("2026-11-22T10:00:00.000123"), "2026-11-22T10:00:00.000123+00:00"),
        (json!("2026-11-22 10:00:00"), "2026-11-22T10:00:00.000000+00:00"),
        (json!("2026-11-22"), "2026-11-22T00:00:00.000000+00:00"),
        // Seconds, and milliseconds.
        (json!(1_795_341_600), "2026-11-22T10:00:00.000000+00:00"),
        (json!(1_795_341_600.25), "2026-11-22T10:00:00.250000+00:00"),
        (json!(1_795_341_600_123_i64), "2026-11-22T10:00:00.123000+00:00"),
        (json!(0), "1970-01-01T00:00:00.000000+00:00"),
        (json!(-1), "1969-12-31T23:59:59.000000+00:00"),
        // Nothing that could be read.
        (json!(null), RECORD_TIME_TEXT),
        (json!(""), RECORD_TIME_TEXT),
        (json!("yesterday"), RECORD_TIME_TEXT),
        (json!("1795341600"), RECORD_TIME_TEXT),
        (json!("2026-13-01T00:00:00Z"), RECORD_TIME_TEXT),
        (json!("Sun, 22 Nov 2026 10:00:00 GMT"), RECORD_TIME_TEXT),
        (json!(1e300), RECORD_TIME_TEXT),
        (json!(u64::MAX), RECORD_TIME_TEXT),
        (json!(true), RECORD_TIME_TEXT),
        (json!(["2026-11-22T10:00:00Z"]), RECORD_TIME_TEXT),
        (json!({"$date": 0}), RECORD_TIME_TEXT),
    ] {
        let kwargs = told(&json!({"timestamp": stated, "tickers": [{"ticker": "AAPL"}]}));
        assert_eq!(kwargs["signal_context"]["timestamp"], expected, "{stated}");
    }
}

#[test]
fn metadata_is_the_signals_own_object_up_to_16_kib() {
    let metadata = |bytes: usize| {
        let frame = json!({"text": ""}).to_string().len();
        json!({"text": "x".repeat(bytes - frame)})
    };
    for (stated, kept) in [
        (metadata(16 * 1024), true),
        (metadata(16 * 1024 + 1), false),
        (metadata(200_000), false),
        (json!([1]), false),
        (json!("text"), false),
        (json!(1), false),
        (json!(null), false),
    ] {
        let kwargs = told(&json!({"metadata": stated, "tickers": [{"ticker": "AAPL"}]}));
        let expected = if kept { stated } else { json!({}) };
        assert_eq!(kwargs["signal_context"]["metadata"], expected);
    }
}

#[test]
fn the_configuration_chooses_the_arguments_and_adds_constants() {
    let mut celery = celery();
    celery.arguments = vec![Argument::Symbol, Argument::PipelineId];
    celery.extra_kwargs = json!({"mode": "paper", "limits": {"orders": 3}}).as_object().unwrap().clone();
    let text = text_of(&celery, Some(USER), r#"{"tickers": [{"ticker": "AAPL"}]}"#).unwrap();
    let expected = json!({"symbol": "AAPL", "pipeline_id": PIPELINE, "mode": "paper", "limits": {"orders": 3}});
    assert_eq!(serde_json::from_str::<Value>(&text.head).unwrap(), expected);

    (celery.arguments, celery.extra_kwargs) = (Vec::new(), Map::new());
    assert_eq!(text_of(&celery, None, r#"{"tickers": [{"ticker": "AAPL"}]}"#).unwrap().head, "{}");
}

/// Any JSON value.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A signal most of whose fields make sense.
fn signals() -> impl Strategy<Value = Value> {
    let ticker = (prop_oneof![4 => "\\PC{1,12}", 1 => Just("AAPL".to_owned())], any::<Option<String>>(), any::<Option<f64>>());
    let tickers = prop::collection::vec(
        ticker.prop_map(|(ticker, signal, confidence)| json!({"ticker": ticker, "signal": signal, "confidence": confidence, "reasoning": signal})),
        1..6,
    );
    let texts = (any::<Option<String>>(), any::<Option<String>>(), any::<Option<String>>());
    (tickers, texts, anything(), anything(), anything()).prop_map(
        |(tickers, (id, kind, source), timestamp, metadata, unknown)| {
            json!({
                "tickers": tickers, "signal_id": id, "signal_type": kind, "source": source,
                "timestamp": timestamp, "metadata": metadata, "unknown": unknown,
            })
        },
    )
}

proptest! {
    #[test]
    fn arguments_are_valid_json_whatever_the_signal_says(signal in signals()) {
        let text = text_of(&celery(), Some(USER), &signal.to_string());
        // A NUL, or nothing left of a ticker after trimming: rejected, and no task.
        prop_assume!(text.is_some());
        let text = text.unwrap();
        let kwargs: Value = serde_json::from_str(&text.head).unwrap();
        let names: Vec<_> = kwargs.as_object().unwrap().keys().map(String::as_str).collect();
        prop_assert_eq!(names, ["execution_id", "pipeline_id", "signal_context", "symbol", "user_id"]);
        let context = &kwargs["signal_context"];
        prop_assert_eq!(&kwargs["symbol"], &context["tickers"][0]);
        let tickers: Vec<_> = context["signals"].as_array().unwrap().iter().map(|entry| entry["ticker"].clone()).collect();
        prop_assert_eq!(&json!(tickers), &context["tickers"]);
        prop_assert_eq!(&kwargs["symbol"], &json!(&*text.symbol));
        prop_assert_eq!(&context["signal_id"], &json!(&*text.signal_id));
        prop_assert_eq!(&context["source"], &signal["source"]);
        prop_assert!(context["metadata"].is_object());
        let time: Timestamp = context["timestamp"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(&iso8601(time), context["timestamp"].as_str().unwrap());
        // One line, and nothing that a transport could stumble over.
        prop_assert!(!text.head.contains(['\0', '\n', '\r']));
    }
}
