//! What is done to whom and when, decided by the seed before anything runs.

use std::time::Duration;

use trigger_dispatcher::chaos::POINTS;

use crate::dice::Dice;
use crate::instances::INSTANCES;
use crate::options::{Dependency, Options};

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start.
    Kill(usize),
    /// SIGKILL to all of them at once.
    KillAll,
    /// SIGTERM, and a new start.
    Restart(usize),
    /// SIGSTOP for longer than the session, then SIGCONT.
    Zombie(usize, Duration),
    /// The instance dies when it passes the point.
    Point(&'static str, usize),
    /// SIGKILL to a service, which is down for so long.
    Down(Dependency, Duration),
    /// SIGSTOP to a service for so long.
    Frozen(Dependency, Duration),
    /// Every reply comes so much later, for so long.
    Slow(Dependency, Duration, Duration),
    /// Nothing goes through for so long.
    BlackHole(Dependency, Duration),
    /// Every connection ends, before what was asked is done, for so long.
    Closed(Dependency, Duration),
    /// Replies break off in their middle, so many times.
    CutReplies(Dependency, u32),
    /// Requests are done and their replies swallowed, so many times.
    DropReplies(Dependency, u32),
}

/// A fault, and how long nothing follows it in its lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) fault: Fault,
    pub(crate) rest: Duration,
}

/// A whole run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) signals: u64,
    /// Signals that are sent before any instance runs.
    pub(crate) before: u64,
    /// Lanes run side by side, the steps of a lane one after the other.
    pub(crate) lanes: Vec<Vec<Step>>,
    /// Of a thousand messages, how many a worker dies with.
    pub(crate) loses: u64,
    /// Variables of the dispatchers that differ from the harness's own.
    pub(crate) variables: Vec<(&'static str, &'static str)>,
    /// How long everything may take to settle after the last fault.
    pub(crate) settle: Duration,
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Self {
        let mut options = options.clone();
        if options.ci {
            (options.signals, options.kills, options.points, options.zombies, options.times) = (50_000, 40, true, 10, 10);
            options.faults = vec![Dependency::Kafka, Dependency::Postgres, Dependency::Redis];
        }
        Self {
            name: "chaos".to_owned(),
            seed: options.seed,
            signals: options.signals,
            before: 0,
            lanes: vec![on_instances(&options), on_dependencies(&options)],
            loses: 3,
            variables: Vec::new(),
            settle: Duration::from_secs(90),
        }
    }

    /// How long the longest lane takes, near enough to spread the signals over it.
    pub(crate) fn seconds(&self) -> u64 {
        let lane = |steps: &Vec<Step>| steps.iter().map(|step| step.fault.lasts() + step.rest).sum::<Duration>().as_secs();
        self.lanes.iter().map(lane).max().unwrap_or(0).max(15)
    }
}

impl Fault {
    /// About how long it keeps its lane busy.
    fn lasts(&self) -> Duration {
        let seconds = match self {
            Self::Kill(_) | Self::KillAll => 0,
            Self::Restart(_) => 1,
            Self::Point(name, _) if name.starts_with("sweep") || name.starts_with("retry") => 17,
            Self::Point(..) => 4,
            Self::Zombie(_, time)
            | Self::Frozen(_, time)
            | Self::BlackHole(_, time)
            | Self::Closed(_, time)
            | Self::Slow(_, _, time) => time.as_secs(),
            Self::Down(Dependency::Kafka, time) => time.as_secs() + 6,
            Self::Down(_, time) => time.as_secs() + 2,
            Self::CutReplies(_, times) | Self::DropReplies(_, times) => u64::from(*times) / 2,
        };
        Duration::from_secs(seconds)
    }
}

fn on_instances(options: &Options) -> Vec<Step> {
    let mut dice = Dice::new(options.seed, 10);
    let instance = |dice: &mut Dice| usize::try_from(dice.below(INSTANCES as u64)).unwrap_or_default();
    let mut faults = Vec::new();
    for _ in 0..options.kills {
        faults.push(match dice.below(20) {
            0 => Fault::KillAll,
            1 => Fault::Restart(instance(&mut dice)),
            _ => Fault::Kill(instance(&mut dice)),
        });
    }
    for _ in 0..options.zombies {
        faults.push(Fault::Zombie(instance(&mut dice), dice.between(4_000, 7_000)));
    }
    if options.points {
        faults.extend(POINTS.map(|point| Fault::Point(point, instance(&mut dice))));
    }
    dice.shuffle(&mut faults);
    faults.into_iter().map(|fault| Step { fault, rest: dice.between(300, 3_000) }).collect()
}

fn on_dependencies(options: &Options) -> Vec<Step> {
    let mut dice = Dice::new(options.seed, 11);
    let mut faults = Vec::new();
    for dependency in &options.faults {
        for number in 0..options.times {
            faults.push(on_dependency(*dependency, number, &mut dice));
        }
    }
    dice.shuffle(&mut faults);
    faults.into_iter().map(|fault| Step { fault, rest: dice.between(500, 3_500) }).collect()
}

/// Every kind in turn, so that few faults are of different kinds.
fn on_dependency(dependency: Dependency, number: u32, dice: &mut Dice) -> Fault {
    use Dependency::{Kafka, Postgres, Redis};
    match (dependency, number % 6) {
        (Kafka, 0 | 2 | 4) => Fault::Down(Kafka, dice.between(0, 3_000)),
        (Kafka, _) => Fault::Frozen(Kafka, dice.between(1_000, 6_000)),
        (_, 0) => Fault::Down(dependency, dice.between(0, 5_000)),
        (_, 1) => Fault::DropReplies(dependency, 6),
        (_, 2) => Fault::CutReplies(dependency, 6),
        (_, 3) => Fault::Slow(dependency, dice.between(50, 800), dice.between(2_000, 5_000)),
        (_, 4) => Fault::Closed(dependency, dice.between(1_000, 5_000)),
        (Redis, _) if dice.chance(500) => Fault::Frozen(Redis, dice.between(1_000, 7_000)),
        (Postgres | Redis, _) => Fault::BlackHole(dependency, dice.between(1_000, 7_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_makes_another() {
        let plan = |seed: &str| Plan::new(&Options::parse_from(["chaos", "--ci", "--seed", seed])).lanes;
        assert_eq!(plan("7"), plan("7"));
        assert_ne!(plan("7"), plan("8"));
    }

    #[test]
    fn ci_has_every_point_and_each_dependency_ten_times() {
        let lanes = Plan::new(&Options::parse_from(["chaos", "--ci"])).lanes;
        for point in POINTS {
            assert!(lanes[0].iter().any(|step| matches!(step.fault, Fault::Point(name, _) if name == point)), "{point}");
        }
        assert_eq!((lanes[0].len(), lanes[1].len()), (POINTS.len() + 50, 30));
    }
}
