//! A deployment of a run: a topic, a consumer group, a queue, the instances that serve them, and the workers behind the queue.
//! A run has one, or two that share the database.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::evidence::Evidence;
use crate::faults::Proxies;
use crate::instances::Instances;
use crate::kafka::Topics;
use crate::monitor::Watched;
use crate::plan::Plan;
use crate::platform::Platform;
use crate::producer::{Load, Producer};
use crate::services::Services;
use crate::signals::Signals;
use crate::worker::{Habits, Worker};

/// How long a trigger may leave no trace of a start before it is published again.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How much later a signal comes to the second deployment: its pipelines shall be idle again, so that the signal starts them in both.
const LATER: Duration = Duration::from_secs(3);

/// How many deployments a run has, and how many instances each of them has. Instances are numbered through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) deployments: usize,
    each: usize,
}

impl Layout {
    pub(crate) const ALONE: Self = Self { deployments: 1, each: 3 };
    pub(crate) const SIDE_BY_SIDE: Self = Self { deployments: 2, each: 2 };

    /// All instances.
    pub(crate) fn instances(self) -> usize {
        self.deployments * self.each
    }

    /// The instances of one deployment.
    pub(crate) fn of(self, deployment: usize) -> Range<usize> {
        deployment * self.each..(deployment + 1) * self.each
    }
}

/// What all deployments of a run share.
pub(crate) struct Ground<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) services: &'a Services,
    pub(crate) platform: &'a Platform,
    pub(crate) proxies: &'a Proxies,
    pub(crate) evidence: &'a Arc<Evidence>,
}

/// A deployment that is set up.
pub(crate) struct Deployment {
    number: usize,
    pub(crate) topics: Topics,
    pub(crate) instances: Instances,
    pub(crate) worker: Worker,
    pub(crate) watched: Mutex<Watched>,
}

impl Deployment {
    /// Makes its topics and its queue, and starts its workers. No instance runs yet.
    pub(crate) fn prepare(number: usize, name: &str, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let Ground { plan, services, platform, evidence, .. } = ground;
        // Also the name of its group and its queue.
        let name = if number == 0 { name.to_owned() } else { format!("{name}_{number}") };
        let topics = Topics::create(services, &name)?;
        services.broker.declare(&name)?;
        let instances = Instances::new(plan.layout.of(number), variables(ground, &topics)?, evidence)?;
        let seed = plan.seed.wrapping_add(number as u64);
        let habits = Habits { broker: services.broker.clone(), queue: name, seed, loses: plan.loses };
        let worker = Worker::start(platform, habits, evidence)?;
        Ok(Self { number, topics, instances, worker, watched: Mutex::default() })
    }

    /// Starts to send the signals, which are the same for each deployment.
    pub(crate) fn send(&self, signals: Signals, plan: &Plan) -> anyhow::Result<Producer> {
        let per_second = plan.signals.saturating_sub(plan.before) / plan.seconds();
        let delay = LATER * u32::try_from(self.number)?;
        let load = Load { signals: plan.signals, per_second: per_second.max(20), before: plan.before, delay };
        Producer::start(&self.topics, signals, load)
    }

    /// The queue that its tasks go to.
    pub(crate) fn queue(&self) -> &str {
        &self.topics.signals
    }
}

/// How its instances run: short times, so that a run shows what else takes hours.
fn variables(ground: &Ground<'_>, topics: &Topics) -> anyhow::Result<Vec<(String, String)>> {
    let Ground { plan, services, platform, proxies, .. } = ground;
    let own = [
        ("KAFKA_BOOTSTRAP_SERVERS", services.kafka_proxy.clone()),
        ("KAFKA_SIGNAL_TOPIC", topics.signals.clone()),
        ("KAFKA_DEAD_LETTER_TOPIC", topics.dead_letters.clone()),
        ("KAFKA_CONSUMER_GROUP", topics.group.clone()),
        ("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "3000".to_owned()),
        ("KAFKA_CONFIG_HEARTBEAT_INTERVAL_MS", "500".to_owned()),
        // Also how long the group waits for a member that neither joins again nor is taken for dead. A Kafka that was killed while
        // the group changed may remember such members: by default the group then stands still for 5 min.
        ("KAFKA_CONFIG_MAX_POLL_INTERVAL_MS", "20000".to_owned()),
        ("CELERY_BROKER_URL", services.broker.behind(proxies.broker.port)?),
        ("CELERY_TASK_QUEUE", topics.signals.clone()),
        ("TRIGGER_LEASE_SECONDS", "60".to_owned()),
        ("TRIGGER_START_TIMEOUT_SECONDS", START_TIMEOUT.as_secs().to_string()),
        ("TRIGGER_MAX_ATTEMPTS", "10".to_owned()),
        ("TRIGGER_WORKER_GUARD", "yes".to_owned()),
        // Longer than a rebalance, shorter than the time to settle.
        ("STALL_SECONDS", "30".to_owned()),
        ("HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
        ("LOG_SIGNALS_PER_SECOND", "20".to_owned()),
    ];
    let changes = plan.variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let mut variables: Vec<(String, String)> = Vec::new();
    for (name, value) in own.into_iter().chain(platform.variables(proxies.postgres.port)).chain(changes) {
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_belongs_to_one_deployment() {
        for layout in [Layout::ALONE, Layout::SIDE_BY_SIDE] {
            let numbers: Vec<usize> = (0..layout.deployments).flat_map(|deployment| layout.of(deployment)).collect();
            assert_eq!(numbers, (0..layout.instances()).collect::<Vec<_>>());
        }
    }
}
