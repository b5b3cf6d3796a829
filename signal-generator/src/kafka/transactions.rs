//! "The same bar never emits twice, also after a restart": the signals and the marks of what was emitted are one Kafka transaction.
//!
//! A local state file cannot hold this. Whatever the order, a crash between the acknowledgement and the save either repeats or loses a
//! signal; looking through the topic at start closes that window only if the old process's last request cannot still
//! arrive afterwards, and if retention has not run over it. A transaction has no such window:
//!
//! - A batch of signals goes to the signal topic, and for each of them its mark ([`crate::marks`]) to a compacted state topic, in one
//!   transaction. Both are there, or neither.
//! - At start `init_transactions` with the same `transactional.id` waits for or aborts what the predecessor left open, and fences
//!   it: an old process that still lives can never commit again, and ends with [`KafkaFailure::Fenced`].
//! - Then a record "started" is committed to the state topic, and the topic is read (committed records only) until
//!   that record: what was read is all there is, and nobody can add to it. So no state needs to be on this machine's disk.
//!
//! All else is repeated: bars are read again from the first one at every start, and the marks hold back what has been emitted.
//!
//! What a consumer must do: read committed records only. librdkafka does by default; Java and Python clients must set
//! `isolation.level=read_committed`, or they may also see the records of an aborted attempt (with the same `signal_id`s).

use std::thread;
use std::time::Duration;

use jiff::civil::Date;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use uuid::Uuid;

use super::{Deliveries, KafkaConfig, KafkaFailure, START_TIMEOUT, state_topic};
use crate::cross::Direction;
use crate::marks::{Marks, StateKey, encode_mark};

/// A transaction that Kafka aborts is tried again this often; then the process ends, and its restart goes on.
const ATTEMPTS: u32 = 5;
/// How often a commit whose outcome is unknown is asked again, [`COMMIT_TIMEOUT`] each.
const COMMIT_RETRIES: u32 = 6;
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
const A_MOMENT: Duration = Duration::from_millis(1);

/// One signal and what it marks.
#[derive(Debug, Clone)]
pub struct Emission {
    /// Key of the record.
    pub ticker: String,
    /// Its kind.
    pub direction: Direction,
    /// Day of its bar.
    pub date: Date,
    /// Its JSON.
    pub payload: Vec<u8>,
}

/// The one writer of a source's signals.
pub struct TransactionalProducer {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    state_topic: String,
    source: String,
}

impl TransactionalProducer {
    /// Takes the source over from whoever wrote before, and returns what has been emitted until now.
    pub fn take_over(kafka: &KafkaConfig, topic: &str, state_topic: &str, source: &str) -> Result<(Self, Marks), KafkaFailure> {
        state_topic::ensure(kafka, state_topic)?;
        let mut config = kafka.producer();
        config.set("transactional.id", format!("signal-generator/{topic}/{source}"));
        let producer: ThreadedProducer<Deliveries> = config
            .create_with_context(Deliveries::default())
            .map_err(|error| Deliveries::default().failure("the Kafka producer could not be made", error))?;
        let (topic, state_topic, source) = (topic.to_owned(), state_topic.to_owned(), source.to_owned());
        let this = Self { producer, topic, state_topic, source };

        this.producer.init_transactions(START_TIMEOUT).map_err(|error| this.failure("taking over the source", error))?;
        let started = Uuid::new_v4().to_string();
        let key = StateKey::Started(this.source.clone()).encode();
        this.transact("started", &|| this.send_state(&key, started.as_bytes()))?;
        let marks = state_topic::read(kafka, &this.state_topic, &this.source, started.as_bytes())?;
        Ok((this, marks))
    }

    /// Returns when all of the batch is committed. After an error it is open whether it was: only a restart can tell.
    pub fn publish(&self, batch: &[Emission]) -> Result<(), KafkaFailure> {
        self.transact("batch", &|| {
            for emission in batch {
                let record = BaseRecord::to(&self.topic).key(&emission.ticker).payload(&emission.payload);
                self.send(record)?;
            }
            for emission in batch {
                let key = StateKey::Mark(self.source.clone(), emission.direction, emission.ticker.clone());
                self.send_state(&key.encode(), &encode_mark(emission.date))?;
            }
            Ok(())
        })
    }

    fn transact(&self, name: &str, fill: &dyn Fn() -> Result<(), KafkaError>) -> Result<(), KafkaFailure> {
        let mut attempt = 1;
        loop {
            match self.try_transact(name, fill) {
                Ok(()) => return Ok(()),
                Err(error) if attempt < ATTEMPTS && !is_fatal(&error) => {
                    attempt += 1;
                    let aborted = self.producer.abort_transaction(START_TIMEOUT);
                    aborted.map_err(|error| self.failure("aborting a transaction", error))?;
                }
                Err(error) => return Err(self.failure("a transaction failed", error)),
            }
        }
    }

    fn try_transact(&self, name: &str, fill: &dyn Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        fill()?;
        // All delivery reports first (`flush` of this wrapper would take at least 100 ms). This ends, because
        // librdkafka gives up on each record when the transaction times out; the commit then fails.
        while self.producer.in_flight_count() > 0 {
            thread::sleep(A_MOMENT);
        }
        crash_point(name, "acknowledged");
        self.commit()?;
        crash_point(name, "committed");
        Ok(())
    }

    fn commit(&self) -> Result<(), KafkaError> {
        let mut retries = 0;
        loop {
            match self.producer.commit_transaction(COMMIT_TIMEOUT) {
                // The outcome is unknown: only asking again, never aborting, finds out.
                Err(KafkaError::Transaction(error)) if error.is_retriable() && retries < COMMIT_RETRIES => {
                    retries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn send_state(&self, key: &[u8], value: &[u8]) -> Result<(), KafkaError> {
        self.send(BaseRecord::to(&self.state_topic).partition(state_topic::PARTITION).key(key).payload(value))
    }

    fn send<K, P>(&self, mut record: BaseRecord<'_, K, P>) -> Result<(), KafkaError>
    where
        K: ToBytes + ?Sized,
        P: ToBytes + ?Sized,
    {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    thread::sleep(A_MOMENT);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    fn failure(&self, what: &'static str, error: KafkaError) -> KafkaFailure {
        let fenced = [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let codes = [error.rdkafka_error_code(), fatal];
        if codes.iter().flatten().any(|code| fenced.contains(code)) {
            return KafkaFailure::Fenced;
        }
        self.producer.context().failure(what, error)
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    match error {
        // A commit that was never answered must not be followed by an abort.
        KafkaError::Transaction(error) => error.is_fatal() || !error.txn_requires_abort(),
        error => error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal),
    }
}

/// For the tests that kill the process at its worst moments; does nothing in a build that is deployed.
fn crash_point(transaction: &str, moment: &str) {
    let asked = || std::env::var("SIGNAL_GENERATOR_CRASH_AT").ok();
    if cfg!(feature = "crash-points") && asked() == Some(format!("{transaction}-{moment}")) {
        std::process::abort();
    }
}
