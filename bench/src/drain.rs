//! How fast one instance gets through a topic that is full already: from its first decision to lag 0, beside a bare
//! consumer that only counts the same topic.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::ceiling;
use crate::clock::{now, wait_for};
use crate::dispatcher::{Setting, change};
use crate::kafka::Topic;
use crate::machine::load;
use crate::platform::{Platform, Shape};
use crate::queue::{self, List};
use crate::results::{Cost, Results, Table, complain, median, round, say};
use crate::services::Services;
use crate::signals::{BYTES, Signals, TICKERS};
use crate::statements;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Signals in the topic, with tickers uniform over 5,000.
    #[arg(long, default_value_t = 2_000_000)]
    signals: u64,
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// The topic's compression: lz4, zstd, gzip or none.
    #[arg(long, default_value = "lz4")]
    compression: String,
    #[arg(long, default_value_t = 1_000)]
    pipelines: u32,
    /// Tickers that each pipeline watches.
    #[arg(long, default_value_t = 20)]
    tickers_each: u32,
    /// Shares of signals that no pipeline watches; each is a variant.
    #[arg(long, value_delimiter = ',', default_values_t = [0.9, 0.0])]
    unmatched: Vec<f64>,
    /// The share of pipelines that has an execution running throughout.
    #[arg(long, default_value_t = 0.3)]
    busy: f64,
    /// Runs of each variant, in turn.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A variable of the dispatcher that is not to have its default, as NAME=VALUE; may be repeated.
    #[arg(long = "set", value_parser = change, value_name = "NAME=VALUE")]
    changes: Vec<(String, String)>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let services = Services::from_environment()?;
    let name = format!("bench_{}", &Uuid::new_v4().simple().to_string()[..12]);
    let topic = Topic::create(&services, &name, options.partitions)?;
    preload(&topic, options)?;
    let mut table = Table::new(&["", "signals/s", "CPU s", "us/signal", "peak MB", "stmt/s", "triggered", "load (1, 5, 15 min)"]);
    let mut ceilings = Vec::new();
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); options.unmatched.len()];
    for number in 0..options.runs {
        say(&format!("run {} of {}: bare consumer", number + 1, options.runs));
        let ceiling = ceiling::measure(&topic, options.signals)?;
        ceilings.push(rate(&ceiling));
        table.row(ceiling_row(&ceiling));
        for (variant, unmatched) in options.unmatched.iter().enumerate() {
            say(&format!("run {} of {}: {:.0} % unmatched", number + 1, options.runs, unmatched * 100.0));
            let run = drain(options, &services, &topic, &format!("{name}_{variant}_{number}"), *unmatched, &ceiling)?;
            rates[variant].push(rate(&run));
            table.row(row(&run));
        }
    }
    table.print();
    let mut table = Table::new(&["median", "signals/s", "least", "most", "of the bare consumer"]);
    table.row(summary("bare consumer", &ceilings, &ceilings));
    for (rates, unmatched) in rates.iter().zip(&options.unmatched) {
        table.row(summary(&format!("{:.0} % unmatched", unmatched * 100.0), rates, &ceilings));
    }
    table.print();
    Ok(())
}

fn rate(run: &Value) -> f64 {
    run["signals_per_s"].as_f64().unwrap_or_default()
}

fn summary(name: &str, rates: &[f64], ceilings: &[f64]) -> Vec<String> {
    let (least, most) = rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
    // Each run beside the bare consumer of its own turn: both saw about the same machine.
    let ratios: Vec<f64> = rates.iter().zip(ceilings).map(|(rate, ceiling)| rate / ceiling).collect();
    let numbers = [median(rates), least, most].map(|number| format!("{number:.0}"));
    [name.to_owned()].into_iter().chain(numbers).chain([format!("{:.2}", median(&ratios))]).collect()
}

fn preload(topic: &Topic, options: &Options) -> anyhow::Result<()> {
    say(&format!("filling a topic with {} signals of {BYTES} bytes", options.signals));
    let producer = topic.producer(&options.compression, Duration::from_millis(50))?;
    let mut signals = Signals::new(options.seed);
    for number in 0..options.signals {
        producer.send(number, signals.next(0, number), None)?;
        if number % 65_536 == 0 {
            crate::stop::check()?;
        }
    }
    producer.finish(options.signals)?;
    Ok(())
}

