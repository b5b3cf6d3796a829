//! Counters, gauges and the latency of tasks, in the text format that Prometheus reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram as Buckets;
use prometheus_client::registry::{Registry, Unit};

use super::classic::classic;
use super::gauges::{Figures, Gauges, Partitions};
use super::health::Health;
use super::lag::Behind;
use super::lines;
use crate::clock;
use crate::intake::Batch;
use crate::rules::Matches;

/// Upper bounds of the latency's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

/// The rules were never read.
const RULES: &str = "rules_not_read";
/// The group has not said yet which partitions are ours.
pub const NO_PARTITIONS: &str = "no_partitions_yet";
/// The group has taken our partitions, and has not said who has them now.
pub const TAKEN_AWAY: &str = "partitions_taken_away";
/// The store is being asked where our partitions go on.
pub const OPENING: &str = "partitions_not_started";
/// None of our partitions can go on.
pub const ALL_STOPPED: &str = "partitions_stopped";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Everything that is measured. Shared; counting takes no lock but for one a batch.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    signals: Counter,
    batches: Counter,
    unmatched: Counter,
    stale: Counter,
    rejected: Family<Reason, Counter>,
    triggers: Counter,
    skipped_running: Counter,
    redelivered: Counter,
    swept: Counter,
    lapsed: Counter,
    failed: Counter,
    given_up: Family<Reason, Counter>,
    fenced: Counter,
    pipelines: Gauge,
    pipelines_skipped: Gauge,
    rules_failed: Counter,
    rules_loaded_at: Gauge,
    latency: Buckets,
    recent: Mutex<Histogram<u64>>,
    gauges: Gauges,
    health: Health,
}

/// Latency from Kafka's timestamp of a signal to its task in the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half of the tasks were faster.
    pub p50: Duration,
    /// 99 of 100 tasks were faster.
    pub p99: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("trigger_dispatcher");
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let rejected = Family::default();
        registry.register("signals_rejected", "Records sent to the dead-letter topic", rejected.clone());
        let given_up = Family::default();
        registry.register("triggers_given_up", "Triggers that were claimed and will not be enqueued again", given_up.clone());
        registry.register("log_lines_dropped", "Log lines that stdout did not take", lines::DROPPED.clone());
        let gauges = Gauges::default();
        gauges.register(&mut registry);
        let latency = Buckets::new(BUCKETS);
        registry.register_with_unit(
            "trigger_latency",
            "From Kafka's timestamp of a signal to its task in the broker",
            Unit::Seconds,
            latency.clone(),
        );
        Self {
            signals: counter(&mut registry, "signals", "Records decided, whatever became of them"),
            batches: counter(&mut registry, "batches", "Claim statements that decided a batch"),
            unmatched: counter(&mut registry, "signals_unmatched", "Signals that no pipeline accepts"),
            stale: counter(&mut registry, "signals_stale", "Records older than MAX_SIGNAL_AGE_SECONDS"),
            triggers: counter(&mut registry, "triggers", "Tasks enqueued"),
            skipped_running: counter(&mut registry, "skipped_running", "Matches discarded because their pipeline is busy"),
            redelivered: counter(&mut registry, "redelivered", "Matches that the ledger knew already"),
            swept: counter(&mut registry, "tasks_swept", "Tasks enqueued by the sweeper"),
            lapsed: counter(&mut registry, "publications_lapsed", "Publications given up: their slots had passed on"),
            failed: counter(&mut registry, "triggers_failed", "Triggers that never started, enqueued as often as allowed"),
            fenced: counter(&mut registry, "batches_fenced", "Batches that a newer owner of their partition decides"),
            pipelines: gauge(&mut registry, "pipelines", "Active signal pipelines in memory"),
            pipelines_skipped: gauge(&mut registry, "pipelines_skipped", "Pipelines whose row makes no sense"),
            rules_failed: counter(&mut registry, "rules_refresh_failures", "Refreshes of the rules that failed"),
            rules_loaded_at: gauge(&mut registry, "rules_loaded_timestamp_seconds", "When the rules in use were read"),
            rejected,
            given_up,
            latency,
            // Three digits from 1 ms to an hour; the bounds are constants, so this cannot fail.
            recent: Mutex::new(Histogram::new_with_bounds(1, 3_600_000, 3).expect("valid bounds")),
            registry,
            gauges,
            health: not_ready_yet(),
        }
    }
}

/// What is missing at the start.
fn not_ready_yet() -> Health {
    let health = Health::default();
    health.failed(RULES, None);
    health.failed(NO_PARTITIONS, None);
    health
}

