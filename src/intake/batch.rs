//! Signals on their way to one decision, stored without an allocation per record.
//!
//! All text of a batch stands in one string; signals and mentions point into it.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::LazyLock;
use std::time::Instant;

use super::decode::{self, Record};
use super::offsets::Offsets;
use super::rejected::{Reason, Rejected};

/// A piece of the batch's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        // A batch is cut long before 4 GiB (see `Batch::bytes` and its bound in the intake thread).
        let narrow = |position: usize| u32::try_from(position).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end) }
    }

    fn of(self, text: &str) -> &str {
        &text[self.start as usize..self.end as usize]
    }

    /// The same piece of a text that stands behind another one of so many bytes.
    fn moved(self, by: usize) -> Self {
        if self.is_empty() { Self::default() } else { Self::new(self.start as usize + by, self.end as usize + by) }
    }

    /// Whether there is no text.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Bytes that a new batch reserves at most for each of its parts: it may have to wait long for its first record.
const MOST_ROOM: usize = 4 * 1024 * 1024;

/// Keys of tickers. Random for each process: nobody can choose names whose keys collide.
static KEYS: LazyLock<foldhash::fast::RandomState> = LazyLock::new(foldhash::fast::RandomState::default);

/// A number by which a ticker is found without reading its name again. Two names may have the same.
pub fn ticker_key(name: &str) -> u64 {
    let mut hasher = KEYS.build_hasher();
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// One Kafka record, decoded as far as matching needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Where it came from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The Kafka record's timestamp, in milliseconds since 1970.
    pub record_time_ms: i64,
    /// The whole payload.
    pub payload: Span,
    /// The id that the signal states; empty when it states none.
    pub stated_id: Span,
    /// Its type; empty when it states none.
    pub signal_type: Span,
    /// Its tickers: a range of the batch's mentions.
    pub first_mention: u32,
    /// The end of that range.
    pub end_mention: u32,
}

/// A ticker that a signal speaks of.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// Trimmed and in upper case.
    pub ticker: Span,
    /// The ticker's [`ticker_key`], made while its name is at hand.
    pub key: u64,
    /// `BULLISH`, `BEARISH`, …; empty when not said.
    pub bias: Span,
    /// What the signal says, in the generator's unit (0 to 100 by custom).
    pub confidence: Option<f64>,
}

impl Mention {
    /// A mention of the ticker that stands at a place of `text`.
    pub(super) fn new(text: &str, ticker: Span, bias: Span, confidence: Option<f64>) -> Self {
        Self { ticker, key: ticker_key(ticker.of(text)), bias, confidence }
    }
}

/// Records to be decided together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) text: String,
    pub(super) signals: Vec<Signal>,
    pub(super) mentions: Vec<Mention>,
    pub(super) rejected: Vec<Rejected>,
    pub(super) rejected_bytes: usize,
    /// Which records it covers.
    pub offsets: Offsets,
    /// When its first record arrived.
    pub oldest: Option<Instant>,
}

