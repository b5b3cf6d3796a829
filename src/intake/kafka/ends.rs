//! Asks Kafka now and then where this instance's partitions end: that tells the lag, and whether Kafka answers at all. With a client of its
//! own, so that the intake's never waits for it. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use tokio_util::sync::CancellationToken;

use super::client::{Silent, client_config, create};
use super::extents;
use crate::clock;
use crate::config::KafkaConfig;
use crate::retry::Backoff;
use crate::supervise::aside;
use crate::telemetry::{Dependency, Lag, Metrics};

/// How often Kafka is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long Kafka may take to answer.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What Kafka does not have.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("Kafka has no topic {0}")]
    NoTopic(String),
}

/// Keeps the lag and Kafka's state up to date until told to stop.
///
/// # Errors
/// librdkafka does not take the configuration.
pub async fn watch(kafka: KafkaConfig, metrics: Arc<Metrics>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut config = client_config(&kafka);
    // A name for librdkafka, which has no consumer without one; nothing is subscribed to.
    config.set("group.id", &kafka.consumer_group).set("enable.auto.commit", "false");
    let client: Arc<BaseConsumer<Silent>> = Arc::new(create(&config, Silent)?);
    let mut wait = Backoff::new("kafka_not_asked").watched(&metrics, Dependency::kafka);
    let mut lag = Lag::default();
    while !stop.is_cancelled() {
        let (client, topic) = (Arc::clone(&client), kafka.signal_topic.clone());
        let partitions: Vec<i32> = metrics.next_offsets().into_keys().collect();
        let asked = aside(move || ends(&client, &topic, &partitions));
        let ends = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ends = asked => ends,
        };
        match ends {
            Ok(ends) => {
                wait.recovered();
                metrics.behind(lag.look(&ends, &metrics.next_offsets(), clock::now()));
            }
            Err(error) => _ = wait.failed(&error),
        }
        // Stopped or waited: either way the loop looks again.
        drop(tokio::time::timeout(INTERVAL, stop.cancelled()).await);
    }
    Ok(())
}

/// Where partitions of the topic end. Blocks.
fn ends(client: &BaseConsumer<Silent>, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, i64)>, Error> {
    if partitions.is_empty() {
        let metadata = client.fetch_metadata(Some(topic), TIMEOUT)?;
        return if extents::has_topic(&metadata) { Ok(Vec::new()) } else { Err(Error::NoTopic(topic.to_owned())) };
    }
    Ok(extents::offsets(client, topic, partitions, Offset::End, TIMEOUT)?.into_iter().collect())
}
