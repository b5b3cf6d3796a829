//! How long a signal takes to become a task while signals come at a fixed rate, whatever becomes of them (open loop).
//!
//! A latency counts from the moment at which the signal was due to be sent, not from when it was: a stall of the sender
//! or of anything behind it is seen in every signal that it delays.

use std::sync::Once;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ceiling::{self, Call};
use crate::clock::{now, sleep_until, wait_for};
use crate::group::Group;
use crate::instance::{Instance, Setting};
use crate::kafka::{Delivered, Due, Producer, Topic};
use crate::machine::load;
use crate::platform::{Platform, Shape};
use crate::profile::Profile;
use crate::queue::{List, Taken, Trace, Window, Workers};
use crate::results::{Cost, complain, percentiles, round, say, warn_of_forgotten};
use crate::services::Services;
use crate::signals::{BYTES, Signals, Spread};
use crate::statements;
use crate::subject::{Kind, Subject};

/// The sender sleeps at least this long between two looks at the clock.
const TICK: Duration = Duration::from_micros(500);
/// A sender that is later than this shows a machine that is too busy rather than a slow dispatcher.
const LATE: Duration = Duration::from_millis(50);

/// How long Kafka is warmed up.
const WARMING: u64 = 25;

/// Lets a broker that was just started compile what it runs most: in its first half minute it takes up to a second to acknowledge
/// what takes it some milliseconds later, and that would be taken for the dispatcher's latency.
///
/// # Errors
/// Kafka does not take or give the signals.
fn warm_kafka(services: &Services) -> anyhow::Result<()> {
    const RATE: u64 = 10_000;
    let total = RATE * WARMING;
    say(&format!("warming Kafka up for {WARMING} s"));
    let topic = Topic::create(services, &crate::suite::name(), 4)?;
    let producer = topic.producer("lz4", Duration::from_millis(2))?;
    let sending = Sending { start: now(), begin_ns: 0, rate: RATE, first: 0, timed: 0, total };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| ceiling::measure(&topic, total, Call::Poll, None));
        sending.run(producer, Signals::new(1, Spread::Uniform))?;
        reader.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the reader broke off")))?;
        Ok(())
    })
}

/// A flow of signals, at one rate after the other.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    /// Signals a second.
    pub(crate) rates: Vec<u64>,
    /// Seconds that are measured at each rate.
    pub(crate) seconds: u64,
    /// Seconds before that.
    pub(crate) warm_up: u64,
    pub(crate) partitions: i32,
    /// lz4, zstd, gzip or none.
    pub(crate) compression: String,
    /// Milliseconds that the sender's client waits for company.
    pub(crate) linger_ms: u64,
    pub(crate) shape: Shape,
    /// How long an execution takes; so long its pipeline is busy.
    pub(crate) execution: Duration,
    pub(crate) trace: Trace,
    pub(crate) subject: Subject,
    /// How long the subject may take for what it has not done when the last signal of a rate is sent.
    pub(crate) patience: Duration,
    /// Whether PostgreSQL's session for claims is watched meanwhile, which takes some of the machine.
    pub(crate) profiled: bool,
}

/// Everything that is up while a flow runs.
struct Session<'a> {
    flow: &'a Flow,
    services: &'a Services,
    name: &'a str,
    topic: Topic,
    platform: Platform,
    group: Group,
    instance: Instance,
    /// All rates are timed from here, so that no two signals have the same id.
    start: Instant,
    sent: u64,
    tasks: u64,
}

/// What one rate leaves.
struct Measured {
    before: Cost,
    after: Cost,
    seconds: f64,
    /// Signals that were decided within these.
    decided: u64,
    /// Claims that were won within these; nothing where the subject has no ledger.
    claims: Option<u64>,
    taken: Taken,
    delivered: Delivered,
    /// How late the sender was at most.
    late: Duration,
    /// From the last signal's sending to its decision; nothing when the subject did not get there.
    behind: Option<Duration>,
    profile: Option<Value>,
}

