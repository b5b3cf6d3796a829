//! Topics that are full already, got through by a bare consumer or by a subject.

use std::path::PathBuf;
use std::time::Duration;

use crate::ceiling::{self, Call};
use crate::drain::{Drain, Watch};
use crate::kafka::Preload;
use crate::platform::Shape;
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name};

/// A bare consumer that only counts.
pub(crate) struct Bare {
    pub(crate) variant: String,
    pub(crate) preload: Preload,
    pub(crate) call: Call,
    pub(crate) cores: Option<&'static str>,
}

impl Case for Bare {
    fn arm(&self) -> &'static str {
        "drain"
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let topic = bench.topic(&self.preload)?;
        tell(&self.variant, ceiling::measure(topic, self.preload.signals, self.call, self.cores)?)
    }
}

/// The dispatcher.
pub(crate) struct Drained {
    pub(crate) arm: &'static str,
    pub(crate) variant: String,
    pub(crate) drain: Drain,
}

impl Case for Drained {
    fn arm(&self) -> &'static str {
        self.arm
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let services = bench.services.clone();
        let topic = bench.topic(&self.drain.preload)?;
        tell(&self.variant, self.drain.measure(&services, topic, &name())?)
    }
}

/// Who takes part in a comparison.
#[derive(Debug, Clone)]
pub(crate) enum Rival {
    Ours,
    /// A module of bench/reference, with variables of its own.
    Python {
        module: &'static str,
        changes: Vec<(String, String)>,
    },
    /// Another build.
    Build(PathBuf),
}

impl Rival {
    pub(crate) fn subject(&self, name: &str, bench: &mut Bench) -> anyhow::Result<Subject> {
        Ok(match self {
            Self::Ours => Subject::ours(),
            Self::Python { module, changes } => Subject::contender(name, bench.python()?, module).with(changes),
            Self::Build(path) => Subject::build(name, path),
        })
    }
}

/// Any program, by what Kafka knows of it, and no longer than some seconds.
pub(crate) struct RivalDrained {
    pub(crate) arm: &'static str,
    pub(crate) variant: String,
    pub(crate) rival: Rival,
    pub(crate) preload: Preload,
    pub(crate) shape: Shape,
    pub(crate) at_most: Duration,
}

impl Case for RivalDrained {
    fn arm(&self) -> &'static str {
        self.arm
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let subject = self.rival.subject(&self.variant, bench)?;
        let services = bench.services.clone();
        let topic = bench.topic(&self.preload)?;
        let mut drain = Drain::whole(&self.preload, self.shape, subject);
        drain.watch = Watch::Offsets;
        drain.at_most = self.at_most;
        drain.workers = Some(Duration::from_secs(1));
        tell(&self.variant, drain.measure(&services, topic, &name())?)
    }
}
