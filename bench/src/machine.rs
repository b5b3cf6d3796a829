//! What a figure was measured on: machine, versions, load.

use std::fs;
use std::process::Command;

use postgres::Client;
use serde_json::{Value, json};

use crate::services::Services;

/// The machine.
pub(crate) fn machine() -> Value {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "processor": field("/proc/cpuinfo", "model name"),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

/// Seconds that the processors were busy so far, whoever with.
pub(crate) fn busy() -> f64 {
    // Of user, nice, system, idle, iowait, irq, softirq and steal: all but idle, iowait and steal, in clock ticks.
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> =
        text.lines().next().unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|field| ticks.get(*field)).sum::<f64>() / crate::process::TICKS
}

/// The load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The versions of everything that takes part.
pub(crate) fn versions(services: &Services, admin: &mut Client) -> anyhow::Result<Value> {
    let postgres: String = admin.query_one("select current_setting('server_version')", &[])?.get(0);
    let mut redis = redis::Client::open(services.redis.as_str())?.get_connection()?;
    let info: String = redis::cmd("INFO").arg("server").query(&mut redis)?;
    let redis = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
    Ok(json!({
        "commit": output("git", &["rev-parse", "--short", "HEAD"]),
        "changed_since_commit": !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "rustc": output("rustc", &["--version"]),
        "librdkafka": rdkafka::util::get_rdkafka_version().1,
        "postgresql": postgres,
        "redis": redis.trim(),
    }))
}

/// What a program says; nothing when it is not there, as outside a checkout.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
