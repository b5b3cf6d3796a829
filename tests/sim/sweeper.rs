//! A sweeper on the twins: the same steps as `src/store/sweep/mod.rs`, each of which may fail, be slow or be the last.

use std::time::Duration;

use trigger_dispatcher::chaos::Bug;
use trigger_dispatcher::tasks::{Publication, TaskQueue as _};

use crate::faults::{Injected, Window};
use crate::seams::{FaultyQueue, Services};

const INTERVAL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an enqueued task may leave no trace of a start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(6);
pub(crate) const MAX_ATTEMPTS: i32 = 3;

pub(crate) struct Sweeper {
    services: Services,
    queue: FaultyQueue,
    /// Whether tasks that never started are published again.
    retries: bool,
}

impl Sweeper {
    pub(crate) fn new(services: &Services, retries: bool) -> Self {
        Self { services: services.clone(), queue: services.queue(), retries }
    }

    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            // A round that fails leaves the rest to the next one, which begins anew.
            self.round().await.ok();
        }
    }

    async fn round(&mut self) -> Result<(), Injected> {
        let Services { store, chaos, lease, .. } = self.services.clone();
        if !chaos.has(Bug::CommitBeforePublish) {
            for publication in chaos.call(async { Ok(store.take_up(PATIENCE, lease)) }).await? {
                chaos.reached(if publication.tasks.is_empty() { Window::Lapsed } else { Window::TakenUp });
                self.publish(publication).await?;
            }
        }
        if self.retries {
            let mut seen = chaos.call(async { Ok(store.unstarted(START_TIMEOUT)) }).await?;
            chaos.delay().await;
            if chaos.has(Bug::SweepWithoutCompare) {
                let ledger = store.ledger();
                for (id, attempt) in &mut seen {
                    *attempt = ledger[id].attempt;
                }
            }
            let retried = chaos.call(async { Ok(store.retry(&seen, lease, MAX_ATTEMPTS)) }).await?;
            retried.failed.iter().for_each(|_| chaos.reached(Window::Failed));
            retried.publication.tasks.iter().for_each(|_| chaos.reached(Window::Retried));
            self.publish(retried.publication).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, publication: Publication) -> Result<(), Injected> {
        if publication.tasks.is_empty() {
            return Ok(());
        }
        self.services.chaos.delay().await;
        self.queue.enqueue(&publication).await?;
        let confirm = async {
            self.services.store.confirm(&[publication.id]);
            Ok(())
        };
        self.services.chaos.call(confirm).await
    }
}
