//! What the benchmarks are made from: rules, signals and tasks, the same in every run of every machine.

use std::time::Instant;

use serde_json::json;
use trigger_dispatcher::config::{CeleryConfig, Config, Environment, Scope};
use trigger_dispatcher::intake::{Batch, Record};
use trigger_dispatcher::rules::{Matches, Rule, RuleSet, Subscription};
use trigger_dispatcher::tasks::{IdSpace, Task, Texts};
use uuid::Uuid;

/// Tickers that there are.
pub(crate) const TICKERS: usize = 5_000;
/// Tickers that each pipeline watches.
const WATCHED: usize = 20;
/// Types of signals.
const TYPES: u64 = 16;

/// `SplitMix64`: no crate's generator promises the same numbers for ever.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or_default()
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}

/// How often a ticker is chosen, by pipelines and by signals alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Popularity {
    /// Each as often as any other.
    Uniform,
    /// The n-th most popular 1/n as often as the first.
    Zipf,
}

/// Chooses tickers.
pub(crate) struct Choice {
    /// For each ticker, how many of `u32::MAX` choices fall on it or one before.
    up_to: Vec<u64>,
}

impl Choice {
    pub(crate) fn new(popularity: Popularity) -> Self {
        let weight = |rank: usize| match popularity {
            Popularity::Uniform => 1_000_000_000,
            Popularity::Zipf => 1_000_000_000 / (rank as u64 + 1),
        };
        // Whole numbers: floating point would leave room for differences between machines.
        let up_to = (0..TICKERS).scan(0, |sum, rank| {
            *sum += weight(rank);
            Some(*sum)
        });
        Self { up_to: up_to.collect() }
    }

    fn ticker(&self, numbers: &mut Numbers) -> usize {
        let at = numbers.below(self.up_to[TICKERS - 1]);
        self.up_to.partition_point(|up_to| *up_to <= at)
    }
}

fn name(ticker: usize) -> String {
    format!("T{ticker:04}")
}

fn kind(numbers: &mut Numbers) -> String {
    format!("kind_{}", numbers.below(TYPES))
}

/// Pipelines that watch 20 tickers and subscribe to one to three of 16 types, half of them with a least confidence, an
/// eighth with a timeframe.
pub(crate) fn rules(pipelines: usize, popularity: Popularity) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(pipelines);
    each_rule(pipelines, popularity, |rule| rules.push(rule));
    rules
}

/// The same, one after the other.
pub(crate) fn each_rule(pipelines: usize, popularity: Popularity, mut take: impl FnMut(Rule)) {
    let (mut numbers, choice) = (Numbers::new(1), Choice::new(popularity));
    let mut rule = || {
        let mut watched = Vec::with_capacity(WATCHED);
        while watched.len() < WATCHED {
            let ticker = choice.ticker(&mut numbers);
            if !watched.contains(&ticker) {
                watched.push(ticker);
            }
        }
        let subscriptions = (0..=numbers.below(3)).map(|_| Subscription {
            signal_type: Some(kind(&mut numbers)),
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            min_confidence: (numbers.below(2) == 0).then(|| (50 + numbers.below(40)) as f64),
            timeframe: (numbers.below(8) == 0).then(|| "1d".to_owned()),
        });
        let subscriptions = subscriptions.collect();
        let tickers = watched.into_iter().map(name).collect();
        Rule { pipeline_id: numbers.uuid(), user_id: Some(numbers.uuid().to_string()), tickers, subscriptions }
    };
    for _ in 0..pipelines {
        take(rule());
    }
}

/// One pipeline each, for all signals of one ticker; and a hundred for another.
pub(crate) fn watchers_of_one(watchers: usize) -> Vec<Rule> {
    let mut numbers = Numbers::new(2);
    let mut rule = |ticker: usize| Rule {
        pipeline_id: numbers.uuid(),
        user_id: Some(numbers.uuid().to_string()),
        tickers: vec![name(ticker)],
        subscriptions: Vec::new(),
    };
    (0..watchers).map(|_| 0).chain((0..100).map(|_| 1)).map(&mut rule).collect()
}

/// A signal's payload: near 281 bytes with one ticker, as the whole-system benchmark sends it.
pub(crate) fn payload(number: usize, tickers: &[usize], kind: &str, confidence: u64) -> String {
    let mentions: Vec<_> = tickers
        .iter()
        .map(|ticker| json!({"ticker": name(*ticker), "signal": "BULLISH", "confidence": confidence, "reasoning": "SMA 50 above SMA 200"}))
        .collect();
    json!({
        "signal_id": format!("000000000000000-{number:08}"),
        "signal_type": kind,
        "source": "bench",
        "timestamp": "2026-01-05T14:30:00Z",
        "tickers": mentions,
        "metadata": {"sma_50": 187.25, "timeframe": "1d", "note": "abcdefghijklmnopabcdefghijklmnopab"},
    })
    .to_string()
}

/// Signals that speak of so many tickers each.
pub(crate) fn payloads(signals: usize, tickers: usize, popularity: Popularity) -> Vec<String> {
    let (mut numbers, choice) = (Numbers::new(3), Choice::new(popularity));
    let mut payload_of = |number| {
        let tickers: Vec<usize> = (0..tickers).map(|_| choice.ticker(&mut numbers)).collect();
        payload(number, &tickers, &kind(&mut numbers), 10 + numbers.below(90))
    };
    (0..signals).map(&mut payload_of).collect()
}

/// A batch of these records, from four partitions.
pub(crate) fn batch(payloads: &[impl AsRef<[u8]>], now: Instant) -> Batch {
    let headers = || Vec::new();
    let mut batch = Batch::default();
    for (number, payload) in (0_i64..).zip(payloads) {
        // In runs of one partition, as a fetch brings them.
        let partition = i32::try_from(number / 64 % 4).unwrap_or_default();
        let record = Record {
            partition,
            offset: number,
            time_ms: 1_767_623_400_000,
            key: None,
            payload: Some(payload.as_ref()),
            headers: &headers,
        };
        batch.push(&record, 1, i64::MIN, now);
    }
    batch
}

/// The tasks' configuration, with its defaults.
pub(crate) fn celery() -> CeleryConfig {
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("POSTGRES_USER", "user"),
        ("POSTGRES_PASSWORD", "password"),
        ("POSTGRES_HOST", "localhost"),
        ("POSTGRES_DB", "db"),
        ("CELERY_BROKER_URL", "redis://localhost"),
    ]);
    Config::read(&environment).expect("a valid configuration").celery
}

/// What all slots of a batch would be told, written as the loop writes it for a batch of which every slot is idle.
pub(crate) fn tasks(celery: &CeleryConfig, batch: &Batch, matches: &Matches) -> Vec<Task> {
    let mut texts = Texts::new(celery, "signals", IdSpace::FORMER, batch, matches);
    let told: Vec<_> = matches.candidates.iter().map(|candidate| texts.text(candidate, "")).collect();
    let pieces = texts.into_pieces();
    told.into_iter().map(|text| Task { trigger_id: text.trigger_id, kwargs: text.kwargs(&pieces) }).collect()
}

/// Matches a batch, a slot being a pipeline, nothing known before.
pub(crate) fn matched(rules: &std::sync::Arc<RuleSet>, batch: &Batch) -> Matches {
    rules.match_batch(batch, Scope::Pipeline, &trigger_dispatcher::rules::Skips::default())
}
