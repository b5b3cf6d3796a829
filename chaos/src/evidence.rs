//! The folder of a run: what was sent, what was broken, what workers got, what the instances said. Kept when a run fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::clock;

/// The folder of a run.
#[derive(Debug)]
pub(crate) struct Evidence {
    folder: PathBuf,
    start: Instant,
    faults: Mutex<File>,
    /// Faults that have hit, by name.
    hits: Mutex<BTreeMap<String, u32>>,
    /// Faults that take a while: name, from when, to when.
    moments: Mutex<Vec<(String, f64, f64)>>,
}

impl Evidence {
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        let base = std::env::var_os("CHAOS_EVIDENCE").context("CHAOS_EVIDENCE is not set: run scripts/chaos")?;
        let folder = PathBuf::from(base).join(format!("{name}-{}", clock::unix_ms()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let faults = Mutex::new(File::create(folder.join("faults.jsonl"))?);
        Ok(Self { folder, start: clock::now(), faults, hits: Mutex::default(), moments: Mutex::default() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Seconds since the run began.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub(crate) fn file(&self, name: &str) -> anyhow::Result<File> {
        File::create(self.folder.join(name)).with_context(|| format!("cannot write {name}"))
    }

    /// Notes a fault that was caused, or what came of it.
    pub(crate) fn note(&self, fault: &str, detail: &Value) -> anyhow::Result<()> {
        let line = json!({"second": self.seconds(), "fault": fault, "detail": detail});
        writeln!(self.faults.lock().unwrap_or_else(PoisonError::into_inner), "{line}").context("faults.jsonl")
    }

    /// Counts a fault that has hit.
    pub(crate) fn hit(&self, fault: &str) {
        *self.hits.lock().unwrap_or_else(PoisonError::into_inner).entry(fault.to_owned()).or_default() += 1;
    }

    pub(crate) fn hits(&self) -> BTreeMap<String, u32> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that a fault lasted since `from`, and counts it.
    pub(crate) fn lasted(&self, fault: &str, from: f64) {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).push((fault.to_owned(), from, self.seconds()));
        self.hit(fault);
    }

    /// When a fault lasted, each time.
    pub(crate) fn moments(&self, fault: &str) -> Vec<(f64, f64)> {
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.iter().filter(|(name, ..)| name == fault).map(|(_, from, to)| (*from, *to)).collect()
    }

    /// A run that held needs no evidence.
    pub(crate) fn discard(self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}
