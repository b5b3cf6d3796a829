//! The intake thread: polls, decodes, fills the next batch, and hands it over when the loop wants it and it is due.

mod hand_over;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use kafka_batch::{BatchConsumer, MOST};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use tokio::sync::mpsc::Sender;

use super::assignment::Assignment;
use super::client::{Change, IntakeContext};
use super::commits::Commits;
use super::corrupt::{Corrupt, is_corrupt};
use super::identity::IdentityWatch;
use super::records::{push_lent, push_message};
use super::watch::StallWatch;
use crate::clock;
use crate::config::OffsetReset;
use crate::intake::{Arrival, Batch, Due, FlushPolicy, Start};
use crate::telemetry::{Metrics, Seldom, json};

/// Memory that waiting records may take, in bytes; beyond it the broker keeps them.
const MAX_BATCH_BYTES: usize = 32 * 1024 * 1024;
/// How long the wait for a record may take, and how seldom the group may be heard.
const IDLE: Duration = Duration::from_millis(50);
/// How long records are left to librdkafka while a batch waits: to decode them in one go costs less than to wake up for each.
/// The loop ends the rest when it wants the batch.
const REST: Duration = Duration::from_millis(2);
/// How often we look whether the loop has fetched the progress of what we were assigned.
const ANSWERING: Duration = Duration::from_millis(5);
/// A full batch that waits longer than this pauses the partitions, so that polling can go on without records.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// How long a member whose decision was fenced holds still: if it has lost its partitions, it learns that first.
const FENCED: Duration = Duration::from_secs(2);
/// How long a place that could not be read is left alone before it is read again.
const CORRUPT: Duration = Duration::from_secs(1);

/// What the loop asks of the thread.
pub(super) enum Command {
    Start(Vec<Start>),
    /// Partitions with their next offsets.
    Commit(Vec<(i32, i64)>),
    Reuse(Batch),
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
    consumer: BatchConsumer<IntakeContext>,
    topic: String,
    max_age: Option<Duration>,
    policy: FlushPolicy,
    arrivals: Sender<Arrival>,
    commands: Receiver<Command>,
    wanted: Arc<AtomicBool>,
    pending: Batch,
    /// Memory for the batch after the pending one.
    spare: Option<Batch>,
    assignment: Assignment,
    watch: StallWatch,
    identity: IdentityWatch,
    corrupt: Corrupt,
    commits: Commits,
    /// When the group was heard.
    heard: Instant,
    full_since: Option<Instant>,
    /// Another process has our name in the group.
    is_fenced: bool,
    paused: bool,
    seldom: Seldom,
    metrics: Arc<Metrics>,
}

