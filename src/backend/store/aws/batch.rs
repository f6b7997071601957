//! Batches: what is asked for at about the same time, as the same somebody, goes to AWS as one call.
//!
//! A mount asks for all its secrets at once, and Pods of a ServiceAccount share a session: so a batch is full, or complete, after a
//! moment. Nobody waits for more than [`GATHERING`]. Only what one session may see and one namespace asks for is in one batch, and no name is there
//! twice.
//!
//! A batch that fails as a whole (one name is denied, AWS throttles, the answer is too large) says nothing of each: then each is asked for
//! by itself, once, and has its own fault. That is remembered for a while, by login, so that the next mount need not find out again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::core::{Account, Asked, Core, Of};
use super::endpoint::Service;
use super::identity::Session;
use super::{parameters, secretsmanager};
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Fault, Scope};
use crate::model::{Secret, Tenant};
use crate::shelf::Shelf;

/// How long others may join the first one.
const GATHERING: Duration = Duration::from_millis(1);

/// How long a login's batches are left alone that failed: where the role may not have them; where one name was denied; where AWS throttles
/// them, a hundred times sooner than single calls; where an answer is too large.
const DENIED: Duration = Duration::from_hours(1);
const A_NAME_DENIED: Duration = Duration::from_mins(5);
const THROTTLED: Duration = Duration::from_secs(10);
const TOO_LARGE: Duration = Duration::from_mins(10);

/// The most bytes of logins that are remembered, and what one weighs besides its texts.
const REMEMBERED: usize = 256 * 1024;
const WEIGHT: usize = 256;

/// Who asks, as far as AWS tells them apart: over several sessions.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Who {
    pub(super) service: Service,
    pub(super) role: Option<String>,
    pub(super) scope: Scope,
}

/// What is gathered now, and for whom that is not done.
#[derive(Debug)]
pub(super) struct Batches {
    /// As many as there are fetches under way at most.
    gathering: Mutex<HashMap<Key, Gathering>>,
    /// How many were begun.
    begun: AtomicU64,
    alone: Mutex<Shelf<(Tenant, Who), Instant>>,
}

/// What can go together. A session is held by its batch, so that no other has its address. Namespaces can share a session, the daemon's own, but no
/// batch: one name that is denied would make all of them ask one by one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    tenant: Tenant,
    service: Service,
    session: usize,
}

#[derive(Debug)]
struct Gathering {
    /// Which one it is: a moment that began with another is none of its.
    number: u64,
    session: Arc<Session>,
    who: Who,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asked: Asked,
    answer: oneshot::Sender<Of>,
}

/// What to do after joining.
enum Joined {
    /// Nothing: somebody else sends it.
    Another,
    /// It is the first of this one: it is sent after a moment.
    First(u64),
    /// It was the last that found room.
    Full(Gathering),
}

// === impl Batches ===

impl Default for Batches {
    fn default() -> Self {
        Self { gathering: Mutex::default(), begun: AtomicU64::new(0), alone: Mutex::new(Shelf::of_bytes(REMEMBERED)) }
    }
}

impl Batches {
    /// What became of the secret by a batch with others. `None`: it has to be asked for by itself.
    pub(super) async fn read(
        self: &Arc<Self>,
        core: &Arc<Core>,
        session: &Arc<Session>,
        who: Who,
        asked: Asked,
    ) -> Option<Result<Secret, Refusal>> {
        let tenant = asked.on.tenant.clone();
        if self.is_alone(&tenant, &who) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let key = Key { tenant, service: who.service, session: Arc::as_ptr(session).addr() };
        match self.join(&key, session, who, Waiting { asked, answer })? {
            Joined::Another => {}
            Joined::First(number) => {
                let (batches, core) = (Arc::clone(self), Arc::clone(core));
                // A task: who began it may be gone before the others have their answers.
                tokio::spawn(async move {
                    sleep(GATHERING).await;
                    if let Some(gathered) = batches.take(&key, number) {
                        batches.send(&core, gathered).await;
                    }
                });
            }
            Joined::Full(gathered) => {
                let (batches, core) = (Arc::clone(self), Arc::clone(core));
                tokio::spawn(async move { batches.send(&core, gathered).await });
            }
        }
        match answered.await {
            Ok(Of::Is(result)) => Some(result),
            Ok(Of::Unknown) | Err(_) => None,
        }
    }

