//! Signals without a memory: idempotent, acks=all, every delivery report counted. For mock signals and the demo.

use std::thread;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::{Deliveries, KafkaConfig, KafkaFailure};

/// A full queue is tried again this often, a millisecond apart: longer than librdkafka keeps any record (5 minutes).
const FULL_RETRIES: u32 = 310_000;

/// Sends to one topic; usable from several threads.
pub struct SignalProducer {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
}

impl SignalProducer {
    /// Does not wait for the brokers: they are asked for when the first record leaves.
    pub fn new(kafka: &KafkaConfig, topic: &str) -> Result<Self, KafkaFailure> {
        let deliveries = Deliveries::default();
        let producer = kafka.producer().create_with_context(deliveries);
        let producer = producer.map_err(|error| Deliveries::default().failure("the Kafka producer could not be made", error))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Queues one signal, keyed by its ticker; waits while the queue is full.
    pub fn send(&self, ticker: &str, payload: &[u8]) -> Result<(), KafkaFailure> {
        for _ in 0..FULL_RETRIES {
            if self.try_send(ticker, payload)? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(KafkaFailure::QueueFull(self.producer.context().trouble()))
    }

    /// Queues one signal without waiting; false if the queue is full.
    pub fn try_send(&self, ticker: &str, payload: &[u8]) -> Result<bool, KafkaFailure> {
        match self.producer.send(BaseRecord::to(&self.topic).key(ticker).payload(payload)) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => Err(self.producer.context().failure("a signal was refused", error)),
        }
    }

    /// Signals that the brokers have acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.producer.context().acknowledged()
    }

    /// Signals that are lost for good so far.
    pub fn failed(&self) -> u64 {
        self.producer.context().failed()
    }

    /// Waits for the outcome of everything sent; the number acknowledged, or an error if that is not all.
    pub fn finish(&self, timeout: Duration) -> Result<u64, KafkaFailure> {
        let flushed = self.producer.flush(timeout);
        let unknown = u64::try_from(self.producer.in_flight_count()).unwrap_or_default();
        let deliveries = self.producer.context();
        if flushed.is_err() || unknown > 0 || deliveries.failed() > 0 {
            let (failed, trouble) = (deliveries.failed(), deliveries.trouble());
            return Err(KafkaFailure::Undelivered { failed, unknown, trouble });
        }
        Ok(deliveries.acknowledged())
    }
}
