//! What is counted: each case prepares its data, and gives the work that is then done twice, first uncounted, so that
//! what happens once in a process (tables, first pages) is in no figure.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use trigger_dispatcher::rules::RuleSet;
use trigger_dispatcher::tasks::celery::Encoder;

use crate::support::{Popularity, batch, celery, matched, payloads, rules, tasks};

/// A case and the number of things that it does, by which its count is told.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The singular of what the count is divided by.
    pub(crate) unit: &'static str,
    prepare: fn() -> Work,
}

struct Work {
    things: usize,
    run: Box<dyn Fn()>,
}

impl Work {
    fn new(things: usize, run: impl Fn() + 'static) -> Self {
        Self { things, run: Box::new(run) }
    }
}

pub(crate) const CASES: [Case; 9] = [
    Case { name: "decode_one_ticker", unit: "signal", prepare: || decode(payloads(200, 1, Popularity::Uniform)) },
    Case { name: "decode_eight_tickers", unit: "signal", prepare: || decode(payloads(200, 8, Popularity::Uniform)) },
    Case { name: "decode_rejected", unit: "record", prepare: || decode(vec![r#"{"tickers": [{"ticker": ""#.to_owned(); 200]) },
    Case { name: "match_uniform_1k_pipelines", unit: "signal", prepare: || matching(1_000, 2_000, Popularity::Uniform) },
    Case { name: "match_uniform_10k_pipelines", unit: "signal", prepare: || matching(10_000, 200, Popularity::Uniform) },
    Case { name: "match_zipf_10k_pipelines", unit: "signal", prepare: || matching(10_000, 200, Popularity::Zipf) },
    Case { name: "index_10k_pipelines", unit: "pipeline", prepare: index },
    Case { name: "arguments", unit: "task", prepare: arguments },
    Case { name: "redis_message", unit: "task", prepare: messages },
];

/// The function whose instructions count. Valgrind finds it by this name.
#[inline(never)]
fn counted_work(run: &dyn Fn()) {
    run();
}

/// The name by which Valgrind finds it.
pub(crate) const COUNTED: &str = "*counted_work*";

impl Case {
    /// Does the work, and says of how many things it is.
    pub(crate) fn run(&self) -> usize {
        let work = (self.prepare)();
        (work.run)();
        counted_work(&work.run);
        work.things
    }
}

#[expect(clippy::disallowed_methods, reason = "a batch wants an instant; no count hangs on it")]
fn decode(payloads: Vec<String>) -> Work {
    let now = Instant::now();
    Work::new(payloads.len(), move || drop(black_box(batch(&payloads, now))))
}

#[expect(clippy::disallowed_methods, reason = "a batch wants an instant; no count hangs on it")]
fn matching(pipelines: usize, signals: usize, popularity: Popularity) -> Work {
    let rules = Arc::new(RuleSet::new(rules(pipelines, popularity)));
    let batch = batch(&payloads(signals, 1, popularity), Instant::now());
    Work::new(signals, move || drop(black_box(matched(&rules, &batch))))
}

/// With the copy of the rules that building consumes.
fn index() -> Work {
    let rules = rules(10_000, Popularity::Zipf);
    Work::new(rules.len(), move || drop(black_box(RuleSet::new(rules.clone()))))
}

#[expect(clippy::disallowed_methods, reason = "a batch wants an instant; no count hangs on it")]
fn arguments() -> Work {
    let (celery, rules) = (celery(), Arc::new(RuleSet::new(rules(1_000, Popularity::Uniform))));
    let batch = batch(&payloads(1_000, 1, Popularity::Uniform), Instant::now());
    let matches = matched(&rules, &batch);
    Work::new(matches.candidates.len(), move || drop(black_box(tasks(&celery, &batch, &matches))))
}

#[expect(clippy::disallowed_methods, reason = "a batch wants an instant; no count hangs on it")]
fn messages() -> Work {
    let (celery, rules) = (celery(), Arc::new(RuleSet::new(rules(1_000, Popularity::Uniform))));
    let batch = batch(&payloads(1_000, 1, Popularity::Uniform), Instant::now());
    let tasks = tasks(&celery, &batch, &matched(&rules, &batch));
    let encoder = Encoder::new(&celery);
    Work::new(tasks.len(), move || drop(black_box(encoder.redis_messages(&tasks, Timestamp::UNIX_EPOCH))))
}
