//! Tells of executions that keep a pipeline busy for very long: their worker may have died. Does IO.
//!
//! Only the operator knows whether such a run is dead, so nothing is changed here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::StoreError;
use super::catalog::{Reading, columns, fill_in};
use super::database::Connection;
use crate::clock;
use crate::config::TriggerConfig;

/// Younger runs are no surprise.
const OLD: Duration = Duration::from_secs(86_400);
/// How long an execution is not told of again.
const AGAIN_AFTER: Duration = Duration::from_secs(86_400);
/// Reads of the platform's tables that take longer are not worth it.
const LIMITS: &str =
    "begin read only; set local statement_timeout = '10s'; set local enable_seqscan = off; set local enable_bitmapscan = off";

/// The executions that were told of.
#[derive(Debug)]
pub(super) struct Orphans {
    over: Vec<String>,
    time_zone: String,
    max_age: Option<Duration>,
    told: HashMap<String, Instant>,
}

impl Orphans {
    pub(super) fn new(config: &TriggerConfig) -> Self {
        Self {
            over: config.over_statuses.iter().cloned().collect(),
            time_zone: config.executions_time_zone.clone(),
            max_age: config.execution_max_age,
            told: HashMap::new(),
        }
    }

    /// Tells of old executions, of each once a day.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses, or it would take too long.
    pub(super) async fn look(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let [executions] = columns(connection, ["executions"]).await?;
        if !executions.has("created_at") {
            return Ok(());
        }
        let reading = Reading { time_zone: &self.time_zone, trusts_time: "true", max_age: self.max_age };
        let sql = fill_in(connection, include_str!("sql/orphans.sql"), reading).await?;
        connection.batch(LIMITS).await?;
        let rows = connection.query(&sql, &[&self.over, &OLD.as_secs_f64()]).await?;
        connection.batch("commit").await?;
        for row in &rows {
            let read = || {
                Ok((
                    row.try_get::<_, String>(0)?,
                    row.try_get::<_, uuid::Uuid>(1)?,
                    row.try_get::<_, String>(2)?,
                    row.try_get::<_, i64>(3)?,
                    row.try_get::<_, bool>(4)?,
                ))
            };
            let (execution_id, pipeline_id, status, age_seconds, counts) = read().map_err(StoreError::Answer)?;
            if !self.is_due(&execution_id, clock::now()) {
                continue;
            }
            let text = if counts {
                "keeps its pipeline busy: if its worker is dead, set its status to one that is over, or set EXECUTION_MAX_AGE_SECONDS"
            } else {
                "older than EXECUTION_MAX_AGE_SECONDS, so it keeps its pipeline busy no more"
            };
            tracing::warn!(event = "execution_old", execution_id, %pipeline_id, status, age_seconds, counts, text);
        }
        Ok(())
    }

    fn is_due(&mut self, execution_id: &str, now: Instant) -> bool {
        self.told.retain(|_, at| now.saturating_duration_since(*at) < AGAIN_AFTER);
        let is_due = !self.told.contains_key(execution_id);
        if is_due {
            self.told.insert(execution_id.to_owned(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_execution_is_told_of_once_a_day() {
        let mut orphans = Orphans { over: Vec::new(), time_zone: String::new(), max_age: None, told: HashMap::new() };
        let start = clock::now();
        for (id, hours, expected) in
            [("a", 0, true), ("b", 1, true), ("a", 1, false), ("a", 23, false), ("a", 24, true), ("b", 24, false)]
        {
            assert_eq!(orphans.is_due(id, start + Duration::from_secs(hours * 3_600)), expected, "{id} after {hours} h");
        }
        assert_eq!(orphans.told.len(), 2);
    }
}
