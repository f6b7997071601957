//! The `keyferry` command: reads the arguments, runs, and says how it went by its exit code.

use std::env;
use std::process::ExitCode;

use keyferry::cli::Cli;
use tikv_jemallocator::Jemalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: secrets and tokens pass through buffers of tonic, hyper and prost that nobody else would wipe. Below it is jemalloc,
/// which gives freed pages back to the system (`docs/adr/0010-jemalloc.md`).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

fn main() -> ExitCode {
    Cli::run(env::args_os())
}
