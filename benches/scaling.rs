//! What grows with the pipelines, and with the watchers of one ticker, in time and memory: `cargo bench --bench scaling`.
//!
//! No services. Each row is a process of its own, so that its memory is its own; times are those on a processor.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a table for people; a benchmark reads its own clock"
)]

#[allow(dead_code, reason = "each benchmark uses its part")]
mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use support::{Popularity, batch, celery, each_rule, matched, payload, payloads, rules, tasks, watchers_of_one};
use trigger_dispatcher::rules::{RuleSet, Rules};
use trigger_dispatcher::tasks::celery::Encoder;

/// How long what is short is repeated.
const ENOUGH_NS: u64 = 400_000_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    match words[..] {
        ["--pipelines", number] => pipelines(number.parse()?),
        ["--watchers", number] => watchers(number.parse()?),
        [] => tables(),
        _ => bail!("usage: scaling [--pipelines N | --watchers N]"),
    }
}

fn tables() -> anyhow::Result<()> {
    println!(
        "| pipelines | index build | kB resident per 1,000 | peak while built anew | match, uniform | match, Zipf |\n|---|---|---|---|---|---|"
    );
    for number in ["1000", "10000", "100000", "1000000"] {
        row(&["--pipelines", number])?;
    }
    println!(
        "\n| watchers of the ticker | match | arguments | messages | bytes of messages | resident with all of it |\n|---|---|---|---|---|---|"
    );
    for number in ["1", "100", "1000", "10000", "100000"] {
        row(&["--watchers", number])?;
    }
    Ok(())
}

fn row(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
    if !status.success() {
        bail!("{arguments:?}: {status}");
    }
    Ok(())
}

/// Kilobytes by `/proc`: what is resident, or the most that ever was.
fn memory(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim_start_matches(':').trim_end_matches("kB").trim().parse()?)
}

fn resident() -> anyhow::Result<f64> {
    memory("VmRSS")
}

/// Nanoseconds that this thread has had on a processor: other work on the machine is not in them.
fn on_processor() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().context("an empty schedstat")?.parse()?)
}

/// Milliseconds on a processor that `work` takes, on average. The kernel counts in ticks of some milliseconds, so it is
/// repeated until they are few.
fn milliseconds<T>(mut work: impl FnMut() -> T) -> anyhow::Result<f64> {
    drop(work());
    let (start, mut times) = (on_processor()?, 0_u32);
    loop {
        drop(work());
        times += 1;
        let took = on_processor()? - start;
        if took >= ENOUGH_NS {
            return Ok(took as f64 / 1e6 / f64::from(times));
        }
    }
}

fn pipelines(number: usize) -> anyhow::Result<()> {
    let before = resident()?;
    // As a refresh does it: each rule is taken in as it is read, and the new set is made while the old one is in use.
    let as_read = || {
        let mut taken = Rules::default();
        each_rule(number, Popularity::Uniform, |rule| taken.add(rule));
        taken.index()
    };
    let first = Arc::new(as_read());
    let second = as_read();
    let peak = memory("VmHWM")?;
    drop(second);
    let kept = resident()? - before;
    let again = rules(number, Popularity::Uniform);
    let start = on_processor()?;
    drop(RuleSet::new(again));
    let build = (on_processor()? - start) as f64 / 1e6;
    let signals = 200;
    let batches = |popularity| batch(&payloads(signals, 1, popularity), Instant::now());
    let per_signal = |milliseconds: f64| milliseconds * 1e6 / signals as f64;
    let uniform = batches(Popularity::Uniform);
    let uniform = per_signal(milliseconds(|| matched(&first, &uniform))?);
    drop(first);
    let rules = Arc::new(RuleSet::new(rules(number, Popularity::Zipf)));
    let zipf = batches(Popularity::Zipf);
    let zipf = per_signal(milliseconds(|| matched(&rules, &zipf))?);
    println!(
        "| {number} | {build:.1} ms | {:.0} | {:.0} MB | {uniform:.0} ns | {zipf:.0} ns |",
        kept / (number as f64 / 1e3),
        peak / 1024.0
    );
    Ok(())
}

fn watchers(number: usize) -> anyhow::Result<()> {
    let rules = Arc::new(RuleSet::new(watchers_of_one(number)));
    let batch = batch(&[payload(0, &[0], "kind_0", 80)], Instant::now());
    let (celery, expires) = (celery(), Timestamp::UNIX_EPOCH);
    let encoder = Encoder::new(&celery);
    let matching = milliseconds(|| matched(&rules, &batch))?;
    let matches = matched(&rules, &batch);
    let arguments = milliseconds(|| tasks(&celery, &batch, &matches))?;
    let tasks = tasks(&celery, &batch, &matches);
    let encode = || encoder.redis_messages(&tasks, expires);
    let encoding = milliseconds(encode)?;
    let messages = encode();
    let bytes: usize = messages.iter().map(String::len).sum();
    println!(
        "| {number} | {matching:.2} ms | {arguments:.2} ms | {encoding:.2} ms | {:.1} MB | {:.0} MB |",
        bytes as f64 / 1e6,
        resident()? / 1024.0
    );
    Ok(())
}
