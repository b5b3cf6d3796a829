//! Tasks into Redis lists, as kombu's Redis transport expects them. Does IO.
//!
//! Promise: one message per task of a publication, whatever is retried. A script pushes all messages of a publication and says
//! so in its guard, or neither; so a repeated attempt after a lost reply finds the guard and pushes nothing. Redis does nothing
//! else while a script runs, so a publication of more than [`PART`] tasks goes out in parts, each under a guard of its own.

mod eviction;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Script, TlsCertificates};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::celery::{Encoder, redis_list};
use super::{Publication, Task, TaskQueue};
use crate::config::{CeleryConfig, CertificateCheck, RedisAddress, RedisEndpoint};
use crate::telemetry::Seldom;

/// How long a connection may take to stand. The crate's default is 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take. The crate's default of 500 ms is less than a busy Redis needs to fork.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its tasks a guard lives: a publication is not repeated after its lease.
const GUARD_MARGIN: Duration = Duration::from_secs(300);
/// Tasks that one script pushes, about: some milliseconds of Redis, and a few megabytes of ours.
const PART: usize = 1_000;

/// What went wrong with Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis does not answer or refuses.
    #[error("redis at {address}: {source}")]
    Redis {
        /// Where, without credentials.
        address: String,
        /// What the client says.
        source: redis::RedisError,
    },
    /// A certificate file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A connection that is made when it is needed and thrown away after an error.
#[derive(Debug)]
pub struct RedisLink {
    client: Client,
    address: String,
    connection: Option<MultiplexedConnection>,
    /// Where tasks are kept, each new connection is asked whether they are safe.
    keeps_tasks: Option<Seldom>,
}

impl RedisLink {
    /// Prepares a connection; Redis need not be reachable yet.
    ///
    /// # Errors
    /// A certificate file cannot be read, or the address makes no sense to the client.
    pub fn new(address: &RedisAddress) -> Result<Self, Error> {
        let redacted = address.redacted();
        let client = client(address, &redacted)?;
        Ok(Self { client, address: redacted, connection: None, keeps_tasks: None })
    }

    fn that_keeps_tasks(self) -> Self {
        Self { keeps_tasks: Some(Seldom::default()), ..self }
    }

    /// Runs a command on the connection. Every error leaves the outcome open and drops the connection.
    ///
    /// # Errors
    /// Redis does not answer or refuses.
    pub async fn run<T>(
        &mut self,
        command: impl AsyncFnOnce(&mut MultiplexedConnection) -> redis::RedisResult<T>,
    ) -> Result<T, Error> {
        let failed = |source| Error::Redis { address: self.address.clone(), source };
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(failed)?,
        };
        let result = command(&mut connection).await.map_err(failed)?;
        self.connection = Some(connection);
        Ok(result)
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(seldom) = &self.keeps_tasks {
            eviction::look(&mut connection, &self.address, seldom).await?;
        }
        Ok(connection)
    }
}

fn client(address: &RedisAddress, redacted: &str) -> Result<Client, Error> {
    let failed = |source| Error::Redis { address: redacted.to_owned(), source };
    let mut settings = RedisConnectionInfo::default().set_db(address.database);
    if let Some(user) = &address.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &address.password {
        settings = settings.set_password(password.expose_secret());
    }
    let (connection, certificates) = match &address.endpoint {
        RedisEndpoint::Socket(path) => (ConnectionAddr::Unix(path.clone()), None),
        RedisEndpoint::Tcp { host, port, tls: None } => (ConnectionAddr::Tcp(host.clone(), *port), None),
        RedisEndpoint::Tcp { host, port, tls: Some(tls) } => {
            let client_tls = match &tls.identity {
                Some((certificate, key)) => {
                    Some(redis::ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
                }
                None => None,
            };
            let root_cert = tls.authorities.as_deref().map(read).transpose()?;
            let insecure = tls.check == CertificateCheck::None;
            let connection = ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure, tls_params: None };
            (connection, Some(TlsCertificates { client_tls, root_cert }))
        }
    };
    let info = connection.into_connection_info().map_err(failed)?.set_redis_settings(settings);
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates).map_err(failed),
        None => Client::open(info).map_err(failed),
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.display().to_string(), source })
}

/// A Celery queue in Redis.
#[derive(Debug)]
pub struct RedisQueue {
    link: RedisLink,
    encoder: Encoder,
    list: String,
    guard_prefix: String,
    guard_seconds: u64,
    script: Script,
}

