//! Batches: requests of about the same time, with the same login, go to AWS as one call.
//!
//! All requests of a batch have the same session and the same namespace, and no name is in a batch twice.
//!
//! A batch can fail as a whole (one name is denied, AWS throttles, the answer is too large). That says nothing about each secret: so
//! Keyferry asks for each by itself, once, and each has its own fault. Keyferry remembers that for a while, by login, so that the next
//! mount does not try a batch first.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use super::core::{Account, Asked, Core};
use super::endpoint::Service;
use super::identity::Session;
use super::{parameters, secretsmanager};
use crate::backend::remote::gather::Gatherer;
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Fault, Scope};
use crate::model::{Secret, Tenant};
use crate::shelf::Shelf;

/// How long a login makes no batches after a failed one: if the role has no right to them; if one name was denied; if AWS throttles them,
/// which it does a hundred times sooner than for single calls; if an answer is too large.
const DENIED: Duration = Duration::from_hours(1);
const A_NAME_DENIED: Duration = Duration::from_mins(5);
const THROTTLED: Duration = Duration::from_secs(10);
const TOO_LARGE: Duration = Duration::from_mins(10);

/// The most bytes of logins that are remembered, and the bytes that one counts for besides its texts.
const REMEMBERED: usize = 256 * 1024;
const WEIGHT: usize = 256;

/// Who asks, as AWS sees it: the same for several sessions of one login.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Who {
    pub(super) service: Service,
    pub(super) role: Option<String>,
    pub(super) scope: Scope,
}

/// The requests that are gathered now, and the logins without batches.
#[derive(Debug)]
pub(super) struct Batches {
    gatherer: Arc<Gatherer<Key, Asked, Result<Secret, Refusal>>>,
    alone: Mutex<Shelf<(Tenant, Who), Instant>>,
}

/// What can go together. A batch holds its session, so that no other session has its address. Namespaces can share a session, the daemon's
/// own, but not a batch: one denied name would make all of them ask one by one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    tenant: Tenant,
    service: Service,
    session: usize,
}

// === impl Batches ===

impl Default for Batches {
    fn default() -> Self {
        Self { gatherer: Arc::default(), alone: Mutex::new(Shelf::of_bytes(REMEMBERED)) }
    }
}

impl Batches {
    /// The result for the secret, from a batch with others. `None`: it has to be asked for by itself.
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
        let most = if who.service == Service::Parameters { parameters::BATCH } else { secretsmanager::BATCH };
        let key = Key { tenant, service: who.service, session: Arc::as_ptr(session).addr() };
        let (batches, core, session) = (Arc::clone(self), Arc::clone(core), Arc::clone(session));
        let call = |asked: Vec<Asked>| async move { batches.send(&core, &session, &who, asked).await };
        self.gatherer.join(key, asked, most, call).await
    }

    async fn send(&self, core: &Core, session: &Session, who: &Who, asked: Vec<Asked>) -> Vec<Option<Result<Secret, Refusal>>> {
        let Some(on) = account(&asked) else { return Vec::new() };
        match core.several(session, &asked, &on).await {
            Ok(found) => found,
            Err(refusal) if self.says_nothing_of_each(who, &asked, &refusal) => Vec::new(),
            Err(refusal) => asked.iter().map(|_| Some(Err(refusal.clone()))).collect(),
        }
    }

    /// Whether each may have another result by itself. If the next batch would fail as well, this is remembered.
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
                "a batch failed as a whole: Keyferry asks for its secrets one by one"
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
}

/// The first request pays for the call. The call may take until the latest deadline of all.
fn account(asked: &[Asked]) -> Option<Account> {
    let deadline = asked.iter().map(|asked| asked.on.deadline).max()?;
    asked.first().map(|first| Account { deadline, ..first.on.clone() })
}
