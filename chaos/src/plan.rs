//! What is done to whom and when, decided by the seed before anything runs.

use std::time::Duration;

use trigger_dispatcher::chaos::POINTS;

use crate::deployment::Layout;
use crate::dice::Dice;
use crate::options::{Arm, Dependency, Options};

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start.
    Kill(usize),
    /// SIGKILL to all of them at once.
    KillAll,
    /// SIGTERM, and a new start.
    Restart(usize),
    /// SIGKILL, and a new start with a log that nobody reads: its pipe is soon full, until the next start.
    FullLog(usize),
    /// SIGSTOP for longer than the session, then SIGCONT.
    Zombie(usize, Duration),
    /// The instance dies when it passes the point.
    Point(&'static str, usize),
    /// SIGKILL to a service, which is down for so long.
    Down(Dependency, Duration),
    /// SIGSTOP to a service for so long.
    Frozen(Dependency, Duration),
    /// The memory alarm of a service, for so long.
    Alarm(Dependency, Duration),
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
    pub(crate) arm: Arm,
    pub(crate) seed: u64,
    pub(crate) layout: Layout,
    /// Signals for each deployment.
    pub(crate) signals: u64,
    /// Signals that are sent before any instance runs.
    pub(crate) before: u64,
    /// Lanes run side by side, the steps of a lane one after the other.
    pub(crate) lanes: Vec<Vec<Step>>,
    /// Of a thousand messages, how many a worker dies with.
    pub(crate) loses: u64,
    /// Variables of the dispatchers that differ from the harness's own.
    pub(crate) variables: Vec<(&'static str, &'static str)>,
    /// How fast the signals come at most.
    pub(crate) most_per_second: u64,
    /// How long everything may take to settle after the last fault.
    pub(crate) settle: Duration,
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Self {
        let options = options.clone().sized();
        let layout = if options.deployments > 1 { Layout::SIDE_BY_SIDE } else { Layout::ALONE };
        let plan = Self {
            name: match (layout, options.broker) {
                (Layout::SIDE_BY_SIDE, _) => "chaos-deployments".to_owned(),
                (_, Arm::Redis) => "chaos-redis".to_owned(),
                (_, Arm::Rabbitmq) => "chaos-rabbitmq".to_owned(),
            },
            arm: options.broker,
            seed: options.seed,
            layout,
            signals: options.signals,
            before: 0,
            lanes: vec![on_instances(&options, layout), on_dependencies(&options, layout)],
            loses: 3,
            variables: if layout.deployments > 1 { vec![SHORT_LEASE] } else { Vec::new() },
            most_per_second: MOST_PER_SECOND,
            settle: Duration::from_secs(90),
        };
        plan.spread()
    }

    /// How long the longest lane takes, near enough to spread the signals over it.
    pub(crate) fn seconds(&self) -> u64 {
        let longest = self.lanes.iter().map(|steps| length(steps)).max().unwrap_or_default();
        longest.max(self.load()).as_secs().max(15)
    }

    /// How long the signals take to send, at least.
    fn load(&self) -> Duration {
        Duration::from_secs(self.signals.saturating_sub(self.before) / self.most_per_second)
    }

    /// Where the signals take longer than the faults, the faults rest longer: all signals shall meet some.
    fn spread(mut self) -> Self {
        let load = self.load();
        for steps in self.lanes.iter_mut().filter(|steps| !steps.is_empty()) {
            let more = load.saturating_sub(length(steps)) / u32::try_from(steps.len()).unwrap_or(u32::MAX);
            for step in steps {
                step.rest += more;
            }
        }
        self
    }
}

/// Where each of several deployments dies in every run: it leaves an outbox entry that no other deployment may touch.
const LEAVES_AN_ENTRY: [&str; 2] = ["before_publish", "sweep_after_take_up"];
/// With several deployments, the lease of a claim, and how long the broker is away once: longer than that.
const SHORT_LEASE: (&str, &str) = ("TRIGGER_LEASE_SECONDS", "30");
const LONGER_THAN_THE_LEASE: Duration = Duration::from_secs(33);

/// How often a run starts an instance whose log nobody reads.
const FULL_LOGS: usize = 3;
/// What two cores take beside all else that runs on them.
const MOST_PER_SECOND: u64 = 1_500;

/// How long a lane takes, about.
fn length(steps: &[Step]) -> Duration {
    steps.iter().map(|step| step.fault.lasts() + step.rest).sum()
}

impl Fault {
    /// About how long it keeps its lane busy.
    fn lasts(&self) -> Duration {
        let seconds = match self {
            Self::Kill(_) | Self::KillAll | Self::FullLog(_) => 0,
            Self::Restart(_) => 1,
            Self::Point(name, _) if name.starts_with("sweep") || name.starts_with("retry") => 17,
            Self::Point(..) => 4,
            Self::Zombie(_, time)
            | Self::Frozen(_, time)
            | Self::BlackHole(_, time)
            | Self::Closed(_, time)
            | Self::Slow(_, _, time) => time.as_secs(),
            Self::Alarm(_, time) => time.as_secs() + 4,
            Self::Down(Dependency::Rabbitmq, time) => time.as_secs() + 10,
            Self::Down(Dependency::Kafka, time) => time.as_secs() + 6,
            Self::Down(_, time) => time.as_secs() + 2,
            Self::CutReplies(_, times) | Self::DropReplies(_, times) => u64::from(*times) / 2,
        };
        Duration::from_secs(seconds)
    }
}

