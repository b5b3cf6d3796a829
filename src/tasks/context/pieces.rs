//! Texts that the tasks of a request have in common, each written once. Pure.

/// Pieces of keyword arguments. Most candidates of a batch are busy, and the others are told much of the same: so a candidate has a list
/// of pieces, and whole arguments are made only for those that are claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    text: String,
    /// Where each piece begins in `text`, and its bytes.
    spans: Vec<(u32, u32)>,
}

impl Pieces {
    /// Adds a piece and returns its number.
    pub fn add(&mut self, piece: &str) -> u32 {
        let number = |count: usize| u32::try_from(count).expect("a request has less than 4 GiB of text");
        self.spans.push((number(self.text.len()), number(piece.len())));
        self.text.push_str(piece);
        number(self.spans.len() - 1)
    }

    /// A piece by its number.
    pub fn get(&self, number: u32) -> &str {
        let (start, bytes) = self.spans[number as usize];
        &self.text[start as usize..][..bytes as usize]
    }

    /// Where a piece begins in [`Pieces::text`], and its bytes.
    pub fn span(&self, number: u32) -> (u32, u32) {
        self.spans[number as usize]
    }

    /// All pieces, one after the other.
    pub fn text(&self) -> &str {
        &self.text
    }
}
