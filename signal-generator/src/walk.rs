//! Made-up daily bars from a seed. Stable: the same seed and ticker give the same bars on every machine and release,
//! because only `ChaCha8`'s bits, additions, multiplications and divisions are used, none of a library's distributions.

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::bar::Bar;

/// Prices stay within these, in the ticker's currency, so that a walk never dies or explodes.
const CHEAP: f64 = 5.0;
const DEAR: f64 = 2_000.0;

/// Weekday bars in alternating rising and falling stretches of 40 to 160 bars: a cross about every 150 bars.
#[derive(Debug, Clone)]
pub struct RandomWalk {
    random: ChaCha8Rng,
    date: Date,
    close: f64,
    drift: f64,
    bars_left: u64,
}

impl RandomWalk {
    /// One ticker's walk from the first weekday on or after `start`. It ends with the calendar (year 9999).
    pub fn new(seed: u64, ticker: &str, start: Date) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(ticker));
        let close = 20.0 + 180.0 * unit(&mut random);
        let drift = if random.next_u64() & 1 == 0 { 0.001 } else { -0.001 };
        Self { random, date: start, close, drift, bars_left: 0 }
    }

    fn step(&mut self) -> f64 {
        if self.bars_left == 0 {
            let strength = 0.001 + 0.004 * unit(&mut self.random);
            self.drift = if self.drift > 0.0 { -strength } else { strength };
            self.bars_left = 40 + self.random.next_u64() % 121;
        }
        self.bars_left -= 1;
        let drift = match self.close {
            close if close < CHEAP => self.drift.abs(),
            close if close > DEAR => -self.drift.abs(),
            _ => self.drift,
        };
        drift + 0.012 * (2.0 * unit(&mut self.random) - 1.0)
    }
}

impl Iterator for RandomWalk {
    type Item = Bar;

    fn next(&mut self) -> Option<Bar> {
        while matches!(self.date.weekday(), Weekday::Saturday | Weekday::Sunday) {
            self.date = self.date.tomorrow().ok()?;
        }
        let date = self.date;
        let open = self.close;
        let close = cents(open * (1.0 + self.step()));
        let high = cents(open.max(close) * (1.0 + 0.01 * unit(&mut self.random)));
        let low = cents(open.min(close) * (1.0 - 0.01 * unit(&mut self.random)));
        let volume = (100_000 + self.random.next_u64() % 9_900_001) as f64;
        self.close = close;
        self.date = date.checked_add(1.day()).ok()?;
        Some(Bar { date, open: cents(open), high, low, close, volume })
    }
}

/// From 0 up to but not including 1, in steps of 2⁻⁵³.
pub(crate) fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn cents(price: f64) -> f64 {
    ((price * 100.0).round() / 100.0).max(0.01)
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross::Direction;
    use crate::series::Series;
    use jiff::civil::date;

    #[test]
    fn a_seed_means_the_same_bars_for_ever() {
        let bars: Vec<Bar> = RandomWalk::new(7, "AAPL", date(2020, 1, 4)).take(3).collect();
        let closes: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.date, bar.close)).collect();
        assert_eq!(closes, ["2020-01-06 156.91", "2020-01-07 156.59", "2020-01-08 156.3"]);
    }

    #[test]
    fn every_bar_is_good_and_both_crosses_come_often() {
        let (mut golden, mut death) = (0, 0);
        for ticker in crate::ticker::made_up(20) {
            let mut series = Series::default();
            for bar in RandomWalk::new(1, &ticker, date(2000, 1, 1)).take(2_500) {
                match series.push(&bar).expect("a good bar").map(|cross| cross.direction) {
                    Some(Direction::Golden) => golden += 1,
                    Some(Direction::Death) => death += 1,
                    None => {}
                }
            }
        }
        assert!(golden > 150 && death > 150, "{golden} golden and {death} death crosses in 20 × 2,500 bars");
    }
}
