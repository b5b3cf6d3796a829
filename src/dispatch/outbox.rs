//! What leaves: one publication at a time, in their order, while the loop decides the next batch.

use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::chaos::{self, Bug};
use crate::retry::{Backoff, Stopped, until_done};
use crate::tasks::{Publication, TaskQueue};
use crate::telemetry::Metrics;

/// Takes publications to the broker. What follows once the broker has one (`T`) is kept with it and given back then.
pub(super) struct Outbox<Q, T> {
    /// There while nothing is under way.
    carrier: Option<Carrier<Q>>,
    under_way: Option<UnderWay<Carrier<Q>, T>>,
}

type UnderWay<C, T> = Pin<Box<dyn Future<Output = (C, Result<T, Stopped>)>>>;

struct Carrier<Q> {
    queue: Q,
    wait: Backoff,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl<Q: TaskQueue + 'static, T: 'static> Outbox<Q, T> {
    pub(super) fn new(queue: Q, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        let carrier = Carrier { queue, wait: Backoff::new("enqueue_failed"), stop, metrics };
        Self { carrier: Some(carrier), under_way: None }
    }

    /// Sends a publication on its way. `leads` are the times of the records behind its tasks.
    ///
    /// # Panics
    /// Another one is under way: wait for that first.
    pub(super) fn begin(&mut self, publication: Publication, leads: Vec<i64>, then: T) {
        let carrier = self.carrier.take().expect("one publication at a time");
        self.under_way = Some(Box::pin(carrier.carry(publication, leads, then)));
    }

    /// Waits until what is under way has left; `None` if nothing is. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// Stopped while the broker did not take it.
    pub(super) async fn left(&mut self) -> Option<Result<T, Stopped>> {
        let (carrier, result) = self.under_way.as_mut()?.await;
        (self.carrier, self.under_way) = (Some(carrier), None);
        Some(result)
    }
}

impl<Q: TaskQueue> Carrier<Q> {
    async fn carry<T>(mut self, publication: Publication, leads: Vec<i64>, then: T) -> (Self, Result<T, Stopped>) {
        // Nothing to send: only the order counts.
        if publication.tasks.is_empty() {
            return (self, Ok(then));
        }
        chaos::point("before_publish");
        let Self { queue, wait, stop, metrics } = &mut self;
        let swallow = chaos::bug(Bug::PublishErrorSwallowed);
        let publish = async || match queue.enqueue(&publication).await {
            Err(_) if swallow => Ok(()),
            result => result,
        };
        let done = until_done(wait, stop, publish).await;
        if done.is_ok() {
            // Here, not by whoever waits for it, who may be busy.
            metrics.enqueued(leads.into_iter());
            chaos::point("after_publish");
        }
        (self, done.map(|()| then))
    }
}
