//! The only reader of time, and the only place that waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

static TOLD: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// SIGINT and SIGTERM end a run in order from now on, so that no instance stays behind.
pub(crate) fn stop_on_signals() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&TOLD))?;
    }
    Ok(())
}

/// Fails once we were told to stop. Every wait asks.
pub(crate) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!TOLD.load(Ordering::Relaxed), "told to stop");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Waits for as long as a fault lasts.
pub(crate) fn pause(time: Duration) -> anyhow::Result<()> {
    let end = now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Asks again until `probe` gives something; `None` when the time is over.
pub(crate) fn wait_for<T>(time: Duration, mut probe: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<Option<T>> {
    let end = now() + time;
    loop {
        check()?;
        if let Some(found) = probe()? {
            return Ok(Some(found));
        }
        if now() >= end {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
