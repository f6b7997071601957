//! The answers of one backend that are kept, and when each of them is removed.

mod stale;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::sync::atomic::AtomicU64;

use tokio::time::{Duration, Instant};

use super::archive::{Drawer, Ticket};
use super::door::{Door, Doors};
use super::rule::Rule;
use super::since::Since;
use crate::backend::stack::asked::Asked;
use crate::backend::sweep::{Sweeping, Swept};
use crate::backend::{BackendError, CacheConfig, Fault, Scope};
use crate::clock::Clock;
use crate::model::{BackendName, Fetched, Login, PodIdentity, Secret, SecretRef, Source};
use crate::shelf;
use crate::telemetry::CacheCounters;

/// How often to check whether the disk has answers that memory could drop.
const LOOK: Duration = Duration::from_mins(1);

/// The moment of a login's refusal that a former process has marked: before all requests of this process.
const SHUT_BEFORE: Moment = 1;

/// The kept answers, limited by bytes and time. It may outlive its stack: if a reload changes neither the store nor its login, the table goes on.
pub(in crate::backend) struct Table {
    /// Each answer counts for the tenant that asked for it first.
    answers: shelf::Kept<Asked, Arc<Kept>>,
    asking: Mutex<Asking>,
    /// Of this process only, so that two nodes choose different random numbers.
    dice: RandomState,
    sweeping: Sweeping,
    clock: Arc<dyn Clock>,
    pub(super) counters: CacheCounters,
    /// Its part of the sealed folder; `None`: only in memory.
    drawer: Option<Drawer>,
    refusals: Refusals,
    /// Times of use are counted from here.
    began: Instant,
    /// The rule that a test has switched off, to see that the model notices.
    #[cfg(test)]
    off: Mutex<Option<Rule>>,
}

/// What it means when a store does not accept a login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Refusals {
    /// There is a login apart from the requests, and it was refused.
    OfLogin,
    /// The login is a part of each request. If all tenants have the same one, one of them could name a path that always refuses it.
    OfRequest,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    asked: Asked,
    pub(super) answer: Arc<Secret>,
    pub(super) by: BackendName,
    /// When the store was asked: the answer is not newer than that.
    pub(super) since: Since,
    /// When it was last looked for, in milliseconds since the table began.
    used: Arc<AtomicU64>,
    /// It is fresh until then.
    pub(super) until: Instant,
    /// It may be given until then while the store is out.
    stale_until: Instant,
    /// The Pod for which the store was asked. Policy judges the answer for the ServiceAccount of this Pod.
    pod: Arc<PodIdentity>,
    door: Arc<Door>,
}

/// What is known about requests under way: what the store says to one of them also holds for the others.
struct Asking {
    under_way: HashMap<Asked, UnderWay>,
    doors: Doors,
    /// Counts events, so that it is known which came first.
    moment: Moment,
    /// When policy or the configuration changed.
    reviewed: Moment,
    /// The times of the current configuration.
    times: CacheConfig,
}

/// Whether policy allows each of these secrets to this Pod's ServiceAccount.
pub(in crate::backend) type Judge<'j> = dyn Fn(&Arc<PodIdentity>, &[&SecretRef]) -> Vec<bool> + 'j;

/// Answers by the namespace and the name of the ServiceAccount for which the store was asked.
type ByAccount = HashMap<(Arc<str>, Arc<str>), Vec<Arc<Kept>>>;

/// A place in the order of a table's events.
pub(super) type Moment = u64;

/// Equal requests under way.
struct UnderWay {
    many: usize,
    /// When the store last denied it, or its Pod went. If a request began before that and its answer comes after it, the answer is not kept: it
    /// would bring back what was revoked.
    refused: Moment,
}

/// One request, from before the store is asked until its answer is processed.
pub(super) struct Question {
    table: Arc<Table>,
    asked: Asked,
    since: Since,
    begun: Moment,
    pod: Arc<PodIdentity>,
    door: Arc<Door>,
}

// === impl Table ===

impl Table {
    /// For answers with this total weight, and these times.
    #[cfg(test)]
    pub(in crate::backend) fn new(bytes: usize, times: CacheConfig, counters: CacheCounters, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(bytes, times, counters, clock, (None, Refusals::OfLogin))
    }

    /// The same with a part of the sealed folder, and for a store of this kind.
    pub(in crate::backend) fn with(
        bytes: usize,
        times: CacheConfig,
        counters: CacheCounters,
        clock: Arc<dyn Clock>,
        (drawer, refusals): (Option<Drawer>, Refusals),
    ) -> Arc<Self> {
        let (under_way, doors) = (HashMap::new(), Doors::default());
        Arc::new(Self {
            answers: shelf::Kept::of_bytes(bytes),
            asking: Mutex::new(Asking { under_way, doors, moment: SHUT_BEFORE, reviewed: 0, times }),
            dice: RandomState::new(),
            sweeping: Sweeping::default(),
            clock,
            counters,
            drawer,
            refusals,
            began: Instant::now(),
            #[cfg(test)]
            off: Mutex::default(),
        })
    }

