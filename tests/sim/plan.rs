//! What happens in a schedule, drawn from its seed: the records, the rules, and how bad the luck is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use trigger_dispatcher::config::Scope;
use trigger_dispatcher::intake::memory::MemoryRecord;
use trigger_dispatcher::rules::{Rule, RuleSet};
use trigger_dispatcher::store::refresh::SharedRules;
use uuid::Uuid;

use crate::faults::Rates;

/// How long before the end of its lease a task expires.
pub(crate) const MARGIN: Duration = Duration::from_millis(2_500);
/// The last one is watched by nobody.
const TICKERS: [&str; 5] = ["AAPL", "MSFT", "NVDA", "TSLA", "IBM"];
/// The id of a producer that knows no other.
pub(crate) const ONE_ID: &str = "None";
const MALFORMED: [&[u8]; 6] =
    [b"", b"not json", b"[1, 2]", b"{\"tickers\": []}", b"{\"tickers\": [{\"ticker\": 7}]}", b"{\"a\": \"\xff\"}"];

/// A record, as its producer knows it.
#[derive(Debug, Clone)]
pub(crate) struct Produced {
    pub(crate) partition: usize,
    /// What makes two records the same signal.
    pub(crate) signal: String,
    /// None if the record is bad.
    pub(crate) tickers: Vec<&'static str>,
    /// What it says of each of them; empty if nothing.
    pub(crate) directions: Vec<&'static str>,
    pub(crate) record: MemoryRecord,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) partitions: usize,
    pub(crate) instances: usize,
    pub(crate) scope: Scope,
    pub(crate) lease: Duration,
    /// Deployments that share the store and the pipelines, and nothing else.
    pub(crate) deployments: usize,
    /// Signals may not be older, at claim and at each publish.
    pub(crate) max_age: Option<Duration>,
    /// How far the workers' clocks are behind; never more than the margin.
    pub(crate) worker_behind: Duration,
    /// Whether workers keep results that the sweepers ask for.
    pub(crate) results: bool,
    /// How often the service is rolled back to another one of the same group, and forward again.
    pub(crate) rollbacks: u32,
    /// How often a step lets all workers stand still for a while.
    pub(crate) worker_pauses: f64,
    /// How often a step begins an outage of the broker.
    pub(crate) broker_outages: f64,
    /// Slots that one statement decides at most.
    pub(crate) most_slots: usize,
    /// Tasks that leave before the next batch is asked for.
    pub(crate) waited_for: usize,
    /// Whether the broker may lose tasks, and sweepers look for tasks that never started.
    pub(crate) broker_forgets: bool,
    pub(crate) message_loss: f64,
    /// How often a worker takes a task when it could.
    pub(crate) worker_pace: f64,
    pub(crate) steps: u32,
    pub(crate) crashes: u32,
    pub(crate) rates: Rates,
    /// What each pipeline watches.
    pub(crate) watched: BTreeMap<Uuid, Vec<&'static str>>,
    pub(crate) records: Vec<Produced>,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let partitions = random.random_range(1..=4);
        let pipeline = |number: u128, random: &mut StdRng| {
            let count = random.random_range(1..=2);
            (Uuid::from_u128(number + 1), TICKERS[..4].choose_multiple(random, count).copied().collect())
        };
        let pipelines = random.random_range(1..=4);
        let watched = (0..pipelines).map(|number| pipeline(number, &mut random)).collect();
        let broker_forgets = random.random_bool(0.4);
        // Some producers have one id for whatever they send.
        let one_id = *[0.0, 0.0, 0.3, 0.9].choose(&mut random).unwrap();
        let records = records(&mut random, partitions, one_id);
        let plan = Self {
            partitions,
            instances: random.random_range(2..=3),
            scope: if random.random_bool(0.7) { Scope::Pipeline } else { Scope::Ticker },
            // A short one runs out in the middle of things.
            lease: Duration::from_secs(if random.random_bool(0.3) { 25 } else { 3_600 }),
            deployments: if random.random_bool(0.3) { 2 } else { 1 },
            max_age: if random.random_bool(0.3) { Some(Duration::from_secs(30)) } else { None },
            worker_behind: if random.random_bool(0.5) { MARGIN } else { Duration::ZERO },
            results: random.random_bool(0.5),
            rollbacks: *[0, 0, 1, 2].choose(&mut random).unwrap(),
            worker_pauses: *[0.0, 0.01].choose(&mut random).unwrap(),
            broker_outages: *[0.0, 0.005, 0.02].choose(&mut random).unwrap(),
            most_slots: *[1, 2, 4_000].choose(&mut random).unwrap(),
            waited_for: *[0, 1, 100].choose(&mut random).unwrap(),
            broker_forgets,
            message_loss: if broker_forgets { *[0.15, 0.3, 0.5].choose(&mut random).unwrap() } else { 0.0 },
            worker_pace: *[1.0, 1.0, 0.3, 0.03].choose(&mut random).unwrap(),
            steps: random.random_range(150..=700),
            crashes: random.random_range(0..=4),
            rates: Rates {
                error_before: *[0.0, 0.05, 0.3].choose(&mut random).unwrap(),
                lost_reply: *[0.0, 0.05, 0.3].choose(&mut random).unwrap(),
                late_effect: *[0.0, 0.0, 0.1].choose(&mut random).unwrap(),
                most_slots: *[1, 2, usize::MAX, usize::MAX].choose(&mut random).unwrap(),
                longest_delay: random.random_range(0..=4),
            },
            watched,
            records,
        };
        if random.random_bool(0.15) { plan.with_slow_workers() } else { plan }
    }

    /// Tasks wait in the queue for longer than a lease, so attempts of the same trigger wait there together.
    fn with_slow_workers(self) -> Self {
        Self {
            lease: Duration::from_secs(25),
            max_age: None,
            broker_forgets: true,
            message_loss: 0.0,
            worker_pace: 0.5,
            worker_pauses: 0.03,
            results: true,
            steps: 700,
            ..self
        }
    }

    /// The loop takes records with [`ONE_ID`] for records with different ids, and the store does not.
    pub(crate) fn with_numbered_ids(mut self) -> Self {
        for (number, produced) in self.records.iter_mut().enumerate().filter(|(_, produced)| produced.signal == ONE_ID) {
            let payload = String::from_utf8(produced.record.payload.take().unwrap()).unwrap();
            produced.record.payload = Some(payload.replace(ONE_ID, &format!("{ONE_ID}#{number}")).into_bytes());
        }
        self
    }

    pub(crate) fn rules(&self) -> SharedRules {
        let rule = |(pipeline_id, tickers): (&Uuid, &Vec<&str>)| Rule {
            pipeline_id: *pipeline_id,
            user_id: None,
            tickers: tickers.iter().map(|ticker| (*ticker).to_owned()).collect(),
            subscriptions: Vec::new(),
        };
        Arc::new(ArcSwap::from_pointee(RuleSet::new(self.watched.iter().map(rule).collect())))
    }
}

