//! A batch of signals against the rules: who would be triggered by what, each slot once.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::direction::{Direction, Relation};
use super::index::{ANY, RuleSet};
use super::skips::{Skip, Skips};
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
    /// The position of the first mention that matched: its ticker is the symbol.
    pub first: u32,
    /// For each ticker that matched, the position of what joined (see [`Matches::mentions`]).
    tickers: Vec<u32>,
    /// Whether another signal of the batch matched the same slot.
    pub shared: bool,
}

/// What is said about the records of one partition before their slots are claimed: mostly by matching alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionCounts {
    /// Signals that no pipeline accepts.
    pub unmatched: i64,
    /// Signals all of whose matches joined slots for which an earlier signal of the batch leads.
    pub merged: i64,
    /// Signals that the ledger knows already for all slots that they would lead.
    pub redelivered: i64,
    /// Signals that lead a trigger of an earlier part of their batch.
    pub triggered: i64,
    /// Signals that lead nothing and oppose a slot's leader, and those for which all parts of their batch found only busy slots.
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
    joined: Vec<Joined>,
}

impl Matches {
    /// For each ticker of a candidate, in the order in which they came, the position of its newest mention in the direction
    /// that the candidate has for it.
    pub fn mentions(&self, candidate: &Candidate) -> impl Iterator<Item = u32> {
        candidate.tickers.iter().map(|joined| self.joined[*joined as usize].newest)
    }
}

impl RuleSet {
    /// Matches a batch. `skips` may not lead; they are the ones that the store has found in its ledger.
    pub fn match_batch(self: &Arc<Self>, batch: &Batch, scope: Scope, skips: &Skips) -> Matches {
        self.match_begun(batch, scope, skips, &HashSet::new())
    }

    /// Matches a batch of which parts were decided before: `begun` signals, by their positions, lead triggers already.
    pub fn match_begun(self: &Arc<Self>, batch: &Batch, scope: Scope, skips: &Skips, begun: &HashSet<u32>) -> Matches {
        let mut matching = Matching {
            rules: self,
            batch,
            scope,
            skips,
            spoken: HashMap::default(),
            places: Vec::new(),
            joined: Vec::new(),
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
                    Outcome::Opposed => count.busy += 1,
                }
                position += 1;
            }
        }
        let Matching { mut candidates, pairs, joined, .. } = matching;
        // Pipelines are numbered in the order of their ids.
        candidates.sort_by(|a, b| {
            let ticker = |candidate: &Candidate| batch.text(batch.mention(candidate.first).ticker);
            a.pipeline.cmp(&b.pipeline).then_with(|| ticker(a).cmp(ticker(b)))
        });
        Matches { rules: Arc::clone(self), candidates, counts, pairs, joined }
    }
}

/// What matching alone says about a signal.
enum Outcome {
    Unmatched,
    /// It is the first of the batch for at least one slot.
    Leads,
    Merged,
    Known,
    /// It gives a ticker another direction than the slot's trigger does.
    Opposed,
}

/// Nothing has this position.
const NONE: u32 = u32::MAX;

/// A ticker that has become part of a candidate.
#[derive(Debug, Clone, Copy)]
struct Joined {
    /// The candidate's position.
    candidate: u32,
    /// The newest mention that joined; one with a direction, if any of them has one.
    newest: u32,
}

/// What a batch says of a ticker.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    /// Where the places of its watchers begin.
    first: usize,
    /// The first mention.
    mention: u32,
    /// Whether all mentions so far say the same of its direction. Then no place has to compare them.
    agrees: bool,
}

/// The state of matching one batch. Where many signals merge, each (signal, pipeline) pair costs a step along two lists:
/// the watchers of a ticker, and beside them what this batch has made of each.
struct Matching<'a> {
    rules: &'a RuleSet,
    batch: &'a Batch,
    scope: Scope,
    skips: &'a Skips,
    /// The tickers that the batch speaks of.
    spoken: HashMap<u32, Spoken, foldhash::fast::RandomState>,
    /// For each watcher of these tickers the position of what has joined its candidate, or [`NONE`].
    places: Vec<u32>,
    joined: Vec<Joined>,
    /// Pipeline to its candidate's position, where a slot is a whole pipeline.
    whole: HashMap<u32, u32, foldhash::fast::RandomState>,
    candidates: Vec<Candidate>,
    pairs: u64,
}

