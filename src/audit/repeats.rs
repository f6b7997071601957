//! Counts mounts that say the same as the volume's last one. The count is written when something changes, each hour, and at the end.
//! Keyferry keeps only a hash of what a mount said: each volume costs the same few bytes, whatever its class is.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::event::{Event, Outcome};
use super::line::{Count, Whose};
use crate::gathered::{Gathering, Prehashed};
use crate::model::{Code, RequestId, Tenant};
use crate::shelf::Shelf;

/// The most volumes that are remembered. If there are more, the namespace with most volumes loses the one whose last mount is oldest: its
/// count is written and the volume is forgotten.
pub(super) const VOLUMES: usize = 4096;

/// A volume whose mounts stay the same gets a new line after this many seconds, so the log shows that it is still in use.
const INTERVAL_SECONDS: i64 = 3600;

/// The mounts share it (they count what says nothing new) with the writing thread.
#[derive(Debug)]
pub(super) struct Repeats {
    /// With a key of this process: nobody can find two mounts that count as the same.
    hasher: Gathering,
    volumes: Mutex<Shelf<u64, Last, Prehashed>>,
}

/// What is known of a volume: about 200 bytes with its place in the table.
#[derive(Clone, Debug)]
struct Last {
    tenant: Tenant,
    event: &'static str,
    substance: u64,
    outcome: Outcome,
    code: Option<Code>,
    verified: bool,
    /// From the line that said it.
    line: RequestId,
    written: Timestamp,
    /// The mounts since then, and the newest of them.
    repeats: u64,
    request: RequestId,
    time: Timestamp,
    milliseconds: f64,
}

/// What is to be written for a mount.
#[derive(Debug)]
pub(super) struct Passed {
    /// First: the mounts that were counted before it.
    pub(super) counts: Vec<Count>,
    /// Then its own line, and how many earlier mounts that line counts; `None`: this mount was counted too.
    pub(super) repeats: Option<u64>,
}

// === impl Repeats ===

impl Default for Repeats {
    fn default() -> Self {
        Self { hasher: Gathering::default(), volumes: Mutex::new(Shelf::with_capacity(VOLUMES)) }
    }
}

impl Repeats {
    /// How many bytes a volume takes in addition to its place in the table.
    #[cfg(test)]
    pub(super) const VOLUME: usize = size_of::<Last>();

    /// Counts a mount that says the same as its volume's last one, where no line is due; returns whether it did. Only for a tenant that has
    /// no waiting lines: a later mount may not be counted before an earlier one.
    pub(super) fn count(&self, event: &Event) -> bool {
        let (volume, substance) = (event.volume(&self.hasher), event.substance(&self.hasher));
        let mut volumes = self.lock();
        match volumes.find_mut(&volume) {
            Some(last) if last.substance == substance && !last.is_due(event) => {
                last.repeat(event);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a mount says the same as its volume's last one, even if a line is due.
    pub(super) fn knows(&self, event: &Event) -> bool {
        let (volume, substance) = (event.volume(&self.hasher), event.substance(&self.hasher));
        self.lock().find(&volume).is_some_and(|last| last.substance == substance)
    }

    pub(super) fn pass(&self, event: &Event, tenant: &Tenant) -> Passed {
        let volume = event.volume(&self.hasher);
        let new = Last::new(event, event.substance(&self.hasher), tenant);
        let mut volumes = self.lock();
        let (mut counts, mut repeats) = (Vec::new(), 0);
        match volumes.find_mut(&volume) {
            Some(last) if last.substance == new.substance && !last.is_due(event) => {
                last.repeat(event);
                return Passed { counts, repeats: None };
            }
            Some(last) if last.substance == new.substance => repeats = last.repeats + 1,
            former => counts.extend(former.and_then(|last| last.count(Whose::of(event)))),
        }
        let gone = volumes.insert(tenant.as_str(), volume, new, |_| false);
        counts.extend(gone.and_then(|last| last.count_by_namespace()));
        Passed { counts, repeats: Some(repeats) }
    }

    /// A line was not written: so the volume's next mount does not repeat it.
    pub(super) fn forget(&self, event: &Event) {
        self.lock().remove(&event.volume(&self.hasher));
    }

    /// Every count that was not written.
    pub(super) fn drain(&self) -> Vec<Count> {
        let drained = mem::replace(&mut *self.lock(), Shelf::with_capacity(VOLUMES));
        let mut counts: Vec<Count> = drained.values().filter_map(Last::count_by_namespace).collect();
        counts.sort_by_key(|count| count.time);
        counts
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, Shelf<u64, Last, Prehashed>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Last {
    fn new(event: &Event, substance: u64, tenant: &Tenant) -> Self {
        Self {
            tenant: tenant.clone(),
            event: event.event,
            substance,
            outcome: event.outcome,
            code: event.code,
            verified: event.verified,
            line: event.request,
            written: event.time,
            repeats: 0,
            request: event.request,
            time: event.time,
            milliseconds: event.milliseconds,
        }
    }

    /// Whether a volume that stays the same needs a new line.
    fn is_due(&self, event: &Event) -> bool {
        event.time.as_second() - self.written.as_second() >= INTERVAL_SECONDS
    }

    /// Another mount that says the same.
    fn repeat(&mut self, event: &Event) {
        self.repeats += 1;
        (self.request, self.time, self.milliseconds) = (event.request, event.time, event.milliseconds);
    }

    fn count_by_namespace(&self) -> Option<Count> {
        self.count(Whose::Namespace { namespace: self.tenant.clone() })
    }

    /// `None`: there is nothing to count.
    fn count(&self, whose: Whose) -> Option<Count> {
        (self.repeats > 0).then(|| Count {
            tenant: self.tenant.clone(),
            time: self.time,
            event: self.event,
            request: self.request,
            outcome: self.outcome,
            code: self.code,
            whose,
            verified: self.verified,
            milliseconds: self.milliseconds,
            objects: [],
            repeats: self.repeats,
            repeat_of: self.line,
        })
    }
}

impl Whose {
    fn of(event: &Event) -> Self {
        Self::Volume {
            provider: Arc::clone(&event.provider),
            pod: event.pod.clone(),
            class: event.class.clone(),
            target: event.target.clone(),
        }
    }
}
