//! What the first members of failovers have denied, over restarts: a sealed file for each failover and namespace. A daemon that starts while
//! the first member is out does not ask the second for what was denied before.
//!
//! How much there is of it is the failovers' business: they keep the same in memory, bounded and shared by tenant, and tell each change.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Archive;
use super::content::{Holder, Id};
use super::index::Ticket;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::sealed::Room;
use crate::backend::stack::written::Reference;
use crate::model::{BackendName, Tenant};

/// The most denials that are read at a start. With more, none is told apart: no second member is asked for what its first has not answered.
const MOST: usize = if cfg!(test) { 256 } else { 65_536 };

/// To be raised when [`Denied::of`] gives other ids: what is there by others says nothing, and counts as not read.
const FORMAT: u8 = 1;

/// The denials of all failovers.
#[derive(Default)]
pub(super) struct Ledger {
    pages: HashMap<Place, Page>,
    /// To be written; or to be removed, where a page says nothing any more.
    changed: HashSet<Place>,
    /// Once the writer has come so far, the disk has all that is here.
    ticket: Ticket,
}

/// Whose a page is.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
struct Place {
    /// Empty: of all failovers.
    failover: String,
    /// `None`: what is said of all.
    namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Page {
    /// There were more denials than are kept: what was not answered well since counts as denied.
    is_marked: bool,
    /// Each with the Pod that it is for alone.
    denied: HashMap<Denied, Option<Arc<str>>>,
}

/// A request that was denied. It names no secret.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(in crate::backend) struct Denied(Id);

/// What is to be done in one round: nothing is removed before the rest is written.
pub(super) struct Pages(Vec<(Place, Option<Vec<u8>>)>);

/// One failover's part.
#[derive(Clone)]
pub(in crate::backend) struct Section {
    archive: Arc<Archive>,
    failover: BackendName,
}

/// What a former process, or a former configuration, has left of a failover.
#[derive(Debug, Default)]
pub(in crate::backend) struct Left {
    pub denied: Vec<(Tenant, Denied, Option<Arc<str>>)>,
    pub marked: Vec<Tenant>,
    /// All are.
    pub all: bool,
}

// === impl Denied ===

impl Denied {
    /// `tenant`: `None` for all who share the request.
    pub(in crate::backend) fn of(asked: &Asked, tenant: Option<&Tenant>) -> Self {
        Self(Id::hashed(&("denied", Holder::of(&asked.scope), Reference::of(&asked.secret), tenant.map(Tenant::as_str))))
    }
}

impl From<Denied> for String {
    fn from(denied: Denied) -> Self {
        denied.0.text()
    }
}

impl TryFrom<String> for Denied {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Id::parse(&text).map(Self).ok_or("is not an id")
    }
}

// === impl Place ===

impl Place {
    fn new(failover: &BackendName, tenant: Option<&Tenant>) -> Self {
        Self { failover: failover.to_string(), namespace: tenant.map(Tenant::to_string) }
    }

    /// Under which its page is kept.
    fn id(&self) -> String {
        [Some(&self.failover), self.namespace.as_ref()].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
    }
}

// === impl Page ===

impl Page {
    fn mark(&mut self) -> bool {
        !std::mem::replace(&mut self.is_marked, true)
    }

    fn is_empty(&self) -> bool {
        !self.is_marked && self.denied.is_empty()
    }
}

// === impl Ledger ===

