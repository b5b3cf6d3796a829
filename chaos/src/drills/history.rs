//! When records came and when they were decided, made out afterwards from the topic and from PostgreSQL's history.
//!
//! All times are microseconds since 1970, by this machine's one clock.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;

use crate::kafka::{PARTITIONS, Topics};
use crate::platform::Platform;

const PATIENCE: Duration = Duration::from_secs(30);
/// How fine the lag is looked at.
const STEP: i64 = 100_000;

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A partition's progress as it was written.
#[derive(Debug, Clone, Copy)]
struct Move {
    partition: i32,
    epoch: i64,
    next_offset: i64,
    at: i64,
}

/// Everything that was decided, in the order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    moves: Vec<Move>,
}

impl History {
    pub(super) fn load(platform: &Platform) -> anyhow::Result<Self> {
        let rows = platform.connect_in_time()?.query(
            "select partition, epoch, coalesce(next_offset, 0), (extract(epoch from at) * 1000000)::bigint from chaos.progress order by at, number",
            &[],
        )?;
        let moves = rows
            .iter()
            .map(|row| {
                Ok(Move { partition: row.try_get(0)?, epoch: row.try_get(1)?, next_offset: row.try_get(2)?, at: row.try_get(3)? })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { moves })
    }

    /// When anything was decided, and how many records then.
    pub(super) fn decisions(&self) -> Vec<(i64, i64)> {
        let mut next: HashMap<i32, i64> = HashMap::new();
        let mut decisions = Vec::new();
        for moved in &self.moves {
            let before = next.insert(moved.partition, moved.next_offset).unwrap_or(0);
            if moved.next_offset > before {
                decisions.push((moved.at, moved.next_offset - before));
            }
        }
        decisions
    }

    /// The longest time in which nothing was decided, from the first decision to the last, and when it began.
    pub(super) fn longest_gap(&self) -> (i64, i64) {
        let decisions = self.decisions();
        let gaps = decisions.windows(2).map(|pair| (pair[1].0 - pair[0].0, pair[0].0));
        gaps.max().unwrap_or_default()
    }

    /// The gap in which the store was down: the longest one within the window, as the store itself knows it.
    pub(super) fn gap_within(&self, window: Window) -> Option<Window> {
        let decisions = self.decisions();
        let gaps = decisions.windows(2).map(|pair| Window { from: pair[0].0, to: pair[1].0 });
        // A decision may be written a little after the store is said to be up.
        gaps.filter(|gap| gap.from >= window.from - STEP && gap.from <= window.to).max_by_key(|gap| gap.to - gap.from)
    }

    /// When partitions changed hands.
    pub(super) fn hand_overs(&self) -> Vec<i64> {
        let mut epochs: HashMap<i32, i64> = HashMap::new();
        let changed = |moved: &&Move| epochs.insert(moved.partition, moved.epoch) != Some(moved.epoch);
        self.moves.iter().filter(changed).map(|moved| moved.at).collect()
    }
}

/// Lag over time: records that were there and not decided.
#[derive(Debug, Clone)]
pub(super) struct Lag {
    came: Vec<i64>,
    /// When, and how many by then.
    decided: Vec<(i64, i64)>,
}

impl Lag {
    pub(super) fn load(topics: &Topics, history: &History) -> anyhow::Result<Self> {
        let mut came = arrivals(topics)?;
        came.sort_unstable();
        let mut sum = 0;
        let decided = history.decisions().into_iter().map(|(at, records)| {
            sum += records;
            (at, sum)
        });
        Ok(Self { came, decided: decided.collect() })
    }

    pub(super) fn at(&self, time: i64) -> i64 {
        let came = self.came.partition_point(|came| *came <= time);
        let decided = self.decided.partition_point(|(at, _)| *at <= time);
        let decided = decided.checked_sub(1).map_or(0, |last| self.decided[last].1);
        i64::try_from(came).unwrap_or(i64::MAX) - decided
    }

    /// What is left when everything is over.
    pub(super) fn at_the_end(&self) -> i64 {
        self.at(i64::MAX)
    }

    /// How long after a moment the lag was at most so much, in microseconds.
    pub(super) fn back_to(&self, most: i64, since: i64) -> Option<i64> {
        let end = self.decided.last()?.0;
        let steps = (end + STEP - since) / STEP;
        (0..=steps).map(|step| step * STEP).find(|after| self.at(since + after) <= most)
    }
}

/// When each record came. What says to be older than its forerunner is a stale one: it came with it.
fn arrivals(topics: &Topics) -> anyhow::Result<Vec<i64>> {
    let reader = topics.reader()?;
    let mut came = Vec::new();
    for (partition, end) in (0..PARTITIONS).zip(topics.ends(&reader)?) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topics.signals, partition, Offset::Beginning)?;
        reader.assign(&list)?;
        let mut latest = 0;
        let mut next = 0;
        while next < end {
            let message = reader.poll(PATIENCE).with_context(|| format!("no record of partition {partition} at {next}"))??;
            next = message.offset() + 1;
            latest = latest.max(message.timestamp().to_millis().unwrap_or_default() * 1000);
            came.push(latest);
        }
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(moves: &[(i32, i64, i64, i64)]) -> History {
        let moves = moves.iter().map(|(partition, epoch, next_offset, at)| Move {
            partition: *partition,
            epoch: *epoch,
            next_offset: *next_offset,
            at: *at,
        });
        History { moves: moves.collect() }
    }

    #[test]
    fn an_assignment_is_a_hand_over_and_no_decision() {
        let history = history(&[(0, 1, 0, 10), (0, 1, 5, 20), (1, 1, 7, 30), (0, 2, 5, 40), (0, 2, 6, 50)]);
        assert_eq!(history.decisions(), [(20, 5), (30, 7), (50, 1)]);
        assert_eq!(history.hand_overs(), [10, 30, 40]);
        assert_eq!(history.longest_gap(), (20, 30));
    }

    #[test]
    fn the_gap_of_an_outage_is_found_within_it_and_not_elsewhere() {
        let second = 1_000_000;
        let history = history(&[(0, 1, 1, 0), (0, 1, 2, 50 * second), (0, 1, 3, 51 * second), (0, 1, 4, 81 * second)]);
        let found = history.gap_within(Window { from: 50 * second, to: 80 * second });
        assert_eq!(found, Some(Window { from: 51 * second, to: 81 * second }));
        assert_eq!(history.gap_within(Window { from: 90 * second, to: 99 * second }), None);
    }

    #[test]
    fn lag_is_what_came_and_was_not_decided() {
        let lag = Lag { came: vec![10, 20, 30, 40, 1_000_000], decided: vec![(25, 1), (900_000, 4), (1_200_000, 5)] };
        assert_eq!([9, 10, 25, 899_999, 900_000, 1_000_000].map(|at| lag.at(at)), [0, 1, 1, 3, 0, 1]);
        assert_eq!(lag.at_the_end(), 0);
        assert_eq!(lag.back_to(0, 100_000), Some(800_000));
        assert_eq!(lag.back_to(3, 100_000), Some(0));
        assert_eq!(lag.back_to(-1, 100_000), None);
    }
}
