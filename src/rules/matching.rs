//! A batch of signals against the rules: who would be triggered by what, each slot once.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::index::{ANY, RuleSet};
use crate::config::Scope;
use crate::intake::{Batch, Details, Mention, Signal};

/// Tickers that one trigger names at most; the rest of a very wide match is left out of `tickers`.
const MAX_TICKERS: usize = 256;
/// The ticker of a slot that is a whole pipeline.
pub const WHOLE: u32 = u32::MAX;

/// A slot that a batch wants to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The pipeline's number in the rule set.
    pub pipeline: u32,
    /// The ticker's number in the rule set, or [`WHOLE`].
    pub ticker: u32,
    /// The first signal of the batch that matched, by its position: the trigger is its.
    pub signal: u32,
    /// The last signal of the batch that matched.
    last: u32,
    /// Positions of the mentions that matched, each ticker once; the first is the symbol.
    pub mentions: Vec<u32>,
    /// Whether another signal of the batch matched the same slot.
    pub shared: bool,
}

/// A (slot, signal) that the ledger knows already, and that must not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Skip {
    /// The pipeline's number in the rule set.
    pub pipeline: u32,
    /// The ticker's number in the rule set, or [`WHOLE`].
    pub ticker: u32,
    /// The signal's position in the batch.
    pub signal: u32,
}

/// What is said about the records of one partition before their slots are claimed: mostly by matching alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Signals that no pipeline accepts.
    pub unmatched: i64,
    /// Signals all of whose matches went to slots for which an earlier signal of the batch leads.
    pub merged: i64,
    /// Signals that the ledger knows already for all slots that they would lead.
    pub redelivered: i64,
    /// Signals that lead a trigger of an earlier part of their batch.
    pub triggered: i64,
    /// Signals for which all parts of their batch found nothing but busy slots.
    pub busy: i64,
}

/// Everything that a batch matches.
#[derive(Debug)]
pub struct Matches {
    /// The rules that were asked.
    pub rules: Arc<RuleSet>,
    /// The slots, ascending by (pipeline id, ticker): the order of claims, against deadlocks.
    pub candidates: Vec<Candidate>,
    /// Counts by partition.
    pub counts: HashMap<i32, PartitionCounts>,
    /// How many (signal, slot) pairs matched.
    pub pairs: u64,
}

impl RuleSet {
    /// Matches a batch. `skips` may not lead; they are the ones that the store has found in its ledger.
    pub fn match_batch(self: &Arc<Self>, batch: &Batch, scope: Scope, skips: &HashSet<Skip>) -> Matches {
        self.match_begun(batch, scope, skips, &HashSet::new())
    }

    /// Matches a batch of which parts were decided before: `begun` signals, by their positions, lead triggers already.
    pub fn match_begun(self: &Arc<Self>, batch: &Batch, scope: Scope, skips: &HashSet<Skip>, begun: &HashSet<u32>) -> Matches {
        let mut matching = Matching {
            rules: self,
            batch,
            scope,
            skips,
            spoken: HashMap::default(),
            places: Vec::new(),
            whole: HashMap::default(),
            candidates: Vec::new(),
            pairs: 0,
        };
        let mut counts: HashMap<i32, PartitionCounts> = HashMap::new();
        let mut position = 0;
        // Records come in runs of one partition.
        for run in batch.signals().chunk_by(|a, b| a.partition == b.partition) {
            let count = counts.entry(run[0].partition).or_default();
            for signal in run {
                match matching.signal(position, signal) {
                    Outcome::Leads => {}
                    _ if begun.contains(&position) => count.triggered += 1,
                    Outcome::Unmatched => count.unmatched += 1,
                    Outcome::Merged => count.merged += 1,
                    Outcome::Known => count.redelivered += 1,
                }
                position += 1;
            }
        }
        let Matching { mut candidates, pairs, .. } = matching;
        // Pipelines are numbered in the order of their ids.
        candidates.sort_by(|a, b| {
            let ticker = |candidate: &Candidate| batch.text(batch.mention(candidate.mentions[0]).ticker);
            a.pipeline.cmp(&b.pipeline).then_with(|| ticker(a).cmp(ticker(b)))
        });
        Matches { rules: Arc::clone(self), candidates, counts, pairs }
    }
}

/// What matching alone says about a signal.
enum Outcome {
    Unmatched,
    /// It is the first of the batch for at least one slot.
    Leads,
    Merged,
    Known,
}

/// No candidate has this position.
const NONE: u32 = u32::MAX;