impl Flow {
    /// Measures the rates in turn, and tells each one's figures as soon as they are there. Gives the subject's log.
    ///
    /// # Errors
    /// Something breaks, or the subject does not keep up with a rate: then the figures of the slower ones are told.
    pub(crate) fn measure(
        &self,
        services: &Services,
        name: &str,
        mut tell: impl FnMut(Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        static IS_WARM: Once = Once::new();
        let mut warmed = Ok(());
        IS_WARM.call_once(|| warmed = warm_kafka(services));
        warmed?;
        let topic = Topic::create(services, name, self.partitions)?;
        let mut platform = Platform::create(services, name, &self.shape, &self.subject.migrate)?;
        statements::tell_planning(&mut platform.admin, &platform.role)?;
        let _list = List { services, name };
        let forgotten = statements::forgotten(&mut platform.admin)?;
        let mut instance = Setting::new(services, &platform, &topic, name, &self.subject).start()?;
        instance.wait_ready(&mut platform, self.partitions)?;
        let group = Group::of(&topic, name)?;
        let mut session =
            Session { flow: self, services, name, topic, platform, group, instance, start: now(), sent: 0, tasks: 0 };
        let mut too_fast = None;
        for rate in &self.rates {
            let load_before = load();
            let measured = session.measure(*rate)?;
            if measured.behind.is_none() {
                // The latencies of the signals that got through would say nothing about the others.
                too_fast = Some(rate);
                break;
            }
            tell(self.figures(*rate, &load_before, &measured))?;
        }
        let Session { mut platform, instance, sent, tasks, .. } = session;
        let log = instance.log()?;
        instance.stop()?;
        if let Some(rate) = too_fast {
            anyhow::bail!("{} does not keep up with {rate} signals/s: these are not counted", self.subject.name);
        }
        if self.subject.kind == Kind::Dispatcher {
            platform.audit(sent, tasks)?;
        }
        warn_of_forgotten(&mut platform.admin, forgotten)?;
        Ok(log)
    }

    fn figures(&self, rate: u64, load_before: &str, measured: &Measured) -> Value {
        let Measured { before, after, seconds, decided, claims, taken, delivered, late, behind, profile } = measured;
        // None where nothing was decided meanwhile.
        let each = (*decided > 0).then(|| round(after.cpu_since(before) / *decided as f64 * 1e6, 2));
        json!({
            "parameters": {
                "subject": self.subject.name, "rate": rate, "seconds": self.seconds, "warm_up": self.warm_up, "bytes": BYTES,
                "partitions": self.partitions, "compression": self.compression, "linger_ms": self.linger_ms, "shape": self.shape,
                "execution_ms": u64::try_from(self.execution.as_millis()).unwrap_or(u64::MAX),
                "command": format!("{:?}", self.subject.command()),
            },
            "load_before": load_before,
            "rate": rate,
            "latency_ms": percentiles(&taken.latency),
            "kafka_ack_ms": percentiles(&delivered.latency),
            "behind_ms": behind.map(|behind| round(behind.as_secs_f64() * 1e3, 0)),
            "statements_per_s": round((after.statements - before.statements) as f64 / seconds, 1),
            "in_statements_percent": round((after.milliseconds - before.milliseconds) / seconds / 10.0, 0),
            "busy_cores": round((after.busy - before.busy) / seconds, 2),
            "dispatcher_cpu_cores": round(after.cpu_since(before) / seconds, 3),
            "cpu_us_per_signal": each,
            "decided_per_s": round(*decided as f64 / seconds, 0),
            "sender_late_ms": round(late.as_secs_f64() * 1e3, 1),
            "claims_per_s": claims.map(|claims| round(claims as f64 / seconds, 0)),
            "tasks_per_s": round(taken.latency.len() as f64 / self.seconds as f64, 0),
            "pipelines_triggered": taken.pipelines.len(),
            "profile": profile,
            "cost": after.since(before),
        })
    }
}

impl Session<'_> {
    fn measure(&mut self, rate: u64) -> anyhow::Result<Measured> {
        let Flow { seconds, warm_up, .. } = *self.flow;
        let total = rate * (warm_up + seconds);
        let first_due = now() + Duration::from_millis(100);
        let (warm, end) = (first_due + Duration::from_secs(warm_up), first_due + Duration::from_secs(warm_up + seconds));
        let in_ns = |instant: Instant| u64::try_from((instant - self.start).as_nanos()).unwrap_or(u64::MAX);
        let window = Window { start: self.start, from_ns: in_ns(warm), to_ns: in_ns(end) };
        let life = (self.flow.execution, self.flow.trace);
        let workers = Workers::start(self.services, &self.platform, self.name, window, life)?;
        let producer = self.topic.producer(&self.flow.compression, Duration::from_millis(self.flow.linger_ms))?;
        let timed = rate * warm_up;
        let sending = Sending { start: self.start, begin_ns: in_ns(first_due), rate, first: self.sent, timed, total };
        let signals = Signals::new(self.flow.shape.seed + self.sent, self.flow.shape.spread);
        let sender: JoinHandle<anyhow::Result<(Delivered, Duration)>> =
            std::thread::Builder::new().name("sender".into()).spawn(move || sending.run(producer, signals))?;

        say(&format!("{}: {rate} signals/s for {seconds} s, after {warm_up} s to warm up", self.flow.subject.name));
        sleep_until(warm)?;
        let began = now();
        let (before, first, claims_before) = (self.cost()?, self.decided()?, self.claims()?);
        let profile = if self.flow.profiled { Some(Profile::begin(&mut self.platform, end - began)?) } else { None };
        sleep_until(end)?;
        let (after, last, claims_after) = (self.cost()?, self.decided()?, self.claims()?);
        let seconds = (now() - began).as_secs_f64();

        let profile = profile.map(Profile::end).transpose()?;
        let (delivered, late) = sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the sender broke off")))?;
        if late > LATE {
            complain(&format!("the sender was up to {} ms late: the machine is too busy for this rate", late.as_millis()));
        }
        self.sent += total;
        let sent = now();
        let behind = wait_for("lag 0", self.flow.patience + Duration::from_secs(60), || {
            self.instance.check()?;
            workers.check()?;
            let behind = now() - sent;
            Ok(if self.is_done()? { Some(Some(behind)) } else { (behind >= self.flow.patience).then_some(None) })
        })?;
        let taken = workers.finish()?;
        self.tasks += taken.tasks;
        let decided = last.saturating_sub(first);
        let claims = claims_after.zip(claims_before).map(|(after, before)| after - before);
        Ok(Measured { before, after, seconds, decided, claims, taken, delivered, late, behind, profile })
    }

