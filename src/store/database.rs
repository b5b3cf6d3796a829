//! Sessions with PostgreSQL, and what can go wrong in them. Does IO.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio_postgres::config::{SslMode as ClientSslMode, TargetSessionAttrs};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, SimpleQueryMessage, Socket, Statement, tls::TlsStream};

use super::{pooler, tls};
use crate::clock;
use crate::config::{PostgresConfig, SslMode};
use crate::supervise::Companion;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may take on the client's side; the server gives up earlier.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(40);
/// The oldest PostgreSQL: the first with multiranges.
const OLDEST_SERVER: u32 = 14;
/// Rows that are read at a time: some milliseconds of the server's work, and of ours.
const SLICE: u32 = 1_000;
/// What every session is told. One hung claimer must not stall the others, and no plan may be made for arrays of
/// another size (the claim has a plan for all sizes: postgres.rs). Where row-level security would hide rows, PostgreSQL must
/// refuse: a hidden execution makes a busy pipeline look idle.
///
/// A commit that is not on disk when it is acknowledged may be lost by a crash after its tasks have left. Only `off` is raised:
/// higher levels are kept, and `local` too, for it says that commits must not wait for a standby (platform.rs warns).
const SESSION: &str = "set application_name = 'trigger-dispatcher'; set timezone = 'UTC'; set statement_timeout = '30s';
    set lock_timeout = '10s'; set idle_in_transaction_session_timeout = '30s'; set jit = off; set plan_cache_mode = force_custom_plan;
    set row_security = off;
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL does not answer or refuses. No source: it would repeat the text, with the values of the server's detail.
    #[error("postgresql at {at}: {}", describe(.error))]
    Postgres {
        /// Where, and as whom.
        at: Arc<str>,
        /// What the client says.
        error: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("postgresql at {at}: no answer within {within:?}")]
    TimedOut {
        /// Where, and as whom.
        at: Arc<str>,
        /// How long we waited.
        within: Duration,
    },
    /// An answer of another shape than our statements give.
    #[error("postgresql gave an answer of another shape: {0}")]
    Answer(tokio_postgres::Error),
    /// The platform's tables are not as they should be.
    #[error("{0}")]
    Platform(String),
    /// Our schema is missing, or not as it should be.
    #[error("{0}")]
    Schema(String),
    /// This program cannot work with the server or with its schema, however long it waits.
    #[error("{0}")]
    Unfit(String),
    /// TLS cannot be set up.
    #[error("tls towards postgresql: {0}")]
    Tls(String),
}

/// The server's words, without the values that its detail may hold.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) if is_row_security(db) => format!("{} ({}): {ROW_SECURITY}", db.message(), db.code().code()),
        Some(db) if is_of_a_pooler(db) => format!("{} ({}): {POOLER}", db.message(), db.code().code()),
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// What to do where row-level security would hide rows from us.
const ROW_SECURITY: &str =
    "grant the dispatcher's role BYPASSRLS (alter role ... bypassrls), or let it own the table without FORCE ROW LEVEL SECURITY";

/// What is wrong, and what to do, where each transaction may be on another server session.
const POOLER: &str = "a connection pooler gives each transaction another server session (PgBouncer: pool_mode = transaction), so prepared \
    statements vanish and session settings reach other clients: let POSTGRES_HOST and POSTGRES_PORT name PostgreSQL itself, or a pool \
    with pool_mode = session";

/// Our statements are prepared once, on the session that runs them: only a pooler loses them, or has another client's under their
/// name.
fn is_of_a_pooler(error: &DbError) -> bool {
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(error.code())
}

/// The function of PostgreSQL that refuses: its message may be in another language, and its code is that of any missing right.
fn is_row_security(error: &DbError) -> bool {
    error.code() == &SqlState::INSUFFICIENT_PRIVILEGE
        && (error.routine() == Some("check_enable_rls") || error.message().contains("row-level security"))
}

