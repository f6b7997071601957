//! The `keyferry` command: reads the arguments, runs, and says how it went by its exit code.

use std::process::ExitCode;

use clap::Parser;
use keyferry::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
