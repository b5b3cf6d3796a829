//! The only reader of time.
#![allow(clippy::disallowed_methods, reason = "this is the module that those methods are reserved for")]

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The time of day, and the time since the start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Since the start; never goes back.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
