//! Flows at a fixed rate: latency, claims, and what rivals make of the same flow.

use std::time::Duration;

use crate::arms::drained::Rival;
use crate::paced::Flow;
use crate::platform::Shape;
use crate::queue::Trace;
use crate::results::say;
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name};

/// A flow of the usual kind: 4 partitions, lz4, 2 ms of linger, executions of a second.
pub(crate) fn flow(rates: Vec<u64>, seconds: u64, shape: Shape, subject: Subject) -> Flow {
    Flow {
        rates,
        seconds,
        warm_up: 4,
        partitions: 4,
        compression: "lz4".to_owned(),
        linger_ms: 2,
        shape,
        execution: Duration::from_secs(1),
        trace: Trace::AtEnd,
        subject,
        patience: Duration::from_secs(60),
        profiled: false,
    }
}

/// One flow of the dispatcher; each rate is a variant.
pub(crate) struct Paced {
    pub(crate) arm: &'static str,
    pub(crate) variant: String,
    pub(crate) flow: Flow,
}

impl Case for Paced {
    fn arm(&self) -> &'static str {
        self.arm
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        self.flow.measure(&bench.services, &name(), |figures| tell(&named(&self.variant, &figures["rate"]), figures))?;
        Ok(())
    }
}

/// One flow of any program, with executions that can be seen from their start on.
pub(crate) struct RivalPaced {
    pub(crate) arm: &'static str,
    pub(crate) variant: String,
    pub(crate) rival: Rival,
    pub(crate) flow: Flow,
}

impl Case for RivalPaced {
    fn arm(&self) -> &'static str {
        self.arm
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let mut flow = self.flow.clone();
        flow.subject = self.rival.subject(&self.variant, bench)?;
        flow.trace = Trace::FromStart;
        let mut told = 0;
        let measured = flow.measure(&bench.services, &name(), |figures| {
            told += 1;
            tell(&named(&self.variant, &figures["rate"]), figures)
        });
        match measured {
            // That a rival keeps up with some rates only is a finding, not a failure of the measurement.
            Err(error) if told > 0 && told < flow.rates.len() => say(&format!("{error:#}")),
            other => drop(other?),
        }
        Ok(())
    }
}

fn named(variant: &str, rate: &serde_json::Value) -> String {
    format!("{}/s, {variant}", crate::report::table::grouped(rate.as_f64().unwrap_or_default(), 0))
}
