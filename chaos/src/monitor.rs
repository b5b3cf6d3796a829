//! Looks on while the run goes on: the group's offsets must never be ahead of the store, and memory must stay bounded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::instances::Instances;
use crate::kafka::Topics;
use crate::platform::Platform;

/// What was seen while the run went on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// How often the offsets were compared.
    pub(crate) looks: u64,
    /// Offsets that Kafka had been told before the store knew them.
    pub(crate) ahead: Vec<String>,
    /// The most resident memory of an instance, in MB.
    pub(crate) resident: f64,
}

/// Looks on until it is told to stop.
pub(crate) struct Monitor<'a> {
    pub(crate) topics: &'a Topics,
    pub(crate) platform: &'a Platform,
    pub(crate) instances: &'a Instances,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) watched: Arc<Mutex<Watched>>,
}

impl Monitor<'_> {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let reader = self.topics.reader()?;
        while !self.stop.load(Ordering::Acquire) {
            // Kafka first: what the store says afterwards can only be more.
            let committed = self.topics.committed(&reader);
            let progress = self.platform.connect().and_then(|mut client| {
                Ok(client.query("select partition, coalesce(next_offset, 0) from dispatcher.progress", &[])?)
            });
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            // One of them is down, as planned: nothing to compare.
            if let (Ok(committed), Ok(rows)) = (committed, progress) {
                watched.looks += 1;
                for (partition, committed) in (0..).zip(committed) {
                    let next = rows.iter().find(|row| row.get::<_, i32>(0) == partition).map_or(0, |row| row.get::<_, i64>(1));
                    if committed.is_some_and(|committed| committed > next) {
                        watched
                            .ahead
                            .push(format!("partition {partition}: Kafka was told {committed:?}, the store is at {next}"));
                    }
                }
            }
            for pid in self.instances.pids() {
                watched.resident = watched.resident.max(resident(pid).unwrap_or(0.0));
            }
            drop(watched);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}

/// Resident memory in MB; nothing when the process has just ended.
fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}
