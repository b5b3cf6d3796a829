//! What the metrics tell of the whole deployment, read now and then.

use tokio_postgres::types::ToSql;

use super::LeaseTerms;
use crate::store::StoreError;
use crate::store::catalog;
use crate::store::database::Connection;
use crate::telemetry::Figures;

/// The dispositions, in the order of the statement.
const DISPOSITIONS: [&str; 8] = ["consumed", "triggered", "busy", "redelivered", "merged", "unmatched", "stale", "invalid"];

/// Outbox, tasks that have not started, and what became of records.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn figures(connection: &Connection, terms: &LeaseTerms) -> Result<Figures, StoreError> {
    let reading = terms.evidence.reading("$3::bool");
    let sql = catalog::fill_in(connection, include_str!("../sql/figures.sql"), reading).await?;
    let trusts_time = terms.evidence.trusts_time();
    let values: [&(dyn ToSql + Sync); 3] = [&terms.deployment.id, &terms.deployment.topic, &trusts_time];
    let rows = connection.query(&sql, &values).await?;
    let Some(row) = rows.first() else { return Ok(Figures::default()) };
    let number = |place: usize| row.try_get::<_, i64>(place).map_err(StoreError::Answer);
    let dispositions = (3..).zip(DISPOSITIONS).map(|(place, name)| Ok((name, number(place)?)));
    Ok(Figures {
        outbox_waiting: number(0)?,
        outbox_oldest_seconds: number(1)?,
        tasks_not_started: number(2)?,
        dispositions: dispositions.collect::<Result<_, StoreError>>()?,
    })
}
