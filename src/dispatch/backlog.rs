//! Batches under way, and those that wait for them. Pure.
//!
//! A partition is decided in the order of its offsets, so whatever speaks of a partition that is under way waits; all else
//! passes by.

use std::collections::VecDeque;

use crate::intake::Batch;

/// Bytes that may wait; beyond them nothing more is taken from the source, which has a bound of its own.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Batches under way, and those that wait.
#[derive(Debug)]
pub(super) struct Backlog<P> {
    /// No two speak of the same partition.
    under_way: VecDeque<P>,
    /// In the order of arrival.
    waiting: VecDeque<Batch>,
}

impl<P> Default for Backlog<P> {
    fn default() -> Self {
        Self { under_way: VecDeque::new(), waiting: VecDeque::new() }
    }
}

impl<P: AsRef<Batch>> Backlog<P> {
    /// Whether nothing is under way. Then nothing waits either.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether one more batch may come.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.iter().map(Batch::bytes).sum::<usize>() < MOST_BYTES
    }

    /// Adds a batch, behind all others of its partitions.
    pub(super) fn push(&mut self, batch: Batch, begin: impl FnMut(Batch) -> P) {
        self.waiting.push_back(batch);
        self.begin(begin);
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
        self.under_way.clear();
        self.waiting.clear();
    }

    /// Begins whatever waits for nothing any more.
    pub(super) fn begin(&mut self, mut begin: impl FnMut(Batch) -> P) {
        let mut taken: Vec<i32> = self.under_way.iter().flat_map(|pass| pass.as_ref().offsets.partitions()).collect();
        for batch in std::mem::take(&mut self.waiting) {
            let (free, rest) = batch.split(&taken);
            taken.extend(free.offsets.partitions().chain(rest.offsets.partitions()));
            if !free.is_empty() {
                self.under_way.push_front(begin(free));
            }
            if !rest.is_empty() {
                self.waiting.push_back(rest);
            }
        }
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
        let waiting: Vec<_> = backlog.waiting.iter().map(|batch| places(Some(batch))).collect();
        assert_eq!(waiting, [vec![(0, 1)], vec![(0, 2)], vec![(1, 1)]]);

        backlog.begin(|batch| batch);
        let mut begun: Vec<_> = [(); 2].map(|()| places(backlog.next().as_ref())).to_vec();
        begun.sort_unstable();
        assert_eq!((begun, backlog.is_empty()), (vec![vec![(0, 1)], vec![(1, 1)]], true));
        backlog.begin(|batch| batch);
        assert_eq!(places(backlog.next().as_ref()), [(0, 2)]);
    }
}
