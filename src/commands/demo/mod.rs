//! `trigger-dispatcher demo`: the whole job with nothing installed.
//!
//! Real: the generator, Kafka's wire protocol (librdkafka's mock cluster, in this process), the intake, the rules, the
//! loop. In memory: the claims, the queue, and workers that take 1 to 3 seconds an execution.

mod market;
mod screen;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use self::market::Market;
use self::screen::{Screen, Totals};
use self::workers::Workers;
use crate::clock;
use crate::config::{Config, Environment, KafkaConfig};
use crate::dispatch::{Dispatcher, MOST_SLOTS, Terms, WAITED_FOR, Waits};
use crate::intake::kafka::KafkaSource;
use crate::store::memory::MemoryStore;
use crate::supervise::{self, Task};
use crate::tasks::IdSpace;
use crate::tasks::memory::MemoryQueue;
use crate::telemetry::{Events, Metrics, start_logs};

const TOPIC: &str = "trading-signals";
const PARTITIONS: i32 = 4;
/// How long the end may take: what was sent is decided before the sums are made.
const DRAIN: Duration = Duration::from_secs(15);

/// What the demo does.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// End after so many seconds; without it, at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
    /// Mock signals a second, beside the golden and death crosses.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Pipelines.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pipelines: u32,
    /// What the random market starts from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let cluster = MockCluster::<DefaultProducerContext>::new(1).context("the mock Kafka did not start")?;
    let config = config(&cluster.bootstrap_servers())?;
    start_logs(&config.process)?;
    for (topic, partitions) in [(TOPIC, PARTITIONS), (config.kafka.dead_letter_topic.as_str(), 1)] {
        cluster.create_topic(topic, partitions, 1).context("the mock Kafka made no topic")?;
    }
    let rules = market::pipelines(options.seed, options.pipelines);
    let (metrics, store, queue) = (Arc::new(Metrics::default()), MemoryStore::default(), MemoryQueue::default());
    metrics.rules_loaded(rules.len(), 0);

    // Three stops in a row, so that the sums agree: the market, then the loop, then the workers.
    let [market_stop, flow_stop, workers_stop] = std::array::from_fn(|_| CancellationToken::new());
    let _signals = supervise::stop_on_signal(market_stop.clone())?;
    let market = Market::open(&config.kafka.bootstrap_servers, options.seed, options.rate)?;
    let sent = market.sent();
    let workers = Workers::new(store.clone(), queue.clone(), options.seed);
    let executed = workers.counts();
    let dispatcher = Dispatcher {
        source: KafkaSource::connect(&config.kafka, &config.batch, None, None, &metrics)?,
        claims: store.claims(config.trigger.lease),
        queue,
        rules: Arc::new(ArcSwap::from_pointee(rules)),
        terms: Terms {
            topic: TOPIC.to_owned(),
            ids: IdSpace::of(TOPIC),
            scope: config.trigger.scope,
            lease: config.trigger.lease,
            margin: config.trigger.lease_margin,
            celery: config.celery.clone(),
            most_slots: MOST_SLOTS,
            waited_for: WAITED_FOR,
        },
        events: Events::new(TOPIC, 0),
        metrics: Arc::clone(&metrics),
        waits: Waits::default(),
        stop: flow_stop.clone(),
    };

    let market = Task::start("market", &market_stop, market.run(market_stop.clone()));
    let workers = Task::start("workers", &market_stop, workers.run(workers_stop.clone()));
    let totals = || Totals::read(&sent, &store, &metrics, &executed);
    let screen = Screen::open(options.pipelines, options.rate);
    let ending = async {
        screen.show(&totals, &metrics, options.seconds.map(Duration::from_secs), &market_stop).await;
        market_stop.cancel();
        let market = market.join().await;
        // What Kafka has acknowledged is decided before the loop ends.
        let deadline = clock::now() + DRAIN;
        while !totals().all_decided() && clock::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        flow_stop.cancel();
        market
    };
    let (flow, market) = tokio::join!(dispatcher.run(), ending);
    flow?;
    workers_stop.cancel();
    market.and(workers.join().await)?;
    let totals = totals();
    Screen::summary(&totals, &metrics);
    if !totals.agree() {
        bail!("the sums do not agree");
    }
    Ok(())
}

/// The defaults of the service, but for the places that are in this process.
fn config(bootstrap_servers: &str) -> anyhow::Result<Config> {
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", bootstrap_servers),
        ("POSTGRES_USER", "in-memory"),
        ("POSTGRES_PASSWORD", "in-memory"),
        ("POSTGRES_HOST", "localhost"),
        ("POSTGRES_DB", "in-memory"),
        ("CELERY_BROKER_URL", "redis://localhost"),
        ("LOG_FORMAT", "text"),
        ("LOG_LEVEL", "error"),
    ]);
    let mut config = Config::read(&environment)?;
    // The mock never answers a waiting fetch early.
    let properties = [("fetch.wait.max.ms", "5")];
    config.kafka = KafkaConfig {
        properties: properties.map(|(name, value)| (name.to_owned(), SecretString::from(value))).to_vec(),
        ..config.kafka
    };
    Ok(config)
}
