//! One record's bytes into a signal of the batch. Pure: the same bytes always give the same signal or the same reason.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::batch::{Batch, Mention, Signal, Span};
use super::rejected::Reason;

mod quick;

/// The largest payload that is looked at, in bytes.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;
/// A header that holds the id of a record which states none: a dead letter that is sent again keeps the id of its first place.
pub const ID_HEADER: &str = "trigger-dispatcher-signal-id";
/// A header that holds the time of a record, in milliseconds since 1970, where the broker would set another one.
pub const TIME_HEADER: &str = "trigger-dispatcher-time";
const MAX_DEPTH: usize = 32;
const MAX_TICKERS: usize = 1_000;
const MAX_TICKER_CHARS: usize = 64;
const MAX_TEXT_BYTES: usize = 512;

/// A Kafka record as the client library lends it.
pub struct Record<'a> {
    /// The partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970.
    pub time_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The payload.
    pub payload: Option<&'a [u8]>,
    /// Copies the headers; called only for a record that is rejected, or that states no id.
    pub headers: &'a dyn Fn() -> Vec<(String, Option<Vec<u8>>)>,
}

/// Adds the record's signal to the batch, or leaves the batch's signals as they were.
pub(super) fn decode(record: &Record<'_>, batch: &mut Batch) -> Result<(), Reason> {
    let text = readable(record.payload)?;
    let (text_length, mention_count) = (batch.text.len(), batch.mentions.len());
    batch.text.push_str(text);
    let decoded = quick::fields(text, text_length, batch).map_or_else(
        || {
            batch.text.truncate(text_length + text.len());
            batch.mentions.truncate(mention_count);
            carriable(text).and_then(|()| fields(text, text_length, batch))
        },
        Ok,
    );
    match decoded {
        Ok((stated_id, signal_type)) if batch.mentions.len() > mention_count => {
            let position = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            let stated_id = if stated_id.is_empty() { id_of_headers(record, batch) } else { stated_id };
            batch.signals.push(Signal {
                partition: record.partition,
                offset: record.offset,
                record_time_ms: record.time_ms,
                payload: Span::new(text_length, text_length + text.len()),
                stated_id,
                signal_type,
                first_mention: position(mention_count),
                end_mention: position(batch.mentions.len()),
            });
            Ok(())
        }
        other => {
            batch.text.truncate(text_length);
            batch.mentions.truncate(mention_count);
            Err(other.err().unwrap_or(Reason::NoTicker))
        }
    }
}

/// The id that a record was given when it was sent again; empty for any other record.
fn id_of_headers(record: &Record<'_>, batch: &mut Batch) -> Span {
    let headers = (record.headers)();
    let value = headers.iter().rfind(|(name, _)| name == ID_HEADER).and_then(|(_, value)| value.as_deref());
    let Some(id) = value.and_then(|value| std::str::from_utf8(value).ok()).map(str::trim) else { return Span::default() };
    if id.is_empty() || id.len() > MAX_TEXT_BYTES || id.contains('\0') {
        return Span::default();
    }
    let start = batch.text.len();
    batch.text.push_str(id);
    Span::new(start, batch.text.len())
}

/// The payload as text.
fn readable(payload: Option<&[u8]>) -> Result<&str, Reason> {
    let payload = payload.filter(|payload| !payload.is_empty()).ok_or(Reason::Empty)?;
    if payload.len() > MAX_RECORD_BYTES {
        return Err(Reason::TooLarge);
    }
    simdutf8::basic::from_utf8(payload).map_err(|_| Reason::NotUtf8)
}

/// Whether every later stage can carry what the text says.
fn carriable(text: &str) -> Result<(), Reason> {
    let payload = text.as_bytes();
    if too_deep(payload) {
        return Err(Reason::TooDeep);
    }
    if !text.trim_start().starts_with('{') {
        return Err(if serde_json::from_str::<IgnoredAny>(text).is_ok() { Reason::NotObject } else { Reason::NotJson });
    }
    // Only an escape can smuggle these past UTF-8 and JSON syntax, and escapes are rare.
    if payload.contains(&b'\\') && text.contains("\\u") && has_forbidden_escape(payload) {
        return Err(if serde_json::from_str::<IgnoredAny>(text).is_ok() { Reason::ForbiddenText } else { Reason::NotJson });
    }
    Ok(())
}

