//! Which signals may not lead a slot: the ledger knows them there already. Pure.

use std::collections::{HashMap, HashSet};

use crate::chaos::{self, Bug};
use crate::intake::Batch;

/// A (slot, signal) that the ledger knows already, and that must not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Skip {
    /// The pipeline's number in the rule set.
    pub pipeline: u32,
    /// The ticker's number in the rule set, or [`super::WHOLE`].
    pub ticker: u32,
    /// The signal's position in the batch.
    pub signal: u32,
}

/// The skips of a batch. Signals with one id are one signal to the ledger: a skip of one of them is a skip of all. Else n records
/// with one id would cost n claims, one after the other.
#[derive(Debug, Default)]
pub struct Skips {
    /// Each with the first signal that has its id.
    known: HashSet<Skip>,
    /// For each signal of the batch the first one with the same id. Made when there is something to skip.
    first: Vec<u32>,
}

impl Skips {
    /// Adds what the ledger knows of a batch.
    pub fn add(&mut self, batch: &Batch, known: impl IntoIterator<Item = Skip>) {
        if self.first.len() != batch.signals().len() {
            self.first = first_with_the_same_id(batch);
        }
        let Self { known: all, first } = self;
        all.extend(known.into_iter().map(|skip| Skip { signal: first[skip.signal as usize], ..skip }));
    }

    /// Whether nothing is skipped.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether a signal may not lead a slot.
    pub(super) fn has(&self, skip: Skip) -> bool {
        self.known.contains(&Skip { signal: self.first[skip.signal as usize], ..skip })
    }
}

/// A signal that states no id is the only one with its id.
fn first_with_the_same_id(batch: &Batch) -> Vec<u32> {
    let mut seen: HashMap<&str, u32, foldhash::fast::RandomState> = HashMap::default();
    let mut first = |(position, signal): (u32, &crate::intake::Signal)| {
        if signal.stated_id.is_empty() || chaos::bug(Bug::SkipByPosition) {
            return position;
        }
        *seen.entry(batch.text(signal.stated_id)).or_insert(position)
    };
    (0..).zip(batch.signals()).map(&mut first).collect()
}
