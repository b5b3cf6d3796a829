//! The same loop as in production, on the twins in memory, under a seeded scheduler that does its worst; and a small model of
//! the protocol that is searched whole.
//!
//! `SIM_SEED=n` replays one schedule, `SIM_SCHEDULES=n` runs more or fewer of them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is a test")]

mod clock;
mod faults;
mod invariants;
mod model;
mod plan;
mod schedule;
mod seams;
mod sweeper;
mod worker;

use std::collections::BTreeMap;

use trigger_dispatcher::chaos::Bug;

use crate::faults::{Fault, Window};
use crate::invariants::Invariant;

/// Schedules that a change must survive.
const SCHEDULES: u64 = 5_000;
/// Schedules within which a planted bug must be caught. The rarest needs a second attempt and a result of the first in one moment.
const MOST_SCHEDULES: u64 = 40_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {value:?}")))
}

fn seeds() -> std::ops::Range<u64> {
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SCHEDULES").unwrap_or(SCHEDULES),
    }
}

#[test]
fn the_promises_hold_in_every_schedule() {
    let started = trigger_dispatcher::clock::now();
    let mut hits: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut windows: BTreeMap<Window, u64> = BTreeMap::new();
    let (mut triggers, seeds) = (0, seeds());
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = schedule::run(seed, None);
        if !outcome.violations.is_empty() {
            let texts: Vec<_> =
                outcome.violations.iter().map(|violation| format!("{:?}: {}", violation.invariant, violation.text)).collect();
            panic!("schedule {seed} fails; replay it with SIM_SEED={seed}\n{}", texts.join("\n"));
        }
        outcome.hits.into_iter().for_each(|(fault, count)| *hits.entry(fault).or_default() += count);
        outcome.windows.into_iter().for_each(|(window, count)| *windows.entry(window).or_default() += count);
        triggers += outcome.triggers;
    }
    let elapsed = started.elapsed();
    println!("{count} schedules in {elapsed:?}: {triggers} triggers, faults that hit: {hits:?}, windows: {windows:?}");
    if count >= 1_000 {
        for window in Window::ALL {
            let reached = windows.get(&window).copied().unwrap_or_default();
            assert!(reached >= count / 200, "{window:?} was reached {reached} times only in {count} schedules");
        }
        for fault in Fault::ALL {
            let hits = hits.get(&fault).copied().unwrap_or_default();
            assert!(hits >= count / 20, "{fault:?} has hit {hits} times only in {count} schedules: the simulation is too kind");
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_schedule() {
    for seed in [1, 7, 42, 1_234] {
        let traces = [(); 2].map(|()| schedule::run(seed, None).trace);
        assert!(traces[0].len() > 100);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

/// The schedules that the bug breaks, and what fired first.
fn assert_is_caught(bug: Bug, expected: Invariant) {
    for seed in 0..MOST_SCHEDULES {
        let outcome = schedule::run(seed, Some(bug));
        if outcome.fired(expected) {
            println!("{bug:?}: {expected:?} fired in schedule {seed}: {:?}", outcome.violations);
            return;
        }
    }
    panic!("{bug:?} survived {MOST_SCHEDULES} schedules: {expected:?} never fired");
}

#[test]
fn a_commit_before_the_publish_without_a_sweeper_loses_claims() {
    assert_is_caught(Bug::CommitBeforePublish, Invariant::I1NoLoss);
}

#[test]
fn a_swallowed_publish_error_loses_claims() {
    assert_is_caught(Bug::PublishErrorSwallowed, Invariant::I1NoLoss);
}

#[test]
fn a_ledger_without_its_key_triggers_a_signal_twice() {
    assert_is_caught(Bug::NoConflictKey, Invariant::I3OneClaim);
}

#[test]
fn a_sweeper_that_does_not_compare_publishes_attempts_too_soon() {
    assert_is_caught(Bug::SweepWithoutCompare, Invariant::I3OneClaim);
}

#[test]
fn a_confirmation_before_the_publish_loses_claims() {
    assert_is_caught(Bug::MarkBeforePublish, Invariant::I1NoLoss);
}

#[test]
fn a_dead_letter_that_is_not_awaited_is_missing() {
    assert_is_caught(Bug::DeadLetterNotAwaited, Invariant::I6Order);
}

#[test]
fn an_unread_partition_that_starts_at_its_end_loses_records() {
    assert_is_caught(Bug::LatestReset, Invariant::I1NoLoss);
}

#[test]
fn a_decision_of_a_former_owner_is_counted_twice() {
    assert_is_caught(Bug::EpochIgnored, Invariant::I5Conservation);
}

#[test]
fn a_loop_that_never_renews_its_lease_publishes_tasks_that_nobody_starts() {
    assert_is_caught(Bug::OldExpires, Invariant::I9InForce);
}

#[test]
fn a_sweeper_that_knows_no_deployments_publishes_what_is_anothers() {
    assert_is_caught(Bug::SweepOfOthers, Invariant::I9InForce);
}

#[test]
fn a_result_of_an_earlier_attempt_frees_the_slot_under_the_later_one() {
    assert_is_caught(Bug::ResultById, Invariant::I2OneInFlight);
}

#[test]
fn a_skip_by_position_asks_for_a_known_signal_again_and_again() {
    assert_is_caught(Bug::SkipByPosition, Invariant::I8Liveness);
}

#[test]
fn a_commit_of_another_service_that_is_ignored_decides_its_records_again() {
    assert_is_caught(Bug::CommittedIgnored, Invariant::I5Conservation);
}
