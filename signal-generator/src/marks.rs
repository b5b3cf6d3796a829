//! What has been emitted already: for each signal type and ticker the day of the newest emitted bar.
//!
//! Pure. The marks of a source live in Kafka (see [`crate::kafka::transactions`]); here are their meaning and their bytes.
//! A cross counts as emitted when its day is not after the mark: reading all bars again from the start finds every old
//! cross again, and none of them passes.

use std::collections::HashMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::cross::{Cross, Direction};

/// The marks of one source.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Marks(HashMap<(Direction, String), Date>);

/// One record of the state topic, as far as its key tells.
#[derive(Debug, Clone, PartialEq)]
pub enum StateKey {
    /// `["source"]`: written at each start, to know when all before it has been read.
    Started(String),
    /// `["source","golden_cross","AAPL"]`.
    Mark(String, Direction, String),
}

#[derive(Serialize, Deserialize)]
struct MarkValue {
    date: String,
}

impl Marks {
    /// True, and marked, if this cross is new; false if it or a later one of its kind has been emitted.
    pub fn pass(&mut self, ticker: &str, cross: &Cross) -> bool {
        let key = (cross.direction, ticker.to_owned());
        let new = self.0.get(&key).is_none_or(|&marked| cross.date > marked);
        if new {
            self.0.insert(key, cross.date);
        }
        new
    }

    /// Takes over a mark from the state topic; none means that an operator has deleted it.
    pub fn set(&mut self, direction: Direction, ticker: String, date: Option<Date>) {
        match date {
            Some(date) => self.0.insert((direction, ticker), date),
            None => self.0.remove(&(direction, ticker)),
        };
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was ever emitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl StateKey {
    /// A JSON list of strings: readable, and unambiguous whatever the names hold.
    pub fn encode(&self) -> Vec<u8> {
        let parts = match self {
            Self::Started(source) => vec![source.as_str()],
            Self::Mark(source, direction, ticker) => {
                vec![source, direction.signal_type().name(), ticker]
            }
        };
        serde_json::to_vec(&parts).expect("a list of strings always has a JSON form")
    }

    /// `None`: not a key of ours.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let parts: Vec<String> = serde_json::from_slice(key).ok()?;
        match <[String; 3]>::try_from(parts) {
            Ok([source, kind, ticker]) => {
                let direction = [Direction::Golden, Direction::Death].into_iter();
                let direction = direction.into_iter().find(|one| one.signal_type().name() == kind)?;
                Some(Self::Mark(source, direction, ticker))
            }
            Err(parts) => <[String; 1]>::try_from(parts).ok().map(|[source]| Self::Started(source)),
        }
    }
}

/// `{"date":"2024-05-03"}`
pub fn encode_mark(date: Date) -> Vec<u8> {
    serde_json::to_vec(&MarkValue { date: date.to_string() }).expect("one string always has a JSON form")
}

/// `None`: not a mark of ours.
pub fn decode_mark(value: &[u8]) -> Option<Date> {
    let value: MarkValue = serde_json::from_slice(value).ok()?;
    crate::bar::parse_date(&value.date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn cross(direction: Direction, day: i8) -> Cross {
        Cross { date: date(2024, 1, day), direction, close: 1.0, fast: 1.0, slow: 1.0, previous_gap: 0.0 }
    }

    #[test]
    fn a_bar_passes_once_and_nothing_before_it_passes_after_it() {
        let mut marks = Marks::default();
        assert!(marks.pass("A", &cross(Direction::Golden, 5)));
        assert!(!marks.pass("A", &cross(Direction::Golden, 5)));
        assert!(!marks.pass("A", &cross(Direction::Golden, 4)));
        assert!(marks.pass("A", &cross(Direction::Golden, 6)));
        assert!(marks.pass("A", &cross(Direction::Death, 5)), "each type has its own mark");
        assert!(marks.pass("B", &cross(Direction::Golden, 5)), "each ticker has its own mark");
        marks.set(Direction::Golden, "A".to_owned(), None);
        assert!(marks.pass("A", &cross(Direction::Golden, 5)), "a deleted mark lets it pass again");
    }

    #[test]
    fn keys_and_marks_survive_their_bytes_and_strangers_are_told_apart() {
        let keys = [
            StateKey::Started("a \"quoted\", source".to_owned()),
            StateKey::Mark("s".to_owned(), Direction::Golden, "BRK.B".to_owned()),
            StateKey::Mark("s".to_owned(), Direction::Death, "^GSPC".to_owned()),
        ];
        for key in keys {
            assert_eq!(StateKey::decode(&key.encode()), Some(key));
        }
        for stranger in ["", "{}", "[]", "[\"a\",\"b\"]", "[\"a\",\"macd\",\"T\"]", "[1]"] {
            assert_eq!(StateKey::decode(stranger.as_bytes()), None, "{stranger}");
        }
        assert_eq!(decode_mark(&encode_mark(date(2024, 5, 3))), Some(date(2024, 5, 3)));
        assert_eq!(decode_mark(b"{\"date\":\"soon\"}"), None);
    }
}
