//! The signals that are sent: 281 bytes of JSON with one ticker, made from a seed.

use std::fmt::Write as _;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The size of a signal, in bytes.
pub(crate) const BYTES: usize = 281;
/// Tickers that signals speak of.
pub(crate) const TICKERS: u32 = 5_000;

/// A random generator that gives the same for the same seed and purpose.
pub(crate) fn random(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(purpose);
    random
}

/// A number below `bound`.
pub(crate) fn below(random: &mut ChaCha8Rng, bound: u32) -> u32 {
    // The upper half of a product: as even as 32 bits can be, without a division.
    u32::try_from((u64::from(random.next_u32()) * u64::from(bound)) >> 32).unwrap_or_default()
}

/// The name of a ticker.
pub(crate) fn ticker(number: u32) -> String {
    format!("T{number:04}")
}

/// How often each ticker is spoken of, and watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spread {
    /// Each as often as any other.
    Uniform,
    /// The second half as often as the first, the third a third as often, …
    Zipf,
}

/// Draws numbers of tickers.
#[derive(Debug)]
pub(crate) struct Draw {
    bound: u32,
    /// For Zipf: the shares of all tickers up to each one, of `u32::MAX`.
    shares: Vec<u32>,
}

impl Draw {
    /// Draws below `bound`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of u32::MAX")]
    pub(crate) fn new(spread: Spread, bound: u32) -> Self {
        let weight = |rank: u32| 1.0 / f64::from(rank);
        let sum: f64 = (1..=bound).map(weight).sum();
        let up_to = |so_far: &mut f64, rank: u32| {
            *so_far += weight(rank);
            Some((*so_far / sum * f64::from(u32::MAX)) as u32)
        };
        let shares = match spread {
            Spread::Uniform => Vec::new(),
            Spread::Zipf => (1..=bound).scan(0.0, up_to).collect(),
        };
        Self { bound, shares }
    }

    pub(crate) fn next(&self, random: &mut ChaCha8Rng) -> u32 {
        if self.shares.is_empty() {
            return below(random, self.bound);
        }
        let drawn = random.next_u32();
        let position = self.shares.partition_point(|share| *share < drawn);
        u32::try_from(position).unwrap_or_default().min(self.bound - 1)
    }
}

/// An endless stream of signals.
#[derive(Debug)]
pub(crate) struct Signals {
    random: ChaCha8Rng,
    draw: Draw,
    text: String,
}

impl Signals {
    pub(crate) fn new(seed: u64, spread: Spread) -> Self {
        Self { random: random(seed, 1), draw: Draw::new(spread, TICKERS), text: String::with_capacity(BYTES) }
    }

    /// The next one. Its id says when it was due, in nanoseconds since the start of the run, and which one it is.
    pub(crate) fn next(&mut self, due_ns: u64, number: u64) -> &str {
        let ticker = self.draw.next(&mut self.random);
        let (confidence, price) = (below(&mut self.random, 900) + 100, below(&mut self.random, 90_000) + 10_000);
        self.text.clear();
        write!(
            self.text,
            r#"{{"signal_id":"{due_ns:015}-{number:08}","signal_type":"golden_cross","source":"bench","timestamp":"2026-01-05T14:30:00Z","tickers":[{{"ticker":"T{ticker:04}","signal":"BULLISH","confidence":{}.{},"reasoning":"SMA 50 above SMA 200"}}],"metadata":{{"sma_50":{}.{:02},"timeframe":"1d","note":""#,
            confidence / 10,
            confidence % 10,
            price / 100,
            price % 100,
        )
        .expect("writing to a String cannot fail");
        let rest = BYTES.saturating_sub(self.text.len() + r#""}}"#.len());
        for _ in 0..rest {
            self.text.push(char::from(b'a' + u8::try_from(below(&mut self.random, 16)).unwrap_or_default()));
        }
        self.text.push_str(r#""}}"#);
        &self.text
    }
}

/// When a signal was due, by its id.
pub(crate) fn due_ns(signal_id: &str) -> Option<u64> {
    signal_id.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_json_of_the_same_size_and_tells_when_it_was_due() {
        let mut signals = Signals::new(7, Spread::Uniform);
        for number in 0..2_000 {
            let text = signals.next(number * 1_000_003, number);
            assert_eq!(text.len(), BYTES, "{text}");
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(due_ns(value["signal_id"].as_str().unwrap()), Some(number * 1_000_003));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_signals() {
        let signals = |seed| Signals::new(seed, Spread::Zipf);
        let (mut first, mut second, mut other) = (signals(1), signals(1), signals(2));
        assert_eq!(first.next(5, 6), second.next(5, 6));
        assert_ne!(first.next(5, 7), other.next(5, 7));
    }

    #[test]
    fn by_zipf_the_first_ticker_comes_twice_as_often_as_the_second_and_the_last_comes_too() {
        let (draw, mut random) = (Draw::new(Spread::Zipf, 100), random(3, 9));
        let mut counts = [0_u32; 100];
        for _ in 0..200_000 {
            counts[usize::try_from(draw.next(&mut random)).unwrap()] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }
}
