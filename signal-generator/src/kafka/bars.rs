//! Bars from a topic, from the first record on, without a group: every start needs the old bars to fill the windows.
//!
//! All bars of a ticker must be in one partition (key the records by ticker): only there do they have an order.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Deliveries, KafkaConfig, KafkaFailure, START_TIMEOUT};
use crate::bar::{BadBar, Bar};

/// What one look at the topic brought.
#[derive(Debug)]
pub enum Look {
    /// A record: where it stands, and the bar or what is wrong with it.
    Record(String, Result<(String, Bar), BadBar>),
    /// Nothing new for now.
    Quiet,
    /// Every partition was read to the end that it had at some moment since the start.
    CaughtUp,
    /// Kafka has a problem; librdkafka goes on by itself.
    Trouble(String),
}

/// A reader of all partitions of one topic.
pub struct BarTopic {
    consumer: BaseConsumer,
    topic: String,
    partitions: usize,
    ended: HashSet<i32>,
}

impl BarTopic {
    /// Starts at the first record of each partition.
    pub fn open(kafka: &KafkaConfig, topic: &str) -> Result<Self, KafkaFailure> {
        let trouble = Deliveries::default();
        let failure = |error| trouble.failure("the topic of bars could not be opened", error);
        let consumer: BaseConsumer = kafka.consumer().set("enable.partition.eof", "true").create().map_err(failure)?;
        let mut this = Self { consumer, topic: topic.to_owned(), partitions: 0, ended: HashSet::new() };
        this.partitions = this.count_partitions()?;
        let mut assignment = TopicPartitionList::new();
        for partition in (0_i32..).take(this.partitions) {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).map_err(failure)?;
        }
        this.consumer.assign(&assignment).map_err(failure)?;
        Ok(this)
    }

    /// Waits up to `timeout` for the next record.
    pub fn look(&mut self, timeout: Duration) -> Look {
        match self.consumer.poll(timeout) {
            None => Look::Quiet,
            Some(Ok(record)) => {
                let place = format!("topic {}, partition {}, offset {}", self.topic, record.partition(), record.offset());
                Look::Record(place, Bar::from_json(record.payload().unwrap_or_default()))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.ended.insert(partition);
                if self.ended.len() == self.partitions { Look::CaughtUp } else { Look::Quiet }
            }
            Some(Err(error)) => Look::Trouble(error.to_string()),
        }
    }

    /// New partitions would never be read: that has to end the run.
    pub fn check_partitions(&self) -> Result<(), KafkaFailure> {
        let (topic, before, now) = (self.topic.clone(), self.partitions, self.count_partitions()?);
        if now == before { Ok(()) } else { Err(KafkaFailure::Repartitioned { topic, before, now }) }
    }

    fn count_partitions(&self) -> Result<usize, KafkaFailure> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), START_TIMEOUT);
        let metadata =
            metadata.map_err(|error| Deliveries::default().failure("the topic of bars could not be looked up", error))?;
        match metadata.topics().first().map_or(0, |topic| topic.partitions().len()) {
            0 => Err(KafkaFailure::NoTopic(self.topic.clone())),
            count => Ok(count),
        }
    }
}
