//! What a crash leaves behind, taken up again: outbox entries that never reached the broker, tasks that the broker lost,
//! and slots whose task the result backend calls over. Touches only what is of its own deployment. Does IO.
//!
//! Any number of sweepers may race: every step compares what it has seen before it sets anything.

mod figures;
mod finished;
mod unpublished;
mod unstarted;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::finished::Finished;
use super::database::Connection;
use super::deployment::Deployment;
use super::postgres::CONFIRM;
use super::{Database, Evidence, GivenUp, StoreError, TakenUp};
use crate::chaos::{self, Bug};
use crate::config::TriggerConfig;
use crate::retry::Backoff;
use crate::tasks::redis::{Results, TaskResult};
use crate::tasks::{Publication, Queue, QueueError, TaskQueue, expires};
use crate::telemetry::{Dependency, Metrics, Seldom};

pub use crate::tasks::PATIENCE;
pub use figures::figures;
pub use finished::release;
pub(super) use unpublished::renew;
use unpublished::was_there;
pub use unpublished::{give_up, take_up};
pub use unstarted::{Retried, retry, unstarted};

/// How often we look.
const INTERVAL: Duration = Duration::from_secs(2);
/// Rounds between two looks at tasks that never started: they are minutes old, and statements are counted.
const RETRY_EVERY: u32 = 5;
/// Rounds without a failure after which a trouble is over: a publication that failed is tried again only after its patience,
/// and the rounds between say nothing about the broker.
const CALM_ROUNDS: u32 = 10;

/// Whose triggers are published, and with which lease.
#[derive(Debug, Clone)]
pub struct LeaseTerms {
    /// Only its entries and slots are touched.
    pub deployment: Deployment,
    /// How long a lease holds.
    pub lease: Duration,
    /// How long before the end of its lease a task expires.
    pub margin: Duration,
    /// Triggers whose signal is older are given up instead of published; `None` is no limit.
    pub max_age: Option<Duration>,
    /// How long an outbox entry is left to whoever publishes it, in production [`PATIENCE`].
    pub patience: Duration,
    /// What is known of the workers.
    pub evidence: Evidence,
}

impl LeaseTerms {
    /// The terms of a configuration.
    pub fn new(deployment: Deployment, trigger: &TriggerConfig, evidence: Evidence) -> Self {
        let TriggerConfig { lease, lease_margin: margin, max_signal_age: max_age, .. } = *trigger;
        Self { deployment, lease, margin, max_age, patience: PATIENCE, evidence }
    }

    /// When a task with this lease expires.
    pub fn expires(&self, leased_until: jiff::Timestamp) -> jiff::Timestamp {
        expires(leased_until, self.margin)
    }
}

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
    results: Option<Results>,
    terms: LeaseTerms,
    config: TriggerConfig,
    metrics: Arc<Metrics>,
    connection: Option<Connection>,
    finished: Finished,
    rounds: u32,
    seldom: Seldom,
}

