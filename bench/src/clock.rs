//! The only reader of time.

use std::time::{Duration, Instant};

/// How often a condition is looked at while we wait for it.
const LOOK: Duration = Duration::from_millis(10);

/// A monotonic instant.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The date and time, for the records.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn date() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Asks again until `probe` gives something.
///
/// # Errors
/// The probe fails, `limit` is over, or a signal tells us to stop.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, probe: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    wait_closely(what, limit, LOOK, probe)
}

/// The same, with `look` between two questions.
pub(crate) fn wait_closely<T>(
    what: &str,
    limit: Duration,
    look: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = now() + limit;
    loop {
        crate::stop::check()?;
        if let Some(found) = probe()? {
            return Ok(found);
        }
        anyhow::ensure!(now() < deadline, "waited {} s in vain for {what}", limit.as_secs());
        // Only between two questions: the condition decides, not the time.
        std::thread::sleep(look);
    }
}

/// Sleeps until an instant, in pieces, so that a signal can end it.
///
/// # Errors
/// A signal tells us to stop.
pub(crate) fn sleep_until(instant: Instant) -> anyhow::Result<()> {
    loop {
        crate::stop::check()?;
        let left = instant.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}
