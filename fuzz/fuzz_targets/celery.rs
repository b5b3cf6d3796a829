//! Whatever an accepted signal says, its task's arguments and its Celery message are JSON of the one shape that workers take.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use trigger_dispatcher::config::{Config, Environment, Scope};
use trigger_dispatcher::intake::{Batch, Record};
use trigger_dispatcher::rules::{Rule, RuleSet, Skips};
use trigger_dispatcher::tasks::celery::Encoder;
use trigger_dispatcher::tasks::{Task, trigger_text};
use uuid::Uuid;

fn config() -> Config {
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("POSTGRES_USER", "user"),
        ("POSTGRES_PASSWORD", "password"),
        ("POSTGRES_HOST", "localhost"),
        ("POSTGRES_DB", "db"),
        ("CELERY_BROKER_URL", "redis://localhost"),
    ]);
    Config::read(&environment).expect("a valid configuration")
}

fuzz_target!(|payload: &[u8]| {
    let headers = || Vec::new();
    let mut batch = Batch::default();
    let record = Record { partition: 0, offset: 7, time_ms: 1_000, key: None, payload: Some(payload), headers: &headers };
    batch.push(&record, 1, i64::MIN, Instant::now());
    let Some(signal) = batch.signals().first() else { return };
    let tickers = batch.mentions(signal).iter().map(|mention| batch.text(mention.ticker).to_owned()).collect();
    let rule = Rule { pipeline_id: Uuid::from_u128(1), user_id: None, tickers, subscriptions: Vec::new() };
    let rules = Arc::new(RuleSet::new(vec![rule]));
    let matches = rules.match_batch(&batch, Scope::Pipeline, &Skips::default());
    assert_eq!(matches.candidates.len(), 1);
    let config = config();
    let text = trigger_text(&config.celery, "topic", &batch, &matches, &matches.candidates[0], "");
    let kwargs: Value = serde_json::from_str(&text.kwargs).expect("arguments are JSON");
    assert_eq!(kwargs["execution_id"], text.trigger_id.to_string());
    let context = &kwargs["signal_context"];
    let entries = context["signals"].as_array().expect("signals are a list");
    assert!(entries.iter().map(|entry| &entry["ticker"]).eq(context["tickers"].as_array().expect("tickers are a list")));
    let task = Task { trigger_id: text.trigger_id, kwargs: text.kwargs };
    let messages = Encoder::new(&config.celery).redis_messages([&task], jiff::Timestamp::UNIX_EPOCH);
    let message: Value = serde_json::from_str(&messages[0]).expect("a message is JSON");
    assert_eq!(message["headers"]["id"], task.trigger_id.to_string());
    let body: Value = serde_json::from_str(&Encoder::body(&task)).expect("a body is JSON");
    assert_eq!(body.as_array().map(Vec::len), Some(3));
});
