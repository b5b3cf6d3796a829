//! What is asked for on the command line.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::drills::Drill;

/// The broker that a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arm {
    /// One message an attempt, whatever is retried.
    Redis,
    /// At least one message an attempt: more are counted, and are no violation.
    Rabbitmq,
}

impl Arm {
    pub(crate) fn dependency(self) -> Dependency {
        match self {
            Self::Redis => Dependency::Redis,
            Self::Rabbitmq => Dependency::Rabbitmq,
        }
    }
}

/// What `--faults` takes. Each is killed with -9, and its proxy is slow, deaf, closed, cuts replies and swallows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dependency {
    /// SIGSTOP as well.
    Kafka,
    /// Not that: it is many processes.
    Postgres,
    /// SIGSTOP as well.
    Redis,
    /// SIGSTOP and its memory alarm as well.
    Rabbitmq,
}

impl Dependency {
    /// Its name in `scripts/services`.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

/// Kills the trigger-dispatcher program and its services, then checks from outside that the promises held.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "scripts/chaos")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own on the command line")]
pub(crate) struct Options {
    /// The same seed makes the same signals and the same schedule of faults.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The broker between the dispatchers and the workers.
    #[arg(long, value_enum, default_value_t = Arm::Redis)]
    pub(crate) broker: Arm,
    /// Deployments on the one database, each with a topic, a group, a queue, instances and workers of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) deployments: u8,
    /// Signals to send to each deployment; more come if the faults take longer.
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
    /// The size for CI: every point, 40 kills, 10 zombies, 10 faults for each of Kafka, PostgreSQL and Redis, 50,000 signals;
    /// then, or only with `--broker rabbitmq`: 10 faults of RabbitMQ, 5 kills, 5,000 signals; then, or only with `--deployments 2`:
    /// two deployments, 5 kills, a zombie, 2 faults of each dependency, 5,000 signals for each.
    #[arg(long, conflicts_with_all = ["signals", "kills", "points", "zombies", "faults", "times", "calibrate", "nightly"])]
    pub(crate) ci: bool,
    /// The size for a night: every point, 200 kills, 30 zombies, 40 faults for each of Kafka, PostgreSQL and the broker,
    /// 1,000,000 signals.
    #[arg(long, conflicts_with_all = ["signals", "kills", "points", "zombies", "faults", "times", "calibrate"])]
    pub(crate) nightly: bool,
    /// Plant bugs, one after the other, and see that each is found.
    #[arg(long, conflicts_with_all = ["broker", "deployments"])]
    pub(crate) calibrate: bool,
    /// With --calibrate: only this bug.
    #[arg(long, requires = "calibrate")]
    pub(crate) bug: Option<String>,
    /// One fault at full load instead, with bounds that must hold.
    #[arg(long, value_enum, conflicts_with_all = ["ci", "calibrate", "deployments", "kills", "points", "zombies", "faults", "times"])]
    pub(crate) drill: Option<Drill>,
}

impl Options {
    /// Refuses faults of a broker that the run does not have.
    pub(crate) fn possible(self) -> Result<Self, clap::Error> {
        let absent = match self.broker {
            Arm::Redis => Dependency::Rabbitmq,
            Arm::Rabbitmq => Dependency::Redis,
        };
        if self.faults.contains(&absent) {
            let text = format!("--faults {}: this run has another broker, see --broker", absent.service());
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        Ok(self)
    }

    /// The sizes that have a name.
    pub(crate) fn sized(mut self) -> Self {
        use Dependency::{Kafka, Postgres};
        let broker = self.broker.dependency();
        if self.ci {
            (self.signals, self.kills, self.points, self.zombies, self.times) = (50_000, 40, true, 10, 10);
            self.faults = vec![Kafka, Postgres, broker];
            if self.broker == Arm::Rabbitmq {
                // The rest is the other run's.
                (self.signals, self.kills, self.points, self.zombies) = (5_000, 5, false, 0);
                self.faults = vec![broker];
            }
            if self.deployments > 1 {
                // What a deployment does that is alone shows in the other runs.
                (self.signals, self.kills, self.points, self.zombies, self.times) = (5_000, 5, false, 1, 2);
                self.faults = vec![Kafka, Postgres, broker];
            }
        }
        if self.nightly {
            (self.signals, self.kills, self.points, self.zombies, self.times) = (1_000_000, 200, true, 30, 40);
            self.faults = vec![Kafka, Postgres, broker];
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn faults_of_a_broker_that_the_run_does_not_have_are_refused() {
        let possible = |arguments: &[&str]| Options::parse_from([&["chaos"], arguments].concat()).possible().is_ok();
        assert!(possible(&["--faults", "kafka,redis"]));
        assert!(possible(&["--broker", "rabbitmq", "--faults", "kafka,rabbitmq"]));
        assert!(!possible(&["--faults", "rabbitmq"]));
        assert!(!possible(&["--broker", "rabbitmq", "--faults", "redis"]));
    }
}
