//! What the group has given us, and how far we are in reading it.

use std::time::{Duration, Instant};

use kafka_batch::BatchConsumer;
use rdkafka::TopicPartitionList;
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::Offset;

use super::client::IntakeContext;
use super::positions::{Outside, positions};
use crate::config::OffsetReset;
use crate::intake::Start;
use crate::telemetry::Seldom;

/// How soon an assignment that could not be started is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often we look whether a stopped partition may go on.
const STOPPED: Duration = Duration::from_secs(30);

/// What the group has given us, and how far we are in reading it.
#[derive(Debug)]
enum State {
    /// Nothing.
    None,
    /// The loop is to be told, not before the instant.
    Waiting(Vec<i32>, Option<Instant>),
    /// The loop asks the store for their progress.
    Announced(Vec<i32>),
    /// We read them.
    Started { all: Vec<i32>, reading: Vec<(i32, i64)>, stopped: Vec<Outside>, since: Instant },
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
        Self { topic, reset, state: State::None, seldom: Seldom::default() }
    }

    /// The group has given us these, instead of what we had.
    pub(super) fn assigned(&mut self, partitions: Vec<i32>) {
        self.state = if partitions.is_empty() { State::None } else { State::Waiting(partitions, None) };
    }

    /// The group has taken everything.
    pub(super) fn revoked(&mut self) {
        self.state = State::None;
    }

    /// The epoch under which a partition is read; `None` when it is not.
    pub(super) fn epoch(&self, partition: i32) -> Option<i64> {
        let State::Started { reading, .. } = &self.state else { return None };
        reading.iter().find(|(reading, _)| *reading == partition).map(|(_, epoch)| *epoch)
    }

    /// The partitions that are read.
    pub(super) fn reading(&self) -> &[(i32, i64)] {
        if let State::Started { reading, .. } = &self.state { reading } else { &[] }
    }

    /// Whether the loop's answer is awaited.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..) | State::Announced(_))
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

    /// Begins to read from where the store's progress ends. Returns what is decided already, for Kafka to hear of.
    pub(super) fn start(
        &mut self,
        consumer: &mut BatchConsumer<IntakeContext>,
        starts: &[Start],
        now: Instant,
    ) -> Option<TopicPartitionList> {
        let State::Announced(partitions) = &self.state else { return None };
        if starts.len() != partitions.len() || starts.iter().any(|start| !partitions.contains(&start.partition)) {
            // The group has moved on while the loop asked the store; the loop is told of the new assignment.
            return None;
        }
        let all = partitions.clone();
        match self.read(consumer, starts) {
            Ok((reading, stopped, decided)) => {
                for outside in &stopped {
                    self.alarm(outside);
                }
                let offsets: Vec<_> = starts.iter().map(|start| (start.partition, start.next_offset)).collect();
                tracing::info!(event = "partitions_started", partitions = ?offsets, stopped = stopped.len());
                self.state = State::Started { all, reading, stopped, since: now };
                Some(decided)
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

    #[expect(clippy::type_complexity, reason = "three lists that are told apart where they are made")]
    fn read(
        &self,
        consumer: &mut BatchConsumer<IntakeContext>,
        starts: &[Start],
    ) -> KafkaResult<(Vec<(i32, i64)>, Vec<Outside>, TopicPartitionList)> {
        let positions = positions(consumer.consumer(), &self.topic, starts, self.reset)?;
        let mut list = TopicPartitionList::with_capacity(positions.starts.len());
        let mut decided = TopicPartitionList::new();
        for (start, offset) in &positions.starts {
            list.add_partition_offset(&self.topic, start.partition, *offset)?;
            if let Some(next_offset) = start.next_offset {
                decided.add_partition_offset(&self.topic, start.partition, Offset::Offset(next_offset))?;
            }
        }
        consumer.assign(&list)?;
        let reading = positions.starts.iter().map(|(start, _)| (start.partition, start.epoch)).collect();
        Ok((reading, positions.stopped, decided))
    }

    fn alarm(&self, outside: &Outside) {
        if self.seldom.now(&format!("stopped-{}", outside.partition)) {
            let Outside { partition, next_offset, low, high } = *outside;
            tracing::error!(
                event = "partition_stopped",
                topic = self.topic,
                partition,
                next_offset,
                low,
                high,
                text = "Kafka does not have the next offset to decide: the topic was made anew, or retention ran over it. \
                    Nothing of this partition is read until you say where to go on: trigger-dispatcher offsets set",
            );
        }
    }

    /// Whether stopped partitions should be looked at again.
    pub(super) fn is_due_again(&self, now: Instant) -> bool {
        matches!(&self.state, State::Started { stopped, since, .. } if !stopped.is_empty() && now - *since >= STOPPED)
    }

    /// Begins anew: the store is asked again from where to read.
    pub(super) fn reopen(&mut self, consumer: &mut BatchConsumer<IntakeContext>, not_before: Instant) {
        if let State::Started { all, .. } = &mut self.state {
            let all = std::mem::take(all);
            if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                tracing::error!(event = "reopen_failed", %error);
            }
            self.state = State::Waiting(all, Some(not_before));
        }
    }
}
