//! librdkafka clients: their settings, and what they call back.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_batch::BatchConsumer;
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use secrecy::ExposeSecret;

use super::Error;
use crate::chaos;
use crate::config::KafkaConfig;
use crate::telemetry::Seldom;

/// The settings that every client shares: the servers and the operator's own properties.
pub fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    settings(kafka).fold(ClientConfig::new(), |mut config, (property, value)| {
        config.set(property, value);
        config
    })
}

/// The same, one by one. Not to be had from a `ClientConfig`: its `config_map` has a placeholder for each password.
pub(super) fn settings(kafka: &KafkaConfig) -> impl Iterator<Item = (&str, &str)> {
    let ours = [("bootstrap.servers", kafka.bootstrap_servers.as_str()), ("client.id", "trigger-dispatcher")];
    ours.into_iter().chain(kafka.properties.iter().map(|(property, value)| (property.as_str(), value.expose_secret())))
}

/// How soon the group gives a silent member's partitions to others: the least that brokers take by default.
const SESSION_MS: &str = "6000";
/// How soon a member hears that the group shares its partitions out anew.
const HEARTBEAT_MS: &str = "1000";

/// A consumer that has joined the group as soon as Kafka answers.
pub(super) fn consumer(kafka: &KafkaConfig, seldom: &Arc<Seldom>) -> Result<BatchConsumer<IntakeContext>, Error> {
    let mut config = ClientConfig::new();
    // The operator's properties come later and win, except for those that the promises rest on.
    config
        .set("session.timeout.ms", SESSION_MS)
        .set("heartbeat.interval.ms", HEARTBEAT_MS)
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.error.backoff.ms", "50")
        // librdkafka counts payloads only, and a small record costs it several times its payload; and a fetched response comes
        // on top, which a compressed topic blows up. With its defaults a backlog took 500 MB.
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.message.max.bytes", "262144")
        .set("max.poll.interval.ms", patience_ms(kafka).to_string())
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000")
        .set("check.crcs", "true");
    for (property, value) in settings(kafka) {
        config.set(property, value);
    }
    if let Some(name) = &kafka.group_instance_id {
        config.set("group.instance.id", name);
    }
    config
        .set("group.id", &kafka.consumer_group)
        // Where to begin is never librdkafka's guess: an offset that Kafka does not have is an error (see positions.rs).
        .set("auto.offset.reset", "error")
        // The watchdog must know when we have all there is.
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("partition.assignment.strategy", "range,roundrobin");
    let (changes, receiver) = channel();
    let context = IntakeContext { changes, receiver: Mutex::new(receiver), seldom: Arc::clone(seldom) };
    let consumer: BaseConsumer<IntakeContext> = create(&config, context)?;
    consumer.subscribe(&[&kafka.signal_topic])?;
    Ok(BatchConsumer::new(consumer)?)
}

/// How long a rebalance may wait for a member that says nothing more. librdkafka's 5 minutes are for those who work between two
/// polls; the intake thread polls all the time. Never below the session's, which librdkafka refuses.
fn patience_ms(kafka: &KafkaConfig) -> u64 {
    milliseconds(kafka, "session.timeout.ms").map_or(60_000, |session| session.max(60_000))
}

/// How long Kafka may be silent about a partition that has nothing new: librdkafka's default, or the operator's.
pub(super) fn fetch_wait(kafka: &KafkaConfig) -> Duration {
    Duration::from_millis(milliseconds(kafka, "fetch.wait.max.ms").unwrap_or(500))
}

fn milliseconds(kafka: &KafkaConfig, name: &str) -> Option<u64> {
    settings(kafka).filter(|(property, _)| *property == name).last().and_then(|(_, value)| value.parse().ok())
}

/// A client of any kind, with configuration errors told apart.
pub(super) fn create<C: ClientContext, T: FromClientConfigAndContext<C>>(config: &ClientConfig, context: C) -> Result<T, Error> {
    T::from_config_and_context(config, context).map_err(|error| match error {
        KafkaError::ClientConfig(_, text, property, value) => Error::Property { property, text: text.replace(&value, "…") },
        KafkaError::ClientCreation(text) => Error::Property { property: "(combination)".to_owned(), text },
        other => Error::Kafka(other),
    })
}

/// What the group did to our assignment.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<i32>),
    Revoked,
}

/// The consumer's callbacks. They run in the intake thread, inside `poll`.
pub(super) struct IntakeContext {
    changes: Sender<Change>,
    receiver: Mutex<Receiver<Change>>,
    /// Shared with the producer: both meet the same fault.
    seldom: Arc<Seldom>,
}

impl IntakeContext {
    /// The changes since the last call, in order.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.receiver.lock().map(|receiver| receiver.try_iter().collect()).unwrap_or_default()
    }

    fn changed(&self, change: Change) {
        // Both ends live in this context, so the channel is never closed.
        drop(self.changes.send(change));
    }
}

impl ClientContext for IntakeContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.seldom, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // No error, though told here too; the thread has it from its poll.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if self.seldom.now("kafka_error") {
            tracing::warn!(event = "kafka_error", %error, reason);
        }
    }
}

impl ConsumerContext for IntakeContext {
    /// Accepts an assignment without reading it yet: from where is the store's to say.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // The list of an empty assignment must not be looked into (rust-rdkafka #681).
            let partitions = if list.count() == 0 {
                Vec::new()
            } else {
                list.elements().iter().map(TopicPartitionListElem::partition).collect()
            };
            if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                tracing::error!(event = "assign_failed", %error);
            }
            chaos::point("on_assign");
            self.changed(Change::Assigned(partitions));
        } else {
            if let Err(error) = consumer.unassign() {
                tracing::error!(event = "unassign_failed", %error);
            }
            chaos::point("on_revoke");
            self.changed(Change::Revoked);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        // Kafka's offsets only follow: after a hand-over the new owner commits, and lag tools see it then.
        if let Err(error) = result {
            tracing::debug!(event = "kafka_commit_refused", %error);
        }
    }
}

/// The context of clients beside the intake's. They log nothing: the intake's own client meets the same faults and logs them.
pub(super) struct Silent;

impl ClientContext for Silent {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ConsumerContext for Silent {}

/// librdkafka's own log lines: each facility at most once a minute, whichever client speaks.
pub(super) fn log(seldom: &Seldom, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
            tracing::debug!(event = "librdkafka", facility, message);
        }
        _ if seldom.now(facility) => tracing::warn!(event = "librdkafka", facility, message),
        _ => {}
    }
}
