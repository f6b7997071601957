//! What all volumes share that the daemon writes itself: the turn at each volume, the threads that write, and the memory for their files.
//!
//! It is built once for the life of the process and passed on: a mount that is under way at a reload still has its turn.

mod node;
mod pages;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout_at};

use super::volume::{PAGE, measure};
use crate::model::Tenant;
use crate::shares::Shares;
use crate::steps::Steps;
use crate::turns::{Turn, Turns};
use crate::work::{Unfinished, Workroom};

pub(super) use node::{Id, Node, unescaped};
pub(super) use pages::{NoRoom, Pages};

/// The most threads that open and write volumes. To write to memory is quick: more threads would only wait for each other. A hanging file
/// system blocks at most these of the runtime's 512 threads; and each tenant has its share of these, as of all turns.
const WRITERS: usize = 16;

/// How long the first mounts wait until Keyferry finds the volumes that a former process wrote: to find a thousand takes less than a
/// second.
const FIND: Duration = Duration::from_secs(10);

/// The limit for measuring them, in steps: about a million files.
const FIND_STEPS: u64 = 64 * 1024 * 1024;

/// All volumes of the node that the daemon writes itself.
#[derive(Debug)]
pub struct Volumes {
    writers: Workroom,
    lines: Mutex<Lines>,
    node: Arc<dyn Node>,
    pages: Pages,
    /// The time that is [`FIND`] after the first mount that wrote.
    finding: OnceLock<Instant>,
    found: watch::Sender<bool>,
}

/// One turn at each volume, by its target path. Only for volumes with a holder or a waiting mount.
type Lines = HashMap<Arc<str>, Arc<Turns>>;

/// The turn at one volume, until this is dropped.
#[must_use = "the turn ends when it is dropped"]
pub(super) struct VolumeTurn {
    _turn: Turn,
    /// Keeps the line in the table of [`Lines`].
    _line: Arc<Turns>,
}

// === impl Volumes ===

impl Volumes {
    /// For volumes that need this many bytes of memory together.
    pub fn new(bytes: usize) -> Self {
        Self::on(Arc::new(node::ThisNode), bytes)
    }

    pub(super) fn on(node: Arc<dyn Node>, bytes: usize) -> Self {
        Self {
            writers: Workroom::with_threads(WRITERS),
            lines: Mutex::default(),
            pages: Pages::new(bytes, Arc::clone(&node)),
            node,
            finding: OnceLock::new(),
            found: watch::Sender::new(false),
        }
    }

    /// Waits until the volumes are counted that a former process wrote below kubelet's folder: only the first mounts wait, and not for
    /// long. A folder that hangs blocks one thread.
    pub(super) async fn find(self: &Arc<Self>, kubelet_dir: &Arc<Path>, until: Instant) {
        if *self.found.borrow() {
            return;
        }
        let mut first = false;
        let last = *self.finding.get_or_init(|| {
            first = true;
            Instant::now() + FIND
        });
        if first {
            let (volumes, kubelet_dir) = (Arc::clone(self), Arc::clone(kubelet_dir));
            drop(spawn_blocking(move || {
                volumes.find_now(&kubelet_dir, &Steps::new(FIND_STEPS, last));
                volumes.found.send_replace(true);
            }));
        }
        // A volume that is found late is still counted.
        let _ = timeout_at(until.min(last), self.found.subscribe().wait_for(|found| *found)).await;
    }

    /// A volume that cannot be looked at is left out.
    fn find_now(&self, kubelet_dir: &Path, steps: &Steps) {
        let targets = match self.node.targets(kubelet_dir) {
            Ok(targets) => targets,
            Err(error) => {
                tracing::warn!(kubelet_dir = %kubelet_dir.display(), %error, "volumes that were written before the start are not counted");
                return;
            }
        };
        for target in targets {
            // A look at one volume needs some system calls at least.
            if steps.charge(1024).is_err() {
                tracing::warn!("not all volumes that were written before the start are counted: there are too many, or they take too long");
                return;
            }
            let Ok(volume) = self.node.open(kubelet_dir, &target.pod_uid, &target.target_path) else { continue };
            if let (Ok(id), Ok(Some(pages))) = (self.node.id(volume.as_fd()), measure(volume.as_fd(), steps)) {
                self.pages.found(id, pages);
            }
        }
        let volumes = self.pages.volumes();
        tracing::debug!(volumes, "volumes that were written before the start are counted");
    }

    /// Waits until then for the turn at a volume: first come, first served. `None`: there was none.
    pub(super) async fn turn(&self, tenant: &Tenant, target_path: &str, until: Instant) -> Option<VolumeTurn> {
        let line = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            // The lines without holders or waiting mounts.
            lines.retain(|_, line| Arc::strong_count(line) > 1);
            Arc::clone(lines.entry(target_path.into()).or_insert_with(|| Arc::new(Turns::new(1))))
        };
        let turn = line.take(tenant, until).await?;
        Some(VolumeTurn { _turn: turn, _line: line })
    }

    /// Does work that may hang on one of the writers' threads, in the tenant's turn. Work that has not begun by then never begins. Work
    /// that has begun finishes, and holds its thread until then.
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

    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// How many bytes these volumes use, each counted twice, and how many they may use.
    pub fn bytes(&self) -> (usize, usize) {
        (self.memory().used() * PAGE, self.memory().capacity() * PAGE)
    }

    /// The memory of these volumes, in pages of 4 KiB. Each volume counts twice (`volumes/pages.rs`).
    pub fn memory(&self) -> &Shares {
        self.pages.shares()
    }

    /// Turns at the threads that write.
    pub fn writers(&self) -> &Turns {
        self.writers.turns()
    }
}

impl fmt::Debug for VolumeTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeTurn")
    }
}

#[cfg(test)]
pub(super) mod tests;
