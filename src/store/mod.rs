//! 3: who may act. Matches become claims, and the progress of each partition moves with them.
//!
//! Owns the schema `dispatcher`, the reading of the platform's tables, and the database's clock. Must never write to
//! the platform's tables, nor decide on anything but what the database says.

mod catalog;
mod database;
pub mod deployment;
mod evidence;
pub mod memory;
pub mod migrate;
pub mod notify;
mod orphans;
mod platform;
mod pooler;
pub mod postgres;
pub mod refresh;
mod rules;
pub mod sweep;
mod template;
mod tls;
pub mod upkeep;

use std::future::Future;

use jiff::Timestamp;
use uuid::Uuid;

use crate::intake::{PartitionSpan, Position, Start};
use crate::rules::PartitionCounts;
use crate::tasks::{Pieces, Publication, TriggerText};

pub use database::{Connection, Database, StoreError};
pub use evidence::Evidence;

/// A slot that a batch wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The trigger that it would become.
    pub text: TriggerText,
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// The ticker of the slot; empty for a whole pipeline.
    pub ticker: String,
    /// Where the leading signal came from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When Kafka got its record, in milliseconds since 1970.
    pub record_time_ms: i64,
    /// Whether another signal of the batch could lead instead.
    pub shared: bool,
}

/// One batch, or a part of one, as the store decides it.
#[derive(Debug, Clone, Default)]
pub struct ClaimRequest {
    /// Names the request's tasks; the same in every repetition of the request.
    pub publication_id: Uuid,
    /// The records, and what matching says about them.
    pub spans: Vec<(PartitionSpan, PartitionCounts)>,
    /// The slots, ascending by (pipeline, ticker).
    pub wanted: Vec<Wanted>,
    /// The pieces that the texts of the slots name.
    pub pieces: Pieces,
    /// Whether more of the batch follows. Then no offset moves and no record is counted yet, but the progress remembers
    /// that the batch is begun.
    pub goes_on: bool,
}

/// What the store made of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request is decided, and progress has moved.
    Claimed(Claimed),
    /// Nothing happened: these positions of `wanted` are in the ledger already, and other signals could lead instead.
    Known(Vec<usize>),
    /// Nothing happened: the text of these positions of `wanted` cannot be held.
    Refused(Vec<usize>),
    /// Nothing happened: the statement took longer than one may. With fewer slots it may be quick enough.
    TimedOut,
    /// Nothing happened: these partitions have a new owner, or are not where we think.
    Fenced(Vec<i32>),
}

/// A decided request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Positions of `wanted` that became triggers, ascending.
    pub won: Vec<usize>,
    /// Positions of `wanted` that were in the ledger already, ascending.
    pub known: Vec<usize>,
    /// When the triggers' leases end.
    pub leased_until: Timestamp,
    /// Whether an earlier attempt of the request was applied, and its reply lost: the lease is as old as that attempt.
    pub is_repeated: bool,
    /// Statuses of executions that no list names; they count as active.
    pub unknown_statuses: Vec<String>,
}

/// An outbox entry that was taken up, with its leases renewed.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenUp {
    /// What is to be published of it.
    pub publication: Publication,
    /// Triggers whose signal is too old by now: to be given up, unless the broker has them.
    pub stale: Vec<Uuid>,
    /// Triggers whose slot has passed on, and of which the store knows no start. The result backend may know one.
    pub gone: Vec<Uuid>,
    /// Whether some of its tasks have started: the broker had them.
    pub is_started: bool,
    /// Whether it is so old that its guard may be gone from the broker.
    pub is_old: bool,
}

/// What the loop may do with an outbox entry whose lease has grown old.
#[derive(Debug, Clone, PartialEq)]
pub enum Renewal {
    /// Publish what is left of it.
    Taken(TakenUp),
    /// A sweeper has it under way: ask again.
    Held,
    /// Nothing: it was published or given up meanwhile, or it is left to the sweepers, for a signal of it is too old by now.
    Over,
}

/// Why a trigger was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// It was enqueued as often as allowed, and never started.
    NeverStarted,
    /// Its signal was too old before its task reached the broker.
    Stale,
}

impl GivenUp {
    /// As in the ledger and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverStarted => "never_started",
            Self::Stale => "stale",
        }
    }
}

/// Decides batches.
pub trait Claims: Send {
    /// What went wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Takes partitions over: from now on, only decisions with the returned epochs count.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    fn open(&mut self, partitions: &[i32]) -> impl Future<Output = Result<Vec<Start>, Self::Error>> + Send;

    /// Stores where partitions are read from: the offset, and the ids of cluster and topic where they are not known yet.
    /// Returns the partitions that are still ours; those of a newer epoch are left alone. May be repeated.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    fn position(&mut self, positions: &[Position]) -> impl Future<Output = Result<Vec<i32>, Self::Error>> + Send;

    /// The records of some partitions (partition and offset) that lead triggers, though no offset has passed them: their
    /// batch was begun, and not decided to its end.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    fn begun(&mut self, partitions: &[i32]) -> impl Future<Output = Result<Vec<(i32, i64)>, Self::Error>> + Send;

    /// Decides a request, whole or not at all. May be repeated after an error, with the same result.
    ///
    /// # Errors
    /// The store does not answer or refuses. Whether the request is decided is unknown.
    fn claim(&mut self, request: &ClaimRequest) -> impl Future<Output = Result<Verdict, Self::Error>> + Send;

    /// Renews the leases of an outbox entry that the broker has not taken in time. One with a signal that is too old by now is left to the
    /// sweepers.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    fn renew(&mut self, publication_id: Uuid) -> impl Future<Output = Result<Renewal, Self::Error>> + Send;

    /// Remembers that the broker has a publication. Written with the next claim, or by [`Claims::flush`].
    fn confirm(&mut self, publication_id: Uuid);

    /// Confirmations that were written since this was last asked.
    fn written(&mut self) -> Vec<Uuid>;

    /// Whether confirmations wait to be written.
    fn has_unwritten(&self) -> bool;

    /// Writes what [`Claims::confirm`] has remembered.
    ///
    /// # Errors
    /// The store does not answer or refuses; nothing is forgotten.
    fn flush(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
