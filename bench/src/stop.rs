//! SIGINT and SIGTERM end a run in order, so that nothing of it stays behind in the services.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};

static TOLD: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Listens from now on.
pub(crate) fn on_signals() -> anyhow::Result<()> {
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
