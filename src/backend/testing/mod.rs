//! What every store and every decorator is tried by.

use std::path::Path;

use tempfile::TempDir;

// Real servers, which the integration tests have too. Here, so that the stores' tests share them.
#[path = "../../../tests/it/bao.rs"]
pub(in crate::backend) mod bao;
pub mod conformance;
pub mod fake;
#[path = "../../../tests/it/moto.rs"]
pub(in crate::backend) mod moto;

// `bao` looks for it beside itself.
use crate::kube::api_server;

/// A folder in memory, where the system has that: what is written to a sealed folder is synced, and no proof hangs on how long a disk takes.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(Path::new("/dev/shm")).or_else(|_| tempfile::tempdir()).unwrap()
}