fn on_instances(options: &Options, layout: Layout) -> Vec<Step> {
    let mut dice = Dice::new(options.seed, 10);
    let instance = |dice: &mut Dice| usize::try_from(dice.below(layout.instances() as u64)).unwrap_or_default();
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
        faults.extend([(); FULL_LOGS].map(|()| Fault::FullLog(instance(&mut dice))));
    }
    if layout.deployments > 1 {
        for numbers in (0..layout.deployments).map(|deployment| layout.of(deployment)) {
            faults.extend(LEAVES_AN_ENTRY.into_iter().zip(numbers.cycle()).map(|(point, number)| Fault::Point(point, number)));
        }
    }
    dice.shuffle(&mut faults);
    faults.into_iter().map(|fault| Step { fault, rest: dice.between(300, 3_000) }).collect()
}

fn on_dependencies(options: &Options, layout: Layout) -> Vec<Step> {
    let mut dice = Dice::new(options.seed, 11);
    let mut faults = Vec::new();
    for dependency in &options.faults {
        for number in 0..options.times {
            faults.push(on_dependency(*dependency, number, &mut dice));
        }
    }
    if layout.deployments > 1 {
        faults.push(Fault::Closed(options.broker.dependency(), LONGER_THAN_THE_LEASE));
    }
    dice.shuffle(&mut faults);
    faults.into_iter().map(|fault| Step { fault, rest: dice.between(500, 3_500) }).collect()
}

/// Every kind in turn, so that few faults are of different kinds.
fn on_dependency(dependency: Dependency, number: u32, dice: &mut Dice) -> Fault {
    let kinds = match dependency {
        Dependency::Postgres => 6,
        Dependency::Kafka | Dependency::Redis => 7,
        Dependency::Rabbitmq => 8,
    };
    match number % kinds {
        0 => Fault::Down(dependency, dice.between(0, 4_000)),
        1 => Fault::DropReplies(dependency, 6),
        2 => Fault::CutReplies(dependency, 6),
        3 => Fault::Slow(dependency, dice.between(50, 800), dice.between(2_000, 5_000)),
        4 => Fault::Closed(dependency, dice.between(1_000, 5_000)),
        5 => Fault::BlackHole(dependency, dice.between(1_000, 7_000)),
        6 => Fault::Frozen(dependency, dice.between(1_000, 7_000)),
        _ => Fault::Alarm(dependency, dice.between(1_000, 5_000)),
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
        assert_eq!((lanes[0].len(), lanes[1].len()), (POINTS.len() + FULL_LOGS + 50, 30));
    }

    #[test]
    fn ci_on_rabbitmq_breaks_rabbitmq_ten_times_in_every_way() {
        let lanes = Plan::new(&Options::parse_from(["chaos", "--ci", "--broker", "rabbitmq"])).lanes;
        let has = |is: fn(&Fault) -> bool| lanes[1].iter().any(|step| is(&step.fault));
        assert_eq!((lanes[0].len(), lanes[1].len()), (5, 10));
        assert!(has(|fault| matches!(fault, Fault::Down(Dependency::Rabbitmq, _))));
        assert!(has(|fault| matches!(fault, Fault::Frozen(Dependency::Rabbitmq, _))));
        assert!(has(|fault| matches!(fault, Fault::Alarm(Dependency::Rabbitmq, _))));
        assert!(has(|fault| matches!(fault, Fault::DropReplies(Dependency::Rabbitmq, _))));
    }

    #[test]
    fn with_two_deployments_each_leaves_outbox_entries_and_the_broker_is_away_for_longer_than_a_lease() {
        let plan = Plan::new(&Options::parse_from(["chaos", "--ci", "--deployments", "2"]));
        for deployment in 0..2 {
            let numbers = plan.layout.of(deployment);
            let is_one = |step: &&Step| matches!(step.fault, Fault::Point(_, number) if numbers.contains(&number));
            assert_eq!(plan.lanes[0].iter().filter(is_one).count(), LEAVES_AN_ENTRY.len());
        }
        assert_eq!((plan.lanes[0].len(), plan.lanes[1].len()), (6 + 2 * LEAVES_AN_ENTRY.len(), 7));
        let outage = |step: &Step| matches!(step.fault, Fault::Closed(Dependency::Redis, time) if time.as_secs() > 30);
        assert!(
            plan.lanes[1].iter().any(outage) && plan.variables == [SHORT_LEASE],
            "the broker is away for longer than a lease"
        );
        assert!(plan.seconds() < 100, "{} s", plan.seconds());
    }

    #[test]
    fn where_the_signals_take_longer_than_the_faults_the_faults_are_spread_over_them() {
        let plan = |signals: &str| Plan::new(&Options::parse_from(["chaos", "--kills", "5", "--signals", signals]));
        let (short, long) = (plan("5000"), plan("375000"));
        assert!(length(&short.lanes[0]) < Duration::from_secs(20));
        assert!(length(&long.lanes[0]).abs_diff(Duration::from_secs(250)) < Duration::from_secs(1));
        assert_eq!((short.seconds(), long.seconds()), (15, 250));
        let faults = |plan: &Plan| plan.lanes[0].iter().map(|step| step.fault.clone()).collect::<Vec<_>>();
        assert_eq!(faults(&short), faults(&long), "only the rests are longer");
    }
}
