//! From the command line and the environment to a job that can run, or to all mistakes at once. Pure.
//!
//! The command line wins over the environment; an empty variable counts as not set. A mistake names the option or
//! variable, never the value of a `KAFKA_CONFIG_…` (it may be a password).

mod kafka;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{BarsArgs, Cli, Command, FollowArgs, MockArgs, RandomArgs, ReplayArgs};
use crate::cross::Direction;
use crate::emitter::{Stamp, Wanted};
use crate::kafka::KafkaConfig;
use crate::ticker;

use values::Checked;

/// The environment, as far as anyone asks.
pub type Environment = std::collections::BTreeMap<String, String>;

/// What to do, completely.
#[derive(Debug)]
#[expect(missing_docs, reason = "one variant a command")]
pub enum Job {
    Replay(BarsJob),
    Follow(BarsJob, Duration),
    Mock(MockJob),
}

/// Read bars, emit crosses.
#[derive(Debug)]
pub struct BarsJob {
    /// Where the bars come from.
    pub source: BarSource,
    /// Which crosses leave.
    pub wanted: Wanted,
    /// Where they go; none: standard output.
    pub sink: Option<Sink>,
    /// Kafka, for bars and signals.
    pub kafka: KafkaConfig,
}

/// Where bars come from.
#[derive(Debug)]
#[expect(missing_docs, reason = "one variant an option")]
pub enum BarSource {
    Csv(PathBuf),
    Topic(String),
    Walk { seed: u64, tickers: Vec<String>, bars: usize },
}

/// Topics of the emission.
#[derive(Debug)]
#[expect(missing_docs, reason = "the two topics")]
pub struct Sink {
    pub topic: String,
    pub state_topic: String,
}

/// Random signals at a pace.
#[derive(Debug)]
pub struct MockJob {
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Topic of the signals.
    pub topic: String,
    /// The signals' `source`.
    pub source: String,
    /// Signals per second.
    pub rate: f64,
    /// End after this time.
    pub time: Option<Duration>,
    /// End after this many signals.
    pub count: Option<u64>,
    /// What they are about.
    pub tickers: Vec<String>,
    /// None: another one each time.
    pub seed: Option<u64>,
}

/// The job, or every mistake, one line each.
pub fn check(cli: &Cli, environment: &Environment) -> Result<Job, Vec<String>> {
    let mut checked = Checked::new(environment);
    let job = match &cli.command {
        Command::Replay(args) => replay(args, &mut checked),
        Command::Follow(args) => follow(args, &mut checked),
        Command::Mock(args) => mock(args, &mut checked),
    };
    checked.finish(job)
}

fn replay(args: &ReplayArgs, checked: &mut Checked<'_>) -> Option<Job> {
    let walk = checked.number("--random-walk", args.random_walk.as_deref(), 1.0..=10_000_000.0);
    let RandomArgs { tickers, ticker_count, seed } = &args.random;
    if args.random_walk.is_none() && (tickers.is_some() || ticker_count.is_some() || seed.is_some()) {
        checked.mistake("--tickers, --ticker-count and --seed belong to --random-walk");
    }
    let random = random(&args.random, checked);
    let walk = walk.zip(random).map(|(bars, (tickers, seed))| BarSource::Walk {
        seed: seed.unwrap_or(1),
        tickers,
        bars: values::whole(bars),
    });
    let asked = args.random_walk.is_some();
    let source = bar_source(&args.bars, asked, walk, "--csv, --bars-topic, --random-walk", checked);
    let needs_kafka = !args.print || args.bars.bars_topic.is_some();
    bars_job(&args.bars, source, needs_kafka, !args.print, checked).map(Job::Replay)
}

fn follow(args: &FollowArgs, checked: &mut Checked<'_>) -> Option<Job> {
    let source = bar_source(&args.bars, false, None, "--csv, --bars-topic", checked);
    let poll = checked.number("--poll", args.poll.as_deref(), 0.05..=86_400.0);
    let job = bars_job(&args.bars, source, true, true, checked)?;
    Some(Job::Follow(job, Duration::from_secs_f64(poll.unwrap_or(1.0))))
}