impl RedisQueue {
    /// Prepares the queue; Redis need not be reachable yet.
    ///
    /// # Errors
    /// See [`RedisLink::new`].
    pub fn new(address: &RedisAddress, config: &CeleryConfig, lease: Duration) -> Result<Self, Error> {
        Ok(Self {
            link: RedisLink::new(address)?.that_keeps_tasks(),
            encoder: Encoder::new(config),
            list: redis_list(config),
            guard_prefix: format!("{}trigger-dispatcher:published:", config.global_keyprefix),
            guard_seconds: (lease + GUARD_MARGIN).as_secs(),
            script: Script::new(include_str!("publish.lua")),
        })
    }

    /// Pushes tasks under a guard, or says in how many parts its publication has been published.
    async fn push(&mut self, guard: &str, parts: u64, tasks: &[&Task], expires: Timestamp) -> Result<Option<u64>, Error> {
        let messages = self.encoder.redis_messages(tasks.iter().copied(), expires);
        let (script, list, seconds) = (&self.script, &self.list, self.guard_seconds);
        let pushed: i64 = self
            .link
            .run(async |connection| {
                script.key(list).key(guard).arg(seconds).arg(parts).arg(&messages).invoke_async(connection).await
            })
            .await?;
        Ok((pushed < 0).then_some(pushed.unsigned_abs()))
    }

    /// Publishes what is too much for one script. A sweeper that repeats it may have fewer tasks than we, for slots pass on; so
    /// the first attempt fixes the number of parts, and a task's part hangs on nothing but that and its id.
    async fn enqueue_in_parts(&mut self, publication: &Publication, parts: u64) -> Result<(), Error> {
        let mut by_part: BTreeMap<u64, Vec<&Task>> = BTreeMap::new();
        for task in &publication.tasks {
            by_part.entry(task.trigger_id.as_u64_pair().1 % parts).or_default().push(task);
        }
        let guard = self.guard(publication.id);
        for (part, tasks) in by_part {
            self.push(&format!("{guard}:{part}/{parts}"), 1, &tasks, publication.expires).await?;
        }
        Ok(())
    }

    /// Connects, so that what is wrong with Redis is told before the first task.
    ///
    /// # Errors
    /// Redis does not answer or refuses.
    pub async fn connect(&mut self) -> Result<(), Error> {
        self.link.run(async |_| Ok(())).await
    }

    /// The key that tells that a publication has happened.
    pub fn guard(&self, publication: Uuid) -> String {
        format!("{}{publication}", self.guard_prefix)
    }
}

impl TaskQueue for RedisQueue {
    type Error = Error;

    async fn enqueue(&mut self, publication: &Publication) -> Result<(), Error> {
        if publication.tasks.is_empty() {
            return Ok(());
        }
        let guard = self.guard(publication.id);
        let parts = publication.tasks.len().div_ceil(PART) as u64;
        let at_once: Vec<&Task> = if parts == 1 { publication.tasks.iter().collect() } else { Vec::new() };
        let before = self.push(&guard, parts, &at_once, publication.expires).await?;
        let parts = before.unwrap_or(parts);
        if parts > 1 {
            self.enqueue_in_parts(publication, parts).await?;
        }
        if before.is_some() {
            tracing::info!(event = "publication_was_there_already", publication_id = %publication.id, parts);
        }
        Ok(())
    }
}

/// Which of these tasks Celery's result backend calls over.
///
/// # Errors
/// Redis does not answer or refuses.
pub async fn finished(link: &mut RedisLink, tasks: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    Ok(results(link, tasks).await?.into_iter().filter(|(_, result)| is_over(result)).map(|(task, _)| task).collect())
}

/// Which of these tasks Celery's result backend knows at all, finished or not.
///
/// # Errors
/// Redis does not answer or refuses.
pub async fn known(link: &mut RedisLink, tasks: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    Ok(results(link, tasks).await?.into_iter().map(|(task, _)| task).collect())
}

/// The results that there are.
async fn results(link: &mut RedisLink, tasks: &[Uuid]) -> Result<Vec<(Uuid, String)>, Error> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = tasks.iter().map(|task| format!("celery-task-meta-{task}")).collect();
    let results: Vec<Option<String>> =
        link.run(async |connection| redis::cmd("MGET").arg(&keys).query_async(connection).await).await?;
    Ok(tasks.iter().zip(results).filter_map(|(task, result)| Some((*task, result?))).collect())
}

/// Whether a result is final; what cannot be read is not.
fn is_over(result: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Meta {
        status: String,
    }
    serde_json::from_str::<Meta>(result).is_ok_and(|meta| ["SUCCESS", "FAILURE", "REVOKED"].contains(&meta.status.as_str()))
}
