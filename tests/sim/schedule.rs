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
use trigger_dispatcher::config::{BatchConfig, CeleryConfig, Config, Environment, Flush};
use trigger_dispatcher::dispatch::{Dispatcher, IntakeFailed, Terms, Waits};
use trigger_dispatcher::intake::memory::MemoryRecord;
use trigger_dispatcher::store::memory::{MemoryStore, MemoryTerms, PublicationState};
use trigger_dispatcher::store::refresh::SharedRules;
use trigger_dispatcher::tasks::IdSpace;
use trigger_dispatcher::telemetry::{Events, Metrics};

use crate::clock;
use crate::faults::{Chaos, Fault, Window};
use crate::invariants::{Evidence, Invariant, Record, Violation, judge};
use crate::plan::{MARGIN, Plan};
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

/// A deployment: all that it does not share with others.
struct Site {
    services: Services,
    worker: Worker,
    next_record: usize,
    evidence: Evidence,
    /// Members whose process is gone; the group does not know yet.
    dead: Vec<u64>,
}

struct Instance {
    /// Its deployment's position.
    site: usize,
    dispatcher: Pin<Box<dyn Future<Output = Result<(), IntakeFailed>>>>,
    sweeper: Pin<Box<dyn Future<Output = ()>>>,
    member: u64,
    stop: CancellationToken,
    is_frozen: bool,
}

struct Schedule {
    plan: Plan,
    random: StdRng,
    chaos: Chaos,
    store: MemoryStore,
    sites: Vec<Site>,
    rules: SharedRules,
    instances: Vec<Instance>,
    trace: Vec<String>,
}

