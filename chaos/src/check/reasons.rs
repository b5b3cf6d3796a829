//! Whether a pipeline's slot was taken at a moment. A long run asks this a million times of thousands of triggers, so it is
//! answered by a binary search.

/// How far apart an end and its commit may be, and still count as the same moment; microseconds.
const SLACK: i64 = 1_000_000;

/// The claims of a pipeline.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// When each was claimed, in order; microseconds, as all times here.
    claimed: Vec<i64>,
    /// Until when a claim up to this one held the slot.
    held_until: Vec<i64>,
}

impl Reasons {
    /// The next claim, and until when it held the slot.
    pub(super) fn add(&mut self, claimed: i64, held_until: i64) {
        debug_assert!(self.claimed.last().is_none_or(|last| *last <= claimed), "claims come in their order");
        self.claimed.push(claimed);
        self.held_until.push(self.held_until.last().map_or(held_until, |before| held_until.max(*before)));
    }

    /// Whether the slot was taken when a batch was decided: by the batch itself or another one at the same time (`decided` to
    /// `written`), or before.
    pub(super) fn explain(&self, decided: i64, written: i64) -> bool {
        let before = self.claimed.partition_point(|claimed| *claimed < decided);
        let meanwhile = self.claimed.get(before).is_some_and(|claimed| *claimed <= written + SLACK);
        let held = before.checked_sub(1).and_then(|last| self.held_until.get(last));
        meanwhile || held.is_some_and(|until| decided <= until.saturating_add(SLACK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    /// The definition itself, one claim after the other.
    fn naive(claims: &[(i64, i64)], decided: i64, written: i64) -> bool {
        claims.iter().any(
            |(claimed, until)| {
                if *claimed >= decided { *claimed <= written + SLACK } else { decided <= until.saturating_add(SLACK) }
            },
        )
    }

    #[test]
    fn the_search_answers_as_a_look_at_every_claim_would() {
        let mut dice = Dice::new(9, 9);
        let mut time = |limit: u64| i64::try_from(dice.below(limit)).unwrap();
        let mut seen = [0, 0];
        for _ in 0..200 {
            let mut claims: Vec<_> = (0..time(12))
                .map(|_| {
                    let claimed = time(60_000_000);
                    (claimed, if time(20) == 0 { i64::MAX } else { claimed + time(8_000_000) })
                })
                .collect();
            claims.sort_unstable();
            let mut reasons = Reasons::default();
            for (claimed, until) in &claims {
                reasons.add(*claimed, *until);
            }
            for _ in 0..50 {
                let decided = time(60_000_000);
                let written = decided + time(300_000);
                let expected = naive(&claims, decided, written);
                seen[usize::from(expected)] += 1;
                assert_eq!(reasons.explain(decided, written), expected, "{claims:?} at {decided}");
            }
        }
        assert!(seen[0] > 1_000 && seen[1] > 1_000, "both answers occur: {seen:?}");
    }
}
