//! The harness on trial: each planted bug, on a schedule that provokes it, must be found; the same schedule without the bug
//! must find nothing. What finds nothing then is the harness, not the program.
#![expect(clippy::print_stdout, reason = "the answer of the program")]

use std::time::Duration;

use anyhow::Context as _;
use trigger_dispatcher::chaos::Bug;

use crate::check::Findings;
use crate::deployment::Layout;
use crate::options::{Arm, Dependency, Options};
use crate::plan::{Fault, Plan, Step};
use crate::run;

/// Bugs that no schedule of the harness provokes, and why. The simulation plants them (tests/sim).
const LEFT_OUT: [(&str, &str); 3] = [
    ("result_by_id", "the harness's worker writes no results to a result backend"),
    ("committed_ignored", "no other program commits offsets for the group"),
    ("skip_by_position", "the harness does not count claims, and a run has too few records with one id to be slow"),
];

/// Whether every bug was found, and no sound program accused.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let wanted = |name: &str| options.bug.as_deref().is_none_or(|wanted| wanted == name);
    let left_out: Vec<_> = LEFT_OUT.into_iter().filter(|(name, _)| wanted(name)).collect();
    let chosen: Vec<_> = Bug::ALL.into_iter().filter(|(name, _)| wanted(name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no such bug: {}", options.bug.as_deref().unwrap_or_default());
    let chosen: Vec<_> = chosen.into_iter().filter_map(|(name, bug)| Some((name, schedule(bug, options.seed)?))).collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "no schedule provokes this bug: {}",
        left_out.iter().map(|(_, why)| *why).collect::<String>()
    );
    let mut lines = Vec::new();
    let mut right = 0;
    for (name, plan) in &chosen {
        let plan = plan.clone();
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
    lines.extend(left_out.iter().map(|(name, why)| format!("{name:<24} left out: {why}; see tests/sim")));
    println!("\n{}\ncalibration: {right} of {} planted bugs caught (seed {})", lines.join("\n"), chosen.len(), options.seed);
    Ok(right == chosen.len())
}

fn words(findings: &Findings) -> String {
    let fired: Vec<_> = findings.fired().into_iter().map(|(invariant, count)| format!("{invariant} × {count}")).collect();
    if fired.is_empty() { "nothing fired".to_owned() } else { fired.join(", ") }
}

/// What provokes a bug; nothing for those that are [`LEFT_OUT`]. Where the sweeper for tasks that never started would heal the damage, it is off, as it is for
/// everybody whose workers have no guard; the worker loses nothing then.
fn schedule(bug: Bug, seed: u64) -> Option<Plan> {
    let step = |fault: Fault, rest: u64| Step { fault, rest: Duration::from_millis(rest) };
    let plan = Plan {
        name: String::new(),
        arm: Arm::Redis,
        seed,
        layout: Layout::ALONE,
        signals: 3_000,
        before: 0,
        lanes: Vec::new(),
        loses: 0,
        variables: vec![("TRIGGER_WORKER_GUARD", "no")],
        most_per_second: u64::MAX,
        settle: Duration::from_secs(60),
    };
    let second = 1_000;
    let plan = match bug {
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
        // Workers have lost tasks when all sweepers begin anew. Sweepers that began together look together, and they look when they begin; slow
        // answers make room between look and deed.
        Bug::SweepWithoutCompare => {
            let calm = step(Fault::CutReplies(Dependency::Postgres, 0), 14 * second);
            let slow = Fault::Slow(Dependency::Postgres, Duration::from_millis(600), Duration::from_secs(18));
            let death = step(Fault::KillAll, 28 * second);
            let slow = step(slow, 10 * second);
            Plan {
                lanes: vec![vec![calm.clone(), death.clone(), death], vec![calm, slow.clone(), slow]],
                loses: 300,
                variables: Vec::new(),
                ..plan
            }
        }
        // The record lingers in the producer while its offset is decided, and then everybody dies.
        Bug::DeadLetterNotAwaited => Plan {
            lanes: vec![(0..6).map(|_| step(Fault::KillAll, 5 * second)).collect()],
            variables: vec![("TRIGGER_WORKER_GUARD", "no"), ("KAFKA_CONFIG_LINGER_MS", "1500")],
            ..plan
        },
        // Records that were there before anybody read.
        Bug::LatestReset => Plan { before: 1_500, ..plan },
        // Batches that wait for the store while the group gives their partitions to somebody else. A zombie's batch does the
        // same, and rarely enough that a schedule cannot count on it.
        Bug::EpochIgnored => {
            let closed = step(Fault::Closed(Dependency::Postgres, Duration::from_secs(8)), 6 * second);
            let kills = (0..5).map(|number| step(Fault::Kill(number % 3), 14 * second)).collect();
            Plan { lanes: vec![vec![closed; 5], kills], signals: 6_000, ..plan }
        }
        // Redis is away for longer than the lease that a waiting publication was claimed with. A sweeper has renewed it meanwhile.
        Bug::OldExpires => {
            let closed = step(Fault::Closed(Dependency::Redis, Duration::from_secs(26)), 5 * second);
            Plan {
                lanes: vec![vec![closed; 2]],
                variables: vec![("TRIGGER_WORKER_GUARD", "no"), ("TRIGGER_LEASE_SECONDS", "20")],
                ..plan
            }
        }
        // Both deployments have entries and lost tasks to sweep, and both sweep.
        Bug::SweepOfOthers => {
            let death = |instance| step(Fault::Point("before_publish", instance), 3 * second);
            Plan {
                layout: Layout::SIDE_BY_SIDE,
                lanes: vec![[0, 2, 1, 3].map(death).to_vec()],
                loses: 50,
                variables: Vec::new(),
                ..plan
            }
        }
        // Each instance says more than its pipe holds, and nobody reads it.
        Bug::LogLineBlocks => {
            let unread = (0..3).map(|number| step(Fault::FullLog(number), second)).collect();
            Plan { lanes: vec![unread], signals: 6_000, ..plan }
        }
        Bug::ResultById | Bug::CommittedIgnored | Bug::SkipByPosition => return None,
    };
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_schedule_or_a_reason_why_not() {
        for (name, bug) in Bug::ALL {
            let is_left_out = LEFT_OUT.iter().any(|(left_out, _)| *left_out == name);
            assert_eq!(schedule(bug, 1).is_none(), is_left_out, "{name}");
        }
    }
}
