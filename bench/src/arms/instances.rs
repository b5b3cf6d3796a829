//! 1, 2 and 4 instances that divide a full topic among them.
//!
//! They join on an empty topic, stand still (SIGSTOP) while it is filled, and go on together: so the work is divided from its
//! first signal on. With fewer processors than instances the wall clock cannot show whether they scale: what a signal costs in
//! CPU can, as that is what a further machine would have to give.

use std::time::Duration;

use serde_json::json;

use crate::clock::{now, wait_for};
use crate::group::Group;
use crate::instance::{Instance, Setting};
use crate::kafka::{Preload, Topic};
use crate::platform::{Platform, Shape};
use crate::queue::{self, List};
use crate::results::{round, warn_of_forgotten};
use crate::statements;
use crate::subject::Subject;
use crate::suite::{Bench, Case, Tell, name};

pub(crate) struct Instances {
    pub(crate) counts: Vec<usize>,
    pub(crate) preload: Preload,
    pub(crate) shape: Shape,
}

/// The row of so many instances.
pub(crate) fn variant(count: usize) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}

impl Case for Instances {
    fn arm(&self) -> &'static str {
        "instances"
    }

    fn title(&self) -> String {
        format!("{:?} instances", self.counts)
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        for count in &self.counts {
            self.measure_one(bench, *count, tell)?;
        }
        Ok(())
    }
}

impl Instances {
    fn measure_one(&self, bench: &Bench, count: usize, tell: Tell<'_>) -> anyhow::Result<()> {
        let (services, name) = (&bench.services, name());
        let topic = Topic::create(services, &name, self.preload.partitions)?;
        let ours = Subject::ours();
        let mut platform = Platform::create(services, &name, &self.shape, &ours.migrate)?;
        let _list = List { services, name: &name };
        let forgotten = statements::forgotten(&mut platform.admin)?;
        let setting = Setting::new(services, &platform, &topic, &name, &ours);
        let processors = std::thread::available_parallelism()?.get();
        let pinned = |number: usize| setting.numbered(number, &ours.clone().on(&(number % processors).to_string())).start();
        let mut instances: Vec<Instance> = (0..count).map(pinned).collect::<anyhow::Result<_>>()?;

        let group = Group::of(&topic, &name)?;
        wait_for("all members of the group", Duration::from_secs(120), || {
            instances.iter_mut().try_for_each(Instance::check)?;
            let all = group.members()? == count && platform.partitions()? == i64::from(self.preload.partitions);
            Ok(all.then_some(()))
        })?;
        instances.iter().try_for_each(|instance| instance.signal("STOP"))?;
        topic.fill(&self.preload)?;
        let before: Vec<f64> = cpu(&instances)?;
        instances.iter().try_for_each(|instance| instance.signal("CONT"))?;
        let began = now();
        let sent = i64::try_from(self.preload.signals)?;
        wait_for("lag 0", Duration::from_secs(300), || {
            instances.iter_mut().try_for_each(Instance::check)?;
            Ok((platform.progress()?.next_offsets >= sent).then_some(()))
        })?;
        let seconds = (now() - began).as_secs_f64();
        let used: Vec<f64> = cpu(&instances)?.iter().zip(&before).map(|(after, before)| after - before).collect();
        for instance in instances {
            instance.stop()?;
        }
        // Everything that was sent was decided once, and each trigger has one task: so no signal was done twice.
        let tasks = queue::len(services, &name)?;
        let sums = platform.audit(self.preload.signals, tasks)?;
        warn_of_forgotten(&mut platform.admin, forgotten)?;
        let total: f64 = used.iter().sum();
        let signals = self.preload.signals as f64;
        tell(
            &variant(count),
            json!({
                "parameters": {"preload": self.preload, "shape": self.shape, "instances": count, "processors": processors},
                "signals_per_s": round(signals / seconds, 0),
                "cpu_us_per_signal": round(total / signals * 1e6, 3),
                "cpu_s_of_each": used.iter().map(|cpu| round(*cpu, 2)).collect::<Vec<_>>(),
                "least_share_percent": round(used.iter().copied().fold(f64::MAX, f64::min) / total * 100.0, 1),
                "duplicates": sums.consumed - sent + i64::try_from(tasks)? - platform.distinct_claims()?,
                "tasks": tasks,
            }),
        )
    }
}

fn cpu(instances: &[Instance]) -> anyhow::Result<Vec<f64>> {
    instances.iter().map(|instance| Ok(instance.usage()?.cpu)).collect()
}
