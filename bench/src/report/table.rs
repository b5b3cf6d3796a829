//! The figures of an arm as a table: a row for each variant that was measured, the median of its turns and their spread.

use crate::book::Document;
use crate::results::{Table, median, say};

/// A column: its head, where its figure is (a JSON pointer), and how many decimals it has.
pub(crate) type Column = (&'static str, &'static str, usize);

const DRAIN: &[Column] = &[
    ("signals/s", "/signals_per_s", 0),
    ("µs of CPU a signal", "/cpu_us_per_signal", 2),
    ("statements/s", "/statements_per_s", 0),
    ("peak MB", "/cost/peak_resident_mb", 0),
    ("unmatched %", "/unmatched_percent", 0),
    ("tasks", "/tasks", 0),
];
const LATENCY: &[Column] = &[
    ("p50 ms", "/latency_ms/p50", 1),
    ("p90", "/latency_ms/p90", 1),
    ("p99", "/latency_ms/p99", 1),
    ("p99.9", "/latency_ms/p99.9", 1),
    ("max", "/latency_ms/max", 1),
    ("Kafka's ack p50", "/kafka_ack_ms/p50", 1),
    ("p99", "/kafka_ack_ms/p99", 1),
    ("sender late, most", "/sender_late_ms", 1),
    ("statements/s", "/statements_per_s", 0),
    ("running, % of the time", "/in_statements_percent", 0),
    ("tasks/s", "/tasks_per_s", 0),
    ("cores", "/dispatcher_cpu_cores", 3),
    ("µs of CPU a signal", "/cpu_us_per_signal", 1),
    ("cores in use by all", "/busy_cores", 1),
];
const RIVALS: &[Column] = &[
    ("signals/s", "/signals_per_s", 0),
    ("p50 ms", "/latency_ms/p50", 1),
    ("p99", "/latency_ms/p99", 1),
    ("max", "/latency_ms/max", 1),
    ("µs of CPU a signal", "/cpu_us_per_signal", 1),
    ("statements/s", "/statements_per_s", 0),
    ("tasks/s", "/tasks_per_s", 0),
    ("peak MB", "/cost/peak_resident_mb", 0),
];
const INSTANCES: &[Column] = &[
    ("µs of CPU a signal", "/cpu_us_per_signal", 2),
    ("of these librdkafka", "/librdkafka_us", 2),
    ("intake", "/intake_us", 2),
    ("loop", "/loop_us", 2),
    ("signals/s", "/signals_per_s", 0),
    ("least share of the work, %", "/least_share_percent", 0),
    ("tasks", "/tasks", 0),
    ("duplicates", "/duplicates", 0),
];
const FAILOVER: &[Column] = &[
    ("partitions of the dead stand still, ms", "/dead_pause_ms", 0),
    ("all others, ms", "/living_pause_ms", 0),
    ("p50 ms", "/latency_ms/p50", 1),
    ("p99", "/latency_ms/p99", 1),
    ("p99.9", "/latency_ms/p99.9", 1),
    ("max", "/latency_ms/max", 1),
    ("tasks", "/tasks", 0),
];
const CLAIMS: &[Column] = &[
    ("claims/s", "/claims_per_s", 0),
    ("statements/s", "/statements_per_s", 0),
    ("running, % of the time", "/in_statements_percent", 0),
    ("p50 ms", "/latency_ms/p50", 0),
    ("p99", "/latency_ms/p99", 0),
    ("cores", "/dispatcher_cpu_cores", 2),
    ("PostgreSQL's CPU s", "/cost/services_cpu_s/postgres", 1),
    ("cores in use by all", "/busy_cores", 1),
    ("peak MB", "/cost/peak_resident_mb", 0),
];
const PROFILE: &[Column] = &[
    ("on a processor, % of the time", "/profile/on_cpu_percent", 0),
    ("of this: looking up %", "/profile/looking_up_percent", 0),
    ("writing", "/profile/writing_percent", 0),
    ("other running", "/profile/other_running_percent", 0),
    ("setting up", "/profile/setting_up_percent", 0),
    ("committing", "/profile/committing_percent", 0),
    ("messages", "/profile/messages_percent", 0),
    ("statements/s", "/statements_per_s", 0),
    ("claims/s", "/claims_per_s", 0),
    ("cores in use by all", "/busy_cores", 1),
];
const MEMORY: &[Column] =
    &[("resident MB", "/resident_mb", 1), ("peak MB", "/peak_resident_mb", 1), ("MB for each 1,000", "/mb_per_1000", 3)];
const REFRESH: &[Column] = &[
    ("refreshes", "/refreshes", 0),
    ("one takes, ms", "/refresh_ms", 0),
    ("the first, ms", "/first_refresh_ms", 0),
    ("p50 ms", "/latency_ms/p50", 1),
    ("p99", "/latency_ms/p99", 1),
    ("p99.9", "/latency_ms/p99.9", 1),
    ("cores", "/dispatcher_cpu_cores", 3),
    ("peak MB", "/cost/peak_resident_mb", 0),
];
const STARTUP: &[Column] = &[("first partition, ms", "/ready_ms", 0), ("first task, ms", "/first_task_ms", 0)];
const COST: &[Column] = &[
    ("with the promise, ms", "/with_ms", 3),
    ("without, ms", "/without_ms", 3),
    ("difference, µs each", "/difference_us_each", 2),
    ("WAL, bytes each", "/wal_bytes_each", 0),
    ("won, %", "/won_percent", 0),
];

