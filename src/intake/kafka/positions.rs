//! From where each assigned partition is read, and which must not be read at all.

use std::time::Duration;

use kafka_batch::BatchConsumer;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

use super::client::IntakeContext;
use super::extents::{led, offsets};
use crate::chaos::{self, Bug};
use crate::config::OffsetReset;
use crate::intake::{Difference, Identity, Position, Start, committed_ahead};

/// How long Kafka may take to tell a partition's offsets.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to tell the topic's id; without it the topic is compared later, see `identity.rs`.
const ID_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a partition is not read. Going on anywhere would skip or repeat records in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Kafka does not have the next offset.
    Absent,
    /// The offsets are of another cluster, or of another topic of the same name.
    Other(Difference),
    /// What Kafka sends from this offset on is corrupt.
    Corrupt(i64),
}

impl Why {
    /// The reason in logs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Absent => "offset_absent",
            Self::Other(Difference::Cluster) => "other_cluster",
            Self::Other(Difference::Topic) => "other_topic",
            Self::Corrupt(_) => "corrupt",
        }
    }

    /// What it means, and what to do.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Absent => {
                "Kafka does not have the next offset to decide: the topic was made anew, or retention ran over it. \
                    Nothing of this partition is read until you say where to go on: trigger-dispatcher offsets set"
            }
            Self::Other(Difference::Cluster) => {
                "This is another Kafka cluster than the one whose offsets the database keeps. \
                    Nothing of this partition is read until you say where to go on: trigger-dispatcher offsets set"
            }
            Self::Other(Difference::Topic) => {
                "The topic was deleted and made again: the offsets that the database keeps are of the old one. \
                    Nothing of this partition is read until you say where to go on: trigger-dispatcher offsets set"
            }
            Self::Corrupt(_) => {
                "Kafka sends corrupt data from `corrupt_at` on, also when asked again. Nothing of this partition is read beyond it. \
                    It is tried again every half minute; repair the broker, or skip it: trigger-dispatcher offsets set"
            }
        }
    }
}

/// A partition that is not read until an operator says where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) partition: i32,
    pub(super) next_offset: i64,
    /// What Kafka has.
    pub(super) kafka: Extent,
    pub(super) why: Why,
}

/// What Kafka has of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// The oldest record.
    pub(super) low: i64,
    /// The offset of the next record to arrive.
    pub(super) high: i64,
    /// Up to where the group has worked, as far as Kafka was told.
    pub(super) committed: Option<i64>,
}

/// Where to read from.
#[derive(Debug, Default)]
pub(super) struct Positions {
    pub(super) identity: Identity,
    pub(super) starts: Vec<Position>,
    pub(super) stopped: Vec<Stopped>,
    /// Partitions that nobody has read and that have no leader: where they begin is not known yet.
    pub(super) leaderless: Vec<i32>,
}

/// Asks Kafka what it has of each partition.
pub(super) fn positions(
    consumer: &mut BatchConsumer<IntakeContext>,
    topic: &str,
    starts: &[Start],
    reset: OffsetReset,
) -> KafkaResult<Positions> {
    let metadata = consumer.consumer().fetch_metadata(Some(topic), TIMEOUT)?;
    // A broker that answers, not the controller: Kafka has none for seconds when one is elected, and its mock has none at all.
    consumer.ask(topic, kafka_batch::answering_broker(&metadata), ID_TIMEOUT);
    let topic_id = match consumer.answer(ID_TIMEOUT) {
        kafka_batch::TopicId::Is(id) => Some(id),
        kafka_batch::TopicId::Unknown | kafka_batch::TopicId::NotYet => None,
    };
    let consumer = consumer.consumer();
    let identity = Identity { cluster_id: consumer.client().fetch_cluster_id(TIMEOUT), topic_id };
    let partitions: Vec<i32> = starts.iter().map(|start| start.partition).collect();
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in &partitions {
        list.add_partition(topic, *partition);
    }
    let committed = consumer.committed_offsets(list, TIMEOUT)?;
    let led = led(&metadata, &partitions);
    let low = offsets(consumer, topic, &led, Offset::Beginning, TIMEOUT)?;
    let high = offsets(consumer, topic, &led, Offset::End, TIMEOUT)?;
    let mut positions = Positions { identity, ..Positions::default() };
    for start in starts {
        let committed = committed_offset(&committed, topic, start.partition)?;
        let known = (low.get(&start.partition), high.get(&start.partition));
        let extent = match known {
            (Some(low), Some(high)) => Extent { low: *low, high: *high, committed },
            // The partition has no leader that could tell. If we know its offset, we assign it there. Once it has a leader, the leader
            // refuses an offset that it does not have, and the positions are resolved anew.
            _ if start.next_offset.is_some() || committed.is_some() => Extent { low: 0, high: i64::MAX, committed },
            _ => {
                positions.leaderless.push(start.partition);
                continue;
            }
        };
        match position(start, &positions.identity, extent, reset) {
            Ok(position) => positions.starts.push(position),
            Err(stopped) => positions.stopped.push(stopped),
        }
    }
    Ok(positions)
}

