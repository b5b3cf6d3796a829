//! Measures the `trigger-dispatcher` program from outside: the release binary as a process of its own, against real
//! Kafka, PostgreSQL and Redis, with data made from a seed. Run it by `scripts/bench`, which has the services up.
//!
//! Owns the load, the clock and the figures. Must never link the program that it measures, and counts no run whose sums
//! do not agree afterwards.

mod arms;
mod book;
mod ceiling;
mod clock;
mod cost;
mod drain;
mod floor;
mod group;
mod instance;
mod kafka;
mod ledger;
mod machine;
mod once;
mod paced;
mod plan;
mod platform;
mod process;
mod profile;
mod queue;
mod report;
mod results;
mod services;
mod signals;
mod statements;
mod stop;
mod subject;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::report::table;

/// Wrong usage, as `sysexits.h` counts.
const USAGE: u8 = 64;

/// Measures trigger-dispatcher against real services. Figures go to stdout as tables and to bench/results as JSON.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every arm side by side and repeated; writes docs/performance.md from the figures.
    Report(ReportOptions),
    /// How fast one instance gets through a topic that is full already.
    Drain(once::DrainOptions),
    /// Count a topic's records with a bare consumer (`drain` calls this).
    #[command(hide = true)]
    Count(ceiling::Options),
    /// Signals to tasks without a database (`paced` calls this).
    #[command(hide = true)]
    Floor,
    /// How long a signal takes to become a task while signals come at a fixed rate.
    Paced(once::PacedOptions),
    /// The Python reference of the old service and a second contender, beside the dispatcher.
    Rivals(ArmOptions),
    /// 1, 2 and 4 instances that divide the work.
    Instances(ArmOptions),
    /// Instances that die, come back, come and go, under load.
    Failover(ArmOptions),
    /// Claims a second with 100,000 pipelines that are idle again all the time.
    Claims(ArmOptions),
    /// What PostgreSQL's session for claims does with its time, by `perf`.
    Profile(ArmOptions),
    /// Resident memory by the number of pipelines.
    Memory(ArmOptions),
    /// What reading 100,000 pipelines again costs the flow.
    Refresh(ArmOptions),
    /// From the start of the process to its first task.
    Startup(ArmOptions),
    /// What log lines cost.
    Logs(ArmOptions),
    /// What the promises cost, and with --against another build beside this one.
    Cost(ArmOptions),
    /// What a claim costs when the ledger has grown.
    Ledger(ledger::Options),
}

/// How much is measured.
#[derive(Debug, Clone, clap::Args)]
struct ArmOptions {
    /// Runs of each variant, in turn; medians and spread are of these [default: 5, with --quick 1].
    #[arg(long)]
    runs: Option<u32>,
    /// Less of everything: to see that it works.
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another build of the dispatcher, measured beside this one (arm `cost`).
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ReportOptions {
    #[command(flatten)]
    size: ArmOptions,
    /// Only these arms; the page keeps what the others have measured before.
    #[arg(long, value_delimiter = ',', value_parser = plan::ARMS)]
    only: Vec<String>,
    /// Measure nothing: write the page from what is in bench/results.
    #[arg(long, conflicts_with = "only")]
    render: bool,
}

impl ArmOptions {
    fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 1 } else { 5 })
    }

    fn cases(&self, arm: &str) -> anyhow::Result<Vec<Box<dyn suite::Case>>> {
        // Programs are started from another folder.
        let against = self.against.as_ref().map(|path| path.canonicalize().with_context(|| format!("{}", path.display())));
        plan::cases(arm, &plan::Size { quick: self.quick, seed: self.seed, against: against.transpose()? })
    }
}

/// One arm, in the report's variants.
fn arm(name: &str, options: &ArmOptions) -> anyhow::Result<()> {
    suite::run_and_show(&options.cases(name)?, options.runs(), options.seed, "")
}

fn matrix(name: &str, load: &once::Load, runs: u32) -> anyhow::Result<()> {
    arm(name, &ArmOptions { runs: Some(runs), quick: load.quick, seed: load.seed, against: None })
}

fn report(options: &ReportOptions) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    if !options.render {
        let arms = plan::ARMS.into_iter().filter(|arm| options.only.is_empty() || options.only.iter().any(|only| only == arm));
        let cases: Vec<_> =
            arms.map(|arm| options.size.cases(arm)).collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
        let (documents, failed) = suite::run(&cases, options.size.runs(), options.size.seed, "")?;
        documents.iter().for_each(table::print);
        failures = failed;
    }
    let page = report::write()?;
    results::say(&format!("written: {}", page.display()));
    anyhow::ensure!(failures.is_empty(), "{} cases failed, their rows are not there: {}", failures.len(), failures.join("; "));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the one place that tells a person why the program ends")]
fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Nobody reads what we say when stdout or stderr is closed.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let result = stop::on_signals().and_then(|()| match &arguments.command {
        Command::Report(options) => report(options),
        Command::Drain(options) if options.load.matrix => matrix("drain", &options.load, options.runs),
        Command::Drain(options) => once::drain(options),
        Command::Count(options) => ceiling::count(options),
        Command::Floor => floor::run(),
        Command::Paced(options) if options.load.matrix => matrix("paced", &options.load, options.runs),
        Command::Paced(options) => once::paced(options),
        Command::Rivals(options) => arm("rivals", options),
        Command::Instances(options) => arm("instances", options),
        Command::Failover(options) => arm("failover", options),
        Command::Claims(options) => arm("claims", options),
        Command::Profile(options) => arm("profile", options),
        Command::Memory(options) => arm("memory", options),
        Command::Refresh(options) => arm("refresh", options),
        Command::Startup(options) => arm("startup", options),
        Command::Logs(options) => arm("logs", options),
        Command::Cost(options) => arm("cost", options),
        Command::Ledger(options) => ledger::measure(options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripts/bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
