//! What the group has given us, and how far we are in reading it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use kafka_batch::BatchConsumer;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

use super::client::IntakeContext;
use super::positions::{Extent, Positions, Stopped, Why, positions};
use crate::chaos::{self, Bug};
use crate::config::OffsetReset;
use crate::intake::{Identity, Position, Start};
use crate::telemetry::{ALL_STOPPED, NO_PARTITIONS, OPENING, Partitions, Seldom, TAKEN_AWAY, json};

/// How soon an assignment that could not be started is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How soon we look again for the leader of a partition that nobody has read yet. All partitions are opened again then.
const LEADERLESS: Duration = Duration::from_secs(5);
/// How often we look whether a stopped partition may go on.
const STOPPED: Duration = Duration::from_secs(30);

/// What the group has given us, and how far we are in reading it.
#[derive(Debug)]
enum State {
    /// The group has not said yet what is ours.
    Unknown,
    /// The group has given us nothing: others have it all.
    Nothing,
    /// The group has taken what we had.
    Taken,
    /// The loop is to be told, not before the instant.
    Waiting(Vec<i32>, Option<Instant>),
    /// The loop asks the store for their progress.
    Announced(Vec<i32>),
    /// We read them.
    Started(Started),
}

#[derive(Debug)]
struct Started {
    all: Vec<i32>,
    identity: Identity,
    reading: Vec<Reading>,
    stopped: Vec<Stopped>,
    /// Where they begin is not known yet.
    leaderless: Vec<i32>,
    /// What the loop is to have stored before it gets records.
    unstored: Vec<Position>,
    since: Instant,
}

/// A partition that we read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) partition: i32,
    pub(super) epoch: i64,
    /// The offset that reading began at.
    from: i64,
    /// Offsets that are decided already.
    decided: Vec<Range<i64>>,
    /// Nothing more is taken: the data behind what we have is corrupt.
    pub(super) is_blocked: bool,
}

impl Reading {
    /// Whether an earlier decision of this record counts.
    pub(super) fn is_decided(&self, offset: i64) -> bool {
        self.decided.iter().any(|range| range.contains(&offset))
    }
}

/// What is committed to Kafka at a start.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) decided: TopicPartitionList,
    /// An operator has set an offset. Kafka must have it before the store forgets what Kafka had committed before.
    pub(super) is_awaited: bool,
}

/// The assignment of this member of the group.
#[derive(Debug)]
pub(super) struct Assignment {
    topic: String,
    reset: OffsetReset,
    state: State,
    seldom: Seldom,
}

impl Assignment {
    pub(super) fn new(topic: String, reset: OffsetReset) -> Self {
        Self { topic, reset, state: State::Unknown, seldom: Seldom::default() }
    }

    /// The group has given us these, instead of what we had.
    pub(super) fn assigned(&mut self, partitions: Vec<i32>) {
        self.state = if partitions.is_empty() { State::Nothing } else { State::Waiting(partitions, None) };
    }

    /// The group has taken everything.
    pub(super) fn revoked(&mut self) {
        self.state = State::Taken;
    }

    /// A partition whose records are taken.
    pub(super) fn find(&self, partition: i32) -> Option<&Reading> {
        self.reading().iter().find(|reading| reading.partition == partition && !reading.is_blocked)
    }

    /// Whether we have the partition, and have begun to read it.
    pub(super) fn is_started(&self, partition: i32) -> bool {
        self.reading().iter().any(|reading| reading.partition == partition)
    }

    /// The partitions that are read.
    pub(super) fn reading(&self) -> &[Reading] {
        if let State::Started(started) = &self.state { &started.reading } else { &[] }
    }

    /// Which cluster and topic they are of, as Kafka said at the start; `None` while nothing is read.
    pub(super) fn identity(&self) -> Option<&Identity> {
        if let State::Started(started) = &self.state { Some(&started.identity) } else { None }
    }

