//! What the loop gets from the intake thread, in which order, and when.

use std::sync::atomic::Ordering;

use rdkafka::consumer::Consumer as _;
use tokio::sync::mpsc::error::TrySendError;

use super::IntakeThread;
use crate::clock;
use crate::intake::{Arrival, Due};

impl IntakeThread {
    /// Gives the loop what it waits for.
    pub(super) fn hand_over(&mut self) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        let now = clock::now();
        if let Some(partitions) = self.assignment.unannounced(now) {
            if self.send(Arrival::Assigned(partitions)).is_none() {
                self.assignment.announced();
            }
            return;
        }
        if let Some(positions) = self.assignment.unstored() {
            if self.send(Arrival::Positioned(positions)).is_none() {
                self.assignment.handed_over();
            }
            return;
        }
        if self.pending.is_empty() && self.watch.is_stalled(self.consumer.consumer(), &self.topic, self.assignment.reading(), now)
        {
            tracing::error!(
                event = "intake_stalled",
                text = "Kafka answers, and neither records nor partitions come from it; leaving, to be started again"
            );
            self.send(Arrival::Stalled);
            return;
        }
        if self.is_fenced {
            tracing::error!(
                event = "group_instance_fenced",
                text = "another process has taken our place in the consumer group: two have the same KAFKA_GROUP_INSTANCE_ID (or the same \
                    pod's name); give each instance its own"
            );
            self.send(Arrival::Fenced);
            return;
        }
        let Some(oldest) = self.pending.oldest else { return };
        if self.policy.due(self.pending.records(), oldest, now) != Due::Now {
            return;
        }
        let next = self.spare.take().unwrap_or_else(|| self.pending.successor());
        let batch = std::mem::replace(&mut self.pending, next);
        match self.send(Arrival::Batch(batch)) {
            None => {
                self.policy.spend(now);
                self.full_since = None;
                if self.paused {
                    self.resume();
                }
            }
            Some(Arrival::Batch(batch)) => self.spare = Some(std::mem::replace(&mut self.pending, batch)),
            Some(_) => {}
        }
    }

    /// Sends, or gives back what the loop had no room for.
    fn send(&mut self, arrival: Arrival) -> Option<Arrival> {
        // Cleared first: the loop may have taken the arrival and want the next one before we go on.
        self.wanted.store(false, Ordering::Release);
        match self.arrivals.try_send(arrival) {
            Ok(()) => None,
            Err(TrySendError::Full(arrival) | TrySendError::Closed(arrival)) => {
                self.wanted.store(true, Ordering::Release);
                Some(arrival)
            }
        }
    }

    fn resume(&mut self) {
        let consumer = self.consumer.consumer();
        let resumed = consumer.assignment().and_then(|list| consumer.resume(&list));
        match resumed {
            Ok(()) => self.paused = false,
            Err(error) => tracing::warn!(event = "resume_failed", %error),
        }
    }
}
