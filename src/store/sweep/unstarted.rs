//! Triggers whose task the broker had, and that never started: it lost them, or a worker died with them.

use std::time::Duration;

use uuid::Uuid;

use crate::chaos::{self, Bug};
use crate::store::catalog::{self, Reading};
use crate::store::database::Connection;
use crate::store::postgres::timestamp;
use crate::store::{Evidence, StoreError};
use crate::tasks::{Publication, Task};

/// What became of triggers that never started.
#[derive(Debug, Clone, PartialEq)]
pub struct Retried {
    /// Those that are published again, as a new attempt.
    pub publication: Publication,
    /// Those that were published as often as allowed; their slots are free when the last lease has ended.
    pub failed: Vec<Uuid>,
}

/// Triggers that were enqueued longer than `patience` ago and left no trace of a start, with the attempt that was seen.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn unstarted(connection: &Connection, patience: Duration, evidence: &Evidence) -> Result<Vec<(Uuid, i32)>, StoreError> {
    let reading = Reading { time_zone: evidence.time_zone(), trusts_time: "$2::bool" };
    let sql = catalog::fill_in(connection, include_str!("../sql/unstarted.sql"), reading).await?;
    let rows = connection.query(&sql, &[&patience.as_secs_f64(), &evidence.trusts_time()]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(StoreError::Answer)
}

/// A new attempt for each of `seen`, or its end after `max_attempts`.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn retry(
    connection: &Connection,
    seen: &[(Uuid, i32)],
    lease: Duration,
    max_attempts: i32,
) -> Result<Retried, StoreError> {
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = seen.iter().copied().unzip();
    let id = Uuid::new_v4();
    let sql = include_str!("../sql/retry.sql");
    let unchecked = sql.replace("join seen using (trigger_id, attempt)", "join seen using (trigger_id)");
    let sql = if chaos::bug(Bug::SweepWithoutCompare) { &unchecked } else { sql };
    let rows = connection.query(sql, &[&ids, &attempts, &id, &lease.as_secs_f64(), &max_attempts]).await?;
    let mut retried =
        Retried { publication: Publication { id, expires: jiff::Timestamp::MAX, tasks: Vec::new() }, failed: Vec::new() };
    for row in &rows {
        let trigger_id = row.try_get(0).map_err(StoreError::Answer)?;
        match row.try_get::<_, Option<String>>(2).map_err(StoreError::Answer)? {
            Some(kwargs) => {
                retried.publication.expires = timestamp(row, 3)?;
                retried.publication.tasks.push(Task { trigger_id, kwargs });
            }
            None => retried.failed.push(trigger_id),
        }
    }
    Ok(retried)
}