/// The state of matching one batch. Where many signals merge, each (signal, pipeline) pair costs a step along two lists:
/// the watchers of a ticker, and beside them what this batch has made of each.
struct Matching<'a> {
    rules: &'a RuleSet,
    batch: &'a Batch,
    scope: Scope,
    skips: &'a HashSet<Skip>,
    /// Ticker to where the places of its watchers begin. Those that the batch does not speak of have none.
    spoken: HashMap<u32, usize, foldhash::fast::RandomState>,
    /// For each of these watchers the position of the candidate that the ticker has become part of, or [`NONE`].
    places: Vec<u32>,
    /// Pipeline to its candidate's position, where a slot is a whole pipeline.
    whole: HashMap<u32, u32, foldhash::fast::RandomState>,
    candidates: Vec<Candidate>,
    pairs: u64,
}

impl Matching<'_> {
    fn signal(&mut self, position: u32, signal: &Signal) -> Outcome {
        let Self { rules, batch, .. } = *self;
        let (signal_type, timeframe) = (OnceCell::new(), OnceCell::new());
        let (mut leads, mut merges, mut known) = (false, false, false);
        for (mention_position, mention) in (signal.first_mention..).zip(batch.mentions(signal)) {
            let Some(ticker) = rules.ticker(mention.key, || batch.text(mention.ticker)) else { continue };
            let watchers = rules.watchers(ticker);
            let first = self.places_of(ticker, watchers.len());
            for (place, &pipeline) in (first..).zip(watchers) {
                if !rules.takes_all[pipeline as usize]
                    && !rules.accepts(pipeline, batch, signal, mention, &signal_type, &timeframe)
                {
                    continue;
                }
                match self.add(place, pipeline, ticker, position, mention_position) {
                    Some(Outcome::Leads) => leads = true,
                    Some(Outcome::Known) => known = true,
                    Some(_) => merges = true,
                    // The same signal matched the slot by another of its tickers.
                    None => {}
                }
            }
        }
        // Merged is only what is merged everywhere: what it would lead elsewhere has the same word, skipped here or known to the claim.
        match (leads, known, merges) {
            (true, ..) => Outcome::Leads,
            (_, true, _) => Outcome::Known,
            (_, _, true) => Outcome::Merged,
            _ => Outcome::Unmatched,
        }
    }

    /// Where the places of a ticker's watchers begin.
    fn places_of(&mut self, ticker: u32, watchers: usize) -> usize {
        let next = self.places.len();
        let first = *self.spoken.entry(ticker).or_insert(next);
        if first == next {
            self.places.resize(next + watchers, NONE);
        }
        first
    }

    fn add(&mut self, place: usize, pipeline: u32, ticker: u32, position: u32, mention: u32) -> Option<Outcome> {
        let slot_ticker = match self.scope {
            Scope::Pipeline => WHOLE,
            Scope::Ticker => ticker,
        };
        if !self.skips.is_empty() && self.skips.contains(&Skip { pipeline, ticker: slot_ticker, signal: position }) {
            return Some(Outcome::Known);
        }
        let mut at = self.places[place];
        if at == NONE {
            let next = u32::try_from(self.candidates.len()).expect("a batch is cut long before 4 billion candidates");
            at = match self.scope {
                Scope::Pipeline => *self.whole.entry(pipeline).or_insert(next),
                Scope::Ticker => next,
            };
            self.places[place] = at;
            if at == next {
                self.pairs += 1;
                let (ticker, mentions) = (slot_ticker, vec![mention]);
                self.candidates.push(Candidate { pipeline, ticker, signal: position, last: position, mentions, shared: false });
                return Some(Outcome::Leads);
            }
            // The pipeline's slot was wanted for other tickers so far.
            let mentions = &mut self.candidates[at as usize].mentions;
            if mentions.len() < MAX_TICKERS {
                mentions.push(mention);
            }
        }
        let candidate = &mut self.candidates[at as usize];
        if candidate.last == position {
            return None;
        }
        candidate.last = position;
        candidate.shared = true;
        self.pairs += 1;
        Some(Outcome::Merged)
    }
}

impl RuleSet {
    /// Whether a pipeline with subscriptions accepts what a signal says of one ticker that it watches. What the signal says of
    /// itself is looked up at most once, and only if somebody asks; its timeframe has to be read from the metadata for that.
    fn accepts(
        &self,
        pipeline: u32,
        batch: &Batch,
        signal: &Signal,
        mention: &Mention,
        signal_type: &OnceCell<Option<u32>>,
        timeframe: &OnceCell<Option<u32>>,
    ) -> bool {
        let signal_type = *signal_type.get_or_init(|| self.word(batch.text(signal.signal_type)));
        self.subscribed(pipeline).iter().any(|wanted| {
            (wanted.signal_type == ANY || Some(wanted.signal_type) == signal_type)
                && (wanted.min_confidence == f64::NEG_INFINITY
                    || mention.confidence.is_some_and(|confidence| confidence >= wanted.min_confidence))
                && (wanted.timeframe == ANY
                    || Some(wanted.timeframe)
                        == *timeframe.get_or_init(|| self.word(Details::read(batch.text(signal.payload)).timeframe()?.trim())))
        })
    }
}

#[cfg(test)]
mod tests;
