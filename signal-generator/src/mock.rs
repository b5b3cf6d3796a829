//! Random signals from a seed, for demos and load. The shape is a real cross's; the market behind it is made up.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use uuid::Builder;

use crate::cross::{Cross, Direction};
use crate::signal::{Signal, signal_json};
use crate::walk::unit;

/// An endless stream. Stable: the same seed and tickers give the same ids, tickers and numbers on every release.
#[derive(Debug, Clone)]
pub struct MockSignals {
    random: ChaCha8Rng,
    source: String,
    tickers: Vec<String>,
}

impl MockSignals {
    /// Signals of source `signal-generator` about these tickers.
    ///
    /// # Panics
    /// Without any ticker.
    pub fn new(seed: u64, tickers: Vec<String>) -> Self {
        assert!(!tickers.is_empty(), "mock signals need at least one ticker");
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { random, source: "signal-generator".to_owned(), tickers }
    }

    /// The same stream under another source's name.
    #[must_use]
    pub fn with_source(self, source: &str) -> Self {
        Self { source: source.to_owned(), ..self }
    }

    /// The next signal, stamped `now`: the Kafka key (its ticker) and the payload (its JSON).
    pub fn next(&mut self, now: Timestamp) -> (String, Vec<u8>) {
        let signal = self.signal(now);
        let payload = signal_json(&signal);
        let key = signal.tickers.into_iter().next().map(|entry| entry.ticker);
        (key.expect("a signal of a cross has one ticker"), payload)
    }

    fn signal(&mut self, now: Timestamp) -> Signal {
        let mut id = [0; 16];
        self.random.fill_bytes(&mut id);
        let ticker = usize::try_from(self.random.next_u64() % self.tickers.len() as u64);
        let ticker = &self.tickers[ticker.expect("an index below a length")];
        let (direction, sign) = match self.random.next_u64() & 1 {
            0 => (Direction::Golden, 1.0),
            _ => (Direction::Death, -1.0),
        };
        let slow = 10.0 + 490.0 * unit(&mut self.random);
        let gap = sign * 0.004 * unit(&mut self.random);
        let cross = Cross {
            date: now.to_zoned(TimeZone::UTC).date(),
            direction,
            close: slow,
            fast: slow * (1.0 + gap),
            slow,
            previous_gap: 0.0,
        };
        let mut signal = Signal::of_cross(&self.source, ticker, &cross, now);
        signal.signal_id = Builder::from_random_bytes(id).into_uuid();
        "mock signal: no market data behind it".clone_into(&mut signal.tickers[0].reasoning);
        signal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::HashSet;

    fn stream(seed: u64) -> Vec<(String, Value)> {
        let mut signals = MockSignals::new(seed, vec!["AAPL".to_owned(), "MSFT".to_owned()]);
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut next = || signals.next(now);
        (0..1_000).map(|_| next()).map(|(key, json)| (key, serde_json::from_slice(&json).unwrap())).collect()
    }

    #[test]
    fn a_seed_means_the_same_signals_and_another_seed_others() {
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1)[0].1["signal_id"], stream(2)[0].1["signal_id"]);
        assert_eq!(stream(1)[0].1["signal_id"], "b10da48c-ea4c-4967-ab8e-0efcd8069414");
    }

    #[test]
    fn every_mock_signal_has_a_fresh_id_its_ticker_as_key_and_a_confidence_in_range() {
        let mut ids = HashSet::new();
        let mut kinds = HashSet::new();
        for (key, signal) in stream(3) {
            let entry = &signal["tickers"][0];
            assert_eq!(entry["ticker"], key.as_str());
            assert!((0.0..=100.0).contains(&entry["confidence"].as_f64().unwrap()), "{signal}");
            assert_eq!(signal["timestamp"], "2026-01-02T03:04:05Z");
            kinds.insert((key, signal["signal_type"].to_string(), entry["signal"].to_string()));
            assert!(ids.insert(signal["signal_id"].to_string()), "{signal}");
        }
        assert_eq!(kinds.len(), 4, "two tickers, each golden and bullish, and death and bearish: {kinds:?}");
    }
}
