//! What a report measures: every arm with its variants, in the sizes that fit the time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::arms::drained::{Bare, Drained, Rival, RivalDrained};
use crate::arms::failover::{Event, Failover};
use crate::arms::flow::{Paced, RivalPaced, flow};
use crate::arms::instances::Instances;
use crate::arms::memory::Memory;
use crate::arms::refresh::Refresh;
use crate::arms::startup::Startup;
use crate::arms::{shape, watched};
use crate::ceiling::Call;
use crate::cost::Promises;
use crate::drain::Drain;
use crate::kafka::Preload;
use crate::paced::Flow;
use crate::platform::Shape;
use crate::signals::Spread;
use crate::subject::{Subject, set};
use crate::suite::Case;

/// Every arm, in the order of the report.
pub(crate) const ARMS: [&str; 12] =
    ["drain", "paced", "rivals", "instances", "failover", "claims", "profile", "memory", "refresh", "startup", "logs", "cost"];

/// Rows that targets are about.
pub(crate) mod row {
    pub(crate) const BARE_1_CORE: &str = "bare consumer, 1 core";
    pub(crate) const BARE_2_CORES: &str = "bare consumer, 2 cores";
    pub(crate) const OURS_1_CORE: &str = "1,000 pipelines, 90 % unmatched, 1 core";
    pub(crate) const OURS_2_CORES: &str = "1,000 pipelines, 90 % unmatched";
    pub(crate) const BUDGET: &str = "30 statements/s";
    pub(crate) const NO_BUDGET: &str = "no budget";
    pub(crate) const DISPATCHER: &str = "dispatcher";
    pub(crate) const REFERENCE: &str = "reference, as published";
    pub(crate) const REFERENCE_LARGE: &str = "reference, batches of 1,000";
    pub(crate) const CONTENDER: &str = "contender";
    pub(crate) const CLAIMS: &str = "100,000 pipelines";
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    /// Another build to measure beside ours.
    pub(crate) against: Option<PathBuf>,
}

impl Size {
    fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    fn preload(&self, signals: u64) -> Preload {
        let (compression, spread) = ("lz4".to_owned(), Spread::Uniform);
        Preload { signals, partitions: 4, compression, spread, seed: self.seed }
    }

    /// The topic that most drains share.
    fn main(&self) -> Preload {
        self.preload(self.pick(1_200_000, 1_000_000))
    }

    fn shape(&self, pipelines: u32) -> Shape {
        shape(pipelines, self.seed)
    }

    fn mostly_unmatched(&self, pipelines: u32) -> Shape {
        Shape { watched: watched(0.9), ..self.shape(pipelines) }
    }
}

/// The cases of an arm.
pub(crate) fn cases(arm: &str, size: &Size) -> anyhow::Result<Vec<Box<dyn Case>>> {
    Ok(match arm {
        "drain" => drain(size),
        "paced" => paced(size)?,
        "rivals" => rivals(size),
        "failover" => failover(size),
        "instances" => vec![Box::new(Instances {
            counts: vec![1, 2, 4],
            // Fewer are done in a quarter of a second by each of four: then cold caches are what is measured.
            preload: Preload { partitions: 8, ..size.preload(4_000_000) },
            shape: size.mostly_unmatched(1_000),
        })],
        "claims" => vec![paced_as("claims", row::CLAIMS, claims(size))],
        "profile" => profile(size),
        "memory" => vec![Box::new(Memory { pipelines: vec![1_000, 10_000, 100_000], seed: size.seed })],
        "refresh" => refresh(size),
        "startup" => startup(size),
        "logs" => logs(size),
        "cost" => cost(size),
        _ => Vec::new(),
    })
}

fn drained(arm: &'static str, variant: &str, preload: &Preload, until: u64, shape: Shape, subject: Subject) -> Box<dyn Case> {
    let drain = Drain { until, ..Drain::whole(preload, shape, subject) };
    Box::new(Drained { arm, variant: variant.to_owned(), drain })
}