/// The committed offset in what Kafka has answered for a partition; `None` if the group has none there.
///
/// # Errors
/// Kafka could not tell. That is not the same as none: reading from the beginning would decide everything again.
pub(crate) fn committed_offset(answer: &TopicPartitionList, topic: &str, partition: i32) -> KafkaResult<Option<i64>> {
    let Some(found) = answer.find_partition(topic, partition) else { return Ok(None) };
    found.error()?;
    Ok(match found.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// Where a partition goes on (docs/offsets.md).
fn position(start: &Start, identity: &Identity, kafka: Extent, reset: OffsetReset) -> Result<Position, Stopped> {
    let Start { partition, epoch, next_offset, .. } = *start;
    let stop = |next_offset, why| Err(Stopped { partition, next_offset, kafka, why });
    if let Some(difference) = start.identity.difference(identity) {
        return stop(next_offset.unwrap_or(0), Why::Other(difference));
    }
    let ahead = committed_ahead(start, kafka.committed).filter(|_| !chaos::bug(Bug::CommittedIgnored));
    let is_latest = reset == OffsetReset::Latest || chaos::bug(Bug::LatestReset);
    let first = match (next_offset, ahead, kafka.committed) {
        (_, Some(ahead), _) => ahead,
        (Some(ours), None, _) => ours,
        // Never opened: where another consumer of the group has got to, such as the service that we replace.
        (None, None, Some(committed)) => committed,
        (None, None, None) if is_latest => kafka.high,
        (None, None, None) => kafka.low,
    };
    if first < kafka.low || first > kafka.high {
        return stop(first, Why::Absent);
    }
    let overtaken_at = next_offset.filter(|_| ahead.is_some());
    let begins_at_end = next_offset.is_none() && kafka.committed.is_none() && is_latest;
    let skips_from = (begins_at_end && kafka.low < first).then_some(kafka.low);
    Ok(Position { partition, epoch, next_offset: first, identity: identity.clone(), overtaken_at, skips_from, is_told: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KAFKA: Extent = Extent { low: 5, high: 50, committed: None };

    fn first(start: &Start, kafka: Extent, reset: OffsetReset) -> Result<(i64, Option<i64>), Why> {
        let identity = Identity { cluster_id: Some("c".to_owned()), topic_id: Some("t".to_owned()) };
        let position = position(start, &identity, kafka, reset);
        position.map(|position| (position.next_offset, position.overtaken_at)).map_err(|stopped| stopped.why)
    }

    #[test]
    fn a_partition_that_was_never_opened_starts_at_kafkas_offset_or_where_the_configuration_says() {
        let new = Start::default();
        let committed = Extent { committed: Some(20), ..KAFKA };
        for reset in [OffsetReset::Earliest, OffsetReset::Latest] {
            assert_eq!(first(&new, committed, reset), Ok((20, None)));
            assert_eq!(first(&new, Extent { committed: Some(4), ..KAFKA }, reset), Err(Why::Absent), "retention ran over it");
        }
        assert_eq!(first(&new, KAFKA, OffsetReset::Earliest), Ok((5, None)));
        assert_eq!(first(&new, KAFKA, OffsetReset::Latest), Ok((50, None)));
    }

    #[test]
    fn a_partition_that_was_opened_goes_on_where_the_store_says_unless_kafka_is_ahead() {
        let known = |next_offset| Start { next_offset: Some(next_offset), ..Start::default() };
        for reset in [OffsetReset::Earliest, OffsetReset::Latest] {
            assert_eq!(first(&known(10), KAFKA, reset), Ok((10, None)));
            assert_eq!(first(&known(10), Extent { committed: Some(8), ..KAFKA }, reset), Ok((10, None)));
            assert_eq!(first(&known(10), Extent { committed: Some(12), ..KAFKA }, reset), Ok((12, Some(10))));
            assert_eq!(first(&known(4), KAFKA, reset), Err(Why::Absent));
            assert_eq!(first(&known(51), KAFKA, reset), Err(Why::Absent));
        }
    }

    #[test]
    fn offsets_of_another_log_are_never_used() {
        let of = |cluster: &str, topic: &str| Start {
            next_offset: Some(10),
            identity: Identity { cluster_id: Some(cluster.to_owned()), topic_id: Some(topic.to_owned()) },
            ..Start::default()
        };
        let ahead = Extent { committed: Some(12), ..KAFKA };
        assert_eq!(first(&of("other", "t"), ahead, OffsetReset::Earliest), Err(Why::Other(Difference::Cluster)));
        assert_eq!(first(&of("c", "other"), ahead, OffsetReset::Earliest), Err(Why::Other(Difference::Topic)));
        assert_eq!(first(&of("c", "t"), KAFKA, OffsetReset::Earliest), Ok((10, None)));
    }
}
