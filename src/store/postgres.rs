//! The claims in PostgreSQL. Does IO.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio_postgres::config::{SslMode as ClientSslMode, TargetSessionAttrs};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Socket, Statement, tls::TlsStream};
use uuid::Uuid;

use super::{ClaimRequest, Claimed, Claims, Verdict, catalog, tls};
use crate::chaos::{self, Bug};
use crate::config::{Config, PostgresConfig, SslMode};
use crate::intake::Start;
use crate::supervise::Companion;
use crate::telemetry::Seldom;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may take on the client's side; the server gives up earlier.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(40);
/// What every session is told. One hung claimer must not stall the others, and no plan may be made for arrays of
/// another size.
const SESSION: &str = "set application_name = 'trigger-dispatcher'; set timezone = 'UTC'; set statement_timeout = '30s';
    set lock_timeout = '10s'; set idle_in_transaction_session_timeout = '30s'; set jit = off; set plan_cache_mode = force_custom_plan";

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL does not answer or refuses.
    #[error("postgresql: {}", describe(.0))]
    Postgres(#[source] tokio_postgres::Error),
    /// No answer in time.
    #[error("postgresql: no answer within {0:?}")]
    TimedOut(Duration),
    /// An answer of another shape than our statements give.
    #[error("postgresql gave an answer of another shape: {0}")]
    Answer(#[source] tokio_postgres::Error),
    /// The platform's tables are not as they should be.
    #[error("{0}")]
    Platform(String),
    /// Our schema is missing or of another version.
    #[error("{0}")]
    Schema(String),
    /// TLS cannot be set up.
    #[error("tls towards postgresql: {0}")]
    Tls(String),
}

/// The server's words, without the values that its detail may hold.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl StoreError {
    /// Whether the values of a statement were refused, not the statement or we.
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code().is_some_and(|code| code.code().starts_with("22")))
    }
}

/// How to connect. Cloned to whoever needs a connection of its own.
#[derive(Debug, Clone)]
pub struct Database {
    config: PostgresConfig,
}

/// A session that ends with its owner.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    _driver: Companion,
}

impl Database {
    /// Prepares connections; PostgreSQL need not be reachable yet.
    pub fn new(config: &PostgresConfig) -> Self {
        Self { config: config.clone() }
    }

    /// A new session on a server that takes writes.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn connect(&self) -> Result<Connection, StoreError> {
        self.connect_and_listen(None).await
    }

    /// A new session whose notifications go to `notices`.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn connect_and_listen(&self, notices: Option<UnboundedSender<()>>) -> Result<Connection, StoreError> {
        let config = self.client_config();
        let connect = async {
            if self.config.ssl_mode == SslMode::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(StoreError::Postgres)?;
                Ok(Connection { client, _driver: Companion::start(drive(connection, notices)) })
            } else {
                let (client, connection) = config.connect(tls::connector(&self.config)?).await.map_err(StoreError::Postgres)?;
                Ok(Connection { client, _driver: Companion::start(drive(connection, notices)) })
            }
        };
        let connection =
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| StoreError::TimedOut(CONNECT_TIMEOUT))??;
        connection.batch(SESSION).await?;
        Ok(connection)
    }

    fn client_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .user(&self.config.user)
            .password(self.config.password.expose_secret())
            .host(&self.config.host)
            .port(self.config.port)
            .dbname(&self.config.database)
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(20))
            // After a failover the old primary may answer, read only.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .ssl_mode(if self.config.ssl_mode == SslMode::Disable { ClientSslMode::Disable } else { ClientSslMode::Require });
        config
    }
}

/// Moves bytes until the session ends; its end is told by the next statement.
async fn drive<T>(mut connection: tokio_postgres::Connection<Socket, T>, notices: Option<UnboundedSender<()>>)
where
    T: TlsStream + AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(_), Some(notices)) = (message, &notices) {
            // Nobody listens any more: the session is about to be dropped.
            notices.send(()).ok();
        }
    }
}