/// How many tickers pipelines choose from, so that about a share of the signals is unmatched.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 5,000")]
fn watched(unmatched: f64) -> u32 {
    ((f64::from(TICKERS) * (1.0 - unmatched)).round() as u32).clamp(1, TICKERS)
}

fn drain(
    options: &Options,
    services: &Services,
    topic: &Topic,
    name: &str,
    unmatched: f64,
    ceiling: &Value,
) -> anyhow::Result<Value> {
    let Options { pipelines, tickers_each, busy, seed, .. } = *options;
    let shape = Shape { pipelines, tickers_each, watched: watched(unmatched), busy, seed };
    let mut platform = Platform::create(services, name, &shape)?;
    statements::tell_planning(&mut platform.admin, &platform.role)?;
    let _list = List { services, name };
    let mut results = Results::open("drain", seed, services, &mut platform.admin)?;
    let forgotten = statements::forgotten(&mut platform.admin)?;
    let load_before = load();

    let launched = now();
    let mut dispatcher = Setting::new(services, &platform, topic, name, &options.changes).start()?;
    let limit = Duration::from_secs(600);
    let first = wait_for("the first decision", Duration::from_secs(120), || {
        dispatcher.check()?;
        Ok(Some(platform.progress()?).filter(|progress| progress.consumed > 0))
    })?;
    let began = now();
    let before = Cost::so_far(services, dispatcher.usage()?, statements::count(&mut platform.admin, &platform.role)?);
    let sent = i64::try_from(options.signals)?;
    let last = wait_for("lag 0", limit, || {
        dispatcher.check()?;
        Ok(Some(platform.progress()?).filter(|progress| progress.next_offsets >= sent))
    })?;
    let ended = now();
    let after = Cost::so_far(services, dispatcher.usage()?, statements::count(&mut platform.admin, &platform.role)?);

    let costliest = statements::costliest(&mut platform.admin, &platform.role)?;
    let warnings = dispatcher.stop()?;
    let sums = platform.audit(options.signals, queue::len(services, name)?)?;
    if statements::forgotten(&mut platform.admin)? != forgotten {
        complain("pg_stat_statements has forgotten statements meanwhile: the counts may be too low");
    }
    let seconds = (ended - began).as_secs_f64();
    let decided = (last.consumed - first.consumed) as f64;
    let run = json!({
        "parameters": {
            "signals": options.signals, "bytes": BYTES, "partitions": options.partitions, "compression": options.compression,
            "pipelines": pipelines, "tickers_each": tickers_each, "busy": busy, "unmatched": unmatched, "changes": options.changes,
        },
        "load_before": load_before,
        "bare_consumer": ceiling,
        "signals_per_s": round(decided / seconds, 0),
        "seconds": round(seconds, 3),
        "seconds_from_launch": round((ended - launched).as_secs_f64(), 3),
        "decided_before_first_look": first.consumed,
        "cpu_us_per_signal": round(after.cpu_since(&before) / decided * 1e6, 3),
        "statements_per_s": round((after.statements - before.statements) as f64 / seconds, 1),
        "cost": after.since(&before),
        "sums": {"consumed": sums.consumed, "triggered": sums.triggered, "busy": sums.busy, "unmatched": sums.unmatched, "merged": sums.merged},
        "unmatched_share": round(sums.unmatched as f64 / sums.consumed as f64, 3),
        "costliest_statements": costliest,
        "warnings": warnings,
    });
    results.write(&run)?;
    Ok(run)
}

fn row(run: &Value) -> Vec<String> {
    vec![
        format!("{:.0} % unmatched", run["unmatched_share"].as_f64().unwrap_or_default() * 100.0),
        run["signals_per_s"].to_string(),
        run["cost"]["dispatcher_cpu_s"].to_string(),
        run["cpu_us_per_signal"].to_string(),
        run["cost"]["peak_resident_mb"].to_string(),
        run["statements_per_s"].to_string(),
        run["sums"]["triggered"].to_string(),
        load(),
    ]
}

fn ceiling_row(run: &Value) -> Vec<String> {
    let cells = ["signals_per_s", "cpu_s", "cpu_us_per_signal", "peak_resident_mb"].map(|key| run[key].to_string());
    let rest = ["-".to_owned(), "-".to_owned(), load()];
    ["bare consumer".to_owned()].into_iter().chain(cells).chain(rest).collect()
}
