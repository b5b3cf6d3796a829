//! Log lines that may come at most once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

const INTERVAL: Duration = Duration::from_secs(60);
/// Keys that are remembered; more would mean that they hold data.
const MAX_KEYS: usize = 256;

/// Tells for each key whether its line may be written now.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<HashMap<String, Instant>>);

impl Seldom {
    /// Whether the line of `key` may be written; if so, not again for a minute.
    pub fn now(&self, key: &str) -> bool {
        self.at(key, clock::now())
    }

    /// The same at a moment that is given.
    pub fn at(&self, key: &str, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get(key).is_some_and(|last| now.saturating_duration_since(*last) < INTERVAL) {
            return false;
        }
        if last.len() >= MAX_KEYS {
            last.clear();
        }
        last.insert(key.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_minute() {
        let seldom = Seldom::default();
        let start = clock::now();
        assert!(seldom.at("a", start));
        assert!(seldom.at("b", start));
        assert!(!seldom.at("a", start + INTERVAL.mul_f64(0.999)));
        assert!(seldom.at("a", start + INTERVAL));
    }
}