impl StoreError {
    /// Whether the values of a statement were refused, not the statement or we.
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::Postgres { error, .. } if error.code().is_some_and(|code| code.code().starts_with("22")))
    }

    /// Whether others hold what a statement needs: it may succeed a moment later.
    pub fn is_a_lock(&self) -> bool {
        matches!(self, Self::Postgres { error, .. } if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
    }

    /// Whether the server has given a statement up (`statement_timeout`), and so has not applied it.
    pub(super) fn is_a_timeout(&self) -> bool {
        matches!(self, Self::Postgres { error, .. } if error.code() == Some(&SqlState::QUERY_CANCELED))
    }

    /// Whether it is not our right.
    pub(super) fn is_a_missing_right(&self) -> bool {
        matches!(self, Self::Postgres { error, .. } if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
    }

    /// Whether two transactions waited for each other, and the server ended this one.
    pub fn is_a_deadlock(&self) -> bool {
        matches!(self, Self::Postgres { error, .. } if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED))
    }

    /// Whether waiting and trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Unfit(_))
    }
}

/// How to connect. Cloned to whoever needs a connection of its own.
#[derive(Debug, Clone)]
pub struct Database {
    config: PostgresConfig,
    /// Whether it was seen that no pooler shares our sessions.
    is_direct: Arc<AtomicBool>,
    /// Where, and as whom, for errors.
    at: Arc<str>,
}

/// A session that ends with its owner.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    /// Where, and as whom, for errors.
    at: Arc<str>,
    /// Our statements as they were filled in for this session (catalog.rs), by their text and reading.
    filled: Mutex<HashMap<String, String>>,
    _driver: Companion,
}

impl Database {
    /// Prepares connections; PostgreSQL need not be reachable yet.
    pub fn new(config: &PostgresConfig) -> Self {
        let PostgresConfig { user, port, database, .. } = config;
        let at = format!("{}:{port} as {user}, database {database}", config.hosts.join(",")).into();
        Self { config: config.clone(), is_direct: Arc::default(), at }
    }

    /// Where the server is, for messages.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.config.hosts.join(","), self.config.port)
    }

    /// Our schema, for messages.
    pub(super) fn schema(&self) -> String {
        format!("the schema dispatcher of the database {}", self.config.database)
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
        let connection = self.open(notices).await?;
        if !self.is_direct.load(Ordering::Relaxed) {
            if pooler::shares_sessions(&connection, &self.open(None).await?).await? {
                return Err(StoreError::Unfit(format!("PostgreSQL at {}: {POOLER}", self.address())));
            }
            self.is_direct.store(true, Ordering::Relaxed);
        }
        connection.batch(SESSION).await?;
        Ok(connection)
    }

    /// A new session that was not told anything yet.
    async fn open(&self, notices: Option<UnboundedSender<()>>) -> Result<Connection, StoreError> {
        let config = self.client_config();
        let (at, failed) = (Arc::clone(&self.at), |error| StoreError::Postgres { at: Arc::clone(&self.at), error });
        let connect = async {
            if self.config.ssl_mode == SslMode::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                self.look_at_version(connection.parameter("server_version"))?;
                Ok(Connection { client, at, filled: Mutex::default(), _driver: Companion::start(drive(connection, notices)) })
            } else {
                let (client, connection) = config.connect(tls::connector(&self.config)?).await.map_err(failed)?;
                self.look_at_version(connection.parameter("server_version"))?;
                Ok(Connection { client, at, filled: Mutex::default(), _driver: Companion::start(drive(connection, notices)) })
            }
        };
        let timed_out = |_| StoreError::TimedOut { at: Arc::clone(&self.at), within: CONNECT_TIMEOUT };
        tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(timed_out)?
    }

    /// Before any statement: an older server does not know all that we tell a session.
    fn look_at_version(&self, version: Option<&str>) -> Result<(), StoreError> {
        match version.filter(|version| is_too_old(version)) {
            None => Ok(()),
            Some(version) => Err(StoreError::Unfit(format!(
                "PostgreSQL at {} is {version}, trigger-dispatcher needs {OLDEST_SERVER} or newer: upgrade the server, or set \
                 POSTGRES_HOST to a newer one",
                self.address()
            ))),
        }
    }

    fn client_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .user(&self.config.user)
            .password(self.config.password.expose_secret())
            .port(self.config.port)
            .dbname(&self.config.database)
            // One that does not answer leaves time for the next.
            .connect_timeout(CONNECT_TIMEOUT / u32::try_from(self.config.hosts.len()).unwrap_or(u32::MAX).max(1))
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(20))
            // After a failover the old primary may answer, read only.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .ssl_mode(if self.config.ssl_mode == SslMode::Disable { ClientSslMode::Disable } else { ClientSslMode::Require });
        for host in &self.config.hosts {
            config.host(host);
        }
        config
    }
}