impl Matching<'_> {
    fn signal(&mut self, position: u32, signal: &Signal) -> Outcome {
        let Self { rules, batch, .. } = *self;
        let (signal_type, timeframe) = (OnceCell::new(), OnceCell::new());
        let (mut leads, mut merges, mut known, mut opposed) = (false, false, false, false);
        for (mention_position, mention) in (signal.first_mention..).zip(batch.mentions(signal)) {
            let Some(ticker) = rules.ticker(mention.key, || batch.text(mention.ticker)) else { continue };
            let watchers = rules.watchers(ticker);
            let Spoken { first, agrees, .. } = self.spoken_of(ticker, watchers.len(), mention_position);
            let mut direction = Direction::new(mention_position, agrees);
            for (place, &pipeline) in (first..).zip(watchers) {
                if !rules.takes_all[pipeline as usize]
                    && !rules.accepts(pipeline, batch, signal, mention, &signal_type, &timeframe)
                {
                    continue;
                }
                match self.add(place, pipeline, ticker, position, &mut direction) {
                    Some(Outcome::Leads) => leads = true,
                    Some(Outcome::Known) => known = true,
                    Some(Outcome::Opposed) => opposed = true,
                    Some(_) => merges = true,
                    // The same signal matched the slot by another of its mentions.
                    None => {}
                }
            }
        }
        // A signal that leads elsewhere is counted by the claim, whose word for it must not depend on what was skipped. Merged is
        // only what is merged everywhere: nothing of it is lost (docs/adr/0006).
        match (leads, known, opposed, merges) {
            (true, ..) => Outcome::Leads,
            (_, true, ..) => Outcome::Known,
            (_, _, true, _) => Outcome::Opposed,
            (.., true) => Outcome::Merged,
            _ => Outcome::Unmatched,
        }
    }

    /// What the batch says of a ticker, this mention included.
    #[inline]
    fn spoken_of(&mut self, ticker: u32, watchers: usize, mention: u32) -> Spoken {
        let Self { batch, places, spoken, .. } = self;
        let next = places.len();
        let spoken = spoken.entry(ticker).or_insert(Spoken { first: next, mention, agrees: true });
        if spoken.first == next {
            places.resize(next + watchers, NONE);
        } else if spoken.agrees {
            spoken.agrees = Relation::between(batch, spoken.mention, mention) == Relation::Same;
        }
        *spoken
    }

    #[inline]
    fn add(&mut self, place: usize, pipeline: u32, ticker: u32, position: u32, direction: &mut Direction) -> Option<Outcome> {
        let mention = direction.mention;
        let slot_ticker = match self.scope {
            Scope::Pipeline => WHOLE,
            Scope::Ticker => ticker,
        };
        if self.skips.contains(Skip { pipeline, ticker: slot_ticker, signal: position }) {
            return Some(Outcome::Known);
        }
        let mut outcome = Outcome::Merged;
        let noted = self.places[place];
        let at = if noted == NONE {
            let next = position_of(self.candidates.len());
            let at = match self.scope {
                Scope::Pipeline => *self.whole.entry(pipeline).or_insert(next),
                Scope::Ticker => next,
            };
            let noted = position_of(self.joined.len());
            self.joined.push(Joined { candidate: at, newest: mention });
            self.places[place] = noted;
            if at == next {
                self.pairs += 1;
                let (ticker, tickers) = (slot_ticker, vec![noted]);
                let (signal, last, first, shared) = (position, position, mention, false);
                self.candidates.push(Candidate { pipeline, ticker, signal, last, first, tickers, shared });
                return Some(Outcome::Leads);
            }
            // The pipeline's slot was wanted for other tickers so far.
            let tickers = &mut self.candidates[at as usize].tickers;
            if tickers.len() < MAX_TICKERS {
                tickers.push(noted);
            }
            at
        } else {
            let joined = &mut self.joined[noted as usize];
            match direction.beside(self.batch, joined.newest) {
                Relation::Same | Relation::Stated => joined.newest = mention,
                Relation::Unstated => {}
                Relation::Opposite => outcome = Outcome::Opposed,
            }
            joined.candidate
        };
        let candidate = &mut self.candidates[at as usize];
        if candidate.last == position {
            return Some(outcome).filter(|outcome| matches!(outcome, Outcome::Opposed));
        }
        candidate.last = position;
        // Also where it is opposed: it leads if the ledger knows the one that leads now.
        candidate.shared = true;
        self.pairs += 1;
        Some(outcome)
    }
}

fn position_of(length: usize) -> u32 {
    u32::try_from(length).expect("a batch is cut long before 4 billion candidates and tickers of theirs")
}

impl RuleSet {
    /// Whether a pipeline with subscriptions accepts what a signal says of one ticker that it watches. What the signal says of
    /// itself is looked up at most once, and only if somebody asks; its timeframe has to be read from the metadata for that.
    #[inline]
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
