//! The demo's signals: golden and death crosses of a random market, mock signals at a rate, and a bad record now and then.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use signal_generator::{CrossDetector, KafkaConfig, MockSignals, RandomWalk, Signal, SignalProducer, signal_json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TOPIC;
use crate::clock;
use crate::rules::{Rule, RuleSet};

/// Tickers that the market has; pipelines watch three quarters of them.
const TICKERS: usize = 120;
/// Trading days of the random market that pass in a second.
const DAYS_PER_SECOND: usize = 20;
/// One of so many records is not JSON.
const BAD_EVERY: u64 = 1_000;
const TICK: Duration = Duration::from_millis(10);

fn tickers() -> Vec<String> {
    let known = ["AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "GOOG", "META", "AMD", "NFLX", "INTC"];
    let made = (known.len()..TICKERS).map(|number| format!("TD{number:03}"));
    known.iter().map(|ticker| (*ticker).to_owned()).chain(made).collect()
}

/// Sample pipelines, one to eight tickers each.
pub(super) fn pipelines(seed: u64, count: u32) -> RuleSet {
    let mut random = StdRng::seed_from_u64(seed);
    let tickers = tickers();
    let watched = &tickers[..TICKERS * 3 / 4];
    let rule = |_| {
        let count = random.random_range(1..=8);
        Rule {
            pipeline_id: Uuid::from_u128(random.random()),
            user_id: None,
            tickers: watched.choose_multiple(&mut random, count).cloned().collect(),
            subscriptions: Vec::new(),
        }
    };
    RuleSet::new((0..count).map(rule).collect())
}

/// The demo's signals.
pub(super) struct Market {
    producer: Arc<SignalProducer>,
    mock: MockSignals,
    walks: Vec<(String, RandomWalk, CrossDetector)>,
    rate: u32,
}

impl Market {
    pub(super) fn open(bootstrap_servers: &str, seed: u64, rate: u32) -> anyhow::Result<Self> {
        let producer = Arc::new(SignalProducer::new(&KafkaConfig::new(bootstrap_servers), TOPIC)?);
        let walk = |ticker: String| {
            let walk = RandomWalk::new(seed, &ticker, Date::constant(2020, 1, 1));
            (ticker, walk, CrossDetector::default())
        };
        let walks = tickers().into_iter().map(walk).collect();
        Ok(Self { producer, mock: MockSignals::new(seed, tickers()), walks, rate })
    }

    /// Where to read how many records Kafka has acknowledged.
    pub(super) fn sent(&self) -> Arc<SignalProducer> {
        Arc::clone(&self.producer)
    }

    /// Sends until told to stop, then waits for every acknowledgement.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let started = clock::now();
        let (mut mocked, mut days) = (0_u64, 0_usize);
        let mut ticks = tokio::time::interval(TICK);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let seconds = started.elapsed().as_secs_f64();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a demo's seconds are few and positive")]
            let (due, day) = ((seconds * f64::from(self.rate)) as u64, (seconds * DAYS_PER_SECOND as f64) as usize);
            while mocked < due {
                let (key, payload) = self.mock.next(now());
                let payload = if mocked % BAD_EVERY == BAD_EVERY - 1 { b"not a signal".to_vec() } else { payload };
                self.producer.try_send(&key, &payload)?;
                mocked += 1;
            }
            while days < day {
                self.trade()?;
                days += 1;
            }
        }
        let producer = self.producer;
        // Waiting for librdkafka blocks the thread, and the runtime has others.
        tokio::task::block_in_place(|| producer.finish(Duration::from_secs(10)))?;
        Ok(())
    }

    /// One trading day of every ticker.
    fn trade(&mut self) -> anyhow::Result<()> {
        for (ticker, walk, detector) in &mut self.walks {
            let Some(cross) = walk.next().and_then(|bar| detector.push(&bar)) else { continue };
            let signal = Signal::of_cross("demo", ticker, &cross, now());
            self.producer.try_send(ticker, &signal_json(&signal))?;
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(clock::unix_ms()).unwrap_or_default()
}
