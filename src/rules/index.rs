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

impl RuleSet {
    /// Indexes rules. The order of pipelines is that of their ids, which is also the order of claims.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_unstable_by_key(|rule| rule.pipeline_id);
        let mut tickers = Names::default();
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut pipelines: Vec<Pipeline> = Vec::with_capacity(rules.len());
        for rule in rules {
            let pipeline = number(pipelines.len());
            for ticker in rule.tickers {
                pairs.push((tickers.number(ticker), pipeline));
            }
            pipelines.push(Pipeline {
                id: rule.pipeline_id,
                user_id: rule.user_id.map(String::into_boxed_str),
                subscriptions: rule.subscriptions.into_boxed_slice(),
            });
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
        let takes_all = pipelines.iter().map(|pipeline| pipeline.subscriptions.is_empty()).collect();
        let watchers = pairs.into_iter().map(|(_, pipeline)| pipeline).collect();
        Self { pipelines, takes_all, tickers, starts, watchers }
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
