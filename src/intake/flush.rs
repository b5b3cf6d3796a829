//! When a batch leaves. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

use crate::config::{BatchConfig, Flush};

/// Whether a batch may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// Not before this instant, unless more records arrive.
    At(Instant),
}

/// When a batch leaves: at the latest when it is full or old, at the earliest at once, within a budget of
/// batches a second. The caller asks only while no flush is running.
#[derive(Debug)]
pub struct FlushPolicy {
    size: usize,
    timeout: Duration,
    flush: Flush,
    /// Time that one batch costs; `None` is no limit.
    cost: Option<Duration>,
    /// The budget is free again from here on. It may lie in the past by at most `SAVED` costs.
    paid_until: Instant,
}

/// Batches that may be saved up, so that a lone signal after a pause need not wait.
const SAVED: u32 = 2;

impl FlushPolicy {
    /// A policy whose budget is full.
    pub fn new(config: &BatchConfig, now: Instant) -> Self {
        let cost = config.queries_per_second.map(|limit| Duration::from_secs(1) / limit);
        Self { size: config.size, timeout: config.timeout, flush: config.flush, cost, paid_until: now }
    }

    /// When a batch of `records`, the oldest of which arrived at `oldest`, may leave.
    pub fn due(&self, records: usize, oldest: Instant, now: Instant) -> Due {
        let wanted = match self.flush {
            Flush::Eager => now,
            Flush::Window if records >= self.size => now,
            Flush::Window => oldest + self.timeout,
        };
        // The budget outranks size and age: under load a batch holds all that arrived meanwhile.
        let allowed = if self.cost.is_some() { self.paid_until } else { now };
        let at = wanted.max(allowed);
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// Pays for a batch that leaves.
    pub fn spend(&mut self, now: Instant) {
        if let Some(cost) = self.cost {
            let saved = now.checked_sub(cost * SAVED).unwrap_or(now);
            self.paid_until = self.paid_until.max(saved) + cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(flush: Flush, queries_per_second: Option<u32>) -> (FlushPolicy, Instant) {
        #[expect(clippy::disallowed_methods, reason = "an origin for made-up instants")]
        let now = Instant::now();
        let config = BatchConfig { size: 20, timeout: Duration::from_millis(500), flush, queries_per_second };
        (FlushPolicy::new(&config, now), now)
    }

    #[test]
    fn a_lone_signal_leaves_at_once() {
        let (policy, now) = policy(Flush::Eager, Some(30));
        assert_eq!(policy.due(1, now, now), Due::Now);
    }

    #[test]
    fn a_window_waits_for_size_or_age() {
        let (policy, now) = policy(Flush::Window, None);
        let timeout = Duration::from_millis(500);
        assert_eq!(policy.due(19, now, now), Due::At(now + timeout));
        assert_eq!(policy.due(20, now, now), Due::Now);
        assert_eq!(policy.due(1, now, now + timeout), Due::Now);
    }

    proptest! {
        #[test]
        fn the_budget_holds_over_any_arrivals(gaps_ms in prop::collection::vec(0_u64..80, 1..400), limit in 1_u32..100) {
            let (mut policy, start) = policy(Flush::Eager, Some(limit));
            let mut now = start;
            let mut batches = 0_u32;
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                if let Due::At(at) = policy.due(1, now, now) {
                    now = at;
                }
                prop_assert_eq!(policy.due(1, now, now), Due::Now);
                policy.spend(now);
                batches += 1;
            }
            let seconds = (now - start).as_secs_f64();
            prop_assert!(f64::from(batches) <= seconds * f64::from(limit) + f64::from(SAVED) + 1.5, "{batches} in {seconds}");
        }
    }
}
