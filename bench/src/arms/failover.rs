//! Instances that die, come back, come and go, while signals come at a fixed rate: how long partitions stand still, and how long
//! signals take meanwhile.
//!
//! A partition stands still while its progress in the store does not move though signals wait; what comes of looking at it only
//! every few milliseconds is in the figures. Partitions of the dead are those that a killed instance had by its last word.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::clock::{now, sleep_until, wait_for};
use crate::instance::{Instance, Setting};
use crate::kafka::{Delivered, Topic};
use crate::paced::Sending;
use crate::platform::{Platform, Shape};
use crate::queue::{List, Trace, Window, Workers};
use crate::results::{percentiles, round};
use crate::signals::{Signals, Spread};
use crate::subject::{Subject, set};
use crate::suite::{Bench, Case, Tell, name};

const PARTITIONS: i32 = 8;
/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Before anything happens, and after each thing that happens.
const CALM: Duration = Duration::from_secs(5);
/// After a death: until its session is over, and a while longer.
const AFTER_DEATH: Duration = Duration::from_secs(15);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// One of two is killed.
    Kill,
    /// One of two is killed, and started again at once.
    KillAndRestart,
    /// Four are stopped and started again, one after the other.
    Rolling,
    /// Two more come, and go.
    Scale,
}

pub(crate) struct Failover {
    pub(crate) event: Event,
    /// Whether instances have names that they keep (`KAFKA_GROUP_INSTANCE_ID`).
    pub(crate) is_named: bool,
    pub(crate) rate: u64,
    pub(crate) shape: Shape,
}

impl Case for Failover {
    fn arm(&self) -> &'static str {
        "failover"
    }

    fn title(&self) -> String {
        let what = match self.event {
            Event::Kill => "kill -9 of one of 2",
            Event::KillAndRestart => "kill -9 of one of 2, started again at once",
            Event::Rolling => "rolling restart of 4",
            Event::Scale => "2 → 4 → 2 instances",
        };
        if self.is_named { format!("{what}, named") } else { what.to_owned() }
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let (services, name) = (&bench.services, name());
        let topic = Topic::create(services, &name, PARTITIONS)?;
        let ours = Subject::ours();
        let mut platform = Platform::create(services, &name, &self.shape, &ours.migrate)?;
        let _list = List { services, name: &name };
        let setting = Setting::new(services, &platform, &topic, &name, &ours);
        let count = if self.event == Event::Rolling { 4 } else { 2 };
        let mut fleet = Fleet { setting, subject: ours, is_named: self.is_named, running: BTreeMap::new() };
        (0..count).try_for_each(|number| fleet.start(number))?;
        fleet.wait_shared()?;
        wait_for("all partitions", Duration::from_secs(60), || {
            Ok((platform.partitions()? == i64::from(PARTITIONS)).then_some(()))
        })?;
        let start = now();
        let first_due = start + Duration::from_millis(100);
        let seconds = self.seconds().as_secs();
        let end = first_due + Duration::from_secs(seconds);
        let in_ns = |instant: Instant| u64::try_from((instant - start).as_nanos()).unwrap_or(u64::MAX);
        let window = Window { start, from_ns: in_ns(first_due), to_ns: in_ns(end) };
        let workers = Workers::start(services, &platform, &name, window, (Duration::ZERO, Trace::AtEnd))?;
        let producer = topic.producer("lz4", Duration::from_millis(2))?;
        let total = self.rate * seconds;
        let sending = Sending { start, begin_ns: in_ns(first_due), rate: self.rate, first: 0, timed: 0, total };
        let signals = Signals::new(self.shape.seed, Spread::Uniform);
        let sender: JoinHandle<anyhow::Result<(Delivered, Duration)>> =
            std::thread::Builder::new().name("sender".into()).spawn(move || sending.run(producer, signals))?;

        sleep_until(first_due + CALM)?;
        let mut watch = Watch::begin(&platform, end)?;
        let dead = self.cause(&mut fleet, &mut watch)?;
        watch.until(end)?;
        let (_, late) = sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the sender broke off")))?;
        wait_for("all decisions", Duration::from_secs(120), || {
            workers.check()?;
            Ok((platform.progress()?.consumed >= i64::try_from(total)?).then_some(()))
        })?;
        wait_for("all tasks", Duration::from_secs(120), || {
            let waiting = "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null";
            Ok((platform.owner.query_one(waiting, &[])?.get::<_, i64>(0) == 0).then_some(()))
        })?;
        let taken = workers.finish()?;
        fleet.stop()?;
        platform.audit(total, taken.tasks)?;
        let longest = |is_dead: bool| {
            let pauses = watch.longest.iter().filter(|(partition, _)| dead.contains(partition) == is_dead);
            pauses.map(|(_, pause)| pause.as_secs_f64() * 1e3).reduce(f64::max).map(|pause| round(pause, 0))
        };
        tell(
            &self.title(),
            json!({
                "parameters": {"rate": self.rate, "seconds": seconds, "partitions": PARTITIONS, "shape": self.shape},
                "living_pause_ms": longest(false),
                "dead_pause_ms": longest(true),
                "latency_ms": percentiles(&taken.latency),
                "sender_late_ms": round(late.as_secs_f64() * 1e3, 1),
                "tasks": taken.tasks,
            }),
        )
    }
}

