//! A batch on its way to its decision: one statement, or several if it wants very many slots. Pure.
//!
//! Cut by slots, not by records: the batch is matched once, each slot is asked for once, and who leads it does not hang on
//! where the cuts are. The parts that go on move no offset and count no record; the last one does both.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::Terms;
use crate::intake::{Batch, PartitionSpan, Reason, Rejected};
use crate::rules::{Matches, PartitionCounts, RuleSet, Skip, Skips, WHOLE};
use crate::store::{ClaimRequest, Claimed, Wanted};
use crate::tasks::{Pieces, Texts};

/// Bytes of arguments in one statement, near enough: metadata may be large, and there is one copy for each slot.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Records, by partition and offset, that lead triggers though no offset has passed them.
pub(super) type Begun = HashSet<(i32, i64)>;

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) batch: Batch,
    pub(super) matches: Matches,
    /// What its parts came to so far.
    pub(super) sums: Sums,
    /// Whether tasks are told only what their leading signal says: the store has refused a text, maybe of a signal that joined.
    own_words: bool,
    skips: Skips,
    /// Candidates before this one are decided.
    next: usize,
    /// Signals that lead triggers already.
    begun: HashSet<u32>,
    /// Signals that lead decided slots, and whether the ledger knew them for all of these.
    leads: HashMap<u32, bool>,
}

/// What the parts of a batch came to.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) parts: u32,
    pub(super) enqueued: usize,
    pub(super) known: usize,
    pub(super) unknown_statuses: BTreeSet<String>,
}

impl AsRef<Batch> for Pass {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

impl Pass {
    /// Matches a batch.
    pub(super) fn new(batch: Batch, rules: &Arc<RuleSet>, terms: &Terms, begun: &Begun) -> Self {
        let (skips, begun) = (Skips::default(), positions(&batch, begun));
        let matches = rules.match_begun(&batch, terms.scope, &skips, &begun);
        Self { batch, matches, sums: Sums::default(), own_words: false, skips, next: 0, begun, leads: HashMap::new() }
    }

    /// Whether one statement cannot decide what is left.
    pub(super) fn is_wide(&self, terms: &Terms) -> bool {
        self.matches.candidates.len() - self.next > terms.most_slots
    }

    /// What the store is asked next: as many slots as one statement should decide.
    pub(super) fn request(&self, publication_id: Uuid, terms: &Terms) -> ClaimRequest {
        let (wanted, pieces) = self.wanted(terms);
        let is_last = self.next + wanted.len() == self.matches.candidates.len();
        // Where a record leads triggers already, it is for us to count: the statement sees only its own slots.
        let in_one = self.next == 0 && is_last && self.begun.is_empty();
        let goes_on = !in_one && !wanted.is_empty();
        ClaimRequest { publication_id, spans: self.spans(), wanted, pieces, goes_on }
    }

    fn wanted(&self, terms: &Terms) -> (Vec<Wanted>, Pieces) {
        let Self { batch, matches, .. } = self;
        let mut texts = Texts::new(&terms.celery, &terms.topic, terms.ids, batch, matches).in_own_words(self.own_words);
        let mut bytes = 0;
        let mut wanted = Vec::with_capacity((matches.candidates.len() - self.next).min(terms.most_slots));
        for candidate in matches.candidates[self.next..].iter().take(terms.most_slots) {
            if bytes > MOST_BYTES {
                break;
            }
            let signal = &batch.signals()[candidate.signal as usize];
            let ticker = if candidate.ticker == WHOLE { "" } else { batch.text(batch.mention(candidate.first).ticker) };
            let text = texts.text(candidate, ticker);
            bytes += texts.len_of(&text);
            wanted.push(Wanted {
                text,
                pipeline_id: matches.rules.pipeline_id(candidate.pipeline),
                ticker: ticker.to_owned(),
                partition: signal.partition,
                offset: signal.offset,
                record_time_ms: signal.record_time_ms,
                shared: candidate.shared,
            });
        }
        (wanted, texts.into_pieces())
    }

