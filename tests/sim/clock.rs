//! Time of a schedule: every step takes a millisecond, and now and then a while passes at once.

use std::cell::Cell;
use std::time::Duration;

/// Longer than any wait of the loop and the sweeper, so that the jitter of a backoff decides nothing.
pub(crate) const WHILE: Duration = Duration::from_millis(2_100);
const START_MS: i64 = 1_700_000_000_000;

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(START_MS) };
}

/// The schedule's time, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    NOW_MS.get()
}

/// A schedule begins.
pub(crate) fn reset() {
    NOW_MS.set(START_MS);
}

/// A step passes.
pub(crate) fn tick() {
    NOW_MS.set(now_ms() + 1);
}

/// A while passes, for the store and for everyone who sleeps.
pub(crate) async fn advance() {
    NOW_MS.set(now_ms() + i64::try_from(WHILE.as_millis()).unwrap_or_default());
    tokio::time::advance(WHILE).await;
}
