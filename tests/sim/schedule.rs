//! One schedule: instances, sweepers and workers are polled in an order drawn from the seed, and die, freeze and come back.
//!
//! Nothing wakes anyone: whoever's turn it is, is polled. Time stands still but for the steps and the whiles that pass between
//! them, so a seed always gives the same schedule.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use trigger_dispatcher::chaos::Bug;
use trigger_dispatcher::config::{BatchConfig, CeleryConfig, Config, Environment, Flush, Scope};
use trigger_dispatcher::dispatch::{Dispatcher, Stalled, Terms, Waits};
use trigger_dispatcher::store::memory::PublicationState;
use trigger_dispatcher::store::refresh::SharedRules;
use trigger_dispatcher::telemetry::{Events, Metrics};

use crate::clock;
use crate::faults::{Chaos, Fault, Window};
use crate::invariants::{Evidence, Invariant, Record, Violation};
use crate::plan::Plan;
use crate::seams::Services;
use crate::sweeper::Sweeper;
use crate::worker::Worker;

const TOPIC: &str = "trading-signals";
/// After so many rounds without faults everything is done.
const DRAIN_ROUNDS: u32 = 200;
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(Arc::default);
static CELERY: LazyLock<CeleryConfig> = LazyLock::new(|| {
    let environment = Environment::from([
        ("KAFKA_BOOTSTRAP_SERVERS", "unused:1"),
        ("CELERY_BROKER_URL", "redis://unused/0"),
        ("POSTGRES_USER", "unused"),
        ("POSTGRES_PASSWORD", "unused"),
        ("POSTGRES_HOST", "unused"),
        ("POSTGRES_PORT", "1"),
        ("POSTGRES_DB", "unused"),
    ]);
    Config::read(&environment).unwrap().celery
});

/// What a schedule came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<Violation>,
    pub(crate) hits: BTreeMap<Fault, u64>,
    pub(crate) windows: BTreeMap<Window, u64>,
    pub(crate) triggers: usize,
    /// Everything that happened, in a form that two runs of a seed share.
    pub(crate) trace: Vec<String>,
}

impl Outcome {
    pub(crate) fn fired(&self, invariant: Invariant) -> bool {
        self.violations.iter().any(|violation| violation.invariant == invariant)
    }
}

/// Runs the schedule of a seed.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    clock::reset();
    // Without a budget of polls: nothing here ever returns to the runtime.
    runtime.block_on(tokio::task::unconstrained(Schedule::new(seed, bug).run()))
}

struct Instance {
    dispatcher: Pin<Box<dyn Future<Output = Result<(), Stalled>>>>,
    sweeper: Pin<Box<dyn Future<Output = ()>>>,
    member: u64,
    stop: CancellationToken,
    is_frozen: bool,
}

struct Schedule {
    plan: Plan,
    random: StdRng,
    services: Services,
    rules: SharedRules,
    instances: Vec<Instance>,
    /// Members whose process is gone; the group does not know yet.
    dead: Vec<u64>,
    worker: Worker,
    next_record: usize,
    evidence: Evidence,
    trace: Vec<String>,
}

