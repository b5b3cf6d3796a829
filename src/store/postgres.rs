//! The claims in PostgreSQL. Does IO.

mod claim;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use self::claim::unstorable;
use super::catalog;
use super::database::Connection;
use super::deployment::{Deployment, DeploymentKey, register};
use super::sweep::{LeaseTerms, PATIENCE, renew};
use super::{ClaimRequest, Claims, Database, Evidence, Renewal, StoreError, Verdict, platform};
use crate::chaos::{self, Bug};
use crate::clock;
use crate::config::Config;
use crate::intake::{Identity, Position, Start};
use crate::telemetry::Seldom;

/// Planning a claim anew for each batch takes longer than a small claim itself, so one plan serves all sizes: it looks every
/// slot up in an index, and joins the rest by hashes. Without scans of whole tables it is also right for tables that have
/// grown since it was made; without bitmaps a look takes the first row that it needs, and no more.
const PLANS: &str = include_str!("sql/plans.sql");
/// How long a plan is used at most. Which of the platform's indexes it takes hangs on the statistics of that time.
const REPLAN_AFTER: Duration = Duration::from_secs(10);

/// Whose progress, and what a claim is.
#[derive(Debug, Clone)]
pub struct ClaimTerms {
    /// The consumer group, the topic, and where the tasks go.
    pub key: DeploymentKey,
    /// How long a claim holds.
    pub lease: Duration,
    /// How long before the end of its lease a task expires.
    pub margin: Duration,
    /// Triggers whose signal is older are given up instead of published; `None` is no limit.
    pub max_age: Option<Duration>,
    /// Statuses that we know to be active.
    pub active: Vec<String>,
    /// Statuses that are over.
    pub over: Vec<String>,
    /// What is known of the workers; the sweeper keeps it fresh.
    pub evidence: Evidence,
}

impl ClaimTerms {
    /// The terms of a configuration.
    pub fn new(config: &Config) -> Self {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
        Self {
            key: DeploymentKey::new(config),
            lease: config.trigger.lease,
            margin: config.trigger.lease_margin,
            max_age: config.trigger.max_signal_age,
            active: list(&config.trigger.active_statuses),
            over: list(&config.trigger.over_statuses),
            evidence: Evidence::new(&config.trigger),
        }
    }
}

/// The claims in PostgreSQL.
#[derive(Debug)]
pub struct PostgresClaims {
    database: Database,
    terms: ClaimTerms,
    session: Option<Session>,
    /// Publications that the broker has, and the store does not know it yet.
    unwritten: Vec<Uuid>,
    /// Confirmations that were written since the loop last asked.
    written: Vec<Uuid>,
    seldom: Seldom,
    /// What was told of the platform, once each.
    told: HashSet<String>,
}

/// A connection with its claim statement.
#[derive(Debug)]
struct Session {
    connection: Connection,
    sql: String,
    claim: Statement,
    planned_at: Instant,
    deployment: Deployment,
}

impl PostgresClaims {
    /// Prepares the claims; PostgreSQL need not be reachable yet.
    pub fn new(database: Database, terms: ClaimTerms) -> Self {
        let (unwritten, written) = (Vec::new(), Vec::new());
        Self { database, terms, session: None, unwritten, written, seldom: Seldom::default(), told: HashSet::new() }
    }

    /// The session, made if there is none. It is taken out, so that every error drops it.
    async fn session(&mut self) -> Result<Session, StoreError> {
        if let Some(session) = self.session.take().filter(|session| !session.connection.is_closed()) {
            return Ok(session);
        }
        let connection = self.database.connect().await?;
        // First, for a table that is gone lacks more than an index.
        let reading = self.terms.evidence.reading("$33::bool");
        let sql = catalog::fill_in(&connection, &claim_sql(), reading).await?;
        platform::look(&connection, reading.time_zone, &mut self.told).await?;
        let deployment = register(&connection, &self.terms.key).await?;
        self.terms.evidence.read_once(&connection, Some(deployment.id)).await?;
        connection.batch(PLANS).await?;
        for statement in catalog::missing_indexes(&connection).await? {
            if self.seldom.now(&statement) {
                tracing::warn!(
                    event = "index_missing",
                    table = "executions",
                    statement,
                    text = "claims read every execution of a pipeline"
                );
            }
        }
        let claim = connection.prepare(&sql, &[]).await?;
        Ok(Session { connection, sql, claim, planned_at: clock::now(), deployment })
    }

    /// Tells that PostgreSQL has given a claim up, and which index would help.
    async fn tell_slow(&self, connection: &Connection, slots: usize, error: &StoreError) -> Result<(), StoreError> {
        let statements = catalog::missing_indexes(connection).await?.join("; ");
        let text = if statements.is_empty() {
            "no index is missing: PostgreSQL is slow, or somebody holds a lock (pg_stat_activity, pg_locks)"
        } else {
            "claims read too many executions: make the missing index"
        };
        if slots <= 1 && self.seldom.now("claim_stuck") {
            tracing::error!(event = "claim_stuck", %error, statements, text);
        } else if slots > 1 && self.seldom.now("claim_timed_out") {
            tracing::warn!(event = "claim_timed_out", slots, %error, statements, text);
        }
        Ok(())
    }
}

