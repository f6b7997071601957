//! The answers of one backend that are kept, and when each of them goes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::door::{Door, Doors};
use super::rule::Rule;
use crate::backend::stack::asked::Asked;
use crate::backend::sweep::{Sweeping, Swept};
use crate::backend::{BackendError, CacheConfig, Fault, Scope};
use crate::clock::Clock;
use crate::model::{BackendName, Fetched, Login, PodIdentity, Secret, SecretRef, Source};
use crate::shelf;
use crate::telemetry::CacheCounters;

/// What is kept, bounded by bytes and time. It may outlive its stack: a reload that changes neither the store nor its login goes on with it.
pub(in crate::backend) struct Table {
    /// Shared by the tenants that asked first for them.
    answers: shelf::Kept<Asked, Arc<Kept>>,
    asking: Mutex<Asking>,
    /// Of this process alone: no two nodes cast the same dice.
    dice: RandomState,
    sweeping: Sweeping,
    clock: Arc<dyn Clock>,
    pub(super) counters: CacheCounters,
    /// The rule that a test has switched off, to see that somebody notices.
    #[cfg(test)]
    off: Mutex<Option<Rule>>,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    asked: Asked,
    pub(super) answer: Arc<Secret>,
    pub(super) by: BackendName,
    /// When the store was asked: the answer is no newer than that.
    pub(super) since: Instant,
    /// The same by the clock of the wall.
    at: Timestamp,
    /// Until then it is fresh.
    pub(super) until: Instant,
    /// And until then it may serve while the store is out.
    stale_until: Instant,
    /// For whom it was asked: what policy has to say of it, it says of this one's ServiceAccount.
    pod: Arc<PodIdentity>,
    door: Arc<Door>,
}

/// What is known of requests that are on their way: what the store says to one of them holds for the others, too.
struct Asking {
    under_way: HashMap<Asked, UnderWay>,
    doors: Doors,
    /// Counts what happens, so that it can be told what came first.
    moment: Moment,
    /// When policy or the configuration changed.
    reviewed: Moment,
    /// By the configuration in force.
    times: CacheConfig,
}

/// Whether policy allows each of these secrets to this Pod's ServiceAccount.
pub(in crate::backend) type Judge<'j> = dyn Fn(&Arc<PodIdentity>, &[&SecretRef]) -> Vec<bool> + 'j;

/// Answers by the namespace and the name of the ServiceAccount that each was asked for.
type ByAccount = HashMap<(Arc<str>, Arc<str>), Vec<Arc<Kept>>>;

/// A place in the order of what happens to a table.
pub(super) type Moment = u64;

/// Equal requests on their way.
struct UnderWay {
    many: usize,
    /// When the store last said no to it, or its Pod was gone. An answer that was asked for before that and comes after it is not kept: it
    /// would bring back what was withdrawn.
    refused: Moment,
}

/// One request, from before the store is asked until its answer is taken up.
pub(super) struct Question {
    table: Arc<Table>,
    asked: Asked,
    since: Instant,
    at: Timestamp,
    begun: Moment,
    pod: Arc<PodIdentity>,
    door: Arc<Door>,
}

// === impl Table ===

impl Table {
    /// For answers that weigh so many bytes together, and serve for so long.
    pub(in crate::backend) fn new(bytes: usize, times: CacheConfig, counters: CacheCounters, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (under_way, doors) = (HashMap::new(), Doors::default());
        Arc::new(Self {
            answers: shelf::Kept::of_bytes(bytes),
            asking: Mutex::new(Asking { under_way, doors, moment: 0, reviewed: 0, times }),
            dice: RandomState::new(),
            sweeping: Sweeping::default(),
            clock,
            counters,
            #[cfg(test)]
            off: Mutex::default(),
        })
    }

    /// An answer whose time is not over and that is younger than the `bound`; it counts as a hit.
    pub(super) fn find(&self, asked: &Asked, bound: Option<Duration>) -> Option<Arc<Kept>> {
        let kept = self.answers.find(asked)?;
        let now = Instant::now();
        if kept.until <= now || bound.is_some_and(|bound| now.duration_since(kept.since) >= bound) {
            return None;
        }
        self.counters.hits.inc();
        Some(kept)
    }

