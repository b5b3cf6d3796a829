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
        let mut reader = environment.reader();
        let kafka = KafkaConfig::read(&mut reader);
        let batch = BatchConfig::read(&mut reader);
        let postgres = PostgresConfig::read(&mut reader);
        let celery = CeleryConfig::read(&mut reader);
        let trigger = TriggerConfig::read(&mut reader);
        let ledger = LedgerConfig::read(&mut reader, trigger.as_ref());
        let process = ProcessConfig::read(&mut reader);
        reader.finish()?;
        match (kafka, batch, postgres, celery, trigger, ledger, process) {
            (Some(kafka), Some(batch), Some(postgres), Some(celery), Some(trigger), Some(ledger), Some(process)) => {
                Ok(Self { kafka, batch, postgres, celery, trigger, ledger, process })
            }
            // A section is absent only after it has reported a problem, and then `finish` has returned it.
            _ => Err(Problems::default()),
        }
    }
}

#[cfg(test)]
mod tests;
