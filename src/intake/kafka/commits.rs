//! What Kafka hears of the decisions. The store knows them already, so Kafka is told some times a second at most: a broker works
//! about as long for a commit as for thousands of records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

/// How often Kafka is told at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// Up to where the partitions that we have are decided, as far as Kafka may be told.
#[derive(Debug, Default)]
pub(super) struct Commits {
    next_offsets: BTreeMap<i32, i64>,
    is_news: bool,
    told: Option<Instant>,
}

impl Commits {
    /// Takes a decision in.
    pub(super) fn decided(&mut self, next_offsets: &[(i32, i64)]) {
        self.next_offsets.extend(next_offsets.iter().copied());
        self.is_news = true;
    }

    /// The partitions are another's, or read anew: what we know of them is not ours to tell any more.
    pub(super) fn forget(&mut self) {
        self.next_offsets.clear();
        self.is_news = false;
    }

    /// What Kafka is to be told now.
    pub(super) fn due(&mut self, topic: &str, now: Instant) -> Option<KafkaResult<TopicPartitionList>> {
        if !self.is_news || self.told.is_some_and(|told| now - told < INTERVAL) {
            return None;
        }
        (self.is_news, self.told) = (false, Some(now));
        self.all(topic)
    }

    /// All of it; `None` when it is nothing.
    pub(super) fn all(&self, topic: &str) -> Option<KafkaResult<TopicPartitionList>> {
        if self.next_offsets.is_empty() {
            return None;
        }
        let mut list = TopicPartitionList::with_capacity(self.next_offsets.len());
        let added = self
            .next_offsets
            .iter()
            .try_for_each(|(partition, next_offset)| list.add_partition_offset(topic, *partition, Offset::Offset(*next_offset)));
        Some(added.map(|()| list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn told(list: Option<KafkaResult<TopicPartitionList>>) -> Option<Vec<(i32, Offset)>> {
        list.map(|list| list.unwrap().elements().iter().map(|element| (element.partition(), element.offset())).collect())
    }

    #[test]
    fn kafka_is_told_at_once_and_then_not_before_the_interval_and_then_of_everything() {
        let (mut commits, start) = (Commits::default(), clock::now());
        assert_eq!(told(commits.due("t", start)), None);
        commits.decided(&[(0, 10)]);
        assert_eq!(told(commits.due("t", start)), Some(vec![(0, Offset::Offset(10))]));
        commits.decided(&[(0, 11), (1, 5)]);
        commits.decided(&[(1, 6)]);
        assert_eq!(told(commits.due("t", start + INTERVAL.mul_f64(0.9))), None);
        let both = vec![(0, Offset::Offset(11)), (1, Offset::Offset(6))];
        assert_eq!(told(commits.due("t", start + INTERVAL)), Some(both.clone()));
        assert_eq!(told(commits.due("t", start + INTERVAL * 3)), None, "nothing has happened");
        assert_eq!(told(commits.all("t")), Some(both), "what is on its way may be lost");
    }

    #[test]
    fn what_was_taken_from_us_is_not_told() {
        let mut commits = Commits::default();
        commits.decided(&[(0, 10)]);
        commits.forget();
        assert_eq!((told(commits.due("t", clock::now())), told(commits.all("t"))), (None, None));
    }
}
