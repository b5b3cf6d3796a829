//! What a ticker looks like: trimmed, upper-case, as the dispatcher compares them.

use crate::bar::{BadBar, shorten};

/// Longest ticker taken, in characters.
const MAX_LENGTH: usize = 32;

/// Trims and upper-cases; refuses what cannot be a symbol, so that keys and ids stay unambiguous.
pub fn normalize(text: &str) -> Result<String, BadBar> {
    let ticker = text.trim().to_ascii_uppercase();
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-^=/_:".contains(c);
    if ticker.is_empty() || ticker.len() > MAX_LENGTH || !ticker.chars().all(allowed) {
        return Err(BadBar::Ticker(shorten(text)));
    }
    Ok(ticker)
}

/// `TCK0000`, `TCK0001`, …: as many made-up tickers as asked for.
pub fn made_up(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("TCK{number:04}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticker_is_trimmed_and_upper_cased_or_refused() {
        assert_eq!(normalize(" brk.b\t").unwrap(), "BRK.B");
        assert_eq!(normalize("^GSPC").unwrap(), "^GSPC");
        for bad in ["", "  ", "A B", "ÄÖ", "A\nB", &"X".repeat(33)] {
            assert!(normalize(bad).is_err(), "{bad:?}");
        }
    }
}
