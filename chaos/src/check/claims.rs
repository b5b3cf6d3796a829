//! One in flight (I2), one claim (I3), and a claim wherever a pipeline was idle (I4).

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::check::reasons::Reasons;
use crate::check::slots::Slots;
use crate::check::world::{Move, World};
use crate::check::{Case, Findings};
use crate::deployment::START_TIMEOUT;
use crate::signals::Kind;

pub(super) fn check(case: &Case<'_>, findings: &mut Findings) {
    one_claim(case, findings);
    retries(case.world, findings);
    completeness(case, findings);
}

/// No claim between another's claim and the end of its execution, whichever deployments made them. A claim that was written before
/// that end cannot have seen it.
pub(super) fn one_in_flight(slots: &Slots<'_>, findings: &mut Findings) {
    for triggers in slots.by_pipeline.values() {
        for (position, trigger) in triggers.iter().enumerate() {
            let Some((_, end)) = slots.runs.get(&trigger.id) else { continue };
            let end = end.unwrap_or(i64::MAX);
            for later in
                triggers[position + 1..].iter().take_while(|later| later.claimed < end).filter(|later| later.written < end)
            {
                findings.overlaps += 1;
                findings.violated("I2", format!("{} was claimed while {} was in flight", later.id, trigger.id));
            }
        }
    }
}

fn one_claim(case: &Case<'_>, findings: &mut Findings) {
    let Case { world, slots, .. } = case;
    let mut known: HashMap<(Uuid, &str, &str), Uuid> = HashMap::new();
    for trigger in &world.triggers {
        if let Some(first) = known.insert((trigger.pipeline, &trigger.ticker, &trigger.signal_id), trigger.id) {
            findings.violated("I3", format!("{first} and {} are claims of the same slot for the same signal", trigger.id));
            if slots.runs.contains_key(&first) && slots.runs.contains_key(&trigger.id) {
                findings.double_starts += 1;
            }
        }
    }
}

/// A trigger is published again only after it had its time to start.
fn retries(world: &World, findings: &mut Findings) {
    let patience = i64::try_from(START_TIMEOUT.as_micros()).unwrap_or(i64::MAX);
    let mut last: HashMap<Uuid, (i32, i64)> = HashMap::new();
    for (trigger, attempt, at) in &world.attempts {
        let (known, since) = *last.entry(*trigger).or_insert((*attempt, *at));
        if *attempt == known {
            continue;
        }
        findings.retries += 1;
        if *attempt != known + 1 || at - since < patience {
            let seconds = (at - since) as f64 / 1e6;
            findings.violated("I3", format!("{trigger} went from attempt {known} to {attempt} after {seconds:.3} s"));
        }
        last.insert(*trigger, (*attempt, *at));
    }
}

/// For each record and each pipeline that it concerns: a claim in its batch, or a reason against it. Another deployment's claim is a
/// reason while it holds the slot, and none once it is over.
fn completeness(case: &Case<'_>, findings: &mut Findings) {
    let Case { all: witnesses, world, slots, .. } = case;
    let mut reasons: HashMap<Uuid, Reasons> = HashMap::new();
    for (pipeline, triggers) in &slots.by_pipeline {
        let reasons = reasons.entry(*pipeline).or_default();
        for trigger in triggers {
            reasons.add(trigger.claimed, slots.held_until(trigger));
        }
    }
    let claimed: HashSet<(Uuid, &str)> =
        world.triggers.iter().map(|trigger| (trigger.pipeline, trigger.signal_id.as_str())).collect();
    for (place @ (partition, offset), number) in &world.records {
        let Kind::Signal { origin, tickers } = witnesses.signals.kind(*number) else { continue };
        // A record that was never decided is I1's.
        let Some(moved) = world.moves.get(partition).and_then(|moves| decision(moves, *offset)) else { continue };
        let id = witnesses.signals.signal_id(origin);
        for pipeline in witnesses.platform.watchers(&tickers) {
            let known = id.as_deref().is_some_and(|id| claimed.contains(&(pipeline, id)));
            let taken = reasons.get(&pipeline).is_some_and(|reasons| reasons.explain(moved.decided, moved.written));
            if !known && !taken {
                findings.violated("I4", format!("record {number} at {place:?} found {pipeline} idle and did not trigger it"));
            }
        }
    }
}

/// The move that decided a record.
fn decision(moves: &[Move], offset: i64) -> Option<Move> {
    let position = moves.partition_point(|moved| moved.next_offset.is_none_or(|next| next <= offset));
    moves.get(position).copied()
}
