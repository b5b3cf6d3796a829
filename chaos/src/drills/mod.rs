//! Drills: one fault at full load on real services, with bounds that must hold. Each prints its figures as one line.
//!
//! Where a chaos run asks whether the promises hold under every fault, a drill asks what one fault costs: how long until all
//! is enqueued again, how much memory, how many log lines, how deep the lag. The promises are checked as well.

mod conservation;
mod history;
mod logs;
mod outage;
mod poison;
mod watch;

use crate::options::Options;

/// The drills that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Drill {
    /// 5,000 signals/s; Redis is killed, and started again 30 s later.
    RedisDown,
    /// 5,000 signals/s; `PostgreSQL` is killed, and started again 30 s later.
    PostgresDown,
    /// One record in a hundred is bad, in 30 kinds, and everything comes as fast as it is taken.
    Poison,
}

impl Drill {
    /// How many signals each sends unless told.
    pub(crate) const SIGNALS: [(&'static str, &'static str, &'static str); 3] =
        [("drill", "redis-down", "450000"), ("drill", "postgres-down", "450000"), ("drill", "poison", "1000000")];
}

/// Whether the drill's bounds held.
pub(crate) fn run(drill: Drill, options: &Options) -> anyhow::Result<bool> {
    match drill {
        Drill::RedisDown => outage::run(&outage::REDIS, options),
        Drill::PostgresDown => outage::run(&outage::POSTGRES, options),
        Drill::Poison => poison::run(options),
    }
}

/// The resident memory that no instance may exceed, in MB.
const MAX_RESIDENT_MB: f64 = 256.0;

/// Bounds that did not hold, in words.
#[derive(Debug, Default)]
struct Broken(Vec<String>);

impl Broken {
    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(text());
        }
    }

    fn word(&self) -> &'static str {
        if self.0.is_empty() { "ok" } else { "FAILED" }
    }
}