    /// The last good answer and its age, which is less than the `bound`; none while its login is refused.
    pub(super) fn find_stale(&self, asked: &Asked, bound: Duration) -> Option<(Arc<Kept>, Duration)> {
        let kept = self.answers.find(asked)?;
        let age = self.age(&kept);
        let is_young = age < bound || !self.holds(Rule::Bound);
        let may_serve = is_young && (kept.door.is_open() || !self.holds(Rule::Login));
        may_serve.then_some((kept, age))
    }

    /// Whether there is an answer that could serve while the store is out.
    pub(in crate::backend) fn can_serve(&self) -> bool {
        let now = Instant::now();
        let is_young = |kept: &Kept| now + self.age(kept).saturating_sub(kept.since.elapsed()) < kept.stale_until;
        self.answers.all().iter().any(|kept| is_young(kept) && kept.door.is_open())
    }

    /// The store is about to be asked for this Pod.
    pub(super) fn ask(self: &Arc<Self>, asked: Asked, pod: &Arc<PodIdentity>) -> Question {
        let mut asking = self.lock();
        let begun = asking.next();
        asking.under_way.entry(asked.clone()).or_insert(UnderWay { many: 0, refused: 0 }).many += 1;
        let door = asking.doors.of(&asked.scope, &asked.secret.login);
        drop(asking);
        Question { table: Arc::clone(self), asked, since: Instant::now(), at: self.clock.now(), begun, pod: Arc::clone(pod), door }
    }

    /// A login was refused for a request that is not kept.
    pub(super) fn shut(&self, scope: &Scope, login: &Login) {
        let mut asking = self.lock();
        let now = asking.next();
        if let Some(door) = asking.doors.find(scope, login) {
            door.shut(now);
        }
    }

