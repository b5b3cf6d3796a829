//! What is sent: signals, bad records in 30 kinds, old records, signals that come again, and different signals with one id. Each is a function of the seed
//! and its number, so nothing needs to be remembered to know what a record was.

use serde_json::json;

use crate::dice::Dice;

/// Tickers that there are; pipelines watch the first two thirds.
pub(crate) const TICKERS: u64 = 300;
/// Kinds of bad records.
pub(crate) const BAD_KINDS: u64 = 30;

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A signal. `origin` is the number of the record that it repeats, or its own.
    Signal { origin: u64, tickers: Vec<u64> },
    /// Bad in itself.
    Bad(u64),
    /// Older than any signal may be.
    Stale,
}

/// Makes the records of a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signals {
    seed: u64,
}

impl Signals {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// What the record with a number is.
    pub(crate) fn kind(self, number: u64) -> Kind {
        let mut dice = self.dice(number);
        match dice.below(1000) {
            // One in a hundred is bad, and all kinds get their turn.
            0..10 => Kind::Bad(dice.below(BAD_KINDS)),
            10..13 => Kind::Stale,
            13..33 if number > 0 => {
                // Soon again, or much later.
                let back = 1 + if dice.chance(500) { dice.below(50) } else { dice.below(2_000) };
                match self.kind(number.saturating_sub(back)) {
                    again @ Kind::Signal { .. } => again,
                    _ => Kind::Signal { origin: number, tickers: tickers(&mut dice) },
                }
            }
            _ => Kind::Signal { origin: number, tickers: tickers(&mut dice) },
        }
    }

    fn dice(self, number: u64) -> Dice {
        Dice::new(self.seed, number.wrapping_mul(2).wrapping_add(1))
    }

    /// The id that a signal states. One in twenty states none, and another one comes from a producer with one id for everything.
    pub(crate) fn signal_id(self, origin: u64) -> Option<String> {
        match origin % 20 {
            0 => None,
            1 => Some("None".to_owned()),
            _ => Some(format!("chaos-{}-{origin}", self.seed)),
        }
    }

    /// The bytes of a record; `None` is a tombstone.
    pub(crate) fn payload(self, number: u64) -> Option<Vec<u8>> {
        match self.kind(number) {
            Kind::Signal { origin, tickers } => Some(self.signal(origin, &tickers)),
            Kind::Stale => Some(self.signal(number, &[0])),
            Kind::Bad(kind) => bad(kind),
        }
    }

    fn signal(self, origin: u64, tickers: &[u64]) -> Vec<u8> {
        let tickers: Vec<_> = tickers
            .iter()
            .map(|ticker| json!({"ticker": ticker_name(*ticker), "signal": "BULLISH", "confidence": 80.5}))
            .collect();
        let mut signal =
            json!({"signal_type": "golden_cross", "source": "chaos", "tickers": tickers, "metadata": {"number": origin}});
        if let Some(id) = self.signal_id(origin) {
            signal["signal_id"] = id.into();
        }
        signal.to_string().into_bytes()
    }
}

fn tickers(dice: &mut Dice) -> Vec<u64> {
    let first = dice.below(TICKERS);
    if dice.chance(200) { vec![first, (first + 1 + dice.below(TICKERS - 1)) % TICKERS] } else { vec![first] }
}

pub(crate) fn ticker_name(ticker: u64) -> String {
    format!("T{ticker:03}")
}

/// Records that no decoder should take.
pub(crate) fn bad(kind: u64) -> Option<Vec<u8>> {
    let good = r#"{"signal_id":"x","tickers":[{"ticker":"T001"}]}"#;
    let with = |fields: &str| format!(r#"{{"signal_id":"x",{fields}}}"#).into_bytes();
    let repeated = |text: &str, times: usize| text.repeat(times);
    Some(match kind {
        0 => return None,
        1 => Vec::new(),
        2 => good.as_bytes()[..good.len() - 3].to_vec(),
        3 => [good.as_bytes(), &[0xff, 0xfe]].concat(),
        4 => with(&format!(r#""metadata":{}1{},"tickers":[{{"ticker":"T001"}}]"#, repeated("[", 10_000), repeated("]", 10_000))),
        5 => with(&format!(r#""metadata":{{"a":"{}"}},"tickers":[{{"ticker":"T001"}}]"#, repeated("x", 300 * 1024))),
        6 => br#"{"signal_id":"x\u0000y","tickers":[{"ticker":"T001"}]}"#.to_vec(),
        7 => with(r#""tickers":[{"ticker":"T001","confidence":NaN}]"#),
        8 => with(r#""tickers":[{"ticker":"T001"}],"tickers":[{"ticker":"T002"}]"#),
        9 => with(r#""tickers":{"ticker":"T001"}"#),
        10 => with(r#""tickers":"T001""#),
        11 => with(&format!(r#""tickers":[{}{{"ticker":"T001"}}]"#, repeated(r#"{"ticker":"T001"},"#, 1_000))),
        12 => with(r#""tickers":[]"#),
        13 => with(r#""metadata":{}"#),
        14 => with(r#""tickers":[{"ticker":"   "}]"#),
        15 => with(r#""tickers":[{"ticker":17}]"#),
        16 => b"17".to_vec(),
        17 => br#"[{"tickers":[{"ticker":"T001"}]}]"#.to_vec(),
        18 => br#""T001""#.to_vec(),
        19 => br#"{"signal_id":"\ud800","tickers":[{"ticker":"T001"}]}"#.to_vec(),
        20 => with(r#""tickers":[{"ticker":"T001","confidence":1e400}]"#),
        21 => with(r#""tickers":[{"ticker":"T001","confidence":"high"}]"#),
        22 => with(&format!(r#""tickers":[{{"ticker":"{}"}}]"#, repeated("T", 65))),
        23 => format!(r#"{{"signal_id":"{}","tickers":[{{"ticker":"T001"}}]}}"#, repeated("s", 600)).into_bytes(),
        24 => [good.as_bytes(), b"garbage"].concat(),
        25 => [good.as_bytes(), good.as_bytes()].concat(),
        26 => b"'; drop table dispatcher.triggers; --".to_vec(),
        27 => b"{\"signal_id\":\"\x1b[2J\r\n{\"event\":\"forged\"}".to_vec(),
        28 => br#"{"signal_id":{"a":1},"tickers":[{"ticker":"T001"}]}"#.to_vec(),
        _ => vec![0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x04, 0x00],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_always_the_same_and_the_mix_is_as_said() {
        let signals = Signals::new(5);
        let kinds: Vec<_> = (0..20_000).map(|number| signals.kind(number)).collect();
        assert_eq!(kinds, (0..20_000).map(|number| signals.kind(number)).collect::<Vec<_>>());
        let bad = kinds.iter().filter(|kind| matches!(kind, Kind::Bad(_))).count();
        assert!((120..280).contains(&bad), "{bad} bad records");
        for kind in 0..BAD_KINDS {
            assert!(kinds.contains(&Kind::Bad(kind)), "kind {kind} never comes");
        }
        let again =
            (0..).zip(&kinds).filter(|(number, kind)| matches!(kind, Kind::Signal { origin, .. } if origin != number)).count();
        assert!((200..600).contains(&again), "{again} signals that come again");
    }

    #[test]
    fn a_signal_that_comes_again_has_the_same_bytes() {
        let signals = Signals::new(5);
        for number in 0..5_000 {
            if let Kind::Signal { origin, .. } = signals.kind(number) {
                assert_eq!(signals.payload(number), signals.payload(origin), "{number} repeats {origin}");
            }
        }
    }
}
