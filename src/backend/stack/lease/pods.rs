//! Which Pods are still on this node. kubelet tells a provider of no Pod's end; but it keeps a folder for each, `pods/<uid>`, and
//! removes it when the Pod is gone. That needs no right in the cluster.
//!
//! To take a living Pod for gone would end its credentials: so only a folder that was seen before can be missed, not while the whole root
//! looks empty (its volume is not mounted, or kubelet starts anew), and only when it is missed twice, a minute apart.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::backend::Backend;

/// From one look to the next.
const LOOK: Duration = Duration::from_mins(1);

/// How long an absent folder is believed to be absent while its Pod asks for one secret after another.
const ASK: Duration = Duration::from_secs(10);

/// How long a Pod is remembered that was never seen and does not ask.
const UNSEEN: Duration = Duration::from_hours(24);

/// The most Pods that are watched. kubelet runs 110 unless it is told otherwise.
const MOST: usize = 8192;

/// The Pods that asked a store over a network.
#[derive(Debug)]
pub(super) struct Pods {
    known: HashMap<Arc<str>, Pod>,
    next: Option<Instant>,
}

#[derive(Debug)]
struct Pod {
    /// Its folder was there once.
    seen: bool,
    missed: bool,
    asked: Instant,
    /// The stacks that it asked, each of which may keep a store token for it.
    asked_of: Vec<Arc<dyn Backend>>,
}

/// A Pod that is gone.
#[derive(Debug)]
pub(super) struct Gone {
    pub pod: Arc<str>,
    pub asked_of: Vec<Arc<dyn Backend>>,
}

// === impl Pods ===

impl Pods {
    pub fn new() -> Self {
        Self { known: HashMap::new(), next: None }
    }

    /// Notes that a Pod asks. `false`: it has to be looked for and added.
    pub fn ask(&mut self, uid: &str, of: &Arc<dyn Backend>, now: Instant) -> bool {
        let Some(pod) = self.known.get_mut(uid) else { return false };
        let looked = pod.seen || now.duration_since(pod.asked) < ASK;
        if looked {
            pod.asked = now;
        }
        looked && pod.asked_of.iter().any(|asked| Arc::ptr_eq(asked, of))
    }

    /// Watches a Pod from now on. Whether it is the only one, so that the keeper has to be told.
    pub fn add(&mut self, uid: &str, of: &Arc<dyn Backend>, seen: bool, now: Instant) -> bool {
        if self.known.len() >= MOST || !is_plain(uid) {
            return false;
        }
        let pod = self.known.entry(uid.into()).or_insert(Pod { seen, missed: false, asked: now, asked_of: Vec::new() });
        (pod.seen, pod.asked) = (pod.seen || seen, now);
        if !pod.asked_of.iter().any(|asked| Arc::ptr_eq(asked, of)) {
            pod.asked_of.push(Arc::clone(of));
        }
        let first = self.next.is_none();
        self.next.get_or_insert(now + LOOK);
        first
    }

    pub fn is_seen(&self, uid: &str) -> bool {
        self.known.get(uid).is_some_and(|pod| pod.seen)
    }

    /// When to look; `None`: there is no Pod to look for.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Not while a look is under way.
    pub fn looking(&mut self) {
        self.next = None;
    }

    /// Takes up what a look has found: the Pods that are gone are not known any more. `present` is `None` where the root could not be read.
    pub fn looked(&mut self, present: Option<&HashSet<String>>, now: Instant) -> Vec<Gone> {
        let mut gone = Vec::new();
        let present = present.filter(|present| !present.is_empty());
        self.known.retain(|uid, pod| {
            let Some(present) = present else {
                pod.missed = false;
                return true;
            };
            let there = present.contains(&**uid);
            if pod.seen && pod.missed && !there {
                gone.push(Gone { pod: Arc::clone(uid), asked_of: std::mem::take(&mut pod.asked_of) });
                return false;
            }
            pod.seen |= there;
            pod.missed = !there;
            pod.seen || now.duration_since(pod.asked) < UNSEEN
        });
        self.next = (!self.known.is_empty()).then_some(now + LOOK);
        gone
    }
}

/// The names in kubelet's folder of Pods; `None` where it cannot be read. Blocks.
pub(super) fn look(root: &Path) -> Option<HashSet<String>> {
    let entries = fs::read_dir(root).ok()?;
    entries.map(|entry| entry.ok().map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether kubelet has a folder for this Pod now. Blocks for a look at one file.
pub(super) fn has_folder(root: &Path, uid: &str) -> bool {
    is_plain(uid) && fs::symlink_metadata(root.join(uid)).is_ok_and(|folder| folder.is_dir())
}

/// A uid is a name in kubelet's folder, and leads nowhere else.
fn is_plain(uid: &str) -> bool {
    (1..=128).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