impl IntakeThread {
    pub(super) fn new(
        consumer: BatchConsumer<IntakeContext>,
        plan: Plan,
        policy: FlushPolicy,
        arrivals: Sender<Arrival>,
        commands: Receiver<Command>,
        wanted: Arc<AtomicBool>,
        metrics: Arc<Metrics>,
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
            spare: None,
            assignment: Assignment::new(plan.topic, plan.reset),
            watch: StallWatch::new(plan.stall, clock::now()),
            identity: IdentityWatch::new(clock::now()),
            corrupt: Corrupt::default(),
            commits: Commits::default(),
            heard: clock::now(),
            full_since: None,
            is_fenced: false,
            paused: false,
            seldom: Seldom::default(),
            metrics,
        }
    }

    /// Runs until the loop says close or is gone.
    pub(super) fn run(mut self) {
        loop {
            let mut close = self.arrivals.is_closed();
            for command in self.commands.try_iter().collect::<Vec<_>>() {
                match command {
                    Command::Start(starts) => self.start(&starts),
                    Command::Commit(mut next_offsets) => {
                        // What was taken from us meanwhile is its new owner's to tell.
                        next_offsets.retain(|(partition, _)| self.assignment.is_started(*partition));
                        self.metrics.moved(&next_offsets);
                        self.commits.decided(&next_offsets);
                    }
                    Command::Reuse(batch) => self.spare = batch.emptied(),
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
            if let Some(list) = self.commits.due(&self.topic, clock::now()) {
                self.tell(list, CommitMode::Async);
            }
        }
        // The asynchronous commits may still be on their way: all of it again, and wait for it.
        if let Some(list) = self.commits.all(&self.topic) {
            self.tell(list, CommitMode::Sync);
        }
        // Dropping the consumer leaves the group; the process has a deadline in case that hangs.
        drop(self.consumer);
    }

    /// Begins to read what the group has given us.
    fn start(&mut self, starts: &[Start]) {
        let now = clock::now();
        let Some(commit) = self.assignment.start(&mut self.consumer, starts, now) else { return };
        self.report();
        self.identity.reset(now);
        if commit.decided.count() == 0 {
            return;
        }
        // Kafka's offsets follow the store's, so that lag tools tell the truth after a hand-over.
        let mode = if commit.is_awaited { CommitMode::Sync } else { CommitMode::Async };
        if self.tell(Ok(commit.decided), mode) && commit.is_awaited {
            self.assignment.committed(starts);
        }
    }

    /// Whether Kafka has taken it; where we do not wait, whether it is on its way.
    fn tell(&self, list: KafkaResult<TopicPartitionList>, mode: CommitMode) -> bool {
        let told = list.and_then(|list| self.consumer.consumer().commit(&list, mode));
        if let Err(error) = &told {
            tracing::debug!(event = "kafka_commit_failed", %error);
        }
        told.is_ok()
    }

    /// Takes what has arrived already, and waits for it where nothing else is to do.
    fn take(&mut self) {
        let now = clock::now();
        if self.pending.bytes() >= MAX_BATCH_BYTES {
            self.wait_while_full(now);
        } else if self.assignment.reading().is_empty() {
            self.hear_group(if self.assignment.is_waiting() { ANSWERING } else { IDLE });
        } else if now - self.heard >= IDLE {
            self.hear_group(Duration::ZERO);
        } else if self.pending.is_empty() {
            if self.receive(IDLE) == 0 {
                // Memory of busier times.
                (self.pending, self.spare) = (Batch::default(), None);
            }
        } else if self.receive(Duration::ZERO) < MOST {
            // A pass of the loop that ends meanwhile, or a command, ends the rest.
            std::thread::park_timeout(self.rest(now));
        }
    }

    /// Fills the batch with the records that are there, and returns how many there were; waits where none is.
    fn receive(&mut self, patience: Duration) -> usize {
        let oldest_ms = clock::oldest_ms(clock::unix_ms(), self.max_age);
        let (mut arrived, mut errors) = (None, Vec::new());
        let Self { consumer, pending, assignment, watch, .. } = self;
        let taken = consumer.take(patience, |record| {
            match record.error() {
                None => watch.record(record.partition()),
                Some(KafkaError::PartitionEOF(partition)) => return watch.end(partition),
                Some(error) => {
                    // The records behind it are there already; they must not be decided before it.
                    if is_corrupt(&error) {
                        assignment.block(record.partition());
                    }
                    return errors.push((error, record.partition(), record.offset()));
                }
            }
            // The clock is read once, after the wait.
            let at = *arrived.get_or_insert_with(clock::now);
            push_lent(pending, assignment, record, oldest_ms, at);
        });
        for (error, partition, offset) in errors {
            self.consume_failed(&error);
            if is_corrupt(&error) {
                self.read_corrupt(&error, partition, offset);
            }
        }
        taken
    }

    /// Lets the group and all else be heard that is no record.
    fn hear_group(&mut self, patience: Duration) {
        self.heard = clock::now();
        match self.consumer.poll(patience) {
            // Not expected: partitions are forwarded before they are read. But a record is a record.
            Some(Ok(message)) => {
                self.watch.record(message.partition());
                push_message(&mut self.pending, &self.assignment, &message, self.heard);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => self.watch.end(partition),
            Some(Err(error)) => self.consume_failed(&error),
            None => {}
        }
    }

    fn consume_failed(&mut self, error: &KafkaError) {
        if self.seldom.now("kafka_consume_failed") {
            tracing::warn!(event = "kafka_consume_failed", %error);
        }
        self.watch.failed(error);
        self.identity.failed(clock::now());
        self.is_fenced |= is_fenced(error);
        // Kafka does not have the offset: look what it has, and stop what cannot go on.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
            self.reopen(Duration::ZERO);
        }
    }

    /// What Kafka has sent from an offset on cannot be read.
    fn read_corrupt(&mut self, error: &KafkaError, partition: i32, offset: i64) {
        if !self.assignment.is_started(partition) {
            // Another error has begun anew already.
            return;
        }
        if self.corrupt.is_worth_another(partition, offset) {
            tracing::warn!(event = "corrupt_data", topic = self.topic, partition, offset, %error, text = "read again");
            self.reopen(CORRUPT);
        } else {
            self.assignment.stop(&self.consumer, partition, offset, clock::now());
            self.report();
        }
    }

    /// Asks the store again from where to read; what is undecided comes again.
    fn reopen(&mut self, after: Duration) {
        self.forget();
        self.assignment.reopen(&mut self.consumer, clock::now() + after);
        self.report();
    }

    /// Tells the metrics and /readyz which partitions we have, and how far they are.
    fn report(&self) {
        let known = self.metrics.next_offsets();
        let (partitions, reason) = self.assignment.state(&known);
        self.metrics.partitions(partitions, reason);
    }

    fn forget(&mut self) {
        (self.pending, self.spare) = (Batch::default(), None);
        self.full_since = None;
        self.paused = false;
        self.watch.reset();
        self.commits.forget();
    }

    /// How long the batch that waits may be left alone.
    fn rest(&self, now: Instant) -> Duration {
        let Some(oldest) = self.pending.oldest.filter(|_| self.wanted.load(Ordering::Acquire)) else { return REST };
        match self.policy.due(self.pending.records(), oldest, now) {
            Due::Now => Duration::ZERO,
            Due::At(at) => (at - now).min(REST),
        }
    }

    /// Lets the broker keep what we have no room for.
    fn wait_while_full(&mut self, now: Instant) {
        let since = *self.full_since.get_or_insert(now);
        if now - since >= PAUSE_AFTER && !self.paused {
            let consumer = self.consumer.consumer();
            self.paused = consumer.assignment().and_then(|list| consumer.pause(&list)).is_ok();
        }
        if now - self.heard >= IDLE {
            self.hear_group(Duration::ZERO);
        } else if self.paused {
            // What was fetched before the pause: librdkafka fetches it again later, and drops it here.
            self.receive(IDLE);
        } else {
            std::thread::park_timeout(IDLE);
        }
    }

    /// Learns what the group did during the last poll.
    fn follow_group(&mut self) {
        for change in self.consumer.consumer().context().changes() {
            // Undecided records of a revoked partition belong to its next owner, who starts from the store's
            // progress. The protocol is eager, so a revoke takes everything.
            self.forget();
            match change {
                Change::Assigned(partitions) => {
                    tracing::info!(event = "partitions_changed", assigned = json(&partitions));
                    self.assignment.assigned(partitions);
                    self.watch.assigned();
                }
                Change::Revoked => {
                    self.assignment.revoked();
                    self.watch.revoked(clock::now());
                }
            }
            self.report();
        }
        let now = clock::now();
        let Self { assignment, identity, consumer, topic, .. } = self;
        let has_changed = assignment.identity().is_some_and(|known| identity.has_changed(consumer, topic, known, now));
        if has_changed || self.assignment.is_due_again(now) {
            self.reopen(Duration::ZERO);
        }
    }
}

/// Whether another process has taken our name in the group, which will have no more to do with us.
fn is_fenced(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId))
}
