//! A sweeper on the in-memory stores: the same steps as `src/store/sweep/mod.rs`, each of which may fail, be slow or be the last.

use std::sync::PoisonError;
use std::time::Duration;

use trigger_dispatcher::chaos::Bug;
use trigger_dispatcher::store::TakenUp;
use trigger_dispatcher::store::memory::MemoryTerms;
use trigger_dispatcher::tasks::{Publication, TaskQueue as _};
use uuid::Uuid;

use crate::faults::{Injected, Window};
use crate::seams::{FaultyQueue, Outcome, Services};

const INTERVAL: Duration = Duration::from_secs(2);
/// How long an enqueued task may leave no trace of a start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(6);
pub(crate) const MAX_ATTEMPTS: i32 = 3;

pub(crate) struct Sweeper {
    services: Services,
    queue: FaultyQueue,
    /// Whether tasks that never started are published again.
    retries: bool,
    /// How many deployments there are: the sweeper with a planted bug takes up what is of any.
    deployments: i32,
}

impl Sweeper {
    pub(crate) fn new(services: &Services, retries: bool, deployments: i32) -> Self {
        Self { services: services.clone(), queue: services.queue(), retries, deployments }
    }

    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            // A round that fails leaves the rest to the next one, which begins anew.
            self.round().await.ok();
        }
    }

    async fn round(&mut self) -> Result<(), Injected> {
        let Services { store, chaos, terms, .. } = self.services.clone();
        if !chaos.has(Bug::CommitBeforePublish) {
            let taken = chaos.call(async { Ok(self.whose().iter().flat_map(|terms| store.take_up(terms)).collect::<Vec<_>>()) });
            for TakenUp { publication, stale, is_started, .. } in taken.await? {
                let is_lapsed = publication.tasks.is_empty() && stale.is_empty() && !is_started;
                chaos.reached(if is_lapsed { Window::Lapsed } else { Window::TakenUp });
                if !stale.is_empty() {
                    self.leave_stale(&publication, &stale).await?;
                }
                self.publish(publication).await?;
            }
        }
        self.release().await?;
        if self.retries {
            let mut seen = chaos.call(async { Ok(store.unstarted(&terms, START_TIMEOUT)) }).await?;
            chaos.delay().await;
            if chaos.has(Bug::SweepWithoutCompare) {
                let ledger = store.ledger();
                for (id, attempt) in &mut seen {
                    *attempt = ledger[id].attempt;
                }
            }
            let retried = chaos.call(async { Ok(store.retry(&terms, &seen, MAX_ATTEMPTS)) }).await?;
            retried.failed.iter().for_each(|_| chaos.reached(Window::Failed));
            retried.publication.tasks.iter().for_each(|_| chaos.reached(Window::Retried));
            self.publish(retried.publication).await?;
        }
        Ok(())
    }

    /// Whose entries are taken up.
    fn whose(&self) -> Vec<MemoryTerms> {
        let mine = self.services.terms;
        if self.services.chaos.has(Bug::SweepOfOthers) {
            return (1..=self.deployments).map(|deployment| MemoryTerms { deployment, ..mine }).collect();
        }
        vec![mine]
    }

    async fn leave_stale(&mut self, entry: &Publication, stale: &[Uuid]) -> Result<(), Injected> {
        let is_last = entry.tasks.is_empty();
        let Services { store, chaos, .. } = self.services.clone();
        match self.queue.has(entry.id).await? {
            Some(true) if is_last => {
                let confirm = async {
                    store.confirm(&[entry.id]);
                    Ok(())
                };
                chaos.call(confirm).await
            }
            Some(true) => Ok(()),
            has => {
                let give_up = async {
                    store.give_up(entry.id, stale, has == Some(false), is_last);
                    Ok(())
                };
                chaos.reached(Window::Stale);
                chaos.call(give_up).await
            }
        }
    }

    /// Frees slots whose task is over by its result.
    async fn release(&self) -> Result<(), Injected> {
        let Services { store, chaos, results, .. } = &self.services;
        let results = results.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |kind| results.iter().filter(|(_, result)| **result == kind).map(|(id, _)| *id).collect::<Vec<_>>();
        let (ended, revoked) = (of(Outcome::Ended), of(Outcome::Revoked));
        let release = async {
            for id in ended.iter().chain(&revoked) {
                let is_revoked = revoked.contains(id);
                let freed = if chaos.has(Bug::ResultById) {
                    store.release_by_id(*id)
                } else {
                    store.release(
                        if is_revoked { &[] } else { std::slice::from_ref(id) },
                        if is_revoked { std::slice::from_ref(id) } else { &[] },
                    )
                };
                match freed {
                    1 => chaos.reached(Window::Released),
                    _ if store.holds_slot(*id) => chaos.reached(Window::NotReleased),
                    _ => {}
                }
            }
            Ok(())
        };
        chaos.call(release).await
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
