//! A folder of CSV files, one a ticker. A file's crosses are a pure function of its bytes: whenever a file has changed it is read
//! again as a whole, so that appended, rewritten and replaced files need no cases; the marks hold back what was emitted.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::bar::BadBar;
use crate::cross::Cross;
use crate::csv::{End, Tail, read_bars};
use crate::series::Series;
use crate::ticker;

/// What one file holds.
#[derive(Debug)]
pub struct Reading {
    /// Good bars.
    pub bars: u64,
    /// In order of date.
    pub crosses: Vec<Cross>,
    /// Line number from 1, and the reason.
    pub bad: Vec<(u64, BadBar)>,
    /// Whether a half-written line was left.
    pub end: End,
}

/// Reads one file from its first to its last line.
pub fn read_file(path: &Path, tail: Tail) -> io::Result<Reading> {
    let mut series = Series::default();
    let mut reading = Reading { bars: 0, crosses: Vec::new(), bad: Vec::new(), end: End::Complete };
    reading.end = read_bars(BufReader::new(File::open(path)?), tail, |line, bar| match bar.and_then(|bar| series.push(&bar)) {
        Ok(cross) => {
            reading.bars += 1;
            reading.crosses.extend(cross);
        }
        Err(bad) => reading.bad.push((line, bad)),
    })?;
    Ok(reading)
}

/// The CSV files of a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Ticker and file, in order of ticker.
    pub files: Vec<(String, PathBuf)>,
    /// Files whose name is no ticker, or a ticker that another file has.
    pub bad: Vec<(PathBuf, String)>,
}

/// `*.csv` in any case; the stem is the ticker. Other files and folders are none of our business.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut listing = Listing::default();
    let mut taken = HashSet::new();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        match ticker::normalize(&stem) {
            Ok(ticker) if taken.insert(ticker.clone()) => listing.files.push((ticker, path)),
            Ok(ticker) => listing.bad.push((path, format!("another file has the ticker {ticker}; this one is skipped"))),
            Err(bad) => listing.bad.push((path, format!("{bad}; the file is skipped"))),
        }
    }
    listing.files.sort();
    Ok(listing)
}

/// Remembers which files have been read in which state.
#[derive(Debug, Default)]
pub struct Watch {
    seen: HashMap<PathBuf, Seen>,
    told: HashSet<String>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    length: u64,
    modified: Option<SystemTime>,
    tail_left: bool,
}

impl Watch {
    /// Reads the file if it has changed since the last call. A last line without a line feed waits until the file has stood
    /// still between two calls: then it is whole.
    pub fn read_changed(&mut self, path: &Path) -> io::Result<Option<Reading>> {
        // Asked before reading: what is written meanwhile makes the next call read again.
        let metadata = fs::metadata(path)?;
        let before = self.seen.get(path);
        let unchanged = before.is_some_and(|seen| seen.is_of(&metadata));
        let tail = if unchanged { Tail::Take } else { Tail::Leave };
        if unchanged && before.is_some_and(|seen| !seen.tail_left) {
            return Ok(None);
        }
        let reading = read_file(path, tail)?;
        let tail_left = reading.end == End::TailLeft;
        let seen = Seen { length: metadata.len(), modified: metadata.modified().ok(), tail_left };
        self.seen.insert(path.to_owned(), seen);
        Ok(Some(reading))
    }

    /// True the first time: a file that is read again repeats its bad lines.
    pub fn is_news(&mut self, complaint: String) -> bool {
        self.told.insert(complaint)
    }
}

impl Seen {
    fn is_of(&self, metadata: &Metadata) -> bool {
        self.length == metadata.len() && self.modified == metadata.modified().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lists_tickers_and_names_the_files_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["msft.csv", "AAPL.CSV", "aapl.csv", "two words.csv", "notes.txt", ".csv"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let listing = list(folder.path()).unwrap();
        let tickers: Vec<&str> = listing.files.iter().map(|(ticker, _)| ticker.as_str()).collect();
        assert_eq!(tickers, ["AAPL", "MSFT"]);
        assert_eq!(listing.bad.len(), 2, "the second AAPL and the one with a space: {:?}", listing.bad);
    }

    #[test]
    fn a_file_is_read_again_only_when_it_changed_and_a_half_line_waits_until_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("A.csv");
        let mut watch = Watch::default();
        let mut bars = |text: &str| {
            if !text.is_empty() {
                fs::write(&path, text).unwrap();
            }
            watch.read_changed(&path).unwrap().map(|reading| (reading.bars, reading.bad.len()))
        };
        assert_eq!(bars("2024-01-02,1,1,1,1,1\n"), Some((1, 0)));
        assert_eq!(bars(""), None, "unchanged");
        assert_eq!(bars("2024-01-02,1,1,1,1,1\n2024-01-03,1,1,"), Some((1, 0)), "the half line is left");
        assert_eq!(bars("2024-01-02,1,1,1,1,1\n2024-01-03,1,1,1,1,1"), Some((1, 0)), "it may still grow");
        assert_eq!(bars(""), Some((2, 0)), "it stood still: the line is whole");
        assert_eq!(bars(""), None);
        assert_eq!(bars("2024-01-05,1,1,1,1,1\n"), Some((1, 0)), "a shorter file is another file");
    }
}
