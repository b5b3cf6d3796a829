//! The services of this run: where they are, and how they die. Only through `scripts/services`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use url::Url;

use crate::broker::Broker;
use crate::options::Arm;

/// Where the services are: the variables that `scripts/services env` prints.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) kafka: String,
    /// Where Kafka sends clients that came by its listener for proxies, and where that listener is.
    pub(crate) kafka_proxy: String,
    pub(crate) kafka_proxied: String,
    pub(crate) postgres: Url,
    pub(crate) broker: Broker,
    folder: PathBuf,
    script: PathBuf,
}

impl Services {
    pub(crate) fn from_environment(arm: Arm) -> anyhow::Result<Self> {
        let broker = match arm {
            Arm::Redis => "TEST_REDIS_URL",
            Arm::Rabbitmq => "TEST_AMQP_URL",
        };
        Ok(Self {
            kafka: variable("TEST_KAFKA")?,
            kafka_proxy: variable("TEST_KAFKA_PROXY")?,
            kafka_proxied: variable("TEST_KAFKA_PROXIED")?,
            postgres: Url::parse(&variable("TEST_POSTGRES_URL")?).context("TEST_POSTGRES_URL")?,
            broker: Broker { arm, url: Url::parse(&variable(broker)?).context(broker)? },
            folder: variable("TEST_SERVICES_DIR")?.into(),
            script: variable("CHAOS_SERVICES_SCRIPT")?.into(),
        })
    }

    /// `kill`, `start`, `block` or `unblock` of one service, as `scripts/services` does it.
    pub(crate) fn tell(&self, command: &str, name: &str) -> anyhow::Result<()> {
        let output = Command::new(&self.script)
            .args([command, name])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.script.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "scripts/services {command} {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// SIGSTOP or SIGCONT to a service that is one process.
    pub(crate) fn signal(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        let pid =
            std::fs::read_to_string(self.folder.join(format!("{name}.pid"))).with_context(|| format!("the pid of {name}"))?;
        signal_process(pid.trim().parse().context("a pid")?, signal)
    }
}

/// Sends a signal to a process that this harness, or its `scripts/services`, has started.
pub(crate) fn signal_process(pid: u32, signal: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().context("kill")?;
    anyhow::ensure!(status.success(), "cannot send {signal} to {pid}");
    Ok(())
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run scripts/chaos"))
}
