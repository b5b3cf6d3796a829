//! What the newest triggers tell of the workers: whether the worker guard runs there, and whether their executions have our ids.
//!
//! The sweeper reads it every few rounds; claims only look at the last answer. Must never delay a claim but the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::StoreError;
use super::catalog::{Reading, fill_in};
use super::database::Connection;
use crate::config::{TriggerConfig, TriggerIds, WorkerGuard};
use crate::telemetry::Seldom;

/// Starts with a mark of the worker guard that must be seen before it is believed.
const LEAST_MARKS: i64 = 3;
/// Of ten starts, so many must have a mark.
const MARKS_IN_TEN: i64 = 9;

/// What is known of the workers. All clones share it.
#[derive(Debug, Clone)]
pub struct Evidence(Arc<Known>);

#[derive(Debug)]
struct Known {
    guard: WorkerGuard,
    trigger_ids: TriggerIds,
    time_zone: String,
    max_age: Option<Duration>,
    workers_are_guarded: AtomicBool,
    workers_use_our_ids: AtomicBool,
    /// Whether nothing is to be read, or something has been.
    is_read: AtomicBool,
    seldom: Seldom,
}

/// What the newest triggers of a deployment show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signs {
    /// The newest triggers that show a start.
    starts: i64,
    /// Those of them that have a mark of the worker guard.
    marks: i64,
    /// Triggers with an execution that has their id.
    with_our_id: i64,
    /// Triggers without one, whose slot has had another execution since the claim.
    with_other_ids: i64,
}

impl Signs {
    /// Whether the workers are guarded; `None`: too few have started to tell.
    fn workers_are_guarded(&self) -> Option<bool> {
        (self.starts >= LEAST_MARKS).then(|| self.marks >= LEAST_MARKS && self.marks * 10 >= self.starts * MARKS_IN_TEN)
    }

    /// Whether executions have our ids; `None`: there are none.
    fn workers_use_our_ids(&self) -> Option<bool> {
        (self.with_our_id > 0 || self.with_other_ids > 0).then_some(self.with_our_id > 0)
    }
}

impl Evidence {
    /// What the operator says; the rest is read.
    pub fn new(terms: &TriggerConfig) -> Self {
        Self(Arc::new(Known {
            guard: terms.worker_guard,
            trigger_ids: terms.trigger_ids,
            time_zone: terms.executions_time_zone.clone(),
            max_age: terms.execution_max_age,
            workers_are_guarded: AtomicBool::new(terms.worker_guard == WorkerGuard::Yes),
            workers_use_our_ids: AtomicBool::new(terms.trigger_ids == TriggerIds::Yes),
            is_read: AtomicBool::new(terms.worker_guard != WorkerGuard::Auto && terms.trigger_ids != TriggerIds::Auto),
            seldom: Seldom::default(),
        }))
    }

    /// Whether workers let one start happen for each task, so that a task may be enqueued again.
    pub fn workers_are_guarded(&self) -> bool {
        self.0.workers_are_guarded.load(Ordering::Relaxed)
    }

    /// Whether an execution that was made after a claim ends it, whatever its id. Not where the workers' executions have our
    /// ids: there, such an execution is somebody else's, and our task still waits.
    pub fn trusts_time(&self) -> bool {
        !self.0.workers_use_our_ids.load(Ordering::Relaxed)
    }

    /// How a statement reads executions; `trusts_time` is its parameter for [`Evidence::trusts_time`].
    pub(super) fn reading<'a>(&'a self, trusts_time: &'a str) -> Reading<'a> {
        Reading { time_zone: &self.0.time_zone, trusts_time, max_age: self.0.max_age }
    }

