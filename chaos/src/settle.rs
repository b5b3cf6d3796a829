//! Before the faults: does it work at all? After them: heal everything, and wait until nothing is left to do.

use std::time::Duration;

use anyhow::Context as _;
use postgres::Client;
use rdkafka::consumer::BaseConsumer;

use crate::clock;
use crate::deployment::Deployment;
use crate::faults::Targets;
use crate::platform::Platform;

/// Waits for the first decision of each deployment: faults prove nothing on a program that does not work at all.
pub(crate) fn begun(targets: &Targets<'_>, platform: &Platform) -> anyhow::Result<()> {
    let mut client = platform.connect()?;
    let all = i64::try_from(targets.deployments.len())?;
    let begun = clock::wait_for(Duration::from_secs(60), || {
        let sql = "select count(distinct topic) from dispatcher.progress where consumed > 0";
        let deciding: i64 = client.query_one(sql, &[])?.try_get(0)?;
        Ok((deciding == all).then_some(()))
    })?;
    begun.context("the dispatchers decide nothing within 60 s, with nothing broken yet")
}

pub(crate) fn heal(targets: &Targets<'_>) -> anyhow::Result<()> {
    targets.proxies.heal();
    for service in ["kafka", "postgres", targets.services.broker.service()] {
        targets.services.tell("start", service)?;
    }
    Ok(())
}

/// Waits until nothing is left to do; gives what still is when the time is over.
pub(crate) fn settle(targets: &Targets<'_>, platform: &Platform, time: Duration) -> anyhow::Result<Option<String>> {
    let readers: Vec<_> = targets.deployments.iter().map(|of| of.topics.reader()).collect::<anyhow::Result<_>>()?;
    let mut missing = String::new();
    let settled = clock::wait_for(time, || {
        for deployment in targets.deployments {
            deployment.instances.check()?;
            anyhow::ensure!(deployment.worker.is_alive(), "a worker ended by itself");
        }
        // A service that was down a moment ago may need another one to answer.
        missing = unsettled(targets, platform, &readers).unwrap_or_else(|error| format!("no answer: {error:#}"));
        Ok(missing.is_empty().then_some(()))
    })?;
    Ok(settled.is_none().then_some(missing))
}

/// What is still to do, in words; empty when nothing is.
fn unsettled(targets: &Targets<'_>, platform: &Platform, readers: &[BaseConsumer]) -> anyhow::Result<String> {
    let mut client = platform.connect_in_time()?;
    let mut left = Vec::new();
    for (deployment, reader) in targets.deployments.iter().zip(readers) {
        left.extend(unread(deployment, reader, &mut client)?);
        left.push((targets.services.broker.waiting(deployment.queue())?, "messages not taken"));
        left.push((i64::from(!deployment.worker.is_idle()), "worker busy"));
    }
    for (sql, what) in [
        (
            "select count(*) from dispatcher.publications where enqueued_at is null and lapsed_at is null",
            "publications not enqueued",
        ),
        (
            "select count(*) from dispatcher.triggers t where failed_at is null and leased_until > now()
             and not exists (select from dispatcher.starts s where s.trigger_id = t.trigger_id)",
            "triggers not started",
        ),
    ] {
        left.push((client.query_one(sql, &[])?.try_get(0)?, what));
    }
    let left: Vec<_> = left.iter().filter(|(count, _)| *count != 0).map(|(count, what)| format!("{count} {what}")).collect();
    Ok(left.join(", "))
}

/// What a deployment has not decided yet, or not told Kafka of.
fn unread(deployment: &Deployment, reader: &BaseConsumer, client: &mut Client) -> anyhow::Result<[(i64, &'static str); 2]> {
    let topics = &deployment.topics;
    let progress = topics.progress(client)?;
    let ends = topics.ends(reader)?;
    let committed = topics.committed(reader)?;
    let lag: i64 = (0..).zip(&ends).map(|(partition, end)| end - progress.get(&partition).copied().unwrap_or(0)).sum();
    let untold = ends.iter().zip(&committed).filter(|(end, committed)| **end > 0 && **committed != Some(**end)).count();
    Ok([(lag, "records undecided"), (i64::try_from(untold)?, "partitions whose offset Kafka does not know")])
}
