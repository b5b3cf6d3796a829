//! Does what the plan says, and notes what hit.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::clock;
use crate::deployment::Deployment;
use crate::evidence::Evidence;
use crate::instances::Instances;
use crate::options::Dependency;
use crate::plan::{Fault, Step};
use crate::proxy::{Mode, Proxy};
use crate::services::Services;

/// How long a crash point may take to be passed.
const PASSING: Duration = Duration::from_secs(40);

/// Everything that can be broken.
pub(crate) struct Targets<'a> {
    pub(crate) deployments: &'a [Deployment],
    pub(crate) services: &'a Services,
    pub(crate) proxies: &'a Proxies,
    pub(crate) evidence: &'a Arc<Evidence>,
}

/// What stands between the dispatchers and each service.
pub(crate) struct Proxies {
    pub(crate) kafka: Proxy,
    pub(crate) postgres: Proxy,
    pub(crate) broker: Proxy,
}

impl Proxies {
    fn before(&self, dependency: Dependency) -> &Proxy {
        match dependency {
            Dependency::Kafka => &self.kafka,
            Dependency::Postgres => &self.postgres,
            Dependency::Redis | Dependency::Rabbitmq => &self.broker,
        }
    }

    pub(crate) fn heal(&self) {
        for proxy in [&self.kafka, &self.postgres, &self.broker] {
            proxy.set(Mode::Pass);
        }
    }
}