impl Failover {
    /// How long signals come.
    fn seconds(&self) -> Duration {
        CALM + match self.event {
            Event::Kill | Event::KillAndRestart => AFTER_DEATH,
            Event::Rolling => (CALM + Duration::from_secs(3)) * 4,
            Event::Scale => (CALM + Duration::from_secs(2)) * 4,
        }
    }

    /// Does it, and says whose partitions were a dead instance's.
    fn cause(&self, fleet: &mut Fleet, watch: &mut Watch) -> anyhow::Result<BTreeSet<i32>> {
        let mut dead = BTreeSet::new();
        match self.event {
            Event::Kill | Event::KillAndRestart => {
                dead = fleet.partitions(1)?;
                fleet.kill(1);
                if self.event == Event::KillAndRestart {
                    fleet.start(1)?;
                }
            }
            Event::Rolling => {
                for number in 0..4 {
                    fleet.end(number)?;
                    fleet.start(number)?;
                    watch.until(now() + CALM)?;
                }
            }
            Event::Scale => {
                for number in [2, 3] {
                    fleet.start(number)?;
                    watch.until(now() + CALM)?;
                }
                for number in [3, 2] {
                    fleet.end(number)?;
                    watch.until(now() + CALM)?;
                }
            }
        }
        Ok(dead)
    }
}

/// The instances, by their numbers.
struct Fleet {
    setting: Setting,
    subject: Subject,
    is_named: bool,
    running: BTreeMap<usize, Instance>,
}

impl Fleet {
    fn start(&mut self, number: usize) -> anyhow::Result<()> {
        let names: Vec<_> =
            self.is_named.then(|| set("KAFKA_GROUP_INSTANCE_ID", format!("dispatcher-{number}"))).into_iter().collect();
        let instance = self.setting.numbered(number, &self.subject.clone().with(&names)).start()?;
        self.running.insert(number, instance);
        Ok(())
    }

    fn get(&self, number: usize) -> anyhow::Result<&Instance> {
        self.running.get(&number).with_context(|| format!("instance {number} is down"))
    }

    /// SIGKILL.
    fn kill(&mut self, number: usize) {
        self.running.remove(&number);
    }

    /// SIGTERM, and waits for its end.
    fn end(&mut self, number: usize) -> anyhow::Result<()> {
        self.running.remove(&number).with_context(|| format!("instance {number} is down"))?.stop()?;
        Ok(())
    }

    fn stop(self) -> anyhow::Result<()> {
        self.running.into_values().try_for_each(|instance| instance.stop().map(drop))
    }

    /// What an instance has, by its last word.
    fn partitions(&self, number: usize) -> anyhow::Result<BTreeSet<i32>> {
        let log = self.get(number)?.log()?;
        let Some(line) = log.lines().rev().find(|line| line.contains("partitions_changed")) else { return Ok(BTreeSet::new()) };
        let line: Value = serde_json::from_str(line)?;
        Ok(serde_json::from_value(line["assigned"].clone())?)
    }

    /// Waits until each has its share.
    fn wait_shared(&self) -> anyhow::Result<()> {
        let share = usize::try_from(PARTITIONS)? / self.running.len();
        wait_for("a share for each instance", Duration::from_secs(120), || {
            let shares: Vec<usize> =
                self.running.keys().map(|number| Ok(self.partitions(*number)?.len())).collect::<anyhow::Result<_>>()?;
            Ok(shares.iter().all(|size| *size == share).then_some(()))
        })
    }
}

/// Looks at each partition's progress.
struct Watch {
    client: postgres::Client,
    moved: BTreeMap<i32, (Instant, i64)>,
    longest: BTreeMap<i32, Duration>,
    end: Instant,
}

impl Watch {
    fn begin(platform: &Platform, end: Instant) -> anyhow::Result<Self> {
        Ok(Self { client: platform.another()?, moved: BTreeMap::new(), longest: BTreeMap::new(), end })
    }

    /// Looks until then, or until signals come no more.
    fn until(&mut self, then: Instant) -> anyhow::Result<()> {
        while now() < then.min(self.end) {
            let rows = self.client.query("select partition, consumed from dispatcher.progress", &[])?;
            let at = now();
            for row in rows {
                let (partition, consumed): (i32, i64) = (row.get(0), row.get(1));
                let (moved, before) = self.moved.entry(partition).or_insert((at, consumed));
                let longest = self.longest.entry(partition).or_default();
                *longest = (*longest).max(at - *moved);
                if consumed > *before {
                    (*moved, *before) = (at, consumed);
                }
            }
            sleep_until(at + LOOK)?;
        }
        Ok(())
    }
}
