//! The verdict: invariants I1 to I9, from outside evidence only.
//!
//! I1 nothing lost · I2 one in flight · I3 one claim, one start, one message · I4 an idle pipeline is triggered · I5 the sums
//! agree · I6 the order of durability · I7 nothing runs that should not · I8 it settles, in bounded memory · I9 logs are clean.

mod claims;
mod logs;
mod reasons;
mod records;
mod slots;
mod tasks;
mod world;

use std::collections::BTreeMap;

use crate::resources::Survivor;
use crate::run::{Witness, Witnesses};

use self::slots::Slots;
use self::world::World;

/// Something that must not be.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) text: String,
}

/// The verdict of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    pub(crate) records: u64,
    pub(crate) triggers: u64,
    pub(crate) lost: u64,
    pub(crate) double_starts: u64,
    pub(crate) overlaps: u64,
    pub(crate) gap: u64,
    /// Messages beyond one for each attempt.
    pub(crate) extra: u64,
    /// Messages that came again because Redis was killed and had forgotten that they were taken.
    pub(crate) rolled_back: u64,
    /// Attempts beyond the first.
    pub(crate) retries: u64,
    /// Dead letters beyond one for each bad record.
    pub(crate) extra_dead_letters: u64,
    /// How often a partition changed hands.
    pub(crate) epochs: u64,
    /// Claims of a (slot, signal) that another deployment claimed too.
    pub(crate) in_both: u64,
    /// Messages in the queue of another deployment.
    pub(crate) strays: u64,
    /// What became of the records.
    pub(crate) dispositions: BTreeMap<&'static str, i64>,
}

impl Findings {
    pub(crate) fn held(&self) -> bool {
        self.violations.is_empty()
    }

    fn violated(&mut self, invariant: &'static str, text: impl Into<String>) {
        self.violations.push(Violation { invariant, text: text.into() });
    }

    /// Adds what was found of one deployment of several.
    fn add(&mut self, name: &str, part: Self) {
        for Violation { invariant, text } in part.violations {
            self.violated(invariant, format!("{name}: {text}"));
        }
        self.records += part.records;
        self.triggers += part.triggers;
        self.lost += part.lost;
        self.double_starts += part.double_starts;
        self.overlaps += part.overlaps;
        self.gap += part.gap;
        self.extra += part.extra;
        self.rolled_back += part.rolled_back;
        self.retries += part.retries;
        self.extra_dead_letters += part.extra_dead_letters;
        self.epochs += part.epochs;
        self.in_both += part.in_both;
        self.strays += part.strays;
        for (name, count) in part.dispositions {
            *self.dispositions.entry(name).or_default() += count;
        }
    }

    /// The invariants that were violated, each with how often.
    pub(crate) fn fired(&self) -> BTreeMap<&'static str, usize> {
        let mut fired = BTreeMap::new();
        for violation in &self.violations {
            *fired.entry(violation.invariant).or_default() += 1;
        }
        fired
    }
}

/// One deployment, and all that there is to check it with.
struct Case<'a> {
    all: &'a Witnesses,
    witness: &'a Witness,
    world: &'a World,
    slots: &'a Slots<'a>,
}

/// Checks everything.
pub(crate) fn check(witnesses: &Witnesses) -> anyhow::Result<Findings> {
    let worlds = witnesses.deployments.iter().map(|witness| World::load(&witnesses.platform, &witness.topics));
    let worlds = worlds.collect::<anyhow::Result<Vec<_>>>()?;
    let slots = Slots::load(&witnesses.platform, &worlds)?;
    let mut findings = Findings::default();
    for (witness, world) in witnesses.deployments.iter().zip(&worlds) {
        findings.add(&witness.topics.signals, check_deployment(&Case { all: witnesses, witness, world, slots: &slots })?);
    }
    claims::one_in_flight(&slots, &mut findings);
    tasks::overlaps(witnesses, &mut findings);
    slots::in_both(&worlds, &mut findings);
    logs::check(witnesses, &worlds, &mut findings)?;
    if let Some(unsettled) = &witnesses.unsettled {
        findings.violated("I8", format!("not settled {} s after the last fault: {unsettled}", witnesses.plan.settle.as_secs()));
    }
    for point in crate::report::missed(witnesses) {
        findings.violated("coverage", format!("no process died at {point}: the run proves nothing about it"));
    }
    Ok(findings)
}

fn check_deployment(case: &Case<'_>) -> anyhow::Result<Findings> {
    let Case { all, witness, world, .. } = case;
    let mut findings =
        Findings { records: world.records.len() as u64, triggers: world.triggers.len() as u64, ..Findings::default() };
    records::check(case, &mut findings)?;
    claims::check(case, &mut findings);
    tasks::check(case, &mut findings);
    let grown = |survivor: &&Survivor| survivor.end.has_grown_since(survivor.start, all.plan.arm);
    for survivor in witness.watched.survivors.iter().filter(grown) {
        findings.violated("I8", format!("an instance holds more than soon after its start: {survivor}"));
    }
    if witness.watched.resident > MAX_RESIDENT_MB {
        findings.violated("I8", format!("an instance took {:.0} MB", witness.watched.resident));
    }
    anyhow::ensure!(witness.watched.looks > 0, "the group's offsets were never compared: this run proves nothing about I6");
    Ok(findings)
}

const MAX_RESIDENT_MB: f64 = 256.0;
