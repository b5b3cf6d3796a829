//! Takes outbox entries to the broker: one at a time, in their order, while the loop decides the next batch.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chaos::{self, Bug};
use crate::clock;
use crate::retry::{Backoff, Stopped};
use crate::tasks::{Publication, TaskQueue};
use crate::telemetry::{Dependency, Metrics};

/// An outbox entry on its way. What follows once the broker has it (`T`) is kept with it and given back then.
pub(super) struct Entry<T> {
    pub(super) publication: Publication,
    /// When the records behind its tasks were written, in milliseconds since 1970, by trigger.
    pub(super) record_times: HashMap<Uuid, i64>,
    pub(super) then: T,
}

/// How an attempt ended.
pub(super) enum Left<T> {
    /// The broker has the tasks.
    Published(T),
    /// The broker did not take the tasks in time: the store has to renew their lease before the next attempt.
    Outdated(Entry<T>),
}

/// Takes outbox entries to the broker.
pub(super) struct Outbox<Q, T> {
    /// There while nothing is under way.
    carrier: Option<Carrier<Q>>,
    under_way: Option<UnderWay<Q, T>>,
    /// Entries that the store knows to be published; the queue is told when it is free.
    settled: Vec<Uuid>,
}

/// With [`Bug::OldExpires`], how much longer a publication may carry the lease of its claim.
const NEVER_OUTDATED: Duration = Duration::from_secs(3_600);

/// How often the store hears that an entry is still ours: more than twice within the sweepers' patience. An attempt may take
/// longer than that, and the sweepers would send the same tasks.
const HOLD_EVERY: Duration = Duration::from_secs(4);

struct UnderWay<Q, T> {
    publication: Uuid,
    hold_at: Instant,
    attempt: Attempt<Carrier<Q>, T>,
}

type Attempt<C, T> = Pin<Box<dyn Future<Output = (C, Result<Left<T>, Stopped>)>>>;

struct Carrier<Q> {
    queue: Q,
    wait: Backoff,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl<Q: TaskQueue + 'static, T: 'static> Outbox<Q, T> {
    pub(super) fn new(queue: Q, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let carrier =
            Carrier { queue, wait: Backoff::new("enqueue_failed").watched(&metrics, Dependency::broker), stop, metrics };
        Self { carrier: Some(carrier), under_way: None, settled: Vec::new() }
    }

    /// Sends an entry on its way.
    ///
    /// # Panics
    /// Another one is under way: wait for that first.
    pub(super) fn begin(&mut self, entry: Entry<T>) {
        let mut carrier = self.carrier.take().expect("one entry at a time");
        self.settled.drain(..).for_each(|id| carrier.queue.settled(id));
        let (publication, hold_at) = (entry.publication.id, clock::timer() + HOLD_EVERY);
        self.under_way = Some(UnderWay { publication, hold_at, attempt: Box::pin(carrier.carry(entry)) });
    }

    /// When the store has to hear that the entry under way is still ours; never if none is.
    pub(super) fn hold_at(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|under_way| under_way.hold_at)
    }

    /// The entry under way, of which the store hears now.
    pub(super) fn hold(&mut self) -> Option<Uuid> {
        let under_way = self.under_way.as_mut()?;
        under_way.hold_at = clock::timer() + HOLD_EVERY;
        Some(under_way.publication)
    }

    /// The store knows that these entries are published.
    pub(super) fn settled(&mut self, entries: Vec<Uuid>) {
        self.settled.extend(entries);
    }

    /// Waits until what is under way has left; `None` if nothing is. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// Stopped while the broker did not take it.
    pub(super) async fn left(&mut self) -> Option<Result<Left<T>, Stopped>> {
        let (carrier, result) = (&mut self.under_way.as_mut()?.attempt).await;
        (self.carrier, self.under_way) = (Some(carrier), None);
        Some(result)
    }

    /// Does something else meanwhile. What is under way may have left by then.
    pub(super) async fn beside<O>(&mut self, work: impl Future<Output = O>) -> (Option<Result<Left<T>, Stopped>>, O) {
        let (mut work, mut left) = (pin!(work), None);
        loop {
            tokio::select! {
                biased;
                Some(now) = self.left(), if left.is_none() => left = Some(now),
                done = &mut work => return (left, done),
            }
        }
    }
}

impl<Q: TaskQueue> Carrier<Q> {
    async fn carry<T>(mut self, entry: Entry<T>) -> (Self, Result<Left<T>, Stopped>) {
        let result = self.publish(entry).await;
        (self, result)
    }

    async fn publish<T>(&mut self, mut entry: Entry<T>) -> Result<Left<T>, Stopped> {
        if chaos::bug(Bug::OldExpires) {
            entry.publication.publish_by += NEVER_OUTDATED;
        }
        let publication = &entry.publication;
        // Nothing to send: only the order counts.
        if publication.tasks.is_empty() {
            return Ok(Left::Published(entry.then));
        }
        chaos::point("before_publish");
        loop {
            if clock::timer() >= publication.publish_by {
                return Ok(Left::Outdated(entry));
            }
            match self.queue.enqueue(publication).await {
                Err(error) if !chaos::bug(Bug::PublishErrorSwallowed) => {
                    let pause = self.wait.failed(&error);
                    if self.stop.is_cancelled() || tokio::time::timeout(pause, self.stop.cancelled()).await.is_ok() {
                        return Err(Stopped);
                    }
                }
                _ => break,
            }
        }
        self.wait.recovered();
        // Here, not by whoever waits for it, who may be busy.
        self.metrics.enqueued(publication.tasks.iter().filter_map(|task| entry.record_times.get(&task.trigger_id).copied()));
        chaos::point("after_publish");
        Ok(Left::Published(entry.then))
    }
}
