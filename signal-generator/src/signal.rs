//! The record that leaves: its JSON, its id, its confidence. Pure.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde::Serialize;
use uuid::Uuid;

use crate::cross::{Cross, Direction};

/// How the dispatcher and the platform name a cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the two directions, by their names on the wire")]
pub enum SignalType {
    GoldenCross,
    DeathCross,
}

/// Which way to trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the two biases, by their names on the wire")]
pub enum Bias {
    Bullish,
    Bearish,
}

/// One Kafka record, ready to be encoded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Signal {
    /// The same for the same source, type, ticker and bar, always.
    pub signal_id: Uuid,
    /// Golden or death cross.
    pub signal_type: SignalType,
    /// Who says so.
    pub source: String,
    /// ISO 8601, UTC.
    pub timestamp: String,
    /// One entry.
    pub tickers: Vec<TickerSignal>,
    /// The numbers behind it.
    pub metadata: Metadata,
}

/// What is said of one ticker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields of the published shape; confidence is 0 to 100")]
pub struct TickerSignal {
    pub ticker: String,
    pub signal: Bias,
    pub confidence: f64,
    pub reasoning: String,
}

/// Prices in the ticker's currency; `bar_date` is the exchange's day.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields of the published shape")]
pub struct Metadata {
    pub sma_50: f64,
    pub sma_200: f64,
    pub timeframe: &'static str,
    pub bar_date: String,
    pub close: f64,
}

impl Direction {
    /// Its name on the wire.
    pub fn signal_type(self) -> SignalType {
        match self {
            Self::Golden => SignalType::GoldenCross,
            Self::Death => SignalType::DeathCross,
        }
    }

    /// Its bias on the wire.
    pub fn bias(self) -> Bias {
        match self {
            Self::Golden => Bias::Bullish,
            Self::Death => Bias::Bearish,
        }
    }
}

impl SignalType {
    /// `golden_cross` or `death_cross`.
    pub fn name(self) -> &'static str {
        match self {
            Self::GoldenCross => "golden_cross",
            Self::DeathCross => "death_cross",
        }
    }
}

impl Signal {
    /// The signal of a cross.
    pub fn of_cross(source: &str, ticker: &str, cross: &Cross, timestamp: Timestamp) -> Self {
        let signal_type = cross.direction.signal_type();
        Self {
            signal_id: signal_id(source, signal_type, ticker, cross.date),
            signal_type,
            source: source.to_owned(),
            timestamp: timestamp.to_string(),
            tickers: vec![TickerSignal {
                ticker: ticker.to_owned(),
                signal: cross.direction.bias(),
                confidence: confidence(cross),
                reasoning: reasoning(cross),
            }],
            metadata: Metadata {
                sma_50: round(cross.fast, 6),
                sma_200: round(cross.slow, 6),
                timeframe: "1d",
                bar_date: cross.date.to_string(),
                close: cross.close,
            },
        }
    }
}

/// One line of JSON.
pub fn signal_json(signal: &Signal) -> Vec<u8> {
    serde_json::to_vec(signal).expect("strings, numbers and lists always have a JSON form")
}

/// uuid5 of source, type, ticker and day: the same bar never has two ids. None of the four holds a line feed.
pub fn signal_id(source: &str, signal_type: SignalType, ticker: &str, date: Date) -> Uuid {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"urn:signal-generator:signal");
    let name = format!("{source}\n{}\n{ticker}\n{date}", signal_type.name());
    Uuid::new_v5(&namespace, name.as_bytes())
}

/// 50 to 100, one decimal: how fast the averages pass each other.
///
/// With *s* the change of (fast − slow) / slow over the crossing bar, in the direction of the cross:
/// `50 + 50 · s / (s + 0.001)`. A creeping cross is worth 50, a change of 0.1 % in one day 75, and 100 is approached only.
pub fn confidence(cross: &Cross) -> f64 {
    const HALF_WAY: f64 = 0.001;
    let speed = (cross.gap() - cross.previous_gap).abs();
    round(50.0 + 50.0 * speed / (speed + HALF_WAY), 1)
}

