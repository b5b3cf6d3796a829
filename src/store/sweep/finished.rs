//! Slots whose task is over according to Celery's result backend.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{LeaseTerms, SweepError};
use crate::chaos::{self, Bug};
use crate::store::StoreError;
use crate::store::database::Connection;
use crate::tasks::redis::{Results, TaskResult};

/// Slots that are asked about in one round.
const ASKED: i64 = 2_000;

/// Goes through the slots in flight, some in each round.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// The slot after which the next round starts.
    after: (Uuid, String),
}

impl Finished {
    pub(super) async fn release(
        &mut self,
        connection: &Connection,
        terms: &LeaseTerms,
        backend: &mut Results,
    ) -> Result<(), SweepError> {
        let (pipeline, ticker) = &self.after;
        let deployment = (!chaos::bug(Bug::SweepOfOthers)).then_some(terms.deployment.id);
        let values: [&(dyn ToSql + Sync); 6] =
            [pipeline, ticker, &ASKED, &deployment, &terms.deployment.adopts, &terms.deployment.topic];
        let rows = connection.query(include_str!("../sql/in_flight.sql"), &values).await?;
        let tasks = rows.iter().map(|row| row.try_get(2)).collect::<Result<Vec<Uuid>, _>>().map_err(StoreError::Answer)?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|asked| asked == ASKED);
        self.after = match rows.last().filter(|_| is_full) {
            Some(last) => (last.try_get(0).map_err(StoreError::Answer)?, last.try_get(1).map_err(StoreError::Answer)?),
            None => (Uuid::nil(), String::new()),
        };
        let results = backend.of(&tasks).await?;
        let of = |kind| results.iter().filter(|(_, result)| *result == kind).map(|(task, _)| *task).collect::<Vec<_>>();
        release(connection, &of(TaskResult::Ended), &of(TaskResult::Revoked)).await?;
        Ok(())
    }
}

/// Frees the slots of triggers whose result says that they ended, or were revoked or expired, where that result can only be of the
/// attempt that holds the slot.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn release(connection: &Connection, ended: &[Uuid], revoked: &[Uuid]) -> Result<(), StoreError> {
    if !ended.is_empty() || !revoked.is_empty() {
        let by_id = chaos::bug(Bug::ResultById);
        connection.query(include_str!("../sql/release.sql"), &[&ended, &revoked, &by_id]).await?;
    }
    Ok(())
}