impl Schedule {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let plan = Plan::draw(seed);
        let plan = if bug == Some(Bug::SkipByPosition) { plan.with_numbered_ids() } else { plan };
        let (chaos, store) = (Chaos::new(seed, plan.rates, bug), MemoryStore::with_clock(clock::now_ms));
        let site = |position: usize| {
            let deployment = i32::try_from(position).unwrap() + 1;
            let terms = MemoryTerms { deployment, lease: plan.lease, margin: MARGIN, max_age: plan.max_age };
            let services = Services::new(chaos.clone(), store.clone(), plan.partitions, terms);
            Site {
                worker: Worker::new(&services, &plan),
                services,
                next_record: 0,
                evidence: Evidence::default(),
                dead: Vec::new(),
            }
        };
        let mut schedule = Self {
            random: StdRng::seed_from_u64(seed),
            rules: plan.rules(),
            instances: Vec::new(),
            trace: Vec::new(),
            sites: (0..plan.deployments).map(site).collect(),
            chaos,
            store,
            plan,
        };
        for _ in 0..schedule.plan.instances {
            schedule.join_any();
        }
        schedule
    }

    async fn run(mut self) -> Outcome {
        for _ in 0..self.plan.steps {
            self.step().await;
            self.look();
        }
        self.chaos.heal();
        self.drain().await;
        let triggers = self.store.ledger().len();
        let Self { plan, chaos, sites, trace, .. } = self;
        let violations = judge(&plan, sites.into_iter().map(|site| (site.evidence, site.services, site.worker)).collect());
        Outcome { violations, hits: chaos.hits(), windows: chaos.windows(), triggers, trace }
    }

    fn look(&mut self) {
        for Site { evidence, services, .. } in &mut self.sites {
            evidence.look(services);
        }
    }

    fn any_site(&mut self) -> usize {
        if self.sites.len() == 1 { 0 } else { self.random.random_range(0..self.sites.len()) }
    }

    fn join_any(&mut self) {
        let site = self.any_site();
        self.join(site);
    }

    fn join(&mut self, site: usize) {
        let batch = BatchConfig { size: 20, timeout: Duration::from_millis(500), flush: Flush::Eager, queries_per_second: None };
        let services = &self.sites[site].services;
        let source = services.topic.join(&batch);
        let (member, stop) = (source.member(), CancellationToken::new());
        let topic = format!("{TOPIC}-{site}");
        let dispatcher = Dispatcher {
            source: services.source(source),
            claims: services.claims(),
            queue: services.queue(),
            rules: Arc::clone(&self.rules),
            terms: Terms {
                ids: IdSpace::of(&topic),
                topic: topic.clone(),
                scope: self.plan.scope,
                lease: self.plan.lease,
                margin: MARGIN,
                celery: CELERY.clone(),
                most_slots: self.plan.most_slots,
                waited_for: self.plan.waited_for,
            },
            events: Events::new(&topic, 0),
            metrics: Arc::clone(&METRICS),
            waits: Waits::default(),
            stop: stop.clone(),
        };
        let sweeper = Sweeper::new(services, self.plan.broker_forgets, i32::try_from(self.sites.len()).unwrap());
        self.instances.push(Instance {
            site,
            dispatcher: Box::pin(dispatcher.run()),
            sweeper: Box::pin(sweeper.run()),
            member,
            stop,
            is_frozen: false,
        });
    }

    async fn step(&mut self) {
        clock::tick();
        let site = self.any_site();
        if self.random.random_bool(self.plan.broker_outages) {
            let outage = self.random.random_range(5_000..60_000);
            self.sites[site].services.broker.goes_down(outage);
            self.chaos.hit(Fault::BrokerOutage);
        }
        if self.random.random_bool(self.plan.worker_pauses) {
            self.sites[site].worker.paused_until_ms = clock::now_ms() + self.random.random_range(15_000..40_000);
        }
        let dice = self.random.random_range(0..1_000);
        match dice {
            0..550 => self.poll_dispatcher(),
            550..700 => self.poll_sweeper(),
            700..760 => {
                let works = self.sites[site].worker.paused_until_ms <= clock::now_ms();
                if works && self.random.random_bool(self.plan.worker_pace) {
                    self.sites[site].worker.receive();
                }
            }
            760..795 => {
                let position = self.random.random_range(0..64);
                self.sites[site].worker.finish(position);
            }
            795..800 => {
                self.sites[site].worker.deliver_result();
            }
            800..870 => {
                self.produce(site);
            }
            870..920 => clock::advance().await,
            920..940 => {
                self.sites[site].services.deliver_late();
            }
            940..955 => self.crash(),
            955..970 => self.freeze_or_thaw(),
            970..985 => self.evict(site),
            985..988 => self.stop(),
            988..991 => self.roll_back(site),
            _ => {
                if self.instances.len() < 4 {
                    self.join(site);
                }
            }
        }
        let decided: Vec<_> = self
            .sites
            .iter()
            .flat_map(|site| self.store.progress_of(site.services.terms.deployment).into_values())
            .map(|progress| (progress.epoch, progress.consumed))
            .collect();
        let messages: Vec<_> = self.sites.iter().map(|site| (site.worker.messages.len(), site.worker.runs.len())).collect();
        self.trace.push(format!("{dice} {decided:?} {messages:?}"));
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
    fn produce(&mut self, site: usize) -> bool {
        let Site { services, evidence, next_record, .. } = &mut self.sites[site];
        let Some(record) = self.plan.records.get(*next_record) else { return false };
        *next_record += 1;
        let time_ms = clock::now_ms();
        let offset = services.topic.produce(record.partition, MemoryRecord { time_ms, ..record.record.clone() });
        evidence.produced(Record::new(record, offset));
        true
    }

    /// An instance dies, frozen or not, wherever it waits; a new one takes its place by and by.
    fn crash(&mut self) {
        if self.plan.crashes == 0 || self.instances.is_empty() {
            return;
        }
        self.plan.crashes -= 1;
        let position = self.random.random_range(0..self.instances.len());
        let instance = self.instances.remove(position);
        self.sites[instance.site].dead.push(instance.member);
        self.chaos.hit(Fault::Crash);
    }

    fn freeze_or_thaw(&mut self) {
        if self.instances.is_empty() {
            return;
        }
        let position = self.random.random_range(0..self.instances.len());
        let instance = &mut self.instances[position];
        instance.is_frozen = !instance.is_frozen;
        if instance.is_frozen {
            self.chaos.hit(Fault::Zombie);
        }
    }

    /// The group notices that someone is silent, or only believes so.
    fn evict(&mut self, site: usize) {
        let of_site: Vec<&Instance> = self.instances.iter().filter(|instance| instance.site == site).collect();
        let frozen = of_site.iter().filter(|instance| instance.is_frozen).map(|instance| instance.member);
        let silent: Vec<u64> = self.sites[site].dead.iter().copied().chain(frozen).collect();
        let member = match silent.first() {
            Some(member) => *member,
            None if of_site.is_empty() => return,
            None => of_site[self.random.random_range(0..of_site.len())].member,
        };
        let Site { services, dead, .. } = &mut self.sites[site];
        dead.retain(|dead| *dead != member);
        services.topic.evict(member);
        self.chaos.hit(Fault::Eviction);
    }

    /// All instances of the deployment are gone, another service of its group decides some records, and one of ours comes back.
    fn roll_back(&mut self, site: usize) {
        if self.plan.rollbacks == 0 {
            return;
        }
        self.plan.rollbacks -= 1;
        let Site { services, evidence, dead, .. } = &mut self.sites[site];
        let gone = self.instances.extract_if(.., |instance| instance.site == site).map(|instance| instance.member);
        dead.drain(..).chain(gone).for_each(|member| services.topic.evict(member));
        // What they have sent has arrived by then.
        while services.deliver_late() {}
        let (progress, committed) = (services.progress(), services.topic.committed());
        for (partition, end) in (0..).zip(services.topic.ends()) {
            let from = committed.get(&partition).copied().unwrap_or(0);
            let until = (from + self.random.random_range(0..3)).min(end);
            services.topic.commit_as_another(partition, until);
            let ours = progress.get(&partition).and_then(|progress| progress.next_offset).unwrap_or(0);
            evidence.decided_by_another(partition, ours, until);
        }
        self.chaos.hit(Fault::Rollback);
        self.join(site);
    }

    fn stop(&mut self) {
        if let Some(position) = self.any_awake() {
            self.instances[position].stop.cancel();
            self.chaos.hit(Fault::Stop);
        }
    }

    /// No more faults: everyone is awake, and everything comes to its end.
    async fn drain(&mut self) {
        for site in 0..self.sites.len() {
            while self.produce(site) {}
            let Site { services, worker, dead, .. } = &mut self.sites[site];
            services.broker.comes_up();
            while services.deliver_late() {}
            while worker.deliver_result() {}
            dead.drain(..).for_each(|member| services.topic.evict(member));
        }
        self.instances.iter_mut().for_each(|instance| instance.is_frozen = false);
        let mut quiet = 0;
        for round in 0..DRAIN_ROUNDS {
            clock::tick();
            for site in 0..self.sites.len() {
                if self.instances.iter().all(|instance| instance.site != site) {
                    self.join(site);
                }
            }
            self.round();
            self.look();
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
        for Site { worker, .. } in &mut self.sites {
            while worker.finish(0) {}
            while worker.receive() {}
        }
    }

    fn is_done(&self) -> bool {
        self.store.publications().values().all(|state| *state != PublicationState::Claimed)
            && self.sites.iter().all(Site::is_done)
    }
}

impl Site {
    fn is_done(&self) -> bool {
        let Self { services, worker, .. } = self;
        let ends = services.topic.ends();
        let progress = services.progress();
        let is_decided = |(partition, end): (i32, &i64)| {
            *end == 0 || progress.get(&partition).and_then(|progress| progress.next_offset) == Some(*end)
        };
        (0..).zip(&ends).all(is_decided) && !worker.is_running() && Evidence::unresolved(services, worker).is_empty()
    }
}
