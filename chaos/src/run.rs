//! One run: everything up, the load, the faults, the healing, the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::check::{self, Findings};
use crate::clock;
use crate::evidence::Evidence;
use crate::faults::{Proxies, Targets};
use crate::instances::{INSTANCES, Instances};
use crate::kafka::Topics;
use crate::monitor::{Monitor, Watched};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::producer::{Load, Producer};
use crate::proxy::Proxy;
use crate::report;
use crate::services::Services;
use crate::settle;
use crate::signals::Signals;
use crate::worker::{Habits, Worker};

/// What a verdict rests on, apart from what the services still hold.
pub(crate) struct Witnesses {
    pub(crate) plan: Plan,
    pub(crate) signals: Signals,
    pub(crate) topics: Topics,
    pub(crate) platform: Platform,
    pub(crate) ledger: crate::producer::Ledger,
    pub(crate) seen: crate::worker::Seen,
    pub(crate) watched: Watched,
    pub(crate) evidence: Arc<Evidence>,
    /// What had not settled in time.
    pub(crate) unsettled: Option<String>,
    /// How long it took to settle after the last fault, in seconds.
    pub(crate) settled: f64,
}

/// Runs the plan, prints the report, and keeps the evidence if anything is wrong.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Findings> {
    let witnesses = execute(plan)?;
    let findings = check::check(&witnesses)?;
    report::print(&witnesses, &findings)?;
    let evidence = witnesses.evidence;
    if findings.held()
        && let Ok(evidence) = Arc::try_unwrap(evidence)
    {
        evidence.discard()?;
    }
    Ok(findings)
}

pub(crate) fn execute(plan: &Plan) -> anyhow::Result<Witnesses> {
    let services = Services::from_environment(plan.arm)?;
    let name = format!("chaos_{}_{}", plan.seed, clock::unix_ms());
    let evidence = Arc::new(Evidence::create(&plan.name)?);
    let platform = Platform::create(&services, &name, plan.seed)?;
    let topics = Topics::create(&services, &name)?;
    services.broker.declare(&name)?;
    let proxies = Proxies {
        kafka: Proxy::start_at(&services.kafka_proxy, &services.kafka_proxied)?,
        postgres: Proxy::start(&platform.address())?,
        broker: Proxy::start(&services.broker.address()?)?,
    };
    let instances = Instances::new(variables(plan, &services, &topics, &platform, &proxies)?, &evidence)?;
    instances.migrate()?;
    platform.keep_history()?;

    let habits = Habits { broker: services.broker.clone(), queue: name.clone(), seed: plan.seed, loses: plan.loses };
    let worker = Worker::start(&platform, habits, &evidence)?;
    let signals = Signals::new(plan.seed);
    let per_second = plan.signals.saturating_sub(plan.before) / plan.seconds();
    let producer =
        Producer::start(&topics, signals, Load { signals: plan.signals, per_second: per_second.max(20), before: plan.before })?;
    clock::wait_for(Duration::from_secs(60), || Ok((producer.acknowledged() >= plan.before).then_some(())))?
        .context("Kafka does not take the first signals within 60 s")?;
    for number in 0..INSTANCES {
        instances.start(number, None)?;
    }

    let stop = AtomicBool::new(false);
    let watched = Arc::new(Mutex::new(Watched::default()));
    let (ledger, unsettled, settled) = std::thread::scope(|scope| {
        let monitor =
            Monitor { topics: &topics, platform: &platform, instances: &instances, stop: &stop, watched: Arc::clone(&watched) };
        let monitor = scope.spawn(move || monitor.run());
        let targets =
            Targets { instances: &instances, services: &services, proxies: &proxies, worker: &worker, evidence: &evidence };
        let result = flow(plan, &targets, &topics, &platform, &name, producer);
        stop.store(true, Ordering::Release);
        let monitored = monitor.join().map_err(|_| anyhow::anyhow!("the monitor broke off"))?;
        let result = result?;
        monitored?;
        anyhow::Ok(result)
    })?;
    watched.lock().unwrap_or_else(PoisonError::into_inner).finish(&instances);
    let seen = worker.finish()?;
    for number in 0..INSTANCES {
        let status = instances.stop(number)?;
        evidence.note("ended", &json!({"instance": number, "status": status.to_string()}))?;
    }
    let watched = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Witnesses { plan: plan.clone(), signals, topics, platform, ledger, seen, watched, evidence, unsettled, settled })
}

type Flowed = (crate::producer::Ledger, Option<String>, f64);

/// The faults, the healing, and the wait until everything has settled.
fn flow(
    plan: &Plan,
    targets: &Targets<'_>,
    topics: &Topics,
    platform: &Platform,
    queue: &str,
    producer: Producer,
) -> anyhow::Result<Flowed> {
    settle::begun(platform).with_context(|| format!("see {}", targets.evidence.folder().display()))?;
    let lanes = std::thread::scope(|scope| {
        let lanes: Vec<_> = plan.lanes.iter().map(|steps| scope.spawn(|| targets.run(steps))).collect();
        let ended =
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a lane of faults broke off"))));
        ended.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<()>>()
    });
    lanes?;
    settle::heal(targets)?;
    let ledger = producer.finish(targets.evidence)?;
    targets.evidence.note("healed", &json!(ledger.len()))?;
    let began = targets.evidence.seconds();
    let unsettled = settle::settle(targets, topics, platform, queue, plan.settle)?;
    Ok((ledger, unsettled, targets.evidence.seconds() - began))
}

/// How the dispatchers run: short times, so that a run shows what else takes hours.
fn variables(
    plan: &Plan,
    services: &Services,
    topics: &Topics,
    platform: &Platform,
    proxies: &Proxies,
) -> anyhow::Result<Vec<(String, String)>> {
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

/// How long a trigger may leave no trace of a start before it is published again.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);
