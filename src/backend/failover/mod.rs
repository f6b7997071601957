//! A second store for when the first is out: `kind: failover`. It is above the complete stacks of its two members, and has no address, no login and
//! no cache.
//!
//! The order is: the first member, then the second, then the newest old answer of the two. The second is asked only if the first is out for this
//! very request. If the second refuses then, that is part of the outage. [`Denials`] handles what the first has denied.

mod config;
mod denials;
mod kind;
pub(in crate::backend) mod order;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::stack::asked::Asked;
use super::{Backend, BackendError, Fault, FetchContext, Scope};
use crate::model::{BackendName, Fetched, Lease, LeaseFor, PodIdentity, Secret, SecretName, SecretPrefix, SecretRef, Source, Tenant, Verb};

pub use config::{Beside, FailoverConfig};
pub(in crate::backend) use denials::Denials;
use denials::Moment;
use order::{FIRST, SECOND, Side, live};

/// A failover above the stacks of its members.
#[derive(Debug)]
pub(in crate::backend) struct Failover {
    name: BackendName,
    config: FailoverConfig,
    members: [Arc<dyn Backend>; 2],
    denials: Arc<Denials>,
    /// How many answers each member has given.
    answered: [Counter; 2],
}

/// One request.
struct Asking<'a> {
    secret: &'a SecretRef,
    /// The request as each member gets it.
    of: [SecretRef; 2],
    /// The key of the first member's denials.
    asked: Asked,
    tenant: Tenant,
    begun: Moment,
}

// === impl Failover ===

impl Failover {
    pub(in crate::backend) fn new(
        name: &BackendName,
        config: FailoverConfig,
        members: [Arc<dyn Backend>; 2],
        denials: Arc<Denials>,
        answered: [Counter; 2],
    ) -> Self {
        Self { name: name.clone(), config, members, denials, answered }
    }

    pub(in crate::backend) fn members(&self) -> [&BackendName; 2] {
        self.config.names()
    }

    /// Whether it has this member.
    pub(in crate::backend) fn has(&self, member: &BackendName) -> bool {
        self.config.names().contains(&member)
    }

    /// For the failover of the members' next stacks after a reload: what was denied stays denied.
    pub(in crate::backend) fn denials(&self) -> &Arc<Denials> {
        &self.denials
    }

    /// Why it could not serve a mount, if so; `failing`: the backends that could not.
    pub(in crate::backend) fn failing(&self, failing: &[BackendError]) -> Option<BackendError> {
        let find = |name: &BackendName| failing.iter().find(|error| error.backend == *name).cloned();
        let [first, second] = self.config.names().map(find);
        Some(self.both(None, &first?, &second?))
    }