fn mock(args: &MockArgs, checked: &mut Checked<'_>) -> Option<Job> {
    if args.rate.is_none() {
        checked.mistake("--rate is missing: signals per second");
    }
    let rate = checked.number("--rate", args.rate.as_deref(), 0.001..=10_000_000.0);
    let time = checked.number("--seconds", args.seconds.as_deref(), 0.001..=1e9);
    let count = checked.number("--count", args.count.as_deref(), 1.0..=1e15);
    let random = random(&args.random, checked);
    let kafka = checked.kafka(args.sink.brokers.as_deref());
    let topic = checked.topic("--topic", args.sink.topic.as_deref(), "KAFKA_SIGNAL_TOPIC", "trading-signals");
    let source = checked.source(args.sink.source.as_deref());
    let (tickers, seed) = random?;
    Some(Job::Mock(MockJob {
        kafka: kafka?,
        topic: topic?,
        source: source?,
        rate: rate?,
        time: time.map(Duration::from_secs_f64),
        count: count.map(|count| values::whole(count) as u64),
        tickers,
        seed,
    }))
}

fn bar_source(
    args: &BarsArgs,
    walk_asked: bool,
    walk: Option<BarSource>,
    options: &str,
    checked: &mut Checked<'_>,
) -> Option<BarSource> {
    let asked = [args.csv.is_some(), args.bars_topic.is_some(), walk_asked];
    if asked.into_iter().filter(|&asked| asked).count() != 1 {
        checked.mistake(&format!("exactly one of {options} says where the bars come from"));
        return None;
    }
    let csv = args.csv.as_ref().map(|folder| BarSource::Csv(PathBuf::from(folder)));
    let topic = args.bars_topic.as_deref();
    let topic = topic.and_then(|topic| checked.topic("--bars-topic", Some(topic), "", "")).map(BarSource::Topic);
    csv.or(topic).or(walk)
}

fn bars_job(
    args: &BarsArgs,
    source: Option<BarSource>,
    needs_kafka: bool,
    sends: bool,
    checked: &mut Checked<'_>,
) -> Option<BarsJob> {
    let kafka = if needs_kafka { checked.kafka(args.sink.brokers.as_deref()) } else { Some(KafkaConfig::new("")) };
    let topic = checked.topic("--topic", args.sink.topic.as_deref(), "KAFKA_SIGNAL_TOPIC", "trading-signals");
    let default = format!("{}.generator-state", topic.as_deref().unwrap_or_default());
    let state_topic = checked.topic("--state-topic", args.state_topic.as_deref(), "KAFKA_STATE_TOPIC", &default);
    let name = checked.source(args.sink.source.as_deref());
    let stamp = match args.stamp.as_deref() {
        None | Some("bar") => Some(Stamp::Bar),
        Some("now") => Some(Stamp::Now),
        Some(_) => {
            checked.mistake("--stamp is neither bar nor now");
            None
        }
    };
    let directions = if args.death_cross { vec![Direction::Golden, Direction::Death] } else { vec![Direction::Golden] };
    let sink = Sink { topic: topic?, state_topic: state_topic? };
    Some(BarsJob {
        source: source?,
        wanted: Wanted { source: name?, directions, stamp: stamp? },
        sink: sends.then_some(sink),
        kafka: kafka?,
    })
}

fn random(args: &RandomArgs, checked: &mut Checked<'_>) -> Option<(Vec<String>, Option<u64>)> {
    if args.tickers.is_some() && args.ticker_count.is_some() {
        checked.mistake("--tickers and --ticker-count exclude each other");
    }
    let count = checked.number("--ticker-count", args.ticker_count.as_deref(), 1.0..=1_000_000.0);
    let seed = args.seed.as_deref().map(str::parse::<u64>);
    if let Some(Err(_)) = seed {
        checked.mistake("--seed is not a whole number from 0 to 2^64 - 1");
    }
    let tickers = match &args.tickers {
        None => Some(ticker::made_up(count.map_or(10, values::whole))),
        Some(list) => checked.tickers(list),
    };
    Some((tickers?, seed.and_then(Result::ok)))
}

#[cfg(test)]
mod tests;