fn too_deep(payload: &[u8]) -> bool {
    // Without this many opening brackets it cannot be, and counting them is nearly free.
    let openings = payload.iter().filter(|byte| (**byte | 0x20) == b'{').count();
    if openings <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Whether a `\u` escape gives NUL or half of a surrogate pair.
fn has_forbidden_escape(payload: &[u8]) -> bool {
    let unit = |at: usize| -> Option<u16> {
        let digits = payload.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while at < payload.len() {
        if payload[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xD800..=0xDBFF) => {
                if !matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) {
                    return true;
                }
                at += 12;
            }
            Some(0 | 0xDC00..=0xDFFF) => return true,
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    false
}

/// Reads id and type of the payload `text`, which stands in the batch from `base` on, and adds its mentions.
fn fields(text: &str, base: usize, batch: &mut Batch) -> Result<(Span, Span), Reason> {
    let mut reading = Reading { text, base, batch, reason: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = reading.deserialize_object(&mut deserializer).and_then(|spans| deserializer.end().map(|()| spans));
    let reason = reading.reason.take();
    read.map_err(|error| reason.unwrap_or(if error.is_data() { Reason::WrongType } else { Reason::NotJson }))
}

/// The state of reading one payload into the batch.
struct Reading<'a, 'b> {
    text: &'a str,
    base: usize,
    batch: &'b mut Batch,
    /// Why we stopped, where serde's error cannot tell.
    reason: Option<Reason>,
}

impl<'a> Reading<'a, '_> {
    fn deserialize_object<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(Span, Span), D::Error>
    where
        'a: 'de,
        'de: 'a,
    {
        deserializer.deserialize_map(ObjectVisitor(self))
    }

    fn stop<E: de::Error>(&mut self, reason: Reason) -> E {
        self.reason = Some(reason);
        E::custom(reason.as_str())
    }

    /// Where a text stands in the batch: in the payload itself if it was borrowed from there.
    fn span(&mut self, value: Cow<'a, str>) -> Span {
        match value {
            Cow::Borrowed(part) => {
                let start = self.base + (part.as_ptr() as usize - self.text.as_ptr() as usize);
                Span::new(start, start + part.len())
            }
            Cow::Owned(part) => self.added(&part),
        }
    }

    fn added(&mut self, part: &str) -> Span {
        let start = self.batch.text.len();
        self.batch.text.push_str(part);
        Span::new(start, self.batch.text.len())
    }

    fn bounded<E: de::Error>(&mut self, value: Option<Scalar<'a>>) -> Result<Span, E> {
        let Some(Scalar(value)) = value else { return Ok(Span::default()) };
        if value.len() > MAX_TEXT_BYTES {
            return Err(self.stop(Reason::TooLong));
        }
        let trimmed = match value {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        };
        Ok(self.span(trimmed))
    }
}

struct ObjectVisitor<'r, 'a, 'b>(&'r mut Reading<'a, 'b>);

impl<'de> Visitor<'de> for ObjectVisitor<'_, 'de, '_> {
    type Value = (Span, Span);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let reading = self.0;
        let (mut id, mut signal_type, mut tickers) = (None, None, false);
        while let Some(field) = map.next_key::<SignalField>()? {
            match field {
                SignalField::SignalId => once(&mut id, map.next_value()?)?,
                SignalField::SignalType => once(&mut signal_type, map.next_value()?)?,
                SignalField::Tickers if tickers => return Err(de::Error::duplicate_field("tickers")),
                SignalField::Tickers => {
                    tickers = true;
                    map.next_value_seed(TickersSeed(reading))?;
                }
                SignalField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let id = reading.bounded(id.flatten())?;
        let signal_type = reading.bounded(signal_type.flatten())?;
        Ok((id, signal_type))
    }
}

struct TickersSeed<'r, 'a, 'b>(&'r mut Reading<'a, 'b>);

impl<'de> DeserializeSeed<'de> for TickersSeed<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for TickersSeed<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tickers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(()) = list.next_element_seed(MentionSeed(self.0))? {
            count += 1;
            if count > MAX_TICKERS {
                return Err(self.0.stop(Reason::TooManyTickers));
            }
        }
        Ok(())
    }
}

struct MentionSeed<'r, 'a, 'b>(&'r mut Reading<'a, 'b>);

impl<'de> DeserializeSeed<'de> for MentionSeed<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MentionSeed<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a ticker object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        let (mut ticker, mut bias, mut confidence) = (None, None, None);
        while let Some(field) = map.next_key::<MentionField>()? {
            match field {
                MentionField::Ticker => once(&mut ticker, map.next_value::<Option<Text<'de>>>()?)?,
                MentionField::Signal => once(&mut bias, map.next_value::<Option<Scalar<'de>>>()?)?,
                MentionField::Confidence => once(&mut confidence, map.next_value::<Option<f64>>()?)?,
                MentionField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        // An entry without a symbol is passed over: the others may have one.
        let Some(Some(Text(ticker))) = ticker else { return Ok(()) };
        let symbol = ticker.trim();
        if symbol.is_empty() {
            return Ok(());
        }
        if symbol.chars().count() > MAX_TICKER_CHARS {
            return Err(reading.stop(Reason::TooLong));
        }
        let ticker = match &ticker {
            Cow::Borrowed(text) if !symbol.bytes().any(|byte| byte.is_ascii_lowercase() || !byte.is_ascii()) => {
                reading.span(Cow::Borrowed(text.trim()))
            }
            _ => reading.added(&symbol.to_uppercase()),
        };
        let bias = reading.bounded(bias.flatten())?;
        let mention = Mention::new(&reading.batch.text, ticker, bias, confidence.flatten());
        reading.batch.mentions.push(mention);
        Ok(())
    }
}

fn once<T, E: de::Error>(place: &mut Option<T>, value: T) -> Result<(), E> {
    if place.replace(value).is_some() {
        return Err(E::custom("a field stands there twice"));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum SignalField {
    SignalId,
    SignalType,
    Tickers,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum MentionField {
    Ticker,
    Signal,
    Confidence,
    #[serde(other)]
    Other,
}

/// A text, borrowed from the payload unless it has escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A text, or a number or boolean as it is written.
struct Scalar<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str::<Text<'de>>(raw).map(|text| Self(text.0)).map_err(de::Error::custom),
            Some(b'{' | b'[') => Err(de::Error::custom("expected a text")),
            _ => Ok(Self(Cow::Borrowed(raw))),
        }
    }
}

#[cfg(test)]
mod tests;
