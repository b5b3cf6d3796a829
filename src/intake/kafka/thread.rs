//! The intake thread: polls, decodes, fills the next batch, and hands it over when the loop wants it and it is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::assignment::Assignment;
use super::client::{Change, IntakeContext};
use super::watch::StallWatch;
use crate::clock;
use crate::config::OffsetReset;
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
/// How long a member whose decision was fenced holds still: if it has lost its partitions, it learns that first.
const FENCED: Duration = Duration::from_secs(2);
/// How long one drain may go on before the batch is looked at.
const DRAIN: Duration = Duration::from_millis(5);

/// What the loop asks of the thread.
pub(super) enum Command {
    Start(Vec<Start>),
    Commit(TopicPartitionList),
    Reopen,
    Close,
}

/// What the thread is told once.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) topic: String,
    pub(super) reset: OffsetReset,
    /// Records older than this are stale.
    pub(super) max_age: Option<Duration>,
    /// How long records may wait in Kafka without coming to us.
    pub(super) stall: Option<Duration>,
}

pub(super) struct IntakeThread {
    consumer: BaseConsumer<IntakeContext>,
    topic: String,
    max_age: Option<Duration>,
    policy: FlushPolicy,
    arrivals: Sender<Arrival>,
    commands: Receiver<Command>,
    wanted: Arc<AtomicBool>,
    pending: Batch,
    assignment: Assignment,
    watch: StallWatch,
    full_since: Option<Instant>,
    paused: bool,
    seldom: Seldom,
}

impl IntakeThread {
    pub(super) fn new(
        consumer: BaseConsumer<IntakeContext>,
        plan: Plan,
        policy: FlushPolicy,
        arrivals: Sender<Arrival>,
        commands: Receiver<Command>,
        wanted: Arc<AtomicBool>,
    ) -> Self {
        Self {
            consumer,
            topic: plan.topic.clone(),
            max_age: plan.max_age,
            policy,
            arrivals,
            commands,
            wanted,
            pending: Batch::default(),
            assignment: Assignment::new(plan.topic, plan.reset),
            watch: StallWatch::new(plan.stall, clock::now()),
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
                    Command::Start(starts) => {
                        if let Some(decided) =
                            self.assignment.start(&self.consumer, &starts, clock::now()).filter(|list| list.count() > 0)
                        {
                            // Kafka's offsets follow the store's, so that lag tools tell the truth after a hand-over.
                            self.commit(&decided, CommitMode::Async);
                        }
                    }
                    Command::Commit(list) => {
                        self.commit(&list, CommitMode::Async);
                        last_commit = Some(list);
                    }
                    Command::Reopen => self.reopen(FENCED),
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
        if let Some(list) = last_commit.filter(|_| !self.assignment.reading().is_empty()) {
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
        let before = self.pending.records();
        // The clock is read for the first record, which the poll has waited for, and then once per 64.
        let (mut arrived, mut taken) = (None, 0_usize);
        loop {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let at = *arrived.get_or_insert_with(clock::now);
                    push(&mut self.pending, &self.assignment, &message, oldest_ms, at);
                }
                Some(Err(error)) => {
                    self.consume_failed(&error);
                    break;
                }
            }
            // After the first record only what is there already.
            wait = Duration::ZERO;
            taken += 1;
            if taken.is_multiple_of(64) {
                let at = clock::now();
                if at - *arrived.get_or_insert(at) >= DRAIN || self.pending.bytes() >= MAX_BATCH_BYTES {
                    break;
                }
            }
        }
        self.watch.received(self.pending.records().saturating_sub(before));
    }

    fn consume_failed(&mut self, error: &KafkaError) {
        if self.seldom.now("kafka_consume_failed") {
            tracing::warn!(event = "kafka_consume_failed", %error);
        }
        // Kafka does not have the offset: look what it has, and stop what cannot go on.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.reopen(Duration::ZERO);
        }
    }

    /// Asks the store again from where to read; what is undecided comes again.
    fn reopen(&mut self, after: Duration) {
        self.forget();
        self.assignment.reopen(&self.consumer, clock::now() + after);
    }

    fn forget(&mut self) {
        self.pending = Batch::default();
        self.full_since = None;
        self.paused = false;
        self.watch.reset();
    }

    /// How long the next poll may block.
    fn patience(&self, now: Instant) -> Duration {
        let Some(oldest) = self.pending.oldest else {
            return if self.assignment.is_waiting() { ANSWERING } else { IDLE };
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
                push(&mut self.pending, &self.assignment, &message, oldest_ms, now);
            }
        }
    }

    /// Learns what the group did during the last poll.
    fn follow_group(&mut self) {
        for change in self.consumer.context().changes() {
            // Undecided records of a revoked partition belong to its next owner, who starts from the store's
            // progress. The protocol is eager, so a revoke takes everything.
            self.forget();
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(event = "partitions_changed", assigned = ?partitions);
                    self.assignment.assigned(partitions);
                    self.watch.assigned();
                }
                Change::Revoked => {
                    self.assignment.revoked();
                    self.watch.revoked(clock::now());
                }
            }
        }
        if self.assignment.is_due_again(clock::now()) {
            self.reopen(Duration::ZERO);
        }
    }

    /// Gives the loop what it waits for.
    fn hand_over(&mut self) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        let now = clock::now();
        if let Some(partitions) = self.assignment.unannounced(now) {
            if self.send(Arrival::Assigned(partitions)).is_none() {
                self.assignment.announced();
            }
            return;
        }
        if self.pending.is_empty() && self.watch.is_stalled(&self.consumer, &self.topic, self.assignment.reading(), now) {
            tracing::error!(
                event = "intake_stalled",
                text = "Kafka answers, and neither records nor partitions come from it; leaving, to be started again"
            );
            self.send(Arrival::Stalled);
            return;
        }
        let Some(oldest) = self.pending.oldest else { return };
        if self.policy.due(self.pending.records(), oldest, now) != Due::Now {
            return;
        }
        let next = self.pending.successor();
        let batch = std::mem::replace(&mut self.pending, next);
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

fn push(batch: &mut Batch, assignment: &Assignment, message: &BorrowedMessage<'_>, oldest_ms: i64, now: Instant) {
    let partition = message.partition();
    // A record of a partition that we no longer read is its new owner's.
    let Some(epoch) = assignment.epoch(partition) else { return };
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
    batch.push(&record, epoch, oldest_ms, now);
}
