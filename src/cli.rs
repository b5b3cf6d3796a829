//! Commands, and how their errors become exit codes.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::commands::{dead_letters, demo, health, migrate, offsets, outbox, prune};
use crate::config::{Config, Environment, Problems, ProcessConfig, ReplayConfig, StoreConfig, TopicConfig, env_example, help};
use crate::{app, supervise, telemetry};

/// Wrong usage or configuration, as `sysexits.h` counts.
const USAGE: u8 = 64;
/// How long the end of the process waits for whoever reads stderr.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Turns streams of trading signals into Celery tasks: once, at once, and for a reason that can be looked up.
#[derive(Debug, Parser)]
#[command(name = "trigger-dispatcher", version, after_help = help())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume signals and enqueue tasks until SIGTERM.
    #[command(after_help = help())]
    Run,
    /// Make or update the schema `dispatcher` in PostgreSQL, or prepare it for an older program.
    Migrate(migrate::Migrate),
    /// Show the whole job with nothing installed: Kafka, store, queue and workers within this process.
    Demo(demo::Options),
    /// Show where each partition is, and say where a stopped one goes on.
    #[command(subcommand)]
    Offsets(offsets::Offsets),
    /// Show what each deployment of the database still owes its broker, and hand it over after a change of broker or queue.
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// List records that were bad, or send them again.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Forget what the ledger has kept for long enough, and make the partitions that are needed next.
    Prune(prune::Prune),
    /// Ask the running service for its health (GET /healthz at HTTP_ADDRESS); for container health checks.
    Health,
    /// Print every variable with its default, as .env.example has it.
    Variables,
}

/// Parses, runs, and maps the outcome to an exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            match error.kind() {
                // Help, that was asked for or is all that can be said.
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    // Nobody reads what we say when stdout or stderr is closed.
                    drop(error.print());
                }
                _ => complain(&anyhow::anyhow!(one_line(&error.to_string()))),
            }
            return ExitCode::from(code);
        }
    };
    match execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let is_usage = error.chain().any(|cause| cause.is::<Problems>() || is_refused_property(cause));
            complain(&error);
            ExitCode::from(if is_usage { USAGE } else { 1 })
        }
    }
}

/// What clap says, without its advice.
fn one_line(text: &str) -> String {
    let problem = text.split("\n\n").next().unwrap_or_default();
    problem.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_refused_property(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref::<crate::intake::kafka::Error>(), Some(crate::intake::kafka::Error::Property { .. }))
}

/// Tells a person why the program ends. Whoever reads stderr may have stopped reading, and the end does not wait for that.
#[expect(clippy::print_stderr, reason = "the one place that tells a person why the program ends")]
fn complain(error: &anyhow::Error) {
    let text = match error.downcast_ref::<Problems>() {
        Some(problems) => problems.to_string(),
        None => format!("trigger-dispatcher: {}", once(error)),
    };
    let (told, is_told) = std::sync::mpsc::channel();
    let tell = move || {
        eprintln!("{text}");
        // Nobody waits any more where that took too long.
        told.send(()).ok();
    };
    if std::thread::Builder::new().spawn(tell).is_ok() {
        // Not told in time: the exit code says it too.
        is_told.recv_timeout(COMPLAINT).ok();
    }
}

/// The error with its causes. Many say in their own text what their cause says.
fn once(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[expect(clippy::print_stdout, reason = "the answers of commands that answer")]
fn execute(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let is_service = matches!(command, Command::Run);
    let result = match command {
        Command::Variables => {
            print!("{}", env_example());
            Ok(())
        }
        Command::Demo(options) => runtime.block_on(demo::run(options)),
        Command::Offsets(command) => {
            runtime.block_on(async { offsets::run(&TopicConfig::read(&environment()?)?, &command).await })
        }
        Command::Outbox(command) => runtime.block_on(async { outbox::run(&configuration()?, &command).await }),
        Command::DeadLetters(command) => {
            runtime.block_on(async { dead_letters::run(&ReplayConfig::read(&environment()?)?, &command).await })
        }
        Command::Prune(command) => runtime.block_on(async { prune::run(&StoreConfig::read(&environment()?)?, &command).await }),
        Command::Health => runtime.block_on(async { health::run(&ProcessConfig::alone(&environment()?)?).await }),
        Command::Migrate(command) => {
            runtime.block_on(async { migrate::run(&StoreConfig::read(&environment()?)?, &command).await })
        }
        Command::Run => runtime.block_on(async {
            let environment = environment()?;
            let config = Config::read(&environment)?;
            telemetry::start_logs(&config.process)?;
            for (name, meant) in environment.likely_typos() {
                tracing::warn!(
                    event = "variable_unknown",
                    name,
                    meant,
                    text = "this variable is not ours and has no effect: is it misspelt?"
                );
            }
            let stop = CancellationToken::new();
            let _signals = supervise::stop_on_signal(stop.clone())?;
            app::run(config, stop).await
        }),
    };
    // Threads that hang in a client library must not keep the process: correctness never needs a clean close.
    runtime.shutdown_background();
    if is_service {
        // Nothing is left to do but to leave the process.
        tracing::info!(event = "stopped", in_order = result.is_ok());
    }
    telemetry::finish_logs();
    result
}

fn configuration() -> anyhow::Result<Config> {
    Ok(Config::read(&environment()?)?)
}

fn environment() -> anyhow::Result<Environment> {
    Ok(Environment::load(Path::new(".env"))?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cause_that_the_error_says_itself_is_not_said_again() {
        let refused = || std::io::Error::other("connection refused");
        let redis = crate::tasks::redis::Error::File { path: "ca.pem".to_owned(), source: refused() };
        let error = anyhow::Error::new(redis).context("CELERY_BROKER_URL");
        assert_eq!(super::once(&error), "CELERY_BROKER_URL: ca.pem: connection refused");
        assert_eq!(super::once(&anyhow::Error::new(refused()).context("the terminal")), "the terminal: connection refused");
    }
}