impl Claims for PostgresClaims {
    type Error = StoreError;

    async fn open(&mut self, partitions: &[i32]) -> Result<Vec<Start>, StoreError> {
        let session = self.session().await?;
        let rows = session
            .connection
            .query(include_str!("sql/open.sql"), &[&self.terms.key.group, &self.terms.key.topic, &partitions])
            .await?;
        let starts = rows.iter().map(start).collect::<Result<_, _>>().map_err(StoreError::Answer)?;
        self.session = Some(session);
        Ok(starts)
    }

    async fn position(&mut self, positions: &[Position]) -> Result<Vec<i32>, StoreError> {
        let session = self.session().await?;
        let rows = session
            .connection
            .query(
                include_str!("sql/position.sql"),
                &[
                    &self.terms.key.group,
                    &self.terms.key.topic,
                    &positions.iter().map(|position| position.partition).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.epoch).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.next_offset).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.identity.cluster_id.as_deref()).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.identity.topic_id.as_deref()).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.is_told).collect::<Vec<_>>(),
                    &positions.iter().map(|position| position.skips_from).collect::<Vec<_>>(),
                ],
            )
            .await?;
        let ours = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(StoreError::Answer)?;
        self.session = Some(session);
        Ok(ours)
    }

    async fn begun(&mut self, partitions: &[i32]) -> Result<Vec<(i32, i64)>, StoreError> {
        let session = self.session().await?;
        let rows = session
            .connection
            .query(include_str!("sql/begun.sql"), &[&self.terms.key.group, &self.terms.key.topic, &partitions])
            .await?;
        let places = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, _>>()
            .map_err(StoreError::Answer)?;
        self.session = Some(session);
        Ok(places)
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let mut session = self.session().await?;
        if session.planned_at.elapsed() >= REPLAN_AFTER {
            session.claim = session.connection.prepare(&session.sql, &[]).await?;
            session.planned_at = clock::now();
        }
        let verdict = match self.claim_on(&session, request).await {
            // It may be a record's fault: then waiting would stop its partition for ever.
            Err(error) if error.is_about_data() => match unstorable(&session.connection, request).await? {
                positions if positions.is_empty() => return Err(error),
                positions => Verdict::Refused(positions),
            },
            Err(error) if error.is_a_timeout() => {
                self.tell_slow(&session.connection, request.wanted.len(), &error).await?;
                Verdict::TimedOut
            }
            verdict => verdict?,
        };
        self.session = Some(session);
        // A statement that was refused was not applied, nor what rode on it.
        if !matches!(verdict, Verdict::Refused(_) | Verdict::TimedOut) {
            self.written.append(&mut self.unwritten);
        }
        Ok(verdict)
    }

    async fn renew(&mut self, publication_id: Uuid) -> Result<Renewal, StoreError> {
        let session = self.session().await?;
        let Self { terms: ClaimTerms { lease, margin, max_age, .. }, .. } = *self;
        let (deployment, evidence) = (session.deployment.clone(), self.terms.evidence.clone());
        let terms = LeaseTerms { deployment, lease, margin, max_age, patience: PATIENCE, evidence };
        let renewal = renew(&session.connection, &terms, publication_id).await?;
        self.session = Some(session);
        Ok(renewal)
    }

    fn confirm(&mut self, publication_id: Uuid) {
        self.unwritten.push(publication_id);
    }

    fn written(&mut self) -> Vec<Uuid> {
        std::mem::take(&mut self.written)
    }

    fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let session = self.session().await?;
        session.connection.query(CONFIRM, &[&self.unwritten]).await?;
        self.session = Some(session);
        self.written.append(&mut self.unwritten);
        Ok(())
    }
}

/// A row of `open.sql`.
fn start(row: &Row) -> Result<Start, tokio_postgres::Error> {
    let (from, to): (Vec<i64>, Vec<i64>) = (row.try_get("decided_from")?, row.try_get("decided_to")?);
    Ok(Start {
        partition: row.try_get("partition")?,
        epoch: row.try_get("epoch")?,
        next_offset: row.try_get("next_offset")?,
        identity: Identity { cluster_id: row.try_get("cluster_id")?, topic_id: row.try_get("topic_id")? },
        committed_seen: row.try_get("committed_seen")?,
        decided: from.into_iter().zip(to).map(|(from, to)| from..to).collect(),
    })
}

/// The statement that decides a batch.
fn claim_sql() -> String {
    let sql = include_str!("sql/claim.sql").to_owned();
    if chaos::bug(Bug::EpochIgnored) {
        return sql
            .replace("p.epoch = s.epoch as mine", "true as mine")
            .replace("coalesce(p.next_offset <= s.first_offset, true)", "true")
            // Else what another owner has decided would be taken for an earlier attempt of ours.
            .replace("coalesce(p.next_offset >= s.next_offset, false)", "false");
    }
    sql
}

/// Marks publications that the broker has.
pub(super) const CONFIRM: &str =
    "update dispatcher.publications set enqueued_at = now() where publication_id = any ($1::uuid[]) and enqueued_at is null";

pub(super) fn timestamp(row: &Row, column: usize) -> Result<Timestamp, StoreError> {
    let microseconds: i64 = row.try_get(column).map_err(StoreError::Answer)?;
    Ok(Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX))
}