    /// Whether the loop's answer is awaited.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..) | State::Announced(_))
    }

    /// What is told to operators: our partitions, and why none could be decided now. Offsets that were `known` before are kept.
    pub(super) fn state(&self, known: &BTreeMap<i32, i64>) -> (Partitions, Option<&'static str>) {
        let given = |assigned: usize| Partitions { assigned, ..Partitions::default() };
        match &self.state {
            State::Unknown => (Partitions::default(), Some(NO_PARTITIONS)),
            State::Taken => (Partitions::default(), Some(TAKEN_AWAY)),
            State::Nothing => (Partitions::default(), None),
            State::Waiting(all, _) | State::Announced(all) => (given(all.len()), Some(OPENING)),
            State::Started(Started { all, reading, stopped, .. }) => {
                let next = |reading: &Reading| {
                    let known = known.get(&reading.partition).copied().unwrap_or(reading.from);
                    (reading.partition, known.max(reading.from))
                };
                let next_offsets = reading.iter().map(next).collect();
                let reason = (stopped.len() >= all.len()).then_some(ALL_STOPPED);
                (Partitions { assigned: all.len(), stopped: stopped.len(), next_offsets }, reason)
            }
        }
    }

    /// What the loop is to be told now.
    pub(super) fn unannounced(&self, now: Instant) -> Option<Vec<i32>> {
        match &self.state {
            State::Waiting(partitions, not_before) if not_before.is_none_or(|at| at <= now) => Some(partitions.clone()),
            _ => None,
        }
    }

    /// The loop was told.
    pub(super) fn announced(&mut self) {
        if let State::Waiting(partitions, _) = &mut self.state {
            self.state = State::Announced(std::mem::take(partitions));
        }
    }

    /// What the loop is to have stored before it gets records.
    pub(super) fn unstored(&self) -> Option<Vec<Position>> {
        match &self.state {
            State::Started(started) if !started.unstored.is_empty() => Some(started.unstored.clone()),
            _ => None,
        }
    }

    /// The loop has them, and stores them before it takes what comes next.
    pub(super) fn handed_over(&mut self) {
        if let State::Started(started) = &mut self.state {
            started.unstored.clear();
        }
    }

    /// Begins to read from where the store's progress ends. Returns what is decided already, to be committed to Kafka.
    pub(super) fn start(
        &mut self,
        consumer: &mut BatchConsumer<IntakeContext>,
        starts: &[Start],
        now: Instant,
    ) -> Option<Commit> {
        let State::Announced(partitions) = &self.state else { return None };
        if starts.len() != partitions.len() || starts.iter().any(|start| !partitions.contains(&start.partition)) {
            // The group has moved on while the loop asked the store; the loop is told of the new assignment.
            return None;
        }
        let all = partitions.clone();
        match self.read(consumer, starts) {
            Ok((positions, commit)) => {
                for stopped in &positions.stopped {
                    self.alarm(stopped);
                }
                if !positions.leaderless.is_empty() && self.seldom.now("partitions_leaderless") {
                    let partitions = json(&positions.leaderless);
                    tracing::warn!(
                        event = "partitions_leaderless",
                        topic = self.topic,
                        partitions,
                        text = "Kafka has no leader for these partitions, and nobody has read them before: they are read once Kafka has elected one"
                    );
                }
                let offsets: Vec<_> = starts.iter().map(|start| (start.partition, start.next_offset)).collect();
                tracing::info!(event = "partitions_started", partitions = json(&offsets), stopped = positions.stopped.len());
                self.state = State::Started(started(all, starts, positions, now));
                Some(commit)
            }
            Err(error) => {
                if self.seldom.now("start_failed") {
                    tracing::warn!(event = "start_failed", %error);
                }
                self.state = State::Waiting(all, Some(now + RETRY));
                None
            }
        }
    }

    fn read(&self, consumer: &mut BatchConsumer<IntakeContext>, starts: &[Start]) -> KafkaResult<(Positions, Commit)> {
        let positions = positions(consumer, &self.topic, starts, self.reset)?;
        let mut list = TopicPartitionList::with_capacity(positions.starts.len());
        let mut commit = Commit { decided: TopicPartitionList::new(), is_awaited: false };
        for position in &positions.starts {
            list.add_partition_offset(&self.topic, position.partition, Offset::Offset(position.next_offset))?;
            let start = starts.iter().find(|start| start.partition == position.partition);
            if let Some(next_offset) = start.and_then(|start| start.next_offset).filter(|ours| *ours == position.next_offset) {
                commit.decided.add_partition_offset(&self.topic, position.partition, Offset::Offset(next_offset))?;
                commit.is_awaited |= start.is_some_and(|start| start.committed_seen.is_some());
            }
        }
        consumer.assign(&list)?;
        // librdkafka keeps a partition paused also when it is assigned anew.
        consumer.consumer().resume(&list)?;
        Ok((positions, commit))
    }

    /// Kafka has our offsets now. The store is to forget what Kafka had committed when an operator set them.
    pub(super) fn committed(&mut self, starts: &[Start]) {
        let State::Started(started) = &mut self.state else { return };
        for start in starts.iter().filter(|start| start.committed_seen.is_some()) {
            if !started.reading.iter().any(|reading| reading.partition == start.partition) {
                continue;
            }
            match started.unstored.iter_mut().find(|position| position.partition == start.partition) {
                Some(position) => position.is_told = true,
                None => started.unstored.push(Position {
                    partition: start.partition,
                    epoch: start.epoch,
                    next_offset: start.next_offset.unwrap_or(0),
                    identity: started.identity.clone(),
                    overtaken_at: None,
                    skips_from: None,
                    is_told: true,
                }),
            }
        }
    }

    /// Takes nothing more of a partition: what comes next is behind data that cannot be read.
    pub(super) fn block(&mut self, partition: i32) {
        if let State::Started(started) = &mut self.state {
            for reading in started.reading.iter_mut().filter(|reading| reading.partition == partition) {
                reading.is_blocked = true;
            }
        }
    }

    /// Stops a partition that was blocked. What we have of it is decided.
    pub(super) fn stop(&mut self, consumer: &BatchConsumer<IntakeContext>, partition: i32, corrupt_at: i64, now: Instant) {
        let stopped = Stopped { partition, next_offset: corrupt_at, kafka: Extent::default(), why: Why::Corrupt(corrupt_at) };
        self.alarm(&stopped);
        let State::Started(started) = &mut self.state else { return };
        started.stopped.retain(|other| other.partition != partition);
        started.stopped.push(stopped);
        started.since = now;
        // Only saves what Kafka would send in vain: whatever comes is dropped.
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        if let Err(error) = consumer.consumer().pause(&list) {
            tracing::debug!(event = "pause_failed", partition, %error);
        }
    }

    fn alarm(&self, stopped: &Stopped) {
        if self.seldom.now(&format!("stopped-{}", stopped.partition)) {
            let Stopped { partition, next_offset, kafka, why } = *stopped;
            let corrupt_at = if let Why::Corrupt(offset) = why { Some(offset) } else { None };
            let extent = corrupt_at.is_none().then_some(kafka);
            tracing::error!(
                event = "partition_stopped",
                topic = self.topic,
                partition,
                reason = why.word(),
                next_offset,
                low = extent.map(|extent| extent.low),
                high = extent.map(|extent| extent.high),
                corrupt_at,
                text = why.text(),
            );
        }
    }

    /// Whether stopped partitions should be looked at again.
    pub(super) fn is_due_again(&self, now: Instant) -> bool {
        let State::Started(Started { reading, stopped, leaderless, since, .. }) = &self.state else { return false };
        let after = match (leaderless.is_empty(), reading.is_empty(), stopped.is_empty()) {
            (true, _, true) => return false,
            (true, _, false) => STOPPED,
            // A topic that was made this moment has no leaders for an instant.
            (false, true, _) => RETRY,
            (false, false, _) => LEADERLESS,
        };
        now - *since >= after
    }

    /// Begins anew: the store is asked again from where to read.
    pub(super) fn reopen(&mut self, consumer: &mut BatchConsumer<IntakeContext>, not_before: Instant) {
        if let State::Started(started) = &mut self.state {
            let all = std::mem::take(&mut started.all);
            if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                tracing::error!(event = "reopen_failed", %error);
            }
            self.state = State::Waiting(all, Some(not_before));
        }
    }
}

fn started(all: Vec<i32>, starts: &[Start], positions: Positions, now: Instant) -> Started {
    let Positions { identity, starts: found, stopped, leaderless } = positions;
    let start = |partition: i32| starts.iter().find(move |start| start.partition == partition);
    let decided = |partition: i32| start(partition).map(|start| start.decided.clone()).unwrap_or_default();
    let reading = found.iter().map(|position| Reading {
        partition: position.partition,
        epoch: position.epoch,
        from: position.next_offset,
        decided: decided(position.partition),
        is_blocked: false,
    });
    let reading = reading.collect();
    let is_kept = |start: &Start| !(chaos::bug(Bug::LatestReset) && start.next_offset.is_none());
    let is_news = |position: &Position| start(position.partition).is_some_and(|start| is_kept(start) && position.is_news(start));
    let unstored = found.into_iter().filter(|position| is_news(position)).collect();
    Started { all, identity, reading, stopped, leaderless, unstored, since: now }
}