    /// Reads it unless that was done before: a claim must know it.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub(super) async fn read_once(&self, connection: &Connection, deployment: Option<i32>) -> Result<(), StoreError> {
        if self.0.is_read.load(Ordering::Relaxed) { Ok(()) } else { self.read(connection, deployment).await }
    }

    /// Reads it from the newest triggers of a deployment, or of all. What too few of them show stays as it is.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses; nothing changes.
    pub async fn read(&self, connection: &Connection, deployment: Option<i32>) -> Result<(), StoreError> {
        let known = &*self.0;
        let (guard, ids) = (known.guard == WorkerGuard::Auto, known.trigger_ids == TriggerIds::Auto);
        if !guard && !ids {
            known.is_read.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if ids && !known.is_read.load(Ordering::Relaxed) && was_seen(connection, deployment).await? {
            known.workers_use_our_ids.store(true, Ordering::Relaxed);
        }
        let signs = match signs(connection, deployment, &known.time_zone).await {
            Ok(signs) => signs,
            // What is known already must do: claims go on.
            Err(error) => {
                connection.batch("rollback").await?;
                if known.seldom.now("evidence_unread") {
                    tracing::warn!(event = "evidence_unread", %error);
                }
                known.is_read.store(true, Ordering::Relaxed);
                return Ok(());
            }
        };
        if let Some(seen) = signs.workers_are_guarded().filter(|_| guard)
            && changes(&known.workers_are_guarded, seen)
        {
            tracing::info!(event = "worker_guard_seen", seen, starts = signs.starts, marks = signs.marks);
        }
        // Once seen, it stays so: the newest triggers may all wait in a long queue, while users run pipelines by hand.
        if ids && signs.workers_use_our_ids() == Some(true) && changes(&known.workers_use_our_ids, true) {
            let Signs { with_our_id, with_other_ids, .. } = signs;
            tracing::info!(event = "trigger_ids_seen", seen = true, with_our_id, with_other_ids);
            let sql = "update dispatcher.deployments set workers_use_our_ids = true where deployment_id = $1 and not workers_use_our_ids";
            connection.query(sql, &[&deployment]).await?;
        }
        known.is_read.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether what is seen is new, and so is worth a line.
fn changes(known: &AtomicBool, seen: bool) -> bool {
    known.swap(seen, Ordering::Relaxed) != seen
}

/// Whether an instance of the deployment has seen executions with our ids.
async fn was_seen(connection: &Connection, deployment: Option<i32>) -> Result<bool, StoreError> {
    let sql = "select from dispatcher.deployments where deployment_id = $1 and workers_use_our_ids";
    Ok(!connection.query(sql, &[&deployment]).await?.is_empty())
}

async fn signs(connection: &Connection, deployment: Option<i32>, time_zone: &str) -> Result<Signs, StoreError> {
    let rows = connection.query(include_str!("sql/evidence_sample.sql"), &[&deployment]).await?;
    let sample: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(StoreError::Answer)?;
    if sample.is_empty() {
        return Ok(Signs::default());
    }
    let reading = Reading { time_zone, trusts_time: "true", max_age: None };
    let sql = fill_in(connection, include_str!("sql/evidence.sql"), reading).await?;
    // PostgreSQL expects a row soon wherever it looks, and would rather read the whole table than an index.
    connection
        .batch("begin read only; set local statement_timeout = '2s'; set local enable_seqscan = off; set local enable_bitmapscan = off")
        .await?;
    let rows = connection.query(&sql, &[&sample]).await?;
    connection.batch("commit").await?;
    let row = rows.first().ok_or_else(|| StoreError::Schema("the evidence gave no row".to_owned()))?;
    let signs = || {
        Ok(Signs {
            starts: row.try_get(0)?,
            marks: row.try_get(1)?,
            with_our_id: row.try_get(2)?,
            with_other_ids: row.try_get(3)?,
        })
    };
    signs().map_err(StoreError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_believed_when_most_of_some_starts_have_its_mark() {
        for (starts, marks, expected) in [
            (0, 0, None),
            (2, 2, None),
            (3, 3, Some(true)),
            (3, 2, Some(false)),
            (10, 9, Some(true)),
            (10, 8, Some(false)),
            (20, 18, Some(true)),
            (20, 17, Some(false)),
            (20, 0, Some(false)),
        ] {
            let signs = Signs { starts, marks, ..Signs::default() };
            assert_eq!(signs.workers_are_guarded(), expected, "{marks} of {starts}");
        }
    }

    #[test]
    fn what_is_seen_is_new_only_once() {
        let known = AtomicBool::new(false);
        let told: Vec<_> = [false, true, true, false, false, true].map(|seen| changes(&known, seen)).into();
        assert_eq!(told, [false, true, false, true, false, true]);
    }

    #[test]
    fn one_execution_with_a_triggers_id_tells_that_workers_use_our_ids() {
        for (with_our_id, with_other_ids, expected) in
            [(0, 0, None), (1, 0, Some(true)), (1, 50, Some(true)), (0, 1, Some(false))]
        {
            let signs = Signs { with_our_id, with_other_ids, ..Signs::default() };
            assert_eq!(signs.workers_use_our_ids(), expected, "{with_our_id} and {with_other_ids}");
        }
    }
}
