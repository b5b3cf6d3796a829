//! The runs of one arm, as bench/results/ARM.json: written again after each run, so that nothing measured is lost.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::date;
use crate::machine::{load, machine, versions};
use crate::services::Services;

/// Everything that one arm has measured in one go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) arm: String,
    /// Command, machine, versions, date.
    pub(crate) context: Value,
    pub(crate) runs: Vec<Run>,
}

/// One run of one variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The row that it belongs to.
    pub(crate) variant: String,
    /// Which turn it was, from 1 on; runs of one turn saw about the same machine.
    pub(crate) turn: u32,
    pub(crate) at: String,
    pub(crate) load_after: String,
    pub(crate) figures: Value,
}

impl Document {
    /// The variants, in the order in which they were measured first.
    pub(crate) fn variants(&self) -> Vec<&str> {
        let mut variants = Vec::new();
        for run in &self.runs {
            if !variants.contains(&run.variant.as_str()) {
                variants.push(run.variant.as_str());
            }
        }
        variants
    }

    /// A figure of a variant (a JSON pointer), in every turn in which it was measured.
    pub(crate) fn figures(&self, variant: &str, pointer: &str) -> Vec<(u32, f64)> {
        let runs = self.runs.iter().filter(|run| run.variant == variant);
        runs.filter_map(|run| Some((run.turn, run.figures.pointer(pointer)?.as_f64()?))).collect()
    }

    /// Reads what an arm has left; `None` when there is nothing.
    pub(crate) fn read(arm: &str) -> anyhow::Result<Option<Self>> {
        let path = path(arm);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Some(serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?))
    }
}

/// A document that grows.
pub(crate) struct Book {
    pub(crate) document: Document,
    path: PathBuf,
}

impl Book {
    /// Begins the document of an arm anew.
    pub(crate) fn begin(arm: &str, seed: u64, services: &Services) -> anyhow::Result<Self> {
        let mut admin = postgres::Client::connect(services.postgres.as_str(), postgres::NoTls).context("PostgreSQL")?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        let context = json!({
            "command": format!("scripts/bench {}", command.join(" ")),
            "seed": seed,
            "machine": machine(),
            "versions": versions(services, &mut admin)?,
            "began": date().to_string(),
            "load": load(),
        });
        let document = Document { arm: arm.to_owned(), context, runs: Vec::new() };
        let path = path(arm);
        // What is there is of an earlier run; if nothing is measured now, nothing may stand in its place.
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        }
        Ok(Self { document, path })
    }

    /// Adds a run, and writes the document.
    pub(crate) fn add(&mut self, variant: &str, turn: u32, figures: Value) -> anyhow::Result<()> {
        let run = Run { variant: variant.to_owned(), turn, at: date().to_string(), load_after: load(), figures };
        self.document.runs.push(run);
        let folder = self.path.parent().context("a file in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Beside it first: a reader sees the old or the new document, never half of one.
        let beside = self.path.with_extension("json.new");
        fs::write(&beside, serde_json::to_string_pretty(&self.document)? + "\n").context("cannot write the results")?;
        fs::rename(&beside, &self.path).context("cannot write the results")
    }
}

fn path(arm: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(format!("{arm}.json"))
}
