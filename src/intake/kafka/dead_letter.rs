//! Bad records on their way to the dead-letter topic, with their bytes, their headers and the reason.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use super::Error;
use super::client::{create, log, settings};
use crate::chaos::{self, Bug};
use crate::config::KafkaConfig;
use crate::intake::Rejected;
use crate::telemetry::Seldom;

/// What is kept of a record that the dead-letter topic does not take, in bytes: less at each attempt. A letter with our own headers alone always fits.
const WHOLE: usize = usize::MAX;
const CUT: usize = 512 * 1024;
const LITTLE: usize = 32 * 1024;
const NOTHING: usize = 0;
/// Letters, and their bytes, that are on their way at once.
const SLICE: usize = 256;
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// Headers of a letter that holds only a part of its record.
const TRUNCATED_FROM: &str = "dead-letter-truncated-from";
const WITHOUT_KEY_OF: &str = "dead-letter-without-key-of";
const WITHOUT_HEADERS: &str = "dead-letter-without-headers";
/// All of them. Such a letter must not be sent to the signal topic again.
pub(crate) const PARTIAL: [&str; 3] = [TRUNCATED_FROM, WITHOUT_KEY_OF, WITHOUT_HEADERS];

pub(super) struct DeadLetters {
    producer: FutureProducer<LogContext>,
    config: ClientConfig,
    seldom: Arc<Seldom>,
    source: String,
    topic: String,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeadLetters {
    pub(super) fn connect(kafka: &KafkaConfig, seldom: &Arc<Seldom>) -> Result<Self, Error> {
        let mut config = ClientConfig::new();
        config.set("message.timeout.ms", "10000").set("message.max.bytes", "20000000").set("compression.type", "lz4");
        for (property, value) in settings(kafka) {
            // The rest of the operator's properties may be the consumer's alone.
            if !CONSUMER_ONLY.iter().any(|prefix| property.starts_with(prefix)) {
                config.set(property, value);
            }
        }
        config.set("acks", "all").set("enable.idempotence", "true");
        let producer = create(&config, LogContext(Arc::clone(seldom)))?;
        Ok(Self {
            producer,
            config,
            seldom: Arc::clone(seldom),
            source: kafka.signal_topic.clone(),
            topic: kafka.dead_letter_topic.clone(),
        })
    }

    /// Returns once every record is acknowledged.
    pub(super) async fn send(&mut self, rejected: &[Rejected]) -> Result<(), Error> {
        // librdkafka gives an idempotent producer up for good (no right to write, say), though what was wrong may be mended.
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            if self.seldom.now("dead_letter_producer_renewed") {
                tracing::warn!(event = "dead_letter_producer_renewed", %code, reason);
            }
            self.producer = create(&self.config, LogContext(Arc::clone(&self.seldom)))?;
        }
        if chaos::bug(Bug::DeadLetterNotAwaited) {
            // Polled once: each is in the producer's queue, and nobody waits for it.
            for rejected in rejected {
                drop(self.deliver(rejected, WHOLE).now_or_never());
            }
            return Ok(());
        }
        // In slices, so that a burst of large records does not overrun the producer's queue.
        let mut rest = rejected;
        while !rest.is_empty() {
            let (slice, after) = rest.split_at(slice_length(rest));
            self.send_slice(slice).await?;
            rest = after;
        }
        Ok(())
    }

    async fn send_slice(&self, slice: &[Rejected]) -> Result<(), KafkaError> {
        let results = join_all(slice.iter().map(|rejected| self.deliver(rejected, WHOLE))).await;
        for (rejected, result) in slice.iter().zip(results) {
            match result {
                // librdkafka sends several letters in one request. This one may be small enough alone.
                Err(error) if is_too_large(&error) => self.send_one(rejected).await?,
                other => other?,
            }
        }
        Ok(())
    }

    /// Sends a letter alone, and less and less of it while it is too large.
    async fn send_one(&self, rejected: &Rejected) -> Result<(), KafkaError> {
        for most in [WHOLE, CUT, LITTLE] {
            match self.deliver(rejected, most).await {
                Err(error) if is_too_large(&error) => {}
                result => return result,
            }
        }
        self.deliver(rejected, NOTHING).await
    }

