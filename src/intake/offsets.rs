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
        span.consumed += 1;
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

    /// Leaves partitions out: another instance decides their records.
    pub fn remove(&mut self, partitions: &[i32]) {
        self.spans.retain(|span| !partitions.contains(&span.partition));
        self.last = 0;
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
