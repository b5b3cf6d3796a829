//! The log lines of the flow. Those that come once per signal are limited, and count what they left out.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use super::shared_ids::SharedIds;
use crate::clock;
use crate::intake::{Batch, Position, Rejected};
use crate::rules::Matches;
use crate::store::Wanted;
use crate::tasks::signal_id;

/// Writes the log lines of the flow.
#[derive(Debug)]
pub struct Events {
    topic: String,
    received: Limit,
    matched: Limit,
    enqueued: Limit,
    named_statuses: HashSet<String>,
    shared_ids: SharedIds,
}

impl Events {
    /// At most `per_second` lines a second of each event that comes once per signal.
    pub fn new(topic: &str, per_second: u32) -> Self {
        let limit = || Limit::new(per_second);
        Self {
            topic: topic.to_owned(),
            received: limit(),
            matched: limit(),
            enqueued: limit(),
            named_statuses: HashSet::new(),
            shared_ids: SharedIds::default(),
        }
    }

    /// A batch has arrived.
    pub fn received(&mut self, batch: &Batch) {
        tracing::info!(event = "processing_signal_batch", batch_size = batch.records());
        let (written, suppressed) = self.received.take(batch.signals().len(), clock::now());
        for (position, signal) in batch.signals().iter().take(written).enumerate() {
            let tickers = list(batch.mentions(signal).iter().map(|mention| batch.text(mention.ticker)));
            let signal_id = signal_id(&self.topic, batch, signal);
            let suppressed = suppressed.filter(|_| position == 0);
            tracing::info!(
                event = "signal_received",
                signal_id,
                tickers,
                partition = signal.partition,
                offset = signal.offset,
                suppressed
            );
        }
        self.rejected(batch.rejected());
    }

    /// It is stored where a partition is read from.
    pub fn positioned(&self, position: &Position) {
        if let Some(from) = position.overtaken_at {
            tracing::error!(
                event = "progress_behind_kafka",
                topic = self.topic,
                partition = position.partition,
                from,
                to = position.next_offset,
                text = "Kafka's committed offset is ahead of ours: another member of the group has decided the records from..to, or \
                    the database has lost commits. They are not decided again. See docs/offsets.md",
            );
        }
    }

    /// Records are on their way to the dead-letter topic.
    pub fn rejected(&mut self, rejected: &[Rejected]) {
        for rejected in rejected {
            let (written, suppressed) = self.received.take(1, clock::now());
            if written > 0 {
                let reason = rejected.reason.as_str();
                tracing::warn!(
                    event = "signal_rejected",
                    reason,
                    partition = rejected.partition,
                    offset = rejected.offset,
                    suppressed
                );
            }
        }
    }

    /// A batch is matched.
    pub fn matched(&mut self, batch: &Batch, matches: &Matches) {
        let (written, suppressed) = self.matched.take(matches.candidates.len(), clock::now());
        for (position, candidate) in matches.candidates.iter().take(written).enumerate() {
            let pipeline_id = matches.rules.pipeline_id(candidate.pipeline);
            let matched_tickers = list(matches.mentions(candidate).map(|mention| batch.text(batch.mention(mention).ticker)));
            let suppressed = suppressed.filter(|_| position == 0);
            tracing::info!(event = "signal_matched_to_pipeline", %pipeline_id, matched_tickers, suppressed);
        }
    }

    /// The ledger knows some signals, by their positions in the batch.
    pub fn known(&mut self, batch: &Batch, known: impl Iterator<Item = u32>) {
        for shared in self.shared_ids.look(batch, known) {
            tracing::warn!(
                event = "signal_id_shared",
                source = shared.source,
                signal_id = shared.signal_id,
                text = "records with this id differ in ticker, direction or time: a pipeline starts for the first one only, and the \
                    others count as redelivered. The producer must give each signal an id of its own, or none"
            );
        }
    }

    /// Tasks are in the broker.
    pub fn enqueued(&mut self, wanted: &[Wanted], won: &[usize]) {
        let (written, suppressed) = self.enqueued.take(won.len(), clock::now());
        for (position, won) in won.iter().take(written).enumerate() {
            let wanted = &wanted[*won];
            let (pipeline_id, execution_id, signal_id) = (wanted.pipeline_id, wanted.text.trigger_id, &*wanted.text.signal_id);
            let suppressed = suppressed.filter(|_| position == 0);
            tracing::info!(event = "pipeline_execution_enqueued", %pipeline_id, %execution_id, signal_id, symbol = &*wanted.text.symbol, suppressed);
        }
    }

    /// A batch is decided, and its tasks are in the broker.
    pub fn decided(&mut self, matches: &Matches, enqueued: usize, redelivered: usize, unknown_statuses: &BTreeSet<String>) {
        let skipped_running = matches.pairs.saturating_sub(enqueued as u64);
        tracing::info!(event = "batch_enqueue_completed", enqueued, skipped_running, redelivered);
        for status in unknown_statuses {
            if self.named_statuses.insert(status.clone()) {
                tracing::warn!(event = "unknown_execution_status", status, treated_as = "active");
            }
        }
    }
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    super::json(&texts.collect::<Vec<_>>())
}

/// So many lines a second, and a count of those left out.
#[derive(Debug)]
struct Limit {
    per_second: usize,
    left: usize,
    since: Option<Instant>,
    suppressed: u64,
}

impl Limit {
    fn new(per_second: u32) -> Self {
        let per_second = usize::try_from(per_second).unwrap_or(usize::MAX);
        Self { per_second, left: per_second, since: None, suppressed: 0 }
    }

    /// How many of `lines` may be written, and how many were left out since the last that was.
    fn take(&mut self, lines: usize, now: Instant) -> (usize, Option<u64>) {
        if self.since.is_none_or(|since| (now - since).as_secs() >= 1) {
            self.since = Some(now);
            self.left = self.per_second;
        }
        let written = lines.min(self.left);
        self.left -= written;
        let before = self.suppressed;
        if written > 0 {
            self.suppressed = 0;
        }
        self.suppressed += (lines - written) as u64;
        (written, Some(before).filter(|before| *before > 0 && written > 0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_left_out_is_told_with_the_next_line() {
        let mut limit = Limit::new(3);
        let start = clock::now();
        assert_eq!(limit.take(2, start), (2, None));
        assert_eq!(limit.take(5, start), (1, None));
        assert_eq!(limit.take(4, start), (0, None));
        assert_eq!(limit.take(1, start + Duration::from_secs(1)), (1, Some(8)));
        assert_eq!(limit.take(1, start + Duration::from_secs(1)), (1, None));
    }
}