impl Connection {
    async fn within<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
        let result = tokio::time::timeout(CLIENT_TIMEOUT, work).await.map_err(|_| StoreError::TimedOut(CLIENT_TIMEOUT))?;
        result.map_err(StoreError::Postgres)
    }

    /// Runs a statement that gives rows.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        self.within(self.client.query(sql, values)).await
    }

    /// Runs a prepared statement that gives rows.
    pub(super) async fn query_prepared(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        self.within(self.client.query(statement, values)).await
    }

    pub(super) async fn prepare(&self, sql: &str, types: &[Type]) -> Result<Statement, StoreError> {
        self.within(self.client.prepare_typed(sql, types)).await
    }

    /// Runs statements that give nothing.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// Whose progress, and what a claim is.
#[derive(Debug, Clone)]
pub struct ClaimTerms {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// How long a claim holds.
    pub lease: Duration,
    /// Statuses that we know to be active.
    pub active: Vec<String>,
    /// Statuses that are over.
    pub over: Vec<String>,
}

impl ClaimTerms {
    /// The terms of a configuration.
    pub fn new(config: &Config) -> Self {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
        Self {
            group: config.kafka.consumer_group.clone(),
            topic: config.kafka.signal_topic.clone(),
            lease: config.trigger.lease,
            active: list(&config.trigger.active_statuses),
            over: list(&config.trigger.over_statuses),
        }
    }
}

/// The claims in PostgreSQL.
#[derive(Debug)]
pub struct PostgresClaims {
    database: Database,
    terms: ClaimTerms,
    session: Option<(Connection, Statement)>,
    /// Publications that the broker has, and the store does not know it yet.
    unwritten: Vec<Uuid>,
    seldom: Seldom,
}

impl PostgresClaims {
    /// Prepares the claims; PostgreSQL need not be reachable yet.
    pub fn new(database: Database, terms: ClaimTerms) -> Self {
        Self { database, terms, session: None, unwritten: Vec::new(), seldom: Seldom::default() }
    }

    /// The session, made if there is none. It is taken out, so that every error drops it.
    async fn session(&mut self) -> Result<(Connection, Statement), StoreError> {
        if let Some(session) = self.session.take().filter(|(connection, _)| !connection.is_closed()) {
            return Ok(session);
        }
        let connection = self.database.connect().await?;
        for (column, statement) in catalog::missing_indexes(&connection).await? {
            if self.seldom.now(column) {
                tracing::warn!(
                    event = "index_missing",
                    table = "executions",
                    statement,
                    text = "claims read every execution of a pipeline"
                );
            }
        }
        let sql = catalog::fill_in(&connection, &claim_sql()).await?;
        let claim = connection.prepare(&sql, &[]).await?;
        Ok((connection, claim))
    }

    async fn claim_on(&self, connection: &Connection, claim: &Statement, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let spans = &request.spans;
        let partition: Vec<i32> = spans.iter().map(|(span, _)| span.partition).collect();
        let column = |of: fn(&(crate::intake::PartitionSpan, crate::rules::PartitionCounts)) -> i64| -> Vec<i64> {
            spans.iter().map(of).collect()
        };
        let wanted = &request.wanted;
        let texts = |of: fn(&super::Wanted) -> &str| -> Vec<&str> { wanted.iter().map(of).collect() };
        let ids = |of: fn(&super::Wanted) -> Uuid| -> Vec<Uuid> { wanted.iter().map(of).collect() };
        let values: [&(dyn ToSql + Sync); 26] = [
            &self.terms.group,
            &self.terms.topic,
            &partition,
            &column(|(span, _)| span.epoch),
            &column(|(span, _)| span.first_offset),
            &column(|(span, _)| span.next_offset),
            &column(|(span, _)| span.consumed),
            &column(|(_, counts)| counts.unmatched),
            &column(|(_, counts)| counts.merged),
            &column(|(_, counts)| counts.redelivered),
            &column(|(span, _)| span.stale),
            &column(|(span, _)| span.invalid),
            &ids(|wanted| wanted.text.trigger_id),
            &ids(|wanted| wanted.pipeline_id),
            &texts(|wanted| &wanted.ticker),
            &texts(|wanted| &wanted.text.signal_id),
            &texts(|wanted| &wanted.text.symbol),
            &texts(|wanted| &wanted.text.kwargs),
            &wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>(),
            &wanted.iter().map(|wanted| wanted.offset).collect::<Vec<_>>(),
            &wanted.iter().map(|wanted| wanted.shared).collect::<Vec<_>>(),
            &request.publication_id,
            &self.terms.lease.as_secs_f64(),
            &self.unwritten,
            &self.terms.active,
            &self.terms.over,
        ];
        let rows = connection.query_prepared(claim, &values).await?;
        let row = rows.first().ok_or_else(|| StoreError::Schema("the claim gave no row".to_owned()))?;
        let word: String = row.try_get(0).map_err(StoreError::Answer)?;
        match word.as_str() {
            "claimed" => Ok(Verdict::Claimed(Claimed {
                won: positions(row, 2)?,
                known: positions(row, 3)?.len(),
                leased_until: timestamp(row, 1)?,
                unknown_statuses: row.try_get(5).map_err(StoreError::Answer)?,
            })),
            "known" => Ok(Verdict::Known(positions(row, 3)?)),
            "repeated" => self.repeated(connection, request).await,
            _ => Ok(Verdict::Fenced(row.try_get(4).map_err(StoreError::Answer)?)),
        }
    }