    /// `None`: its name is there already.
    fn join(&self, key: &Key, session: &Arc<Session>, who: Who, waiting: Waiting) -> Option<Joined> {
        let most = if who.service == Service::Parameters { parameters::BATCH } else { secretsmanager::BATCH };
        let mut all = self.lock();
        let Some(gathering) = all.get_mut(key) else {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            all.insert(key.clone(), Gathering { number, session: Arc::clone(session), who, waiting: vec![waiting] });
            return Some(Joined::First(number));
        };
        if gathering.waiting.iter().any(|other| other.asked.name == waiting.asked.name) {
            return None;
        }
        gathering.waiting.push(waiting);
        let is_full = gathering.waiting.len() >= most;
        Some(if is_full { all.remove(key).map_or(Joined::Another, Joined::Full) } else { Joined::Another })
    }

    /// `None`: it was full, and is sent.
    fn take(&self, key: &Key, number: u64) -> Option<Gathering> {
        let mut all = self.lock();
        if all.get(key)?.number == number { all.remove(key) } else { None }
    }

    /// Those who have gone meanwhile are not asked for.
    async fn send(&self, core: &Core, gathered: Gathering) {
        let Gathering { session, who, waiting, .. } = gathered;
        let (asked, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().filter(|waiting| !waiting.answer.is_closed()).map(|waiting| (waiting.asked, waiting.answer)).unzip();
        // One alone asks by itself: it may be told to wait, and it has a purse of its own.
        let Some(on) = account(&asked).filter(|_| asked.len() > 1) else { return };
        match core.several(&session, &asked, &on).await {
            Ok(found) => answers.into_iter().zip(found).for_each(|(answer, found)| _ = answer.send(found)),
            Err(refusal) if self.says_nothing_of_each(&who, &asked, &refusal) => {}
            Err(refusal) => answers.into_iter().for_each(|answer| _ = answer.send(Of::Is(Err(refusal.clone())))),
        }
    }

    /// Whether each may fare otherwise by itself; it is remembered where the next batch would fail as well.
    fn says_nothing_of_each(&self, who: &Who, asked: &[Asked], refusal: &Refusal) -> bool {
        let is_parameters = who.service == Service::Parameters;
        let alone = match refusal.fault {
            Fault::Denied => Some(if is_parameters { A_NAME_DENIED } else { DENIED }),
            // Single calls for parameters have the same quota: they would make it worse.
            Fault::Throttled if is_parameters => return false,
            Fault::Throttled => Some(THROTTLED),
            Fault::TooLarge => Some(TOO_LARGE),
            Fault::Corrupt | Fault::Invalid | Fault::NotFound | Fault::Short | Fault::Unhelpful | Fault::Unsupported => None,
            Fault::Down | Fault::NoLogin | Fault::NoTurn | Fault::TimedOut | Fault::Unauthenticated | Fault::Unavailable => return false,
        };
        if let (Some(alone), Some(first)) = (alone, asked.first()) {
            let tenant = &first.on.tenant;
            let weight = WEIGHT + who.role.as_ref().map_or(0, String::len);
            tracing::debug!(
                service = who.service.as_str(),
                reason = refusal.for_admin(),
                "a batch failed as a whole: its secrets are asked for one by one"
            );
            let until = Instant::now() + alone;
            self.alone.lock().unwrap_or_else(PoisonError::into_inner).put(
                tenant.as_str(),
                (tenant.clone(), who.clone()),
                until,
                weight,
                |_| false,
            );
        }
        true
    }

    fn is_alone(&self, tenant: &Tenant, who: &Who) -> bool {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), who.clone());
        let Some(until) = alone.find(&key).copied() else { return false };
        if Instant::now() < until {
            return true;
        }
        alone.remove(&key);
        false
    }

    /// A panic elsewhere cannot leave the map half-changed: each step is one call of it.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Gathering>> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The call is on the first one's account, until the last of them has no time left.
fn account(asked: &[Asked]) -> Option<Account> {
    let deadline = asked.iter().map(|asked| asked.on.deadline).max()?;
    asked.first().map(|first| Account { deadline, ..first.on.clone() })
}
