//! How many signals are due by now. Pure: the caller owns the clock.

use std::time::Duration;

/// An open-loop pace: a hiccup is made up for, so that the average is the rate, whatever the sleep's granularity.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    per_second: f64,
}

impl Pace {
    /// Signals per second; above zero.
    pub fn new(per_second: f64) -> Self {
        Self { per_second }
    }

    /// How many should have left when so much time has passed. The first is due at once.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count; `as` saturates")]
    pub fn due(&self, elapsed: Duration) -> u64 {
        (elapsed.as_secs_f64() * self.per_second) as u64 + 1
    }

    /// How long to wait until number `next` (from 0) is due: zero if it already is.
    pub fn wait(&self, next: u64, elapsed: Duration) -> Duration {
        // A rate so small that its instant has no name means: wait for as long as there is.
        let instant = Duration::try_from_secs_f64(next as f64 / self.per_second).unwrap_or(Duration::MAX);
        instant.saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_grows_with_time_and_a_late_caller_catches_up() {
        let pace = Pace::new(10_000.0);
        let cases = [(0, 1), (50, 1), (100, 2), (1_000, 11), (1_000_000, 10_001), (60_000_000, 600_001)];
        for (micros, due) in cases {
            assert_eq!(pace.due(Duration::from_micros(micros)), due, "{micros} µs");
        }
    }

    #[test]
    fn one_waits_exactly_until_the_next_is_due() {
        let pace = Pace::new(4.0);
        assert_eq!(pace.wait(0, Duration::ZERO), Duration::ZERO);
        assert_eq!(pace.wait(1, Duration::ZERO), Duration::from_millis(250));
        assert_eq!(pace.wait(1, Duration::from_millis(200)), Duration::from_millis(50));
        assert_eq!(pace.wait(1, Duration::from_secs(9)), Duration::ZERO);
        assert_eq!(Pace::new(1e-300).wait(1, Duration::ZERO), Duration::MAX);
    }
}
