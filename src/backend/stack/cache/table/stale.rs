//! What is given while a store is out, from memory and from the disk. This is apart from when answers are added and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

use super::{Kept, LOOK, Table};
use crate::backend::FetchContext;
use crate::backend::stack::asked::Asked;
use crate::backend::stack::cache::archive::{Answer, Drawer, Ticket};
use crate::backend::stack::cache::rule::Rule;

/// How long memory keeps an answer that nobody asks for and that the disk also has.
const IDLE: Duration = Duration::from_mins(10);

impl Table {
    /// The last good answer in memory and its age, which is below the `bound`; none while its login is refused.
    pub(in crate::backend::stack::cache) fn find_stale(&self, asked: &Asked, bound: Duration) -> Option<(Arc<Kept>, Duration)> {
        let kept = self.answers.find(asked)?;
        let age = kept.since.age(self.clock.now());
        let is_young = age < bound || !self.holds(Rule::Bound);
        let is_wiped = self.drawer.as_ref().is_some_and(|drawer| drawer.is_wiped(&asked.secret, kept.since.at));
        let may_serve = is_young && !is_wiped && (kept.door.is_open() || !self.holds(Rule::Login));
        may_serve.then_some((kept, age))
    }

    /// The age of the answer that would be given, from memory or from the disk. No answer is read for this.
    pub(in crate::backend::stack::cache) async fn stale_age(&self, asked: &Asked, bound: Duration, cx: &FetchContext) -> Option<Duration> {
        let in_memory = || self.find_stale(asked, bound).map(|(_, age)| age);
        let Some(drawer) = &self.drawer else { return in_memory() };
        if !drawer.knows_wipes(cx.tenant().as_str(), cx.deadline).await {
            return None;
        }
        if self.answers.find(asked).is_some() {
            return in_memory();
        }
        drawer.age(asked, bound, cx.deadline).await
    }

    /// The answer for an outage. It comes from the disk if memory has none.
    pub(in crate::backend::stack::cache) async fn serve_stale(
        self: &Arc<Self>,
        asked: &Asked,
        bound: Duration,
        cx: &FetchContext,
    ) -> Option<(Arc<Kept>, Duration)> {
        let Some(drawer) = &self.drawer else { return self.find_stale(asked, bound) };
        let tenant = cx.tenant();
        if !drawer.knows_wipes(tenant.as_str(), cx.deadline).await {
            return None;
        }
        if self.answers.find(asked).is_some() {
            let found = self.find_stale(asked, bound)?;
            self.used(&found.0, Instant::now());
            return Some(found);
        }
        let answer = drawer.read(asked, bound, tenant.as_str(), cx.deadline).await?;
        self.recall(drawer, answer, bound)
    }

    /// The same without waiting: an answer in memory, if nothing must be read before it is given.
    pub(in crate::backend::stack::cache) fn recall_stale(&self, asked: &Asked, bound: Duration) -> Option<(Arc<Kept>, Duration)> {
        if self.drawer.as_ref().is_some_and(|drawer| !drawer.has_wipes()) {
            return None;
        }
        let found = self.find_stale(asked, bound)?;
        self.used(&found.0, Instant::now());
        Some(found)
    }

    /// Until when an answer was fresh that seems to be there and could be given. An answer on the disk is not fresh any more.
    pub(in crate::backend::stack::cache) fn has_stale(&self, asked: &Asked, bound: Duration) -> Option<Instant> {
        if self.answers.find(asked).is_some() {
            return self.find_stale(asked, bound).map(|(kept, _)| kept.until);
        }
        let drawer = self.drawer.as_ref()?;
        drawer.could_serve(asked, bound).then_some(self.began)
    }

    /// Whether there certainly is an answer that could be given. Nothing on the disk is known before all of it is read.
    pub(in crate::backend::stack::cache) fn keeps(&self, asked: &Asked, bound: Duration) -> bool {
        if self.answers.find(asked).is_some() {
            return self.find_stale(asked, bound).is_some();
        }
        self.drawer.as_ref().is_some_and(|drawer| drawer.has_servable(asked, bound))
    }

    /// Puts an answer from the disk into memory, unless it was revoked while it was read.
    fn recall(self: &Arc<Self>, drawer: &Drawer, answer: Answer, bound: Duration) -> Option<(Arc<Kept>, Duration)> {
        let mut asking = self.lock();
        if let Some(known) = self.answers.find(&answer.asked) {
            drop(asking);
            return self.find_stale(&known.asked, bound);
        }
        if !drawer.still_has(&answer, bound) {
            return None;
        }
        let stale = asking.times.stale.min(answer.bound);
        let door = self.door(&mut asking, &answer.asked);
        let Answer { asked, secret, by, since, pod, .. } = answer;
        let kept = Kept {
            asked,
            answer: secret,
            by,
            since,
            used: Arc::new(AtomicU64::new(self.moment(Instant::now()))),
            until: self.began,
            stale_until: since.plus(stale),
            pod,
            door,
        };
        self.put(kept.clone());
        drop(asking);
        self.sweeping.watch(self, Instant::now() + LOOK);
        Some((Arc::new(kept), since.age(self.clock.now())))
    }

    /// Waits until what was revoked is also gone from the disk.
    pub(in crate::backend::stack::cache) async fn settled(&self, ticket: Ticket, deadline: Instant) {
        if let Some(drawer) = &self.drawer {
            drawer.archive().settled(ticket, deadline).await;
        }
    }

    /// An answer that may be given while the store is out must also be on the disk.
    pub(super) fn seal(&self, kept: &Kept, stale: Duration, former: Option<&Kept>) -> Ticket {
        let Some(drawer) = self.drawer.as_ref().filter(|_| !stale.is_zero()) else { return 0 };
        let Kept { asked, answer, by, since, pod, door, .. } = kept;
        let same = former.filter(|former| former.answer.is_as(answer)).map(|former| former.since);
        let (asked, secret, by, pod) = (asked.clone(), Arc::clone(answer), by.clone(), Arc::clone(pod));
        drawer.put(Answer { asked, secret, by, since: *since, bound: stale, pod }, same);
        // Its login was refused after this was asked.
        if door.is_open() { 0 } else { self.mark(&kept.asked.scope, &kept.asked.secret.login) }
    }

    /// Whether there is an answer that could be given while the store is out.
    pub(in crate::backend) fn can_serve(&self) -> bool {
        let (now, wall) = (Instant::now(), self.clock.now());
        let is_young = |kept: &Kept| now + kept.since.age(wall).saturating_sub(kept.since.elapsed()) < kept.stale_until;
        let stale = self.lock().times.stale;
        self.answers.all().iter().any(|kept| is_young(kept) && kept.door.is_open())
            || self.drawer.as_ref().is_some_and(|drawer| drawer.can_serve(stale))
    }

    /// Its part of the sealed folder, if that may have answers.
    pub(in crate::backend) fn drawer(&self) -> Option<&Drawer> {
        self.drawer.as_ref()
    }

    pub(super) fn used(&self, kept: &Kept, now: Instant) {
        if self.drawer.is_some() {
            kept.used.store(self.moment(now), Ordering::Relaxed);
        }
    }

    pub(super) fn moment(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// When memory may drop it. `None`: only memory has it.
    pub(super) fn idle(&self, kept: &Kept) -> Option<Instant> {
        self.drawer.as_ref()?;
        let used = self.began + Duration::from_millis(kept.used.load(Ordering::Relaxed));
        Some(kept.until.max(used + IDLE))
    }
}
