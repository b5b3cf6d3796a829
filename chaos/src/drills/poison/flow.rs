//! What flows: exactly one record in a hundred is bad, all kinds in turn, and the rest are signals. A function of the seed
//! and the number, so that the place of each bad record is known without remembering ten million.

use crate::dice::Dice;
use crate::kafka::PARTITIONS;
use crate::signals::{BAD_KINDS, Kind, Signals, bad};

/// One bad record among so many.
const ONE_IN: u64 = 100;

/// The records of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    seed: u64,
    pub(super) count: u64,
    /// Whether there are bad ones.
    poisoned: bool,
}

impl Flow {
    pub(super) fn poisoned(seed: u64, count: u64) -> Self {
        Self { seed, count, poisoned: true }
    }

    pub(super) fn clean(seed: u64, count: u64) -> Self {
        Self { seed, count, poisoned: false }
    }

    /// The kind of a bad record; nothing for a good one.
    pub(super) fn bad_kind(self, number: u64) -> Option<u64> {
        let hundred = number / ONE_IN;
        let place = Dice::new(self.seed, hundred.wrapping_mul(2)).below(ONE_IN);
        (self.poisoned && number % ONE_IN == place).then_some(hundred % BAD_KINDS)
    }

    /// The tickers of a good record.
    pub(super) fn tickers(self, number: u64) -> Vec<u64> {
        match Signals::new(self.seed).kind(self.signal(number)) {
            Kind::Signal { tickers, .. } => tickers,
            // `signal` gives numbers of signals only.
            Kind::Bad(_) | Kind::Stale => Vec::new(),
        }
    }

    /// The bytes of a record.
    pub(super) fn payload(self, number: u64) -> Option<Vec<u8>> {
        match self.bad_kind(number) {
            Some(kind) => bad(kind),
            None => Signals::new(self.seed).payload(self.signal(number)),
        }
    }

    /// Which of the seed's signals a good record is. Chaos mixes bad and old ones in: another one stands in for those.
    fn signal(self, number: u64) -> u64 {
        let signals = Signals::new(self.seed);
        let mut number = number;
        while !matches!(signals.kind(number), Kind::Signal { .. }) {
            number += self.count;
        }
        number
    }

    pub(super) fn partition(number: u64) -> i32 {
        i32::try_from(number % u64::from(PARTITIONS.unsigned_abs())).unwrap_or_default()
    }

    /// Where a record stands. The producer is idempotent: each partition has its records in the order of their numbers.
    pub(super) fn place(number: u64) -> (i32, i64) {
        (Self::partition(number), i64::try_from(number / u64::from(PARTITIONS.unsigned_abs())).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn exactly_one_in_a_hundred_is_bad_in_every_kind_and_every_partition() {
        let flow = Flow::poisoned(3, 60_000);
        let mut kinds: BTreeMap<u64, u64> = BTreeMap::new();
        let mut partitions = HashSet::new();
        for number in 0..flow.count {
            if let Some(kind) = flow.bad_kind(number) {
                *kinds.entry(kind).or_default() += 1;
                partitions.insert(Flow::partition(number));
            }
        }
        assert_eq!(kinds, (0..BAD_KINDS).map(|kind| (kind, 20)).collect());
        assert_eq!(partitions.len(), 12);
    }

    #[test]
    fn what_is_not_bad_is_a_signal() {
        let flow = Flow::poisoned(3, 5_000);
        for number in (0..flow.count).filter(|number| flow.bad_kind(*number).is_none()) {
            assert!(!flow.tickers(number).is_empty(), "{number}");
        }
        assert!((0..5_000).all(|number| Flow::clean(3, 5_000).bad_kind(number).is_none()));
    }

    #[test]
    fn each_record_has_a_place_of_its_own() {
        let places: HashSet<_> = (0..1_000).map(Flow::place).collect();
        assert_eq!(places.len(), 1_000);
        assert_eq!(Flow::place(25), (1, 2));
    }
}
