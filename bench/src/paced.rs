//! How long a signal takes to become a task while signals come at a fixed rate, whatever becomes of them (open loop).
//!
//! A latency counts from the moment at which the signal was due to be sent, not from when it was: a stall of the sender
//! or of anything behind it is seen in every signal that it delays.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::clock::{now, sleep_until, wait_for};
use crate::dispatcher::{Instance, Setting, change};
use crate::kafka::{Delivered, Due, Producer, Topic};
use crate::machine::load;
use crate::platform::{Platform, Shape};
use crate::queue::{List, Taken, Window, Workers};
use crate::results::{Cost, Results, Table, complain, percentiles, round, say};
use crate::services::Services;
use crate::signals::{BYTES, Signals, TICKERS};
use crate::statements;

/// The sender sleeps at least this long between two looks at the clock.
const TICK: Duration = Duration::from_micros(500);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Signals a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds before that, at the same rate.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// The sender's compression: lz4, zstd, gzip or none.
    #[arg(long, default_value = "lz4")]
    compression: String,
    /// Milliseconds that the sender's client waits for company.
    #[arg(long, default_value_t = 2)]
    linger_ms: u64,
    #[arg(long, default_value_t = 1_000)]
    pipelines: u32,
    /// Tickers that each pipeline watches, out of 5,000.
    #[arg(long, default_value_t = 20)]
    tickers_each: u32,
    /// The share of pipelines that has an execution running throughout.
    #[arg(long, default_value_t = 0.3)]
    busy: f64,
    /// Milliseconds that an execution takes; so long its pipeline is busy.
    #[arg(long, default_value_t = 1_000)]
    execution_ms: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A variable of the dispatcher that is not to have its default, as NAME=VALUE; may be repeated.
    #[arg(long = "set", value_parser = change, value_name = "NAME=VALUE")]
    changes: Vec<(String, String)>,
}

/// Everything that a run leaves.
struct Measured {
    before: Cost,
    after: Cost,
    seconds: f64,
    taken: Taken,
    delivered: Delivered,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let services = Services::from_environment()?;
    let name = format!("bench_{}", &Uuid::new_v4().simple().to_string()[..12]);
    let topic = Topic::create(&services, &name, options.partitions)?;
    let Options { pipelines, tickers_each, busy, seed, .. } = *options;
    let shape = Shape { pipelines, tickers_each, watched: TICKERS, busy, seed };
    let mut platform = Platform::create(&services, &name, &shape)?;
    statements::tell_planning(&mut platform.admin, &platform.role)?;
    let _list = List { services: &services, name: &name };
    let mut results = Results::open("paced", seed, &services, &mut platform.admin)?;
    let forgotten = statements::forgotten(&mut platform.admin)?;
    let load_before = load();

    let mut dispatcher = Setting::new(&services, &platform, &topic, &name, &options.changes).start()?;
    wait_for("the dispatcher's partitions", Duration::from_secs(120), || {
        dispatcher.check()?;
        let held: i64 = platform.owner.query_one("select count(*) from dispatcher.progress", &[])?.get(0);
        Ok((held == i64::from(options.partitions)).then_some(()))
    })?;
    let measured = measure(options, &services, &mut platform, &topic, &name, &mut dispatcher)?;
    let costliest = statements::costliest(&mut platform.admin, &platform.role)?;
    let warnings = dispatcher.stop()?;
    let sums = platform.audit(options.rate * (options.warm_up + options.seconds), measured.taken.tasks)?;
    if statements::forgotten(&mut platform.admin)? != forgotten {
        complain("pg_stat_statements has forgotten statements meanwhile: the counts may be too low");
    }

    let Measured { before, after, seconds, taken, delivered } = &measured;
    let run = json!({
        "parameters": {
            "rate": options.rate, "seconds": options.seconds, "warm_up": options.warm_up, "bytes": BYTES,
            "partitions": options.partitions, "compression": options.compression, "linger_ms": options.linger_ms,
            "pipelines": pipelines, "tickers_each": tickers_each, "busy": busy, "execution_ms": options.execution_ms, "changes": options.changes,
        },
        "load_before": load_before,
        "latency_ms": percentiles(&taken.latency),
        "kafka_ack_ms": percentiles(&delivered.latency),
        "statements_per_s": round((after.statements - before.statements) as f64 / seconds, 1),
        "dispatcher_cpu_cores": round(after.cpu_since(before) / seconds, 3),
        "tasks_per_s": round(taken.latency.len() as f64 / options.seconds as f64, 0),
        "pipelines_triggered": taken.pipelines.len(),
        "cost": after.since(before),
        "sums": {"consumed": sums.consumed, "triggered": sums.triggered, "busy": sums.busy, "unmatched": sums.unmatched, "merged": sums.merged},
        "costliest_statements": costliest,
        "warnings": warnings,
    });
    results.write(&run)?;
    show(&run);
    Ok(())
}