fn drain(size: &Size) -> Vec<Box<dyn Case>> {
    let (main, ours) = (size.main(), Subject::ours());
    let all = main.signals;
    let plain = Preload { compression: "none".to_owned(), ..main.clone() };
    let zipf = Preload { spread: Spread::Zipf, ..size.preload(size.pick(300_000, 150_000)) };
    // Each of them matches 400 pipelines.
    let few = size.preload(size.pick(40_000, 15_000));
    let by_zipf = |pipelines| Shape { spread: Spread::Zipf, ..size.shape(pipelines) };
    let busy = |busy| Shape { busy, ..size.shape(1_000) };
    let bare = |variant: &str, preload: &Preload, call, cores| -> Box<dyn Case> {
        Box::new(Bare { variant: variant.to_owned(), preload: preload.clone(), call, cores })
    };
    let case = |variant: &str, shape, until, subject| drained("drain", variant, &main, until, shape, subject);
    vec![
        bare(row::BARE_1_CORE, &main, Call::Poll, Some("0")),
        bare("batch call, 1 core", &main, Call::Batch, Some("0")),
        case(row::OURS_1_CORE, size.mostly_unmatched(1_000), all, ours.clone().on("0")),
        bare(row::BARE_2_CORES, &main, Call::Poll, None),
        bare("batch call, 2 cores", &main, Call::Batch, None),
        case(row::OURS_2_CORES, size.mostly_unmatched(1_000), all, ours.clone()),
        case("1,000 pipelines, all matched, none busy", busy(0.0), all, ours.clone()),
        case("1,000 pipelines, all matched, 30 % busy", busy(0.3), all, ours.clone()),
        case("1,000 pipelines, all matched, 90 % busy", busy(0.9), all, ours.clone()),
        case("10,000 pipelines, all matched", size.shape(10_000), all, ours.clone()),
        drained("drain", "100,000 pipelines, all matched", &few, few.signals, size.shape(100_000), ours.clone()),
        drained("drain", "1,000 pipelines, Zipf", &zipf, zipf.signals, by_zipf(1_000), ours.clone()),
        drained("drain", "10,000 pipelines, Zipf", &zipf, zipf.signals, by_zipf(10_000), ours.clone()),
        bare("bare consumer, 2 cores, not compressed", &plain, Call::Poll, None),
        drained("drain", "1,000 pipelines, 90 % unmatched, not compressed", &plain, all, size.mostly_unmatched(1_000), ours),
    ]
}

fn paced(size: &Size) -> anyhow::Result<Vec<Box<dyn Case>>> {
    let rates = size.pick(vec![100, 1_000, 10_000, 50_000, 100_000], vec![100, 10_000, 100_000]);
    let budget = |variant: &str, statements: u32| -> Box<dyn Case> {
        let ours = Subject::ours().with(&[set("DB_QUERIES_PER_SECOND", statements)]);
        let flow = flow(rates.clone(), size.pick(8, 4), size.shape(1_000), ours);
        paced_as("paced", variant, flow)
    };
    let floor = flow(vec![100, 10_000], size.pick(8, 4), size.shape(1_000), Subject::floor()?);
    let floor = paced_as("paced", "no database", floor);
    Ok(vec![budget(row::BUDGET, 30), budget(row::NO_BUDGET, 0), floor])
}

/// The contenders, in the order of the report: as published, and with what helps them most.
fn contenders() -> Vec<(&'static str, Rival)> {
    // Without changes each has what is best for it by its own defaults; the reference's are those of the old service.
    let python = |module, changes: &[(String, String)]| Rival::Python { module, changes: changes.to_vec() };
    vec![
        (row::DISPATCHER, Rival::Ours),
        (row::REFERENCE, python("reference", &[])),
        (row::REFERENCE_LARGE, python("reference", &[set("BATCH_SIZE", 1_000)])),
        (row::CONTENDER, python("contender", &[])),
    ]
}

fn rivals(size: &Size) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (name, rival) in contenders() {
        cases.push(Box::new(RivalDrained {
            arm: "rivals",
            variant: format!("drain, {name}"),
            rival: rival.clone(),
            preload: size.main(),
            shape: size.shape(1_000),
            at_most: Duration::from_secs(size.pick(5, 4)),
        }));
    }
    // Larger batches only wait longer to be full.
    for (name, rival) in contenders().into_iter().filter(|(name, _)| *name != row::REFERENCE_LARGE) {
        let mut flow = flow(vec![100, 1_000], size.pick(4, 3), size.shape(1_000), Subject::ours());
        flow.patience = Duration::from_secs(3);
        cases.push(Box::new(RivalPaced { arm: "rivals", variant: name.to_owned(), rival, flow }));
    }
    cases
}

