//! A dependency is killed in the middle of 5,000 signals/s, and comes back 30 s later.
#![expect(clippy::print_stdout, reason = "the answer of the program")]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use uuid::Uuid;

use super::conservation;
use super::history::{History, Lag, Window};
use super::logs::Complaints;
use super::watch::Answers;
use super::{Broken, MAX_RESIDENT_MB};
use crate::check;
use crate::clock;
use crate::deployment::Layout;
use crate::options::{Arm, Dependency, Options};
use crate::plan::{Fault, Plan, Step};
use crate::report;
use crate::run::{self, Witness, Witnesses};
use crate::services::Services;

/// Which dependency goes.
#[derive(Debug)]
pub(super) struct Outage {
    name: &'static str,
    dependency: Dependency,
    /// As the evidence calls it.
    moment: &'static str,
}

pub(super) const REDIS: Outage = Outage { name: "redis-down", dependency: Dependency::Redis, moment: "redis kill -9" };
pub(super) const POSTGRES: Outage =
    Outage { name: "postgres-down", dependency: Dependency::Postgres, moment: "postgres kill -9" };

const SECOND: i64 = 1_000_000;
/// How long it is down.
const DOWN: Duration = Duration::from_secs(30);
/// The shortest silence that is the outage's.
const MIN_DOWN: i64 = 25 * SECOND;
/// How long everything works before, and after.
const BEFORE: Duration = Duration::from_secs(25);
const AFTER: Duration = Duration::from_secs(33);
/// How long after its return everything that was claimed before must be enqueued.
const ENQUEUED_WITHIN: i64 = 10 * SECOND;
/// How long after its return the lag may be more than one second of the flow.
const CAUGHT_UP_WITHIN: i64 = 30 * SECOND;
/// How long the group must have been at rest before the fault, so that a later hand-over is the fault's doing.
const AT_REST: i64 = 5 * SECOND;
/// Warnings and errors of an instance from the fault to 10 s after its end.
const MAX_COMPLAINTS: u64 = 20;
/// How long a batch that was decided just before the store died may take to the broker.
const ON_ITS_WAY: i64 = 2 * SECOND;

/// Runs the drill, prints its line, and keeps the evidence if a bound did not hold.
pub(super) fn run(outage: &Outage, options: &Options) -> anyhow::Result<bool> {
    let plan = plan(outage, options);
    let services = Services::from_environment(Arm::Redis)?;
    let stop = AtomicBool::new(false);
    let (witnesses, answers) = std::thread::scope(|scope| {
        let answers = scope.spawn(|| Answers::gather(&services, outage.dependency, &stop));
        let witnesses = run::execute(&plan);
        stop.store(true, Ordering::Release);
        let answers = answers.join().map_err(|_| anyhow::anyhow!("who asks the services broke off"))?;
        anyhow::Ok((witnesses?, answers?))
    })?;
    let findings = check::check(&witnesses)?;
    report::print(&witnesses, &findings)?;
    let mut broken = Broken::default();
    broken.unless(findings.held(), || "an invariant of the chaos run was violated".to_owned());
    let figures = figures(outage, &witnesses, &answers, &mut broken)?;
    for text in &broken.0 {
        println!("    {text}");
    }
    println!(
        "{} {}: {} signals, {} triggers, lost {}, double starts {}, overlaps {}, extra messages {}, {figures} (seed {})",
        outage.name,
        broken.word(),
        findings.records,
        findings.triggers,
        findings.lost,
        findings.double_starts,
        findings.overlaps,
        findings.extra,
        plan.seed
    );
    if !broken.0.is_empty() {
        println!("evidence: {}   database: {}", witnesses.evidence.folder().display(), witnesses.platform.name);
    } else if let Ok(evidence) = Arc::try_unwrap(witnesses.evidence) {
        evidence.discard()?;
    }
    Ok(broken.0.is_empty())
}

