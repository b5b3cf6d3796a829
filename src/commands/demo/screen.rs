//! What the demo shows: a status line that lives, and a summary in which the sums agree.
#![expect(clippy::print_stdout, reason = "the demo's screen is stdout")]

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use signal_generator::SignalProducer;
use tokio_util::sync::CancellationToken;

use super::workers::Executed;
use crate::clock;
use crate::store::memory::{MemoryStore, Progress};
use crate::telemetry::Metrics;

/// Everything that can be counted, at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    sent: u64,
    decided: Progress,
    enqueued: u64,
    begun: u64,
    ended: u64,
}

impl Totals {
    pub(super) fn read(sent: &SignalProducer, store: &MemoryStore, metrics: &Metrics, executed: &Executed) -> Self {
        let mut decided = Progress::default();
        for partition in store.progress().values() {
            decided.consumed += partition.consumed;
            decided.triggered += partition.triggered;
            decided.busy += partition.busy;
            decided.merged += partition.merged;
            decided.unmatched += partition.unmatched;
            decided.redelivered += partition.redelivered;
            decided.stale += partition.stale;
            decided.invalid += partition.invalid;
        }
        Self {
            sent: sent.acknowledged(),
            decided,
            enqueued: metrics.triggers(),
            begun: executed.begun.load(Ordering::Relaxed),
            ended: executed.ended.load(Ordering::Relaxed),
        }
    }

    pub(super) fn all_decided(&self) -> bool {
        self.decided.consumed.unsigned_abs() >= self.sent
    }

    fn sum(&self) -> i64 {
        let Progress { triggered, busy, merged, unmatched, redelivered, stale, invalid, .. } = self.decided;
        triggered + busy + merged + unmatched + redelivered + stale + invalid
    }

    /// Whether every record sent was decided once, and every task begun was enqueued.
    pub(super) fn agree(&self) -> bool {
        self.decided.consumed.unsigned_abs() == self.sent && self.sum() == self.decided.consumed && self.begun <= self.enqueued
    }
}

pub(super) struct Screen {
    live: bool,
    started: Instant,
}

impl Screen {
    pub(super) fn open(pipelines: u32, rate: u32) -> Self {
        println!(
            "Kafka (mock cluster, in this process), {pipelines} pipelines, {rate} mock signals/s and the crosses of a random market."
        );
        println!("Workers take 1 to 3 s an execution; a pipeline that runs is busy. Ctrl-C ends.\n");
        Self { live: std::io::stdout().is_terminal(), started: clock::now() }
    }

    /// Shows the status until the time is over or `stop`.
    pub(super) async fn show(
        &self,
        totals: &impl Fn() -> Totals,
        metrics: &Metrics,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(Duration::from_millis(if self.live { 250 } else { 1_000 }));
        ticks.tick().await;
        let (mut before, mut at) = (Totals::default(), self.started);
        let mut first = true;
        while limit.is_none_or(|limit| self.started.elapsed() < limit) {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            let (now, moment) = (totals(), clock::now());
            if first && now.enqueued > 0 {
                first = false;
                metrics.restart_latency();
                self.line(&format!("first trigger after {:.1} s", self.started.elapsed().as_secs_f64()), true);
            }
            let rate = (now.decided.consumed - before.decided.consumed) as f64 / (moment - at).as_secs_f64();
            let latency = metrics.latency();
            let Progress { triggered, busy, merged, unmatched, .. } = now.decided;
            let text = format!(
                "{:5.1} s  {rate:7.0} signals/s  triggered {triggered}  busy {}  unmatched {unmatched}  executing {}  latency p50 {:?} p99 {:?}",
                self.started.elapsed().as_secs_f64(),
                busy + merged,
                now.begun - now.ended,
                latency.p50,
                latency.p99,
            );
            self.line(&text, false);
            (before, at) = (now, moment);
        }
        println!();
    }

    fn line(&self, text: &str, stays: bool) {
        if self.live {
            // Overwritten in place, so that the screen stands still.
            print!("\r\u{1b}[2K{text}{}", if stays { "\n" } else { "" });
        } else {
            println!("{text}");
        }
        // A closed screen is no reason to end.
        std::io::stdout().flush().ok();
    }

    pub(super) fn summary(totals: &Totals, metrics: &Metrics) {
        let Progress { consumed, triggered, busy, merged, unmatched, redelivered, stale, invalid, .. } = totals.decided;
        let waiting = totals.enqueued.saturating_sub(totals.begun);
        let latency = metrics.latency();
        println!("sent, acknowledged by Kafka  {}", totals.sent);
        println!("decided                      {consumed}");
        println!(
            "  = triggered {triggered} + busy {busy} + merged {merged} + unmatched {unmatched} + redelivered {redelivered} + stale {stale} + invalid {invalid} = {}",
            totals.sum()
        );
        println!("tasks enqueued               {}", totals.enqueued);
        println!("  = executed {} + executing {} + waiting {waiting}", totals.ended, totals.begun - totals.ended);
        println!("latency, Kafka to queue      p50 {:?}, p99 {:?}; {} batches", latency.p50, latency.p99, metrics.batches());
        println!("{}", if totals.agree() { "The sums agree." } else { "THE SUMS DO NOT AGREE." });
    }
}
