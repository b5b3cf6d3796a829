//! What the operator decides: read once from the environment and `.env`, checked as a whole, then handed on as values.
//!
//! Owns every variable's name, default, unit and check. Must never open a connection, and never put a
//! secret into an error: an error tells the *shape* of a bad value, not the value.

mod batch;
mod broker_url;
mod celery;
mod environment;
mod kafka;
mod ledger;
mod postgres;
mod process;
mod trigger;
mod variables;

pub use batch::{BatchConfig, Flush};
pub use broker_url::{AmqpAddress, Broker, CertificateCheck, RedisAddress, RedisEndpoint, RedisTls};
pub use celery::{Argument, CeleryConfig, ResultBackend};
use environment::Reader;
pub use environment::{Environment, Problem, Problems};
pub use kafka::{KafkaConfig, OffsetReset};
pub use ledger::{Days, LedgerConfig};
pub use postgres::{PostgresConfig, SslMode};
pub use process::{LogFormat, ProcessConfig};
pub use trigger::{Scope, TriggerConfig, TriggerIds, WorkerGuard};
pub use variables::{VARIABLES, Variable, env_example, help};

/// The whole configuration of `trigger-dispatcher run`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where signals come from.
    pub kafka: KafkaConfig,
    /// When a batch flushes.
    pub batch: BatchConfig,
    /// Where rules, executions and our ledger are.
    pub postgres: PostgresConfig,
    /// Where tasks go, and what they look like.
    pub celery: CeleryConfig,
    /// What a trigger is and how long it holds its slot.
    pub trigger: TriggerConfig,
    /// How long the ledger is kept.
    pub ledger: LedgerConfig,
    /// Logs, HTTP, shutdown.
    pub process: ProcessConfig,
}

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// All mistakes at once, in the order of the variables' list.
    pub fn read(environment: &Environment) -> Result<Self, Problems> {
        read(environment, |reader| {
            let kafka = KafkaConfig::read(reader);
            let batch = BatchConfig::read(reader);
            let postgres = PostgresConfig::read(reader);
            let celery = CeleryConfig::read(reader);
            let trigger = TriggerConfig::read(reader);
            let ledger = LedgerConfig::read(reader, trigger.as_ref());
            let process = ProcessConfig::read(reader);
            Some(Self {
                kafka: kafka?,
                batch: batch?,
                postgres: postgres?,
                celery: celery?,
                trigger: trigger?,
                ledger: ledger?,
                process: process?,
            })
        })
    }
}

/// What commands need that touch nothing but PostgreSQL.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where our ledger is.
    pub postgres: PostgresConfig,
    /// What a trigger is: the ledger must be kept as long as one may come again.
    pub trigger: TriggerConfig,
    /// How long the ledger is kept.
    pub ledger: LedgerConfig,
}

impl StoreConfig {
    /// Reads and checks these variables only.
    ///
    /// # Errors
    /// All mistakes in them.
    pub fn read(environment: &Environment) -> Result<Self, Problems> {
        read(environment, |reader| {
            let postgres = PostgresConfig::read(reader);
            let trigger = TriggerConfig::read(reader);
            let ledger = LedgerConfig::read(reader, trigger.as_ref());
            Some(Self { postgres: postgres?, trigger: trigger?, ledger: ledger? })
        })
    }
}

/// What commands need that look at the topic, and at what is decided of it.
#[derive(Debug, Clone)]
pub struct TopicConfig {
    /// Where signals come from.
    pub kafka: KafkaConfig,
    /// Where our ledger is.
    pub postgres: PostgresConfig,
}

impl TopicConfig {
    /// Reads and checks these variables only.
    ///
    /// # Errors
    /// All mistakes in them.
    pub fn read(environment: &Environment) -> Result<Self, Problems> {
        read(environment, |reader| {
            let (kafka, postgres) = (KafkaConfig::read(reader), PostgresConfig::read(reader));
            Some(Self { kafka: kafka?, postgres: postgres? })
        })
    }
}

/// What commands need that send records to the topic again.
#[derive(Debug, Clone)]
pub struct ReplayConfig {
    /// Where signals come from.
    pub kafka: KafkaConfig,
    /// How old a signal may be.
    pub trigger: TriggerConfig,
}

impl ReplayConfig {
    /// Reads and checks these variables only.
    ///
    /// # Errors
    /// All mistakes in them.
    pub fn read(environment: &Environment) -> Result<Self, Problems> {
        read(environment, |reader| {
            let (kafka, trigger) = (KafkaConfig::read(reader), TriggerConfig::read(reader));
            Some(Self { kafka: kafka?, trigger: trigger? })
        })
    }
}

impl ProcessConfig {
    /// Reads and checks these variables only.
    ///
    /// # Errors
    /// All mistakes in them.
    pub fn alone(environment: &Environment) -> Result<Self, Problems> {
        read(environment, Self::read)
    }
}

/// Reads a part of the configuration, and reports every mistake in it.
fn read<T>(environment: &Environment, part: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Result<T, Problems> {
    let mut reader = environment.reader();
    let value = part(&mut reader);
    reader.finish()?;
    // A part is absent only after it has reported a problem, and then `finish` has returned it.
    value.ok_or_else(Problems::default)
}

#[cfg(test)]
mod tests;
