//! The rules by ticker: what a signal costs depends on the pipelines that match it, never on the number that exist.
//!
//! Written by hand (docs/adr/0002): one array of pipeline numbers, sorted by ticker, and a table from ticker to its
//! range (names.rs). Built whole for each refresh and swapped by pointer; never changed afterwards.

use std::ops::Range;

use serde::Serialize;
use uuid::Uuid;

use super::names::Names;
use super::rule::{Rule, Subscription};
use crate::intake::ticker_key;

/// Whose a pipeline is. Most platforms name their users by UUIDs, which take a third of their text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Owner {
    /// A UUID, whose usual text is the name.
    Id(Uuid),
    /// Any other name.
    Name(Box<str>),
}

impl From<String> for Owner {
    fn from(name: String) -> Self {
        // A worker must be told the very text that the platform wrote.
        match Uuid::try_parse(&name).ok().filter(|id| *id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *name) {
            Some(id) => Self::Id(id),
            None => Self::Name(name.into_boxed_str()),
        }
    }
}

/// The number that no word has: whatever a signal says is accepted.
pub(super) const ANY: u32 = u32::MAX;

/// A subscription, with its texts by their numbers: what a signal says is looked up once, not compared again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub(super) signal_type: u32,
    pub(super) timeframe: u32,
    /// Minus infinity where none is needed.
    pub(super) min_confidence: f64,
}

/// A pipeline in the set.
#[derive(Debug, Clone)]
struct Pipeline {
    id: Uuid,
    owner: Option<Owner>,
    /// A range of what is subscribed.
    subscribed: (u32, u32),
}

/// Every rule at one moment.
#[derive(Debug, Default)]
pub struct RuleSet {
    pipelines: Vec<Pipeline>,
    /// By pipeline: whether it accepts whatever is said of its tickers.
    pub(super) takes_all: Vec<bool>,
    /// What the pipelines subscribe to, one after the other.
    subscribed: Vec<Accepted>,
    /// Signal types and timeframes of subscriptions.
    words: Names,
    /// Ticker to its number.
    tickers: Names,
    /// For each ticker number, where its watchers start; one more at the end.
    starts: Vec<u32>,
    watchers: Vec<u32>,
}

/// Rules on their way into an index. Each is taken apart as it is read: the names of tickers, which are most of it, are kept
/// once for all, and so are the words of subscriptions.
#[derive(Debug, Default)]
pub struct Rules {
    /// With the range of what each watches.
    pipelines: Vec<(Pipeline, (u32, u32))>,
    subscribed: Vec<Accepted>,
    words: Names,
    tickers: Names,
    /// What the pipelines watch, one after the other, by the numbers of the tickers.
    watched: Vec<u32>,
    /// By ticker number: its watchers so far, and the last of them.
    counts: Vec<(u32, u32)>,
}

impl Rules {
    /// Takes a rule in.
    pub fn add(&mut self, rule: Rule) {
        let pipeline = number(self.pipelines.len());
        let first_watched = number(self.watched.len());
        for ticker in rule.tickers {
            let ticker = self.tickers.number(ticker);
            if self.counts.len() < self.tickers.len() {
                self.counts.push((0, NOBODY));
            }
            let (count, last) = &mut self.counts[ticker as usize];
            // What a rule names twice it watches once.
            if *last != pipeline {
                (*count, *last) = (*count + 1, pipeline);
                self.watched.push(ticker);
            }
        }
        let first_subscribed = number(self.subscribed.len());
        for Subscription { signal_type, min_confidence, timeframe } in rule.subscriptions {
            let mut word = |text: Option<String>| text.map_or(ANY, |text| self.words.number(text));
            let (signal_type, timeframe) = (word(signal_type), word(timeframe));
            let min_confidence = min_confidence.unwrap_or(f64::NEG_INFINITY);
            self.subscribed.push(Accepted { signal_type, timeframe, min_confidence });
        }
        let subscribed = (first_subscribed, number(self.subscribed.len()));
        let pipeline = Pipeline { id: rule.pipeline_id, owner: rule.user_id.map(Owner::from), subscribed };
        self.pipelines.push((pipeline, (first_watched, number(self.watched.len()))));
    }

    /// The order of pipelines is that of their ids, which is also the order of claims.
    pub fn index(self) -> RuleSet {
        let Self { mut pipelines, mut subscribed, words, tickers, watched, counts } = self;
        pipelines.sort_unstable_by_key(|(pipeline, _)| pipeline.id);
        let mut starts = Vec::with_capacity(counts.len() + 1);
        starts.push(0);
        for (count, _) in &counts {
            starts.push(starts[starts.len() - 1] + count);
        }
        // Pipelines go to the places of their tickers in ascending order, so nothing is left to sort.
        let mut free = starts.clone();
        let mut watchers = vec![0; watched.len()];
        for (next, (_, (first, end))) in (0..).zip(&pipelines) {
            for ticker in &watched[*first as usize..*end as usize] {
                let place = &mut free[*ticker as usize];
                watchers[*place as usize] = next;
                *place += 1;
            }
        }
        drop((watched, free));
        // Copied, not changed in place: what is kept for long takes no more room than it needs.
        let mut ordered = Vec::with_capacity(pipelines.len());
        ordered.extend(pipelines.into_iter().map(|(pipeline, _)| pipeline));
        let takes_all = ordered.iter().map(|pipeline: &Pipeline| pipeline.subscribed.0 == pipeline.subscribed.1).collect();
        subscribed.shrink_to_fit();
        RuleSet { pipelines: ordered, takes_all, subscribed, words, tickers, starts, watchers }
    }
}

/// The number that no pipeline has.
const NOBODY: u32 = u32::MAX;

impl RuleSet {
    /// Indexes rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut taken = Rules::default();
        for rule in rules {
            taken.add(rule);
        }
        taken.index()
    }

    /// How many pipelines there are.
    pub fn len(&self) -> usize {
        self.pipelines.len()
    }

    /// Whether there is no pipeline.
    pub fn is_empty(&self) -> bool {
        self.pipelines.is_empty()
    }

    /// How many tickers are watched.
    pub fn tickers(&self) -> usize {
        self.tickers.len()
    }

    /// The number of a ticker, if anyone watches it.
    pub(super) fn ticker<'a>(&self, key: u64, name: impl Fn() -> &'a str) -> Option<u32> {
        self.tickers.find(key, name)
    }

    /// The pipelines that watch a ticker, in ascending order.
    pub(super) fn watchers(&self, ticker: u32) -> &[u32] {
        let range: Range<usize> = self.starts[ticker as usize] as usize..self.starts[ticker as usize + 1] as usize;
        &self.watchers[range]
    }

    /// The pipeline's id.
    pub fn pipeline_id(&self, pipeline: u32) -> Uuid {
        self.pipelines[pipeline as usize].id
    }

    /// The pipeline's owner.
    pub fn owner(&self, pipeline: u32) -> Option<&Owner> {
        self.pipelines[pipeline as usize].owner.as_ref()
    }

    /// What the pipeline subscribes to; nothing when it accepts everything.
    pub(super) fn subscribed(&self, pipeline: u32) -> &[Accepted] {
        let (first, end) = self.pipelines[pipeline as usize].subscribed;
        &self.subscribed[first as usize..end as usize]
    }

    /// The number of a word that a subscription has.
    pub(super) fn word(&self, text: &str) -> Option<u32> {
        self.words.find(ticker_key(text), || text)
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 4 billion pipelines fit in memory")
}
