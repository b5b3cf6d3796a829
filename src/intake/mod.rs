//! 1: what arrives. Kafka records become signals, and signals become batches.
//!
//! Owns decoding, the limits of a record, when a batch leaves, and which offsets it covers. Must never look at
//! a rule or decide what a signal means.

mod batch;
mod decode;
mod details;
mod flush;
pub mod kafka;
pub mod memory;
mod offsets;
mod rejected;
mod resume;

use std::future::Future;

pub use batch::{Batch, Mention, Signal, Span, ticker_key};
pub use decode::{ID_HEADER, MAX_RECORD_BYTES, Record, TIME_HEADER};
pub use details::Details;
pub use flush::{Due, FlushPolicy};
pub use offsets::{Offsets, PartitionSpan};
pub use rejected::{Reason, Rejected};
pub use resume::{Difference, Identity, Position, Start, committed_ahead};

/// What a source hands to the loop.
#[derive(Debug)]
pub enum Arrival {
    /// The group gave us these partitions; nothing of them arrives until [`Source::start`] says from where.
    Assigned(Vec<i32>),
    /// Where partitions are read from, for the store to keep. It comes before their first records.
    Positioned(Vec<Position>),
    /// Records to decide.
    Batch(Batch),
    /// Kafka has more records, and none has come for a while: the client library is stuck, and only a restart helps.
    Stalled,
    /// Another process has our name in the group.
    Fenced,
    /// Whatever read for us broke off: nothing will come again, and only a restart helps.
    Lost,
    /// No more will come.
    Ended,
}

/// Where signals come from.
pub trait Source: Send {
    /// What went wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Waits for what comes next. Cancelling the wait loses nothing.
    fn next(&mut self) -> impl Future<Output = Arrival> + Send;

    /// Begins to read assigned partitions.
    ///
    /// # Errors
    /// The source refuses; nothing was started.
    fn start(&mut self, starts: &[Start]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Writes rejected records to the dead-letter topic, and returns once all are acknowledged.
    ///
    /// # Errors
    /// At least one was not acknowledged; all may be sent again.
    fn dead_letter(&mut self, rejected: &[Rejected]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Tells the source what has been decided. Advisory: the store is the truth.
    ///
    /// # Errors
    /// The source did not take it; a later commit covers it.
    fn commit(&mut self, offsets: &Offsets) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Gives a batch back that is decided. Its memory may serve for another one: to have that from the system anew costs a tenth
    /// of all that a signal costs.
    fn give_back(&mut self, _batch: Batch) {}

    /// Tells the source that a decision was fenced: what we read may be another's, or an operator has moved it. The source
    /// announces what it still has anew, and the records that were not decided come again.
    ///
    /// # Errors
    /// The source has ended.
    fn reopen(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Stops reading, hands the last commits on and leaves the group.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}