    /// An answer that is fresh and younger than the `bound`; it counts as a hit.
    pub(super) fn find(&self, asked: &Asked, bound: Option<Duration>, now: Instant) -> Option<Arc<Kept>> {
        let kept = self.answers.find(asked)?;
        if kept.until <= now || bound.is_some_and(|bound| kept.since.at(now) >= bound) {
            return None;
        }
        self.used(&kept, now);
        self.counters.hits.inc();
        Some(kept)
    }

    /// The login of a request. It is shut if a former process has marked it as refused.
    fn door(&self, asking: &mut Asking, asked: &Asked) -> Arc<Door> {
        let (scope, login) = (&asked.scope, &asked.secret.login);
        if let Some(door) = asking.doors.find(scope, login) {
            return door;
        }
        let door = asking.doors.of(scope, login);
        if self.drawer.as_ref().is_some_and(|drawer| drawer.is_shut(scope, login)) {
            door.shut(SHUT_BEFORE);
        }
        door
    }

    /// The store is about to be asked for this Pod.
    pub(super) fn ask(self: &Arc<Self>, asked: Asked, pod: &Arc<PodIdentity>) -> Question {
        let mut asking = self.lock();
        let begun = asking.next();
        asking.under_way.entry(asked.clone()).or_insert(UnderWay { many: 0, refused: 0 }).many += 1;
        let door = self.door(&mut asking, &asked);
        drop(asking);
        Question { table: Arc::clone(self), asked, since: Since::now(self.clock.now()), begun, pod: Arc::clone(pod), door }
    }

    /// A login was refused for a request whose answer is not kept.
    pub(super) fn shut(&self, scope: &Scope, login: &Login) -> Ticket {
        let mut asking = self.lock();
        let now = asking.next();
        if let Some(door) = asking.doors.find(scope, login) {
            door.shut(now);
        }
        self.mark(scope, login)
    }

    /// A login is refused, and the next process must know it.
    fn mark(&self, scope: &Scope, login: &Login) -> Ticket {
        let drawer = self.drawer.as_ref().filter(|_| self.holds(Rule::Marked));
        drawer.map_or(0, |drawer| drawer.shut(scope, login))
    }

    /// The store has accepted a login for this request.
    fn open(&self, question: &Question) {
        if question.door.open(question.begun)
            && let Some(drawer) = &self.drawer
        {
            drawer.open(&question.asked.scope, &question.asked.secret.login);
        }
    }

    /// Removes an answer from memory and from the disk. Returns whether memory had it.
    fn remove(&self, asked: &Asked) -> (bool, Ticket) {
        let drawer = self.drawer.as_ref().filter(|_| self.holds(Rule::Unlinked));
        (self.answers.remove(asked), drawer.map_or(0, |drawer| drawer.remove(asked)))
    }

    /// The Pod is gone, so the answers that were only for it are removed.
    pub(super) fn forget(&self, pod: &str) -> Ticket {
        if !self.holds(Rule::Pod) {
            return 0;
        }
        let is_of_pod = |asked: &Asked| matches!(&asked.scope, Scope::Pod(uid) if **uid == *pod);
        let mut gone = 0;
        let mut asking = self.lock();
        let now = asking.next();
        asking.under_way.iter_mut().filter(|(asked, _)| is_of_pod(asked)).for_each(|(_, under_way)| under_way.refused = now);
        self.answers.retain(|kept| {
            let stays = !is_of_pod(&kept.asked);
            gone += usize::from(!stays);
            stays
        });
        self.counters.evicted("pod_gone", gone);
        self.drawer.as_ref().map_or(0, |drawer| drawer.forget(pod))
    }