fn records(random: &mut StdRng, partitions: usize, one_id: f64) -> Vec<Produced> {
    let mut records: Vec<Produced> = Vec::new();
    for number in 0..random.random_range(4..=24) {
        let partition = random.random_range(0..partitions);
        if random.random_bool(0.12) {
            let payload = Some(MALFORMED.choose(random).unwrap().to_vec());
            let record = MemoryRecord { payload, ..MemoryRecord::default() };
            records.push(Produced {
                partition,
                signal: format!("bad {number}"),
                tickers: Vec::new(),
                directions: Vec::new(),
                record,
            });
            continue;
        }
        // A generator that was not sure sends a signal again, maybe elsewhere.
        let good: Vec<&Produced> = records.iter().filter(|record| !record.tickers.is_empty()).collect();
        if let Some(again) = good.choose(random).filter(|_| random.random_bool(0.2)) {
            records.push(Produced { partition, ..(*again).clone() });
            continue;
        }
        let count = random.random_range(1..=2);
        let tickers: Vec<&str> = TICKERS.choose_multiple(random, count).copied().collect();
        let signal = if random.random_bool(one_id) { ONE_ID.to_owned() } else { format!("signal {number}") };
        let directions: Vec<&str> = tickers.iter().map(|_| *["BULLISH", "BEARISH", ""].choose(random).unwrap()).collect();
        let said = |(ticker, direction)| format!(r#"{{"ticker": "{ticker}", "signal": "{direction}"}}"#);
        let list: Vec<String> = tickers.iter().zip(&directions).map(said).collect();
        let payload = format!(r#"{{"signal_id": "{signal}", "tickers": [{}]}}"#, list.join(", "));
        let record = MemoryRecord { payload: Some(payload.into_bytes()), ..MemoryRecord::default() };
        records.push(Produced { partition, signal, tickers, directions, record });
    }
    records
}
