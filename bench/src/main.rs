//! Measures the `trigger-dispatcher` program from outside: the release binary as a process of its own, against real
//! Kafka, PostgreSQL and Redis, with data made from a seed. Run it by `scripts/bench`, which has the services up.
//!
//! Owns the load, the clock and the figures. Must never link the program that it measures, and counts no run whose sums
//! do not agree afterwards.

mod ceiling;
mod clock;
mod dispatcher;
mod drain;
mod kafka;
mod machine;
mod paced;
mod platform;
mod process;
mod queue;
mod results;
mod services;
mod signals;
mod statements;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wrong usage, as `sysexits.h` counts.
const USAGE: u8 = 64;

/// Measures trigger-dispatcher against real services. Figures go to stdout as a table and to bench/results as JSON lines.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How fast one instance gets through a topic that is full already.
    Drain(drain::Options),
    /// Count a topic's records with a bare consumer (`drain` calls this).
    #[command(hide = true)]
    Count(ceiling::Options),
    /// How long a signal takes to become a task while signals come at a fixed rate.
    Paced(paced::Options),
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
    let result = stop::on_signals().and_then(|()| match arguments.command {
        Command::Drain(options) => drain::run(&options),
        Command::Count(options) => ceiling::count(&options),
        Command::Paced(options) => paced::run(&options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scripts/bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
