//! How the loop waits for each thing that may fail. Pure.

use std::sync::Arc;

use crate::retry::Backoff;
use crate::telemetry::{Dependency, Metrics};

/// A wait for each step that may fail. They live as long as the loop: what fails on every batch still has a line a minute.
#[derive(Debug)]
pub struct Waits {
    pub(super) open: Backoff,
    pub(super) start: Backoff,
    pub(super) dead_letter: Backoff,
    pub(super) claim: Backoff,
    pub(super) renew: Backoff,
    pub(super) reopen: Backoff,
    pub(super) confirm: Backoff,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            open: Backoff::new("open_failed"),
            start: Backoff::new("start_failed"),
            dead_letter: Backoff::new("dead_letter_failed"),
            claim: Backoff::new("claim_failed"),
            renew: Backoff::new("renew_failed"),
            reopen: Backoff::new("reopen_failed"),
            confirm: Backoff::new("confirm_failed"),
        }
    }
}

impl Waits {
    /// Failures are reasons not to be ready.
    pub(super) fn watched(self, metrics: &Arc<Metrics>) -> Self {
        let of = |wait: Backoff, dependency| wait.watched(metrics, dependency);
        Self {
            open: of(self.open, Dependency::postgresql),
            start: of(self.start, Dependency::kafka),
            dead_letter: of(self.dead_letter, Dependency::dead_letter_topic),
            claim: of(self.claim, Dependency::postgresql),
            renew: of(self.renew, Dependency::postgresql),
            reopen: of(self.reopen, Dependency::kafka),
            confirm: of(self.confirm, Dependency::postgresql),
        }
    }
}