impl Batch {
    /// An empty batch with room for as much as this one, within reason: the next one is about as large, and need not grow.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self {
            text: String::with_capacity(self.text.len().min(MOST_ROOM)),
            signals: Vec::with_capacity(self.signals.len().min(MOST_ROOM / size_of::<Signal>())),
            mentions: Vec::with_capacity(self.mentions.len().min(MOST_ROOM / size_of::<Mention>())),
            ..Self::default()
        }
    }

    /// The same memory without the records, for a later batch; `None` where it is much, for it would be a third batch beside the
    /// one that is decided and the one that fills.
    pub(super) fn emptied(mut self) -> Option<Self> {
        if self.text.capacity() > 2 * MOST_ROOM {
            return None;
        }
        self.text.clear();
        self.signals.clear();
        self.mentions.clear();
        Some(Self { text: self.text, signals: self.signals, mentions: self.mentions, ..Self::default() })
    }

    /// Adds a record: as a signal, as a rejected one, or, if older than `oldest_ms`, as a stale one.
    pub fn push(&mut self, record: &Record<'_>, epoch: i64, oldest_ms: i64, now: Instant) {
        self.oldest.get_or_insert(now);
        let span = self.offsets.record(record.partition, epoch, record.offset);
        if record.time_ms < oldest_ms {
            span.stale += 1;
            return;
        }
        if let Err(reason) = decode::decode(record, self) {
            self.reject(record, reason);
        }
    }

    /// Covers a record that was decided before: its offset passes, and nothing is counted.
    pub fn pass_over(&mut self, partition: i32, epoch: i64, offset: i64, now: Instant) {
        self.oldest.get_or_insert(now);
        self.offsets.cover(partition, epoch, offset);
    }

    fn reject(&mut self, record: &Record<'_>, reason: Reason) {
        self.offsets.record_invalid(record.partition);
        self.keep(Rejected {
            reason,
            partition: record.partition,
            offset: record.offset,
            time_ms: record.time_ms,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: (record.headers)(),
        });
    }

    fn keep(&mut self, rejected: Rejected) {
        self.rejected_bytes += rejected.bytes();
        self.rejected.push(rejected);
    }

    /// The text of a span.
    pub fn text(&self, span: Span) -> &str {
        span.of(&self.text)
    }

    /// The signals, in the order of arrival.
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// The tickers of a signal.
    pub fn mentions(&self, signal: &Signal) -> &[Mention] {
        &self.mentions[signal.first_mention as usize..signal.end_mention as usize]
    }

    /// One ticker by its position in the batch.
    pub fn mention(&self, position: u32) -> &Mention {
        &self.mentions[position as usize]
    }

    /// The position of the signal that has a mention, by the mention's position.
    pub fn signal_of(&self, mention: u32) -> u32 {
        // Signals keep the order of their mentions, also where some between them were left out.
        let after = self.signals.partition_point(|signal| signal.first_mention <= mention);
        u32::try_from(after.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The bad records.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Records that it covers, whatever becomes of them.
    pub fn records(&self) -> usize {
        usize::try_from(self.offsets.consumed()).unwrap_or_default()
    }

    /// Memory that it holds, in bytes, near enough to bound it.
    pub fn bytes(&self) -> usize {
        self.text.len()
            + self.rejected_bytes
            + self.signals.len() * size_of::<Signal>()
            + self.mentions.len() * size_of::<Mention>()
    }

    /// Whether it covers no record.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Makes signals, by their positions, rejected ones, and returns these. The later signals move up. What of a record
    /// only Kafka knows, its key and headers, is not told again.
    pub fn refuse(&mut self, positions: &BTreeSet<u32>, reason: Reason) -> &[Rejected] {
        let before = self.rejected.len();
        for position in positions {
            let signal = &self.signals[*position as usize];
            let payload = self.text(signal.payload).as_bytes().to_vec();
            let (partition, offset, time_ms) = (signal.partition, signal.offset, signal.record_time_ms);
            let (key, payload, headers) = (None, Some(payload), Vec::new());
            self.offsets.record_invalid(partition);
            self.keep(Rejected { reason, partition, offset, time_ms, key, payload, headers });
        }
        let mut position = 0;
        self.signals.retain(|_| {
            position += 1;
            !positions.contains(&(position - 1))
        });
        &self.rejected[before..]
    }

    /// The records of all other partitions, and those of these.
    #[must_use]
    pub fn split(mut self, partitions: &[i32]) -> (Self, Self) {
        let (these, others): (Vec<i32>, Vec<i32>) = self.offsets.partitions().partition(|known| partitions.contains(known));
        if these.is_empty() {
            return (self, Self::default());
        }
        if others.is_empty() {
            return (Self::default(), self);
        }
        let mut rest = self.clone();
        self.remove(&these);
        rest.remove(&others);
        (self, rest)
    }

    /// Adds the records of a batch that came later. What is bad of them is covered, and told no more.
    pub fn append(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        let (text, mentions) = (self.text.len(), self.mentions.len());
        // Not twice as much as is needed: these are the largest batches there are, and few are added to one.
        self.text.reserve_exact(later.text.len());
        self.signals.reserve_exact(later.signals.len());
        self.mentions.reserve_exact(later.mentions.len());
        self.text.push_str(&later.text);
        let mention = |position: u32| position.saturating_add(u32::try_from(mentions).unwrap_or(u32::MAX));
        self.mentions.extend(later.mentions.into_iter().map(|known| Mention {
            ticker: known.ticker.moved(text),
            bias: known.bias.moved(text),
            ..known
        }));
        self.signals.extend(later.signals.into_iter().map(|signal| Signal {
            payload: signal.payload.moved(text),
            stated_id: signal.stated_id.moved(text),
            signal_type: signal.signal_type.moved(text),
            first_mention: mention(signal.first_mention),
            end_mention: mention(signal.end_mention),
            ..signal
        }));
        self.rejected.extend(later.rejected);
        self.rejected_bytes += later.rejected_bytes;
        self.offsets.append(&later.offsets);
        self.oldest = self.oldest.or(later.oldest);
    }

    /// Leaves the records of some partitions out: another instance decides them.
    pub fn remove(&mut self, partitions: &[i32]) {
        self.offsets.remove(partitions);
        self.signals.retain(|signal| !partitions.contains(&signal.partition));
        self.rejected.retain(|rejected| !partitions.contains(&rejected.partition));
        self.rejected_bytes = self.rejected.iter().map(Rejected::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn fill(mut batch: Batch, records: i64) -> Batch {
        for offset in 0..records {
            let payload = match offset % 3 {
                0 => format!(r#"{{"signal_id": "{offset}", "tickers": [{{"ticker": "aapl"}}, {{"ticker": "MSFT"}}]}}"#),
                1 => "not a signal".to_owned(),
                _ => r#"{"tickers": [{"ticker": "TSLA"}]}"#.to_owned(),
            };
            let (payload, time_ms) = (Some(payload.as_bytes()), offset % 5);
            batch.push(&Record { partition: 1, offset, time_ms, key: None, payload, headers: &Vec::new }, 7, 1, clock::now());
        }
        batch
    }

    #[test]
    fn the_memory_of_a_decided_batch_holds_nothing_of_it() {
        let (fresh, again) = (fill(Batch::default(), 40), fill(fill(Batch::default(), 700).emptied().unwrap(), 40));
        assert_eq!((again.bytes(), again.records(), &again.offsets), (fresh.bytes(), fresh.records(), &fresh.offsets));
        assert_eq!((again.signals(), again.rejected()), (fresh.signals(), fresh.rejected()));
        assert!(again.signals().iter().zip(fresh.signals()).all(|(a, b)| again.mentions(a) == fresh.mentions(b)));
        assert_eq!(again.text, fresh.text);
    }

    #[test]
    fn a_batch_and_a_later_one_are_what_one_batch_of_both_would_be() {
        let (mut first, mut later) = (Batch::default(), Batch::default());
        let mut both = Batch::default();
        for offset in 0..40 {
            let payload = match offset % 4 {
                0 => r#"{"signal_id": "x", "signal_type": "news", "tickers": [{"ticker": "aapl", "signal": "BULLISH"}]}"#
                    .to_owned(),
                1 => "not a signal".to_owned(),
                _ => format!(r#"{{"tickers": [{{"ticker": "T{offset}"}}, {{"ticker": "TSLA", "confidence": 7}}]}}"#),
            };
            let (payload, time_ms) = (Some(payload.as_bytes()), i64::from(offset % 7 != 0));
            let record =
                Record { partition: offset % 3, offset: i64::from(offset), time_ms, key: None, payload, headers: &Vec::new };
            for batch in [if offset < 17 { &mut first } else { &mut later }, &mut both] {
                batch.push(&record, 7, 1, clock::now());
            }
        }
        let mut empty = Batch::default();
        empty.append(first);
        empty.append(later);
        empty.append(Batch::default());
        assert_eq!((empty.bytes(), &empty.text, empty.offsets.spans()), (both.bytes(), &both.text, both.offsets.spans()));
        assert_eq!((empty.signals(), empty.rejected()), (both.signals(), both.rejected()));
        assert_eq!((&empty.mentions, empty.oldest.is_some()), (&both.mentions, true));
    }

    #[test]
    fn much_memory_is_not_kept() {
        let mut batch = fill(Batch::default(), 3);
        batch.text.reserve(MOST_ROOM * 2);
        assert!(batch.emptied().is_none());
    }

    #[test]
    fn keys_and_headers_of_bad_records_count_as_memory() {
        let (key, value) = (vec![b'k'; 10_000], vec![b'v'; 900_000]);
        let headers = || vec![("name".to_owned(), Some(value.clone()))];
        let record =
            |offset| Record { partition: 0, offset, time_ms: 1, key: Some(&key), payload: Some(b"bad"), headers: &headers };
        let mut batch = Batch::default();
        (0..10).for_each(|offset| batch.push(&record(offset), 7, 0, clock::now()));
        assert!(batch.bytes() > 9_100_000 && batch.bytes() < 9_200_000, "{}", batch.bytes());
        batch.remove(&[0]);
        assert_eq!(batch.bytes(), 0);
    }
}