    fn asking<'a>(&self, secret: &'a SecretRef, cx: &FetchContext) -> Asking<'a> {
        let of = self.config.of_members(secret);
        let asked = self.asked(&of[FIRST], &cx.pod);
        Asking { secret, of, asked, tenant: cx.tenant(), begun: self.denials.begin() }
    }

    /// The request as the store gets it. How long Keyferry keeps what the store makes, and for whom, does not matter to the store.
    fn asked(&self, of_first: &SecretRef, pod: &PodIdentity) -> Asked {
        let is_plain = of_first.keep.is_none() && of_first.lease == LeaseFor::default();
        let secret =
            if is_plain { of_first.clone() } else { of_first.with(|parts| (parts.keep, parts.lease) = (None, LeaseFor::default())) };
        Asked { scope: self.members[FIRST].scope(of_first, pod), secret }
    }

    async fn read(&self, asking: &Asking<'_>, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let first = match self.read_first(asking, cx).await {
            Ok(fetched) => return Ok(self.given(FIRST, fetched)),
            Err(error) if !error.fault.is_outage() => return Err(self.of(FIRST, asking, &error)),
            Err(error) => error,
        };
        if !self.denials.allow(&asking.asked, &asking.tenant) {
            let error = self.barred(asking, &first);
            let stale = self.members[FIRST].stale(&asking.of[FIRST], cx, &error.reason).await;
            return stale.map(|fetched| self.given(FIRST, fetched)).ok_or(error);
        }
        let second = match order::fetch_second(self.sides(asking), cx).await {
            Ok(fetched) => return Ok(self.given(SECOND, fetched)),
            // The mount asks again when it has memory for the answer.
            Err(error) if error.fault == Fault::Short => return Err(self.of(SECOND, asking, &error)),
            Err(error) => error,
        };
        let error = self.both(Some(&asking.secret.name), &first, &second);
        let newest = order::newest(self.sides(asking), cx, &error.reason).await;
        newest.map(|(at, fetched)| self.given(at, fetched)).ok_or(error)
    }

    async fn read_first(&self, asking: &Asking<'_>, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let answer = order::fetch_first(self.sides(asking)[FIRST], cx).await;
        self.note(asking, &answer, cx.deadline).await;
        answer
    }

    fn sides<'s>(&'s self, asking: &'s Asking<'_>) -> [Side<'s>; 2] {
        [FIRST, SECOND].map(|at| Side { backend: &*self.members[at], secret: &asking.of[at] })
    }

    /// If the first member may have got the request, the second does not get it: otherwise the thing would be made twice.
    async fn make(&self, asking: &Asking<'_>, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let answer = self.members[FIRST].fetch(&asking.of[FIRST], &live(cx)).await;
        self.note(asking, &answer, cx.deadline).await;
        let first = match answer {
            Ok(fetched) => return Ok(self.given(FIRST, fetched)),
            // Nothing was sent.
            Err(error) if error.fault == Fault::Down => error,
            Err(error) => return Err(self.of(FIRST, asking, &error)),
        };
        if !self.denials.allow(&asking.asked, &asking.tenant) {
            return Err(self.barred(asking, &first));
        }
        match self.members[SECOND].fetch(&asking.of[SECOND], &live(cx)).await {
            Ok(fetched) => Ok(self.given(SECOND, fetched)),
            Err(second) if second.fault == Fault::Short => Err(self.of(SECOND, asking, &second)),
            Err(second) => Err(self.both(Some(&asking.secret.name), &first, &second)),
        }
    }

    /// Records what the first member says about the request. An answer from its cache says nothing new.
    async fn note(&self, asking: &Asking<'_>, answer: &Result<Fetched, BackendError>, deadline: Instant) {
        let Asking { asked, tenant, begun, .. } = asking;
        match answer {
            Ok(fetched) if fetched.source == Source::Store => self.denials.allowed(asked, tenant, *begun),
            Ok(_) => {}
            Err(error) => match error.fault {
                Fault::Denied | Fault::NotFound | Fault::Unauthenticated => {
                    let ticket = self.denials.denied(asked, tenant);
                    self.denials.settled(ticket, deadline).await;
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
                | Fault::Unsupported => {}
            },
        }
    }

    /// The store's own version is left out: the other member counts separately, and equal content must have one version.
    fn given(&self, at: usize, fetched: Fetched) -> Fetched {
        self.answered[at].inc();
        if fetched.secret.version.is_none() {
            return fetched;
        }
        let Secret { fields, response, version: _, lease } = &*fetched.secret;
        let secret = Secret { fields: fields.clone(), response: response.clone(), version: None, lease: lease.clone() };
        Fetched { secret: Arc::new(secret), ..fetched }
    }

    // === errors, in the failover's name ===

    /// The error of one member.
    fn of(&self, at: usize, asking: &Asking<'_>, error: &BackendError) -> BackendError {
        let name = self.config.names()[at];
        let full = error.source.is_some().then(|| format!("{name}: {}", error.reason_in_full()));
        let secret = Some(asking.secret.name.clone());
        let told = BackendError::with(error.fault, self.name.clone(), secret, format!("{name}: {}", error.reason), full);
        BackendError { retry_after: error.retry_after, ..told }
    }

    /// The first member is out, and has denied the request before.
    fn barred(&self, asking: &Asking<'_>, first: &BackendError) -> BackendError {
        let [one, other] = self.config.names();
        let why = format!("{other} is not asked, because {one} has denied this request before and has not answered it since");
        let full = first.source.is_some().then(|| format!("{one}: {}; {why}", first.reason_in_full()));
        let reason = format!("{one}: {}; {why}", first.reason);
        BackendError::with(first.fault, self.name.clone(), Some(asking.secret.name.clone()), reason, full)
    }

    /// The first member is out, and the second does not help. This is an outage of the first member's kind, whatever the second says.
    fn both(&self, secret: Option<&SecretName>, first: &BackendError, second: &BackendError) -> BackendError {
        let [one, other] = self.config.names();
        let has_more = first.source.is_some() || second.source.is_some();
        let full = has_more.then(|| format!("{one}: {}; {other}: {}", first.reason_in_full(), second.reason_in_full()));
        let reason = format!("{one}: {}; {other}: {}", first.reason, second.reason);
        BackendError::with(first.fault, self.name.clone(), secret.cloned(), reason, full)
    }

    /// The member that a lease is from.
    fn member_of(&self, lease: &Lease) -> &dyn Backend {
        let is_second = self.config.names()[SECOND] == &lease.secret.backend;
        &*self.members[usize::from(is_second)]
    }
}

