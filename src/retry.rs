//! Waiting for a dependency that fails: backoff, jitter, and a log line a minute at most.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::telemetry::{Dependency, Metrics, Seldom};

const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(2);

/// How long to wait before the next attempt, and what the log hears of it: at most one line a minute that it fails, and one that
/// it works again, however often both change. Lives as long as what it waits for is used, or it would forget the minute.
#[derive(Debug)]
pub struct Backoff {
    event: &'static str,
    /// Failures since the last success: they make the wait longer.
    in_a_row: u32,
    /// Failures since a line told that all is well; and how many times it began to fail.
    attempts: u32,
    outages: u32,
    /// A line has told that it fails, and none yet that this is over.
    is_told: bool,
    seldom: Seldom,
    /// Who learns that this instance cannot decide meanwhile.
    watched: Option<(Arc<Metrics>, Dependency)>,
}

impl Backoff {
    /// For failures that are logged as `event`.
    pub fn new(event: &'static str) -> Self {
        Self { event, in_a_row: 0, attempts: 0, outages: 0, is_told: false, seldom: Seldom::default(), watched: None }
    }

    /// Its failures are a reason not to be ready.
    #[must_use]
    pub fn watched(self, metrics: &Arc<Metrics>, dependency: Dependency) -> Self {
        Self { watched: Some((Arc::clone(metrics), dependency)), ..self }
    }

    /// Counts a failure, logs it if it is time, and says how long to wait.
    pub fn failed(&mut self, error: &dyn Display) -> Duration {
        let is_due = self.failed_at(clock::now());
        if let Some((metrics, dependency)) = &self.watched {
            metrics.health().failed(self.event, Some(*dependency));
        }
        let (event, attempts, outages) = (self.event, self.attempts, self.outages);
        if is_due {
            tracing::warn!(event, attempts, outages, error = %error);
        } else {
            tracing::debug!(event, attempts, outages, error = %error);
        }
        let most = (FIRST * 2_u32.saturating_pow(self.in_a_row.min(16) - 1)).min(MOST);
        // Several instances that lost the same server must not come back in step.
        most.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// Whether a line is due.
    fn failed_at(&mut self, now: Instant) -> bool {
        self.outages = self.outages.saturating_add(u32::from(self.in_a_row == 0));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.attempts = self.attempts.saturating_add(1);
        let is_due = self.seldom.at(self.event, now);
        self.is_told |= is_due;
        is_due
    }

    /// Takes note of a success; tells that the trouble is over, if it was told. What it counts includes what no line told.
    pub fn recovered(&mut self) {
        // Nearly always: the clock need not be asked.
        if self.in_a_row == 0 && !self.is_told {
            return;
        }
        if let Some((metrics, _)) = self.watched.as_ref().filter(|_| self.in_a_row > 0) {
            metrics.health().works(self.event);
        }
        if let Some((attempts, outages)) = self.recovered_at(clock::now()) {
            tracing::info!(event = "recovered", after = self.event, attempts, outages);
        }
    }

    /// What a line that is due counts. If it is not due yet, a later success tells it.
    fn recovered_at(&mut self, now: Instant) -> Option<(u32, u32)> {
        self.in_a_row = 0;
        if !self.is_told || !self.seldom.at("recovered", now) {
            return None;
        }
        self.is_told = false;
        Some((std::mem::take(&mut self.attempts), std::mem::take(&mut self.outages)))
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
        let mut backoff = Backoff { in_a_row: u32::MAX - 1, attempts: u32::MAX - 1, ..Backoff::new("test") };
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

    /// What the log says of failures (true) and successes, each at its second.
    fn lines(moments: &[(u64, bool)]) -> Vec<String> {
        let (mut backoff, start) = (Backoff::new("failed"), clock::now());
        let mut line = |(second, fails): &(u64, bool)| {
            let now = start + Duration::from_secs(*second);
            if *fails {
                let is_due = backoff.failed_at(now);
                is_due.then(|| format!("{second} failed {}/{}", backoff.attempts, backoff.outages))
            } else {
                backoff.recovered_at(now).map(|(attempts, outages)| format!("{second} recovered {attempts}/{outages}"))
            }
        };
        moments.iter().filter_map(&mut line).collect()
    }

    #[test]
    fn what_fails_and_recovers_again_and_again_costs_two_lines_a_minute_and_every_failure_is_counted() {
        let flaps: Vec<_> = (0..=180).flat_map(|second| [(second, true), (second, true), (second, false)]).collect();
        let expected = ["0 failed 1/1", "0 recovered 2/1", "60 failed 119/60", "60 recovered 120/60"];
        assert_eq!(lines(&flaps)[..4], expected);
        assert_eq!(lines(&flaps).len(), 8, "{:?}", lines(&flaps));
    }

    #[test]
    fn an_outage_is_told_of_at_once_then_once_a_minute_and_when_it_is_over() {
        let outage: Vec<_> = (0..130).map(|second| (second, true)).chain([(130, false), (131, false)]).collect();
        assert_eq!(lines(&outage), ["0 failed 1/1", "60 failed 61/1", "120 failed 121/1", "130 recovered 130/1"]);
    }

    #[test]
    fn an_end_that_could_not_be_told_yet_is_told_by_a_later_success() {
        let moments = [(0, true), (50, false), (60, true), (61, false), (90, false), (110, false), (111, false)];
        assert_eq!(lines(&moments), ["0 failed 1/1", "50 recovered 1/1", "60 failed 1/1", "110 recovered 1/1"]);
    }

    #[test]
    fn trouble_that_no_line_told_of_has_no_line_of_its_end_and_goes_with_the_next() {
        let moments = [(0, true), (1, false), (30, true), (31, false), (70, true), (71, false)];
        assert_eq!(lines(&moments), ["0 failed 1/1", "1 recovered 1/1", "70 failed 2/2", "71 recovered 2/2"]);
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
        assert_eq!((failures, backoff.in_a_row), (0, 0));
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
