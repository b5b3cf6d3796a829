//! SIGTERM and Ctrl-C: the first asks for a clean end, the second ends at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How soon a request to stop is noticed while waiting.
const SLICE: Duration = Duration::from_millis(50);

/// Whether to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens to the process's signals.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // Registered in this order, the shutdown looks at the flag before the same signal sets it.
            flag::register_conditional_shutdown(signal, code, Arc::clone(&stop.0))?;
            flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// True once asked to.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits, but not beyond a request to stop.
    pub fn wait(&self, mut time: Duration) {
        while !self.is_asked() && !time.is_zero() {
            let slice = time.min(SLICE);
            thread::sleep(slice);
            time -= slice;
        }
    }
}
