//! Signals from Kafka. The only file group of this stage that does IO.
//!
//! An OS thread of its own polls librdkafka, decodes and fills the next batch, so that the group holds and the
//! broker keeps sending whatever the rest of the service waits for. Assigned partitions are not read before the
//! loop has fetched their progress from the store and says [`Source::start`].

mod assignment;
mod client;
mod commits;
mod corrupt;
mod dead_letter;
pub mod ends;
mod extents;
mod identity;
pub mod letters_topic;
mod positions;
mod records;
mod thread;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::sync::{mpsc, oneshot};

use self::dead_letter::DeadLetters;
use self::thread::{Command, IntakeThread, Plan};
use super::{Arrival, Batch, FlushPolicy, Offsets, Rejected, Source, Start};
use crate::clock;
use crate::config::{BatchConfig, KafkaConfig};
use crate::telemetry::Metrics;

pub use self::client::client_config;
pub use self::corrupt::is_corrupt;
pub(crate) use self::dead_letter::PARTIAL;
pub(crate) use self::positions::committed_offset;

/// What went wrong with Kafka.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka does not take the configuration.
    #[error("librdkafka refuses the property {property}: {text}")]
    Property {
        /// The property.
        property: String,
        /// Why; without the value, which may be a secret.
        text: String,
    },
    /// Kafka cannot be reached, or refuses.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The intake thread is gone.
    #[error("the intake thread has ended")]
    Ended,
    /// The operating system gives no thread.
    #[error("no thread for the intake: {0}")]
    Thread(#[from] std::io::Error),
}

/// Signals from a Kafka topic, as a member of a consumer group.
#[derive(Debug)]
pub struct KafkaSource {
    arrivals: mpsc::Receiver<Arrival>,
    commands: std::sync::mpsc::Sender<Command>,
    /// Set while the loop waits for a batch.
    wanted: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    closed: oneshot::Receiver<()>,
    dead_letters: DeadLetters,
    /// The intake was told that an arrival is wanted, and none has come since.
    is_asked: bool,
}

impl KafkaSource {
    /// Joins the group. Kafka need not be reachable yet.
    ///
    /// # Errors
    /// The configuration is not librdkafka's, or the system gives no thread.
    pub fn connect(
        kafka: &KafkaConfig,
        batch: &BatchConfig,
        max_age: Option<Duration>,
        stall: Option<Duration>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        // The dispatcher takes one arrival at a time: a second waiting one would only be an older batch.
        let (arrivals_tx, arrivals) = mpsc::channel(4);
        let (commands, commands_rx) = std::sync::mpsc::channel();
        let (closed_tx, closed) = oneshot::channel();
        let wanted = Arc::new(AtomicBool::new(false));
        // The end of a partition is told by a fetch that finds nothing new.
        let stall = stall.map(|stall| stall.max(client::fetch_wait(kafka) * 2));
        let seldom = Arc::default();
        let consumer = client::consumer(kafka, &seldom)?;
        let dead_letters = DeadLetters::connect(kafka, &seldom)?;
        let intake = IntakeThread::new(
            consumer,
            Plan { topic: kafka.signal_topic.clone(), reset: kafka.auto_offset_reset, max_age, stall },
            FlushPolicy::new(batch, clock::now()),
            arrivals_tx,
            commands_rx,
            Arc::clone(&wanted),
            Arc::clone(metrics),
        );
        let thread = std::thread::Builder::new().name("intake".into()).spawn(move || {
            intake.run();
            // The receiver is gone when nobody waits for the end.
            closed_tx.send(()).ok();
        })?;
        Ok(Self { arrivals, commands, wanted, thread, closed, dead_letters, is_asked: false })
    }

    fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Ended)?;
        self.thread.thread().unpark();
        Ok(())
    }
}

impl Source for KafkaSource {
    type Error = Error;

    async fn next(&mut self) -> Arrival {
        // One answer to one question, also where the wait for it was cancelled: a second one would be an older, smaller batch.
        if !self.is_asked {
            self.is_asked = true;
            self.wanted.store(true, Ordering::Release);
            self.thread.thread().unpark();
        }
        // Nobody but us ends the thread, and we ask no more then: it has panicked.
        let arrival = self.arrivals.recv().await.unwrap_or(Arrival::Lost);
        self.is_asked = false;
        arrival
    }

    async fn start(&mut self, starts: &[Start]) -> Result<(), Error> {
        self.command(Command::Start(starts.to_vec()))
    }

    async fn dead_letter(&mut self, rejected: &[Rejected]) -> Result<(), Error> {
        self.dead_letters.send(rejected).await
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), Error> {
        self.command(Command::Commit(offsets.spans().iter().map(|span| (span.partition, span.next_offset)).collect()))
    }

    fn give_back(&mut self, batch: Batch) {
        // Not worth to wake the thread up. When it has ended, nobody needs the memory.
        self.commands.send(Command::Reuse(batch)).ok();
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        self.command(Command::Reopen)
    }

    async fn close(&mut self) {
        // An error means that the thread has ended by itself.
        if self.command(Command::Close).is_ok() {
            self.arrivals.close();
            if (&mut self.closed).await.is_err() {
                tracing::warn!(event = "intake_thread_lost");
            }
        }
    }
}

#[cfg(test)]
mod tests;
