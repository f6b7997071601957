//! What the first members of failovers have denied, over restarts: one sealed file per failover and namespace. If a daemon starts while the first
//! member is out, it does not ask the second for what was denied before.
//!
//! The failovers limit how much there is: they keep the same in memory, limited and shared by tenants, and report each change here.

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

/// The most denials that are read at a start. If there are more, it is as if everything was denied: Keyferry asks no second member for anything
/// that the first has not answered.
const MOST: usize = if cfg!(test) { 256 } else { 65_536 };

/// Increase it when [`Denied::of`] gives other ids. Ids of another format mean nothing here, and count as not read.
const FORMAT: u8 = 1;

/// The denials of all failovers.
#[derive(Default)]
pub(super) struct Ledger {
    pages: HashMap<Place, Page>,
    /// Pages to write, or to remove if a page says nothing any more.
    changed: HashSet<Place>,
    /// When the writer has come so far, the disk has everything that is here.
    ticket: Ticket,
}

/// The owner of a page.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
struct Place {
    /// Empty: the page is for all failovers.
    failover: String,
    /// `None`: the page is for all namespaces.
    namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Page {
    /// Whether there were more denials than can be kept. Then everything that was not answered well since counts as denied.
    is_marked: bool,
    /// Each denial with the only Pod that it is for, if there is one.
    denied: HashMap<Denied, Option<Arc<str>>>,
}

/// A request that was denied. It does not reveal the secret's name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub(in crate::backend) struct Denied(Id);

/// The work of one round: nothing is removed before the rest is written.
pub(super) struct Pages(Vec<(Place, Option<Vec<u8>>)>);

/// One failover's part.
#[derive(Clone)]
pub(in crate::backend) struct Section {
    archive: Arc<Archive>,
    failover: BackendName,
}

/// What a former process or a former configuration has left of a failover.
#[derive(Debug, Default)]
pub(in crate::backend) struct Left {
    pub denied: Vec<(Tenant, Denied, Option<Arc<str>>)>,
    pub marked: Vec<Tenant>,
    /// Whether all are marked.
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

    /// The id under which its page is kept.
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
                    // There may be two pages of one place, written with two keys.
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
        // What was renamed just before a kill may be missing after a power cut.
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

    /// Removes the pages of other failovers. Returns whether there were any.
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

    /// Whether some denial is for one Pod only.
    pub fn has_pods(&self) -> bool {
        self.pages.values().any(|page| page.denied.values().any(Option::is_some))
    }

    /// Removes the denials of other Pods.
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

    // --- for the writer ---

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

    /// What could not be written must be written again, in the state that it has then.
    pub fn again(&mut self, pages: Pages) {
        self.changed.extend(pages.0.into_iter().map(|(place, _)| place));
    }
}

impl Pages {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns when the new pages would survive a power cut.
    pub fn write(&self, room: &Room) -> io::Result<()> {
        let written = self.0.iter().filter_map(|(place, page)| Some((place, page.as_ref()?)));
        // Pages for all namespaces come first, because the page of one namespace may depend on them.
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

    /// Removes the denials of other failovers.
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
        // Any denial may be among those that could not be written.
        Left { all: left.all || state.fault.is_some(), ..left }
    }

    /// When the writer has come so far, the disk has everything that was reported up to now.
    pub(in crate::backend) fn ticket(&self) -> Ticket {
        self.archive.shared.lock().ledger.ticket
    }

    /// `pod`: the only Pod that the request is for.
    pub(in crate::backend) fn denied(&self, tenant: &Tenant, denied: Denied, pod: Option<&Arc<str>>) -> Ticket {
        self.change(Some(tenant), |page| {
            let pod = pod.cloned();
            page.denied.insert(denied, pod.clone()) != Some(pod)
        })
    }

    /// It was answered well, or is no longer kept.
    pub(in crate::backend) fn forgotten(&self, tenant: &Tenant, denied: Denied) {
        self.change(Some(tenant), |page| page.denied.remove(&denied).is_some());
    }

    /// This tenant, or all tenants, had more denials than can be kept.
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