impl Targets<'_> {
    /// The deployment of an instance.
    fn of(&self, number: usize) -> anyhow::Result<&Deployment> {
        let found = self.deployments.iter().find(|deployment| deployment.instances.numbers().contains(&number));
        found.with_context(|| format!("there is no instance {number}"))
    }

    fn instances(&self, number: usize) -> anyhow::Result<&Instances> {
        Ok(&self.of(number)?.instances)
    }

    /// One lane, step by step.
    pub(crate) fn run(&self, steps: &[Step]) -> anyhow::Result<()> {
        for step in steps {
            self.evidence.note("begins", &json!(format!("{:?}", step.fault)))?;
            self.cause(&step.fault)?;
            clock::pause(step.rest)?;
        }
        Ok(())
    }

    fn cause(&self, fault: &Fault) -> anyhow::Result<()> {
        let hit = |name: &str| self.evidence.hit(name);
        match fault {
            Fault::Kill(number) => self.instances(*number)?.restart(*number)?,
            Fault::KillAll => {
                let all = || self.deployments.iter().flat_map(|of| of.instances.numbers().map(|number| (&of.instances, number)));
                for (instances, number) in all() {
                    instances.kill(number)?;
                }
                for (instances, number) in all() {
                    instances.start(number, None)?;
                }
            }
            Fault::FullLog(number) => self.instances(*number)?.restart_unread(*number)?,
            Fault::Restart(number) => {
                let instances = self.instances(*number)?;
                let status = instances.stop(*number)?;
                self.evidence.note("ended", &json!(status.to_string()))?;
                instances.start(*number, None)?;
                hit("restart");
            }
            Fault::Zombie(number, time) => {
                let instances = self.instances(*number)?;
                instances.signal(*number, "STOP")?;
                clock::pause(*time)?;
                instances.signal(*number, "CONT")?;
                hit("zombie");
            }
            Fault::Point(point, number) => self.point(point, *number)?,
            Fault::Down(dependency, time) => {
                let from = self.evidence.seconds();
                self.services.tell("kill", dependency.service())?;
                clock::pause(*time)?;
                self.services.tell("start", dependency.service())?;
                self.evidence.lasted(&format!("{} kill -9", dependency.service()), from);
            }
            Fault::Frozen(dependency, time) => {
                self.services.signal(dependency.service(), "STOP")?;
                let paused = clock::pause(*time);
                self.services.signal(dependency.service(), "CONT")?;
                paused?;
                hit(&format!("{} stopped", dependency.service()));
            }
            Fault::Alarm(dependency, time) => {
                self.services.tell("block", dependency.service())?;
                let paused = clock::pause(*time);
                self.services.tell("unblock", dependency.service())?;
                paused?;
                hit(&format!("{} memory alarm", dependency.service()));
            }
            Fault::Slow(dependency, reply, time) => self.wire(*dependency, Mode::Slow(*reply), *time, "slow")?,
            Fault::BlackHole(dependency, time) => self.wire(*dependency, Mode::BlackHole, *time, "black hole")?,
            Fault::Closed(dependency, time) => self.wire(*dependency, Mode::Closed, *time, "closed")?,
            Fault::CutReplies(dependency, times) => self.replies(*dependency, Mode::CutReply, *times, "replies cut")?,
            Fault::DropReplies(dependency, times) => self.replies(*dependency, Mode::DropReply, *times, "replies dropped")?,
        }
        Ok(())
    }

    fn wire(&self, dependency: Dependency, mode: Mode, time: Duration, name: &str) -> anyhow::Result<()> {
        let proxy = self.proxies.before(dependency);
        proxy.set(mode);
        let paused = clock::pause(time);
        proxy.set(Mode::Pass);
        self.evidence.hit(&format!("{} {name}", dependency.service()));
        paused
    }

    fn replies(&self, dependency: Dependency, mode: Mode, times: u32, name: &str) -> anyhow::Result<()> {
        let proxy = self.proxies.before(dependency);
        for _ in 0..times {
            let before = proxy.broken();
            // Again for the connections that were made since.
            proxy.set(mode);
            clock::pause(Duration::from_millis(400))?;
            proxy.set(Mode::Pass);
            for _ in before..proxy.broken() {
                self.evidence.hit(&format!("{} {name}", dependency.service()));
            }
        }
        Ok(())
    }

    /// Kills at a named point; tries a second time if it was not passed.
    fn point(&self, point: &'static str, number: usize) -> anyhow::Result<()> {
        let deployment = self.of(number)?;
        let instances = &deployment.instances;
        let is_in_sweeper = point.starts_with("sweep") || point.starts_with("retry");
        for _ in 0..2 {
            let hit = match point {
                _ if is_in_sweeper => self.point_in_sweeper(point, number, deployment)?,
                "before_confirm" | "after_confirm" => point_at_the_end(point, number, instances)?,
                "on_revoke" => point_in_rebalance(point, number, instances)?,
                _ => {
                    instances.kill(number)?;
                    instances.start(number, Some(&format!("{point}:1")))?;
                    crashes(instances, number..number + 1, PASSING)?
                }
            };
            self.evidence.note(point, &json!({"instance": number, "hit": hit}))?;
            for instance in instances.numbers() {
                if instance == number || is_in_sweeper {
                    // Whoever still waits for its point must not die later, unseen.
                    instances.restart(instance)?;
                }
            }
            if hit {
                self.evidence.hit(&format!("at {point}"));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the sweepers of a deployment something to do, and arms them all: nobody knows which of them will do it.
    fn point_in_sweeper(&self, point: &str, number: usize, deployment: &Deployment) -> anyhow::Result<bool> {
        let instances = &deployment.instances;
        if point.starts_with("sweep") {
            instances.kill(number)?;
            instances.start(number, Some("before_publish:1"))?;
            if !crashes(instances, number..number + 1, PASSING)? {
                return Ok(false);
            }
            self.evidence.hit("at before_publish");
        } else {
            deployment.worker.lose(3);
        }
        for instance in instances.numbers() {
            instances.kill(instance)?;
            instances.start(instance, Some(&format!("{point}:1")))?;
        }
        crashes(instances, instances.numbers(), PASSING)
    }
}

/// Whether one of the instances dies in time.
fn crashes(instances: &Instances, numbers: Range<usize>, time: Duration) -> anyhow::Result<bool> {
    let crashed = clock::wait_for(time, || {
        for number in numbers.clone() {
            if instances.has_crashed(number)? {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    Ok(crashed.is_some())
}

/// Confirmations are written by themselves only in a pause of the flow, and at the end.
fn point_at_the_end(point: &str, number: usize, instances: &Instances) -> anyhow::Result<bool> {
    let only = number..number + 1;
    instances.kill(number)?;
    instances.start(number, Some(&format!("{point}:1")))?;
    if crashes(instances, only.clone(), Duration::from_secs(4))? {
        return Ok(true);
    }
    instances.signal(number, "TERM")?;
    crashes(instances, only, PASSING)
}

/// Another instance that comes and goes makes the group take everything from everyone.
fn point_in_rebalance(point: &str, number: usize, instances: &Instances) -> anyhow::Result<bool> {
    let only = number..number + 1;
    let other = instances.numbers().find(|other| *other != number).context("there is no other instance")?;
    instances.kill(number)?;
    instances.start(number, Some(&format!("{point}:1")))?;
    for _ in 0..5 {
        if crashes(instances, only.clone(), Duration::from_secs(5))? {
            return Ok(true);
        }
        instances.restart(other)?;
    }
    crashes(instances, only, PASSING)
}
