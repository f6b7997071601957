//! Temporary folders in which sockets have room. The unit tests of the crate and its bench use it too.

#![allow(clippy::unwrap_used)] // tests

use tempfile::TempDir;

/// The longest `TMPDIR` below which the sockets of tests have room: their paths have at most 107 bytes (unix(7)).
const LONGEST: usize = 40;

/// A folder of the test's own, in `/tmp` where `TMPDIR` is too long.
pub fn new() -> TempDir {
    let usual = std::env::temp_dir();
    let made = if usual.as_os_str().len() > LONGEST { TempDir::new_in("/tmp") } else { TempDir::new_in(usual) };
    made.unwrap()
}