    /// The records, and what is known of them before the claim.
    fn spans(&self) -> Vec<(PartitionSpan, PartitionCounts)> {
        let mut counts = self.matches.counts.clone();
        for (signal, is_known) in &self.leads {
            let count = counts.entry(self.batch.signals()[*signal as usize].partition).or_default();
            match (self.begun.contains(signal), is_known) {
                (true, _) => count.triggered += 1,
                (false, true) => count.redelivered += 1,
                (false, false) => count.busy += 1,
            }
        }
        let spans = self.batch.offsets.spans().iter();
        spans.map(|span| (*span, counts.get(&span.partition).copied().unwrap_or_default())).collect()
    }

    /// Takes an answer in.
    pub(super) fn decided(&mut self, request: &ClaimRequest, claimed: &Claimed, begun: &mut Begun) {
        self.sums.parts += 1;
        self.sums.enqueued += claimed.won.len();
        self.sums.known += claimed.known.len();
        self.sums.unknown_statuses.extend(claimed.unknown_statuses.iter().cloned());
        if !request.goes_on {
            for span in self.batch.offsets.spans() {
                begun.retain(|(partition, offset)| *partition != span.partition || *offset >= span.next_offset);
            }
            return;
        }
        let candidates = &self.matches.candidates[self.next..self.next + request.wanted.len()];
        for (position, candidate) in candidates.iter().enumerate() {
            *self.leads.entry(candidate.signal).or_insert(true) &= claimed.known.binary_search(&position).is_ok();
        }
        for won in &claimed.won {
            self.begun.insert(candidates[*won].signal);
            begun.insert((request.wanted[*won].partition, request.wanted[*won].offset));
        }
        self.next += request.wanted.len();
    }

    /// The signals that lead some of the slots that were asked for.
    pub(super) fn leaders(&self, positions: &[usize]) -> impl Iterator<Item = u32> {
        positions.iter().map(|position| self.matches.candidates[self.next + position].signal)
    }

    /// Lets other signals lead where the ledger knows the first. Slots that are decided keep their leaders.
    pub(super) fn skip(&mut self, known: &[usize], terms: &Terms) {
        let skips = known.iter().map(|position| {
            let candidate = &self.matches.candidates[self.next + position];
            Skip { pipeline: candidate.pipeline, ticker: candidate.ticker, signal: candidate.signal }
        });
        self.skips.add(&self.batch, skips);
        self.matches = self.matches.rules.match_begun(&self.batch, terms.scope, &self.skips, &self.begun);
    }

    /// Leaves out of all texts what joined signals say. `false` if that was done before: then the leading signals are the bad ones.
    pub(super) fn use_own_words(&mut self) -> bool {
        !std::mem::replace(&mut self.own_words, true)
    }

    /// Takes signals whose text cannot be stored for bad records, and begins anew: what was decided is found again.
    pub(super) fn refuse(&mut self, refused: &[usize], terms: &Terms, begun: &Begun) -> Vec<Rejected> {
        let signals = refused.iter().map(|position| self.matches.candidates[self.next + position].signal).collect();
        let refused = self.batch.refuse(&signals, Reason::Unstorable).to_vec();
        self.restart(terms, begun);
        refused
    }

    /// Begins anew, for positions have moved.
    pub(super) fn restart(&mut self, terms: &Terms, begun: &Begun) {
        self.skips = Skips::default();
        self.leads.clear();
        self.next = 0;
        self.begun = positions(&self.batch, begun);
        self.matches = self.matches.rules.match_begun(&self.batch, terms.scope, &self.skips, &self.begun);
    }
}

/// Which signals of the batch lead triggers already.
fn positions(batch: &Batch, begun: &Begun) -> HashSet<u32> {
    if begun.is_empty() {
        return HashSet::new();
    }
    let is_begun = |(position, signal): (u32, &crate::intake::Signal)| {
        begun.contains(&(signal.partition, signal.offset)).then_some(position)
    };
    (0..).zip(batch.signals()).filter_map(is_begun).collect()
}

#[cfg(test)]
mod tests;
