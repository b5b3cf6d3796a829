//! The counts that are committed, and what a difference from them means. Pure but for the file itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The same program counts the same within 0.1 %, although the service's hash maps are seeded at random. But a change anywhere in
/// the library may make the compiler inline elsewhere: one of the publishing code has moved the index's count by 3.8 %.
const TOLERANCE: f64 = 0.05;
/// Another compiler, Valgrind or processor changes counts by itself: there only what is gross is held against a change.
const TOLERANCE_OF_OTHERS: f64 = 0.15;

/// What counts hang on beside the code and Cargo.lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tools {
    rustc: String,
    valgrind: String,
    /// Code that looks for vector instructions at run time goes other ways without them.
    processor: String,
}

impl Tools {
    pub(crate) fn here() -> anyhow::Result<Self> {
        let version = |program: &str| -> anyhow::Result<String> {
            let output = Command::new(program).arg("--version").output().with_context(|| format!("{program} does not run"))?;
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        Ok(Self { rustc: version("rustc")?, valgrind: version("valgrind")?, processor: processor() })
    }
}

#[cfg(target_arch = "x86_64")]
fn processor() -> String {
    if std::arch::is_x86_feature_detected!("avx2") { "x86-64 with AVX2" } else { "x86-64 without AVX2" }.to_owned()
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> String {
    std::env::consts::ARCH.to_owned()
}

/// `benches/instructions.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Baseline {
    made_with: Tools,
    /// Instructions per thing.
    instructions: BTreeMap<String, f64>,
}

impl Baseline {
    pub(crate) fn new(made_with: Tools, instructions: BTreeMap<String, f64>) -> Self {
        Self { made_with, instructions }
    }

    pub(crate) fn read(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(&path).with_context(|| path.as_ref().display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>) -> anyhow::Result<()> {
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    pub(crate) fn judge(&self, tools: &Tools, counts: &BTreeMap<String, f64>) -> Judgement {
        let same_tools = self.made_with == *tools;
        let tolerance = if same_tools { TOLERANCE } else { TOLERANCE_OF_OTHERS };
        let names: BTreeSet<&String> = self.instructions.keys().chain(counts.keys()).collect();
        let row = |name: &String| {
            let (old, new) = (self.instructions.get(name).copied(), counts.get(name).copied());
            let word = match (old, new) {
                (Some(old), Some(new)) if new > old * (1.0 + tolerance) => Word::Worse,
                // With other tools there is nothing to update: the next machine would see it the other way round.
                (Some(old), Some(new)) if same_tools && new < old * (1.0 - tolerance) => Word::Better,
                (Some(_), Some(_)) => Word::Same,
                _ => Word::Unknown,
            };
            Row { name: name.clone(), old, new, word }
        };
        let rows = names.into_iter().map(row).collect();
        Judgement { rows, tolerance, other_tools: (!same_tools).then(|| (self.made_with.clone(), tools.clone())) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Same,
    Worse,
    Better,
    /// It stands only in the file, or only in the code.
    Unknown,
}

#[derive(Debug)]
struct Row {
    name: String,
    old: Option<f64>,
    new: Option<f64>,
    word: Word,
}

/// What the counts say.
#[derive(Debug)]
pub(crate) struct Judgement {
    rows: Vec<Row>,
    tolerance: f64,
    other_tools: Option<(Tools, Tools)>,
}

impl Judgement {
    /// Better fails too: with the old count left in the file, all that was won could be lost again unseen.
    pub(crate) fn passes(&self) -> bool {
        self.rows.iter().all(|row| row.word == Word::Same)
    }

    pub(crate) fn table(&self, units: &BTreeMap<String, &str>) -> String {
        let mut table = format!("{:<30} {:>12} {:>12} {:>7}\n", "instructions", "committed", "now", "ratio");
        for Row { name, old, new, word } in &self.rows {
            let unit = units.get(name).copied().unwrap_or("?");
            let count = |count: &Option<f64>| count.map_or("-".to_owned(), |count| format!("{count:.0}"));
            let ratio = old.zip(*new).map_or("-".to_owned(), |(old, new)| format!("{:.3}", new / old));
            let word = match word {
                Word::Same => "",
                Word::Worse => ", WORSE",
                Word::Better => ", better",
                Word::Unknown => ", UNKNOWN",
            };
            // Writing to a String cannot fail.
            writeln!(table, "{name:<30} {:>12} {:>12} {ratio:>7}  a {unit}{word}", count(old), count(new)).ok();
        }
        table
    }

    /// What to do.
    pub(crate) fn conclusions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some((old, new)) = &self.other_tools {
            lines.push(format!(
                "the file was made with other tools, so the tolerance is {:.0} %: {old:?}, here {new:?}",
                self.tolerance * 100.0
            ));
        }
        let has = |word| self.rows.iter().any(|row| row.word == word);
        if has(Word::Worse) {
            lines.push(format!(
                "more than {:.0} % worse. If it is worth it: scripts/bench instructions --update, and say why in the commit",
                self.tolerance * 100.0
            ));
        }
        if has(Word::Better) {
            lines.push(format!(
                "more than {:.0} % better. Keep it so: scripts/bench instructions --update, and commit benches/instructions.json",
                self.tolerance * 100.0
            ));
        }
        if has(Word::Unknown) {
            lines.push("the cases are not those of the file: scripts/bench instructions --update".to_owned());
        }
        lines
    }
}
