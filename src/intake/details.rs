//! The rest of what a signal said, read a second time from its payload: decoding every record so far would cost too much.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::decode::Text;

const MAX_METADATA_BYTES: usize = 16 * 1024;

/// The rest of what a signal said, read again for the few that become a task.
#[derive(Debug, Default)]
pub struct Details<'a> {
    /// Who says so.
    pub source: Option<Cow<'a, str>>,
    /// When, as JSON: a text or a number.
    pub timestamp: Option<&'a RawValue>,
    /// The signal's own object, as JSON; none that is larger than 16 KiB.
    pub metadata: Option<&'a RawValue>,
    /// The same of any size: its timeframe counts though the rest goes into no task.
    whole_metadata: Option<&'a RawValue>,
    /// For each mention of the signal, in order, its `reasoning` as JSON. Empty unless read by [`Details::with_reasoning`].
    pub reasoning: Vec<Option<&'a RawValue>>,
}

impl<'a> Details<'a> {
    /// Reads a payload that decoding has accepted.
    pub fn read(payload: &'a str) -> Self {
        Self::fields::<IgnoredAny>(payload, |_| Vec::new())
    }

    /// The same with the reasoning, which costs more: matching never needs it.
    pub fn with_reasoning(payload: &'a str) -> Self {
        Self::fields::<Vec<Entry<'a>>>(payload, |entries| {
            entries.into_iter().filter(|entry| entry.is_mention).map(|entry| entry.reasoning).collect()
        })
    }

    fn fields<T: Deserialize<'a> + Default>(payload: &'a str, reasoning: impl Fn(T) -> Vec<Option<&'a RawValue>>) -> Self {
        #[derive(Deserialize)]
        #[serde(bound(deserialize = "T: Deserialize<'de> + Default"))]
        struct Fields<'a, T> {
            #[serde(borrow, default)]
            source: Option<&'a RawValue>,
            #[serde(borrow, default)]
            timestamp: Option<&'a RawValue>,
            #[serde(borrow, default)]
            metadata: Option<&'a RawValue>,
            #[serde(default)]
            tickers: T,
        }
        // A payload whose optional fields stand there twice has no details; it is still a signal.
        let Ok(fields) = serde_json::from_str::<Fields<'a, T>>(payload) else { return Self::default() };
        let source = fields.source.and_then(|raw| serde_json::from_str::<Text<'a>>(raw.get()).ok());
        let whole_metadata = fields.metadata.filter(|raw| raw.get().starts_with('{'));
        let metadata = whole_metadata.filter(|raw| raw.get().len() <= MAX_METADATA_BYTES);
        let (source, reasoning) = (source.map(|text| text.0), reasoning(fields.tickers));
        Self { source, timestamp: fields.timestamp, metadata, whole_metadata, reasoning }
    }

    /// The timeframe in the metadata.
    pub fn timeframe(&self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            timeframe: Option<&'a RawValue>,
        }
        let raw = serde_json::from_str::<Fields<'a>>(self.whole_metadata?.get()).ok()?.timeframe?;
        serde_json::from_str::<Text<'a>>(raw.get()).ok().map(|text| text.0)
    }
}

/// An entry of a signal's `tickers`.
struct Entry<'a> {
    /// Whether decoding made a mention of it: it passes over entries without a symbol.
    is_mention: bool,
    reasoning: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entry<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

/// Written by hand: serde's own reader would refuse a payload in which `reasoning` stands twice.
struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a ticker object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Ticker,
            Reasoning,
            #[serde(other)]
            Other,
        }
        let mut entry = Entry { is_mention: false, reasoning: None };
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Ticker => {
                    entry.is_mention = map.next_value::<Option<Text<'de>>>()?.is_some_and(|text| !text.0.trim().is_empty());
                }
                Field::Reasoning => entry.reasoning = Some(map.next_value()?),
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_timestamp_and_metadata_are_read_as_they_are_written() {
        let details =
            Details::read(r#"{"source": "scan\u006eer", "timestamp": 17.50, "metadata": {"a":  [1], "timeframe": " 1\u0064"}}"#);
        assert_eq!(details.source.as_deref(), Some("scanner"));
        assert_eq!(details.timestamp.map(RawValue::get), Some("17.50"));
        assert_eq!(details.metadata.map(RawValue::get), Some(r#"{"a":  [1], "timeframe": " 1\u0064"}"#));
        assert_eq!(details.timeframe().as_deref(), Some(" 1d"));
    }

    #[test]
    fn what_is_missing_or_makes_no_sense_is_left_out_by_itself() {
        for payload in [
            r"{}",
            r#"{"source": null, "timestamp": null, "metadata": null}"#,
            r#"{"source": 7, "metadata": [1]}"#,
            r#"{"metadata": "x"}"#,
        ] {
            let details = Details::read(payload);
            assert_eq!((details.source, details.timestamp.map(RawValue::get)), (None, None), "{payload}");
            assert!(details.metadata.is_none(), "{payload}");
        }
        for metadata in [r#"{"timeframe": 7}"#, r#"{"timeframe": null}"#, r#"{"timeframe": "1d", "timeframe": "1h"}"#, "{}"] {
            let payload = format!(r#"{{"source": "s", "metadata": {metadata}}}"#);
            let details = Details::read(&payload);
            assert_eq!((details.timeframe(), details.metadata.map(RawValue::get)), (None, Some(metadata)));
        }
    }

    #[test]
    fn metadata_of_16_kib_is_kept_and_one_byte_more_is_left_out() {
        let payload = |bytes: usize| format!(r#"{{"source": "s", "metadata": {{"a": "{}"}}}}"#, "x".repeat(bytes - 9));
        let metadata = |bytes| Details::read(&payload(bytes)).metadata.map(|raw| raw.get().len());
        assert_eq!((metadata(16 * 1024), metadata(16 * 1024 + 1)), (Some(16 * 1024), None));
        assert_eq!(Details::read(&payload(16 * 1024 + 1)).source.as_deref(), Some("s"));
    }

    #[test]
    fn the_timeframe_counts_however_large_the_metadata_is() {
        let payload = format!(r#"{{"metadata": {{"a": "{}", "timeframe": "1d"}}}}"#, "x".repeat(100_000));
        let details = Details::read(&payload);
        assert_eq!((details.timeframe().as_deref(), details.metadata.map(RawValue::get)), (Some("1d"), None));
    }

    #[test]
    fn fields_that_stand_there_twice_cost_the_details() {
        let details = Details::read(r#"{"source": "a", "source": "b", "timestamp": 1}"#);
        assert!(details.source.is_none() && details.timestamp.is_none());
    }

    #[test]
    fn reasoning_is_read_for_each_mention_and_only_on_demand() {
        let payload = r#"{"source": "s", "tickers": [{"ticker": "A", "reasoning": "one"}, {"ticker": " ", "reasoning": "no mention"},
            {"reasoning": "none either", "ticker": null}, {"signal": "x"}, {"ticker": "B"}, {"reasoning": 7, "ticker": "C"},
            {"ticker": "D", "reasoning": "first", "reasoning": "last"}]}"#;
        let reasoning =
            |details: Details<'static>| -> Vec<_> { details.reasoning.iter().map(|raw| raw.map(RawValue::get)).collect() };
        let expected = [Some(r#""one""#), None, Some("7"), Some(r#""last""#)];
        assert_eq!(reasoning(Details::with_reasoning(payload)), expected);
        assert_eq!(reasoning(Details::read(payload)), []);
        assert_eq!(Details::with_reasoning(payload).source.as_deref(), Some("s"));
    }
}
