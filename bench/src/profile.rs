//! What PostgreSQL's session for claims does while it is on a processor: `perf` takes its stack a thousand times a second, and each
//! stack counts for the kind of work that its functions tell.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::platform::Platform;
use crate::results::round;

/// Stacks a second; not a round number, so that it does not beat with anything that is done every millisecond.
const RATE: u64 = 997;
/// Kinds of work by PostgreSQL's exported functions, the most special first: a stack is of the first kind that it has a function of.
const KINDS: [(&str, &[&str]); 6] = [
    ("committing", &["CommitTransactionCommand"]),
    (
        "writing",
        &[
            "heap_insert",
            "heap_multi_insert",
            "heap_update",
            "heap_lock_tuple",
            "ExecInsertIndexTuples",
            "simple_heap_update",
            "XLogInsert",
        ],
    ),
    ("looking_up", &["index_getnext_tid", "index_getnext_slot", "index_fetch_heap", "index_rescan", "ExecCheckIndexConstraints"]),
    ("setting_up", &["standard_ExecutorStart", "standard_ExecutorEnd", "GetCachedPlan"]),
    ("other_running", &["standard_ExecutorRun", "standard_ExecutorFinish"]),
    ("messages", &[]),
];

/// A profile that is being taken.
#[derive(Debug)]
pub(crate) struct Profile {
    perf: Child,
    file: PathBuf,
    seconds: f64,
}

impl Profile {
    /// Begins to watch the session of a platform's dispatcher that claims, for so long.
    pub(crate) fn begin(platform: &mut Platform, time: Duration) -> anyhow::Result<Self> {
        // The statement's first words (src/store/sql/claim.sql).
        let sql = "select pid from pg_stat_activity a where a.usename = $1 and a.query like '-- One batch, one statement%'";
        let Platform { admin, role, .. } = platform;
        let row = admin.query_opt(sql, &[role])?.context("no session claims for the dispatcher")?;
        let file = std::env::temp_dir().join(format!("{role}.perf"));
        let seconds = time.as_secs_f64();
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--event", "cpu-clock", "--call-graph", "fp", "--freq", &RATE.to_string()])
            .args(["--pid", &row.get::<_, i32>(0).to_string(), "--output"])
            .arg(&file)
            .args(["--", "sleep", &seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run perf, which this arm needs: it is in Debian's package linux-perf")?;
        Ok(Self { perf, file, seconds })
    }

    /// What it has seen: of the session's time on a processor, how much was for what, in percent.
    pub(crate) fn end(mut self) -> anyhow::Result<Value> {
        let status = self.perf.wait()?;
        anyhow::ensure!(status.success(), "perf record failed ({status}): may this user watch other processes?");
        let stacks = stacks(&self.file)?;
        std::fs::remove_file(&self.file).with_context(|| format!("{}", self.file.display()))?;
        figures(&stacks, self.seconds)
    }
}

/// The stacks as perf tells them: a line for each function, and an empty one after each stack.
fn stacks(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("perf").arg("script").arg("--input").arg(file).args(["--fields", "ip,sym"]).output()?;
    anyhow::ensure!(output.status.success(), "perf script failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn figures(stacks: &str, seconds: f64) -> anyhow::Result<Value> {
    let mut counts = [0_u32; KINDS.len()];
    for stack in stacks.split("\n\n") {
        let functions: Vec<&str> = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        if !functions.is_empty() {
            counts[kind(&functions)] += 1;
        }
    }
    let total = f64::from(counts.iter().sum::<u32>());
    // Without the symbols that the server exports, or its frames, all would be "messages".
    anyhow::ensure!(
        counts[kind(&["standard_ExecutorRun"])] > 0,
        "perf has seen no session that runs a statement, or no names of functions"
    );
    let shares = KINDS
        .iter()
        .zip(counts)
        .map(|((kind, _), count)| (format!("{kind}_percent"), round(f64::from(count) / total * 100.0, 1)));
    let mut figures: Map<String, Value> = shares.collect();
    figures.insert("on_cpu_percent".to_owned(), json!(round(total / RATE as f64 / seconds * 100.0, 0)));
    figures.insert("stacks".to_owned(), json!(total));
    Ok(Value::Object(figures))
}

fn kind(functions: &[&str]) -> usize {
    let is_of = |(_, names): &(&str, &[&str])| functions.iter().any(|function| names.contains(function));
    KINDS.iter().position(is_of).unwrap_or(KINDS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_counts_once_for_the_most_special_of_its_functions() {
        let stacks = "\n".to_owned()
            + "  55aa _bt_compare\n  55ab index_getnext_tid\n  55ac standard_ExecutorRun\n  55ad PostgresMain\n\n"
            + "  55aa hash_search\n  55ab standard_ExecutorRun\n\n"
            + "  ff01 do_fsync\n  55ab XLogFlush\n  55ac CommitTransactionCommand\n\n"
            + "  55aa pq_getbytes\n  55ab [unknown]\n";
        let figures = figures(&stacks, 4.0 / 997.0).unwrap();
        let shares = ["looking_up", "other_running", "committing", "messages", "writing", "setting_up", "on_cpu"];
        let shares = shares.map(|name| figures[format!("{name}_percent")].clone());
        assert_eq!(Value::from(shares.to_vec()), json!([25.0, 25.0, 25.0, 25.0, 0.0, 0.0, 100.0]));
    }

    #[test]
    fn stacks_without_names_are_no_profile() {
        assert!(figures("  55aa [unknown]\n\n  55ab [unknown]\n", 1.0).is_err());
    }
}