/// When a bar's signal speaks: at the end of the bar's day (UTC), but never in the future. So an old cross that a first
/// replay finds is an old signal, and whoever refuses stale signals does not trade on it.
pub fn bar_timestamp(date: Date, now: Timestamp) -> Timestamp {
    let end = date.checked_add(1.day()).ok().and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    end.map_or(now, |end| end.timestamp().min(now))
}

fn reasoning(cross: &Cross) -> String {
    let (verb, preposition) = match cross.direction {
        Direction::Golden => ("rose", "above"),
        Direction::Death => ("fell", "below"),
    };
    let (fast, slow, date) = (cross.fast, cross.slow, cross.date);
    format!("SMA 50 ({fast:.4}) {verb} {preposition} SMA 200 ({slow:.4}) at the close of {date}")
}

fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn cross(direction: Direction, previous_gap: f64, fast: f64) -> Cross {
        Cross { date: date(2024, 5, 3), direction, close: 101.5, fast, slow: 100.0, previous_gap }
    }

    #[test]
    fn the_json_has_the_published_shape_and_nothing_else() {
        let golden = cross(Direction::Golden, -0.0005, 100.05);
        let signal = Signal::of_cross("signal-generator", "AAPL", &golden, "2024-05-03T21:30:00Z".parse().unwrap());
        let expected = concat!(
            r#"{"signal_id":"e5e77fbc-325e-544e-b0db-5704434e2683","signal_type":"golden_cross","source":"signal-generator","#,
            r#""timestamp":"2024-05-03T21:30:00Z","tickers":[{"ticker":"AAPL","signal":"BULLISH","confidence":75.0,"#,
            r#""reasoning":"SMA 50 (100.0500) rose above SMA 200 (100.0000) at the close of 2024-05-03"}],"#,
            r#""metadata":{"sma_50":100.05,"sma_200":100.0,"timeframe":"1d","bar_date":"2024-05-03","close":101.5}}"#,
        );
        assert_eq!(String::from_utf8(signal_json(&signal)).unwrap(), expected);

        let death = Signal::of_cross("x", "AAPL", &cross(Direction::Death, 0.0, 99.9), Timestamp::UNIX_EPOCH);
        assert_eq!((death.signal_type, death.tickers[0].signal), (SignalType::DeathCross, Bias::Bearish));
        assert!(death.tickers[0].reasoning.contains("fell below"), "{death:?}");
    }

    #[test]
    fn the_id_depends_on_source_type_ticker_and_day_and_on_nothing_else() {
        let id = |source, kind, ticker, day| signal_id(source, kind, ticker, date(2024, 5, day));
        let base = id("a", SignalType::GoldenCross, "T", 3);
        assert_eq!(base, id("a", SignalType::GoldenCross, "T", 3));
        let others = [
            id("b", SignalType::GoldenCross, "T", 3),
            id("a", SignalType::DeathCross, "T", 3),
            id("a", SignalType::GoldenCross, "U", 3),
            id("a", SignalType::GoldenCross, "T", 4),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn confidence_grows_with_the_speed_of_the_cross_in_both_directions() {
        let golden = |speed: f64| confidence(&cross(Direction::Golden, 0.0, 100.0 * (1.0 + speed)));
        let death = |speed: f64| confidence(&cross(Direction::Death, 0.0, 100.0 * (1.0 - speed)));
        let speeds = [0.0, 0.0001, 0.001, 0.01, 1.0];
        let expected = [50.0, 54.5, 75.0, 95.5, 100.0];
        for (speed, expected) in speeds.into_iter().zip(expected) {
            assert_eq!((golden(speed), death(speed)), (expected, expected), "{speed}");
        }
    }

    #[test]
    fn a_bar_speaks_at_the_end_of_its_day_but_never_in_the_future() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let cases = [
            ("2024-05-03T21:30:00Z", "2024-05-03T21:30:00Z"),
            ("2024-05-04T06:00:00Z", "2024-05-04T00:00:00Z"),
            ("2030-01-01T00:00:00Z", "2024-05-04T00:00:00Z"),
        ];
        for (now, expected) in cases {
            assert_eq!(bar_timestamp(date(2024, 5, 3), at(now)), at(expected), "{now}");
        }
        assert_eq!(bar_timestamp(date(9999, 12, 31), at("2024-01-01T00:00:00Z")), at("2024-01-01T00:00:00Z"));
    }
}
