//! Creates the dead-letter topic if it is missing and Kafka allows that. While there is none, the instance logs it and is not ready.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio_util::sync::CancellationToken;

use super::client::{Silent, client_config, create};
use super::extents::has_topic;
use crate::config::KafkaConfig;
use crate::retry::Backoff;
use crate::supervise::aside;
use crate::telemetry::{Dependency, Metrics};

/// How long Kafka may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often we look whether the topic is still there.
const INTERVAL: Duration = Duration::from_secs(60);
/// As many copies as the broker makes by default.
const BROKERS_DEFAULT: TopicReplication<'_> = TopicReplication::Fixed(-1);

/// Why there is no dead-letter topic.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("Kafka has no topic {topic} for bad records and does not let us make it ({code}): make it, or allow us to create it")]
    Missing { topic: String, code: RDKafkaErrorCode },
}

/// Sees to it that there is a dead-letter topic, until told to stop.
///
/// # Errors
/// librdkafka does not take the configuration.
pub async fn keep(kafka: KafkaConfig, metrics: Arc<Metrics>, stop: CancellationToken) -> anyhow::Result<()> {
    let client: Arc<AdminClient<Silent>> = Arc::new(create(&client_config(&kafka), Silent)?);
    let mut wait = Backoff::new("dead_letter_topic_missing").watched(&metrics, Dependency::dead_letter_topic);
    while !stop.is_cancelled() {
        let pause = match ensure(&client, &kafka.dead_letter_topic, &stop).await {
            Ok(()) => {
                wait.recovered();
                INTERVAL
            }
            Err(error) => wait.failed(&error),
        };
        // Stopped or waited: either way the loop looks again.
        drop(tokio::time::timeout(pause, stop.cancelled()).await);
    }
    Ok(())
}

async fn ensure(client: &Arc<AdminClient<Silent>>, topic: &str, stop: &CancellationToken) -> Result<(), Error> {
    let (asking, name) = (Arc::clone(client), topic.to_owned());
    let metadata = aside(move || asking.inner().fetch_metadata(Some(&name), TIMEOUT));
    let metadata = tokio::select! {
        // Nobody needs the answer any more.
        () = stop.cancelled() => return Ok(()),
        metadata = metadata => metadata?,
    };
    if has_topic(&metadata) {
        return Ok(());
    }
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
    let missing = [NewTopic::new(topic, 1, BROKERS_DEFAULT)];
    let made = client.create_topics(&missing, &options);
    let made = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        made = made => made?,
    };
    match made.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
            Err(Error::Missing { topic: topic.to_owned(), code })
        }
        Some(Err(_)) => Ok(()),
        _ => {
            tracing::info!(event = "dead_letter_topic_made", topic);
            Ok(())
        }
    }
}
