//! What the volumes share that the daemon writes itself: whose turn it is at each of them, and the threads that write.
//!
//! Built once for the life of the process and handed down: a mount that is under way at a reload still has its turn.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::volume::{TargetError, open_target};
use crate::model::Tenant;
use crate::turns::{Turn, Turns};
use crate::work::{Unfinished, Workroom};

/// Threads that open and write volumes, at most. Writing to memory is quick: more would only wait for each other. A file system that hangs
/// takes no more of the runtime's 512 threads than these; and of these a tenant has its share, as of all turns.
const WRITERS: usize = 16;

/// All own volumes of the node.
#[derive(Debug)]
pub struct Volumes {
    writers: Workroom,
    lines: Mutex<Lines>,
    node: Arc<dyn Node>,
}

/// One turn at each volume, by its target path. Only those that somebody has or waits for.
type Lines = HashMap<Arc<str>, Arc<Turns>>;

/// The turn at one volume, until this is dropped.
#[must_use = "the turn ends when it is dropped"]
pub(super) struct VolumeTurn {
    _turn: Turn,
    /// Keeps the line among the [`Lines`].
    _line: Arc<Turns>,
}

/// What the node's kernel knows. Apart, so that a test can play a node without a right to mount anything.
pub(super) trait Node: fmt::Debug + Send + Sync {
    /// As [`open_target`].
    fn open(&self, kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError>;
}

/// The node that this process runs on.
#[derive(Debug)]
struct ThisNode;

// === impl Volumes ===

impl Volumes {
    pub fn new() -> Self {
        Self::on(Arc::new(ThisNode))
    }

    pub(super) fn on(node: Arc<dyn Node>) -> Self {
        Self { writers: Workroom::with_threads(WRITERS), lines: Mutex::default(), node }
    }

    /// Waits for the turn at a volume until then: first come, first served. `None`: there was none.
    pub(super) async fn turn(&self, tenant: &Tenant, target_path: &str, until: Instant) -> Option<VolumeTurn> {
        let line = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for.
            lines.retain(|_, line| Arc::strong_count(line) > 1);
            Arc::clone(lines.entry(target_path.into()).or_insert_with(|| Arc::new(Turns::new(1))))
        };
        let turn = line.take(tenant, until).await?;
        Some(VolumeTurn { _turn: turn, _line: line })
    }

    /// Does what may hang on one of the writers' threads, when the tenant's turn has come. What has not begun by then never does. What has
    /// begun ends by itself, and holds its thread until it does.
    ///
    /// # Errors
    /// As [`Workroom::run`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        until: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        self.writers.run(tenant, until, work).await
    }

    pub(super) fn node(&self) -> &dyn Node {
        &*self.node
    }

    /// Turns at the threads that write.
    pub fn writers(&self) -> &Turns {
        self.writers.turns()
    }
}

impl Default for Volumes {
    fn default() -> Self {
        Self::new()
    }
}

// === impl ThisNode ===

impl Node for ThisNode {
    fn open(&self, kubelet_dir: &Path, pod_uid: &str, target_path: &str) -> Result<OwnedFd, TargetError> {
        open_target(kubelet_dir, pod_uid, target_path)
    }
}

impl fmt::Debug for VolumeTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeTurn")
    }
}

#[cfg(test)]
pub(super) mod tests;