fn measure(
    options: &Options,
    services: &Services,
    platform: &mut Platform,
    topic: &Topic,
    name: &str,
    dispatcher: &mut Instance,
) -> anyhow::Result<Measured> {
    let total = options.rate * (options.warm_up + options.seconds);
    let start = now() + Duration::from_millis(100);
    let (warm, end) = (Duration::from_secs(options.warm_up), Duration::from_secs(options.warm_up + options.seconds));
    let in_ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let workers = Workers::start(
        services,
        platform,
        name,
        Window { start, from_ns: in_ns(warm), to_ns: in_ns(end) },
        Duration::from_millis(options.execution_ms),
    )?;
    let producer = topic.producer(&options.compression, Duration::from_millis(options.linger_ms))?;
    let (rate, seed) = (options.rate, options.seed);
    let sender: JoinHandle<anyhow::Result<Delivered>> =
        std::thread::Builder::new().name("sender".into()).spawn(move || send(producer, start, rate, total, seed))?;

    say(&format!("{} signals/s for {} s, after {} s to warm up", options.rate, options.seconds, options.warm_up));
    sleep_until(start + warm)?;
    let began = now();
    let before = Cost::so_far(services, dispatcher.usage()?, statements::count(&mut platform.admin, &platform.role)?);
    sleep_until(start + end)?;
    let after = Cost::so_far(services, dispatcher.usage()?, statements::count(&mut platform.admin, &platform.role)?);
    let seconds = (now() - began).as_secs_f64();

    let delivered = sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the sender broke off")))?;
    wait_for("lag 0", Duration::from_secs(300), || {
        dispatcher.check()?;
        workers.check()?;
        Ok((platform.progress()?.next_offsets >= i64::try_from(total)?).then_some(()))
    })?;
    // A batch is decided before its tasks are published: the ledger says how many there are to come.
    let triggers: i64 = platform.owner.query_one("select count(*) from dispatcher.triggers", &[])?.get(0);
    wait_for("the last tasks", Duration::from_secs(60), || {
        let published: i64 =
            platform.owner.query_one("select count(*) from dispatcher.publications where enqueued_at is null", &[])?.get(0);
        Ok((published == 0).then_some(()))
    })?;
    let taken = workers.finish()?;
    anyhow::ensure!(taken.tasks == u64::try_from(triggers)?, "{triggers} triggers, {} tasks", taken.tasks);
    Ok(Measured { before, after, seconds, taken, delivered })
}

/// Sends each signal when it is due, or as soon after that as it can.
fn send(producer: Producer, start: Instant, rate: u64, total: u64, seed: u64) -> anyhow::Result<Delivered> {
    let mut signals = Signals::new(seed);
    let due = |number: u64| number * 1_000_000_000 / rate;
    let mut next = 0;
    while next < total {
        let elapsed = u64::try_from(now().saturating_duration_since(start).as_nanos())?;
        while next < total && due(next) <= elapsed {
            let ns = due(next);
            producer.send(next, signals.next(ns, next), Some(Due { start, ns }))?;
            next += 1;
        }
        crate::stop::check()?;
        let wait = (start + Duration::from_nanos(due(next))).saturating_duration_since(now());
        std::thread::sleep(wait.clamp(TICK, Duration::from_millis(100)));
    }
    producer.finish(total)
}

fn show(run: &Value) {
    let mut table = Table::new(&["ms", "p50", "p90", "p99", "p99.9", "max", "count"]);
    for (name, key) in [("due to task in hand", "latency_ms"), ("due to Kafka's ack", "kafka_ack_ms")] {
        let latency = &run[key];
        let cells = ["p50", "p90", "p99", "p99.9", "max", "count"].map(|quantile| latency[quantile].to_string());
        table.row([name.to_owned()].into_iter().chain(cells).collect());
    }
    table.print();
    let mut table = Table::new(&["", "stmt/s", "tasks/s", "cores", "MB", "peak MB", "load (1, 5, 15 min)"]);
    table.row(vec![
        "dispatcher".to_owned(),
        run["statements_per_s"].to_string(),
        run["tasks_per_s"].to_string(),
        run["dispatcher_cpu_cores"].to_string(),
        run["cost"]["resident_mb"].to_string(),
        run["cost"]["peak_resident_mb"].to_string(),
        load(),
    ]);
    table.print();
}
