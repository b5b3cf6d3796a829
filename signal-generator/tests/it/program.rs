//! Runs the program, and makes the bars that it reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use jiff::civil::date;
use signal_generator::series::Series;
use signal_generator::{Bar, RandomWalk};

/// Long enough for the slowest machine: reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// (ticker, type, day of the bar)
pub(crate) type Crosses = BTreeSet<(String, &'static str, String)>;

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signal-generator"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SIGNAL_TOPIC", "KAFKA_STATE_TOPIC"] {
        command.env_remove(variable);
    }
    command
}

/// Runs to the end, which must have this exit code; returns standard output and standard error.
pub(crate) fn run(arguments: &[&str], code: i32) -> (String, String) {
    let output = command(arguments).output().expect("the program starts");
    texts(&output, code)
}

pub(crate) fn texts(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{err}");
    (out, err)
}

/// A program in the background, killed when the test ends.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self(Some(command(arguments).spawn().expect("the program starts")))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut().expect("not waited for yet");
        child.try_wait().expect("its state can be asked for").is_some()
    }

    /// Waits for the end by itself.
    pub(crate) fn wait(mut self, code: i32) -> (String, String) {
        until("the program ends", || self.has_ended().then_some(()));
        let child = self.0.take().expect("not waited for yet");
        texts(&child.wait_with_output().expect("its output can be read"), code)
    }

    pub(crate) fn terminate(self, code: i32) -> (String, String) {
        let pid = self.0.as_ref().expect("not waited for yet").id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill(1) is there");
        assert!(sent.success());
        self.wait(code)
    }
}

impl Drop for Running {
    /// SIGKILL: also what the tests of crashes want.
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a killed child ends");
        }
    }
}

/// Asks again and again until there is an answer.
#[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// One CSV file a ticker, and the crosses that are in them.
pub(crate) fn write_walks(folder: &Path, tickers: usize, bars: usize) -> Crosses {
    let mut crosses = Crosses::new();
    for ticker in signal_generator::ticker::made_up(tickers) {
        let bars: Vec<Bar> = RandomWalk::new(5, &ticker, date(2000, 1, 3)).take(bars).collect();
        crosses.extend(crosses_of(&ticker, &bars));
        fs::write(folder.join(format!("{ticker}.csv")), csv(&bars)).expect("a file can be written");
    }
    crosses
}

pub(crate) fn crosses_of(ticker: &str, bars: &[Bar]) -> Crosses {
    let mut series = Series::default();
    let crosses = bars.iter().filter_map(|bar| series.push(bar).expect("a good bar"));
    let crosses = crosses.map(|cross| (ticker.to_owned(), cross.direction.signal_type().name(), cross.date.to_string()));
    crosses.collect()
}

pub(crate) fn csv(bars: &[Bar]) -> String {
    let mut text = "date,open,high,low,close,volume\n".to_owned();
    for bar in bars {
        writeln!(text, "{}", bar.csv_line()).expect("text can be written to");
    }
    text
}

/// 200 flat bars, and one above them: the last one is a golden cross.
pub(crate) fn flat_then_up() -> Vec<Bar> {
    let mut bars: Vec<Bar> = RandomWalk::new(1, "FLAT", date(2020, 1, 1)).take(201).collect();
    for bar in &mut bars {
        *bar = Bar { open: 10.0, high: 10.0, low: 10.0, close: 10.0, ..*bar };
    }
    bars[200] = Bar { high: 12.0, close: 12.0, ..bars[200] };
    bars
}