impl Metrics {
    /// A batch is decided, and its tasks are in the broker.
    pub fn decided(&self, batch: &Batch, matches: &Matches, enqueued: usize, redelivered: usize) {
        self.batches.inc();
        self.signals.inc_by(batch.records() as u64);
        self.unmatched.inc_by(matches.counts.values().map(|counts| counts.unmatched.unsigned_abs()).sum());
        self.stale.inc_by(batch.offsets.spans().iter().map(|span| span.stale.unsigned_abs()).sum());
        for rejected in batch.rejected() {
            self.rejected.get_or_create(&Reason { reason: rejected.reason.as_str() }).inc();
        }
        self.redelivered.inc_by(redelivered as u64);
        self.skipped_running.inc_by(matches.pairs.saturating_sub((enqueued + redelivered) as u64));
    }

    /// Tasks are in the broker; `leads` are the times of the records that lead them, in milliseconds since 1970.
    pub fn enqueued(&self, leads: impl Iterator<Item = i64>) {
        let now_ms = clock::unix_ms();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for record_time_ms in leads {
            self.triggers.inc();
            let milliseconds = u64::try_from(now_ms - record_time_ms).unwrap_or(0);
            self.latency.observe(milliseconds as f64 / 1e3);
            recent.saturating_record(milliseconds.max(1));
        }
    }

    /// The sweeper has published tasks.
    pub fn swept(&self, tasks: usize) {
        self.swept.inc_by(tasks as u64);
    }

    /// A publication was given up.
    pub fn lapsed(&self) {
        self.lapsed.inc();
    }

    /// Triggers never started.
    pub fn failed(&self, triggers: usize) {
        self.failed.inc_by(triggers as u64);
    }

    /// Triggers were given up.
    pub fn given_up(&self, reason: &'static str, triggers: usize) {
        if triggers > 0 {
            self.given_up.get_or_create(&Reason { reason }).inc_by(triggers as u64);
        }
    }

    /// A batch belongs to a newer owner.
    pub fn fenced(&self) {
        self.fenced.inc();
    }

    /// The rules were read.
    pub fn rules_loaded(&self, pipelines: usize, skipped: usize) {
        self.pipelines.set(i64::try_from(pipelines).unwrap_or(i64::MAX));
        self.pipelines_skipped.set(i64::try_from(skipped).unwrap_or(i64::MAX));
        self.rules_loaded_at.set(clock::unix_ms() / 1000);
        self.health.works(RULES);
    }

    /// The rules could not be read.
    pub fn rules_failed(&self) {
        self.rules_failed.inc();
    }

    /// Records decided so far.
    pub fn signals(&self) -> u64 {
        self.signals.get()
    }

    /// Signals so far that no pipeline accepts.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.get()
    }

    /// Tasks enqueued so far.
    pub fn triggers(&self) -> u64 {
        self.triggers.get()
    }

    /// Matches discarded so far because their pipeline is busy.
    pub fn skipped_running(&self) -> u64 {
        self.skipped_running.get()
    }

    /// Batches decided so far.
    pub fn batches(&self) -> u64 {
        self.batches.get()
    }

    /// Why this instance could not decide now.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The group has spoken, or a partition's state has changed.
    pub fn partitions(&self, partitions: Partitions, reason: Option<&'static str>) {
        self.health.only(&[NO_PARTITIONS, TAKEN_AWAY, OPENING, ALL_STOPPED], reason);
        *self.gauges.partitions() = partitions;
    }

    /// Records are decided up to these offsets.
    pub fn moved(&self, next_offsets: &[(i32, i64)]) {
        self.gauges.partitions().next_offsets.extend(next_offsets.iter().copied());
    }

    /// The next offset to decide of each partition that is read.
    pub fn next_offsets(&self) -> BTreeMap<i32, i64> {
        self.gauges.partitions().next_offsets.clone()
    }

    /// How far this instance is behind Kafka.
    pub fn behind(&self, behind: Behind) {
        self.gauges.behind(behind);
    }

    /// What the store knows of the deployment.
    pub fn figures(&self, figures: &Figures) {
        self.gauges.figures(figures);
    }

    /// Begins the latency anew: what waited in Kafka before the start is no measure of the flow.
    pub fn restart_latency(&self) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }

    /// The latency since the start.
    pub fn latency(&self) -> Latency {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| Duration::from_millis(recent.value_at_quantile(quantile));
        Latency { p50: at(0.5), p99: at(0.99) }
    }

    /// Everything in the classic text format of Prometheus (version 0.0.4).
    ///
    /// # Errors
    /// Formatting fails.
    pub fn classic_text(&self) -> Result<String, std::fmt::Error> {
        self.text().map(|text| classic(&text))
    }

    /// Everything in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Formatting fails.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.gauges.refresh(&self.health);
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}
