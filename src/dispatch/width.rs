//! How many slots one claim asks for: fewer when the statement takes too long, and more again when it is quick. Pure.

use std::time::Duration;

/// A claim that took no longer may be twice as wide the next time.
const QUICK: Duration = Duration::from_secs(3);

/// Slots of the next claim, after one with `asked` slots was given up by the store.
pub(super) fn narrower(asked: usize) -> usize {
    (asked / 2).max(1)
}

/// Slots of the next claim, after one with at most `most` slots was decided.
pub(super) fn wider(most: usize, widest: usize, took: Duration) -> usize {
    if took <= QUICK { most.saturating_mul(2).min(widest) } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_halved_down_to_one_slot_and_no_further() {
        let mut most = 4_000;
        let mut seen = Vec::new();
        while most > 1 {
            most = narrower(most);
            seen.push(most);
        }
        assert_eq!(seen, [2_000, 1_000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
        assert_eq!((narrower(1), narrower(0)), (1, 1));
    }

    #[test]
    fn it_grows_only_while_claims_are_quick_and_never_beyond_its_limit() {
        assert_eq!(wider(1, 4_000, Duration::from_millis(20)), 2);
        assert_eq!(wider(3_000, 4_000, Duration::from_millis(20)), 4_000);
        assert_eq!(wider(4_000, 4_000, Duration::from_millis(20)), 4_000);
        assert_eq!(wider(250, 4_000, Duration::from_secs(20)), 250);
    }
}
