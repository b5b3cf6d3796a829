//! Tasks into Redis lists, as kombu's Redis transport expects them. Does IO.
//!
//! Promise: one message per task of a publication, whatever is retried. A script pushes all messages of a publication and says
//! so in its guard, or neither; so a repeated attempt after a lost reply finds the guard and pushes nothing. Redis does nothing
//! else while a script runs, so a publication of more than [`PART`] tasks goes out in parts, each under a guard of its own.

mod eviction;
mod results;

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Script, TlsCertificates};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use uuid::Uuid;

use super::celery::{Encoder, redis_list};
use super::{Publication, Task, TaskQueue, TooLate};
use crate::clock;
use crate::config::{CeleryConfig, CertificateCheck, RedisAddress, RedisEndpoint};
use crate::telemetry::Seldom;

pub use results::{Results, TaskResult};

/// How long a connection may take to stand. The crate's default is 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take. The crate's default of 500 ms is less than a busy Redis needs to fork.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its tasks a guard lives at least: nobody starts what a later attempt would push.
pub const GUARD_MARGIN: Duration = Duration::from_secs(300);
/// How long a publication may wait to be published again where signals have no limit of age.
const GUARD_MOST: Duration = Duration::from_secs(7 * 86_400);
/// Publications whose guards are shortened with the next one, at most: the rest ends by itself.
const SETTLED_MOST: usize = 1_000;
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
    /// `publish_by` has passed.
    #[error("redis at {address}: {source}")]
    TooLate {
        /// Where, without credentials.
        address: String,
        /// What that means.
        source: TooLate,
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
    /// What Redis' clock said, in microseconds since 1970, at an instant of ours or a little before; of this connection.
    clock: Option<(Instant, i64)>,
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
        Ok(Self { client, address: redacted, connection: None, clock: None, keeps_tasks: None })
    }

    fn that_keeps_tasks(self) -> Self {
        Self { keeps_tasks: Some(Seldom::default()), ..self }
    }

    /// An instant of ours as microseconds on Redis' clock; 0 where that clock is not known.
    fn deadline(&self, at: Instant) -> i64 {
        let Some((asked, redis)) = self.clock else { return 0 };
        let later = i64::try_from(at.saturating_duration_since(asked).as_micros()).unwrap_or(i64::MAX);
        let earlier = i64::try_from(asked.saturating_duration_since(at).as_micros()).unwrap_or(i64::MAX);
        redis.saturating_add(later).saturating_sub(earlier)
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
            None => {
                let (connection, clock) = self.connect().await.map_err(failed)?;
                self.clock = clock;
                connection
            }
        };
        let result = command(&mut connection).await.map_err(failed)?;
        self.connection = Some(connection);
        Ok(result)
    }

    async fn connect(&self) -> redis::RedisResult<(MultiplexedConnection, Option<(Instant, i64)>)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut clock = None;
        if let Some(seldom) = &self.keeps_tasks {
            eviction::look(&mut connection, &self.address, seldom).await?;
            clock = server_clock(&mut connection, &self.address, seldom).await?;
        }
        Ok((connection, clock))
    }
}

