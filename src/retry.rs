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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_grow_from_a_blink_to_two_seconds_and_never_beyond() {
        let mut backoff = Backoff::new("test");
        for failure in 0..40 {
            let most = Duration::from_millis(50 << failure.min(6)).min(Duration::from_secs(2));
            let wait = backoff.failed(&"down");
            assert!(wait >= most / 2 && wait <= most, "failure {failure}: {wait:?}, at most {most:?}");
        }
    }

    #[test]
    fn an_outage_of_any_length_keeps_its_longest_wait() {
        let mut backoff = Backoff { attempts: u32::MAX - 1, ..Backoff::new("test") };
        for _ in 0..3 {
            assert!(backoff.failed(&"down") >= Duration::from_secs(1));
        }
    }

    #[test]
    fn after_a_success_the_waits_begin_anew() {
        let mut backoff = Backoff::new("test");
        for _ in 0..20 {
            backoff.failed(&"down");
        }
        backoff.recovered();
        assert!(backoff.failed(&"down") <= Duration::from_millis(50));
    }

    #[test]
    fn two_instances_do_not_come_back_in_step() {
        let waits = || -> Vec<_> {
            let mut backoff = Backoff::new("test");
            (0..20).map(|_| backoff.failed(&"down")).collect()
        };
        assert_ne!(waits(), waits());
    }

    #[tokio::test]
    async fn work_is_repeated_until_it_succeeds() {
        let mut failures = 2;
        let work = async || {
            if failures == 0 {
                return Ok("done");
            }
            failures -= 1;
            Err("down")
        };
        let mut backoff = Backoff::new("test");
        assert_eq!(until_done(&mut backoff, &CancellationToken::new(), work).await, Ok("done"));
        assert_eq!((failures, backoff.attempts), (0, 0));
    }

    #[tokio::test]
    async fn a_stop_ends_the_waiting_but_lets_the_attempt_under_way_finish() {
        let stop = CancellationToken::new();
        let mut attempts = 0;
        let work = async || {
            attempts += 1;
            stop.cancel();
            tokio::task::yield_now().await;
            Err::<(), _>("down")
        };
        assert_eq!(until_done(&mut Backoff::new("test"), &stop, work).await, Err(Stopped));
        assert_eq!(attempts, 1);
    }

    #[tokio::test]
    async fn work_that_succeeds_is_done_even_after_a_stop() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(until_done(&mut Backoff::new("test"), &stop, async || Ok::<_, &str>(7)).await, Ok(7));
    }
}
