//! What is asked for on the command line.

use crate::drills::Drill;

/// The kinds of fault that `--faults` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dependency {
    /// Kill -9, SIGSTOP.
    Kafka,
    /// Kill -9; latency, black hole, cut replies and dropped replies in the proxy before it.
    Postgres,
    /// Kill -9, SIGSTOP; the same in its proxy.
    Redis,
}

/// Kills the trigger-dispatcher program and its services, then checks from outside that the promises held.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "scripts/chaos")]
pub(crate) struct Options {
    /// The same seed makes the same signals and the same schedule of faults.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Signals to send; more come if the faults take longer.
    #[arg(long, default_value_t = 5_000, default_value_ifs = Drill::SIGNALS)]
    pub(crate) signals: u64,
    /// Instances that are killed with -9 at random.
    #[arg(long, default_value_t = 5)]
    pub(crate) kills: u32,
    /// Kill an instance at each named point of the program.
    #[arg(long)]
    pub(crate) points: bool,
    /// Instances that are stopped for longer than their session, and go on.
    #[arg(long, default_value_t = 0)]
    pub(crate) zombies: u32,
    /// Dependencies to break, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) faults: Vec<Dependency>,
    /// How often each of them is broken.
    #[arg(long, default_value_t = 10)]
    pub(crate) times: u32,
    /// The size for CI: every point, 40 kills, 10 zombies, 10 faults for each dependency, 50,000 signals.
    #[arg(long, conflicts_with_all = ["signals", "kills", "points", "zombies", "faults", "times", "calibrate"])]
    pub(crate) ci: bool,
    /// Plant the eight bugs, one after the other, and see that each is found.
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// With --calibrate: only this bug.
    #[arg(long, requires = "calibrate")]
    pub(crate) bug: Option<String>,
    /// One fault at full load instead, with bounds that must hold.
    #[arg(long, value_enum, conflicts_with_all = ["ci", "calibrate", "kills", "points", "zombies", "faults", "times"])]
    pub(crate) drill: Option<Drill>,
}
