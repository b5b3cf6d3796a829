//! Every record is decided once, for a reason that adds up (I1, I5), and nothing moves on before it is safe (I6).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::check::world::{DISPOSITIONS, World, digest};
use crate::check::{Case, Findings};
use crate::run::Witnesses;
use crate::signals::Kind;

pub(super) fn check(case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let Case { all: witnesses, witness, world, .. } = case;
    for (place, number) in &witness.ledger {
        // What Kafka itself lost is not the dispatcher's: such a run says nothing.
        anyhow::ensure!(
            world.records.get(place) == Some(number),
            "Kafka acknowledged record {number} at {place:?} and does not have it"
        );
    }
    let expected = expected(witnesses, world);
    for (partition, expected) in &expected {
        let none = BTreeMap::new();
        let counted = world.progress.get(partition).unwrap_or(&none);
        let count = |name: &str| counted.get(name).copied().unwrap_or(0);
        let consumed = count("consumed");
        let records = expected.get("records").copied().unwrap_or(0);
        if consumed < records {
            findings.lost += (records - consumed).unsigned_abs();
            findings.violated("I1", format!("partition {partition}: {consumed} of {records} records were decided"));
        }
        if consumed > records {
            findings.violated("I5", format!("partition {partition}: {consumed} records were decided, there are {records}"));
        }
        let sum: i64 = DISPOSITIONS.iter().map(|name| count(name)).sum();
        findings.gap += (consumed - sum).unsigned_abs() + (consumed - records).unsigned_abs();
        if sum != consumed {
            findings.violated("I5", format!("partition {partition}: {consumed} consumed, and the reasons add up to {sum}"));
        }
        for name in ["triggered", "unmatched", "stale", "invalid"] {
            let wanted = expected.get(name).copied().unwrap_or(0);
            if count(name) != wanted {
                findings.gap += (count(name) - wanted).unsigned_abs();
                findings.violated("I5", format!("partition {partition}: {} counted as {name}, there are {wanted}", count(name)));
            }
        }
    }
    for counts in world.progress.values() {
        for name in DISPOSITIONS {
            *findings.dispositions.entry(name).or_default() += counts.get(name).copied().unwrap_or(0);
        }
    }
    moves(world, findings);
    dead_letters(witnesses, world, findings);
    for text in &witness.watched.ahead {
        findings.violated("I6", text.clone());
    }
    Ok(())
}

/// What the records themselves and the ledger say, by partition.
fn expected(witnesses: &Witnesses, world: &World) -> BTreeMap<i32, BTreeMap<&'static str, i64>> {
    let mut expected: BTreeMap<i32, BTreeMap<&'static str, i64>> = BTreeMap::new();
    for ((partition, _), number) in &world.records {
        let counts = expected.entry(*partition).or_default();
        *counts.entry("records").or_default() += 1;
        let name = match witnesses.signals.kind(*number) {
            Kind::Bad(_) => "invalid",
            Kind::Stale => "stale",
            Kind::Signal { tickers, .. } if witnesses.platform.watchers(&tickers).is_empty() => "unmatched",
            Kind::Signal { .. } => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
    let triggering: BTreeSet<_> = world.triggers.iter().map(|trigger| (trigger.partition, trigger.offset)).collect();
    for (partition, _) in triggering {
        *expected.entry(partition).or_default().entry("triggered").or_default() += 1;
    }
    expected
}

/// Progress and epochs only ever grow.
fn moves(world: &World, findings: &mut Findings) {
    for (partition, moves) in &world.moves {
        for pair in moves.windows(2) {
            if pair[1].next_offset < pair[0].next_offset || pair[1].epoch < pair[0].epoch {
                findings.violated("I6", format!("partition {partition} went back: {:?} to {:?}", pair[0], pair[1]));
            }
        }
        findings.epochs += moves.last().map_or(0, |last| last.epoch.unsigned_abs());
    }
}

fn dead_letters(witnesses: &Witnesses, world: &World, findings: &mut Findings) {
    let mut found: HashMap<(i32, i64), u64> = HashMap::new();
    for letter in &world.dead_letters {
        let header = |name: &str| letter.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let place = header("dead-letter-partition")
            .and_then(|partition| partition.parse().ok())
            .zip(header("dead-letter-offset").and_then(|offset| offset.parse().ok()));
        let kind = place.and_then(|place| world.records.get(&place)).map(|number| (*number, witnesses.signals.kind(*number)));
        let (Some(place), Some((number, Kind::Bad(_)))) = (place, kind) else {
            findings
                .violated("I7", format!("the dead letter {}:{} is of no bad record: {place:?}", letter.partition, letter.offset));
            continue;
        };
        if letter.digest != digest(witnesses.signals.payload(number).as_deref()) {
            findings.violated("I6", format!("the dead letter of {place:?} has other bytes than its record"));
        }
        *found.entry(place).or_default() += 1;
    }
    for (place, number) in &world.records {
        if matches!(witnesses.signals.kind(*number), Kind::Bad(_)) && !found.contains_key(place) {
            let next = world.moves.get(&place.0).and_then(|moves| moves.last()?.next_offset);
            if next > Some(place.1) {
                findings.lost += 1;
                findings.violated("I6", format!("the bad record {place:?} was passed, and there is no dead letter of it"));
            }
        }
    }
    findings.extra_dead_letters = found.values().map(|count| count - 1).sum();
}
