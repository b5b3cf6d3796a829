//! Waiting for a dependency that fails: backoff, jitter, and a log line a minute at most.

use std::fmt::Display;
use std::time::Duration;

use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Seldom;

const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(2);

/// How long to wait before the next attempt.
#[derive(Debug)]
pub struct Backoff {
    event: &'static str,
    attempts: u32,
    seldom: Seldom,
}

impl Backoff {
    /// For failures that are logged as `event`.
    pub fn new(event: &'static str) -> Self {
        Self { event, attempts: 0, seldom: Seldom::default() }
    }

    /// Counts a failure, logs it if it is time, and says how long to wait.
    pub fn failed(&mut self, error: &dyn Display) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        if self.seldom.now(self.event) {
            tracing::warn!(event = self.event, attempts = self.attempts, error = %error);
        }
        let most = (FIRST * 2_u32.saturating_pow(self.attempts.min(16) - 1)).min(MOST);
        // Several instances that lost the same server must not come back in step.
        most.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// Counts a success; tells that the trouble is over.
    pub fn recovered(&mut self) {
        if self.attempts > 0 {
            tracing::info!(event = "recovered", after = self.event, attempts = self.attempts);
            self.attempts = 0;
            self.seldom.forget(self.event);
        }
    }
}

/// Told to stop before the work succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Repeats `work` until it succeeds, or until `stop` while it fails. Work under way is never broken off.
///
/// # Errors
/// Stopped; the outcome of the last attempt is unknown.
pub async fn until_done<T, E: Display>(
    backoff: &mut Backoff,
    stop: &CancellationToken,
    mut work: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, Stopped> {
    loop {
        match work().await {
            Ok(done) => {
                backoff.recovered();
                return Ok(done);
            }
            Err(error) => {
                let pause = backoff.failed(&error);
                if stop.is_cancelled() || tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                    return Err(Stopped);
                }
            }
        }
    }
}
