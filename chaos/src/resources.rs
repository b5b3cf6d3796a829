//! What a process holds: memory, file descriptors, threads. What it holds when all is quiet again must be about what it held
//! soon after its start (I8).

use std::fs;

use crate::options::Arm;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Resources {
    /// Resident, in MB.
    pub(crate) memory: f64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// What may come on top of a tenth: buffers that were never needed in the first seconds; connections and threads of the client
/// libraries, which they make when they first need them and keep.
fn room(arm: Arm) -> Resources {
    // A connection to RabbitMQ has 8 MB of buffers in lapin, there are two, and freed ones may stay with the allocator.
    let memory = match arm {
        Arm::Redis => 16.0,
        Arm::Rabbitmq => 64.0,
    };
    Resources { memory, descriptors: 12, threads: 8 }
}

impl Resources {
    /// Nothing when the process has just ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u32>().ok()
        };
        Some(Self {
            memory: f64::from(field("VmRSS:")?) / 1024.0,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
            threads: field("Threads:")?.into(),
        })
    }

    /// Whether it is clearly more than it was.
    pub(crate) fn has_grown_since(self, start: Self, arm: Arm) -> bool {
        let room = room(arm);
        let grown = |now: f64, start: f64, room: f64| now > start * 1.1 + room;
        grown(self.memory, start.memory, room.memory)
            || grown(self.descriptors as f64, start.descriptors as f64, room.descriptors as f64)
            || grown(self.threads as f64, start.threads as f64, room.threads as f64)
    }
}

/// A process that lived to the end: what it held soon after its start, and when all was quiet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survivor {
    pub(crate) start: Resources,
    pub(crate) end: Resources,
    /// How old it is at the end, in seconds.
    pub(crate) age: f64,
}

impl std::fmt::Display for Survivor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start, end, age } = self;
        write!(
            f,
            "{:.0}→{:.0} MB, {}→{} descriptors, {}→{} threads in {age:.0} s",
            start.memory, end.memory, start.descriptors, end.descriptors, start.threads, end.threads
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_process_that_runs_everything_is_known_and_of_none_nothing() {
        let own = Resources::of(std::process::id()).unwrap();
        assert!(own.memory > 0.5 && own.descriptors >= 3 && own.threads >= 1, "{own:?}");
        assert_eq!(Resources::of(u32::MAX), None);
    }

    #[test]
    fn a_tenth_and_a_little_is_no_growth_and_more_is() {
        let start = Resources { memory: 100.0, descriptors: 40, threads: 20 };
        assert!(!Resources { memory: 125.0, descriptors: 55, threads: 29 }.has_grown_since(start, Arm::Redis));
        assert!(Resources { memory: 128.0, ..start }.has_grown_since(start, Arm::Redis));
        assert!(!Resources { memory: 128.0, ..start }.has_grown_since(start, Arm::Rabbitmq));
        assert!(Resources { memory: 178.0, ..start }.has_grown_since(start, Arm::Rabbitmq));
        assert!(Resources { descriptors: 57, ..start }.has_grown_since(start, Arm::Redis));
        assert!(Resources { threads: 31, ..start }.has_grown_since(start, Arm::Redis));
    }
}
