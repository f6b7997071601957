//! The `keyferry` command: reads the arguments, runs, and reports the result by its exit code.

use std::env;
use std::process::ExitCode;

use keyferry::cli::Cli;
use tikv_jemallocator::Jemalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes memory when it is freed. Secrets and tokens pass through buffers of tonic, hyper and prost, which do not wipe them. Below it is
/// jemalloc, which gives freed pages back to the system (`docs/adr/0010-jemalloc.md`).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

fn main() -> ExitCode {
    Cli::run(env::args_os())
}