    /// Another configuration applies. An answer is removed if the new policy no longer allows it to the ServiceAccount for which the store was
    /// asked. Answers to requests under way are not kept, because the former policy allowed them. If the time for which answers are fresh has
    /// changed, no answer is fresh.
    ///
    /// If several ServiceAccounts share an answer, it is judged for the one whose request the store last answered. So it may be removed although
    /// others may still have it, but it never stays when nobody may have it. In any case, each mount needs its own permit to get it.
    pub(in crate::backend) fn review(&self, bytes: usize, times: CacheConfig, allows: &Judge<'_>) -> Ticket {
        let before = {
            let mut asking = self.lock();
            asking.reviewed = asking.next();
            std::mem::replace(&mut asking.times, times)
        };
        self.counters.evicted("full", self.answers.resize(bytes));
        // Policy decides without the lock: there may be many answers, and many rules.
        let mut accounts = ByAccount::new();
        for kept in self.answers.all() {
            if before != times {
                let _asking = self.lock();
                // Meanwhile the store may have denied it, or given a newer answer.
                if self.answers.find(&kept.asked).is_some_and(|now| Arc::ptr_eq(&now, &kept)) {
                    self.limit(&kept, before.fresh != times.fresh, times.stale);
                }
            }
            let account = (Arc::clone(&kept.pod.namespace), Arc::clone(&kept.pod.service_account));
            accounts.entry(account).or_default().push(kept);
        }
        if before != times {
            self.sweeping.sooner();
        }
        let mut denied = HashSet::new();
        for kept in accounts.into_values() {
            let secrets: Vec<&SecretRef> = kept.iter().map(|kept| &kept.asked.secret).collect();
            let allowed = kept.first().map(|first| allows(&first.pod, &secrets)).unwrap_or_default();
            denied.extend(kept.iter().zip(allowed).filter(|(_, allowed)| !allowed).map(|(kept, _)| kept.asked.clone()));
        }
        if self.holds(Rule::Policy) {
            let gone = denied.iter().filter(|asked| self.answers.remove(*asked)).count();
            self.counters.evicted("policy", gone);
        }
        // The disk has everything that memory had, or will have it soon.
        let drawer = self.drawer.as_ref().filter(|_| self.holds(Rule::Policy));
        drawer.map_or(0, |drawer| drawer.review(times.stale, allows))
    }

    /// Processes the result of a request. What it removes is gone from the disk when the ticket is settled.
    fn take_up(self: &Arc<Self>, question: &Question, answer: &Result<Fetched, BackendError>, times: CacheConfig) -> Ticket {
        let mut asking = self.lock();
        let asked = &question.asked;
        match answer {
            Ok(fetched) => {
                self.open(question);
                match may_be_kept(fetched) {
                    true if asking.may_keep(question) || !self.holds(Rule::UnderWay) => self.keep(question, fetched, times),
                    true => 0,
                    // From now on each Pod has its own answers.
                    false => self.remove(asked).1,
                }
            }
            Err(error) => match error.fault {
                Fault::Denied | Fault::NotFound => {
                    // If each request contains the credential, the store may not have checked it yet.
                    if self.refusals == Refusals::OfLogin {
                        self.open(question);
                    }
                    let rule = if error.fault == Fault::Denied { Rule::Denied } else { Rule::NotFound };
                    if !self.holds(rule) {
                        return 0;
                    }
                    asking.refuse(asked);
                    let (removed, ticket) = self.remove(asked);
                    self.counters.evicted(error.fault.as_str(), removed.into());
                    ticket
                }
                Fault::Unauthenticated => {
                    let now = asking.refuse(asked);
                    if self.refusals == Refusals::OfRequest && asked.scope == Scope::Node {
                        return self.refused_by_path(question, now);
                    }
                    question.door.shut(now);
                    if let Some(kept) = self.answers.find(asked) {
                        self.limit(&kept, true, times.stale);
                        self.counters.evicted(error.fault.as_str(), 1);
                    }
                    self.mark(&asked.scope, &asked.secret.login)
                }
                Fault::Corrupt
                | Fault::Down
                | Fault::Invalid
                | Fault::NoLogin
                | Fault::NoTurn
                | Fault::Short
                | Fault::Throttled
                | Fault::TimedOut
                | Fault::TooLarge
                | Fault::Unavailable
                | Fault::Unhelpful
                | Fault::Unsupported => 0,
            },
        }
    }

    /// All tenants of a node have this login. So a refusal at one path first counts for that path alone, and its answer is removed.
    fn refused_by_path(&self, question: &Question, now: Moment) -> Ticket {
        let Question { asked, pod, door, .. } = question;
        let (removed, ticket) = self.remove(asked);
        self.counters.evicted(Fault::Unauthenticated.as_str(), removed.into());
        if door.doubt(now, &asked.secret, &Arc::clone(&pod.namespace).into()) {
            return ticket.max(self.mark(&asked.scope, &asked.secret.login));
        }
        ticket
    }

