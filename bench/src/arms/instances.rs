//! 1, 2 and 4 instances that divide a full topic among them.
//!
//! They join on an empty topic, stand still (SIGSTOP) while it is filled, and go on together: so the work is divided from its
//! first signal on. With fewer processors than instances the wall clock cannot show whether they scale: what a signal costs in
//! CPU can, as that is what a further machine would have to give. Where all run at once they take caches and each other's half
//! of a core from one another; where each goes on only when the one before is through, it is as alone as on a machine of its own.

use std::collections::BTreeMap;
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
pub(crate) fn variant(count: usize, order: Order) -> String {
    match (count, order) {
        (1, _) => "1 instance".to_owned(),
        (_, Order::AtOnce) => format!("{count} instances"),
        (_, Order::InTurn) => format!("{count} instances, one after the other"),
    }
}

/// When instances do their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    AtOnce,
    InTurn,
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
            self.measure_one(bench, *count, Order::AtOnce, tell)?;
            if *count > 1 {
                self.measure_one(bench, *count, Order::InTurn, tell)?;
            }
        }
        Ok(())
    }
}

impl Instances {
    fn measure_one(&self, bench: &Bench, count: usize, order: Order, tell: Tell<'_>) -> anyhow::Result<()> {
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
        let sent = i64::try_from(self.preload.signals)?;
        let mut wait_until = |instances: &mut [Instance], decided: i64| {
            wait_for("the decisions", Duration::from_secs(300), || {
                instances.iter_mut().try_for_each(Instance::check)?;
                Ok((platform.progress()?.next_offsets >= decided).then_some(()))
            })
        };
        // The memory for their batches they have from the system now: else it would be counted once for each.
        topic.fill(&self.preload, 0)?;
        wait_until(&mut instances, sent)?;
        instances.iter().try_for_each(|instance| instance.signal("STOP"))?;
        topic.fill(&self.preload, self.preload.signals)?;
        let before = threads(&instances)?;
        let began = now();
        match order {
            Order::AtOnce => {
                instances.iter().try_for_each(|instance| instance.signal("CONT"))?;
                wait_until(&mut instances, 2 * sent)?;
            }
            Order::InTurn => {
                // Partitions are as many for each, and as full.
                for number in 0..count {
                    instances[number].signal("CONT")?;
                    wait_until(&mut instances, sent + sent * i64::try_from(number + 1)? / i64::try_from(count)?)?;
                    instances[number].signal("STOP")?;
                }
            }
        }
        let seconds = (now() - began).as_secs_f64();
        let after = threads(&instances)?;
        let of = |threads: &Threads, name: &str| threads.get(name).copied().unwrap_or_default();
        let used: Vec<f64> =
            after.iter().zip(&before).map(|(after, before)| after.values().sum::<f64>() - before.values().sum::<f64>()).collect();
        let of_thread =
            |name: &str| after.iter().zip(&before).map(|(after, before)| of(after, name) - of(before, name)).sum::<f64>();
        instances.iter().try_for_each(|instance| instance.signal("CONT"))?;
        for instance in instances {
            instance.stop()?;
        }
        // Everything that was sent was decided once, and each trigger has one task: so no signal was done twice.
        let tasks = queue::len(services, &name)?;
        let sums = platform.audit(2 * self.preload.signals, tasks)?;
        warn_of_forgotten(&mut platform.admin, forgotten)?;
        let total: f64 = used.iter().sum();
        let signals = self.preload.signals as f64;
        tell(
            &variant(count, order),
            json!({
                "parameters": {"preload": self.preload, "shape": self.shape, "instances": count, "processors": processors},
                "signals_per_s": round(signals / seconds, 0),
                "cpu_us_per_signal": round(total / signals * 1e6, 3),
                "intake_us": round(of_thread("intake") / signals * 1e6, 3),
                "librdkafka_us": round(of_thread("rdk:broker1") / signals * 1e6, 3),
                "loop_us": round(of_thread("loop") / signals * 1e6, 3),
                "cpu_s_of_each": used.iter().map(|cpu| round(*cpu, 2)).collect::<Vec<_>>(),
                "least_share_percent": round(used.iter().copied().fold(f64::MAX, f64::min) / total * 100.0, 1),
                "duplicates": sums.consumed - 2 * sent + i64::try_from(tasks)? - platform.distinct_claims()?,
                "tasks": tasks,
            }),
        )
    }
}

/// Seconds by thread: counted in nanoseconds, and all of them live.
type Threads = BTreeMap<String, f64>;

fn threads(instances: &[Instance]) -> anyhow::Result<Vec<Threads>> {
    instances.iter().map(|instance| Ok(instance.usage()?.threads)).collect()
}