impl Schedule {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let plan = Plan::draw(seed);
        let services = Services::new(Chaos::new(seed, plan.rates, bug), plan.partitions, plan.lease);
        let worker = Worker::new(&services, plan.scope == Scope::Ticker, plan.message_loss);
        let mut schedule = Self {
            random: StdRng::seed_from_u64(seed),
            rules: plan.rules(),
            instances: Vec::new(),
            dead: Vec::new(),
            worker,
            next_record: 0,
            evidence: Evidence::default(),
            trace: Vec::new(),
            services,
            plan,
        };
        for _ in 0..schedule.plan.instances {
            schedule.join();
        }
        schedule
    }

    async fn run(mut self) -> Outcome {
        for _ in 0..self.plan.steps {
            self.step().await;
            self.evidence.look(&self.services);
        }
        self.services.chaos.heal();
        self.drain().await;
        let violations = self.evidence.judge(&self.plan, &self.services, &self.worker);
        let triggers = self.services.store.ledger().len();
        let chaos = &self.services.chaos;
        Outcome { violations, hits: chaos.hits(), windows: chaos.windows(), triggers, trace: self.trace }
    }

    fn join(&mut self) {
        let batch = BatchConfig { size: 20, timeout: Duration::from_millis(500), flush: Flush::Eager, queries_per_second: None };
        let source = self.services.topic.join(&batch);
        let (member, stop) = (source.member(), CancellationToken::new());
        let dispatcher = Dispatcher {
            source: self.services.source(source),
            claims: self.services.claims(),
            queue: self.services.queue(),
            rules: Arc::clone(&self.rules),
            terms: Terms {
                topic: TOPIC.to_owned(),
                scope: self.plan.scope,
                celery: CELERY.clone(),
                most_slots: self.plan.most_slots,
                waited_for: self.plan.waited_for,
            },
            events: Events::new(TOPIC, 0),
            metrics: Arc::clone(&METRICS),
            waits: Waits::default(),
            stop: stop.clone(),
        };
        let sweeper = Sweeper::new(&self.services, self.plan.broker_forgets);
        self.instances.push(Instance {
            dispatcher: Box::pin(dispatcher.run()),
            sweeper: Box::pin(sweeper.run()),
            member,
            stop,
            is_frozen: false,
        });
    }

    async fn step(&mut self) {
        clock::tick();
        let dice = self.random.random_range(0..1_000);
        match dice {
            0..550 => self.poll_dispatcher(),
            550..700 => self.poll_sweeper(),
            700..760 => {
                if self.random.random_bool(self.plan.worker_pace) {
                    self.worker.receive();
                }
            }
            760..800 => {
                let position = self.random.random_range(0..64);
                self.worker.finish(position);
            }
            800..870 => {
                self.produce();
            }
            870..920 => clock::advance().await,
            920..940 => {
                self.services.deliver_late();
            }
            940..955 => self.crash(),
            955..970 => self.freeze_or_thaw(),
            970..985 => self.evict(),
            985..990 => self.stop(),
            _ => {
                if self.instances.len() < 4 {
                    self.join();
                }
            }
        }
        let decided: Vec<_> =
            self.services.store.progress().values().map(|progress| (progress.epoch, progress.consumed)).collect();
        self.trace.push(format!("{dice} {decided:?} {} {}", self.worker.messages.len(), self.worker.runs.len()));
    }

    fn any_awake(&mut self) -> Option<usize> {
        let awake: Vec<usize> = (0..self.instances.len()).filter(|position| !self.instances[*position].is_frozen).collect();
        (!awake.is_empty()).then(|| awake[self.random.random_range(0..awake.len())])
    }

    fn poll_dispatcher(&mut self) {
        if let Some(position) = self.any_awake() {
            self.poll_dispatcher_of(position);
        }
    }

    /// False when the instance has ended.
    fn poll_dispatcher_of(&mut self, position: usize) -> bool {
        let instance = &mut self.instances[position];
        match instance.dispatcher.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                assert_eq!(result, Ok(()), "the source in memory never stalls");
                assert!(instance.stop.is_cancelled(), "the loop ended by itself");
                self.instances.remove(position);
                false
            }
        }
    }

    fn poll_sweeper(&mut self) {
        if let Some(position) = self.any_awake() {
            self.poll_sweeper_of(position);
        }
    }

    fn poll_sweeper_of(&mut self, position: usize) {
        let sweeper = self.instances[position].sweeper.as_mut();
        assert!(sweeper.poll(&mut Context::from_waker(Waker::noop())).is_pending(), "a sweeper never ends");
    }

    /// False when everything is produced.
    fn produce(&mut self) -> bool {
        let Some(record) = self.plan.records.get(self.next_record) else { return false };
        self.next_record += 1;
        let offset = self.services.topic.produce(record.partition, record.record.clone());
        self.evidence.produced(Record::new(record, offset));
        true
    }

    /// An instance dies, frozen or not, wherever it waits; a new one takes its place by and by.
    fn crash(&mut self) {
        if self.plan.crashes == 0 || self.instances.is_empty() {
            return;
        }
        self.plan.crashes -= 1;
        let position = self.random.random_range(0..self.instances.len());
        self.dead.push(self.instances.remove(position).member);
        self.services.chaos.hit(Fault::Crash);
    }

    fn freeze_or_thaw(&mut self) {
        if self.instances.is_empty() {
            return;
        }
        let position = self.random.random_range(0..self.instances.len());
        let instance = &mut self.instances[position];
        instance.is_frozen = !instance.is_frozen;
        if instance.is_frozen {
            self.services.chaos.hit(Fault::Zombie);
        }
    }

    /// The group notices that someone is silent, or only believes so.
    fn evict(&mut self) {
        let frozen = self.instances.iter().filter(|instance| instance.is_frozen).map(|instance| instance.member);
        let silent: Vec<u64> = self.dead.iter().copied().chain(frozen).collect();
        let member = match silent.first() {
            Some(member) => *member,
            None if self.instances.is_empty() => return,
            None => self.instances[self.random.random_range(0..self.instances.len())].member,
        };
        self.dead.retain(|dead| *dead != member);
        self.services.topic.evict(member);
        self.services.chaos.hit(Fault::Eviction);
    }

    fn stop(&mut self) {
        if let Some(position) = self.any_awake() {
            self.instances[position].stop.cancel();
            self.services.chaos.hit(Fault::Stop);
        }
    }

    /// No more faults: everyone is awake, and everything comes to its end.
    async fn drain(&mut self) {
        while self.produce() {}
        while self.services.deliver_late() {}
        self.dead.drain(..).for_each(|member| self.services.topic.evict(member));
        self.instances.iter_mut().for_each(|instance| instance.is_frozen = false);
        if self.instances.is_empty() {
            self.join();
        }
        let mut quiet = 0;
        for round in 0..DRAIN_ROUNDS {
            clock::tick();
            self.round();
            if self.instances.is_empty() {
                self.join();
            }
            self.evidence.look(&self.services);
            clock::advance().await;
            // Once more after a while: nothing may come that was not expected.
            quiet = if self.is_done() { quiet + 1 } else { 0 };
            if quiet == 8 {
                self.trace.push(format!("drained after {round} rounds"));
                return;
            }
        }
        self.trace.push("not drained".to_owned());
    }

    fn round(&mut self) {
        for _ in 0..4 {
            let mut position = 0;
            while position < self.instances.len() {
                if self.poll_dispatcher_of(position) {
                    self.poll_sweeper_of(position);
                    position += 1;
                }
            }
        }
        while self.worker.finish(0) {}
        while self.worker.receive() {}
    }

    fn is_done(&self) -> bool {
        let ends = self.services.topic.ends();
        let progress = self.services.store.progress();
        let is_decided = |(partition, end): (i32, &i64)| {
            *end == 0 || progress.get(&partition).and_then(|progress| progress.next_offset) == Some(*end)
        };
        (0..).zip(&ends).all(is_decided)
            && !self.worker.is_running()
            && self.services.store.publications().values().all(|state| *state != PublicationState::Claimed)
            && Evidence::unresolved(&self.services, &self.worker).is_empty()
    }
}
