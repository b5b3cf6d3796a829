//! Bad records on their way to the dead-letter topic, with their bytes, their headers and the reason.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::Error;
use super::client::{client_config, create, log};
use crate::chaos::{self, Bug};
use crate::config::KafkaConfig;
use crate::intake::Rejected;
use crate::telemetry::Seldom;

/// What is kept of a payload that the dead-letter topic does not take whole, in bytes.
const TRUNCATED: usize = 512 * 1024;

pub(super) struct DeadLetters {
    producer: FutureProducer<LogContext>,
    source: String,
    topic: String,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeadLetters {
    pub(super) fn connect(kafka: &KafkaConfig) -> Result<Self, Error> {
        let mut config = ClientConfig::new();
        config.set("message.timeout.ms", "10000").set("message.max.bytes", "20000000").set("compression.type", "lz4");
        for (property, value) in client_config(kafka).config_map() {
            // The rest of the operator's properties may be the consumer's alone.
            if !CONSUMER_ONLY.iter().any(|prefix| property.starts_with(prefix)) {
                config.set(property.to_owned(), value.to_owned());
            }
        }
        config.set("acks", "all").set("enable.idempotence", "true");
        let producer = create(&config, LogContext(Seldom::default()))?;
        Ok(Self { producer, source: kafka.signal_topic.clone(), topic: kafka.dead_letter_topic.clone() })
    }

    /// Returns once every record is acknowledged.
    pub(super) async fn send(&self, rejected: &[Rejected]) -> Result<(), Error> {
        if chaos::bug(Bug::DeadLetterNotAwaited) {
            // Polled once: each is in the producer's queue, and nobody waits for it.
            for rejected in rejected {
                drop(self.send_one(rejected).now_or_never());
            }
            return Ok(());
        }
        // In slices, so that a burst of large records does not overrun the producer's queue.
        for slice in rejected.chunks(256) {
            let results = join_all(slice.iter().map(|rejected| self.send_one(rejected))).await;
            results.into_iter().collect::<Result<(), KafkaError>>()?;
        }
        Ok(())
    }

    async fn send_one(&self, rejected: &Rejected) -> Result<(), KafkaError> {
        match self.deliver(rejected, usize::MAX).await {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => self.deliver(rejected, TRUNCATED).await,
            result => result,
        }
    }

    async fn deliver(&self, rejected: &Rejected, most: usize) -> Result<(), KafkaError> {
        let payload = rejected.payload.as_deref();
        let kept = payload.map(|payload| &payload[..payload.len().min(most)]);
        let mut headers = OwnedHeaders::new();
        for (name, value) in &rejected.headers {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        let mut ours = vec![
            ("dead-letter-reason", rejected.reason.as_str().to_owned()),
            ("dead-letter-topic", self.source.clone()),
            ("dead-letter-partition", rejected.partition.to_string()),
            ("dead-letter-offset", rejected.offset.to_string()),
            ("dead-letter-version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if kept.map(<[u8]>::len) != payload.map(<[u8]>::len) {
            ours.push(("dead-letter-truncated-from", payload.map_or(0, <[u8]>::len).to_string()));
        }
        for (key, value) in &ours {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic).headers(headers);
        record.key = rejected.key.as_deref();
        record.payload = kept;
        let delivery = self.producer.send_result(record).map_err(|(error, _)| error)?;
        match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error),
            Err(_) => Err(KafkaError::Canceled),
        }
    }
}

/// Properties that only a consumer knows; librdkafka warns about them on a producer.
const CONSUMER_ONLY: [&str; 9] =
    ["fetch.", "queued.", "session.", "heartbeat.", "max.poll.", "group.", "isolation.", "check.crcs", "max.partition.fetch."];

struct LogContext(Seldom);

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.0, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.0.now("kafka_error") {
            tracing::warn!(event = "kafka_error", client = "dead-letter", %error, reason);
        }
    }
}
