//! Log lines on stdout: one JSON object each, or text for people.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::panic::PanicHookInfo;
use std::time::Duration;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::lines::STDOUT;
use crate::clock;
use crate::config::{LogFormat, ProcessConfig};

/// Fields whose text is a JSON list: `tracing` itself knows no lists.
const LISTS: [&str; 4] = ["tickers", "matched_tickers", "partitions", "assigned"];

/// How long the end of the process waits for whoever reads its log.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Starts logging for the rest of the process. No line ever waits for whoever reads the log.
///
/// # Errors
/// The system gives no thread.
pub fn start(config: &ProcessConfig) -> std::io::Result<()> {
    STDOUT.start()?;
    let filter = EnvFilter::try_new(filter(&config.log_level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| &STDOUT);
    let result = match config.log_format {
        LogFormat::Json => builder.event_format(JsonLines).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(false).try_init(),
    };
    if let Err(error) = result {
        tracing::warn!(event = "logs_started_twice", %error);
    }
    // The standard hook writes to stderr, and waits for whoever reads that.
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Waits until whoever reads the log has all of it, for half a second at most.
pub fn finish() {
    STDOUT.flush(LAST_LINES);
}

fn panicked(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let backtrace = Some(Backtrace::capture()).filter(|backtrace| backtrace.status() == BacktraceStatus::Captured);
    tracing::error!(
        event = "panicked",
        thread = thread.name(),
        text,
        at = info.location().map(tracing::field::display),
        backtrace = backtrace.map(tracing::field::display),
    );
}

/// Libraries that are heard only by whoever names them. lapin logs each failure on its way to us, and each message that comes back with
/// all that is in it; what it says is in our own line, once a minute. PostgreSQL's client logs at level debug every statement with its
/// values, and Redis' and HTTP's what they send.
const QUIET: [(&str, &str); 6] = [
    ("lapin", "off"),
    ("tokio_postgres", "warn"),
    ("redis", "warn"),
    ("hyper", "warn"),
    ("hyper_util", "warn"),
    ("rustls", "warn"),
];

fn filter(level: &str) -> String {
    let is_named = |library: &str| level.split(',').any(|part| part.trim().split(['=', ':']).next() == Some(library));
    // At a level that is low for everybody there is nothing to keep quiet but lapin.
    let is_talkative = level.to_ascii_lowercase().contains("debug") || level.to_ascii_lowercase().contains("trace");
    QUIET
        .iter()
        .filter(|(library, most)| !is_named(library) && (is_talkative || *most == "off"))
        .fold(level.to_owned(), |filter, (library, most)| format!("{filter},{library}={most}"))
}

/// A value for a field that is a list in the log: see [`LISTS`].
pub fn json(value: &impl serde::Serialize) -> String {
    // Lists of numbers and texts can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line(Map::new());
        let time = jiff::Timestamp::from_millisecond(clock::unix_ms()).unwrap_or_default();
        line.put("timestamp", time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into());
        line.put("level", event.metadata().level().as_str().to_ascii_lowercase().into());
        event.record(&mut line);
        if !line.0.contains_key("event") {
            line.put("event", "log".into());
            line.put("target", event.metadata().target().into());
        }
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(&mut self, field: &Field, text: String) {
        let list = if LISTS.contains(&field.name()) { serde_json::from_str(&text).ok() } else { None };
        self.put(field.name(), list.unwrap_or(Value::String(text)));
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_ok() {
            self.text(field, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lapin_is_heard_by_whoever_asks_for_it() {
        assert_eq!(filter("info"), "info,lapin=off");
        assert!(filter("warn,trigger_dispatcher=debug").starts_with("warn,trigger_dispatcher=debug,lapin=off,"));
        assert!(!filter("info,lapin=debug").contains("lapin=off"));
        assert!(!filter("info,lapin::channel=debug").contains("lapin=off"));
        for level in ["error", "info,trigger_dispatcher=debug"] {
            assert!(EnvFilter::try_new(filter(level)).unwrap().to_string().contains("lapin=off"));
        }
    }

    #[test]
    fn at_level_debug_no_library_tells_the_values_that_it_sends_unless_it_is_named() {
        for level in ["debug", "TRACE", "info,tokio=debug"] {
            let filter = EnvFilter::try_new(filter(level)).unwrap().to_string();
            for library in ["lapin=off", "tokio_postgres=warn", "redis=warn", "hyper=warn"] {
                assert!(filter.contains(library), "{level}: {filter}");
            }
        }
        let named = filter("debug,tokio_postgres=trace");
        assert!(!named.contains("tokio_postgres=warn") && named.contains("redis=warn"), "{named}");
    }

    #[test]
    fn a_line_is_one_json_object_with_its_fields() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                event = "signal_received",
                signal_id = "a\n\u{1b}[31m",
                tickers = r#"["AAPL"]"#,
                count = 2_u64,
                suppressed = None::<u64>
            );
        });
        let bytes = sink.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1, "control characters are escaped");
        assert!(!text.contains('\u{1b}'));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["event"], "signal_received");
        assert_eq!(line["level"], "info");
        assert_eq!(line["tickers"], serde_json::json!(["AAPL"]));
        assert_eq!(line["count"], 2);
        assert!(line.get("suppressed").is_none());
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
