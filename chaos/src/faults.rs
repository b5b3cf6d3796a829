//! Does what the plan says, and notes what hit.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::clock;
use crate::evidence::Evidence;
use crate::instances::{INSTANCES, Instances};
use crate::options::Dependency;
use crate::plan::{Fault, Step};
use crate::proxy::{Mode, Proxy};
use crate::services::Services;
use crate::worker::Worker;

/// How long a crash point may take to be passed.
const PASSING: Duration = Duration::from_secs(40);

/// Everything that can be broken.
pub(crate) struct Targets<'a> {
    pub(crate) instances: &'a Instances,
    pub(crate) services: &'a Services,
    pub(crate) proxies: &'a Proxies,
    pub(crate) worker: &'a Worker,
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
            Fault::Kill(number) => self.instances.restart(*number)?,
            Fault::KillAll => {
                for number in 0..INSTANCES {
                    self.instances.kill(number)?;
                }
                for number in 0..INSTANCES {
                    self.instances.start(number, None)?;
                }
            }
            Fault::Restart(number) => {
                let status = self.instances.stop(*number)?;
                self.evidence.note("ended", &json!(status.to_string()))?;
                self.instances.start(*number, None)?;
                hit("restart");
            }
            Fault::Zombie(number, time) => {
                self.instances.signal(*number, "STOP")?;
                clock::pause(*time)?;
                self.instances.signal(*number, "CONT")?;
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
        for _ in 0..2 {
            let hit = match point {
                _ if point.starts_with("sweep") || point.starts_with("retry") => self.point_in_sweeper(point, number)?,
                "before_confirm" | "after_confirm" => self.point_at_the_end(point, number)?,
                "on_revoke" => self.point_in_rebalance(point, number)?,
                _ => {
                    self.instances.kill(number)?;
                    self.instances.start(number, Some(&format!("{point}:1")))?;
                    self.crashes(&[number], PASSING)?
                }
            };
            self.evidence.note(point, &json!({"instance": number, "hit": hit}))?;
            for instance in 0..INSTANCES {
                if instance == number || point.starts_with("sweep") || point.starts_with("retry") {
                    // Whoever still waits for its point must not die later, unseen.
                    self.instances.restart(instance)?;
                }
            }
            if hit {
                self.evidence.hit(&format!("at {point}"));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether one of the instances dies in time.
    fn crashes(&self, numbers: &[usize], time: Duration) -> anyhow::Result<bool> {
        let crashed = clock::wait_for(time, || {
            for number in numbers {
                if self.instances.has_crashed(*number)? {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })?;
        Ok(crashed.is_some())
    }

    /// Gives the sweepers something to do, and arms them all: nobody knows which of them will do it.
    fn point_in_sweeper(&self, point: &str, number: usize) -> anyhow::Result<bool> {
        if point.starts_with("sweep") {
            self.instances.kill(number)?;
            self.instances.start(number, Some("before_publish:1"))?;
            if !self.crashes(&[number], PASSING)? {
                return Ok(false);
            }
            self.evidence.hit("at before_publish");
        } else {
            self.worker.lose(3);
        }
        for instance in 0..INSTANCES {
            self.instances.kill(instance)?;
            self.instances.start(instance, Some(&format!("{point}:1")))?;
        }
        self.crashes(&[0, 1, 2], PASSING)
    }

    /// Confirmations are written by themselves only in a pause of the flow, and at the end.
    fn point_at_the_end(&self, point: &str, number: usize) -> anyhow::Result<bool> {
        self.instances.kill(number)?;
        self.instances.start(number, Some(&format!("{point}:1")))?;
        if self.crashes(&[number], Duration::from_secs(4))? {
            return Ok(true);
        }
        self.instances.signal(number, "TERM")?;
        self.crashes(&[number], PASSING)
    }

    /// Another instance that comes and goes makes the group take everything from everyone.
    fn point_in_rebalance(&self, point: &str, number: usize) -> anyhow::Result<bool> {
        self.instances.kill(number)?;
        self.instances.start(number, Some(&format!("{point}:1")))?;
        for _ in 0..5 {
            if self.crashes(&[number], Duration::from_secs(5))? {
                return Ok(true);
            }
            self.instances.restart((number + 1) % INSTANCES)?;
        }
        self.crashes(&[number], PASSING)
    }
}
