//! How far an instance is behind Kafka, in records and in seconds. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Ends of a partition that are remembered; with more, every second one is forgotten.
const MOST: usize = 512;

/// Remembers when each partition ended where.
#[derive(Debug, Default)]
pub struct Lag(BTreeMap<i32, VecDeque<(Instant, i64)>>);

/// How far behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Records that Kafka has and that are not decided, of all partitions.
    pub records: u64,
    /// For how long the oldest of them has been seen to wait: what waited already when the instance took its partition counts from then on.
    pub time: Duration,
}

impl Lag {
    /// Takes in where partitions end now, and says how far behind are those whose next offset to decide is known.
    pub fn look(&mut self, ends: &[(i32, i64)], next_offsets: &BTreeMap<i32, i64>, now: Instant) -> Behind {
        self.0.retain(|partition, _| next_offsets.contains_key(partition));
        let mut behind = Behind::default();
        for (partition, end) in ends {
            let Some(next_offset) = next_offsets.get(partition) else { continue };
            let seen = self.0.entry(*partition).or_default();
            if seen.back().is_none_or(|(_, last)| last < end) {
                seen.push_back((now, *end));
            }
            while seen.front().is_some_and(|(_, end)| end <= next_offset) {
                seen.pop_front();
            }
            if seen.len() > MOST {
                let mut place = 0_usize;
                seen.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
            }
            behind.records += u64::try_from(end - next_offset).unwrap_or(0);
            let waits = seen.front().map(|(since, _)| now.saturating_duration_since(*since)).unwrap_or_default();
            behind.time = behind.time.max(waits);
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn lag_counts_from_when_an_end_was_first_seen_until_it_is_decided() {
        let (mut lag, start) = (Lag::default(), clock::now());
        let mut look = |second: u64, end: i64, next_offset: i64| {
            let behind = lag.look(&[(0, end)], &BTreeMap::from([(0, next_offset)]), start + Duration::from_secs(second));
            (behind.records, behind.time.as_secs())
        };
        assert_eq!(look(0, 10, 10), (0, 0));
        assert_eq!(look(5, 12, 10), (2, 0));
        assert_eq!(look(10, 15, 10), (5, 5));
        assert_eq!(look(15, 15, 12), (3, 5), "the end that was seen at 10 s waits");
        assert_eq!(look(20, 15, 15), (0, 0));
        assert_eq!(look(3_600, 16, 15), (1, 0), "a quiet hour is no lag");
    }

    #[test]
    fn a_long_standstill_keeps_its_begin_and_little_memory() {
        let (mut lag, start) = (Lag::default(), clock::now());
        let mut last = Behind::default();
        for second in 1..5_000_u64 {
            let now = start + Duration::from_secs(second);
            last = lag.look(&[(0, i64::try_from(second).unwrap())], &BTreeMap::from([(0, 0)]), now);
        }
        assert_eq!(last, Behind { records: 4_999, time: Duration::from_secs(4_998) });
        assert!(lag.0[&0].len() <= MOST + 1);
    }

    #[test]
    fn partitions_of_others_are_forgotten() {
        let (mut lag, start) = (Lag::default(), clock::now());
        lag.look(&[(0, 5), (1, 5)], &BTreeMap::from([(0, 0), (1, 0)]), start);
        let behind = lag.look(&[(0, 5), (1, 5)], &BTreeMap::from([(1, 5)]), start + Duration::from_secs(9));
        assert_eq!((behind, lag.0.len()), (Behind::default(), 1));
    }
}
