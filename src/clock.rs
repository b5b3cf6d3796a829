//! The only reader of time. Everything else takes an instant as an argument.

use std::time::Instant;

/// A monotonic instant, for durations and deadlines.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// A monotonic instant of the runtime's timers, for what also waits: the simulation lets it pass.
pub fn timer() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The wall clock, in milliseconds since 1970; only for the age of records and for logs, never for a claim.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond() + crate::chaos::clock_offset_ms()
}
