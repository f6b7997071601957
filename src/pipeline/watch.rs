//! The volumes that Keyferry writes again when a file changes that their secrets come from: with `delivery: provider`, and if all secrets
//! of a volume come from file vaults.
//!
//! This is separate from [`live`](super::live), which counts all volumes: here Keyferry keeps what it needs to write a volume without a
//! mount. That is the parsed class, the verified Pod, and how long that is valid; no token, and no value.
//!
//! The kept data of a volume changes only while somebody has the volume's turn, or is removed. A mount takes it out when it has the turn,
//! and puts the new data in before it gives the turn back. So a change that has the turn knows the last mount's class.
//!
//! **Which volumes are due.** A look notes when it saw that a file differs from before. A volume is due if that was after its secrets were
//! last fetched. A file that is seen for the first time counts as changed: its former state is not known.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::MountLimits;
use crate::backend::Configured;
use crate::files::Located;
use crate::identity::Proof;
use crate::model::{Code, FileMode, Plan, PodClaims, PodIdentity, RequestId, Tenant};
use crate::shelf::Shelf;
use crate::turns::Turns;

mod looks;

pub use looks::Look;

use looks::{Files, Watched};

/// The most volumes.
const MOST: usize = 4096;

/// The least time between two writes of a volume.
const REST: Duration = Duration::from_secs(5);

/// A volume for which nobody asked in this time is forgotten: kubelet asks about once per minute.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The most volumes that are written at once: few, so that mounts do not wait for them.
const AT_ONCE: usize = 16;

/// The weight of a volume and of one of its files in bytes, without texts and plan.
const VOLUME: usize = 1024;
const FILE: usize = 256;

/// The volumes, and the files that they use. Namespaces share it: a namespace with many volumes loses its own first.
#[derive(Debug)]
pub struct Watch {
    table: Mutex<Table>,
    /// Whether a volume may be due: a file has changed, or a volume or change came or ended since then.
    stirred: Arc<AtomicBool>,
    /// Taken before a change's place among the mounts. No mount waits for this, so no waiting in a circle is possible.
    turns: Turns,
    /// Counts the changes, from a random number on: a mount has the same id only by chance.
    requests: AtomicU64,
}

#[derive(Debug)]
struct Table {
    /// By target path.
    volumes: Shelf<Arc<str>, Entry>,
    /// The least weight of a volume: so there are at most [`MOST`].
    least: usize,
    files: Files,
}

#[derive(Debug)]
struct Entry {
    subject: Arc<Subject>,
    tenant: Tenant,
    files: Vec<Arc<Watched>>,
    /// When its secrets were last fetched, or before that.
    fetched: Instant,
    asked: Instant,
    at_work: bool,
    rests_until: Option<Instant>,
    /// The error of its last change, since its last mount: reported once.
    said: Option<Code>,
}

/// What is needed to write a volume without a mount.
#[derive(Debug)]
pub(super) struct Subject {
    pub pod: Arc<PodIdentity>,
    pub claims: Arc<PodClaims>,
    pub class: Option<Arc<str>>,
    pub target: Arc<str>,
    /// The provider name of the socket.
    pub provider: Arc<str>,
    pub permission: FileMode,
    pub plan: Arc<Plan>,
    /// What the plan was parsed with.
    pub configured: Arc<Configured>,
    pub limits: MountLimits,
    pub proof: Proof,
}

/// A volume that was delivered by a mount.
#[derive(Debug)]
pub(super) struct Delivered {
    pub subject: Subject,
    /// The places of its secrets: one file for each.
    pub files: Vec<Located>,
    pub former: Former,
    /// The weight of the plan, in bytes.
    pub plan_weight: usize,
    /// A time before its secrets were fetched.
    pub fetched: Instant,
    pub asked: Instant,
}

/// A volume whose secrets may have changed. It is being worked on until this is dropped.
#[derive(Debug)]
#[must_use = "it is due again when it is dropped"]
pub struct Due {
    watch: Arc<Watch>,
    pub(super) subject: Arc<Subject>,
    tenant: Tenant,
}

/// The files of a volume whose mount is under way: what was seen of them is kept during that time.
#[derive(Debug, Default)]
pub(super) struct Former {
    _files: Vec<Arc<Watched>>,
}

/// How a change ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    Failed(Code),
    /// The volume had these files already.
    Same,
    Written,
}

// === impl Watch ===

impl Watch {
    /// For volumes that weigh this many bytes together, with their files and plans.
    pub fn of_bytes(bytes: usize) -> Self {
        let table = Table { volumes: Shelf::of_bytes(bytes), least: bytes.div_ceil(MOST), files: Files::default() };
        let (turns, first) = (Turns::new(AT_ONCE), RandomState::new().hash_one(bytes));
        Self { table: Mutex::new(table), stirred: Arc::default(), turns, requests: AtomicU64::new(first) }
    }