    /// What an earlier attempt of this batch has claimed. A statement of its own: the first cannot see what was
    /// committed while it waited.
    async fn repeated(&self, connection: &Connection, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let rows = connection
            .query(
                // A sweeper may have renewed some of the leases: the one that ends first comes last, and counts for all.
                "select trigger_id, (extract(epoch from leased_until) * 1000000)::bigint from dispatcher.triggers
                 where publication_id = $1 order by leased_until desc",
                &[&request.publication_id],
            )
            .await?;
        let mut claimed =
            Claimed { won: Vec::new(), known: 0, leased_until: Timestamp::UNIX_EPOCH, unknown_statuses: Vec::new() };
        for row in &rows {
            let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
            claimed.leased_until = timestamp(row, 1)?;
            claimed.won.extend(request.wanted.iter().position(|wanted| wanted.text.trigger_id == id));
        }
        claimed.won.sort_unstable();
        Ok(Verdict::Claimed(claimed))
    }
}

impl Claims for PostgresClaims {
    type Error = StoreError;

    async fn open(&mut self, partitions: &[i32]) -> Result<Vec<Start>, StoreError> {
        let session = self.session().await?;
        let rows = session.0.query(include_str!("sql/open.sql"), &[&self.terms.group, &self.terms.topic, &partitions]).await?;
        let starts = rows
            .iter()
            .map(|row| Ok(Start { partition: row.try_get(0)?, epoch: row.try_get(1)?, next_offset: row.try_get(2)? }))
            .collect::<Result<_, _>>()
            .map_err(StoreError::Answer)?;
        self.session = Some(session);
        Ok(starts)
    }

    async fn claim(&mut self, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let (connection, claim) = self.session().await?;
        let verdict = self.claim_on(&connection, &claim, request).await?;
        self.session = Some((connection, claim));
        self.unwritten.clear();
        Ok(verdict)
    }

    fn confirm(&mut self, publication_id: Uuid) {
        self.unwritten.push(publication_id);
    }

    fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let session = self.session().await?;
        session.0.query(CONFIRM, &[&self.unwritten]).await?;
        self.session = Some(session);
        self.unwritten.clear();
        Ok(())
    }
}

/// The statement that decides a batch.
fn claim_sql() -> String {
    let sql = include_str!("sql/claim.sql").to_owned();
    if chaos::bug(Bug::EpochIgnored) {
        return sql
            .replace("p.epoch = s.epoch as mine", "true as mine")
            .replace("coalesce(p.next_offset <= s.first_offset, true)", "true");
    }
    sql
}

/// Marks publications that the broker has.
pub(super) const CONFIRM: &str =
    "update dispatcher.publications set enqueued_at = now() where publication_id = any ($1::uuid[]) and enqueued_at is null";

/// SQL counts from 1.
fn positions(row: &Row, column: usize) -> Result<Vec<usize>, StoreError> {
    let positions: Vec<i64> = row.try_get(column).map_err(StoreError::Answer)?;
    Ok(positions.into_iter().filter_map(|position| usize::try_from(position - 1).ok()).collect())
}

pub(super) fn timestamp(row: &Row, column: usize) -> Result<Timestamp, StoreError> {
    let microseconds: i64 = row.try_get(column).map_err(StoreError::Answer)?;
    Ok(Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX))
}
