//! One day of one ticker, and every reason for which a bar is not taken.

use jiff::civil::Date;
use serde::Deserialize;

/// Above this a price is a mistake, and 200 of them could no longer be averaged precisely.
const MAX_PRICE: f64 = 1e12;

/// Open, high, low and close in the ticker's own currency, volume in shares, of one day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// The exchange's calendar day.
    pub date: Date,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price: the only one that the averages use.
    pub close: f64,
    /// Shares traded; zero and fractions are fine.
    pub volume: f64,
}

/// Why a line, a record or a whole file was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is")]
pub enum BadBar {
    #[error("the header lacks the column(s) {0}; the file is skipped")]
    MissingColumns(String),
    #[error("the header names the column {0} twice; the file is skipped")]
    RepeatedColumn(&'static str),
    #[error("{found} fields instead of {expected}")]
    Fields { expected: usize, found: usize },
    #[error("not UTF-8")]
    NotUtf8,
    #[error("longer than {0} bytes")]
    TooLong(u64),
    #[error("not a bar in JSON: {0}")]
    Json(String),
    #[error("ticker {0:?} is not 1 to 32 of A-Z 0-9 . - ^ = / _ :")]
    Ticker(String),
    #[error("date {0:?} is not YYYY-MM-DD")]
    Date(String),
    #[error("{column} {text:?} is not a number")]
    NotANumber { column: &'static str, text: String },
    #[error("{0} is not a finite price above 0 and up to 1e12")]
    Price(&'static str),
    #[error("volume is not a finite number from 0 on")]
    Volume,
    #[error("high is below low")]
    HighBelowLow,
    #[error("date {0} repeats; the first one stays")]
    Repeated(Date),
    #[error("date {date} comes after {last}: out of order")]
    OutOfOrder { date: Date, last: Date },
}

impl Bar {
    /// Adjusted data may have an open slightly above its high, by rounding: that is let through.
    pub fn check(&self) -> Result<(), BadBar> {
        let prices = [("open", self.open), ("high", self.high), ("low", self.low), ("close", self.close)];
        for (column, price) in prices {
            if !(price > 0.0 && price <= MAX_PRICE) {
                return Err(BadBar::Price(column));
            }
        }
        if !(self.volume.is_finite() && self.volume >= 0.0) {
            return Err(BadBar::Volume);
        }
        if self.high < self.low {
            return Err(BadBar::HighBelowLow);
        }
        Ok(())
    }

    /// `date,open,high,low,close,volume`, as [`crate::csv`] reads it.
    pub fn csv_line(&self) -> String {
        let Self { date, open, high, low, close, volume } = self;
        format!("{date},{open},{high},{low},{close},{volume}")
    }

    /// Reads `{"ticker","date","open","high","low","close","volume"}`; further fields are ignored.
    pub fn from_json(record: &[u8]) -> Result<(String, Self), BadBar> {
        let record: Record = serde_json::from_slice(record).map_err(|error| BadBar::Json(error.to_string()))?;
        let ticker = crate::ticker::normalize(&record.ticker)?;
        let bar = Self {
            date: parse_date(&record.date)?,
            open: record.open,
            high: record.high,
            low: record.low,
            close: record.close,
            volume: record.volume,
        };
        Ok((ticker, bar))
    }
}

/// `YYYY-MM-DD`, alone or before a time of day, as some vendors export it.
pub fn parse_date(text: &str) -> Result<Date, BadBar> {
    let bad = || BadBar::Date(shorten(text));
    let (day, rest) = text.split_at_checked(10).ok_or_else(bad)?;
    let shaped = day.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    if !shaped || !(rest.is_empty() || rest.starts_with([' ', 'T'])) {
        return Err(bad());
    }
    day.parse().map_err(|_| bad())
}

/// Keeps a message to one line of bearable length, whatever the file holds.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[derive(Deserialize)]
struct Record {
    ticker: String,
    date: String,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_taken_in_one_shape_only() {
        for good in ["2024-02-29", "2024-02-29 00:00:00-05:00", "2024-02-29T21:00:00Z"] {
            assert_eq!(parse_date(good).unwrap().to_string(), "2024-02-29", "{good}");
        }
        for bad in ["", "2023-02-29", "20240229", "29.02.2024", "2024-2-29", "2024-02-29x", "+002024-02-29", "€€€€€"] {
            assert_eq!(parse_date(bad), Err(BadBar::Date(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_json_bar_says_what_is_wrong_with_it() {
        let good = br#"{"ticker":" aapl ","date":"2024-01-02","open":1,"high":2,"low":0.5,"close":1.5,"volume":0,"vwap":1}"#;
        let (ticker, bar) = Bar::from_json(good).unwrap();
        assert_eq!((ticker.as_str(), bar.close, bar.check()), ("AAPL", 1.5, Ok(())));

        let text = std::str::from_utf8(good).unwrap();
        let cases = [
            (text.replace("1.5", "1e400"), "not a bar in JSON"),
            (text.replace("1.5", "\"1.5\""), "not a bar in JSON"),
            (text.replace("\"volume\":0,", ""), "missing field `volume`"),
            (text.replace(" aapl ", "  "), "ticker"),
            (text.replace("2024-01-02", "yesterday"), "date \"yesterday\""),
        ];
        for (record, expected) in cases {
            let reason = Bar::from_json(record.as_bytes()).unwrap_err().to_string();
            assert!(reason.contains(expected), "{record}: {reason}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        let good = Bar { date: jiff::civil::date(2024, 1, 2), open: 2.0, high: 3.0, low: 1.0, close: 2.0, volume: 9.0 };
        let cases = [
            (Bar { open: 0.0, ..good }, BadBar::Price("open")),
            (Bar { high: f64::INFINITY, ..good }, BadBar::Price("high")),
            (Bar { low: -1.0, ..good }, BadBar::Price("low")),
            (Bar { close: f64::NAN, ..good }, BadBar::Price("close")),
            (Bar { close: 2e12, ..good }, BadBar::Price("close")),
            (Bar { volume: f64::NAN, ..good }, BadBar::Volume),
            (Bar { volume: -1.0, ..good }, BadBar::Volume),
            (Bar { high: 0.5, ..good }, BadBar::HighBelowLow),
        ];
        assert_eq!(good.check(), Ok(()));
        for (bar, expected) in cases {
            assert_eq!(bar.check(), Err(expected));
        }
    }
}