#[async_trait]
impl Backend for Failover {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let asking = self.asking(secret, cx);
        match secret.verb() {
            Verb::Read => self.read(&asking, cx).await,
            Verb::Update => self.make(&asking, cx).await,
        }
    }

    /// The answer of the first member; the answer of the second only while the first would not be asked.
    fn recall(&self, secret: &SecretRef, cx: &FetchContext, now: Instant) -> Option<Fetched> {
        let of = self.config.of_members(secret);
        let (cx, [first, second]) = (&live(cx), &self.members);
        if let Some(fetched) = first.recall(&of[FIRST], cx, now) {
            return Some(self.given(FIRST, fetched));
        }
        if !first.is_out(&of[FIRST], cx) {
            return None;
        }
        let asked = self.asked(&of[FIRST], &cx.pod);
        let may = self.denials.allow(&asked, &cx.tenant());
        second.recall(&of[SECOND], cx, now).filter(|_| may).map(|fetched| self.given(SECOND, fetched))
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        let of = self.config.members.each_ref().map(|member| SecretPrefix {
            backend: member.name.clone(),
            prefix: prefix.prefix.clone(),
            login: member.config.kind().own_login(&prefix.login),
        });
        match self.members[FIRST].list(&of[FIRST], cx).await {
            Err(error) if error.fault.is_outage() => self.members[SECOND].list(&of[SECOND], cx).await,
            answer => answer,
        }
    }

    async fn renew(&self, lease: Lease, deadline: Instant) -> Result<Lease, BackendError> {
        self.member_of(&lease).renew(lease, deadline).await
    }

    async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), BackendError> {
        self.member_of(&lease).revoke(lease, deadline).await
    }

    fn adopt(&self, lease: &Lease) {
        self.member_of(lease).adopt(lease);
    }

    async fn forget(&self, pod: &str, deadline: Instant) {
        let [first, second] = &self.members;
        tokio::join!(first.forget(pod, deadline), second.forget(pod, deadline));
    }

    /// One of them is enough.
    async fn check(&self) -> Result<(), BackendError> {
        let [first, second] = &self.members;
        match tokio::join!(first.check(), second.check()) {
            (Err(first), Err(second)) => Err(self.both(None, &first, &second)),
            (Ok(()), _) | (_, Ok(())) => Ok(()),
        }
    }

    /// Not wider than the scope of either member.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        let of = self.config.of_members(secret);
        let [first, second] = [FIRST, SECOND].map(|at| self.members[at].scope(&of[at], pod));
        if first == second { first } else { Scope::Pod(Arc::clone(&pod.uid)) }
    }
}

#[cfg(test)]
pub(super) mod tests;
