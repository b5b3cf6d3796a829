//! What a run has shown: one line, and the table of what hit.
#![expect(clippy::print_stdout, reason = "the answer of the program")]

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::Context as _;
use trigger_dispatcher::chaos::POINTS;

use crate::check::Findings;
use crate::plan::Fault;
use crate::run::Witnesses;
use crate::worker::Seen;

/// Violations that are printed of each invariant; the rest is counted.
const SHOWN: usize = 4;

pub(crate) fn print(witnesses: &Witnesses, findings: &Findings) -> anyhow::Result<()> {
    let verdict = verdict(witnesses, findings);
    let mut lines = details(witnesses, findings);
    lines.push(verdict.clone());
    if !findings.held() {
        lines.push(format!("evidence: {}   database: {}", witnesses.evidence.folder().display(), witnesses.platform.name));
    }
    let text = lines.join("\n");
    std::fs::write(witnesses.evidence.folder().join("report.txt"), &text)?;
    println!("{text}");
    // For scripts/chaos, which repeats the verdicts of all runs at its end.
    if let Some(path) = std::env::var_os("CHAOS_VERDICTS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).context("CHAOS_VERDICTS")?;
        writeln!(file, "{verdict}").context("CHAOS_VERDICTS")?;
    }
    Ok(())
}

/// The one line.
fn verdict(witnesses: &Witnesses, findings: &Findings) -> String {
    let hits = witnesses.evidence.hits();
    let kills: u32 =
        hits.iter().filter(|(fault, _)| *fault == "kill -9" || fault.starts_with("at ")).map(|(_, count)| count).sum();
    format!(
        "{} {}: kills {kills}, signals {}, lost {}, double starts {}, overlaps {}, conservation gap {}, extra messages {} (seed {})",
        witnesses.plan.name,
        if findings.held() { "ok" } else { "FAILED" },
        findings.records,
        findings.lost,
        findings.double_starts,
        findings.overlaps,
        findings.gap,
        findings.extra,
        witnesses.plan.seed
    )
}

fn details(witnesses: &Witnesses, findings: &Findings) -> Vec<String> {
    let hits = witnesses.evidence.hits();
    let mut lines = Vec::new();
    for (fault, count) in &hits {
        lines.push(format!("{count:>6} × {fault}"));
    }
    let missed: Vec<_> = missed(witnesses);
    if !missed.is_empty() {
        lines.push(format!("       NOT HIT: {}", missed.join(", ")));
    }
    let of = || witnesses.deployments.iter();
    let seen = |count: fn(&Seen) -> u64| of().map(|witness| count(&witness.seen)).sum::<u64>();
    let resident = of().map(|witness| witness.watched.resident).fold(0.0, f64::max);
    let dispositions: Vec<_> = findings.dispositions.iter().map(|(name, count)| format!("{name} {count}")).collect();
    lines.push(format!("records: {} = {}", findings.records, dispositions.join(" + ")));
    lines.push(format!(
        "triggers {}, attempts beyond the first {}, messages {}: lost by workers {}, refused {}, expired {}, given out again by a killed Redis {}",
        findings.triggers,
        findings.retries,
        seen(|seen| seen.received.len() as u64),
        seen(|seen| seen.lost),
        seen(|seen| seen.refused),
        seen(|seen| seen.expired),
        findings.rolled_back
    ));
    lines.push(format!(
        "dead letters beyond one a record {}, epochs {}, settled {:.1} s after the last fault, {:.0} MB at most, {} looks at the group's offsets",
        findings.extra_dead_letters,
        findings.epochs,
        witnesses.settled,
        resident,
        of().map(|witness| witness.watched.looks).sum::<u64>()
    ));
    if witnesses.deployments.len() > 1 {
        lines.push(format!(
            "claims of one signal in both deployments {}, messages in another deployment's queue {}",
            findings.in_both, findings.strays
        ));
    }
    for survivor in of().flat_map(|witness| &witness.watched.survivors) {
        lines.push(format!("instance that lived to the end: {survivor}"));
    }
    for (invariant, count) in findings.fired() {
        lines.push(format!("{invariant} VIOLATED {count} times:"));
        let of = findings.violations.iter().filter(|violation| violation.invariant == invariant);
        lines.extend(of.take(SHOWN).map(|violation| format!("    {}", violation.text)));
    }
    lines
}

/// Points that the plan has and that no process died at.
pub(crate) fn missed(witnesses: &Witnesses) -> Vec<&'static str> {
    let hits = witnesses.evidence.hits();
    let planned = |point: &str| {
        witnesses.plan.lanes.iter().flatten().any(|step| matches!(step.fault, Fault::Point(name, _) if name == point))
    };
    POINTS.into_iter().filter(|point| planned(point) && !hits.contains_key(&format!("at {point}"))).collect()
}
