//! The `keyferry` command: reads the arguments, runs, and says how it went by its exit code.

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use keyferry::cli::Cli;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: secrets and tokens pass through buffers of tonic, hyper and prost that nobody else would wipe.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    Cli::parse().run()
}
