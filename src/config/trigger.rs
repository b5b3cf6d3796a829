//! What a trigger is, what keeps a slot busy, and for how long.

use std::collections::BTreeSet;
use std::time::Duration;

use super::environment::{Reader, shape};

/// No zone's name is longer.
const MOST_ZONE_BYTES: usize = 64;

/// What may have one execution in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A pipeline, for all the tickers that matched in the batch.
    Pipeline,
    /// Each (pipeline, ticker).
    Ticker,
}

/// Whether workers let one start happen for each task, so that enqueueing one again is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerGuard {
    /// As the newest triggers show it in `dispatcher.starts`.
    Auto,
    /// They do.
    Yes,
    /// They do not.
    No,
}

/// Whether workers give their rows in `executions` the ids of our triggers. Where they do, other rows are somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerIds {
    /// As the newest triggers show it.
    Auto,
    /// They do.
    Yes,
    /// They do not.
    No,
}

/// What a trigger is, what keeps a slot busy, and for how long.
#[derive(Debug, Clone)]
pub struct TriggerConfig {
    /// What may have one execution in flight.
    pub scope: Scope,
    /// What trigger ids are made in, instead of the topic.
    pub id_space: Option<String>,
    /// How long a claim holds its slot when nothing tells that it is over.
    pub lease: Duration,
    /// How long before the end of its lease a task may start at the latest: its first sign must come before the slot is free.
    pub lease_margin: Duration,
    /// How long a task may leave no trace of a start before it is enqueued again.
    pub start_timeout: Duration,
    /// How often a task is enqueued at most.
    pub max_attempts: i32,
    /// Whether workers let one start happen for each task.
    pub worker_guard: WorkerGuard,
    /// Records older than this are counted as stale; `None` is no limit.
    pub max_signal_age: Option<Duration>,
    /// How often the rules are read again.
    pub refresh_interval: Duration,
    /// Statuses, in lower case, that keep a pipeline busy.
    pub active_statuses: BTreeSet<String>,
    /// Statuses, in lower case, of an execution that is over. Any other status counts as active.
    pub over_statuses: BTreeSet<String>,
    /// How old an active execution may be that keeps its pipeline busy; `None` is no limit.
    pub execution_max_age: Option<Duration>,
    /// The zone of the times in `executions.created_at`, where the column has none.
    pub executions_time_zone: String,
    /// Whether executions have the ids of our triggers.
    pub trigger_ids: TriggerIds,
}

impl TriggerConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let scope = reader.choice("TRIGGER_SCOPE", &[("pipeline", Scope::Pipeline), ("ticker", Scope::Ticker)]);
        let lease = reader.seconds("TRIGGER_LEASE_SECONDS", 1.0, 604_800.0);
        let lease_margin = match reader.optional("TRIGGER_LEASE_MARGIN_SECONDS") {
            None => lease.map(|lease| lease / 10),
            Some(_) => reader.seconds("TRIGGER_LEASE_MARGIN_SECONDS", 0.0, 604_800.0),
        };
        if let (Some(lease), Some(margin)) = (lease, lease_margin)
            && margin >= lease
        {
            reader.problem(
                "TRIGGER_LEASE_MARGIN_SECONDS",
                "no task could start: it must be less than TRIGGER_LEASE_SECONDS".to_owned(),
            );
        }
        let start_timeout = reader.seconds("TRIGGER_START_TIMEOUT_SECONDS", 1.0, 604_800.0);
        let max_attempts = reader.number("TRIGGER_MAX_ATTEMPTS", 1, 100);
        let worker_guard = reader
            .choice("TRIGGER_WORKER_GUARD", &[("auto", WorkerGuard::Auto), ("yes", WorkerGuard::Yes), ("no", WorkerGuard::No)]);
        let max_signal_age = reader.seconds("MAX_SIGNAL_AGE_SECONDS", 0.0, 1e9);
        let refresh_interval = reader.seconds("CACHE_REFRESH_INTERVAL_SECONDS", 0.1, 86_400.0);
        let execution_max_age = match reader.optional("EXECUTION_MAX_AGE_SECONDS") {
            Some(_) => Some(reader.seconds("EXECUTION_MAX_AGE_SECONDS", 1.0, 1e9)?),
            None => None,
        };
        let executions_time_zone = time_zone(reader);
        let trigger_ids = reader.choice(
            "EXECUTIONS_HAVE_TRIGGER_IDS",
            &[("auto", TriggerIds::Auto), ("yes", TriggerIds::Yes), ("no", TriggerIds::No)],
        );
        let active_statuses = statuses(reader.required("EXECUTION_ACTIVE_STATUSES")?);
        let mut over_statuses = statuses(reader.required("EXECUTION_OVER_STATUSES")?);
        let both = active_statuses.intersection(&over_statuses);
        // Not their names: what stands in a variable by mistake may be a secret.
        let both: Vec<_> = both.map(|status| shape(status)).collect();
        if !both.is_empty() {
            reader.problem(
                "EXECUTION_ACTIVE_STATUSES",
                format!("{} stand in EXECUTION_OVER_STATUSES too; remove them from one list", both.join(", ")),
            );
        }
        // Two orders are worse than none: when in doubt, a status is active.
        over_statuses.retain(|status| !active_statuses.contains(status));
        Some(Self {
            scope: scope?,
            id_space: reader.optional("TRIGGER_ID_SPACE").map(str::to_owned),
            lease: lease?,
            lease_margin: lease_margin?,
            start_timeout: start_timeout?,
            max_attempts: max_attempts?,
            worker_guard: worker_guard?,
            max_signal_age: Some(max_signal_age?).filter(|age| !age.is_zero()),
            refresh_interval: refresh_interval?,
            active_statuses,
            over_statuses,
            execution_max_age,
            executions_time_zone: executions_time_zone?,
            trigger_ids: trigger_ids?,
        })
    }
}

fn statuses(list: &str) -> BTreeSet<String> {
    list.split(',').map(|status| status.trim().to_lowercase()).filter(|status| !status.is_empty()).collect()
}

/// A text that looks like a zone's name; whether PostgreSQL knows the zone is seen when it is asked.
fn time_zone(reader: &mut Reader<'_>) -> Option<String> {
    let zone = reader.required("EXECUTIONS_TIME_ZONE")?;
    let is_name = zone.len() <= MOST_ZONE_BYTES
        && zone.starts_with(|first: char| first.is_ascii_alphabetic())
        && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/+-".contains(&byte));
    if !is_name {
        let got = shape(zone);
        reader.problem("EXECUTIONS_TIME_ZONE", format!("expected the name of a time zone such as UTC or Asia/Tokyo, got {got}"));
    }
    is_name.then(|| zone.to_owned())
}