    /// Whether everything that was sent is decided, and in the broker.
    fn is_done(&mut self) -> anyhow::Result<bool> {
        if self.decided()? < self.sent {
            return Ok(false);
        }
        if self.flow.subject.kind == Kind::Contender {
            return Ok(true);
        }
        // A batch is decided before its tasks are published.
        let waiting = "select count(*) from dispatcher.publications where enqueued_at is null";
        Ok(self.platform.owner.query_one(waiting, &[])?.get::<_, i64>(0) == 0)
    }

    fn decided(&mut self) -> anyhow::Result<u64> {
        match self.flow.subject.kind {
            Kind::Dispatcher => Ok(u64::try_from(self.platform.progress()?.consumed)?),
            Kind::Contender => self.group.committed(),
        }
    }

    fn claims(&mut self) -> anyhow::Result<Option<u64>> {
        match self.flow.subject.kind {
            Kind::Dispatcher => Ok(Some(u64::try_from(self.platform.claims()?)?)),
            Kind::Contender => Ok(None),
        }
    }

    fn cost(&mut self) -> anyhow::Result<Cost> {
        let statements = statements::so_far(&mut self.platform.admin, &self.platform.role)?;
        Ok(Cost::so_far(self.services, self.instance.usage()?, statements))
    }
}

/// What a sender has to do.
pub(crate) struct Sending {
    pub(crate) start: Instant,
    /// When the first signal is due, after the start.
    pub(crate) begin_ns: u64,
    pub(crate) rate: u64,
    /// The number of the first signal.
    pub(crate) first: u64,
    /// Acknowledgements of those before this one are not timed.
    pub(crate) timed: u64,
    pub(crate) total: u64,
}

impl Sending {
    /// Sends each signal when it is due, or as soon after that as it can. Also gives how late it was at most.
    pub(crate) fn run(self, producer: Producer, mut signals: Signals) -> anyhow::Result<(Delivered, Duration)> {
        let due = |number: u64| self.begin_ns + number * 1_000_000_000 / self.rate;
        let (mut next, mut late) = (0, 0);
        while next < self.total {
            let elapsed = u64::try_from(now().saturating_duration_since(self.start).as_nanos())?;
            while next < self.total && due(next) <= elapsed {
                let ns = due(next);
                late = late.max(elapsed - ns);
                let number = self.first + next;
                let due = (next >= self.timed).then_some(Due { start: self.start, ns });
                producer.send(number, signals.next(ns, number), due)?;
                next += 1;
            }
            crate::stop::check()?;
            let wait = (self.start + Duration::from_nanos(due(next))).saturating_duration_since(now());
            std::thread::sleep(wait.clamp(TICK, Duration::from_millis(100)));
        }
        Ok((producer.finish(self.total)?, Duration::from_nanos(late)))
    }
}
