//! Where the services are: the variables that `scripts/services env` prints.

use std::path::PathBuf;

use anyhow::Context as _;
use url::Url;

#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) kafka: String,
    pub(crate) postgres: Url,
    pub(crate) redis: String,
    /// The folder of their pids, when they were started by `scripts/services`.
    pub(crate) folder: Option<PathBuf>,
}

impl Services {
    /// Reads the variables.
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            kafka: variable("TEST_KAFKA")?,
            postgres: Url::parse(&variable("TEST_POSTGRES_URL")?).context("TEST_POSTGRES_URL")?,
            redis: variable("TEST_REDIS_URL")?,
            folder: std::env::var_os("TEST_SERVICES_DIR").map(PathBuf::from),
        })
    }

    /// The pid of a service that runs on this machine.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        std::fs::read_to_string(self.folder.as_ref()?.join(format!("{name}.pid"))).ok()?.trim().parse().ok()
    }
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run scripts/bench"))
}
