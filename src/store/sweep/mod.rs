//! What a crash leaves behind, taken up again: publications that never reached the broker, tasks that the broker lost,
//! and slots whose task the result backend calls over. Does IO.
//!
//! Any number of sweepers may race: every step compares what it has seen before it sets anything.

mod finished;
mod unpublished;
mod unstarted;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::finished::Finished;
use super::database::Connection;
use super::postgres::CONFIRM;
use super::{Database, Evidence, StoreError};
use crate::chaos::{self, Bug};
use crate::config::TriggerConfig;
use crate::retry::Backoff;
use crate::tasks::redis::RedisLink;
use crate::tasks::{Publication, Queue, QueueError, TaskQueue};
use crate::telemetry::Metrics;

pub use unpublished::take_up;
pub use unstarted::{Retried, retry, unstarted};

/// How often we look.
const INTERVAL: Duration = Duration::from_secs(2);
/// Rounds between two looks at tasks that never started: they are minutes old, and statements are counted.
const RETRY_EVERY: u32 = 5;
/// A publication is left to its own instance for this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rounds without a failure after which a trouble is over: a publication that failed is tried again only after its patience,
/// and the rounds between say nothing about the broker.
const CALM_ROUNDS: u32 = 10;

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
    terms: TriggerConfig,
    evidence: Evidence,
    metrics: Arc<Metrics>,
    connection: Option<Connection>,
    finished: Finished,
    rounds: u32,
}

impl Sweeper {
    /// A sweeper with connections of its own, which keeps `evidence` fresh.
    pub fn new(
        database: Database,
        queue: Queue,
        results: Option<RedisLink>,
        terms: TriggerConfig,
        evidence: Evidence,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { database, queue, results, terms, evidence, metrics, connection: None, finished: Finished::default(), rounds: 0 }
    }

    /// Sweeps until told to stop.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new("sweep_failed");
        let mut calm = 0_u32;
        while !stop.is_cancelled() {
            let pause = match self.sweep().await {
                Ok(()) => {
                    calm = calm.saturating_add(1);
                    if calm >= CALM_ROUNDS {
                        backoff.recovered();
                    }
                    INTERVAL
                }
                Err(error) => {
                    calm = 0;
                    backoff.failed(&error).max(INTERVAL)
                }
            };
            // Stopped or waited: either way the loop looks again.
            drop(tokio::time::timeout(pause, stop.cancelled()).await);
        }
        Ok(())
    }

    /// One round. A broker that is down keeps no slot from being released, and a result backend no task from being published.
    ///
    /// # Errors
    /// The store, the broker or the result backend does not answer; the first of these errors. The next round begins anew.
    pub async fn sweep(&mut self) -> Result<(), SweepError> {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        let published = unless_of_the_store(self.publish_unpublished(&connection).await)?;
        let released = match &mut self.results {
            Some(results) => unless_of_the_store(self.finished.release(&connection, results).await)?,
            None => Ok(()),
        };
        let is_turn = self.rounds.is_multiple_of(RETRY_EVERY);
        if is_turn {
            self.evidence.read(&connection, None).await?;
        }
        let retried = if is_turn { unless_of_the_store(self.retry_unstarted(&connection).await)? } else { Ok(()) };
        self.rounds = self.rounds.wrapping_add(1);
        self.connection = Some(connection);
        published.and(released).and(retried)
    }

    async fn publish_unpublished(&mut self, connection: &Connection) -> Result<(), SweepError> {
        if chaos::bug(Bug::CommitBeforePublish) {
            return Ok(());
        }
        for publication in take_up(connection, PATIENCE, self.terms.lease).await? {
            chaos::point("sweep_after_take_up");
            if publication.tasks.is_empty() {
                tracing::error!(event = "publication_lapsed", publication_id = %publication.id);
                self.metrics.lapsed();
                continue;
            }
            self.publish(connection, &publication).await?;
            tracing::warn!(event = "publication_swept", publication_id = %publication.id, enqueued = publication.tasks.len());
        }
        Ok(())
    }

    async fn publish(&mut self, connection: &Connection, publication: &Publication) -> Result<(), SweepError> {
        self.queue.enqueue(publication).await?;
        chaos::point("sweep_after_publish");
        connection.query(CONFIRM, &[&vec![publication.id]]).await?;
        chaos::point("sweep_after_confirm");
        self.metrics.swept(publication.tasks.len());
        Ok(())
    }

    /// Publishes again what the broker must have lost. Only where workers let one start happen: a task that merely
    /// waits in a long queue would else run twice.
    async fn retry_unstarted(&mut self, connection: &Connection) -> Result<(), SweepError> {
        if !self.evidence.workers_are_guarded() {
            return Ok(());
        }
        let mut seen = unstarted(connection, self.terms.start_timeout, &self.evidence).await?;
        if let Some(results) = &mut self.results {
            // Any result, an unfinished one too, is a trace of a start.
            let ids: Vec<Uuid> = seen.iter().map(|(trigger_id, _)| *trigger_id).collect();
            let known = crate::tasks::redis::known(results, &ids).await?;
            seen.retain(|(trigger_id, _)| !known.contains(trigger_id));
        }
        if seen.is_empty() {
            return Ok(());
        }
        let Retried { publication, failed } = retry(connection, &seen, self.terms.lease, self.terms.max_attempts).await?;
        chaos::point("retry_after_take_up");
        for trigger_id in &failed {
            tracing::error!(event = "trigger_never_started", %trigger_id, attempts = self.terms.max_attempts);
        }
        self.metrics.failed(failed.len());
        if !publication.tasks.is_empty() {
            self.publish(connection, &publication).await?;
            chaos::point("retry_after_publish");
            tracing::warn!(event = "triggers_enqueued_again", publication_id = %publication.id, enqueued = publication.tasks.len());
        }
        Ok(())
    }
}

/// An error of the store ends the round, for its connection is of no use any more; others leave the rest of it.
fn unless_of_the_store(result: Result<(), SweepError>) -> Result<Result<(), SweepError>, SweepError> {
    match result {
        Err(error @ SweepError::Store(_)) => Err(error),
        other => Ok(other),
    }
}
