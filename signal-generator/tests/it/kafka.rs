//! Topics of a test's own on the real Kafka, and what stands in them.

use std::collections::HashSet;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::program::{Crosses, until};

const PARTITIONS: i32 = 3;

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) signal: Value,
    /// Milliseconds.
    pub(crate) timestamp: i64,
}

pub(crate) fn brokers() -> String {
    std::env::var("TEST_KAFKA").expect("TEST_KAFKA is not set: eval \"$(scripts/services env)\"")
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers());
    config
}

/// A new topic of three partitions.
pub(crate) fn topic() -> String {
    topic_with(&[])
}

pub(crate) fn topic_with(settings: &[(&str, &str)]) -> String {
    let name = format!("gen-{}", uuid::Uuid::new_v4().simple());
    let admin: AdminClient<DefaultClientContext> = config().create().expect("an admin client");
    let mut new = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    for (key, value) in settings {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let created = block_on(admin.create_topics([&new], &options)).expect("TEST_KAFKA answers");
    for one in created {
        one.expect("a topic can be made");
    }
    name
}

/// Sends records to the topic and waits for all acknowledgements.
pub(crate) fn send(topic: &str, records: &[(String, Vec<u8>)]) {
    let producer: BaseProducer = config().create().expect("a producer");
    for (key, payload) in records {
        producer.send(BaseRecord::to(topic).key(key).payload(payload)).map_err(|(error, _)| error).expect("room");
    }
    producer.flush(Duration::from_secs(30)).expect("all delivered");
}

/// All that a consumer like the dispatcher (committed records only) finds in the topic.
pub(crate) fn committed(topic: &str) -> Vec<Record> {
    read(topic, "read_committed")
}

/// What was ever written, aborted attempts too.
pub(crate) fn written(topic: &str) -> Vec<Record> {
    read(topic, "read_uncommitted")
}

fn read(topic: &str, isolation: &str) -> Vec<Record> {
    let mut config = config();
    config.set("group.id", "unused").set("enable.partition.eof", "true").set("isolation.level", isolation);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    let (mut records, mut ended) = (Vec::new(), HashSet::new());
    until("every partition is read", || {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => records.push(Record {
                key: String::from_utf8(record.key().unwrap_or_default().to_vec()).expect("a key in UTF-8"),
                signal: serde_json::from_slice(record.payload().unwrap_or_default()).expect("JSON"),
                timestamp: record.timestamp().to_millis().expect("a timestamp"),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
        (ended.len() == 3).then_some(())
    });
    records
}

/// The crosses that the signals speak of; every signal must be a different one, in every sense.
pub(crate) fn crosses_in(records: &[Record]) -> Crosses {
    let mut crosses = Crosses::new();
    let mut ids = HashSet::new();
    for Record { key, signal, .. } in records {
        let kind = ["golden_cross", "death_cross"].into_iter().find(|kind| signal["signal_type"] == *kind);
        let date = signal["metadata"]["bar_date"].as_str().expect("a date").to_owned();
        assert!(ids.insert(signal["signal_id"].to_string()), "twice the same id: {signal}");
        assert!(crosses.insert((key.clone(), kind.expect("a known type"), date)), "twice the same bar: {signal}");
    }
    crosses
}

/// How often a generator has started with this state topic, as far as that is committed.
pub(crate) fn starts_in(state_topic: &str) -> usize {
    let config = config();
    let consumer: BaseConsumer =
        config.clone().set("group.id", "unused").set("enable.partition.eof", "true").create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(state_topic), Duration::from_secs(30)).expect("metadata");
    if metadata.topics().iter().all(|topic| topic.partitions().is_empty()) {
        return 0;
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(state_topic, 0, Offset::Beginning).expect("a valid offset");
    consumer.assign(&assignment).expect("an assignment");
    let mut starts = 0;
    until("the state topic is read", || match consumer.poll(Duration::from_millis(100)) {
        Some(Ok(record)) => {
            starts += usize::from(record.key() == Some(br#"["signal-generator"]"#));
            None
        }
        Some(Err(KafkaError::PartitionEOF(_))) => Some(()),
        Some(Err(error)) => panic!("{error}"),
        None => None,
    });
    starts
}
