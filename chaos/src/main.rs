//! Kills the `trigger-dispatcher` program and its services in every way it can, and checks from outside that the promises
//! held. Run it by `scripts/chaos`, which has services of its own up.
//!
//! Owns the load, the faults, the workers' side and the verdict. The verdict rests on what anybody could see from outside:
//! PostgreSQL and its history, the topic, the dead letters, the group's offsets, the messages that workers got. The
//! program is linked for the names of its crash points only, and never asked.

mod amqp;
mod broker;
mod calibrate;
mod check;
mod clock;
mod deployment;
mod dice;
mod drills;
mod evidence;
mod faults;
mod instances;
mod kafka;
mod monitor;
mod options;
mod plan;
mod platform;
mod producer;
mod proxy;
mod report;
mod resources;
mod run;
mod services;
mod settle;
mod signals;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::Options;
use crate::plan::Plan;

/// Wrong usage, as `sysexits.h` counts.
const USAGE: u8 = 64;

#[expect(clippy::print_stderr, reason = "the one place that tells a person why the program ends")]
fn main() -> ExitCode {
    let options = match Options::try_parse().and_then(Options::possible) {
        Ok(options) => options,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Nobody reads what we say when stdout or stderr is closed.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let held = clock::stop_on_signals().and_then(|()| {
        if let Some(drill) = options.drill {
            return drills::run(drill, &options);
        }
        if options.calibrate { calibrate::run(&options) } else { run::run(&Plan::new(&options)).map(|verdict| verdict.held()) }
    });
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scripts/chaos: {error:#} (seed {})", options.seed);
            ExitCode::FAILURE
        }
    }
}