impl Ledger {
    /// Reads what a former process has left.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(room: &Room) -> io::Result<Self> {
        let (mut ledger, mut count, mut unread) = (Self::default(), 0, None);
        room.visit(true, |path, content| {
            match content.and_then(|content| read(content.expose())) {
                Ok((place, page)) => {
                    count += 1 + page.denied.len();
                    if !room.is_newest(&place.id(), path) {
                        ledger.changed.insert(place.clone());
                    }
                    // There may be two of a place, by two keys.
                    let known = ledger.pages.entry(place).or_default();
                    known.is_marked |= page.is_marked;
                    known.denied.extend(page.denied);
                }
                Err(problem) => _ = unread.get_or_insert_with(|| format!("{} {problem}", path.display())),
            }
            if count > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if count > MOST {
            (ledger, unread) = (Self::default(), Some(format!("there are more than {MOST}")));
        }
        // What was renamed just before a kill may not be there after a power cut.
        if !ledger.pages.is_empty() {
            room.sync()?;
        }
        let before = "an earlier start could not read all of them".to_owned();
        if let Some(problem) = unread.or_else(|| ledger.pages.contains_key(&Place::default()).then_some(before)) {
            tracing::warn!(
                problem,
                folder = %room.dir().display(),
                "not all sealed denials can be read: while the first member of a failover is out, Keyferry asks the second only for what the first has answered since this start (to start with an empty table, stop the daemon, remove the folder, start the daemon)"
            );
            ledger.change(Place::default(), Page::mark);
        }
        Ok(ledger)
    }

    fn change(&mut self, place: Place, change: impl FnOnce(&mut Page) -> bool) -> bool {
        let page = self.pages.entry(place.clone()).or_default();
        let has_changed = change(page);
        if page.is_empty() {
            self.pages.remove(&place);
        }
        if has_changed {
            self.changed.insert(place);
        }
        has_changed
    }

    /// Of failovers that are not these, nothing stays. Whether there was something.
    fn retain(&mut self, in_force: &[&BackendName]) -> bool {
        let is_gone = |place: &&Place| **place != Place::default() && !in_force.iter().any(|failover| failover.as_str() == place.failover);
        let gone: Vec<Place> = self.pages.keys().filter(is_gone).cloned().collect();
        for place in &gone {
            self.pages.remove(place);
        }
        self.changed.extend(gone.iter().cloned());
        !gone.is_empty()
    }

    fn left(&self, failover: &BackendName) -> Left {
        let mut left = Left { all: self.pages.contains_key(&Place::default()), ..Left::default() };
        for (place, page) in self.pages.iter().filter(|(place, _)| place.failover == failover.as_str()) {
            let Some(namespace) = &place.namespace else {
                left.all |= page.is_marked;
                continue;
            };
            let tenant = Tenant::from(namespace.as_str());
            left.denied.extend(page.denied.iter().map(|(denied, pod)| (tenant.clone(), *denied, pod.clone())));
            left.marked.extend(Some(tenant).filter(|_| page.is_marked));
        }
        left
    }

    /// Whether something is of one Pod alone.
    pub fn has_pods(&self) -> bool {
        self.pages.values().any(|page| page.denied.values().any(Option::is_some))
    }

    /// What is of other Pods than these is needed no more.
    pub fn retain_pods(&mut self, pods: &HashSet<String>) {
        let places: Vec<Place> = self.pages.keys().cloned().collect();
        for place in places {
            self.change(place, |page| {
                let before = page.denied.len();
                page.denied.retain(|_, pod| pod.as_ref().is_none_or(|pod| pods.contains(&**pod)));
                page.denied.len() < before
            });
        }
    }

    // --- the writer's ---

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    pub fn changes(&mut self) -> Pages {
        let content = |place: Place| {
            let page = self.pages.get(&place).map(|page| serde_json::to_vec(&(FORMAT, &place, page)).unwrap_or_default());
            (place, page)
        };
        Pages(self.changed.drain().map(content).collect())
    }

    /// What could not be written is to be written again, as it is by then.
    pub fn again(&mut self, pages: Pages) {
        self.changed.extend(pages.0.into_iter().map(|(place, _)| place));
    }
}

impl Pages {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns once what is new would outlast a power cut.
    pub fn write(&self, room: &Room) -> io::Result<()> {
        let written = self.0.iter().filter_map(|(place, page)| Some((place, page.as_ref()?)));
        // What is said of all comes first: what a namespace's own page lost may hang on it.
        let (of_all, own): (Vec<_>, Vec<_>) = written.partition(|(place, _)| place.namespace.is_none());
        for part in [of_all, own].iter().filter(|part| !part.is_empty()) {
            part.iter().try_for_each(|(place, page)| room.write(&place.id(), page))?;
            room.sync()?;
        }
        self.0.iter().filter(|(_, page)| page.is_none()).try_for_each(|(place, _)| room.remove(&place.id()))
    }
}

fn read(content: &[u8]) -> Result<(Place, Page), String> {
    let (format, place, page) = serde_json::from_slice::<(u8, Place, Page)>(content).map_err(|error| error.to_string())?;
    if format == FORMAT { Ok((place, page)) } else { Err(format!("has format {format}, and this version reads {FORMAT}")) }
}

// === impl Archive ===

impl Archive {
    /// The part of this failover.
    pub(in crate::backend) fn denials(self: &Arc<Self>, failover: &BackendName) -> Section {
        Section { archive: Arc::clone(self), failover: failover.clone() }
    }

    /// Of failovers that are not these, no denial stays.
    pub(in crate::backend) fn retain_denials(&self, in_force: &[&BackendName]) -> Ticket {
        let mut state = self.shared.lock();
        if state.ledger.retain(in_force) {
            state.ledger.ticket = state.index.next();
        }
        let ticket = state.ledger.ticket;
        drop(state);
        self.shared.wake();
        ticket
    }
}

// === impl Section ===

impl Section {
    pub(in crate::backend) fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    pub(in crate::backend) fn left(&self) -> Left {
        let state = self.archive.shared.lock();
        let left = state.ledger.left(&self.failover);
        // What could not be written may have been any denial, too.
        Left { all: left.all || state.fault.is_some(), ..left }
    }

    /// By then the disk has all that was told so far.
    pub(in crate::backend) fn ticket(&self) -> Ticket {
        self.archive.shared.lock().ledger.ticket
    }

    /// `pod`: whose alone the request is.
    pub(in crate::backend) fn denied(&self, tenant: &Tenant, denied: Denied, pod: Option<&Arc<str>>) -> Ticket {
        self.change(Some(tenant), |page| {
            let pod = pod.cloned();
            page.denied.insert(denied, pod.clone()) != Some(pod)
        })
    }

    /// It was answered well, or is kept no longer.
    pub(in crate::backend) fn forgotten(&self, tenant: &Tenant, denied: Denied) {
        self.change(Some(tenant), |page| page.denied.remove(&denied).is_some());
    }

    /// This tenant, or all, had more denials than are kept.
    pub(in crate::backend) fn marked(&self, tenant: Option<&Tenant>) -> Ticket {
        self.change(tenant, Page::mark)
    }

    fn change(&self, tenant: Option<&Tenant>, change: impl FnOnce(&mut Page) -> bool) -> Ticket {
        let mut state = self.archive.shared.lock();
        let has_changed = state.ledger.change(Place::new(&self.failover, tenant), change);
        if has_changed {
            state.ledger.ticket = state.index.next();
        }
        let ticket = state.ledger.ticket;
        drop(state);
        if has_changed {
            self.archive.shared.wake();
        }
        ticket
    }
}
