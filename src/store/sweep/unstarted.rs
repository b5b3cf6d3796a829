//! Triggers whose task the broker had, and that never started: it lost them, or a worker died with them.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::LeaseTerms;
use crate::chaos::{self, Bug};
use crate::clock;
use crate::store::catalog;
use crate::store::database::Connection;
use crate::store::postgres::timestamp;
use crate::store::{GivenUp, StoreError};
use crate::tasks::{Publication, Task, publish_by};

/// Triggers that one round looks at.
const MOST: i32 = 500;

/// What became of triggers that never started.
#[derive(Debug, Clone, PartialEq)]
pub struct Retried {
    /// Those that are published again, as a new attempt.
    pub publication: Publication,
    /// Those that were given up, and why; their slots are free when the last lease has ended.
    pub failed: Vec<(Uuid, GivenUp)>,
}

/// Triggers that were enqueued longer than `patience` ago and left no trace of a start, with the attempt that was seen.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn unstarted(connection: &Connection, terms: &LeaseTerms, patience: Duration) -> Result<Vec<(Uuid, i32)>, StoreError> {
    let reading = terms.evidence.reading("$6::bool");
    let sql = catalog::fill_in(connection, include_str!("../sql/unstarted.sql"), reading).await?;
    let deployment = (!chaos::bug(Bug::SweepOfOthers)).then_some(terms.deployment.id);
    let trusts_time = terms.evidence.trusts_time();
    let values: [&(dyn ToSql + Sync); 6] =
        [&patience.as_secs_f64(), &MOST, &deployment, &terms.deployment.adopts, &terms.deployment.topic, &trusts_time];
    let rows = connection.query(&sql, &values).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(StoreError::Answer)
}

/// A new attempt for each of `seen`, or its end after `max_attempts`, or when its signal is too old.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn retry(
    connection: &Connection,
    terms: &LeaseTerms,
    seen: &[(Uuid, i32)],
    max_attempts: i32,
) -> Result<Retried, StoreError> {
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = seen.iter().copied().unzip();
    let id = Uuid::new_v4();
    let values: [&(dyn ToSql + Sync); 8] = [
        &ids,
        &attempts,
        &id,
        &terms.lease.as_secs_f64(),
        &max_attempts,
        &terms.max_age.map(|age| age.as_secs_f64()),
        &terms.deployment.id,
        &chaos::bug(Bug::SweepWithoutCompare),
    ];
    let asked_at = clock::timer();
    let rows = connection.query(include_str!("../sql/retry.sql"), &values).await?;
    let publication =
        Publication { id, expires: jiff::Timestamp::MAX, publish_by: publish_by(asked_at, terms.lease), tasks: Vec::new() };
    let mut retried = Retried { publication, failed: Vec::new() };
    for row in &rows {
        let trigger_id = row.try_get(0).map_err(StoreError::Answer)?;
        match row.try_get::<_, Option<String>>(2).map_err(StoreError::Answer)? {
            Some(kwargs) => {
                retried.publication.expires = terms.expires(timestamp(row, 3)?);
                retried.publication.tasks.push(Task { trigger_id, kwargs });
            }
            None => {
                let why: String = row.try_get(4).map_err(StoreError::Answer)?;
                let why = if why == GivenUp::Stale.as_str() { GivenUp::Stale } else { GivenUp::NeverStarted };
                retried.failed.push((trigger_id, why));
            }
        }
    }
    Ok(retried)
}