impl Sweeper {
    /// A sweeper with connections of its own, which keeps `evidence` fresh.
    pub fn new(
        database: Database,
        queue: Queue,
        results: Option<Results>,
        terms: LeaseTerms,
        config: TriggerConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            database,
            queue,
            results,
            terms,
            config,
            metrics,
            connection: None,
            finished: Finished::default(),
            rounds: 0,
            seldom: Seldom::default(),
        }
    }

    /// Sweeps until told to stop.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new("sweep_failed");
        let mut calm = 0_u32;
        while !stop.is_cancelled() {
            let swept = self.sweep().await;
            self.report(&swept);
            self.ask_broker().await;
            let pause = match swept {
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

    /// One round. If the broker is down, slots are released all the same. If the result backend is down, young entries are published all
    /// the same; old entries wait, because only the result backend may know that their tasks have started.
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
            Some(results) => unless_of_the_store(self.finished.release(&connection, &self.terms, results).await)?,
            None => Ok(()),
        };
        let is_turn = self.rounds.is_multiple_of(RETRY_EVERY);
        if is_turn {
            self.tell_owed(&connection).await?;
            self.terms.evidence.read(&connection, Some(self.terms.deployment.id)).await?;
            self.metrics.figures(&figures(&connection, &self.terms).await?);
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
        let mut taken = take_up(connection, &self.terms).await?;
        // Young ones first: only old ones wait for the result backend.
        taken.sort_by_key(|entry| entry.is_old);
        let mut failed = Ok(());
        for entry in taken {
            chaos::point("sweep_after_take_up");
            match self.publish_entry(connection, entry).await {
                // What is wrong with one entry holds up no other.
                Err(SweepError::Queue(error)) if error.is_about_the_publication() => failed = failed.and(Err(error.into())),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        failed
    }

    async fn publish_entry(&mut self, connection: &Connection, mut taken: TakenUp) -> Result<(), SweepError> {
        self.leave_started(&mut taken).await?;
        let TakenUp { publication, stale, gone, is_started, .. } = taken;
        if !stale.is_empty() {
            self.leave_stale(connection, &publication, &stale).await?;
        }
        if !publication.tasks.is_empty() {
            self.publish(connection, &publication).await?;
            tracing::warn!(event = "publication_swept", publication_id = %publication.id, enqueued = publication.tasks.len());
        } else if is_started {
            connection.query(CONFIRM, &[&vec![publication.id]]).await?;
            tracing::info!(event = "publication_was_there_already", publication_id = %publication.id);
        } else if stale.is_empty() && self.has_results(&gone).await? {
            // Over, and its slots released, before anybody confirmed it.
            was_there(connection, publication.id).await?;
            tracing::info!(event = "publication_was_there_already", publication_id = %publication.id);
        } else if stale.is_empty() {
            tracing::error!(event = "publication_lapsed", publication_id = %publication.id);
            self.metrics.lapsed();
        }
        Ok(())
    }

    /// Whether the result backend knows any of these tasks.
    async fn has_results(&mut self, tasks: &[Uuid]) -> Result<bool, SweepError> {
        match &mut self.results {
            Some(results) => Ok(!results.of(tasks).await?.is_empty()),
            None => Ok(false),
        }
    }

    /// Gives up triggers whose signal is too old by now, unless the broker has their tasks.
    async fn leave_stale(&mut self, connection: &Connection, entry: &Publication, stale: &[Uuid]) -> Result<(), SweepError> {
        let is_last = entry.tasks.is_empty();
        match self.queue.has(entry.id).await? {
            Some(true) if is_last => drop(connection.query(CONFIRM, &[&vec![entry.id]]).await?),
            // The rest is published under the same guard, and confirmed.
            Some(true) => {}
            has => {
                give_up(connection, entry.id, stale, has == Some(false), is_last).await?;
                for trigger_id in stale {
                    tracing::warn!(event = "trigger_given_up", %trigger_id, reason = GivenUp::Stale.as_str());
                }
                self.metrics.given_up(GivenUp::Stale.as_str(), stale.len());
            }
        }
        Ok(())
    }

    /// Leaves out tasks that the result backend knows: the broker had them, though nobody lived to confirm it. One that was
    /// revoked expired in the queue, and is published again.
    async fn leave_started(&mut self, taken: &mut TakenUp) -> Result<(), SweepError> {
        // A young one has its guard: a backend that is down must not keep its tasks back.
        let Some(backend) = self.results.as_mut().filter(|_| taken.is_old) else { return Ok(()) };
        let ids: Vec<Uuid> = taken.publication.tasks.iter().map(|task| task.trigger_id).collect();
        let known = backend.of(&ids).await?;
        let has_started = |id: Uuid| known.iter().any(|(known, result)| *known == id && *result != TaskResult::Revoked);
        taken.publication.tasks.retain(|task| !has_started(task.trigger_id));
        taken.is_started |= taken.publication.tasks.len() < ids.len();
        Ok(())
    }

    /// Tells of entries that the same group and topic still owes another target: nobody publishes them after a change of broker or queue.
    async fn tell_owed(&self, connection: &Connection) -> Result<(), SweepError> {
        let rows = connection.query(include_str!("../sql/owed_elsewhere.sql"), &[&self.terms.deployment.id]).await?;
        for row in &rows {
            let read = || Ok((row.try_get::<_, i32>(0)?, row.try_get::<_, String>(1)?, row.try_get::<_, i64>(2)?));
            let (deployment, target, entries) = read().map_err(StoreError::Answer)?;
            if self.seldom.now(&format!("owed-{deployment}")) {
                tracing::warn!(
                    event = "outbox_owed_elsewhere",
                    deployment,
                    target,
                    entries,
                    text = "claimed for another broker or queue, and not published: run an instance with that target, or hand them \
                        over with trigger-dispatcher outbox move --from N --yes"
                );
            }
        }
        Ok(())
    }

    async fn publish(&mut self, connection: &Connection, publication: &Publication) -> Result<(), SweepError> {
        self.queue.enqueue(publication).await?;
        chaos::point("sweep_after_publish");
        connection.query(CONFIRM, &[&vec![publication.id]]).await?;
        self.queue.settled(publication.id);
        chaos::point("sweep_after_confirm");
        self.metrics.swept(publication.tasks.len());
        Ok(())
    }

    /// Tells /readyz whether this round could use PostgreSQL.
    fn report(&self, swept: &Result<(), SweepError>) {
        let health = self.metrics.health();
        if let Err(SweepError::Store(_)) = swept {
            health.failed("sweep_failed", Some(Dependency::postgresql));
        } else {
            health.works("sweep_failed");
        }
    }

    /// In a quiet hour nothing else asks the broker. What it answers does not matter, and a failure is no line in the log: the
    /// loop writes one once it has a task to send.
    async fn ask_broker(&mut self) {
        let asked = self.queue.has(Uuid::nil()).await;
        let health = self.metrics.health();
        match asked {
            Err(error) if !error.is_about_the_publication() => {
                tracing::debug!(event = "broker_not_asked", %error);
                health.failed("broker_not_asked", Some(Dependency::broker));
            }
            _ => health.works("broker_not_asked"),
        }
    }

    /// Publishes again what the broker must have lost. Only where workers let one start happen: a task that merely
    /// waits in a long queue would else run twice.
    async fn retry_unstarted(&mut self, connection: &Connection) -> Result<(), SweepError> {
        if !self.terms.evidence.workers_are_guarded() {
            return Ok(());
        }
        let mut seen = unstarted(connection, &self.terms, self.config.start_timeout).await?;
        if let Some(backend) = &mut self.results {
            // Any result, an unfinished one too, is a trace of a start.
            let ids: Vec<Uuid> = seen.iter().map(|(trigger_id, _)| *trigger_id).collect();
            let known = backend.of(&ids).await?;
            seen.retain(|(trigger_id, _)| known.iter().all(|(known, _)| known != trigger_id));
        }
        if seen.is_empty() {
            return Ok(());
        }
        let Retried { publication, failed } = retry(connection, &self.terms, &seen, self.config.max_attempts).await?;
        chaos::point("retry_after_take_up");
        let of = |why| failed.iter().filter(|(_, given_up)| *given_up == why).map(|(id, _)| *id).collect::<Vec<_>>();
        for trigger_id in of(GivenUp::NeverStarted) {
            tracing::error!(event = "trigger_never_started", %trigger_id, attempts = self.config.max_attempts);
        }
        for trigger_id in of(GivenUp::Stale) {
            tracing::warn!(event = "trigger_given_up", %trigger_id, reason = GivenUp::Stale.as_str());
        }
        self.metrics.failed(of(GivenUp::NeverStarted).len());
        for why in [GivenUp::NeverStarted, GivenUp::Stale] {
            self.metrics.given_up(why.as_str(), of(why).len());
        }
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
