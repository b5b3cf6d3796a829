//! One run: everything up, the load, the faults, the healing, the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::BaseConsumer;
use redis::Commands as _;
use serde_json::json;

use crate::check::{self, Findings};
use crate::clock;
use crate::evidence::Evidence;
use crate::faults::Targets;
use crate::instances::{INSTANCES, Instances};
use crate::kafka::Topics;
use crate::monitor::{Monitor, Watched};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::producer::{Load, Producer};
use crate::proxy::{Mode, Proxy};
use crate::report;
use crate::services::Services;
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
    let services = Services::from_environment()?;
    let name = format!("chaos_{}_{}", plan.seed, clock::unix_ms());
    let evidence = Arc::new(Evidence::create(&plan.name)?);
    let platform = Platform::create(&services, &name, plan.seed)?;
    let topics = Topics::create(&services, &name)?;
    let postgres = Proxy::start(&platform.address())?;
    let redis_url = url::Url::parse(&services.redis)?;
    let redis = Proxy::start(&format!("127.0.0.1:{}", redis_url.port().unwrap_or(6379)))?;
    let instances = Instances::new(variables(plan, &topics, &platform, &postgres, &redis), &evidence)?;
    instances.migrate()?;
    platform.keep_history()?;

    let habits = Habits { redis: services.redis.clone(), list: name.clone(), seed: plan.seed, loses: plan.loses };
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
        let targets = Targets {
            instances: &instances,
            services: &services,
            postgres: &postgres,
            redis: &redis,
            worker: &worker,
            evidence: &evidence,
        };
        let result = flow(plan, &targets, &topics, &platform, &name, producer);
        stop.store(true, Ordering::Release);
        let monitored = monitor.join().map_err(|_| anyhow::anyhow!("the monitor broke off"))?;
        let result = result?;
        monitored?;
        anyhow::Ok(result)
    })?;
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
    list: &str,
    producer: Producer,
) -> anyhow::Result<Flowed> {
    begun(platform).with_context(|| format!("see {}", targets.evidence.folder().display()))?;
    let lanes = std::thread::scope(|scope| {
        let lanes: Vec<_> = plan.lanes.iter().map(|steps| scope.spawn(|| targets.run(steps))).collect();
        let ended =
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a lane of faults broke off"))));
        ended.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<()>>()
    });
    lanes?;
    heal(targets)?;
    let ledger = producer.finish(targets.evidence)?;
    targets.evidence.note("healed", &json!(ledger.len()))?;
    let began = targets.evidence.seconds();
    let reader = topics.reader()?;
    let mut missing = String::new();
    let settled = clock::wait_for(plan.settle, || {
        targets.instances.check()?;
        anyhow::ensure!(targets.worker.is_alive(), "the worker ended by itself");
        missing = unsettled(targets, topics, platform, &reader, list)?;
        Ok(missing.is_empty().then_some(()))
    })?;
    Ok((ledger, settled.is_none().then_some(missing), targets.evidence.seconds() - began))
}

/// Waits for the first decision: faults prove nothing on a program that does not work at all.
fn begun(platform: &Platform) -> anyhow::Result<()> {
    let mut client = platform.connect()?;
    let begun = clock::wait_for(Duration::from_secs(60), || {
        let decided: bool =
            client.query_one("select coalesce(sum(consumed), 0) > 0 from dispatcher.progress", &[])?.try_get(0)?;
        Ok(decided.then_some(()))
    })?;
    begun.context("the dispatchers decide nothing within 60 s, with nothing broken yet")
}

fn heal(targets: &Targets<'_>) -> anyhow::Result<()> {
    targets.postgres.set(Mode::Pass);
    targets.redis.set(Mode::Pass);
    for service in ["kafka", "postgres", "redis"] {
        targets.services.tell("start", service)?;
    }
    Ok(())
}

/// What is still to do, in words; empty when nothing is.
fn unsettled(
    targets: &Targets<'_>,
    topics: &Topics,
    platform: &Platform,
    reader: &BaseConsumer,
    list: &str,
) -> anyhow::Result<String> {
    let mut client = platform.connect_in_time()?;
    let rows = client.query("select partition, coalesce(next_offset, 0) from dispatcher.progress", &[])?;
    let ends = topics.ends(reader)?;
    let committed = topics.committed(reader)?;
    let next = |partition: usize| {
        rows.iter().find(|row| usize::try_from(row.get::<_, i32>(0)) == Ok(partition)).map_or(0, |row| row.get::<_, i64>(1))
    };
    let lag: i64 = ends.iter().enumerate().map(|(partition, end)| end - next(partition)).sum();
    let untold = ends.iter().zip(&committed).filter(|(end, committed)| **end > 0 && **committed != Some(**end)).count();
    let count = |client: &mut postgres::Client, sql: &str| -> anyhow::Result<i64> { Ok(client.query_one(sql, &[])?.try_get(0)?) };
    let unpublished =
        count(&mut client, "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null")?;
    let unstarted = count(
        &mut client,
        "select count(*) from dispatcher.triggers t where failed_at is null and leased_until > now()
         and not exists (select from dispatcher.starts s where s.trigger_id = t.trigger_id)",
    )?;
    let waiting: i64 = redis::Client::open(targets.services.redis.as_str())?.get_connection()?.llen(list)?;
    let busy = i64::from(!targets.worker.is_idle());
    let parts = [
        (lag, "records undecided"),
        (i64::try_from(untold)?, "partitions whose offset Kafka does not know"),
        (unpublished, "publications not enqueued"),
        (unstarted, "triggers not started"),
        (waiting, "messages not taken"),
        (busy, "worker busy"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(count, _)| *count != 0).map(|(count, what)| format!("{count} {what}")).collect();
    Ok(parts.join(", "))
}

/// How the dispatchers run: short times, so that a run shows what else takes hours.
fn variables(plan: &Plan, topics: &Topics, platform: &Platform, postgres: &Proxy, redis: &Proxy) -> Vec<(String, String)> {
    let own = [
        ("KAFKA_BOOTSTRAP_SERVERS", topics.servers.clone()),
        ("KAFKA_SIGNAL_TOPIC", topics.signals.clone()),
        ("KAFKA_DEAD_LETTER_TOPIC", topics.dead_letters.clone()),
        ("KAFKA_CONSUMER_GROUP", topics.group.clone()),
        ("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "3000".to_owned()),
        ("KAFKA_CONFIG_HEARTBEAT_INTERVAL_MS", "500".to_owned()),
        ("CELERY_BROKER_URL", format!("redis://127.0.0.1:{}/0", redis.port)),
        ("CELERY_TASK_QUEUE", topics.signals.clone()),
        ("TRIGGER_LEASE_SECONDS", "60".to_owned()),
        ("TRIGGER_START_TIMEOUT_SECONDS", START_TIMEOUT.as_secs().to_string()),
        ("TRIGGER_MAX_ATTEMPTS", "10".to_owned()),
        ("TRIGGER_WORKER_GUARD", "yes".to_owned()),
        ("HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
        ("LOG_SIGNALS_PER_SECOND", "20".to_owned()),
    ];
    let changes = plan.variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let mut variables: Vec<(String, String)> = Vec::new();
    for (name, value) in own.into_iter().chain(platform.variables(postgres.port)).chain(changes) {
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }
    variables
}

/// How long a trigger may leave no trace of a start before it is published again.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);
