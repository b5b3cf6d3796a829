//! Texts that the tasks of a request have in common, each written once. Pure.

use std::ops::Range;

use super::json::Json;

/// Pieces of keyword arguments. Most candidates of a batch are busy, and the others are told much of the same: so a candidate has a list
/// of pieces, and whole arguments are made only for those that are claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    text: Json,
    /// Where each piece begins in `text`, and its bytes.
    spans: Vec<(u32, u32)>,
    /// The numbers of all lists, one list after the other.
    lists: Vec<u32>,
}

/// A list of pieces: where it begins and ends in [`Pieces::lists`]. Candidates share lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct List {
    first: u32,
    end: u32,
}

impl List {
    /// The positions of its numbers.
    pub fn positions(self) -> Range<usize> {
        self.first as usize..self.end as usize
    }
}

impl Pieces {
    /// Adds a piece and returns its number.
    pub fn add(&mut self, piece: &str) -> u32 {
        self.write(|text| {
            text.raw(piece);
        })
    }

    /// Adds what `write` writes as a piece, and returns its number.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Json)) -> u32 {
        let start = self.text.len();
        write(&mut self.text);
        self.push(start, self.text.len())
    }

    /// Adds a piece that begins with `start`, and goes on like another one.
    pub(super) fn add_behind(&mut self, start: &str, piece: u32) -> u32 {
        let (begin, bytes) = self.spans[piece as usize];
        let place = begin as usize..(begin + bytes) as usize;
        self.write(|text| {
            text.raw(start);
            text.again(&place);
        })
    }

    /// Makes one piece of neighbours, and returns its number. Their text is not written again.
    pub(super) fn join(&mut self, first: u32, last: u32) -> u32 {
        let (start, (end, bytes)) = (self.spans[first as usize].0, self.spans[last as usize]);
        self.push(start as usize, end as usize + bytes as usize)
    }

    fn push(&mut self, start: usize, end: usize) -> u32 {
        self.spans.push((number(start), number(end - start)));
        number(self.spans.len() - 1)
    }

    /// Adds a list of pieces.
    pub fn list(&mut self, numbers: impl IntoIterator<Item = u32>) -> List {
        let first = number(self.lists.len());
        self.lists.extend(numbers);
        List { first, end: number(self.lists.len()) }
    }

    /// The numbers of all lists.
    pub fn lists(&self) -> &[u32] {
        &self.lists
    }

    /// A piece by its number, as UTF-8.
    pub fn get(&self, number: u32) -> &[u8] {
        let (start, bytes) = self.spans[number as usize];
        &self.text.bytes()[start as usize..][..bytes as usize]
    }

    /// Where a piece begins in [`Pieces::text`], and its bytes.
    pub fn span(&self, number: u32) -> (u32, u32) {
        self.spans[number as usize]
    }

    /// All pieces, one after the other, as UTF-8.
    pub fn text(&self) -> &[u8] {
        self.text.bytes()
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a request has less than 4 GiB of text")
}
