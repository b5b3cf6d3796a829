//! The program `dispatcher-under-test`: the dispatcher as it is, but for crash points and planted bugs.

use std::process::ExitCode;

fn main() -> ExitCode {
    trigger_dispatcher::cli::main()
}
