//! Sends dead letters again as the records that they were: the same time and the same identity, so that a signal does not become
//! fresh, and a second replay starts nothing.
#![expect(clippy::print_stdout, reason = "the command's answer")]

use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{KAFKA_TIMEOUT, OURS, header};
use crate::clock;
use crate::config::ReplayConfig;
use crate::intake::kafka::{PARTIAL, client_config};
use crate::intake::{ID_HEADER, TIME_HEADER};
use crate::tasks::id_of_place;

/// Sends dead letters again, and counts.
pub(super) struct Replay {
    producer: FutureProducer,
    topic: String,
    max_age: Option<Duration>,
    sent: usize,
    /// Sent, though too old to start anything.
    stale: usize,
    failed: usize,
}

/// What the record was before it became a dead letter.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    time_ms: i64,
    /// The id that it would have had without one of its own.
    signal_id: String,
}

impl Replay {
    pub(super) fn new(config: &ReplayConfig) -> anyhow::Result<Self> {
        let producer = client_config(&config.kafka)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "20000000")
            .create()
            .context("Kafka's configuration")?;
        let (topic, max_age) = (config.kafka.signal_topic.clone(), config.trigger.max_signal_age);
        Ok(Self { producer, topic, max_age, sent: 0, stale: 0, failed: 0 })
    }

    /// Sends one, or says why not and goes on.
    ///
    /// # Errors
    /// Kafka takes nothing at all.
    pub(super) async fn send_again(&mut self, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let place = format!("{}:{}", message.partition(), message.offset());
        if PARTIAL.iter().any(|name| header(message, name).is_some()) {
            println!("{place} is left out: it was too large for the dead-letter topic, which holds only a part of it");
            self.failed += 1;
            return Ok(());
        }
        let origin = origin(message);
        match self.send(message, &origin).await {
            Ok(()) => {
                self.sent += 1;
                self.stale += usize::from(self.is_stale(origin.time_ms));
            }
            Err(KafkaError::MessageProduction(
                error @ (RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidTimestamp),
            )) => {
                println!("{place} is left out: {} does not take it: {error}", self.topic);
                self.failed += 1;
            }
            // Whatever comes next would fail in the same way.
            Err(error) => bail!("Kafka: {}: {error}; {} were sent again before {place}", self.topic, self.sent),
        }
        Ok(())
    }

    async fn send(&self, message: &BorrowedMessage<'_>, origin: &Origin) -> Result<(), KafkaError> {
        let mut headers = OwnedHeaders::new();
        let kept = |key: &str| !key.starts_with(OURS) && key != TIME_HEADER && key != ID_HEADER;
        for header in message.headers().into_iter().flat_map(|headers| headers.iter()).filter(|header| kept(header.key)) {
            headers = headers.insert(Header { key: header.key, value: header.value });
        }
        headers = headers
            .insert(Header { key: ID_HEADER, value: Some(&origin.signal_id) })
            .insert(Header { key: TIME_HEADER, value: Some(&origin.time_ms.to_string()) });
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic).headers(headers).timestamp(origin.time_ms);
        record.key = message.key();
        record.payload = message.payload();
        self.producer.send(record, KAFKA_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error)
    }

    fn is_stale(&self, time_ms: i64) -> bool {
        time_ms < clock::oldest_ms(clock::unix_ms(), self.max_age)
    }

    /// Says what became of them.
    ///
    /// # Errors
    /// Something was left out.
    pub(super) fn sum_up(&self) -> anyhow::Result<()> {
        let Self { topic, sent, stale, failed, .. } = self;
        println!("{sent} sent to {topic} again, {failed} left out");
        if *stale > 0 {
            println!("{stale} of them are older than MAX_SIGNAL_AGE_SECONDS: they are counted as stale and start nothing");
        }
        if *failed > 0 {
            bail!("{failed} dead letters could not be sent again; the lines above say which and why")
        }
        Ok(())
    }
}

fn origin(message: &BorrowedMessage<'_>) -> Origin {
    let read = |name: &str| header(message, name);
    let number = |name: &str| read(name)?.parse::<i64>().ok();
    // Letters of earlier versions do not hold the record's time: theirs is a little later, and always the same.
    let time_ms = number("dead-letter-time").or_else(|| message.timestamp().to_millis()).unwrap_or(0);
    // A record that was sent again and failed again keeps its first identity.
    if let Some(signal_id) = read(ID_HEADER) {
        return Origin { time_ms, signal_id };
    }
    let place = || {
        let partition = i32::try_from(number("dead-letter-partition")?).ok()?;
        Some((read("dead-letter-topic")?, partition, number("dead-letter-offset")?))
    };
    // Another program wrote this dead letter, so it does not name the original record. The letter's own place never changes either,
    // and so gives the same id at each replay.
    let (topic, partition, offset) =
        place().unwrap_or_else(|| (message.topic().to_owned(), message.partition(), message.offset()));
    Origin { time_ms, signal_id: id_of_place(&topic, partition, offset, time_ms) }
}