    /// Sends at most so many bytes of the record's payload. Its key and its headers are left out where they are longer than an eighth of that.
    async fn deliver(&self, rejected: &Rejected, most: usize) -> Result<(), KafkaError> {
        let payload = rejected.payload.as_deref();
        let kept = payload.map(|payload| &payload[..payload.len().min(most)]);
        let key = rejected.key.as_deref().filter(|key| key.len() <= most / 8);
        let header_bytes = |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
        let keeps_headers = rejected.headers.iter().map(header_bytes).sum::<usize>() <= most / 8;
        let mut ours = vec![
            ("dead-letter-reason", rejected.reason.as_str().to_owned()),
            ("dead-letter-topic", self.source.clone()),
            ("dead-letter-partition", rejected.partition.to_string()),
            ("dead-letter-offset", rejected.offset.to_string()),
            ("dead-letter-time", rejected.time_ms.to_string()),
            ("dead-letter-version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if kept.map(<[u8]>::len) != payload.map(<[u8]>::len) {
            ours.push((TRUNCATED_FROM, payload.map_or(0, <[u8]>::len).to_string()));
        }
        if let (Some(left_out), None) = (&rejected.key, key) {
            ours.push((WITHOUT_KEY_OF, left_out.len().to_string()));
        }
        if !keeps_headers {
            ours.push((WITHOUT_HEADERS, rejected.headers.len().to_string()));
        }
        let mut headers = OwnedHeaders::new();
        for (name, value) in rejected.headers.iter().filter(|_| keeps_headers) {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        for (key, value) in &ours {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic).headers(headers);
        record.key = key;
        record.payload = kept;
        let delivery = self.producer.send_result(record).map_err(|(error, _)| error)?;
        match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error),
            Err(_) => Err(KafkaError::Canceled),
        }
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge))
}

/// How many of the letters are sent at once: at least one.
fn slice_length(letters: &[Rejected]) -> usize {
    let mut bytes = 0;
    let fits = |letter: &&Rejected| {
        bytes += letter.bytes();
        bytes <= SLICE_BYTES
    };
    letters.iter().take(SLICE).take_while(fits).count().max(1)
}

/// Properties that only a consumer knows; librdkafka warns about them on a producer.
const CONSUMER_ONLY: [&str; 9] =
    ["fetch.", "queued.", "session.", "heartbeat.", "max.poll.", "group.", "isolation.", "check.crcs", "max.partition.fetch."];

struct LogContext(Arc<Seldom>);

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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use secrecy::SecretString;

    use super::*;
    use crate::config::OffsetReset;
    use crate::intake::Reason;

    /// A dead-letter topic in a mock of Kafka that answers requests of a kind with an error, some times.
    fn refusing(kind: RDKafkaApiKey, error: RDKafkaRespErr) -> (MockCluster<'static, DefaultProducerContext>, DeadLetters) {
        let cluster = MockCluster::<DefaultProducerContext>::new(1).unwrap();
        cluster.create_topic("letters", 1, 1).unwrap();
        cluster.request_errors(kind, &[error; 1000]);
        let kafka = KafkaConfig {
            bootstrap_servers: cluster.bootstrap_servers(),
            signal_topic: "signals".to_owned(),
            consumer_group: "group".to_owned(),
            group_instance_id: None,
            auto_offset_reset: OffsetReset::Earliest,
            dead_letter_topic: "letters".to_owned(),
            properties: vec![("message.timeout.ms".to_owned(), SecretString::from("2000"))],
        };
        let letters = DeadLetters::connect(&kafka, &Arc::default()).unwrap();
        (cluster, letters)
    }

    fn rejected() -> [Rejected; 1] {
        [Rejected { reason: Reason::Empty, partition: 0, offset: 0, time_ms: 0, key: None, payload: None, headers: Vec::new() }]
    }

    #[tokio::test]
    async fn a_producer_that_librdkafka_has_given_up_is_made_anew() {
        let kind = RDKafkaApiKey::InitProducerId;
        let (cluster, mut letters) = refusing(kind, RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
        assert!(letters.send(&rejected()).await.is_err());
        assert!(letters.producer.client().fatal_error().is_some(), "this is about a producer that is given up");
        cluster.clear_request_errors(kind);
        letters.send(&rejected()).await.unwrap();
    }

    #[tokio::test]
    async fn a_broker_whose_disk_is_full_is_an_error_until_it_has_room() {
        let kind = RDKafkaApiKey::Produce;
        let (cluster, mut letters) = refusing(kind, RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR);
        assert!(letters.send(&rejected()).await.is_err());
        cluster.clear_request_errors(kind);
        letters.send(&rejected()).await.unwrap();
    }
}
