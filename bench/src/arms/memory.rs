//! Resident memory of an idle instance, by the number of its pipelines.

use std::time::Duration;

use serde_json::json;

use crate::clock::{now, sleep_until};
use crate::instance::Setting;
use crate::kafka::Topic;
use crate::platform::Platform;
use crate::queue::List;
use crate::report::table::grouped;
use crate::results::round;
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name};

use super::shape;

/// It has its partitions before that; what it freed at its start has gone back then.
const SETTLED: Duration = Duration::from_secs(2);

pub(crate) struct Memory {
    pub(crate) pipelines: Vec<u32>,
    pub(crate) seed: u64,
}

/// The row of so many pipelines.
pub(crate) fn variant(pipelines: u32) -> String {
    format!("{} pipelines", grouped(f64::from(pipelines), 0))
}

impl Case for Memory {
    fn arm(&self) -> &'static str {
        "memory"
    }

    fn title(&self) -> String {
        format!("{:?} pipelines", self.pipelines)
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let (empty, _) = self.idle(bench, 0)?;
        tell(&variant(0), json!({"resident_mb": round(empty, 1)}))?;
        for pipelines in &self.pipelines {
            let (resident, peak) = self.idle(bench, *pipelines)?;
            let each = (resident - empty) / f64::from(*pipelines) * 1_000.0;
            let figures = json!({
                "resident_mb": round(resident, 1), "peak_resident_mb": round(peak, 1), "mb_per_1000": round(each, 3),
                "parameters": {"shape": shape(*pipelines, self.seed)},
            });
            tell(&variant(*pipelines), figures)?;
        }
        Ok(())
    }
}

impl Memory {
    /// Resident now, and at most, in MB.
    fn idle(&self, bench: &Bench, pipelines: u32) -> anyhow::Result<(f64, f64)> {
        let (services, name) = (&bench.services, name());
        let topic = Topic::create(services, &name, 4)?;
        let ours = Subject::ours();
        let mut platform = Platform::create(services, &name, &shape(pipelines, self.seed), &ours.migrate)?;
        let _list = List { services, name: &name };
        let mut instance = Setting::new(services, &platform, &topic, &name, &ours).start()?;
        instance.wait_ready(&mut platform, 4)?;
        sleep_until(now() + SETTLED)?;
        let usage = instance.usage()?;
        instance.stop()?;
        Ok((usage.resident, usage.peak))
    }
}
