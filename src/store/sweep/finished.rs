//! Slots whose task is over according to Celery's result backend.

use uuid::Uuid;

use super::SweepError;
use crate::store::StoreError;
use crate::store::database::Connection;
use crate::tasks::redis::{RedisLink, finished};

/// Slots that are asked about in one round.
const ASKED: i64 = 2_000;

/// Goes through the slots in flight, some in each round.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// The slot after which the next round starts.
    after: (Uuid, String),
}

impl Finished {
    pub(super) async fn release(&mut self, connection: &Connection, results: &mut RedisLink) -> Result<(), SweepError> {
        let (pipeline, ticker) = &self.after;
        let rows = connection
            .query(
                "select pipeline_id, ticker, trigger_id from dispatcher.slots
                 where (pipeline_id, ticker) > ($1, $2) and leased_until > now() order by pipeline_id, ticker limit $3",
                &[pipeline, ticker, &ASKED],
            )
            .await?;
        let tasks = rows.iter().map(|row| row.try_get(2)).collect::<Result<Vec<Uuid>, _>>().map_err(StoreError::Answer)?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|asked| asked == ASKED);
        self.after = match rows.last().filter(|_| is_full) {
            Some(last) => (last.try_get(0).map_err(StoreError::Answer)?, last.try_get(1).map_err(StoreError::Answer)?),
            None => (Uuid::nil(), String::new()),
        };
        let over = finished(results, &tasks).await?;
        if !over.is_empty() {
            // By trigger: a slot that has passed on meanwhile is not touched. Locked in the order of claims, against deadlocks.
            connection
                .query(
                    "with held as materialized (
                         select pipeline_id, ticker from dispatcher.slots where trigger_id = any ($1::uuid[])
                         order by pipeline_id, ticker for update
                     )
                     delete from dispatcher.slots s using held h where s.pipeline_id = h.pipeline_id and s.ticker = h.ticker",
                    &[&over],
                )
                .await?;
        }
        Ok(())
    }
}
