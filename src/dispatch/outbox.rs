//! Takes outbox entries to the broker: one at a time, in their order, while the loop decides the next batch.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chaos::{self, Bug};
use crate::clock;
use crate::retry::{Backoff, Stopped};
use crate::tasks::{Publication, TaskQueue};
use crate::telemetry::Metrics;

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
    under_way: Option<UnderWay<Carrier<Q>, T>>,
    /// Entries that the store knows to be published; the queue is told when it is free.
    settled: Vec<Uuid>,
}

/// With [`Bug::OldExpires`], how much longer a publication may carry the lease of its claim.
const NEVER_OUTDATED: Duration = Duration::from_secs(3_600);

type UnderWay<C, T> = Pin<Box<dyn Future<Output = (C, Result<Left<T>, Stopped>)>>>;

struct Carrier<Q> {
    queue: Q,
    wait: Backoff,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl<Q: TaskQueue + 'static, T: 'static> Outbox<Q, T> {
    pub(super) fn new(queue: Q, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let carrier = Carrier { queue, wait: Backoff::new("enqueue_failed"), stop, metrics };
        Self { carrier: Some(carrier), under_way: None, settled: Vec::new() }
    }

    /// Sends an entry on its way.
    ///
    /// # Panics
    /// Another one is under way: wait for that first.
    pub(super) fn begin(&mut self, entry: Entry<T>) {
        let mut carrier = self.carrier.take().expect("one entry at a time");
        self.settled.drain(..).for_each(|id| carrier.queue.settled(id));
        self.under_way = Some(Box::pin(carrier.carry(entry)));
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
        let (carrier, result) = self.under_way.as_mut()?.await;
        (self.carrier, self.under_way) = (Some(carrier), None);
        Some(result)
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
