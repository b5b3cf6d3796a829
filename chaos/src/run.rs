//! One run: everything up, the load, the faults, the healing, the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::check::{self, Findings};
use crate::clock;
use crate::deployment::{Deployment, Ground};
use crate::evidence::Evidence;
use crate::faults::{Proxies, Targets};
use crate::kafka::Topics;
use crate::monitor::{Monitor, Watched};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::producer::{Ledger, Producer};
use crate::proxy::Proxy;
use crate::report;
use crate::services::Services;
use crate::settle;
use crate::signals::Signals;
use crate::worker::Seen;

/// What a verdict rests on, apart from what the services still hold.
pub(crate) struct Witnesses {
    pub(crate) plan: Plan,
    pub(crate) signals: Signals,
    pub(crate) platform: Platform,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) deployments: Vec<Witness>,
    /// What had not settled in time.
    pub(crate) unsettled: Option<String>,
    /// How long it took to settle after the last fault, in seconds.
    pub(crate) settled: f64,
}

/// What was seen of one deployment.
pub(crate) struct Witness {
    pub(crate) topics: Topics,
    pub(crate) ledger: Ledger,
    pub(crate) seen: Seen,
    pub(crate) watched: Watched,
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
    let proxies = Proxies {
        kafka: Proxy::start_at(&services.kafka_proxy, &services.kafka_proxied)?,
        postgres: Proxy::start(&platform.address())?,
        broker: Proxy::start(&services.broker.address()?)?,
    };
    let ground = Ground { plan, services: &services, platform: &platform, proxies: &proxies, evidence: &evidence };
    let deployments = (0..plan.layout.deployments).map(|number| Deployment::prepare(number, &name, &ground));
    let deployments = deployments.collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(first) = deployments.first() {
        first.instances.migrate()?;
    }
    platform.keep_history()?;

    let signals = Signals::new(plan.seed);
    let mut producers = Vec::new();
    for deployment in &deployments {
        let producer = deployment.send(signals, plan)?;
        clock::wait_for(Duration::from_secs(60), || Ok((producer.acknowledged() >= plan.before).then_some(())))?
            .context("Kafka does not take the first signals within 60 s")?;
        producers.push(producer);
        for number in deployment.instances.numbers() {
            deployment.instances.start(number, None)?;
        }
    }

    let stop = AtomicBool::new(false);
    let (ledgers, unsettled, settled) = std::thread::scope(|scope| {
        let monitor = |deployment| {
            let monitor = Monitor { deployment, platform: &platform, stop: &stop };
            scope.spawn(move || monitor.run())
        };
        let monitors: Vec<_> = deployments.iter().map(monitor).collect();
        let targets = Targets { deployments: &deployments, services: &services, proxies: &proxies, evidence: &evidence };
        let result = flow(plan, &targets, &platform, producers);
        stop.store(true, Ordering::Release);
        let monitored: Vec<_> = monitors.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let result = result?;
        for monitored in monitored {
            monitored.map_err(|_| anyhow::anyhow!("a monitor broke off"))??;
        }
        anyhow::Ok(result)
    })?;
    let witness = |(deployment, ledger)| end(deployment, ledger, &evidence);
    let witnesses = deployments.into_iter().zip(ledgers).map(witness).collect::<anyhow::Result<_>>()?;
    Ok(Witnesses { plan: plan.clone(), signals, platform, evidence, deployments: witnesses, unsettled, settled })
}

/// Stops a deployment, and keeps what was seen of it.
fn end(deployment: Deployment, ledger: Ledger, evidence: &Evidence) -> anyhow::Result<Witness> {
    let Deployment { topics, instances, worker, watched, .. } = deployment;
    let mut watched = watched.into_inner().unwrap_or_else(PoisonError::into_inner);
    watched.finish(&instances);
    let seen = worker.finish()?;
    for number in instances.numbers() {
        let status = instances.stop(number)?;
        evidence.note("ended", &json!({"instance": number, "status": status.to_string()}))?;
    }
    Ok(Witness { topics, ledger, seen, watched })
}

type Flowed = (Vec<Ledger>, Option<String>, f64);

/// The faults, the healing, and the wait until everything has settled.
fn flow(plan: &Plan, targets: &Targets<'_>, platform: &Platform, producers: Vec<Producer>) -> anyhow::Result<Flowed> {
    settle::begun(targets, platform).with_context(|| format!("see {}", targets.evidence.folder().display()))?;
    let lanes = std::thread::scope(|scope| {
        let lanes: Vec<_> = plan.lanes.iter().map(|steps| scope.spawn(|| targets.run(steps))).collect();
        let ended =
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a lane of faults broke off"))));
        ended.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<()>>()
    });
    lanes?;
    settle::heal(targets)?;
    let ledgers = producers.into_iter().map(|producer| producer.finish(targets.evidence)).collect::<anyhow::Result<Vec<_>>>()?;
    let sent: Vec<_> = ledgers.iter().map(Ledger::len).collect();
    targets.evidence.note("healed", &json!(sent))?;
    let began = targets.evidence.seconds();
    let unsettled = settle::settle(targets, platform, plan.settle)?;
    Ok((ledgers, unsettled, targets.evidence.seconds() - began))
}
