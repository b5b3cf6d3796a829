//! Log lines on their way to stdout. Whoever reads stdout may stop reading, so nobody but one thread ever waits for it.
//!
//! A line is added to a buffer, which the thread writes to stdout. A line for which the buffer has no room is dropped and counted; the
//! count is logged once stdout takes lines again.

use std::io::{self, Write};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::chaos::{self, Bug};

/// Bytes of lines that may wait for stdout: some seconds of a busy log.
const ROOM: usize = 1024 * 1024;
/// Memory that an empty buffer keeps, in bytes.
const KEPT: usize = 64 * 1024;

/// The lines of this process.
pub(super) static STDOUT: Lines = Lines::new();

/// Lines that were dropped since the start, for the metrics.
pub(super) static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Lines that wait for their output.
#[derive(Debug)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines were taken out of the buffer, and the output does not have all of them yet.
    is_writing: bool,
    /// Lines dropped since the start, and how many of them a line has told of.
    dropped: u64,
    told: u64,
}

impl Lines {
    const fn new() -> Self {
        let waiting = Waiting { bytes: Vec::new(), is_writing: false, dropped: 0, told: 0 };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    /// Begins to write to stdout, on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(&'static self) -> io::Result<()> {
        std::thread::Builder::new().name("log".into()).spawn(|| self.write_to(io::stdout(), log_dropped)).map(drop)
    }

    /// Waits until all lines are written, but no longer than `limit`; whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > ROOM {
            waiting.dropped += 1;
            DROPPED.inc();
            return;
        }
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// Writes lines for ever. `tell` logs how many were dropped since the start.
    fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut bytes = Vec::new();
        loop {
            let no_line = |waiting: &mut Waiting| waiting.bytes.is_empty();
            let mut waiting = self.changed.wait_while(self.lock(), no_line).unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut waiting.bytes, &mut bytes);
            waiting.is_writing = true;
            drop(waiting);
            let written = out.write_all(&bytes).and_then(|()| out.flush());
            let lost = if written.is_ok() { 0 } else { bytes.split_inclusive(|byte| *byte == b'\n').count() as u64 };
            bytes.clear();
            bytes.shrink_to(KEPT);
            if let Some(dropped) = self.untold(lost) {
                // This line may be dropped too. Then there is more to tell after the next write.
                tell(dropped);
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    /// Counts lines that the output refused; otherwise how many were dropped, if no line has told that yet.
    fn untold(&self, lost: u64) -> Option<u64> {
        let mut waiting = self.lock();
        waiting.dropped += lost;
        DROPPED.inc_by(lost);
        if lost > 0 || waiting.dropped == waiting.told {
            return None;
        }
        waiting.told = waiting.dropped;
        Some(waiting.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a whole line at once, and never fails.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if chaos::bug(Bug::LogLineBlocks) {
            return io::stdout().write(line);
        }
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_dropped(since_start: u64) {
    let text = "whoever reads stdout had stopped reading, or had closed it";
    tracing::warn!(event = "log_lines_dropped", since_start, text);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// An output that takes what its reader takes, and waits for the reader otherwise.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (&'static Lines, Receiver<Vec<u8>>) {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        let (pipe, reader) = sync_channel(0);
        let tell = |dropped| lines.add(format!("dropped {dropped}\n").as_bytes());
        std::thread::spawn(move || lines.write_to(Pipe(pipe), tell));
        (lines, reader)
    }

    /// What the reader gets until it has had `last`.
    fn read_until(reader: &Receiver<Vec<u8>>, last: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(last) {
            text.push_str(std::str::from_utf8(&reader.recv_timeout(PATIENCE).unwrap()).unwrap());
        }
        text
    }

    #[test]
    fn lines_come_in_their_order_and_a_flush_waits_for_them() {
        let (lines, reader) = lines();
        let expected = (0..1000).fold(String::new(), |text, number| text + &format!("line {number}\n"));
        for line in expected.split_inclusive('\n') {
            lines.add(line.as_bytes());
        }
        assert!(!lines.flush(Duration::from_millis(1)), "nobody has read yet");
        assert_eq!(read_until(&reader, "line 999\n"), expected);
        assert!(lines.flush(PATIENCE));
    }

    #[test]
    fn a_reader_that_stops_makes_nobody_wait_and_learns_how_many_lines_were_dropped() {
        let (lines, reader) = lines();
        let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
        let sent = ROOM / line.len() * 3;
        for _ in 0..sent {
            lines.add(&line);
        }
        assert!(lines.lock().bytes.len() <= ROOM, "memory is bounded");
        // The line that tells of them may be dropped as well, and is counted then.
        let mut text = read_until(&reader, "\n");
        while text.lines().last() != Some(&format!("dropped {}", lines.lock().dropped)) {
            text.push_str(&read_until(&reader, "\n"));
        }
        let read = text.lines().filter(|line| line.starts_with('x')).count();
        let dropped = usize::try_from(lines.lock().dropped).unwrap();
        assert!([sent - read, sent - read + 1].contains(&dropped), "of {sent} lines {read} were read and {dropped} dropped");
        lines.add(b"later\n");
        assert_eq!(read_until(&reader, "later\n"), "later\n");
    }

    #[test]
    fn a_reader_that_is_gone_costs_its_lines_and_nothing_else() {
        let (lines, reader) = lines();
        drop(reader);
        for number in 1..=3 {
            lines.add(b"to nobody\n");
            assert!(lines.flush(PATIENCE));
            assert_eq!(lines.lock().dropped, number);
        }
    }
}
