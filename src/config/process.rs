//! Logs, HTTP, shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use super::environment::{Reader, shape};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Logs, HTTP, shutdown.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// A level or `tracing` filter, for example `info` or `info,trigger_dispatcher=debug`.
    pub log_level: String,
    /// Lines a second of each event that comes once per signal.
    pub log_signals_per_second: u32,
    /// Where health and metrics are served.
    pub http_address: SocketAddr,
    /// How long records may wait in Kafka without coming to us before the process leaves; `None` is for ever.
    pub stall: Option<Duration>,
    /// How long a shutdown may take before the process leaves anyway.
    pub shutdown_grace: Duration,
}

impl ProcessConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let log_format = reader.choice("LOG_FORMAT", &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
        let stated = reader.required("LOG_LEVEL")?;
        let log_level = log_filter(stated);
        if log_level.is_none() {
            let levels = "error, warn, info, debug or trace (or as Python calls them), or a list such as info,lapin=debug";
            reader.problem("LOG_LEVEL", format!("expected {levels}, got {}", shape(stated)));
        }
        let log_signals_per_second = reader.number("LOG_SIGNALS_PER_SECOND", 0, 1_000_000);
        let address = reader.required("HTTP_ADDRESS")?;
        let http_address = address.parse::<SocketAddr>().ok();
        if http_address.is_none() {
            reader
                .problem("HTTP_ADDRESS", format!("expected an address and port such as 127.0.0.1:8080, got {}", shape(address)));
        }
        let stall = reader.seconds("STALL_SECONDS", 0.0, 86_400.0);
        let shutdown_grace = reader.seconds("SHUTDOWN_GRACE_SECONDS", 1.0, 3600.0);
        Some(Self {
            log_format: log_format?,
            log_level: log_level?,
            log_signals_per_second: log_signals_per_second?,
            http_address: http_address?,
            stall: Some(stall?).filter(|stall| !stall.is_zero()),
            shutdown_grace: shutdown_grace?,
        })
    }
}

/// Translates `LOG_LEVEL` to a filter; Python's names of levels are understood. `None` if a word is no level: `EnvFilter` would take it for
/// the name of a library, and log nothing of the others, not even errors.
fn log_filter(stated: &str) -> Option<String> {
    let directive = |text: &str| match text.rsplit_once('=') {
        Some((target, level)) => Some(format!("{target}={}", level_name(level)?)),
        // What libraries name by spans and fields is left as it is.
        None if text.contains(['[', '{']) => Some(text.to_owned()),
        None => level_name(text).map(str::to_owned),
    };
    let filter = stated.split(',').map(|text| directive(text.trim())).collect::<Option<Vec<_>>>()?.join(",");
    tracing_subscriber::EnvFilter::try_new(&filter).ok().map(|_| filter)
}

fn level_name(text: &str) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_str() {
        "trace" | "notset" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" => "off",
        _ => return None,
    })
}
