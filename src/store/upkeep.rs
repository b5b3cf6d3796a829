//! Keeps the ledger in order: partitions are there before they are needed, and what is older than the retention goes. Does IO.
//!
//! The database's own functions do the work (`sql/0002_partitions.sql`), so a role without other rights may ask for it. Any
//! number of instances may do so at once: of those that come at the same time, one works. Must never make a claim wait long.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::database::Connection;
use super::orphans::Orphans;
use super::{Database, StoreError};
use crate::config::{Days, LedgerConfig, TriggerConfig};
use crate::retry::Backoff;
use crate::telemetry::Seldom;

/// How often the service looks.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// … and after a failure: nothing is urgent, partitions are made days ahead.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Rows that one statement deletes: it holds their locks, and its WAL comes at once.
const DELETED_AT_ONCE: i32 = 5_000;
/// Tables that are partitioned by time.
const LEDGERS: [&str; 2] = ["triggers", "publications"];

/// Tables whose rows are deleted one by one, the default partitions among them, and what is to be said of their rows.
pub const BY_ROW: [(&str, &str); 4] = [
    ("starts", "marks of the worker guard"),
    ("slots", "slots whose lease has ended"),
    ("triggers_default", "triggers in the default partition"),
    ("publications_default", "publications in the default partition"),
];

/// A partition that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub partition: String,
    /// Whether claims had to go to the default partition, which has become this one.
    pub from_default: bool,
}

/// A partition whose every row is older than the retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Its name.
    pub partition: String,
    /// No row is as young as this.
    pub until: Timestamp,
    /// As PostgreSQL estimates them.
    pub rows_about: i64,
    /// With its indexes.
    pub bytes: i64,
}

/// What became of a partition that was to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is no more.
    Dropped,
    /// Something refers to it that is not over.
    InFlight,
    /// Somebody else has dropped it.
    Gone,
    /// Another instance prunes at the time.
    Another,
}

/// Makes the partitions that are needed soon.
///
/// # Errors
/// PostgreSQL does not answer or refuses, or claims would have had to wait too long.
pub async fn prepare(connection: &Connection, ledger: LedgerConfig) -> Result<Vec<Prepared>, StoreError> {
    let mut made = Vec::new();
    for table in LEDGERS {
        let sql = "select partition, from_default from dispatcher.prepare_partitions($1, $2)";
        for row in connection.query(sql, &[&table, &ledger.partition_days()]).await? {
            let prepared = || Ok(Prepared { partition: row.try_get(0)?, from_default: row.try_get(1)? });
            made.push(prepared().map_err(StoreError::Answer)?);
        }
    }
    Ok(made)
}

