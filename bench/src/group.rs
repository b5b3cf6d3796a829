//! A consumer group as Kafka sees it: what anybody can know of a program that reads a topic.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::Topic;

/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at a group without joining it.
pub(crate) struct Group {
    consumer: BaseConsumer,
    name: String,
    partitions: TopicPartitionList,
}

impl Group {
    pub(crate) fn of(topic: &Topic, name: &str) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.servers).set("group.id", name).set("enable.auto.commit", "false");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..topic.partitions {
            partitions.add_partition(&topic.name, partition);
        }
        Ok(Self { consumer: config.create().context("Kafka's consumer")?, name: name.to_owned(), partitions })
    }

    /// Records that the group has committed, over all partitions.
    pub(crate) fn committed(&self) -> anyhow::Result<u64> {
        let list = self.consumer.committed_offsets(self.partitions.clone(), PATIENCE).context("the group's offsets")?;
        let offset = |offset: Offset| if let Offset::Offset(number) = offset { u64::try_from(number).ok() } else { None };
        Ok(list.elements().iter().filter_map(|element| offset(element.offset())).sum())
    }

    /// Members of the group, once all of them have their partitions.
    pub(crate) fn members(&self) -> anyhow::Result<usize> {
        let list = match self.consumer.fetch_group_list(Some(&self.name), PATIENCE) {
            // A broker that has just started.
            Err(KafkaError::GroupListFetch(RDKafkaErrorCode::CoordinatorLoadInProgress)) => return Ok(0),
            list => list.context("the group's members")?,
        };
        let stable = list.groups().iter().find(|group| group.name() == self.name && group.state() == "Stable");
        Ok(stable.map_or(0, |group| group.members().len()))
    }
}
