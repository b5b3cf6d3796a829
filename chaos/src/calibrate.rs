//! The harness on trial: each planted bug, on a schedule that provokes it, must be found; the same schedule without the bug
//! must find nothing. What finds nothing then is the harness, not the program.
#![expect(clippy::print_stdout, reason = "the answer of the program")]

use std::time::Duration;

use anyhow::Context as _;
use trigger_dispatcher::chaos::Bug;

use crate::check::Findings;
use crate::options::{Arm, Dependency, Options};
use crate::plan::{Fault, Plan, Step};
use crate::run;

/// Whether every bug was found, and no sound program accused.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let is_wanted = |name: &str| options.bug.as_deref().is_none_or(|wanted| wanted == name);
    // Nobody else works in this harness' group: that bug is the simulation's to find.
    let is_ours = |bug: Bug| bug != Bug::CommittedIgnored;
    let chosen: Vec<_> = Bug::ALL.into_iter().filter(|(name, bug)| is_wanted(name) && is_ours(*bug)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no such bug: {}", options.bug.as_deref().unwrap_or_default());
    let mut lines = Vec::new();
    let mut right = 0;
    for (name, bug) in &chosen {
        let plan = schedule(*bug, options.seed);
        let sound = run::run(&Plan { name: format!("sound-{name}"), ..plan.clone() })?;
        let mut planted = Plan { name: format!("bug-{name}"), settle: Duration::from_secs(25), ..plan };
        planted.variables.push(("CHAOS_BUG", name));
        let found = run::run(&planted).with_context(|| format!("the run with {name}"))?;
        let is_right = sound.held() && !found.held();
        right += usize::from(is_right);
        lines.push(format!(
            "{:<24} {:<7} without it: {}; with it: {}",
            name,
            if is_right { "caught" } else { "NOT" },
            words(&sound),
            words(&found)
        ));
    }
    println!("\n{}\ncalibration: {right} of {} planted bugs caught (seed {})", lines.join("\n"), chosen.len(), options.seed);
    Ok(right == chosen.len())
}

fn words(findings: &Findings) -> String {
    let fired: Vec<_> = findings.fired().into_iter().map(|(invariant, count)| format!("{invariant} × {count}")).collect();
    if fired.is_empty() { "nothing fired".to_owned() } else { fired.join(", ") }
}

/// What provokes a bug. Where the sweeper for tasks that never started would heal the damage, it is off, as it is for
/// everybody whose workers have no guard; the worker loses nothing then.
fn schedule(bug: Bug, seed: u64) -> Plan {
    let step = |fault: Fault, rest: u64| Step { fault, rest: Duration::from_millis(rest) };
    let plan = Plan {
        name: String::new(),
        arm: Arm::Redis,
        seed,
        signals: 3_000,
        before: 0,
        lanes: Vec::new(),
        loses: 0,
        variables: vec![("TRIGGER_WORKER_GUARD", "no")],
        most_per_second: u64::MAX,
        settle: Duration::from_secs(60),
    };
    let second = 1_000;
    match bug {
        // Dies between the commit and the publication.
        Bug::CommitBeforePublish | Bug::MarkBeforePublish => {
            let deaths = (0..3).map(|instance| step(Fault::Point("before_publish", instance), second)).collect();
            Plan { lanes: vec![deaths], ..plan }
        }
        // The broker cannot be reached, and nothing that was asked of it is done.
        Bug::PublishErrorSwallowed => {
            let closed = [3, 4].map(|seconds| step(Fault::Closed(Dependency::Redis, Duration::from_secs(seconds)), 2 * second));
            Plan { lanes: vec![closed.to_vec()], ..plan }
        }
        // Signals that come again are enough, if they come late enough to find their pipelines idle.
        Bug::NoConflictKey => Plan { lanes: vec![vec![step(Fault::Restart(0), 30 * second)]], signals: 4_000, ..plan },
        // Sweepers that began together look together; slow answers make room between look and deed.
        Bug::SweepWithoutCompare => Plan {
            lanes: vec![
                vec![step(Fault::KillAll, 45 * second)],
                vec![step(Fault::Slow(Dependency::Postgres, Duration::from_secs(1), Duration::from_secs(45)), 0)],
            ],
            loses: 100,
            signals: 1_500,
            variables: Vec::new(),
            ..plan
        },
        // The record lingers in the producer while its offset is decided, and then everybody dies.
        Bug::DeadLetterNotAwaited => Plan {
            lanes: vec![(0..6).map(|_| step(Fault::KillAll, 5 * second)).collect()],
            variables: vec![("TRIGGER_WORKER_GUARD", "no"), ("KAFKA_CONFIG_LINGER_MS", "1500")],
            ..plan
        },
        // Records that were there before anybody read.
        Bug::LatestReset => Plan { before: 1_500, ..plan },
        // Not chosen, see `run`.
        Bug::CommittedIgnored => plan,
        // Batches that wait for the store while the group gives their partitions to somebody else. A zombie's batch does the
        // same, and rarely enough that a schedule cannot count on it.
        Bug::EpochIgnored => {
            let closed = step(Fault::Closed(Dependency::Postgres, Duration::from_secs(8)), 6 * second);
            let kills = (0..5).map(|number| step(Fault::Kill(number % 3), 14 * second)).collect();
            Plan { lanes: vec![vec![closed; 5], kills], signals: 6_000, ..plan }
        }
    }
}
