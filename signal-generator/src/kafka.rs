//! The only part that talks to Kafka: how to reach it, what can go wrong, and what became of each record sent.

pub mod bars;
mod producer;
pub mod state_topic;
pub mod transactions;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

pub use producer::SignalProducer;

/// How long a start may wait for the brokers.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where Kafka is and how to speak to it.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port,host:port`.
    pub brokers: String,
    /// Further librdkafka properties; those that carry our promises are refused by [`crate::config`].
    pub properties: Vec<(String, String)>,
}

impl KafkaConfig {
    /// Plain access without further properties.
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), properties: Vec::new() }
    }

    fn client(&self) -> ClientConfig {
        self.over(ClientConfig::new())
    }

    /// `config`, where nothing of ours says otherwise. Never by way of `config_map`: it has a placeholder for each password.
    fn over(&self, mut config: ClientConfig) -> ClientConfig {
        for (property, value) in &self.properties {
            config.set(property, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn producer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Java's, so that every client of the platform finds a ticker in the same partition; may be overridden.
        config.set("partitioner", "murmur2_random");
        let mut config = self.over(config);
        config.set("enable.idempotence", "true").set("acks", "all");
        config
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = self.client();
        // A group's name is required, but nothing is ever committed under it: each start reads from the beginning.
        config.set("group.id", "signal-generator").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest").set("isolation.level", "read_committed");
        config
    }
}

/// What ends a run. None of these is cured by going on; a restart finds everything as it was.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is")]
pub enum KafkaFailure {
    #[error("{what}: {error}{trouble}")]
    Client { what: &'static str, error: rdkafka::error::KafkaError, trouble: String },
    #[error("topic {0} does not exist")]
    NoTopic(String),
    #[error("topic {topic} has {now} partitions, it had {before}: start again to read them all")]
    Repartitioned { topic: String, before: usize, now: usize },
    #[error("state topic {topic} has cleanup.policy={policy}: it must be compact, or what was emitted would be forgotten")]
    NotCompacted { topic: String, policy: String },
    #[error("state topic {topic}, offset {offset}: not a record of ours; give this generator a topic of its own (--state-topic)")]
    StrangeState { topic: String, offset: i64 },
    #[error("state topic {0} could not be read to its end")]
    UnreadState(String),
    #[error("another generator with the same --source has taken over; two at a time need two sources")]
    Fenced,
    #[error("the send queue stayed full{0}")]
    QueueFull(String),
    #[error("{failed} signals failed and {unknown} were not acknowledged in time{trouble}")]
    Undelivered { failed: u64, unknown: u64, trouble: String },
}

/// Counts every delivery report, and remembers the newest error for whoever has to explain a failure.
#[derive(Debug, Default)]
pub struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Deliveries {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// ` (newest error)`, or nothing.
    fn trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map_or_else(String::new, |text| format!(" ({text})"))
    }

    fn note(&self, text: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    fn failure(&self, what: &'static str, error: rdkafka::error::KafkaError) -> KafkaFailure {
        KafkaFailure::Client { what, error, trouble: self.trouble() }
    }
}

impl ClientContext for Deliveries {
    fn error(&self, _: rdkafka::error::KafkaError, reason: &str) {
        self.note(reason.to_owned());
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        match report {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.note(error.to_string());
            }
        }
    }
}
