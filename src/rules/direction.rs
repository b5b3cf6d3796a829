//! Directions of tickers: whether two mentions of one ticker may start the same trigger.

use crate::intake::Batch;

/// How the direction of a mention compares with that of an earlier mention of the same ticker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// Both say the same, or neither says any.
    Same,
    /// Only the later one says a direction.
    Stated,
    /// Only the earlier one says a direction.
    Unstated,
    /// Both say one, and not the same: no task may hold both.
    Opposite,
}

impl Relation {
    /// Compares two mentions of one ticker, by their positions in the batch. Upper and lower case are the same.
    pub(super) fn between(batch: &Batch, earlier: u32, later: u32) -> Self {
        let text = |mention| batch.text(batch.mention(mention).bias);
        let (earlier, later) = (text(earlier), text(later));
        // Decoding has trimmed both. Nearly always they are the same bytes.
        match (earlier.is_empty(), later.is_empty()) {
            _ if earlier == later || earlier.eq_ignore_ascii_case(later) => Self::Same,
            (true, _) => Self::Stated,
            (_, true) => Self::Unstated,
            _ => Self::Opposite,
        }
    }
}

/// The direction of one mention, beside those of the mentions that joined a trigger before it.
#[derive(Debug)]
pub(super) struct Direction {
    /// The mention's position in the batch.
    pub(super) mention: u32,
    /// Whether the batch has said only this direction of the ticker so far.
    agrees: bool,
    /// The last comparison: most watchers of a ticker hold the same mention, so one comparison serves them all.
    last: (u32, Relation),
}

impl Direction {
    /// The direction of a mention. `agrees` if no earlier mention of the ticker has another one.
    #[inline]
    pub(super) fn new(mention: u32, agrees: bool) -> Self {
        Self { mention, agrees, last: (mention, Relation::Same) }
    }

    /// Compares it with the direction of a mention that joined earlier.
    #[inline]
    pub(super) fn beside(&mut self, batch: &Batch, joined: u32) -> Relation {
        if self.agrees { Relation::Same } else { self.compared(batch, joined) }
    }

    #[inline(never)]
    fn compared(&mut self, batch: &Batch, joined: u32) -> Relation {
        if self.last.0 != joined {
            self.last = (joined, Relation::between(batch, joined, self.mention));
        }
        self.last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::Record;

    #[test]
    fn only_two_different_directions_are_opposite() {
        for (earlier, later, expected) in [
            ("BULLISH", "BULLISH", Relation::Same),
            ("BULLISH", " bullish ", Relation::Same),
            ("", "  ", Relation::Same),
            ("", "BEARISH", Relation::Stated),
            ("BEARISH", "", Relation::Unstated),
            ("BULLISH", "BEARISH", Relation::Opposite),
            ("BULLISH", "NEUTRAL", Relation::Opposite),
            ("BULLISH", "BULL", Relation::Opposite),
        ] {
            let payload =
                format!(r#"{{"tickers": [{{"ticker": "A", "signal": "{earlier}"}}, {{"ticker": "A", "signal": "{later}"}}]}}"#);
            let mut batch = Batch::default();
            let payload = Some(payload.as_bytes());
            batch.push(
                &Record { partition: 0, offset: 0, time_ms: 0, key: None, payload, headers: &Vec::new },
                1,
                0,
                crate::clock::now(),
            );
            assert_eq!(Relation::between(&batch, 0, 1), expected, "{earlier} {later}");
            // One comparison is kept, and is not taken for that with another mention.
            let mut direction = Direction::new(1, false);
            assert_eq!(
                [1, 0, 0, 1].map(|joined| direction.beside(&batch, joined)),
                [Relation::Same, expected, expected, Relation::Same]
            );
        }
    }
}
