//! The program `trigger-dispatcher`.

use std::process::ExitCode;

fn main() -> ExitCode {
    trigger_dispatcher::cli::main()
}
