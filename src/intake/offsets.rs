//! Which records of which partitions a batch covers.

/// The records of one partition in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSpan {
    /// The partition.
    pub partition: i32,
    /// The assignment's fence.
    pub epoch: i64,
    /// Offset of the first record.
    pub first_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Records, whatever became of them. Offsets may have gaps, so this is not their difference.
    pub consumed: i64,
    /// Records that are bad in themselves.
    pub invalid: i64,
    /// Records that are too old.
    pub stale: i64,
}

/// Which records of which partitions a batch covers; one span for each partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets {
    spans: Vec<PartitionSpan>,
    last: usize,
}

impl Offsets {
    /// Counts a record in, and returns its partition's span for the finer counts.
    pub fn record(&mut self, partition: i32, epoch: i64, offset: i64) -> &mut PartitionSpan {
        let span = self.cover(partition, epoch, offset);
        span.consumed += 1;
        span
    }

    /// Covers a record that is decided already, and not counted again.
    pub fn cover(&mut self, partition: i32, epoch: i64, offset: i64) -> &mut PartitionSpan {
        // Records come in runs of one partition, so the last span is nearly always the right one.
        if self.spans.get(self.last).is_none_or(|span| span.partition != partition) {
            self.last = self.spans.iter().position(|span| span.partition == partition).unwrap_or_else(|| {
                self.spans.push(PartitionSpan {
                    partition,
                    epoch,
                    first_offset: offset,
                    next_offset: offset,
                    consumed: 0,
                    invalid: 0,
                    stale: 0,
                });
                self.spans.len() - 1
            });
        }
        let span = &mut self.spans[self.last];
        span.next_offset = offset + 1;
        span
    }

    /// Counts a record that is covered already as a bad one.
    pub fn record_invalid(&mut self, partition: i32) {
        if let Some(span) = self.spans.iter_mut().find(|span| span.partition == partition) {
            span.invalid += 1;
        }
    }

    /// The spans, in the order in which their first records arrived.
    pub fn spans(&self) -> &[PartitionSpan] {
        &self.spans
    }

    /// The span of a partition.
    pub fn get(&self, partition: i32) -> Option<&PartitionSpan> {
        self.spans.iter().find(|span| span.partition == partition)
    }

    /// Covers what a later batch of the same assignments covers.
    pub fn append(&mut self, later: &Self) {
        for span in &later.spans {
            match self.spans.iter_mut().find(|known| known.partition == span.partition) {
                Some(known) => {
                    known.next_offset = span.next_offset;
                    known.consumed += span.consumed;
                    known.invalid += span.invalid;
                    known.stale += span.stale;
                }
                None => self.spans.push(*span),
            }
        }
        self.last = 0;
    }

    /// Leaves partitions out: another instance decides their records.
    pub fn remove(&mut self, partitions: &[i32]) {
        self.spans.retain(|span| !partitions.contains(&span.partition));
        self.last = 0;
    }

    /// The partitions that are covered.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.spans.iter().map(|span| span.partition)
    }

    /// Whether no record is covered.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Records covered, whatever became of them.
    pub fn consumed(&self) -> i64 {
        self.spans.iter().map(|span| span.consumed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_span_begins_at_its_first_record_and_ends_after_its_last() {
        let mut offsets = Offsets::default();
        for offset in [41, 42, 99] {
            offsets.record(3, 7, offset);
        }
        offsets.record_invalid(3);
        let span =
            PartitionSpan { partition: 3, epoch: 7, first_offset: 41, next_offset: 100, consumed: 3, invalid: 1, stale: 0 };
        assert_eq!(offsets.spans(), [span], "offsets may have gaps");
    }

    #[test]
    fn what_is_only_covered_moves_the_end_and_is_not_counted() {
        let mut offsets = Offsets::default();
        offsets.cover(3, 7, 40);
        offsets.record(3, 7, 41);
        offsets.cover(3, 7, 42);
        let span = offsets.spans()[0];
        assert_eq!((span.first_offset, span.next_offset, span.consumed), (40, 43, 1));
    }

    #[test]
    fn what_is_left_out_takes_its_counts_along_and_comes_back_fresh() {
        let mut offsets = Offsets::default();
        offsets.record(1, 5, 10);
        offsets.record(2, 6, 20);
        offsets.record(3, 7, 30);
        offsets.remove(&[1, 3, 9]);
        assert_eq!((offsets.get(1), offsets.consumed()), (None, 1));
        offsets.record(3, 8, 31);
        offsets.record(2, 6, 21);
        let found: Vec<_> =
            offsets.spans().iter().map(|span| (span.partition, span.epoch, span.first_offset, span.consumed)).collect();
        assert_eq!(found, [(2, 6, 20, 2), (3, 8, 31, 1)]);
    }

    #[test]
    fn leaving_everything_out_leaves_nothing() {
        let mut offsets = Offsets::default();
        offsets.record(1, 5, 10);
        offsets.remove(&[1]);
        assert!(offsets.is_empty());
        offsets.record_invalid(1);
        assert_eq!(offsets, Offsets::default(), "a record of no span is not counted");
    }

    proptest! {
        #[test]
        fn each_record_is_counted_once_in_its_partition(partitions in prop::collection::vec(0..5_i32, 1..200), removed in prop::collection::vec(0..5_i32, 0..3)) {
            let mut offsets = Offsets::default();
            for (offset, partition) in (0..).zip(&partitions) {
                let span = offsets.record(*partition, 1, offset);
                prop_assert_eq!((span.partition, span.next_offset), (*partition, offset + 1));
            }
            offsets.remove(&removed);
            for partition in 0..5 {
                let is_own = |of: i32| of == partition && !removed.contains(&of);
                let own: Vec<i64> = (0..).zip(&partitions).filter(|(_, of)| is_own(**of)).map(|(offset, _)| offset).collect();
                let count = i64::try_from(own.len()).unwrap();
                let expected = own.first().zip(own.last()).map(|(first, last)| (*first, last + 1, count));
                let found = offsets.get(partition).map(|span| (span.first_offset, span.next_offset, span.consumed));
                prop_assert_eq!(found, expected);
            }
        }
    }
}