/// What Redis' clock says now. A user who may not ask does without a limit of time on the server's side.
async fn server_clock(
    connection: &mut MultiplexedConnection,
    address: &str,
    seldom: &Seldom,
) -> redis::RedisResult<Option<(Instant, i64)>> {
    let answer: redis::RedisResult<(i64, i64)> = redis::cmd("TIME").query_async(connection).await;
    match answer {
        Ok((seconds, microseconds)) => Ok(Some((clock::timer(), seconds * 1_000_000 + microseconds))),
        Err(error) if error.code() == Some("NOPERM") => {
            if seldom.now("redis_time_refused") {
                tracing::warn!(
                    event = "redis_time_refused",
                    address,
                    text = "a request that waits in a stopped Redis may be served after its lease: allow +time for our user"
                );
            }
            Ok(None)
        }
        Err(error) => Err(error),
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
    /// The life of a guard while its publication may be published again, in seconds.
    guard_seconds: u64,
    /// The life of a guard that only a request under way may still meet, in seconds.
    settled_seconds: u64,
    /// Publications that nobody publishes again; their guards are shortened with the next one.
    settled: Vec<Uuid>,
    script: Script,
}

impl RedisQueue {
    /// Prepares the queue; Redis need not be reachable yet.
    ///
    /// # Errors
    /// See [`RedisLink::new`].
    pub fn new(
        address: &RedisAddress,
        config: &CeleryConfig,
        lease: Duration,
        max_signal_age: Option<Duration>,
    ) -> Result<Self, Error> {
        let settled = lease + GUARD_MARGIN;
        Ok(Self {
            link: RedisLink::new(address)?.that_keeps_tasks(),
            encoder: Encoder::new(config),
            list: redis_list(config),
            guard_prefix: format!("{}trigger-dispatcher:published:", config.global_keyprefix),
            guard_seconds: (settled + max_signal_age.unwrap_or(GUARD_MOST).min(GUARD_MOST)).as_secs(),
            settled_seconds: settled.as_secs(),
            settled: Vec::new(),
            script: Script::new(include_str!("publish.lua")),
        })
    }

    /// Pushes tasks under a guard, or says in how many parts its publication has been published.
    async fn push(&mut self, guard: &str, parts: u64, tasks: &[&Task], publication: &Publication) -> Result<Option<u64>, Error> {
        let messages = self.encoder.redis_messages(tasks.iter().copied(), publication.expires);
        let settled: Vec<String> = self.settled.iter().map(|id| self.guard(*id)).collect();
        let (script, list, seconds, settled_seconds) = (&self.script, &self.list, self.guard_seconds, self.settled_seconds);
        // Connects first, for the time on Redis' clock is the connection's.
        self.link.run(async |_| Ok(())).await?;
        let until = self.link.deadline(publication.publish_by);
        let pushed: Option<i64> = self
            .link
            .run(async |connection| {
                let mut call = script.key(list);
                call.key(guard).key(&settled);
                call.arg(seconds).arg(parts).arg(until).arg(settled_seconds).arg(&messages);
                call.invoke_async(connection).await
            })
            .await?;
        self.settled.clear();
        match pushed {
            Some(pushed) => Ok((pushed < 0).then_some(pushed.unsigned_abs())),
            None => {
                // Should Redis' clock have been set, the next connection learns it.
                self.link.connection = None;
                Err(self.too_late())
            }
        }
    }

    fn too_late(&self) -> Error {
        Error::TooLate { address: self.link.address.clone(), source: TooLate }
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
            self.push(&format!("{guard}:{part}/{parts}"), 1, &tasks, publication).await?;
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
        if clock::timer() > publication.publish_by {
            return Err(self.too_late());
        }
        let before = self.push(&guard, parts, &at_once, publication).await?;
        let parts = before.unwrap_or(parts);
        if parts > 1 {
            self.enqueue_in_parts(publication, parts).await?;
        }
        if before.is_some() {
            tracing::info!(event = "publication_was_there_already", publication_id = %publication.id, parts);
        }
        Ok(())
    }

    async fn has(&mut self, publication: Uuid) -> Result<Option<bool>, Error> {
        let guard = self.guard(publication);
        let parts: Option<u64> =
            self.link.run(async |connection| redis::cmd("GET").arg(&guard).query_async(connection).await).await?;
        // Of several parts some may be missing.
        Ok(match parts {
            None | Some(0) => Some(false),
            Some(1) => Some(true),
            Some(_) => None,
        })
    }

    fn settled(&mut self, publication: Uuid) {
        if self.settled.len() < SETTLED_MOST {
            self.settled.push(publication);
        }
    }
}
