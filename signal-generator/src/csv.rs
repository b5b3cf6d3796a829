//! Daily bars from CSV text, line by line. Pure but for the reader it is given; never stops at a bad line.
//!
//! Taken on purpose: a byte order mark, CRLF, blank lines, quotes around a field, column names in any case and order,
//! `datetime`/`timestamp` for `date`, `vol` for `volume`, further columns, and no header at all if the first line starts with a
//! date (then the columns are `date,open,high,low,close,volume`). Not taken: another separator, a line feed or comma within quotes.

use std::io::{self, BufRead, Read};

use crate::bar::{BadBar, Bar, parse_date, shorten};

/// A longer line is no bar: it is skipped without being held in memory.
const MAX_LINE: u64 = 64 * 1024;
const NAMES: [&str; 6] = ["date", "open", "high", "low", "close", "volume"];

/// What to do with a last line that no line feed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It is a line: the file is complete.
    Take,
    /// It may be half written: leave it for later.
    Leave,
}

/// Whether the reader ended with a line that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was read.
    Complete,
    /// A last line without a line feed was left.
    TailLeft,
}

/// Gives each bar or reason, with its line number from 1, to `each`; stops only at a header without the needed columns.
pub fn read_bars(mut reader: impl BufRead, tail: Tail, mut each: impl FnMut(u64, Result<Bar, BadBar>)) -> io::Result<End> {
    let mut line = Vec::new();
    let mut columns: Option<Columns> = None;
    for number in 1.. {
        let read = read_line(&mut reader, &mut line)?;
        match read {
            Line::None => break,
            Line::TooLong => {
                each(number, Err(BadBar::TooLong(MAX_LINE)));
                continue;
            }
            Line::Unended if tail == Tail::Leave => return Ok(End::TailLeft),
            Line::Unended | Line::Ended => {}
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            each(number, Err(BadBar::NotUtf8));
            continue;
        };
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        if let Some(columns) = &columns {
            each(number, columns.bar(text));
            continue;
        }
        match Columns::of_first_line(text) {
            Ok(FirstLine::Header(found)) => columns = Some(found),
            Ok(FirstLine::Bar(found)) => {
                each(number, found.bar(text));
                columns = Some(found);
            }
            Err(bad) => {
                each(number, Err(bad));
                break;
            }
        }
    }
    Ok(End::Complete)
}

/// Where the six columns are.
#[derive(Debug, Clone, Copy)]
struct Columns {
    at: [usize; 6],
    count: usize,
}

enum FirstLine {
    Header(Columns),
    Bar(Columns),
}

impl Columns {
    fn of_first_line(text: &str) -> Result<FirstLine, BadBar> {
        let fields: Vec<String> = fields(text).map(str::to_ascii_lowercase).collect();
        if fields.first().is_some_and(|first| parse_date(first).is_ok()) {
            return Ok(FirstLine::Bar(Self { at: [0, 1, 2, 3, 4, 5], count: NAMES.len() }));
        }
        let mut at = [0; 6];
        let mut missing = Vec::new();
        for (slot, name) in NAMES.into_iter().enumerate() {
            let mut found = (0..fields.len()).filter(|&index| canonical(&fields[index]) == name);
            match (found.next(), found.next()) {
                (Some(index), None) => at[slot] = index,
                (Some(_), Some(_)) => return Err(BadBar::RepeatedColumn(name)),
                (None, _) => missing.push(name),
            }
        }
        if missing.is_empty() {
            Ok(FirstLine::Header(Self { at, count: fields.len() }))
        } else {
            Err(BadBar::MissingColumns(missing.join(", ")))
        }
    }

    fn bar(&self, text: &str) -> Result<Bar, BadBar> {
        let fields: Vec<&str> = fields(text).collect();
        if fields.len() != self.count {
            return Err(BadBar::Fields { expected: self.count, found: fields.len() });
        }
        let number = |slot: usize| {
            let text = fields[self.at[slot]];
            text.parse().map_err(|_| BadBar::NotANumber { column: NAMES[slot], text: shorten(text) })
        };
        Ok(Bar {
            date: parse_date(fields[self.at[0]])?,
            open: number(1)?,
            high: number(2)?,
            low: number(3)?,
            close: number(4)?,
            volume: number(5)?,
        })
    }
}

fn canonical(name: &str) -> &str {
    match name {
        "datetime" | "timestamp" => "date",
        "vol" => "volume",
        other => other,
    }
}

fn fields(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|field| {
        let field = field.trim();
        field.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(field).trim()
    })
}

enum Line {
    None,
    Ended,
    Unended,
    TooLong,
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    reader.by_ref().take(MAX_LINE).read_until(b'\n', line)?;
    match line.last() {
        None => Ok(Line::None),
        Some(b'\n') => Ok(Line::Ended),
        Some(_) if (line.len() as u64) < MAX_LINE => Ok(Line::Unended),
        Some(_) => {
            reader.skip_until(b'\n')?;
            Ok(Line::TooLong)
        }
    }
}

#[cfg(test)]
mod tests;
