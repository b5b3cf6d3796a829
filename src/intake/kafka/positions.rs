//! From where each assigned partition is read, and which must not be read at all.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

use super::client::IntakeContext;
use crate::chaos::{self, Bug};
use crate::config::OffsetReset;
use crate::intake::Start;

/// How long Kafka may take to tell a partition's offsets.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A partition whose next offset Kafka no longer has, or does not have yet: the topic was made anew, or retention ran
/// over it. Going on anywhere would skip records in silence, so it stops until an operator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) partition: i32,
    pub(super) next_offset: i64,
    /// The oldest record that Kafka has.
    pub(super) low: i64,
    /// The offset of the next record to arrive.
    pub(super) high: i64,
}

/// Where to read from.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// Partition, epoch, and the offset to begin with.
    pub(super) starts: Vec<(Start, Offset)>,
    pub(super) stopped: Vec<Outside>,
}

/// Asks Kafka what it has of each partition.
pub(super) fn positions(
    consumer: &BaseConsumer<IntakeContext>,
    topic: &str,
    starts: &[Start],
    reset: OffsetReset,
) -> KafkaResult<Positions> {
    let mut fresh = TopicPartitionList::new();
    for start in starts.iter().filter(|start| start.next_offset.is_none()) {
        fresh.add_partition(topic, start.partition);
    }
    // Nothing decided yet: where another consumer of the group has got to, the service that we replace, say.
    let committed = if fresh.count() > 0 { consumer.committed_offsets(fresh, TIMEOUT)? } else { fresh };
    let mut positions = Positions::default();
    for start in starts {
        let offset = match start.next_offset {
            Some(next_offset) => {
                let (low, high) = consumer.fetch_watermarks(topic, start.partition, TIMEOUT)?;
                if next_offset < low || next_offset > high {
                    positions.stopped.push(Outside { partition: start.partition, next_offset, low, high });
                    continue;
                }
                Offset::Offset(next_offset)
            }
            None => match committed.find_partition(topic, start.partition).map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => Offset::Offset(offset),
                _ if reset == OffsetReset::Latest || chaos::bug(Bug::LatestReset) => Offset::End,
                _ => Offset::Beginning,
            },
        };
        positions.starts.push((*start, offset));
    }
    Ok(positions)
}
