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

/// The time of the oldest record that is not too old, both in milliseconds since 1970; without a limit none is.
pub fn oldest_ms(now_ms: i64, max_age: Option<std::time::Duration>) -> i64 {
    max_age.map_or(i64::MIN, |age| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

/// The wall clock, in milliseconds since 1970; only for the age of records and for logs, never for a claim.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond() + crate::chaos::clock_offset_ms()
}
