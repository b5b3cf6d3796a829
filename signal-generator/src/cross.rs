//! SMA 50 against SMA 200, and the bar at which one passes the other. Pure; one ticker per detector.
//!
//! The averages are those of the crate `yata`. `ta` 0.5 was the other candidate: it has no dependency, but its last
//! release is from 2021, while `yata` 0.7 is younger and under work. Both keep a running value, which drifts by rounding
//! in the last digits; on flat prices that noise alone would look like crosses. So averages that differ by
//! less than one part in 10⁹ count as equal, which no real price step reaches (a proptest compares with exact integers).

use jiff::civil::Date;
use yata::core::Method;
use yata::methods::SMA;

use crate::bar::Bar;

/// Bars in the fast average.
pub const FAST: u8 = 50;
/// Bars in the slow average.
pub const SLOW: u8 = 200;
/// Relative difference below which the two averages count as equal.
const EQUAL: f64 = 1e-9;

/// Which way the fast average went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From at or below the slow average to above it.
    Golden,
    /// From at or above the slow average to below it.
    Death,
}

/// The fast average passed the slow one at the close of this bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cross {
    /// Day of the bar.
    pub date: Date,
    /// Which way.
    pub direction: Direction,
    /// Close of the bar.
    pub close: f64,
    /// Fast average, this bar included.
    pub fast: f64,
    /// Slow average, this bar included.
    pub slow: f64,
    /// (fast − slow) / slow one bar before.
    pub previous_gap: f64,
}

impl Cross {
    /// (fast − slow) / slow.
    pub fn gap(&self) -> f64 {
        gap(self.fast, self.slow)
    }
}

/// Give it each bar of one ticker, oldest first.
#[derive(Debug, Default)]
pub struct CrossDetector {
    averages: Option<(SMA, SMA)>,
    bars: usize,
    previous_gap: Option<f64>,
}

impl CrossDetector {
    /// Returns the cross that this bar completes. The first one possible is at bar 201:
    /// two consecutive bars must have both windows full.
    pub fn push(&mut self, bar: &Bar) -> Option<Cross> {
        let (fast, slow) = self.average(bar.close);
        self.bars += 1;
        if self.bars < usize::from(SLOW) {
            return None;
        }
        let gap_now = gap(fast, slow);
        let previous_gap = self.previous_gap.replace(gap_now)?;
        let direction = direction(previous_gap, gap_now)?;
        Some(Cross { date: bar.date, direction, close: bar.close, fast, slow, previous_gap })
    }

    fn average(&mut self, close: f64) -> (f64, f64) {
        // yata fills its window with the first value; until the window is full nobody looks at the result.
        let (fast, slow) = self.averages.get_or_insert_with(|| {
            let new = |length| SMA::new(length, &close).expect("a window of at least one bar is valid");
            (new(FAST), new(SLOW))
        });
        (fast.next(&close), slow.next(&close))
    }
}

fn gap(fast: f64, slow: f64) -> f64 {
    (fast - slow) / slow
}

fn direction(before: f64, now: f64) -> Option<Direction> {
    if before <= EQUAL && now > EQUAL {
        Some(Direction::Golden)
    } else if before >= -EQUAL && now < -EQUAL {
        Some(Direction::Death)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bars(cents: &[i64]) -> impl Iterator<Item = Bar> {
        let mut date = jiff::civil::date(2000, 1, 3);
        cents.iter().map(move |&cents| {
            date = date.tomorrow().unwrap();
            let price = cents as f64 / 100.0;
            Bar { date, open: price, high: price, low: price, close: price, volume: 1.0 }
        })
    }

    fn detected(cents: &[i64]) -> Vec<(usize, Direction)> {
        let mut detector = CrossDetector::default();
        let found = bars(cents).enumerate().filter_map(|(at, bar)| Some((at, detector.push(&bar)?.direction)));
        found.collect()
    }

    /// The definition itself, in whole cents: no rounding anywhere.
    fn oracle(cents: &[i64]) -> Vec<(usize, Direction)> {
        let side = |end: usize| {
            let sum = |length: usize| cents[end - length..end].iter().sum::<i64>();
            (4 * sum(50)).cmp(&sum(200))
        };
        let mut found = Vec::new();
        for end in 201..=cents.len() {
            match (side(end - 1), side(end)) {
                (std::cmp::Ordering::Less | std::cmp::Ordering::Equal, std::cmp::Ordering::Greater) => {
                    found.push((end - 1, Direction::Golden));
                }
                (std::cmp::Ordering::Greater | std::cmp::Ordering::Equal, std::cmp::Ordering::Less) => {
                    found.push((end - 1, Direction::Death));
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn nothing_is_said_before_both_windows_were_full_twice() {
        let mut cents = vec![10_000; 199];
        cents.push(20_000);
        assert_eq!(detected(&cents), [], "bar 200 has no full window before it");
        let mut cents = vec![10_000; 200];
        cents.push(20_000);
        assert_eq!(detected(&cents), [(200, Direction::Golden)]);
        cents[200] = 5_000;
        assert_eq!(detected(&cents), [(200, Direction::Death)]);
    }

    #[test]
    fn flat_prices_never_cross_however_they_round() {
        for cents in [1, 7, 10, 33_333, 123_456_789] {
            assert_eq!(detected(&vec![cents; 20_000]), [], "{cents}");
        }
    }

    #[test]
    fn a_cross_carries_the_averages_of_its_bar() {
        let mut cents = vec![10_000; 200];
        cents.push(20_000);
        let mut detector = CrossDetector::default();
        let cross = bars(&cents).filter_map(|bar| detector.push(&bar)).last().unwrap();
        assert!((cross.fast - 102.0).abs() < 1e-9 && (cross.slow - 100.5).abs() < 1e-9, "{cross:?}");
        assert!(cross.previous_gap.abs() < 1e-12 && (cross.gap() - 1.5 / 100.5).abs() < 1e-12);
        assert!((cross.close - 200.0).abs() < f64::EPSILON);
    }

    /// Runs of rising, falling and flat prices: single random prices would hardly ever cross or touch.
    fn price_runs() -> impl Strategy<Value = Vec<i64>> {
        let run = (1_usize..80, -40_i64..=40);
        (1_000_i64..200_000, prop::collection::vec(run, 5..30)).prop_map(|(mut price, runs)| {
            let mut cents = Vec::new();
            for (length, step) in runs {
                for _ in 0..length {
                    price = (price + step).max(1);
                    cents.push(price);
                }
            }
            cents
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_detector_agrees_with_the_definition_in_whole_cents(cents in price_runs()) {
            prop_assert_eq!(detected(&cents), oracle(&cents));
        }
    }
}