    /// Under the lock: either this sees a refusal, or the refusal sees the answer.
    fn keep(self: &Arc<Self>, question: &Question, fetched: &Fetched, times: CacheConfig) -> Ticket {
        let Question { asked, pod, door, .. } = question;
        let since = if self.holds(Rule::Since) { question.since } else { Since::now(self.clock.now()) };
        let until = since.begun + self.lifetime(since.begun, times.fresh);
        // Two requests may be under way at once, if one caller waited longer than another could: the newer answer counts.
        let former = self.answers.find(asked);
        if former.as_ref().is_some_and(|known| known.since.begun > since.begun) {
            return 0;
        }
        let kept = Kept {
            asked: asked.clone(),
            answer: Arc::clone(&fetched.secret),
            by: fetched.by.clone(),
            since,
            used: Arc::new(AtomicU64::new(self.moment(Instant::now()))),
            until,
            stale_until: since.plus(times.stale),
            pod: Arc::clone(pod),
            door: Arc::clone(door),
        };
        let ends = kept.ends();
        if ends > Instant::now() {
            let ticket = self.seal(&kept, times.stale, former.as_deref());
            let first = self.idle(&kept).map_or(ends, |idle| ends.min(idle));
            self.put(kept);
            self.sweeping.watch(self, first);
            return ticket;
        }
        0
    }

    fn put(&self, kept: Kept) {
        let (asked, weight, tenant) = (kept.asked.clone(), kept.weight(), Arc::clone(&kept.pod.namespace));
        self.counters.evicted("full", self.answers.keep(&tenant, asked, Arc::new(kept), weight));
    }

    /// While the store is out, it is given for no longer than this; with `spent` it is no longer fresh.
    fn limit(&self, kept: &Kept, spent: bool, stale: Duration) {
        let now = Instant::now();
        let until = if spent { now.min(kept.until) } else { kept.until };
        let limited = Kept { until, stale_until: kept.stale_until.min(kept.since.plus(stale)), ..kept.clone() };
        if limited.ends() <= now {
            self.answers.remove(&kept.asked);
        } else {
            self.put(limited);
        }
    }

    /// Between three quarters of `fresh` and all of it.
    fn lifetime(&self, since: Instant, fresh: Duration) -> Duration {
        let dice = u32::try_from(self.dice.hash_one(since) % 1_000).unwrap_or(0);
        fresh.saturating_sub(fresh / 4_000 * dice)
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // a test's table may differ
    pub(in crate::backend) const fn holds(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(in crate::backend) fn holds(&self, rule: Rule) -> bool {
        *self.off.lock().unwrap() != Some(rule)
    }

    #[cfg(test)]
    pub(in crate::backend) fn switch_off(&self, rule: Option<Rule>) {
        *self.off.lock().unwrap() = rule;
    }

    /// The bytes that are kept now.
    #[cfg(test)]
    pub(in crate::backend) fn weight(&self) -> usize {
        self.answers.weight()
    }
}

/// An answer from another cache is already as old as that cache says, and an answer with a lease is for one Pod only: neither is kept.
fn may_be_kept(fetched: &Fetched) -> bool {
    fetched.source == Source::Store && fetched.secret.lease.is_none()
}

impl Swept for Table {
    const SPACING: Duration = Duration::from_secs(5);

    fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let (mut next, mut gone) = (None, 0);
        self.answers.retain(|kept| {
            let ends = kept.ends();
            if ends <= now {
                gone += 1;
                return false;
            }
            // What the disk has is read from there when somebody asks for it again.
            let idle = self.idle(kept);
            if idle.is_some_and(|idle| idle <= now) && self.drawer.as_ref().is_some_and(|drawer| drawer.is_safe(&kept.asked, &kept.since)) {
                return false;
            }
            let then = idle.map_or(ends, |idle| ends.min(idle.max(now + LOOK)));
            next = Some(next.map_or(then, |next: Instant| next.min(then)));
            true
        });
        self.counters.evicted("expired", gone);
        next
    }

    fn sweeping(&self) -> &Sweeping {
        &self.sweeping
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

// === impl Kept ===

impl Kept {
    /// The approximate memory that it needs.
    fn weight(&self) -> usize {
        self.answer.weight() + self.asked.weight() + 1536
    }

    fn ends(&self) -> Instant {
        self.until.max(self.stale_until)
    }
}

// === impl Asking ===

impl Asking {
    fn next(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// The store has denied a request: all equal requests under way began before that.
    fn refuse(&mut self, asked: &Asked) -> Moment {
        let now = self.next();
        if let Some(under_way) = self.under_way.get_mut(asked) {
            under_way.refused = now;
        }
        now
    }

    fn may_keep(&self, question: &Question) -> bool {
        let refused = self.under_way.get(&question.asked).map_or(0, |under_way| under_way.refused);
        refused.max(self.reviewed) < question.begun
    }
}

// === impl Question ===

impl Question {
    pub(super) fn answered(self, answer: &Result<Fetched, BackendError>, times: CacheConfig) -> Ticket {
        self.table.take_up(&self, answer, times)
    }
}

/// It was answered, or its caller is gone.
impl Drop for Question {
    fn drop(&mut self) {
        let mut asking = self.table.lock();
        let Some(under_way) = asking.under_way.get_mut(&self.asked) else { return };
        under_way.many -= 1;
        if under_way.many == 0 {
            asking.under_way.remove(&self.asked);
        }
    }
}
