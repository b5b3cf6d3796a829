//! The intake thread: polls, decodes, fills the next batch, and hands it over when the loop wants it and it is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::client::{Change, IntakeContext};
use crate::clock;
use crate::intake::{Arrival, Batch, Due, FlushPolicy, Record, Start};
use crate::telemetry::Seldom;

/// Memory that waiting records may take, in bytes; beyond it the broker keeps them.
const MAX_BATCH_BYTES: usize = 32 * 1024 * 1024;
/// How long a poll may block when nothing else is to do.
const IDLE: Duration = Duration::from_millis(100);
/// How often we look whether the loop wants the batch that waits.
const WAITING: Duration = Duration::from_millis(1);
/// How often we look whether the loop has fetched the progress of what we were assigned.
const ANSWERING: Duration = Duration::from_millis(5);
/// A full batch that waits longer than this pauses the partitions, so that polling can go on without records.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// How long one drain may go on before the batch is looked at.
const DRAIN: Duration = Duration::from_millis(5);

/// What the loop asks of the thread.
pub(super) enum Command {
    Start(Vec<Start>),
    Commit(TopicPartitionList),
    Close,
}

pub(super) struct IntakeThread {
    consumer: BaseConsumer<IntakeContext>,
    topic: String,
    policy: FlushPolicy,
    max_age: Option<Duration>,
    arrivals: Sender<Arrival>,
    commands: Receiver<Command>,
    wanted: Arc<AtomicBool>,
    pending: Batch,
    /// Partition and epoch of what we read.
    started: Vec<(i32, i64)>,
    /// What the group gave us and the loop has not started yet.
    assigned: Option<Vec<i32>>,
    announced: bool,
    full_since: Option<Instant>,
    paused: bool,
    seldom: Seldom,
}

impl IntakeThread {
    pub(super) fn new(
        consumer: BaseConsumer<IntakeContext>,
        topic: String,
        policy: FlushPolicy,
        max_age: Option<Duration>,
        arrivals: Sender<Arrival>,
        commands: Receiver<Command>,
        wanted: Arc<AtomicBool>,
    ) -> Self {
        Self {
            consumer,
            topic,
            policy,
            max_age,
            arrivals,
            commands,
            wanted,
            pending: Batch::default(),
            started: Vec::new(),
            assigned: None,
            announced: false,
            full_since: None,
            paused: false,
            seldom: Seldom::default(),
        }
    }

    /// Runs until the loop says close or is gone.
    pub(super) fn run(mut self) {
        let mut last_commit = None;
        loop {
            let mut close = self.arrivals.is_closed();
            for command in self.commands.try_iter().collect::<Vec<_>>() {
                match command {
                    Command::Start(starts) => self.start(&starts),
                    Command::Commit(list) => {
                        self.commit(&list, CommitMode::Async);
                        last_commit = Some(list);
                    }
                    Command::Close => close = true,
                }
            }
            if close {
                break;
            }
            self.take();
            self.follow_group();
            self.hand_over();
        }
        // The asynchronous commits may still be on their way: the last one again, and wait for it.
        if let Some(list) = last_commit.filter(|_| !self.started.is_empty()) {
            self.commit(&list, CommitMode::Sync);
        }
        // Dropping the consumer leaves the group; the process has a deadline in case that hangs.
        drop(self.consumer);
    }

    fn commit(&self, list: &TopicPartitionList, mode: CommitMode) {
        if let Err(error) = self.consumer.commit(list, mode) {
            tracing::debug!(event = "kafka_commit_failed", %error);
        }
    }

    /// Polls once as long as there is time, then takes what has arrived already.
    fn take(&mut self) {
        let now = clock::now();
        if self.pending.bytes() >= MAX_BATCH_BYTES {
            self.wait_while_full(now);
            return;
        }
        let mut wait = self.patience(now);
        let oldest_ms =
            self.max_age.map_or(i64::MIN, |age| clock::unix_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let deadline = now + DRAIN;
        loop {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => push(&mut self.pending, &self.started, &message, oldest_ms),
                Some(Err(error)) => {
                    if self.seldom.now("kafka_consume_failed") {
                        tracing::warn!(event = "kafka_consume_failed", %error);
                    }
                    break;
                }
            }
            // After the first record only what is there already: the clock is read once per 64 records.
            wait = Duration::ZERO;
            if self.pending.records() % 64 == 0 && (clock::now() >= deadline || self.pending.bytes() >= MAX_BATCH_BYTES) {
                break;
            }
        }
    }

    /// How long the next poll may block.
    fn patience(&self, now: Instant) -> Duration {
        let Some(oldest) = self.pending.oldest else {
            return if self.announced { ANSWERING } else { IDLE };
        };
        if !self.wanted.load(Ordering::Acquire) {
            return WAITING;
        }
        match self.policy.due(self.pending.records(), oldest, now) {
            Due::Now => Duration::ZERO,
            Due::At(at) => (at - now).min(IDLE),
        }
    }

