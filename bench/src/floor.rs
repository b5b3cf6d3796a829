//! The floor: a program that takes signals from Kafka and pushes tasks to Redis, and asks no database in between, in a process of
//! its own. What a signal takes there is what Kafka, Redis, the machine and the load take; the rest is the dispatcher's.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::clock;

/// One signal in so many becomes a task: about as many as in the flow beside it, where most pipelines are busy.
const EVERY: i64 = 15;

#[derive(Deserialize)]
struct Signal {
    signal_id: String,
}

/// Takes and pushes until it is told to stop.
#[expect(clippy::print_stdout, reason = "a line for the process that started it")]
pub(crate) fn run() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", variable("KAFKA_BOOTSTRAP_SERVERS")?)
        .set("group.id", variable("KAFKA_CONSUMER_GROUP")?)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    consumer.subscribe(&[&variable("KAFKA_SIGNAL_TOPIC")?])?;
    let mut redis = redis::Client::open(variable("CELERY_BROKER_URL")?)?.get_connection()?;
    let list = variable("CELERY_TASK_QUEUE")?;
    let (mut is_ready, mut tasks) = (false, Vec::new());
    let (mut committed, mut uncommitted) = (clock::now(), 0);
    while crate::stop::check().is_ok() {
        let mut wait = Duration::from_millis(50);
        let mut taken = 0;
        while let Some(message) = consumer.poll(wait) {
            let message = message?;
            wait = Duration::ZERO;
            taken += 1;
            if message.offset() % EVERY == 0 {
                tasks.push(task(message.payload().context("a signal without a payload")?)?);
            }
            if taken == 10_000 {
                break;
            }
        }
        if !tasks.is_empty() {
            redis::cmd("LPUSH").arg(&list).arg(&tasks).exec(&mut redis)?;
            tasks.clear();
        }
        // Not after each batch: Kafka takes one commit of a group after the other.
        uncommitted += taken;
        if uncommitted > 0 && clock::now() > committed + Duration::from_millis(100) {
            consumer.commit_consumer_state(CommitMode::Async)?;
            (committed, uncommitted) = (clock::now(), 0);
        }
        if !is_ready && consumer.assignment()?.count() > 0 {
            is_ready = true;
            println!("ready");
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}

/// As much of a Celery message as the reader reads, about as long as one.
fn task(payload: &[u8]) -> anyhow::Result<String> {
    let Signal { signal_id } = serde_json::from_slice(payload)?;
    let padding = " ".repeat(300);
    let kwargs = json!({
        "pipeline_id": Uuid::new_v4(), "execution_id": Uuid::new_v4(), "padding": padding, "signal_context": {"signal_id": signal_id},
    });
    let body = BASE64.encode(serde_json::to_vec(&json!([[], kwargs, {}]))?);
    Ok(json!({"body": body}).to_string())
}
