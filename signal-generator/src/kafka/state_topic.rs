//! The compacted topic that holds the marks: made if it is missing, refused if it would forget, read to its end.

use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Deliveries, KafkaConfig, KafkaFailure, START_TIMEOUT};
use crate::marks::{Marks, StateKey, decode_mark};

/// All marks are in this partition: their order is the order of time.
pub(super) const PARTITION: i32 = 0;
/// The end must come into sight within this many polls of 100 ms without a record.
const QUIET_POLLS: u32 = 300;

/// Makes the topic, compacted, with the broker's default replication, or checks that the one that exists is compacted.
pub(super) fn ensure(kafka: &KafkaConfig, topic: &str) -> Result<(), KafkaFailure> {
    let trouble = Deliveries::default();
    trouble.note(format!("brokers: {}", kafka.brokers));
    let failure = |error| trouble.failure("the state topic could not be prepared", error);
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().map_err(failure)?;
    let options = AdminOptions::new().request_timeout(Some(START_TIMEOUT)).operation_timeout(Some(START_TIMEOUT));

    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let created = block_on(admin.create_topics([&new], &options)).map_err(failure)?;
    match created.into_iter().next() {
        None | Some(Ok(_)) => return Ok(()),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        Some(Err((_, code))) => return Err(failure(KafkaError::AdminOp(code))),
    }

    let described = block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options)).map_err(failure)?;
    for resource in described {
        let resource = resource.map_err(|code| failure(KafkaError::AdminOp(code)))?;
        let policy = resource.get("cleanup.policy").and_then(|entry| entry.value.clone()).unwrap_or_default();
        // "compact,delete" forgets as well.
        if policy != "compact" {
            return Err(KafkaFailure::NotCompacted { topic: topic.to_owned(), policy });
        }
    }
    Ok(())
}

/// Reads the source's marks until the record `started` shows up, which the caller has just committed: what stands before it is
/// final, because a reader of committed records never passes an open transaction.
pub(super) fn read(kafka: &KafkaConfig, topic: &str, source: &str, started: &[u8]) -> Result<Marks, KafkaFailure> {
    let trouble = Deliveries::default();
    let failure = |error| trouble.failure("the state topic could not be read", error);
    let consumer: BaseConsumer = kafka.consumer().create().map_err(failure)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, PARTITION, Offset::Beginning).map_err(failure)?;
    consumer.assign(&partitions).map_err(failure)?;

    let mut marks = Marks::default();
    let mut quiet = 0;
    while quiet < QUIET_POLLS {
        let record = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                // librdkafka goes on by itself after most errors; if it does not, the quiet polls end this.
                trouble.note(error.to_string());
                quiet += 1;
                continue;
            }
            None => {
                quiet += 1;
                continue;
            }
        };
        quiet = 0;
        let strange = || KafkaFailure::StrangeState { topic: topic.to_owned(), offset: record.offset() };
        match StateKey::decode(record.key().unwrap_or_default()).ok_or_else(strange)? {
            StateKey::Started(by) if by == source && record.payload() == Some(started) => {
                return Ok(marks);
            }
            StateKey::Mark(by, direction, ticker) if by == source => {
                let date = record.payload().map(|value| decode_mark(value).ok_or_else(strange)).transpose()?;
                marks.set(direction, ticker, date);
            }
            StateKey::Started(_) | StateKey::Mark(..) => {}
        }
    }
    Err(KafkaFailure::UnreadState(format!("{topic}{}", trouble.trouble())))
}
