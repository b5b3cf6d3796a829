//! The commands that are more than a line, and what they share.

pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod health;
pub(crate) mod migrate;
pub(crate) mod offsets;
pub(crate) mod outbox;
pub(crate) mod prune;

use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::MetadataPartition;

/// How long Kafka may take to answer a command. Asking blocks the thread, and nothing else runs in one.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// The partitions of a topic that Kafka has.
fn partitions(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_TIMEOUT).context("Kafka")?;
    let Some(found) = metadata.topics().first().filter(|found| found.error().is_none()) else {
        bail!("Kafka has no topic {topic}")
    };
    Ok(found.partitions().iter().map(MetadataPartition::id).collect())
}

/// Where a partition begins and ends.
fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> anyhow::Result<(i64, i64)> {
    consumer.fetch_watermarks(topic, partition, KAFKA_TIMEOUT).with_context(|| format!("Kafka: {topic}/{partition}"))
}
