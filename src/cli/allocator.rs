//! The one setting of the system's allocator that the daemon needs. glibc reads it before `main`, so it must be in the environment of the
//! program: a daemon that starts without it executes itself once with it (`docs/adr/0006-memory-given-back.md`).

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Blocks from this size on are mapped, and unmapped when they are freed. It is where glibc begins too (mallopt(3)), but glibc raises the
/// threshold, up to 32 MiB, whenever a mapped block is freed; from then on it keeps such blocks in its heap. A value that is set stays.
const SETTING: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// Returns where the setting is in force. Process, descriptors and signals stay the same.
///
/// # Errors
/// The program could not be executed again. It works without the setting, and keeps more memory after a burst of mounts.
pub fn settle() -> io::Result<()> {
    let (name, value) = SETTING;
    if env::var_os(name).is_some() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let called = arguments.next().unwrap_or_default();
    Err(Command::new(env::current_exe()?).arg0(called).args(arguments).env(name, value).exec())
}