fn paced_as(arm: &'static str, variant: &str, flow: Flow) -> Box<dyn Case> {
    Box::new(Paced { arm, variant: variant.to_owned(), flow })
}

fn claims(size: &Size) -> Flow {
    // Each signal is watched by 400: so a pipeline is matched about once a second, and claimed when it is idle.
    let mut flow = flow(vec![250], size.pick(8, 5), Shape { busy: 0.0, ..size.shape(100_000) }, Subject::ours());
    flow.execution = Duration::from_millis(500);
    flow
}

/// The two flows that PostgreSQL holds up, watched. By themselves, for being watched costs some of what they are about.
fn profile(size: &Size) -> Vec<Box<dyn Case>> {
    let unhurried = Subject::ours().with(&[set("DB_QUERIES_PER_SECOND", 0)]);
    let steady = flow(vec![10_000], size.pick(8, 5), size.shape(1_000), unhurried);
    [(row::CLAIMS, claims(size)), (row::NO_BUDGET, steady)]
        .map(|(variant, flow)| paced_as("profile", variant, Flow { profiled: true, ..flow }))
        .into()
}

fn failover(size: &Size) -> Vec<Box<dyn Case>> {
    let events = [(Event::Kill, false), (Event::KillAndRestart, false), (Event::KillAndRestart, true)];
    let orderly = [(Event::Rolling, false), (Event::Rolling, true), (Event::Scale, false)];
    let case = |(event, is_named)| -> Box<dyn Case> {
        Box::new(Failover { event, is_named, rate: size.pick(5_000, 1_000), shape: size.mostly_unmatched(1_000) })
    };
    events.into_iter().chain(orderly).map(case).collect()
}

fn refresh(size: &Size) -> Vec<Box<dyn Case>> {
    let shape = Shape { watched: 500_000, ..size.shape(100_000) };
    vec![Box::new(Refresh { flow: flow(vec![1_000], size.pick(8, 6), shape, Subject::ours()) })]
}

fn startup(size: &Size) -> Vec<Box<dyn Case>> {
    // Few, so that the first batch is not what is measured.
    let preload = size.preload(20);
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut case = |variant: String, rival: &Rival, pipelines| {
        let (rival, preload, shape) = (rival.clone(), preload.clone(), size.shape(pipelines));
        cases.push(Box::new(Startup { variant, rival, preload, shape }));
    };
    for (name, rival) in contenders() {
        // Its batches do not change how it starts.
        if name != row::REFERENCE_LARGE {
            case(format!("{name}, 1,000 pipelines"), &rival, 1_000);
        }
    }
    case(format!("{}, 100,000 pipelines", row::DISPATCHER), &Rival::Ours, 100_000);
    cases
}

fn logs(size: &Size) -> Vec<Box<dyn Case>> {
    let main = size.main();
    let case = |variant: &str, changes: &[(String, String)]| {
        drained("logs", variant, &main, main.signals, size.shape(1_000), Subject::ours().with(changes))
    };
    vec![
        case("as by default (100 lines a second of an event)", &[]),
        case("off", &[set("LOG_LEVEL", "off")]),
        case("every line", &[set("LOG_SIGNALS_PER_SECOND", 1_000_000)]),
    ]
}

fn cost(size: &Size) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = vec![Box::new(Promises { seed: size.seed, rounds: size.pick(20, 8) })];
    if let Some(other) = &size.against {
        cases.extend(side_by_side(size, other));
    }
    cases
}

/// Ours and another build of it, at the same work.
fn side_by_side(size: &Size, other: &Path) -> Vec<Box<dyn Case>> {
    let builds = [("this build", Rival::Ours), ("the other build", Rival::Build(other.to_owned()))];
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (name, rival) in &builds {
        cases.push(Box::new(RivalDrained {
            arm: "against",
            variant: format!("drain, {name}"),
            rival: rival.clone(),
            preload: size.main(),
            shape: size.shape(1_000),
            at_most: Duration::from_secs(60),
        }));
    }
    for (name, rival) in builds {
        let flow = flow(vec![1_000, 10_000], size.pick(8, 4), size.shape(1_000), Subject::ours());
        cases.push(Box::new(RivalPaced { arm: "against", variant: name.to_owned(), rival, flow }));
    }
    cases
}
