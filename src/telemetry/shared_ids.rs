//! Notices that a producer gives one `signal_id` to different records: all but the first count as redelivered, for ever. Pure.
//!
//! Asked only about signals that the ledger knows, and about few of them: it reads their payloads.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use crate::intake::{Batch, Details, Signal};

/// Known signals of one answer that are looked at.
const MOST_LOOKS: usize = 16;
/// Records of one batch that are compared with a known signal of the same id.
const MOST_COMPARED: usize = 8;
/// Ids, and sources, that are remembered.
const MOST_REMEMBERED: usize = 1_024;

/// An id that records share which differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    /// Who produces them; empty if they do not say.
    pub(super) source: String,
    /// The id.
    pub(super) signal_id: String,
}

/// What the known signals said, by id, and which sources were told of.
#[derive(Debug, Default)]
pub(super) struct SharedIds {
    said: HashMap<String, u64>,
    told: HashSet<String>,
    hasher: foldhash::fast::RandomState,
}

impl SharedIds {
    /// Looks at signals, by their positions, that the ledger knows. A source is returned once.
    pub(super) fn look(&mut self, batch: &Batch, known: impl Iterator<Item = u32>) -> Vec<Shared> {
        let mut found = Vec::new();
        for position in known.take(MOST_LOOKS) {
            let signal = &batch.signals()[position as usize];
            let signal_id = batch.text(signal.stated_id);
            if signal_id.is_empty() || !self.differs(batch, signal, signal_id) {
                continue;
            }
            let source = Details::read(batch.text(signal.payload)).source.map(String::from).unwrap_or_default();
            if self.told.len() < MOST_REMEMBERED && self.told.insert(source.clone()) {
                found.push(Shared { source, signal_id: signal_id.to_owned() });
            }
        }
        found
    }

    /// Whether another record with this id says something else.
    fn differs(&mut self, batch: &Batch, signal: &Signal, signal_id: &str) -> bool {
        let said = self.content(batch, signal);
        if self.said.get(signal_id).is_some_and(|before| *before != said) {
            return true;
        }
        if self.said.len() >= MOST_REMEMBERED {
            self.said.clear();
        }
        self.said.insert(signal_id.to_owned(), said);
        let others = batch.signals().iter().filter(|other| batch.text(other.stated_id) == signal_id);
        others.take(MOST_COMPARED).any(|other| self.content(batch, other) != said)
    }

    /// The signal's own time, and each of its tickers with its direction. Not the record's time: a producer that is not sure sends a
    /// signal again.
    fn content(&self, batch: &Batch, signal: &Signal) -> u64 {
        let said = |mention: &crate::intake::Mention| (batch.text(mention.ticker), batch.text(mention.bias));
        let mentions: Vec<_> = batch.mentions(signal).iter().map(said).collect();
        let details = Details::read(batch.text(signal.payload));
        self.hasher.hash_one((mentions, details.timestamp.map(serde_json::value::RawValue::get)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::intake::Record;

    /// A batch of signals: id, ticker, time.
    fn batch(signals: &[(&str, &str, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (offset, (id, ticker, time)) in (0..).zip(signals) {
            let payload = format!(
                r#"{{"signal_id": "{id}", "source": "gen", "timestamp": "{time}", "tickers": [{{"ticker": "{ticker}", "signal": "BULLISH"}}]}}"#
            );
            // Kafka got each at another time.
            let (payload, headers) = (Some(payload.as_bytes()), Vec::new);
            let record = Record { partition: 0, offset, time_ms: offset, key: None, payload, headers: &headers };
            batch.push(&record, 1, 0, clock::now());
        }
        batch
    }

    fn of(source: &str, signal_id: &str) -> Vec<Shared> {
        vec![Shared { source: source.to_owned(), signal_id: signal_id.to_owned() }]
    }

    #[test]
    fn a_signal_that_is_sent_again_shares_nothing() {
        let mut ids = SharedIds::default();
        let again = batch(&[("a", "AAPL", "1"), ("a", "AAPL", "1"), ("b", "MSFT", "1")]);
        for _ in 0..3 {
            assert_eq!(ids.look(&again, [0, 1, 2].into_iter()), []);
        }
    }

    #[test]
    fn another_ticker_or_time_under_one_id_is_told_once_by_source() {
        for other in [("None", "MSFT", "1"), ("None", "AAPL", "2")] {
            let mut ids = SharedIds::default();
            let both = batch(&[("None", "AAPL", "1"), other]);
            assert_eq!(ids.look(&both, [0].into_iter()), of("gen", "None"), "{other:?}");
            assert_eq!(ids.look(&both, [0, 1].into_iter()), [], "once");
        }
    }

    #[test]
    fn records_of_different_batches_are_compared() {
        let mut ids = SharedIds::default();
        assert_eq!(ids.look(&batch(&[("1", "AAPL", "1")]), [0].into_iter()), []);
        assert_eq!(ids.look(&batch(&[("1", "AAPL", "2")]), [0].into_iter()), of("gen", "1"));
    }
}