/// Whether a server that names its version so, such as `13.22 (Debian 13.22-1)`, is too old.
fn is_too_old(version: &str) -> bool {
    let major = version.split(|next: char| !next.is_ascii_digit()).next().unwrap_or_default();
    major.parse::<u32>().is_ok_and(|major| major < OLDEST_SERVER)
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
        let timed_out = |_| StoreError::TimedOut { at: Arc::clone(&self.at), within: CLIENT_TIMEOUT };
        tokio::time::timeout(CLIENT_TIMEOUT, work).await.map_err(timed_out)?.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> StoreError {
        StoreError::Postgres { at: Arc::clone(&self.at), error }
    }

    /// A text that was kept for the life of the session.
    pub(super) fn kept(&self, key: &str) -> Option<String> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Keeps a text for the life of the session.
    pub(super) fn keep(&self, key: String, text: String) {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner).insert(key, text);
    }

    /// Runs a statement that gives rows.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        self.within(self.client.query(sql, values)).await
    }

    /// Runs a statement and hands on its rows slice by slice, all of one moment, so that they are never all in memory. Whoever else
    /// wants the processors has them after each slice for as long as it took, if `is_unhurried`.
    pub(super) async fn each(
        &self,
        sql: &str,
        is_unhurried: bool,
        mut take: impl FnMut(&Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.batch(&format!("begin read only; set local cursor_tuple_fraction = 1; declare slices no scroll cursor for {sql}"))
            .await?;
        let fetch = self.prepare(&format!("fetch {SLICE} from slices"), &[]).await?;
        let mut rows = self.query_prepared(&fetch, &[]).await?;
        while !rows.is_empty() {
            let began = clock::now();
            // The server makes the next slice while this one is taken.
            let (next, taken) = join(self.query_prepared(&fetch, &[]), async { rows.iter().try_for_each(&mut take) }).await;
            taken?;
            rows = next?;
            if is_unhurried {
                tokio::time::sleep(began.elapsed()).await;
            }
        }
        self.batch("commit").await
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

    /// Which process of the server works for this session. Asked without a prepared statement.
    pub(super) async fn server_session(&self) -> Result<String, StoreError> {
        let answers = self.within(self.client.simple_query("select pg_backend_pid()")).await?;
        let text = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        text.map(str::to_owned).ok_or_else(|| StoreError::Schema("PostgreSQL does not say its pg_backend_pid".to_owned()))
    }

    /// Runs statements that give nothing.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// The same without a limit of time on our side: what has to be done once, however much there is.
    ///
    /// # Errors
    /// PostgreSQL does not answer or refuses.
    pub(super) async fn batch_of_any_length(&self, sql: &str) -> Result<(), StoreError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(error))
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_older_than_14_is_told_by_the_version_that_it_names() {
        for (version, expected) in [
            ("9.6.24", true),
            ("10.23", true),
            ("13.22 (Debian 13.22-1.pgdg120+1)", true),
            ("14.0", false),
            ("15.14 (Debian 15.14-0+deb12u1)", false),
            ("14beta1", false),
            ("18devel", false),
            ("", false),
        ] {
            assert_eq!(is_too_old(version), expected, "{version}");
        }
    }
}