fn plan(outage: &Outage, options: &Options) -> Plan {
    // Nothing is broken here: it is how a lane waits.
    let calm = Step { fault: Fault::CutReplies(outage.dependency, 0), rest: BEFORE };
    let down = Step { fault: Fault::Down(outage.dependency, DOWN), rest: AFTER };
    Plan {
        name: outage.name.to_owned(),
        arm: Arm::Redis,
        seed: options.seed,
        layout: Layout::ALONE,
        signals: options.signals,
        before: 0,
        lanes: vec![vec![calm, down]],
        loses: 0,
        variables: vec![
            ("TRIGGER_LEASE_SECONDS", "900"),
            // Longer than the outage: what waits in a broker that is down has not been lost.
            ("TRIGGER_START_TIMEOUT_SECONDS", "60"),
            ("TRIGGER_MAX_ATTEMPTS", "3"),
            // Far shorter than the outage: who does not poll while it waits is thrown out of the group.
            ("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "10000"),
            ("KAFKA_CONFIG_HEARTBEAT_INTERVAL_MS", "1000"),
            ("KAFKA_CONFIG_MAX_POLL_INTERVAL_MS", "12000"),
            ("LOG_SIGNALS_PER_SECOND", "100"),
        ],
        most_per_second: u64::MAX,
        settle: Duration::from_secs(150),
    }
}

fn figures(outage: &Outage, witnesses: &Witnesses, answers: &Answers, broken: &mut Broken) -> anyhow::Result<String> {
    let Witnesses { evidence, platform, .. } = witnesses;
    let Witness { topics, watched, .. } = &witnesses.deployments[0];
    let began = clock::unix_ms() * 1000 - micros(evidence.seconds());
    let (from, to) = *evidence.moments(outage.moment).first().context("nothing was killed: the drill proves nothing")?;
    // As it was felt: it dies a little after it was asked to, and answers a little before its start is said to be done.
    let down = answers.outage().context("it never answered twice")?;
    anyhow::ensure!(
        down.from >= began + micros(from) - SECOND && down.to <= began + micros(to) + SECOND && down.to - down.from >= MIN_DOWN,
        "the longest silence was {down:?}, and the fault lasted from {from} s to {to} s: the drill proves nothing"
    );
    let history = History::load(platform)?;
    let lag = Lag::load(topics, &history)?;
    let end = history.decisions().last().context("nothing was decided")?.0;

    let hand_overs = history.hand_overs();
    anyhow::ensure!(
        !hand_overs.iter().any(|at| (down.from - AT_REST..down.from).contains(at)),
        "the group was not at rest before the fault: the drill proves nothing about it"
    );
    let rebalances = hand_overs.iter().filter(|at| (down.from..=end).contains(at)).count();
    broken.unless(rebalances == 0, || format!("{rebalances} partitions changed hands during the fault or after it"));

    let per_second = i64::try_from(witnesses.plan.signals / witnesses.plan.seconds())?;
    let caught_up = lag.back_to(per_second, down.to);
    broken.unless(caught_up.is_some_and(|time| time <= CAUGHT_UP_WITHIN), || {
        format!("the lag was not under one second of the flow within {} s", CAUGHT_UP_WITHIN / SECOND)
    });
    let left = lag.at_the_end();
    broken.unless(left == 0, || format!("{left} records were never decided"));

    broken.unless(watched.resident <= MAX_RESIDENT_MB, || format!("an instance took {:.0} MB", watched.resident));
    let complaints = Complaints::read(evidence, platform, Window { from: down.from, to: down.to + 10 * SECOND })?;
    broken.unless(complaints.most <= MAX_COMPLAINTS, || format!("an instance complained {} times", complaints.most));
    broken.unless(!complaints.events.is_empty(), || "nobody said that something was broken".to_owned());

    let sums = conservation::sums(platform)?;
    broken.unless(sums.gap == 0, || format!("conservation: {sums:?}"));

    let meanwhile = match outage.dependency {
        Dependency::Postgres => none_enqueued(&history, down, answers, broken)?,
        _ => enqueued_after(witnesses, began, down, broken)?,
    };
    Ok(format!(
        "conservation gap {} in {} partitions, {per_second}/s, down {:.1} s, {meanwhile}, RSS at most {:.0} MB, rebalances {rebalances}, \
         warnings of an instance at most {} ({}), lag {} before, {} at the return, under one second of the flow after {} s, {left} at the end",
        sums.gap,
        sums.partitions,
        seconds(down.to - down.from),
        watched.resident,
        complaints.most,
        complaints.words(),
        lag.at(down.from),
        lag.at(down.to),
        caught_up.map_or_else(|| "?".to_owned(), |time| format!("{:.1}", seconds(time)))
    ))
}

/// Redis is down: what was claimed meanwhile reaches a worker soon after its return, by PostgreSQL's word and the worker's.
fn enqueued_after(witnesses: &Witnesses, began: i64, down: Window, broken: &mut Broken) -> anyhow::Result<String> {
    let mut client = witnesses.platform.connect_in_time()?;
    // Those that were enqueued before the fault came are none of its.
    let rows = client.query(
        "select t.trigger_id, (extract(epoch from p.enqueued_at) * 1000000)::bigint
         from dispatcher.publications p join dispatcher.triggers t using (publication_id)
         where (extract(epoch from p.claimed_at) * 1000000)::bigint between $1 and $2
             and (extract(epoch from p.enqueued_at) * 1000000)::bigint >= $2",
        &[&down.from, &down.to],
    )?;
    let mut waited: HashSet<Uuid> = HashSet::new();
    let mut last_confirmed = 0;
    for row in rows {
        waited.insert(row.try_get(0)?);
        last_confirmed = last_confirmed.max(row.try_get::<_, i64>(1)? - down.to);
    }
    let forgotten: i64 =
        client.query_one("select count(*) from dispatcher.publications where enqueued_at is null", &[])?.try_get(0)?;
    broken.unless(forgotten == 0, || format!("{forgotten} publications were never enqueued"));
    anyhow::ensure!(!waited.is_empty(), "nothing was claimed while Redis was down: the drill proves nothing");
    let mut received: HashMap<Uuid, i64> = HashMap::new();
    for message in &witnesses.deployments[0].seen.received {
        received.entry(message.delivery.trigger_id).or_insert(began + micros(message.second));
    }
    let late = |trigger: &Uuid| received.get(trigger).map_or(i64::MAX, |at| at - down.to);
    let last_received = waited.iter().map(late).max().unwrap_or(i64::MAX);
    broken.unless(last_confirmed.max(last_received) <= ENQUEUED_WITHIN, || {
        format!("what was claimed meanwhile was enqueued {last_confirmed} µs and received {last_received} µs after the return")
    });
    Ok(format!(
        "claimed meanwhile {}, the last of them confirmed {:.1} s and received by a worker {:.1} s after the return",
        waited.len(),
        seconds(last_confirmed),
        seconds(last_received)
    ))
}

/// PostgreSQL is down: by Redis's own count, nothing is pushed from soon after its last decision to its next.
fn none_enqueued(history: &History, down: Window, answers: &Answers, broken: &mut Broken) -> anyhow::Result<String> {
    let gap = history.gap_within(down).context("the store was never down")?;
    anyhow::ensure!(gap.to - gap.from >= MIN_DOWN, "the store was down for {:.1} s only", seconds(gap.to - gap.from));
    let meanwhile = answers.pushes.iter().filter(|(at, _)| (gap.from + ON_ITS_WAY..gap.to).contains(at));
    let meanwhile: Vec<u64> = meanwhile.map(|(_, pushes)| *pushes).collect();
    let (Some(before), Some(last)) = (meanwhile.first(), meanwhile.last()) else {
        anyhow::bail!("Redis was not asked meanwhile")
    };
    let all = answers.pushes.last().map_or(0, |(_, pushes)| *pushes);
    anyhow::ensure!(*before > 0 && all > *last, "no push was seen before, or none after: the count proves nothing");
    let pushes = last - before;
    broken.unless(pushes == 0, || format!("{pushes} pushes to the broker while the store was down"));
    Ok(format!(
        "nothing decided for {:.1} s, pushes meanwhile {pushes} in {} looks ({before} before, {} after)",
        seconds(gap.to - gap.from),
        meanwhile.len(),
        all - last
    ))
}

#[expect(clippy::cast_possible_truncation, reason = "a run takes minutes")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn the_flow_is_five_thousand_a_second_unless_told() {
        for (outage, name) in [(&REDIS, "redis-down"), (&POSTGRES, "postgres-down")] {
            let plan = plan(outage, &Options::parse_from(["chaos", "--drill", name]));
            assert_eq!(plan.signals / plan.seconds(), 5_000);
        }
    }
}
