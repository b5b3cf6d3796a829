//! What processes cost, as Linux counts it in /proc.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;

/// Clock ticks a second in /proc/PID/stat; the same on every Linux that Rust's standard library runs on.
pub(crate) const TICKS: f64 = 100.0;

/// What a process has used so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Seconds of CPU, user and system.
    pub(crate) cpu: f64,
    /// The same by the name of the thread, for threads that live.
    pub(crate) threads: BTreeMap<String, f64>,
    /// Resident memory now, in MB.
    pub(crate) resident: f64,
    /// The most there was, in MB.
    pub(crate) peak: f64,
}

/// Reads the usage of a process that runs.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let (own, _) = cpu(pid).with_context(|| format!("the process {pid} is gone"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024.0 / 1e6).with_context(|| format!("no {name} in /proc/{pid}/status"))
    };
    Ok(Usage { cpu: own, threads: threads(pid)?, resident: megabytes("VmRSS")?, peak: megabytes("VmHWM")? })
}

/// Nanoseconds on a CPU by thread name; threads that have ended meanwhile are left out.
fn threads(pid: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let (Ok(name), Ok(times)) = (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat"))) else {
            continue;
        };
        let nanoseconds = times.split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(0.0);
        *threads.entry(name.trim().to_owned()).or_insert(0.0) += nanoseconds / 1e9;
    }
    Ok(threads)
}

/// Seconds of CPU of a process with all its children, those that have ended included. 0 when it is gone.
pub(crate) fn family_cpu(pid: u32) -> f64 {
    let (own, ended) = cpu(pid).unwrap_or_default();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = ids.filter(|id| fields(*id).is_some_and(|fields| fields.get(1) == Some(&pid.to_string())));
    own + ended + children.map(family_cpu).sum::<f64>()
}

/// Seconds of CPU: its own, and of its children that have ended.
fn cpu(pid: u32) -> Option<(f64, f64)> {
    let fields = fields(pid)?;
    let ticks = |position: usize| fields.get(position)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS, (ticks(13)? + ticks(14)?) / TICKS))
}

/// The fields of /proc/PID/stat behind the name, which may itself hold blanks and brackets: state, parent, …
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}