const LEDGER: &[Column] = &[
    ("claim, ms", "/claim_ms", 2),
    ("µs a slot", "/us_a_slot", 2),
    ("with its plan, ms", "/first_ms", 2),
    ("index, MB", "/index_mb", 0),
];

/// The columns of an arm.
pub(crate) fn columns(arm: &str) -> &'static [Column] {
    match arm {
        "paced" => LATENCY,
        "rivals" | "against" => RIVALS,
        "instances" => INSTANCES,
        "failover" => FAILOVER,
        "claims" => CLAIMS,
        "profile" => PROFILE,
        "memory" => MEMORY,
        "refresh" => REFRESH,
        "startup" => STARTUP,
        "cost" => COST,
        "ledger" => LEDGER,
        _ => DRAIN,
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", number.abs());
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut groups = String::new();
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position) % 3 == 0 {
            groups.push(',');
        }
        groups.push(digit);
    }
    let sign = if number < 0.0 && text.chars().any(|digit| ('1'..='9').contains(&digit)) { "-" } else { "" };
    format!("{sign}{groups}{rest}")
}

/// The median, with the least and the most where they differ.
fn cell(figures: &[(u32, f64)], decimals: usize) -> String {
    let numbers: Vec<f64> = figures.iter().map(|(_, figure)| *figure).collect();
    if numbers.is_empty() {
        return "–".to_owned();
    }
    let (least, most) =
        numbers.iter().fold((f64::MAX, f64::MIN), |(least, most), number| (least.min(*number), most.max(*number)));
    let [middle, least, most] = [median(&numbers), least, most].map(|number| grouped(number, decimals));
    if least == most { middle } else { format!("{middle} ({least}–{most})") }
}

/// Head and rows. Columns that no variant has are left out.
pub(crate) fn rows(document: &Document) -> Vec<Vec<String>> {
    // The arms of one run only keep the name of what they are.
    let arm = document.arm.trim_start_matches("once-");
    let variants = document.variants();
    let has = |column: &&Column| variants.iter().any(|variant| !document.figures(variant, column.1).is_empty());
    let columns: Vec<&Column> = columns(arm).iter().filter(has).collect();
    let head = [String::new()].into_iter().chain(columns.iter().map(|column| column.0.to_owned())).collect();
    let row = |variant: &&str| {
        let cells = columns.iter().map(|column| cell(&document.figures(variant, column.1), column.2));
        [(*variant).to_owned()].into_iter().chain(cells).collect()
    };
    [head].into_iter().chain(variants.iter().map(row)).collect()
}

/// The table for a terminal.
pub(crate) fn print(document: &Document) {
    say(&format!("bench/results/{}.json", document.arm));
    Table::of(rows(document)).print();
}

/// The table for the page.
pub(crate) fn markdown(document: &Document) -> String {
    markdown_of(&rows(document))
}

/// Any rows, the first of which is the head.
pub(crate) fn markdown_of(rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let Some((head, body)) = rows.split_first() else { return String::new() };
    let rule: Vec<String> = (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
    [line(head), line(&rule)].into_iter().chain(body.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::book::Run;

    fn document(runs: &[(&str, u32, Value)]) -> Document {
        let run = |(variant, turn, figures): &(&str, u32, Value)| Run {
            variant: (*variant).to_owned(),
            turn: *turn,
            at: String::new(),
            load_after: String::new(),
            figures: figures.clone(),
        };
        Document { arm: "startup".to_owned(), context: Value::Null, runs: runs.iter().map(run).collect() }
    }

    #[test]
    fn a_cell_is_the_median_with_the_least_and_the_most() {
        let runs: Vec<_> = [3_000, 1_000, 20_000].into_iter().map(|ms| ("ours", 1, json!({"ready_ms": ms}))).collect();
        assert_eq!(markdown(&document(&runs)), "|  | first partition, ms |\n| --- | ---: |\n| ours | 3,000 (1,000–20,000) |\n");
    }

    #[test]
    fn what_a_variant_did_not_measure_is_no_number_and_a_column_that_none_measured_is_not_there() {
        let runs = [("ours", 1, json!({"ready_ms": 5})), ("other", 1, json!({"other": 7}))];
        assert_eq!(rows(&document(&runs)), vec![vec!["", "first partition, ms"], vec!["ours", "5"], vec!["other", "–"]]);
    }

    #[test]
    fn thousands_stand_apart() {
        let cases =
            [(0.0, 0, "0"), (999.4, 0, "999"), (1_000.0, 0, "1,000"), (1_234_567.891, 2, "1,234,567.89"), (-0.001, 2, "0.00")];
        for (number, decimals, text) in cases {
            assert_eq!(grouped(number, decimals), text);
        }
    }
}
