//! Looks on while the run goes on: the group's offsets must never be ahead of the store, and memory must stay bounded.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::deployment::Deployment;
use crate::instances::Instances;
use crate::platform::Platform;
use crate::resources::{Resources, Survivor};

/// What was seen of a deployment while the run went on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// How often the offsets were compared.
    pub(crate) looks: u64,
    /// Offsets that Kafka had been told before the store knew them.
    pub(crate) ahead: Vec<String>,
    /// The most resident memory of an instance, in MB.
    pub(crate) resident: f64,
    /// How old each process was when it had Kafka's clients.
    ready: HashMap<u32, Duration>,
    /// What each process held soon after that.
    starts: HashMap<u32, Resources>,
    /// The processes that lived to the end.
    pub(crate) survivors: Vec<Survivor>,
}

/// How long a process with Kafka's clients takes to make its buffers.
const WARM: Duration = Duration::from_secs(5);
/// Threads of a process that has Kafka's clients. One with fewer still waits for the store, however old it is.
const READY_THREADS: u64 = 10;

impl Watched {
    fn look(&mut self, instances: &Instances) {
        for (pid, age) in instances.ages() {
            let Some(now) = Resources::of(pid) else { continue };
            self.resident = self.resident.max(now.memory);
            if now.threads >= READY_THREADS && age >= *self.ready.entry(pid).or_insert(age) + WARM {
                self.starts.entry(pid).or_insert(now);
            }
        }
    }

    /// All is quiet: what do those hold that are old enough to compare?
    pub(crate) fn finish(&mut self, instances: &Instances) {
        let survivor = |(pid, age): (u32, Duration)| {
            Some(Survivor { start: *self.starts.get(&pid)?, end: Resources::of(pid)?, age: age.as_secs_f64() })
        };
        self.survivors = instances.ages().into_iter().filter_map(survivor).collect();
    }
}

/// Looks at one deployment until it is told to stop.
pub(crate) struct Monitor<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) platform: &'a Platform,
    pub(crate) stop: &'a AtomicBool,
}

impl Monitor<'_> {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let Deployment { topics, instances, watched, .. } = self.deployment;
        let reader = topics.reader()?;
        while !self.stop.load(Ordering::Acquire) {
            // Kafka first: what the store says afterwards can only be more.
            let committed = topics.committed(&reader);
            let progress = self.platform.connect().and_then(|mut client| topics.progress(&mut client));
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            // One of them is down, as planned: nothing to compare.
            if let (Ok(committed), Ok(progress)) = (committed, progress) {
                watched.looks += 1;
                for (partition, committed) in (0..).zip(committed) {
                    let next = progress.get(&partition).copied().unwrap_or(0);
                    if committed.is_some_and(|committed| committed > next) {
                        watched
                            .ahead
                            .push(format!("partition {partition}: Kafka was told {committed:?}, the store is at {next}"));
                    }
                }
            }
            watched.look(instances);
            drop(watched);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}