/// Partitions whose every row is older than `retention`, the oldest first.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn old_partitions(connection: &Connection, retention: Days) -> Result<Vec<Old>, StoreError> {
    let sql = "select partition, (extract(epoch from until) * 1000000)::bigint, rows_about, bytes
        from dispatcher.old_partitions(make_interval(days => $1))";
    let rows = connection.query(sql, &[&retention.get()]).await?;
    rows.iter()
        .map(|row| {
            Ok(Old {
                partition: row.try_get(0)?,
                until: Timestamp::from_microsecond(row.try_get(1)?).unwrap_or(Timestamp::MAX),
                rows_about: row.try_get(2)?,
                bytes: row.try_get(3)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(StoreError::Answer)
}

/// Whether a lease or an unconfirmed publication still refers to a partition: then it stays.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn is_in_flight(connection: &Connection, partition: &str) -> Result<bool, StoreError> {
    let rows = connection.query("select dispatcher.in_flight($1)", &[&partition]).await?;
    let found: Option<bool> = rows.first().map_or(Ok(None), |row| row.try_get(0)).map_err(StoreError::Answer)?;
    Ok(found.unwrap_or_default())
}

/// Drops a partition of [`old_partitions`], unless it is in use.
///
/// # Errors
/// PostgreSQL does not answer or refuses, or claims would have had to wait too long.
pub async fn drop_partition(connection: &Connection, partition: &str, retention: Days) -> Result<Outcome, StoreError> {
    // Without a lock first: seldom do claims have to wait in vain.
    if is_in_flight(connection, partition).await? {
        return Ok(Outcome::InFlight);
    }
    let sql = "select dispatcher.drop_partition($1, make_interval(days => $2))";
    let rows = connection.query(sql, &[&partition, &retention.get()]).await?;
    let word: &str = rows.first().map_or(Ok(""), |row| row.try_get(0)).map_err(StoreError::Answer)?;
    Ok(match word {
        "dropped" => Outcome::Dropped,
        "in flight" => Outcome::InFlight,
        "gone" => Outcome::Gone,
        "another" => Outcome::Another,
        _ => return Err(StoreError::Schema(format!("dispatcher.drop_partition says {word:?}"))),
    })
}

/// How many rows of a table of [`BY_ROW`] are older than `retention` and over.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn count_old(connection: &Connection, table: &str, retention: Days) -> Result<i64, StoreError> {
    delete_at_most(connection, table, retention, 0).await
}

/// Deletes the rows of a table of [`BY_ROW`] that are older than `retention` and over, and says how many.
///
/// # Errors
/// PostgreSQL does not answer or refuses; what was deleted before stays so.
pub async fn delete_old(connection: &Connection, table: &str, retention: Days) -> Result<i64, StoreError> {
    let mut deleted = 0;
    loop {
        let rows = delete_at_most(connection, table, retention, DELETED_AT_ONCE).await?;
        deleted += rows;
        // Fewer: the rest is younger, or in use at the time.
        if rows < i64::from(DELETED_AT_ONCE) {
            return Ok(deleted);
        }
    }
}

async fn delete_at_most(connection: &Connection, table: &str, retention: Days, most: i32) -> Result<i64, StoreError> {
    let sql = "select dispatcher.delete_old($1, make_interval(days => $2), $3)";
    let rows = connection.query(sql, &[&table, &retention.get(), &most]).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(StoreError::Answer)
}

/// Keeps the ledger in order while the service runs.
#[derive(Debug)]
pub struct Upkeep {
    database: Database,
    ledger: LedgerConfig,
    orphans: Orphans,
    seldom: Seldom,
}

impl Upkeep {
    /// Prepares it; nothing is asked yet.
    pub fn new(database: Database, ledger: LedgerConfig, trigger: &TriggerConfig) -> Self {
        Self { database, ledger, orphans: Orphans::new(trigger), seldom: Seldom::default() }
    }

    /// Looks at once and then every hour, until told to stop.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new("ledger_upkeep_failed");
        while !stop.is_cancelled() {
            // A stop need not wait: what a statement has not committed was not done.
            let pause = match stop.run_until_cancelled(self.once()).await {
                None => break,
                Some(Ok(())) => {
                    backoff.recovered();
                    INTERVAL
                }
                Some(Err(error)) => backoff.failed(&error).max(AFTER_FAILURE),
            };
            // Stopped or waited: either way the loop looks again.
            drop(tokio::time::timeout(pause, stop.cancelled()).await);
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<(), StoreError> {
        // A session that idles for an hour is nobody's: each round has one of its own.
        let connection = self.database.connect().await?;
        self.keep_ledger(&connection).await?;
        // The ledger is in order, whatever the platform's tables say.
        if let Err(error) = self.orphans.look(&connection).await
            && self.seldom.now("executions_unread")
        {
            tracing::warn!(event = "executions_unread", %error, text = "not looked for executions that are very old");
        }
        Ok(())
    }

    async fn keep_ledger(&self, connection: &Connection) -> Result<(), StoreError> {
        for Prepared { partition, from_default } in prepare(connection, self.ledger).await? {
            if from_default {
                tracing::warn!(
                    event = "ledger_partition_late",
                    partition,
                    text = "nobody had made it in time: claims went to the default one"
                );
            } else {
                tracing::info!(event = "ledger_partition_made", partition);
            }
        }
        let Some(retention) = self.ledger.retention else { return Ok(()) };
        for old in old_partitions(connection, retention).await? {
            match drop_partition(connection, &old.partition, retention).await? {
                Outcome::Dropped => {
                    let Old { partition, until, rows_about, bytes } = old;
                    tracing::info!(event = "ledger_partition_dropped", partition, %until, rows_about, bytes);
                }
                Outcome::InFlight => {
                    tracing::info!(event = "ledger_partition_kept", partition = old.partition, text = "in flight");
                }
                Outcome::Gone => {}
                Outcome::Another => return Ok(()),
            }
        }
        for (table, _) in BY_ROW {
            let rows = delete_old(connection, table, retention).await?;
            if rows > 0 {
                tracing::info!(event = "ledger_rows_deleted", table, rows);
            }
        }
        Ok(())
    }
}
