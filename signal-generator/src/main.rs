//! `signal-generator`: parse, run, map the outcome to an exit code.

use std::process::ExitCode;

use clap::Parser;
use signal_generator::cli::Cli;
use signal_generator::clock::Clock;
use signal_generator::commands::{self, Tools};
use signal_generator::config;
use signal_generator::report::Report;
use signal_generator::stop::Stop;

/// `sysexits.h`: the command line or the environment is wrong; some input was bad; something of the system failed.
const USAGE: u8 = 64;
const BAD_DATA: u8 = 65;
const SYSTEM: u8 = 71;

fn main() -> ExitCode {
    let mut report = Report::default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => return print(&help),
        Err(error) => {
            report.line(error.to_string().trim_end());
            return USAGE.into();
        }
    };
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let job = match config::check(&cli, &environment.collect()) {
        Ok(job) => job,
        Err(mistakes) => {
            report.line(&mistakes.join("\n"));
            return USAGE.into();
        }
    };
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            report.line(&format!("the process's signals cannot be listened to: {error}"));
            return SYSTEM.into();
        }
    };
    let mut tools = Tools { clock: Clock::start(), report, stop };
    let outcome = commands::run(&job, &mut tools);
    match outcome {
        Ok(()) if tools.report.bad() == 0 => ExitCode::SUCCESS,
        Ok(()) => BAD_DATA.into(),
        Err(failure) => {
            tools.report.line(&failure.to_string());
            failure.exit_code().into()
        }
    }
}

/// Help and version go to standard output.
fn print(help: &clap::Error) -> ExitCode {
    if help.print().is_ok() { ExitCode::SUCCESS } else { SYSTEM.into() }
}
