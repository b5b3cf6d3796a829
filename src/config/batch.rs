//! When a batch flushes.

use std::time::Duration;

use super::environment::Reader;

/// When a batch may leave before it is full or old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// At once, if no flush is running and the statement budget allows one.
    Eager,
    /// Never: it always waits for `BATCH_SIZE` or `BATCH_TIMEOUT_SECONDS`.
    Window,
}

/// When a batch flushes.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Signals; a threshold, not a cap.
    pub size: usize,
    /// Age of the oldest signal at which a batch leaves.
    pub timeout: Duration,
    /// Whether a batch may leave earlier.
    pub flush: Flush,
    /// Batches a second at most; `None` is no limit.
    pub queries_per_second: Option<u32>,
}

impl BatchConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let size = reader.number("BATCH_SIZE", 1, 1_000_000);
        let timeout = reader.seconds("BATCH_TIMEOUT_SECONDS", 0.001, 60.0);
        let flush = reader.choice("BATCH_FLUSH", &[("eager", Flush::Eager), ("window", Flush::Window)]);
        let queries_per_second = reader.number("DB_QUERIES_PER_SECOND", 0, 100_000);
        Some(Self {
            size: size?,
            timeout: timeout?,
            flush: flush?,
            queries_per_second: Some(queries_per_second?).filter(|limit| *limit > 0),
        })
    }
}
