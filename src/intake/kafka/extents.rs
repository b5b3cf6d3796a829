//! Asks Kafka for the topic and for the offsets of its partitions: one request to each broker, however many partitions there are. Blocks.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::topic_partition_list::Offset;

/// Whether there is the topic that the metadata was asked about.
pub(super) fn has_topic(metadata: &Metadata) -> bool {
    metadata.topics().first().is_some_and(|topic| !topic.partitions().is_empty())
}

/// Those of the partitions that have a leader, who can be asked.
pub(super) fn led(metadata: &Metadata, partitions: &[i32]) -> Vec<i32> {
    let known = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    let leaders: BTreeMap<i32, i32> = known.map(|partition| (partition.id(), partition.leader())).collect();
    partitions.iter().copied().filter(|partition| leaders.get(partition).is_some_and(|leader| *leader >= 0)).collect()
}

/// The oldest offset of each partition (`Offset::Beginning`), or the offset of its next record (`Offset::End`). A partition whose leader
/// does not tell is left out.
///
/// # Errors
/// Kafka does not answer, or one of the partitions has no leader.
pub(super) fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    at: Offset,
    patience: Duration,
) -> KafkaResult<BTreeMap<i32, i64>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        // As a time, "the beginning" and "the end" give these offsets.
        list.add_partition_offset(topic, *partition, at)?;
    }
    let found = client.offsets_for_times(list, patience)?;
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
        _ => None,
    };
    Ok(found.elements().iter().filter_map(offset).collect())
}
