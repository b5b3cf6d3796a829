//! The rules by ticker: what a signal costs depends on the pipelines that match it, never on the number that exist.
//!
//! Written by hand (docs/adr/0002): one array of pipeline numbers, sorted by ticker, and a table from ticker to its
//! range (names.rs). Built whole for each refresh and swapped by pointer; never changed afterwards.

use std::ops::Range;

use uuid::Uuid;

use super::names::Names;
use super::rule::{Rule, Subscription};

/// A pipeline in the set.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) id: Uuid,
    pub(super) user_id: Option<Box<str>>,
    pub(super) subscriptions: Box<[Subscription]>,
}

/// Every rule at one moment.
#[derive(Debug, Default)]
pub struct RuleSet {
    pub(super) pipelines: Vec<Pipeline>,
    /// By pipeline: whether it accepts whatever is said of its tickers.
    pub(super) takes_all: Vec<bool>,
    /// Ticker to its number.
    tickers: Names,
    /// For each ticker number, where its watchers start; one more at the end.
    starts: Vec<u32>,
    watchers: Vec<u32>,
}

/// Rules on their way into an index. Each is taken apart as it is read: the names of tickers, which are most of it, are kept
/// once for all.
#[derive(Debug, Default)]
pub struct Rules {
    pipelines: Vec<(u32, Pipeline)>,
    tickers: Names,
    /// Ticker and pipeline.
    pairs: Vec<(u32, u32)>,
}

impl Rules {
    /// Takes a rule in.
    pub fn add(&mut self, rule: Rule) {
        let pipeline = number(self.pipelines.len());
        for ticker in rule.tickers {
            self.pairs.push((self.tickers.number(ticker), pipeline));
        }
        let user_id = rule.user_id.map(String::into_boxed_str);
        let subscriptions = rule.subscriptions.into_boxed_slice();
        self.pipelines.push((pipeline, Pipeline { id: rule.pipeline_id, user_id, subscriptions }));
    }

    /// The order of pipelines is that of their ids, which is also the order of claims.
    pub fn index(self) -> RuleSet {
        let Self { mut pipelines, tickers, mut pairs } = self;
        pipelines.sort_unstable_by_key(|(_, pipeline)| pipeline.id);
        let mut numbers = vec![0; pipelines.len()];
        for (next, (number, _)) in (0..).zip(&pipelines) {
            numbers[*number as usize] = next;
        }
        for (_, pipeline) in &mut pairs {
            *pipeline = numbers[*pipeline as usize];
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; tickers.len() + 1];
        for (ticker, _) in &pairs {
            starts[*ticker as usize + 1] += 1;
        }
        for ticker in 1..starts.len() {
            starts[ticker] += starts[ticker - 1];
        }
        // Copied, not changed in place: what is kept for long takes no more room than it needs.
        let mut watchers = Vec::with_capacity(pairs.len());
        watchers.extend(pairs.iter().map(|(_, pipeline)| *pipeline));
        let mut ordered = Vec::with_capacity(pipelines.len());
        ordered.extend(pipelines.into_iter().map(|(_, pipeline)| pipeline));
        let takes_all = ordered.iter().map(|pipeline| pipeline.subscriptions.is_empty()).collect();
        RuleSet { pipelines: ordered, takes_all, tickers, starts, watchers }
    }
}

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
    pub fn user_id(&self, pipeline: u32) -> Option<&str> {
        self.pipelines[pipeline as usize].user_id.as_deref()
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 4 billion pipelines fit in memory")
}
