//! What a crash leaves behind, taken up again: publications that never reached the broker, and slots whose task the
//! result backend calls over. Does IO.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::postgres::{CONFIRM, Connection, timestamp};
use super::{Database, StoreError, Unpublished};
use crate::retry::Backoff;
use crate::tasks::redis::{RedisLink, finished};
use crate::tasks::{Publication, Queue, QueueError, Task, TaskQueue};
use crate::telemetry::Metrics;

/// How often we look.
const INTERVAL: Duration = Duration::from_secs(2);
/// A publication is left to its own instance for this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Slots that are asked about at once.
const ASKED: i64 = 2_000;

/// What went wrong in a sweep.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The result backend.
    #[error("result backend: {0}")]
    Results(#[from] crate::tasks::redis::Error),
}

/// Takes up what a crash left behind.
#[derive(Debug)]
pub struct Sweeper {
    database: Database,
    queue: Queue,
    results: Option<RedisLink>,
    lease: Duration,
    metrics: Arc<Metrics>,
    connection: Option<Connection>,
    /// The slot after which the next question about results starts.
    asked_until: (Uuid, String),
}

impl Sweeper {
    /// A sweeper with connections of its own.
    pub fn new(database: Database, queue: Queue, results: Option<RedisLink>, lease: Duration, metrics: Arc<Metrics>) -> Self {
        Self { database, queue, results, lease, metrics, connection: None, asked_until: (Uuid::nil(), String::new()) }
    }

    /// Sweeps until told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new("sweep_failed");
        while !stop.is_cancelled() {
            let pause = match self.sweep().await {
                Ok(()) => {
                    backoff.recovered();
                    INTERVAL
                }
                Err(error) => {
                    self.connection = None;
                    backoff.failed(&error).max(INTERVAL)
                }
            };
            // Stopped or waited: either way the loop looks again.
            drop(tokio::time::timeout(pause, stop.cancelled()).await);
        }
        Ok(())
    }

    /// One round.
    ///
    /// # Errors
    /// The store, the broker or the result backend does not answer; the next round begins anew.
    pub async fn sweep(&mut self) -> Result<(), SweepError> {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        for unpublished in take_up(&connection, PATIENCE, self.lease).await? {
            let publication = unpublished.publication;
            if !publication.tasks.is_empty() {
                self.queue.enqueue(&publication).await?;
                connection.query(CONFIRM, &[&vec![publication.id]]).await?;
            }
            self.metrics.swept(publication.tasks.len());
            tracing::warn!(event = "publication_swept", publication_id = %publication.id, enqueued = publication.tasks.len());
        }
        self.release_finished(&connection).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Frees slots whose task is over according to Celery's result backend.
    async fn release_finished(&mut self, connection: &Connection) -> Result<(), SweepError> {
        let Some(results) = &mut self.results else { return Ok(()) };
        let (pipeline, ticker) = &self.asked_until;
        let rows = connection
            .query(
                "select pipeline_id, ticker, trigger_id from dispatcher.slots
                 where (pipeline_id, ticker) > ($1, $2) and leased_until > now() order by pipeline_id, ticker limit $3",
                &[pipeline, ticker, &ASKED],
            )
            .await?;
        let mut tasks: Vec<Uuid> = Vec::with_capacity(rows.len());
        self.asked_until = (Uuid::nil(), String::new());
        for row in &rows {
            tasks.push(row.try_get(2).map_err(StoreError::Answer)?);
        }
        if i64::try_from(rows.len()).is_ok_and(|asked| asked == ASKED)
            && let Some(last) = rows.last()
        {
            self.asked_until = (last.try_get(0).map_err(StoreError::Answer)?, last.try_get(1).map_err(StoreError::Answer)?);
        }
        let over = finished(results, &tasks).await?;
        if !over.is_empty() {
            // By trigger: a slot that has passed on meanwhile is not touched.
            connection.query("delete from dispatcher.slots where trigger_id = any ($1::uuid[])", &[&over]).await?;
        }
        Ok(())
    }
}

/// Publications that nobody has confirmed for `patience`, with their leases renewed. One without tasks has lapsed.
///
/// # Errors
/// PostgreSQL does not answer or refuses.
pub async fn take_up(connection: &Connection, patience: Duration, lease: Duration) -> Result<Vec<Unpublished>, StoreError> {
    let rows = connection.query(include_str!("sql/sweep.sql"), &[&patience.as_secs_f64(), &lease.as_secs_f64()]).await?;
    let mut found: Vec<Unpublished> = Vec::new();
    for row in &rows {
        let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
        if found.last().is_none_or(|last| last.publication.id != id) {
            let publication = Publication { id, expires: timestamp(row, 4)?, tasks: Vec::new() };
            found.push(Unpublished { publication, pipelines: Vec::new() });
        }
        let trigger_id: Option<Uuid> = row.try_get(1).map_err(StoreError::Answer)?;
        if let (Some(trigger_id), Some(last)) = (trigger_id, found.last_mut()) {
            let kwargs: String = row.try_get(3).map_err(StoreError::Answer)?;
            last.publication.tasks.push(Task { trigger_id, kwargs });
            last.pipelines.push(row.try_get(2).map_err(StoreError::Answer)?);
        }
    }
    Ok(found)
}
