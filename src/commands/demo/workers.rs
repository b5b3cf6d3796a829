//! The demo's workers: each execution takes 1 to 3 seconds, during which its pipeline is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::memory::MemoryStore;
use crate::tasks::Task;
use crate::tasks::memory::MemoryQueue;

/// How many executions were begun and ended.
#[derive(Debug, Default)]
pub(super) struct Executed {
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
}

pub(super) struct Workers {
    store: MemoryStore,
    queue: MemoryQueue,
    random: StdRng,
    counts: Arc<Executed>,
}

impl Workers {
    pub(super) fn new(store: MemoryStore, queue: MemoryQueue, seed: u64) -> Self {
        Self { store, queue, random: StdRng::seed_from_u64(seed), counts: Arc::default() }
    }

    pub(super) fn counts(&self) -> Arc<Executed> {
        Arc::clone(&self.counts)
    }

    /// Executes tasks until told to stop. What then waits stays in the queue.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                task = self.queue.pop() => {
                    let pipeline_id = pipeline_id(&task)?;
                    self.store.start_execution(task.trigger_id, pipeline_id, None);
                    self.counts.begun.fetch_add(1, Ordering::Relaxed);
                    let takes = Duration::from_millis(self.random.random_range(1_000..=3_000));
                    running.push(async move {
                        tokio::time::sleep(takes).await;
                        (task.trigger_id, pipeline_id)
                    });
                }
                Some((execution_id, pipeline_id)) = running.next() => {
                    self.store.finish_execution(execution_id, pipeline_id);
                    self.counts.ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What the task says, as a Celery worker would read it.
fn pipeline_id(task: &Task) -> anyhow::Result<Uuid> {
    let kwargs: Value = serde_json::from_str(&task.kwargs).context("a task's arguments are not JSON")?;
    kwargs["pipeline_id"].as_str().and_then(|id| id.parse().ok()).context("a task without a pipeline")
}