    /// A mount has delivered this volume, and still has its turn. If the namespace has used its share, there is no place for it.
    pub(super) fn keep(&self, delivered: Delivered) {
        let Delivered { subject, files, former, plan_weight, fetched, asked } = delivered;
        let texts = subject.target.len()
            + subject.class.as_ref().map_or(0, |class| class.len())
            + subject.claims.names().map(String::len).iter().sum::<usize>();
        let paths: usize = files.iter().map(|at| FILE + at.file.count_bytes()).sum();
        let tenant = Tenant::from(Arc::clone(&subject.pod.namespace));
        let (key, subject) = (Arc::clone(&subject.target), Arc::new(subject));
        let mut table = self.lock();
        let files = files.into_iter().map(|at| table.files.get(at)).collect();
        let entry = Entry { subject, tenant: tenant.clone(), files, fetched, asked, at_work: false, rests_until: None, said: None };
        // The first look at a file reports it as changed.
        let is_due = entry.is_due();
        let weight = (VOLUME + 2 * texts + paths + plan_weight).max(table.least);
        let gone = table.volumes.put(tenant.as_str(), key, entry, weight, |_| false);
        table.files.loosen();
        drop(table);
        drop((gone, former));
        if is_due {
            self.stirred.store(true, Ordering::Release);
        }
    }

    /// Nothing is kept of the volume until its next mount has delivered it.
    pub(super) fn forget(&self, target: &str) -> Former {
        let mut table = self.lock();
        table.files.loosen();
        Former { _files: table.volumes.remove(target).map(|gone| gone.files).unwrap_or_default() }
    }

    /// Forgets all volumes: from now on the driver writes them.
    pub fn clear(&self) {
        let mut table = self.lock();
        table.volumes.retain(|_| false);
        table.files.loosen();
    }

    /// How many volumes there are.
    pub fn count(&self) -> usize {
        self.lock().volumes.values().count()
    }

    /// The looks that are due now: one for each folder whose last look has ended.
    pub fn looks(&self, now: Instant) -> Vec<Look> {
        let mut table = self.lock();
        let Table { volumes, files, .. } = &mut *table;
        volumes.retain(|entry| {
            let stays = now.saturating_duration_since(entry.asked) < FORGOTTEN;
            if !stays {
                files.loosen();
            }
            stays
        });
        files.looks(&self.stirred)
    }

    /// The volumes that may have changed, and that nobody works on.
    pub fn due(self: &Arc<Self>, now: Instant) -> Vec<Due> {
        if !self.stirred.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for entry in self.lock().volumes.values_mut().filter(|entry| entry.is_due()) {
            if entry.at_work || entry.rests_until.is_some_and(|until| now < until) {
                self.stirred.store(true, Ordering::Release);
            } else {
                entry.at_work = true;
                due.push(Due { watch: Arc::clone(self), subject: Arc::clone(&entry.subject), tenant: entry.tenant.clone() });
            }
        }
        due
    }

    /// Turns at the writing of volumes that no mount has asked for.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Table ===

impl Table {
    /// The entry, if it is still the one that the subject is from.
    fn entry(&mut self, subject: &Arc<Subject>) -> Option<&mut Entry> {
        self.volumes.find_mut(&*subject.target).filter(|entry| Arc::ptr_eq(&entry.subject, subject))
    }
}

impl Entry {
    fn is_due(&self) -> bool {
        self.files.iter().any(|file| file.changed().is_some_and(|changed| changed >= self.fetched))
    }
}

// === impl Due ===

impl Due {
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// An id for the log and the audit.
    pub(super) fn request(&self) -> RequestId {
        RequestId::new(self.watch.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether this is still the data of the last mount. Only for the holder of the volume's turn.
    pub(super) fn is_current(&self) -> bool {
        self.watch.lock().entry(&self.subject).is_some()
    }

    /// Notes how it ended; what was fetched is from `fetched` or later. Returns whether to report it.
    pub(super) fn note(&self, ended: Ended, fetched: Instant) -> bool {
        let mut table = self.watch.lock();
        let Some(entry) = table.entry(&self.subject) else { return true };
        entry.fetched = fetched;
        let (rests, said) = match ended {
            Ended::Failed(code) => (true, Some(code)),
            Ended::Same => (false, None),
            Ended::Written => (true, None),
        };
        if rests {
            entry.rests_until = Some(Instant::now() + REST);
        }
        let is_new = entry.said != said;
        entry.said = said;
        is_new
    }

    /// Nothing can be written before the volume's next mount.
    pub(super) fn forget(&self) {
        let mut table = self.watch.lock();
        let gone = table.entry(&self.subject).is_some().then(|| table.volumes.remove(&*self.subject.target));
        table.files.loosen();
        drop(table);
        drop(gone);
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(entry) = self.watch.lock().entry(&self.subject) {
            entry.at_work = false;
        }
        self.watch.stirred.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