    /// The Pod is gone: so are the answers for it alone.
    pub(super) fn forget(&self, pod: &str) {
        if !self.holds(Rule::Pod) {
            return;
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
    }

    /// Another configuration is in force. What its policy does not allow any more to the ServiceAccount that it was asked for goes; and what is
    /// on its way is not kept, since it was allowed by the policy of before. Where an answer is fresh for another time than it was, none is.
    ///
    /// An answer that several ServiceAccounts share is judged for the one that the store last answered: it goes though others may still have
    /// it, and never stays when nobody may. To be given it, each needs a permit of its own in any case.
    pub(in crate::backend) fn review(&self, bytes: usize, times: CacheConfig, allows: &Judge<'_>) {
        let before = {
            let mut asking = self.lock();
            asking.reviewed = asking.next();
            std::mem::replace(&mut asking.times, times)
        };
        self.counters.evicted("full", self.answers.resize(bytes));
        // Policy decides without a lock: there may be many answers, and many rules.
        let mut accounts = ByAccount::new();
        for kept in self.answers.all() {
            if before != times {
                let _asking = self.lock();
                // The store may have said no to it meanwhile, or something newer.
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
            let gone = denied.into_iter().filter(|asked| self.answers.remove(asked)).count();
            self.counters.evicted("policy", gone);
        }
    }

    /// Takes up what became of a question.
    fn take_up(self: &Arc<Self>, question: &Question, answer: &Result<Fetched, BackendError>, times: CacheConfig) {
        let mut asking = self.lock();
        let asked = &question.asked;
        match answer {
            Ok(fetched) => {
                question.door.open(question.begun);
                match may_be_kept(fetched) {
                    true if asking.may_keep(question) || !self.holds(Rule::UnderWay) => self.keep(question, fetched, times),
                    true => {}
                    // From now on its answers are each Pod's own.
                    false => _ = self.answers.remove(asked),
                }
            }
            Err(error) => match error.fault {
                Fault::Denied | Fault::NotFound => {
                    question.door.open(question.begun);
                    let rule = if error.fault == Fault::Denied { Rule::Denied } else { Rule::NotFound };
                    if self.holds(rule) {
                        asking.refuse(asked);
                        let removed = self.answers.remove(asked);
                        self.counters.evicted(error.fault.as_str(), removed.into());
                    }
                }
                Fault::Unauthenticated => {
                    let now = asking.refuse(asked);
                    question.door.shut(now);
                    if let Some(kept) = self.answers.find(asked) {
                        self.limit(&kept, true, times.stale);
                        self.counters.evicted(error.fault.as_str(), 1);
                    }
                }
                Fault::Corrupt
                | Fault::Down
                | Fault::Invalid
                | Fault::NoTurn
                | Fault::Short
                | Fault::Throttled
                | Fault::TimedOut
                | Fault::TooLarge
                | Fault::Unavailable
                | Fault::Unhelpful
                | Fault::Unsupported => {}
            },
        }
    }

    /// Under the lock: either it sees a refusal, or the refusal sees the answer.
    fn keep(self: &Arc<Self>, question: &Question, fetched: &Fetched, times: CacheConfig) {
        let Question { asked, pod, door, at, .. } = question;
        let since = if self.holds(Rule::Since) { question.since } else { Instant::now() };
        let (until, stale_until) = (since + self.lifetime(since, times.fresh), since + times.stale);
        // Two may be under way at once, where one waited for longer than another could: the younger word counts.
        let newer = self.answers.find(asked).is_some_and(|known| known.since > since);
        let kept = Kept {
            asked: asked.clone(),
            answer: Arc::clone(&fetched.secret),
            by: fetched.by.clone(),
            since,
            at: *at,
            until,
            stale_until,
            pod: Arc::clone(pod),
            door: Arc::clone(door),
        };
        let ends = kept.ends();
        if !newer && ends > Instant::now() {
            self.put(kept);
            self.sweeping.watch(self, ends);
        }
    }

    fn put(&self, kept: Kept) {
        let (asked, weight, tenant) = (kept.asked.clone(), kept.weight(), Arc::clone(&kept.pod.namespace));
        self.counters.evicted("full", self.answers.keep(&tenant, asked, Arc::new(kept), weight));
    }

    /// Serves while the store is out for no longer than this; with `spent` it is fresh no more.
    fn limit(&self, kept: &Kept, spent: bool, stale: Duration) {
        let now = Instant::now();
        let until = if spent { now.min(kept.until) } else { kept.until };
        let limited = Kept { until, stale_until: kept.stale_until.min(kept.since + stale), ..kept.clone() };
        if limited.ends() <= now {
            self.answers.remove(&kept.asked);
        } else {
            self.put(limited);
        }
    }

    /// By the clock that tells more: the monotonic one does not run while the machine sleeps, and the other one may be set back.
    fn age(&self, kept: &Kept) -> Duration {
        let by_wall = self.clock.now().duration_since(kept.at);
        kept.since.elapsed().max(Duration::try_from(by_wall).unwrap_or_default())
    }

    /// Between three quarters of `fresh` and the whole of it.
    fn lifetime(&self, since: Instant, fresh: Duration) -> Duration {
        let dice = u32::try_from(self.dice.hash_one(since) % 1_000).unwrap_or(0);
        fresh.saturating_sub(fresh / 4_000 * dice)
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // a test's table may say otherwise
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

    /// Bytes that are kept now.
    #[cfg(test)]
    pub(in crate::backend) fn weight(&self) -> usize {
        self.answers.weight()
    }
}

/// What another cache has kept is as old as that says; what has a lease is one Pod's.
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
            let stays = ends > now;
            if stays {
                next = Some(next.map_or(ends, |next: Instant| next.min(ends)));
            }
            gone += usize::from(!stays);
            stays
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
    /// About what it costs to keep.
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

    /// The store has said no to a request: what is on its way of it was asked for before that.
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
    pub(super) fn answered(self, answer: &Result<Fetched, BackendError>, times: CacheConfig) {
        self.table.take_up(&self, answer, times);
    }
}

/// Whether it was answered, or whoever asked is gone.
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
