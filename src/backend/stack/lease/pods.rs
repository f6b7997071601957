//! Which Pods are still on this node. kubelet does not tell a provider when a Pod ends. But it keeps a folder for each Pod, `pods/<uid>`, and
//! removes it when the Pod is gone. To look there, Keyferry needs no permission in the cluster.
//!
//! If Keyferry took a living Pod for gone, it would end the Pod's credentials. So there are three rules. Only a folder that was seen before can be
//! missing. Nothing is missing while the whole root looks empty: its volume may not be mounted, or kubelet may be starting. And the folder must be
//! missing twice, one minute apart.
//!
//! The number of watched Pods is limited, and tenants share it. A Pod counts from its first request until everything that its stores kept for it is
//! given back. If there is no room for a Pod, it is not watched: its leases and store tokens end by themselves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::Store;
use crate::model::Tenant;
use crate::shares::{Held, Shares};

/// From one look to the next.
const LOOK: Duration = Duration::from_mins(1);

/// How long Keyferry believes that a folder is absent while its Pod asks for one secret after another.
const ASK: Duration = Duration::from_secs(10);

/// How long Keyferry remembers a Pod that was never seen and does not ask.
const UNSEEN: Duration = Duration::from_hours(24);

/// The most Pods that are watched. By default, kubelet runs at most 110.
pub(super) const MOST: usize = 8192;

/// The Pods that have asked a store over a network.
#[derive(Debug)]
pub(super) struct Pods {
    known: HashMap<Arc<str>, Pod>,
    room: Shares,
    next: Option<Instant>,
}

#[derive(Debug)]
struct Pod {
    /// Whether its folder was ever there.
    seen: bool,
    missed: bool,
    asked: Instant,
    /// The stacks that it asked. Each of them may keep a store token for it.
    asked_of: Vec<Store>,
    /// Room for one Pod.
    room: Held,
}

/// A Pod that is gone.
#[derive(Debug)]
pub(super) struct Gone {
    pub pod: Arc<str>,
    pub asked_of: Vec<Store>,
    /// Held until all its stores know that it is gone.
    pub room: Held,
}

// === impl Pods ===

impl Pods {
    pub fn new() -> Self {
        Self { known: HashMap::new(), room: Shares::new(MOST), next: None }
    }

    /// Notes that a Pod asks. `false`: the Pod must be looked for and added.
    pub fn ask(&mut self, uid: &str, of: &Store, now: Instant) -> bool {
        let Some(pod) = self.known.get_mut(uid) else { return false };
        let looked = pod.seen || now.duration_since(pod.asked) < ASK;
        if looked {
            pod.asked = now;
        }
        looked && pod.asked_of.iter().any(|asked| asked.is(of))
    }

    /// Watches a tenant's Pod from now on, if there is room. Returns whether it is the only Pod, so that the keeper must wake up.
    pub fn add(&mut self, tenant: &Tenant, uid: &str, of: &Store, seen: bool, now: Instant) -> bool {
        if !self.known.contains_key(uid) {
            let Some(room) = is_plain(uid).then(|| self.room.take(tenant, 1)).flatten() else { return false };
            self.known.insert(uid.into(), Pod { seen, missed: false, asked: now, asked_of: Vec::new(), room });
        }
        let Some(pod) = self.known.get_mut(uid) else { return false };
        (pod.seen, pod.asked) = (pod.seen || seen, now);
        if !pod.asked_of.iter().any(|asked| asked.is(of)) {
            pod.asked_of.push(of.clone());
        }
        let first = self.next.is_none();
        self.next.get_or_insert(now + LOOK);
        first
    }

    /// How much room there is, and which tenants have it.
    #[cfg(test)]
    pub fn room(&self) -> &Shares {
        &self.room
    }

    /// Whether it is watched, but its folder was never there.
    pub fn is_sought(&self, uid: &str) -> bool {
        self.known.get(uid).is_some_and(|pod| !pod.seen)
    }

    pub fn is_seen(&self, uid: &str) -> bool {
        self.known.get(uid).is_some_and(|pod| pod.seen)
    }

    /// When to look; `None`: there are no Pods to look for.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// No look is due while one is under way.
    pub fn looking(&mut self) {
        self.next = None;
    }

    /// Applies the result of a look: Pods that are gone are forgotten. `present` is `None` if the root could not be read.
    pub fn looked(&mut self, present: Option<&HashSet<String>>, now: Instant) -> Vec<Gone> {
        let present = present.filter(|present| !present.is_empty());
        let left = self.known.extract_if(|uid, pod| {
            let Some(present) = present else {
                pod.missed = false;
                return false;
            };
            let there = present.contains(&**uid);
            if pod.seen && pod.missed && !there {
                return true;
            }
            pod.seen |= there;
            pod.missed = !there;
            !pod.seen && now.duration_since(pod.asked) >= UNSEEN
        });
        // Nobody can say of a Pod that was never seen that it is gone.
        let gone = left.filter(|(_, pod)| pod.seen).map(|(pod, Pod { asked_of, room, .. })| Gone { pod, asked_of, room }).collect();
        self.next = (!self.known.is_empty()).then_some(now + LOOK);
        gone
    }
}

/// The names in kubelet's folder of Pods; `None` if it cannot be read. Blocks.
pub(super) fn look(root: &Path) -> Option<HashSet<String>> {
    let entries = fs::read_dir(root).ok()?;
    entries.map(|entry| entry.ok().map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether kubelet has a folder for this Pod now. Blocks while it looks at one file.
pub(super) fn has_folder(root: &Path, uid: &str) -> bool {
    is_plain(uid) && fs::symlink_metadata(root.join(uid)).is_ok_and(|folder| folder.is_dir())
}

/// A uid must be a simple name in kubelet's folder that leads nowhere else.
fn is_plain(uid: &str) -> bool {
    (1..=128).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
