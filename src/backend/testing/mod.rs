//! The tests that every store and every decorator must pass.

use std::path::Path;

use tempfile::TempDir;

// Real servers, which the integration tests also use. They are here so that the stores' tests can use them.
#[path = "../../../tests/it/bao.rs"]
pub(in crate::backend) mod bao;
pub mod conformance;
pub mod fake;
#[path = "../../../tests/it/moto.rs"]
pub(in crate::backend) mod moto;
pub(in crate::backend) mod server;

// `bao` expects it beside itself.
use crate::kube::api_server;

/// A folder in memory, if the system has that. Writes to a sealed folder are synced, and no test must depend on how long a disk takes.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(Path::new("/dev/shm")).or_else(|_| tempfile::tempdir()).unwrap()
}
