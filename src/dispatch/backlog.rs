//! Batches under way, and those that wait for them. Pure.
//!
//! A partition is decided in the order of its offsets, so whatever speaks of a partition that is under way waits; all else
//! passes by.

use std::collections::VecDeque;

use crate::intake::Batch;

/// Bytes that may be under way and wait; beyond them nothing more is taken from the source, which has a bound of its own.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Batches under way, and what waits for them.
#[derive(Debug)]
pub(super) struct Backlog<P> {
    /// No two speak of the same partition.
    under_way: VecDeque<P>,
    /// All of it, as one batch: to decide it at once costs no more statements than the first of its batches alone would.
    waiting: Batch,
}

impl<P> Default for Backlog<P> {
    fn default() -> Self {
        Self { under_way: VecDeque::new(), waiting: Batch::default() }
    }
}

impl<P: AsRef<Batch>> Backlog<P> {
    /// Whether nothing is under way. Then nothing waits either.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether one more batch may come.
    pub(super) fn has_room(&self) -> bool {
        let under_way: usize = self.under_way.iter().map(|pass| pass.as_ref().bytes()).sum();
        under_way + self.waiting.bytes() < MOST_BYTES
    }

    /// Adds a batch, behind all others of its partitions. What waits for nothing begins.
    pub(super) fn push(&mut self, batch: Batch, begin: impl FnOnce(Batch) -> P) {
        let mut taken = self.partitions_under_way();
        taken.extend(self.waiting.offsets.partitions());
        let (free, rest) = batch.split(&taken);
        self.waiting.append(rest);
        self.add(free, begin);
    }

    /// What is to go on next; what came last comes first.
    pub(super) fn next(&mut self) -> Option<P> {
        self.under_way.pop_front()
    }

    /// What is to go on next, left where it is.
    pub(super) fn peek(&self) -> Option<&P> {
        self.under_way.front()
    }

    /// Puts back what goes on.
    pub(super) fn put_back(&mut self, pass: P) {
        self.under_way.push_back(pass);
    }

    /// Forgets everything: what is not decided comes again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Begins whatever waits for nothing any more.
    pub(super) fn begin(&mut self, begin: impl FnOnce(Batch) -> P) {
        let (free, rest) = std::mem::take(&mut self.waiting).split(&self.partitions_under_way());
        self.waiting = rest;
        self.add(free, begin);
    }

    fn add(&mut self, free: Batch, begin: impl FnOnce(Batch) -> P) {
        if !free.is_empty() {
            self.under_way.push_front(begin(free));
        }
    }

    fn partitions_under_way(&self) -> Vec<i32> {
        self.under_way.iter().flat_map(|pass| pass.as_ref().offsets.partitions()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::Record;

    impl AsRef<Batch> for Batch {
        fn as_ref(&self) -> &Batch {
            self
        }
    }

    /// A batch of one record for each of these (partition, offset).
    fn batch(places: &[(i32, i64)]) -> Batch {
        let mut batch = Batch::default();
        for (partition, offset) in places {
            let payload = Some(&br#"{"tickers": [{"ticker": "A"}]}"#[..]);
            let record = Record { partition: *partition, offset: *offset, time_ms: 0, key: None, payload, headers: &Vec::new };
            batch.push(&record, 1, 0, crate::clock::now());
        }
        batch
    }

    fn places(batch: Option<&Batch>) -> Vec<(i32, i64)> {
        batch.map_or(&[][..], Batch::signals).iter().map(|signal| (signal.partition, signal.offset)).collect()
    }

    #[test]
    fn what_speaks_of_other_partitions_passes_by_and_what_does_not_waits_in_its_order() {
        let mut backlog = Backlog::default();
        backlog.push(batch(&[(0, 0)]), |batch| batch);
        let wide = backlog.next().unwrap();
        backlog.put_back(wide);
        backlog.push(batch(&[(0, 1), (1, 0)]), |batch| batch);
        backlog.push(batch(&[(0, 2), (2, 0)]), |batch| batch);
        // Partition 1 is under way too, and is not decided yet.
        backlog.push(batch(&[(1, 1)]), |batch| batch);
        let passed: Vec<_> = [(); 3].map(|()| places(backlog.next().as_ref())).to_vec();
        assert_eq!(passed, [vec![(2, 0)], vec![(1, 0)], vec![(0, 0)]]);
        assert_eq!(places(Some(&backlog.waiting)), [(0, 1), (0, 2), (1, 1)]);

        let still = batch(&[(1, 0)]);
        backlog.put_back(still);
        backlog.begin(|batch| batch);
        assert_eq!(places(backlog.next().as_ref()), [(0, 1), (0, 2)], "all that waited for the wide one, at once");
        assert_eq!(places(Some(&backlog.waiting)), [(1, 1)]);
        backlog.next();
        backlog.begin(|batch| batch);
        assert_eq!((places(backlog.next().as_ref()), backlog.waiting.is_empty()), (vec![(1, 1)], true));
    }
}
