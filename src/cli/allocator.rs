//! The settings of the system's allocator that the daemon needs. glibc reads them before `main`, so they must be in the environment of the
//! program: a daemon that starts without them executes itself once with them (`docs/adr/0006-memory-given-back.md`).

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Blocks from this size on are mapped, and unmapped when they are freed. It is where glibc begins too (mallopt(3)), but glibc raises the
/// threshold, up to 32 MiB, whenever a mapped block is freed; from then on it keeps such blocks in its heap. A value that is set stays.
///
/// And two heaps for all threads: glibc makes up to eight for each core, and each keeps what a burst has left in it.
const SETTINGS: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_ARENA_MAX", "2")];

/// Returns where the settings are in force. Process, descriptors and signals stay the same.
///
/// # Errors
/// The program could not be executed again. It works without the settings, and keeps more memory after a burst of mounts.
pub fn settle() -> io::Result<()> {
    if SETTINGS.iter().all(|(name, _)| env::var_os(name).is_some()) {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let called = arguments.next().unwrap_or_default();
    Err(Command::new(env::current_exe()?)
        .arg0(called)
        .args(arguments)
        .envs(SETTINGS.into_iter().filter(|(name, _)| env::var_os(name).is_none()))
        .exec())
}
