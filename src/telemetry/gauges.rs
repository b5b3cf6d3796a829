//! What is measured by looking now and then: partitions, lag, outbox, and whether the dependencies are up.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::health::{Dependency, Health};
use super::lag::Behind;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    dependency: Dependency,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Disposition {
    disposition: &'static str,
}

/// What the store knows of the whole deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Outbox entries that the broker does not have yet, as far as the store knows.
    pub outbox_waiting: i64,
    /// How long the oldest of them has waited, in seconds.
    pub outbox_oldest_seconds: i64,
    /// Tasks that the broker has and that left no trace of a start.
    pub tasks_not_started: i64,
    /// Records decided, by what became of them.
    pub dispositions: Vec<(&'static str, i64)>,
}

/// The group's partitions, as this instance has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partitions {
    /// Given to this instance.
    pub assigned: usize,
    /// Of those, stopped with an alarm.
    pub stopped: usize,
    /// The next offset to decide of each that is read.
    pub next_offsets: BTreeMap<i32, i64>,
}

/// Gauges, and what they are made from.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    is_ready: Gauge,
    dependency_up: Family<Name, Gauge>,
    assigned: Gauge,
    stopped: Gauge,
    lag_records: Gauge,
    lag_seconds: Gauge,
    outbox_waiting: Gauge,
    outbox_oldest: Gauge,
    not_started: Gauge,
    dispositions: Family<Disposition, Gauge>,
    partitions: Mutex<Partitions>,
}

impl Gauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("ready", "1 if /readyz answers 200", &self.is_ready);
        gauge("partitions_assigned", "Partitions that the group has given to this instance", &self.assigned);
        gauge(
            "partitions_stopped",
            "Partitions of this instance that are stopped, see the event partition_stopped",
            &self.stopped,
        );
        gauge("lag_records", "Records of this instance's partitions that are not decided", &self.lag_records);
        gauge("lag_seconds", "How long the oldest of them has been seen to wait", &self.lag_seconds);
        gauge("outbox_waiting", "Outbox entries of the deployment that are not known to be published", &self.outbox_waiting);
        gauge("outbox_oldest_seconds", "How long the oldest of them has waited", &self.outbox_oldest);
        gauge("tasks_not_started", "Tasks of the deployment that the broker has, without a trace of a start", &self.not_started);
        registry.register("dependency_up", "0 while a dependency fails", self.dependency_up.clone());
        let help = "Records that the consumer group has decided, by what became of them: the same from each instance";
        registry.register("group_records", help, self.dispositions.clone());
    }

    /// Brings up to date what only a look tells.
    pub(super) fn refresh(&self, health: &Health) {
        for dependency in Dependency::ALL {
            self.dependency_up.get_or_create(&Name { dependency }).set(i64::from(health.is_up(dependency)));
        }
        self.is_ready.set(i64::from(health.troubles().is_empty()));
        let partitions = self.partitions();
        self.assigned.set(number(partitions.assigned));
        self.stopped.set(number(partitions.stopped));
    }

    pub(super) fn partitions(&self) -> MutexGuard<'_, Partitions> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn behind(&self, behind: Behind) {
        self.lag_records.set(i64::try_from(behind.records).unwrap_or(i64::MAX));
        self.lag_seconds.set(seconds(behind.time));
    }

    pub(super) fn figures(&self, figures: &Figures) {
        self.outbox_waiting.set(figures.outbox_waiting);
        self.outbox_oldest.set(figures.outbox_oldest_seconds);
        self.not_started.set(figures.tasks_not_started);
        for (disposition, records) in &figures.dispositions {
            self.dispositions.get_or_create(&Disposition { disposition }).set(*records);
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