    /// Lets the broker keep what we have no room for.
    fn wait_while_full(&mut self, now: Instant) {
        let since = *self.full_since.get_or_insert(now);
        if now - since < PAUSE_AFTER {
            std::thread::park_timeout(WAITING);
            return;
        }
        if !self.paused {
            self.paused = self.consumer.assignment().and_then(|list| self.consumer.pause(&list)).is_ok();
        }
        if self.paused {
            let oldest_ms = i64::MIN;
            // Records that were fetched before the pause may still come; they are few.
            if let Some(Ok(message)) = self.consumer.poll(WAITING) {
                push(&mut self.pending, &self.started, &message, oldest_ms);
            }
        }
    }

    /// Learns what the group did during the last poll.
    fn follow_group(&mut self) {
        for change in self.consumer.context().changes() {
            // Undecided records of a revoked partition belong to its next owner, who starts from the store's
            // progress. The protocol is eager, so a revoke takes everything.
            self.pending = Batch::default();
            self.started.clear();
            self.full_since = None;
            self.paused = false;
            self.announced = false;
            self.assigned = match change {
                Change::Assigned(partitions) => Some(partitions),
                Change::Revoked => None,
            };
            tracing::info!(event = "partitions_changed", assigned = ?self.assigned);
        }
    }

    /// Reads the assigned partitions from where the store's progress ends.
    fn start(&mut self, starts: &[Start]) {
        let wanted = self.assigned.as_deref().unwrap_or_default();
        if starts.len() != wanted.len() || starts.iter().any(|start| !wanted.contains(&start.partition)) {
            // The group has moved on while the loop asked the store; it will be asked again.
            return;
        }
        let mut list = TopicPartitionList::with_capacity(starts.len());
        let mut decided = TopicPartitionList::new();
        for start in starts {
            // Nothing decided yet: from Kafka's committed offset, or where auto.offset.reset says.
            let offset = start.next_offset.map_or(Offset::Stored, Offset::Offset);
            let mut added = list.add_partition_offset(&self.topic, start.partition, offset);
            if start.next_offset.is_some() {
                added = added.and_then(|()| decided.add_partition_offset(&self.topic, start.partition, offset));
            }
            if let Err(error) = added {
                tracing::error!(event = "start_failed", partition = start.partition, %error);
                return;
            }
        }
        if let Err(error) = self.consumer.assign(&list) {
            tracing::error!(event = "start_failed", %error);
            return;
        }
        self.started = starts.iter().map(|start| (start.partition, start.epoch)).collect();
        self.assigned = None;
        self.announced = false;
        if decided.count() > 0 {
            // Kafka's offsets follow the store's, so that lag tools tell the truth after a hand-over.
            self.commit(&decided, CommitMode::Async);
        }
        tracing::info!(event = "partitions_started", partitions = ?starts.iter().map(|start| (start.partition, start.next_offset)).collect::<Vec<_>>());
    }

    /// Gives the loop what it waits for.
    fn hand_over(&mut self) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        if let Some(partitions) = self.assigned.as_ref().filter(|partitions| !self.announced && !partitions.is_empty()) {
            if self.send(Arrival::Assigned(partitions.clone())).is_none() {
                self.announced = true;
            }
            return;
        }
        let now = clock::now();
        let Some(oldest) = self.pending.oldest else { return };
        if self.policy.due(self.pending.records(), oldest, now) != Due::Now {
            return;
        }
        let batch = std::mem::take(&mut self.pending);
        match self.send(Arrival::Batch(batch)) {
            None => {
                self.policy.spend(now);
                self.full_since = None;
                if self.paused {
                    self.resume();
                }
            }
            Some(Arrival::Batch(batch)) => self.pending = batch,
            Some(_) => {}
        }
    }

    /// Sends, or gives back what the loop had no room for.
    fn send(&mut self, arrival: Arrival) -> Option<Arrival> {
        // Cleared first: the loop may have taken the arrival and want the next one before we go on.
        self.wanted.store(false, Ordering::Release);
        match self.arrivals.try_send(arrival) {
            Ok(()) => None,
            Err(TrySendError::Full(arrival) | TrySendError::Closed(arrival)) => {
                self.wanted.store(true, Ordering::Release);
                Some(arrival)
            }
        }
    }

    fn resume(&mut self) {
        let resumed = self.consumer.assignment().and_then(|list| self.consumer.resume(&list));
        match resumed {
            Ok(()) => self.paused = false,
            Err(error) => tracing::warn!(event = "resume_failed", %error),
        }
    }
}

fn push(batch: &mut Batch, started: &[(i32, i64)], message: &BorrowedMessage<'_>, oldest_ms: i64) {
    let partition = message.partition();
    // A record of a partition that we no longer read is its new owner's.
    let Some((_, epoch)) = started.iter().find(|(started, _)| *started == partition) else { return };
    let headers = || {
        message.headers().map_or_else(Vec::new, |headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        })
    };
    let record = Record {
        partition,
        offset: message.offset(),
        // A record without a timestamp is as old as its arrival.
        time_ms: message.timestamp().to_millis().unwrap_or_else(clock::unix_ms),
        key: message.key(),
        payload: message.payload(),
        headers: &headers,
    };
    batch.push(&record, *epoch, oldest_ms, clock::now());
}
