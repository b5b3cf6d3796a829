//! Figures: what they cost, how they are rounded, and a table for people.

use hdrhistogram::Histogram;
use postgres::Client;
use serde_json::{Map, Value, json};

use crate::machine;
use crate::process::{Usage, family_cpu};
use crate::services::Services;
use crate::statements;

/// Tells a person what goes on.
#[expect(clippy::print_stderr, reason = "progress is for people")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Tells what could not be cleaned up.
pub(crate) fn complain(text: &str) {
    say(&format!("warning: {text}"));
}

/// Tells when PostgreSQL has forgotten statements since it had forgotten so many.
pub(crate) fn warn_of_forgotten(admin: &mut Client, before: i64) -> anyhow::Result<()> {
    if statements::forgotten(admin)? != before {
        complain("pg_stat_statements has forgotten statements meanwhile: the counts may be too low");
    }
    Ok(())
}

/// Everything that is counted at both ends of a measured time.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) usage: Usage,
    pub(crate) statements: i64,
    /// Milliseconds that these have run.
    pub(crate) milliseconds: f64,
    /// Seconds that all processors were busy.
    pub(crate) busy: f64,
    services: Vec<(&'static str, f64)>,
}

impl Cost {
    /// Reads all counters; `statements` are the dispatcher's so far, and how long they ran.
    pub(crate) fn so_far(services: &Services, usage: Usage, (statements, milliseconds): (i64, f64)) -> Self {
        let cpu = |name| services.pid(name).map(|pid| (name, family_cpu(pid)));
        Self {
            usage,
            statements,
            milliseconds,
            busy: machine::busy(),
            services: ["kafka", "postgres", "redis"].into_iter().filter_map(cpu).collect(),
        }
    }

    /// CPU of the dispatcher between two readings, in seconds.
    pub(crate) fn cpu_since(&self, before: &Self) -> f64 {
        self.usage.cpu - before.usage.cpu
    }

    /// The difference of two readings, as a record.
    pub(crate) fn since(&self, before: &Self) -> Value {
        let threads: Map<String, Value> = self
            .usage
            .threads
            .iter()
            .map(|(name, cpu)| (name.clone(), round(cpu - before.usage.threads.get(name).unwrap_or(&0.0), 3)))
            .collect();
        let services: Map<String, Value> = self
            .services
            .iter()
            .zip(&before.services)
            .map(|((name, after), (_, before))| ((*name).to_owned(), round(after - before, 2)))
            .collect();
        json!({
            "dispatcher_cpu_s": round(self.cpu_since(before), 2),
            "dispatcher_threads_cpu_s": threads,
            "services_cpu_s": services,
            "statements": self.statements - before.statements,
            "resident_mb": round(self.usage.resident, 1),
            "peak_resident_mb": round(self.usage.peak, 1),
        })
    }
}

/// A number with so many decimals.
pub(crate) fn round(number: f64, decimals: i32) -> Value {
    let scale = 10_f64.powi(decimals);
    json!((number * scale).round() / scale)
}

/// A histogram of microseconds as milliseconds.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| round(histogram.value_at_quantile(quantile) as f64 / 1e3, 2);
    json!({
        "count": histogram.len(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": round(histogram.max() as f64 / 1e3, 2),
    })
}

/// A table with a head, right-aligned but for the first column.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Rows of cells, the first of which is the head.
    pub(crate) fn of(rows: Vec<Vec<String>>) -> Self {
        Self { rows }
    }

    #[expect(clippy::print_stdout, reason = "the table is the answer")]
    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            let cells =
                row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                });
            println!("{}", cells.collect::<Vec<_>>().join("  "));
        }
    }
}

/// The middle of some numbers.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}
