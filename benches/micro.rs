//! How long each stage that does no IO takes: `cargo bench --bench micro`.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "criterion's macros make public items; a benchmark reads its own clock"
)]

#[allow(dead_code, reason = "each benchmark uses its part")]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use support::{Popularity, batch, celery, matched, payloads, rules, tasks};
use trigger_dispatcher::rules::RuleSet;
use trigger_dispatcher::tasks::celery::Encoder;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let now = Instant::now();
    for tickers in [1, 8] {
        let payloads = payloads(2_000, tickers, Popularity::Uniform);
        group.throughput(Throughput::Elements(2_000));
        group.bench_function(BenchmarkId::new("tickers", tickers), |bencher| {
            bencher.iter_with_large_drop(|| batch(&payloads, now));
        });
    }
    group.finish();
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("match");
    for popularity in [Popularity::Uniform, Popularity::Zipf] {
        for pipelines in [1_000, 10_000, 100_000] {
            let rules = Arc::new(RuleSet::new(rules(pipelines, popularity)));
            for signals in [200, 2_000] {
                let batch = batch(&payloads(signals, 1, popularity), Instant::now());
                group.throughput(Throughput::Elements(signals as u64));
                let name = format!("{popularity:?} {pipelines} pipelines");
                group.bench_function(BenchmarkId::new(name, signals), |bencher| {
                    bencher.iter_with_large_drop(|| matched(&rules, &batch));
                });
            }
        }
    }
    group.finish();
}

fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10);
    for pipelines in [1_000, 10_000, 100_000] {
        let rules = rules(pipelines, Popularity::Zipf);
        group.throughput(Throughput::Elements(pipelines as u64));
        group.bench_function(BenchmarkId::new("build", pipelines), |bencher| {
            bencher.iter_batched(|| rules.clone(), RuleSet::new, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let (celery, rules) = (celery(), Arc::new(RuleSet::new(rules(10_000, Popularity::Uniform))));
    let batch = batch(&payloads(200, 1, Popularity::Uniform), Instant::now());
    let matches = matched(&rules, &batch);
    let tasks_made = tasks(&celery, &batch, &matches);
    let encoder = Encoder::new(&celery);
    group.throughput(Throughput::Elements(tasks_made.len() as u64));
    group.bench_function("arguments", |bencher| bencher.iter_with_large_drop(|| tasks(&celery, &batch, &matches)));
    group.bench_function("redis message", |bencher| {
        bencher.iter_with_large_drop(|| encoder.redis_messages(&tasks_made, Timestamp::UNIX_EPOCH));
    });
    group.finish();
}

criterion_group! {
    name = stages;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = decode, matching, index, encode
}
criterion_main!(stages);
