//! The slots and signals of a batch that the ledger knows already. Pure.

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

/// All that may not lead. The ledger knows a signal by its id, so whoever states the same id may not lead either: else each record of a
/// producer with a constant id would cost a claim of its own.
#[derive(Debug, Clone, Default)]
pub struct Skips {
    skips: HashSet<Skip>,
    /// For signals whose id an earlier signal of the batch states too: that one's position.
    first_of: HashMap<u32, u32>,
}

impl Skips {
    /// Adds what the ledger knows of a batch.
    pub fn add(&mut self, batch: &Batch, skips: impl IntoIterator<Item = Skip>) {
        if self.skips.is_empty() {
            self.first_of = first_of(batch);
        }
        let Self { first_of, .. } = self;
        self.skips.extend(skips.into_iter().map(|skip| Skip { signal: first(first_of, skip.signal), ..skip }));
    }

    /// Whether the ledger knows the signal for the slot.
    #[inline]
    pub(super) fn contains(&self, skip: Skip) -> bool {
        !self.skips.is_empty() && self.skips.contains(&Skip { signal: first(&self.first_of, skip.signal), ..skip })
    }
}

#[cfg(test)]
impl FromIterator<Skip> for Skips {
    fn from_iter<I: IntoIterator<Item = Skip>>(skips: I) -> Self {
        Self { skips: skips.into_iter().collect(), first_of: HashMap::new() }
    }
}

fn first(first_of: &HashMap<u32, u32>, signal: u32) -> u32 {
    first_of.get(&signal).copied().unwrap_or(signal)
}

fn first_of(batch: &Batch) -> HashMap<u32, u32> {
    let mut first_with: HashMap<&str, u32> = HashMap::new();
    let mut first_of = HashMap::new();
    for (position, signal) in (0..).zip(batch.signals()) {
        let id = batch.text(signal.stated_id);
        // Without an id each signal is one of its own.
        if id.is_empty() || chaos::bug(Bug::SkipByPosition) {
            continue;
        }
        let first = *first_with.entry(id).or_insert(position);
        if first != position {
            first_of.insert(position, first);
        }
    }
    first_of
}
