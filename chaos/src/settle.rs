//! Before the faults: does it work at all? After them: heal everything, and wait until nothing is left to do.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::BaseConsumer;

use crate::clock;
use crate::faults::Targets;
use crate::kafka::Topics;
use crate::platform::Platform;

/// Waits for the first decision: faults prove nothing on a program that does not work at all.
pub(crate) fn begun(platform: &Platform) -> anyhow::Result<()> {
    let mut client = platform.connect()?;
    let begun = clock::wait_for(Duration::from_secs(60), || {
        let decided: bool =
            client.query_one("select coalesce(sum(consumed), 0) > 0 from dispatcher.progress", &[])?.try_get(0)?;
        Ok(decided.then_some(()))
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
pub(crate) fn settle(
    targets: &Targets<'_>,
    topics: &Topics,
    platform: &Platform,
    queue: &str,
    time: Duration,
) -> anyhow::Result<Option<String>> {
    let reader = topics.reader()?;
    let mut missing = String::new();
    let settled = clock::wait_for(time, || {
        targets.instances.check()?;
        anyhow::ensure!(targets.worker.is_alive(), "the worker ended by itself");
        // A service that was down a moment ago may need another one to answer.
        missing = unsettled(targets, topics, platform, &reader, queue).unwrap_or_else(|error| format!("no answer: {error:#}"));
        Ok(missing.is_empty().then_some(()))
    })?;
    Ok(settled.is_none().then_some(missing))
}

/// What is still to do, in words; empty when nothing is.
fn unsettled(
    targets: &Targets<'_>,
    topics: &Topics,
    platform: &Platform,
    reader: &BaseConsumer,
    queue: &str,
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
    let waiting = targets.services.broker.waiting(queue)?;
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
