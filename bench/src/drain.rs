//! How fast a topic that is full already is got through: from the first decision to lag 0.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{now, wait_for};
use crate::group::Group;
use crate::instance::{Instance, Setting};
use crate::kafka::{Preload, Topic};
use crate::machine::load;
use crate::platform::{Platform, Progress, Shape};
use crate::queue::{self, List, Trace, Window, Workers};
use crate::results::{Cost, round, warn_of_forgotten};
use crate::services::Services;
use crate::signals::BYTES;
use crate::statements;
use crate::subject::{Kind, Subject};

/// The longest that one drain may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What tells how far a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// The dispatcher's progress in PostgreSQL: what is decided.
    Ledger,
    /// The group's committed offsets: the only thing that every program shows.
    Offsets,
}

/// One drain.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    pub(crate) preload: Preload,
    /// Ends after so many signals …
    pub(crate) until: u64,
    /// … or after so long, if it has not got there.
    pub(crate) at_most: Duration,
    pub(crate) shape: Shape,
    pub(crate) subject: Subject,
    pub(crate) watch: Watch,
    /// How long an execution takes, where workers take the tasks meanwhile; else they stay in the list.
    pub(crate) workers: Option<Duration>,
}

impl Drain {
    /// Everything, by its ledger.
    pub(crate) fn whole(preload: &Preload, shape: Shape, subject: Subject) -> Self {
        Self {
            preload: preload.clone(),
            until: preload.signals,
            at_most: LIMIT,
            shape,
            subject,
            watch: Watch::Ledger,
            workers: None,
        }
    }

    /// Measures it on a topic that was filled with `preload`; `name` is the run's own.
    pub(crate) fn measure(&self, services: &Services, topic: &Topic, name: &str) -> anyhow::Result<Value> {
        let mut platform = Platform::create(services, name, &self.shape, &self.subject.migrate)?;
        statements::tell_planning(&mut platform.admin, &platform.role)?;
        let _list = List { services, name };
        let forgotten = statements::forgotten(&mut platform.admin)?;
        let group = Group::of(topic, name)?;
        let load_before = load();

        // Signals that nobody paces have no latency: the window is empty.
        let window = Window { start: now(), from_ns: 0, to_ns: 0 };
        let work = |execution| Workers::start(services, &platform, name, window, (execution, Trace::FromStart));
        let workers = self.workers.map(work).transpose()?;
        let launched = now();
        let mut instance = Setting::new(services, &platform, topic, name, &self.subject).start()?;
        let first = wait_for("the first decision", Duration::from_secs(120), || {
            instance.check()?;
            Ok(Some(self.decided(&mut platform, &group)?).filter(|decided| *decided > 0))
        })?;
        let began = now();
        let before = cost(services, &mut platform, &instance)?;
        let last = wait_for("lag 0", LIMIT, || {
            instance.check()?;
            let decided = self.decided(&mut platform, &group)?;
            Ok((decided >= self.until || now() - began >= self.at_most).then_some(decided))
        })?;
        let ended = now();
        let after = cost(services, &mut platform, &instance)?;

        let costliest = statements::costliest(&mut platform.admin, &platform.role)?;
        let warnings = instance.stop()?;
        let tasks = match workers {
            Some(workers) => workers.finish()?.tasks,
            None => queue::len(services, name)?,
        };
        let sums = self.audit(&mut platform, last, tasks)?;
        warn_of_forgotten(&mut platform.admin, forgotten)?;
        let seconds = (ended - began).as_secs_f64();
        let decided = last.saturating_sub(first) as f64;
        anyhow::ensure!(decided > 0.0, "all {last} signals were decided before the first look: take more of them");
        Ok(json!({
            "parameters": {
                "subject": self.subject.name, "preload": self.preload, "until": self.until, "bytes": BYTES, "shape": self.shape,
                "command": format!("{:?}", self.subject.command()),
            },
            "load_before": load_before,
            "signals_per_s": round(decided / seconds, 0),
            "seconds": round(seconds, 3),
            "seconds_from_launch": round((ended - launched).as_secs_f64(), 3),
            "decided_before_first_look": first,
            "cpu_us_per_signal": round(after.cpu_since(&before) / decided * 1e6, 3),
            "statements_per_s": round((after.statements - before.statements) as f64 / seconds, 1),
            "cost": after.since(&before),
            "tasks": tasks,
            "sums": sums,
            "unmatched_percent": round(sums.unmatched as f64 / (sums.consumed.max(1)) as f64 * 100.0, 1),
            "costliest_statements": costliest,
            "warnings": warnings,
        }))
    }

    fn decided(&self, platform: &mut Platform, group: &Group) -> anyhow::Result<u64> {
        match self.watch {
            Watch::Ledger => Ok(u64::try_from(platform.progress()?.consumed)?),
            Watch::Offsets => group.committed(),
        }
    }

    /// A contender keeps no account that could be checked.
    fn audit(&self, platform: &mut Platform, last: u64, tasks: u64) -> anyhow::Result<Progress> {
        match self.subject.kind {
            Kind::Contender => Ok(Progress::default()),
            Kind::Dispatcher if last < self.preload.signals => platform.audit_part(tasks),
            Kind::Dispatcher => platform.audit(self.preload.signals, tasks),
        }
    }
}

fn cost(services: &Services, platform: &mut Platform, instance: &Instance) -> anyhow::Result<Cost> {
    Ok(Cost::so_far(services, instance.usage()?, statements::so_far(&mut platform.admin, &platform.role)?))
}
