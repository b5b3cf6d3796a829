//! From a cross to a signal that has left: drops what is switched off or was emitted, batches the rest.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::cross::{Cross, Direction};
use crate::kafka::KafkaFailure;
use crate::kafka::transactions::{Emission, TransactionalProducer};
use crate::marks::Marks;
use crate::signal::{Signal, bar_timestamp, signal_json};

/// Signals per transaction, at most.
const BATCH: usize = 500;

/// Where signals go.
pub enum Outlet {
    /// To Kafka, together with their marks.
    Kafka(Box<TransactionalProducer>),
    /// To standard output, one line each; nothing is remembered.
    Print,
}

/// What a signal's `timestamp` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// The end of the bar's day: an old bar makes an old signal, which the dispatcher may find stale.
    Bar,
    /// The moment of emission: an old bar makes a signal as if it were of today. For drills and demos.
    Now,
}

/// Which crosses become signals, and how they look.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The signals' `source`.
    pub source: String,
    /// Which directions are emitted.
    pub directions: Vec<Direction>,
    /// What their time means.
    pub stamp: Stamp,
}

/// Signals that wait are lost if this is dropped without [`Emitter::flush`]; a restart emits them.
pub struct Emitter {
    outlet: Outlet,
    wanted: Wanted,
    marks: Marks,
    waiting: Vec<Emission>,
    emitted: u64,
    held_back: u64,
}

/// Why signals did not leave.
#[derive(Debug, thiserror::Error)]
pub enum EmitFailure {
    /// Kafka did not take them.
    #[error(transparent)]
    Kafka(#[from] KafkaFailure),
    /// Standard output did not take them.
    #[error("standard output: {0}")]
    Print(#[from] io::Error),
}

impl Emitter {
    /// `marks`: what has been emitted before.
    pub fn new(outlet: Outlet, wanted: Wanted, marks: Marks) -> Self {
        Self { outlet, wanted, marks, waiting: Vec::new(), emitted: 0, held_back: 0 }
    }

    /// Takes a cross in; flushes when a batch is full.
    pub fn offer(&mut self, ticker: &str, cross: &Cross, now: Timestamp) -> Result<(), EmitFailure> {
        if !self.wanted.directions.contains(&cross.direction) {
            return Ok(());
        }
        if !self.marks.pass(ticker, cross) {
            self.held_back += 1;
            return Ok(());
        }
        let timestamp = match self.wanted.stamp {
            Stamp::Bar => bar_timestamp(cross.date, now),
            Stamp::Now => now,
        };
        let payload = signal_json(&Signal::of_cross(&self.wanted.source, ticker, cross, timestamp));
        let (direction, date) = (cross.direction, cross.date);
        self.waiting.push(Emission { ticker: ticker.to_owned(), direction, date, payload });
        if self.waiting.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Returns when all that was offered has left for good.
    pub fn flush(&mut self) -> Result<(), EmitFailure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match &self.outlet {
            Outlet::Kafka(producer) => producer.publish(&self.waiting)?,
            Outlet::Print => print(&self.waiting)?,
        }
        self.emitted += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Signals that left for good.
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Crosses that had been emitted before.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }
}

fn print(batch: &[Emission]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for emission in batch {
        out.write_all(&emission.payload)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
