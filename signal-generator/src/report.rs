//! What a person sees: complaints, progress and the summary, on standard error; never a signal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How often a log is told of progress, and how often a terminal.
const LOG_EVERY: Duration = Duration::from_secs(5);
const TERMINAL_EVERY: Duration = Duration::from_millis(200);

/// Writes to standard error and counts the bad lines.
#[derive(Debug)]
pub struct Report {
    is_terminal: bool,
    next: Duration,
    line_open: bool,
    bad: u64,
}

impl Default for Report {
    fn default() -> Self {
        let is_terminal = io::stderr().is_terminal();
        // The first line of progress is due only after the first interval: a short run shows none.
        Self { is_terminal, next: LOG_EVERY, line_open: false, bad: 0 }
    }
}

impl Report {
    /// One bad line, record or file, and why. Counted.
    pub fn complain(&mut self, place: &str, reason: &impl std::fmt::Display) {
        self.bad += 1;
        self.line(&format!("{place}: {reason}"));
    }

    /// Bad lines, records and files so far.
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// One line, now.
    pub fn line(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.line_open) { "\r\x1b[K" } else { "" };
        write_stderr(&format!("{clear}{text}\n"));
    }

    /// A line that a terminal sees change, and a log gets every five seconds. `text` is made only when it is due.
    pub fn progress(&mut self, elapsed: Duration, text: impl FnOnce() -> String) {
        if self.is_terminal && self.next == LOG_EVERY {
            self.next = TERMINAL_EVERY;
        }
        if elapsed < self.next {
            return;
        }
        self.next = elapsed + if self.is_terminal { TERMINAL_EVERY } else { LOG_EVERY };
        if self.is_terminal {
            write_stderr(&format!("\r\x1b[K{}", text()));
            self.line_open = true;
        } else {
            self.line(&text());
        }
    }
}

fn write_stderr(text: &str) {
    // When nobody can read standard error any more, there is nobody to tell.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
