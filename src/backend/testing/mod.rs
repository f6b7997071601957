//! What every store and every decorator is tried by.

use std::path::Path;

use tempfile::TempDir;

pub mod conformance;
pub mod fake;

/// A folder in memory, where the system has that: what is written to a sealed folder is synced, and no proof hangs on how long a disk takes.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(Path::new("/dev/shm")).or_else(|_| tempfile::tempdir()).unwrap()
}
