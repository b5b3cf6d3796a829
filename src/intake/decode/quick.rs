//! Reads a signal of the usual form in one pass: no escapes, no control characters, each field once and of its usual type.
//!
//! What looks unusual is left to serde (decode.rs), which judges it. So this never rejects a record, and what it reads
//! must be what serde would read: the oracle in decode/tests.rs is asked about both.

use std::ops::Range;

use super::{MAX_DEPTH, MAX_TEXT_BYTES, MAX_TICKER_CHARS, MAX_TICKERS};
use crate::intake::batch::{Batch, Mention, Span};

/// Powers of ten by which a number of at most 15 digits can be divided with one rounding, as `serde_json` does.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
const MAX_DIGITS: usize = 15;

/// Reads id and type of the payload `text`, which stands in the batch from `base` on, and adds its mentions. After `None`
/// some may have been added: the caller takes them back.
pub(super) fn fields(text: &str, base: usize, batch: &mut Batch) -> Option<(Span, Span)> {
    // Vectorized, so that no later step need look for either.
    let odd = text.bytes().fold(0, |odd, byte| odd | u8::from(byte < b' ') | u8::from(byte == b'\\'));
    if odd != 0 {
        return None;
    }
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
    let (mut id, mut signal_type, mut tickers) = (None, None, None);
    reader.object(|reader, name| match name {
        b"signal_id" => once(&mut id, reader.text_or_null()?),
        b"signal_type" => once(&mut signal_type, reader.text_or_null()?),
        b"tickers" => once(&mut tickers, ()).and_then(|()| reader.tickers(base, batch)),
        _ => reader.skip(2),
    })?;
    reader.blanks();
    (reader.at == reader.bytes.len()).then(|| (moved(base, id), moved(base, signal_type)))
}

/// Where a text of the payload stands in the batch.
fn moved(base: usize, text: Option<Range<usize>>) -> Span {
    text.map_or_else(Span::default, |text| Span::new(base + text.start, base + text.end))
}

/// Serde judges a field that stands there twice.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// The next byte that is no blank.
    fn next(&mut self) -> Option<u8> {
        self.blanks();
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        self.blanks();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let (bytes, name) = (self.bytes, self.string()?);
            self.expect(b':')?;
            member(self, &bytes[name])?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, mut entry: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'[')?;
        self.blanks();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            entry(self)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The text whose opening quote has been read, without its quotes. Eight bytes at a time.
    fn string(&mut self) -> Option<Range<usize>> {
        const ONES: u64 = u64::from_le_bytes([1; 8]);
        let start = self.at;
        while let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            // The lowest bit that is set stands for the first quote; those above it may be wrong.
            let differs = u64::from_le_bytes(*chunk) ^ (ONES * u64::from(b'"'));
            let quotes = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
            if quotes != 0 {
                self.at += quotes.trailing_zeros() as usize / 8 + 1;
                return Some(start..self.at - 1);
            }
            self.at += 8;
        }
        let rest = self.bytes.get(self.at..)?.iter().position(|byte| *byte == b'"')?;
        self.at += rest + 1;
        Some(start..self.at - 1)
    }

    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        let end = self.at + rest.len();
        (self.bytes.get(self.at..end)? == rest).then(|| self.at = end)
    }

    /// Passes over any value; a list or an object would be this deep.
    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            b'"' => self.string().map(|_| ()),
            b'{' if depth <= MAX_DEPTH => {
                self.at -= 1;
                self.object(|reader, _| reader.skip(depth + 1))
            }
            b'[' if depth <= MAX_DEPTH => {
                self.at -= 1;
                self.array(|reader| reader.skip(depth + 1))
            }
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            first => self.number(first),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// Passes over a number by JSON's grammar; `first` has been read.
    fn number(&mut self, first: u8) -> Option<()> {
        let mut first = first;
        if first == b'-' {
            first = self.peek()?;
            self.at += 1;
        }
        match first {
            b'0' => {}
            b'1'..=b'9' => {
                self.digits();
            }
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            (self.digits() > 0).then_some(())?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            (self.digits() > 0).then_some(())?;
        }
        Some(())
    }

    /// A text without the blanks around it, short enough for any field; an empty one for `null`.
    fn text_or_null(&mut self) -> Option<Range<usize>> {
        match self.next()? {
            b'"' => {
                let range = self.string()?;
                (range.len() <= MAX_TEXT_BYTES).then(|| self.trimmed(range))
            }
            b'n' => self.literal(b"ull").map(|()| self.at..self.at),
            _ => None,
        }
    }

    fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        // Nearly always there is nothing to trim, and a look at both ends tells.
        if let [first, .., last] = &self.bytes[range.clone()]
            && first.is_ascii_graphic()
            && last.is_ascii_graphic()
        {
            return range;
        }
        let trimmed = self.text[range.clone()].trim_start();
        let start = range.end - trimmed.len();
        start..start + trimmed.trim_end().len()
    }

    /// A number that needs no rounding but one, the same as `serde_json`'s.
    fn number_or_null(&mut self, number: &mut Option<f64>) -> Option<()> {
        let start = match self.next()? {
            b'n' => return self.literal(b"ull"),
            b'0'..=b'9' => self.at - 1,
            _ => return None,
        };
        self.number(self.bytes[start])?;
        let (mut value, mut decimals, mut digits) = (0_u64, None, 0);
        for byte in &self.bytes[start..self.at] {
            match byte {
                b'.' => decimals = Some(0),
                b'0'..=b'9' => {
                    value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                    digits += 1;
                    decimals = decimals.map(|decimals| decimals + 1);
                }
                _ => return None,
            }
        }
        (digits <= MAX_DIGITS).then(|| *number = Some(value as f64 / POWERS[decimals.unwrap_or(0)]))
    }

    fn tickers(&mut self, base: usize, batch: &mut Batch) -> Option<()> {
        let mut count = 0;
        self.array(|reader| {
            count += 1;
            if count > MAX_TICKERS {
                return None;
            }
            reader.ticker(base, batch)
        })
    }

    fn ticker(&mut self, base: usize, batch: &mut Batch) -> Option<()> {
        let (mut ticker, mut bias, mut stated, mut confidence) = (None, None, None, None);
        self.object(|reader, name| match name {
            b"ticker" => once(&mut ticker, reader.text_or_null()?),
            b"signal" => once(&mut bias, reader.text_or_null()?),
            b"confidence" => once(&mut stated, ()).and_then(|()| reader.number_or_null(&mut confidence)),
            _ => reader.skip(4),
        })?;
        // An entry without a symbol is passed over: the others may have one.
        let Some(range) = ticker.filter(|range| !range.is_empty()) else { return Some(()) };
        let symbol = &self.text[range.clone()];
        if symbol.len() > MAX_TICKER_CHARS {
            return None;
        }
        let ticker = if symbol.bytes().any(|byte| byte.is_ascii_lowercase() || !byte.is_ascii()) {
            let start = batch.text.len();
            batch.text.push_str(&symbol.to_uppercase());
            Span::new(start, batch.text.len())
        } else {
            moved(base, Some(range))
        };
        batch.mentions.push(Mention::new(&batch.text, ticker, moved(base, bias), confidence));
        Some(())
    }
}
