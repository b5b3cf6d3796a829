//! Counts the instructions of each stage that does no IO, and compares them with those in `benches/instructions.json`:
//! `scripts/bench instructions [--update]`.
//!
//! A count, unlike a time, is the same on a busy machine; so a change that costs a few percent is seen before it is merged.
//! Each case runs in a process of its own under Valgrind's callgrind, so that no case hangs on what ran before it.
#![allow(clippy::print_stdout, reason = "a table for people")]

mod baseline;
mod cases;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::baseline::{Baseline, Tools};
use crate::cases::{CASES, COUNTED, Case};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    match words[..] {
        ["--case", name] => {
            let case = CASES.iter().find(|case| case.name == name).with_context(|| format!("no case {name}"))?;
            println!("{}", case.run());
            Ok(ExitCode::SUCCESS)
        }
        [] => check(),
        ["--update"] => update(),
        _ => bail!("usage: instructions [--update]"),
    }
}

/// Counts all, and fails if any is off.
fn check() -> anyhow::Result<ExitCode> {
    let baseline = Baseline::read(FILE)?;
    let tools = Tools::here()?;
    let counts = count_all()?;
    let judgement = baseline.judge(&tools, &counts);
    print!("{}", judgement.table(&units()));
    for line in judgement.conclusions() {
        println!("{line}");
    }
    Ok(if judgement.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn update() -> anyhow::Result<ExitCode> {
    let tools = Tools::here()?;
    let counts = count_all()?;
    if let Ok(old) = Baseline::read(FILE) {
        print!("{}", old.judge(&tools, &counts).table(&units()));
    }
    Baseline::new(tools, counts).write(FILE)?;
    println!("written: benches/instructions.json");
    Ok(ExitCode::SUCCESS)
}

/// Instructions by case, per thing.
fn count_all() -> anyhow::Result<BTreeMap<String, f64>> {
    let folder = tempfile::tempdir()?;
    CASES.iter().map(|case| Ok((case.name.to_owned(), count(case, folder.path())?))).collect()
}

/// What the things of a case are.
fn units() -> BTreeMap<String, &'static str> {
    CASES.iter().map(|case| (case.name.to_owned(), case.unit)).collect()
}

fn count(case: &Case, folder: &Path) -> anyhow::Result<f64> {
    let out = folder.join(case.name);
    let output = Command::new("valgrind")
        // What stands in the environment moves the stack, and hash maps are seeded by its address.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["--case", case.name])
        .output()
        .context("valgrind does not run: scripts/bench instructions installs it")?;
    if !output.status.success() {
        bail!("{}: {}\n{}", case.name, output.status, String::from_utf8_lossy(&output.stderr));
    }
    let things: u32 = String::from_utf8(output.stdout)?.trim().parse().context("the case did not say how much it did")?;
    let text = std::fs::read_to_string(&out)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:")).context("callgrind gave no total")?;
    let total: f64 = total.trim().parse()?;
    // A name that Valgrind does not find is no error to it.
    if total < 1.0 || things == 0 {
        bail!("{}: nothing was counted", case.name);
    }
    Ok((total / f64::from(things)).round())
}
