//! A store token: how long it lives, what lives by it, and the calls that look it up, renew it and revoke it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::{Duration, Instant};

use super::answer::Answer;
use super::entry::Entry;
use super::fault::{Needles, Refusal, of_status, words};
use super::wire::{Call, Clients, json};
use crate::backend::Fault;
use crate::backend::remote::echo;
use crate::http::Repeat;
use crate::model::SecretBytes;

/// Keyferry does not use a token this near its end for a new request: the request could outlive it.
const LAST: Duration = Duration::from_secs(15);

/// How long Keyferry waits after a failed renewal before it tries again.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// The longest life that Keyferry counts with: longer is almost endless.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// Names a token or a lease in Keyferry's tables: they hold no secret.
pub(super) type Digest = [u8; 32];

/// A token, shared by all who use it.
pub(super) struct StoreToken {
    pub(super) value: Arc<SecretBytes>,
    digest: Digest,
    /// The store's name for the token, which does not give the token away; unknown until the store has said it.
    accessor: OnceLock<SecretBytes>,
    /// Where it was made: there it is looked up, renewed and revoked.
    pub(super) entry: Entry,
    /// Whether Keyferry logged in for it, and so may revoke it.
    ours: bool,
    life: Mutex<Life>,
    /// One renewal at a time.
    renewing: tokio::sync::Mutex<()>,
    leases: Mutex<HashMap<Digest, Option<Term>>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    since: Instant,
    /// `None`: never, as far as is known.
    pub(super) ends: Option<Instant>,
    /// How long it was made for.
    span: Duration,
    pub(super) renewable: bool,
    /// No renewal before this time.
    rests_until: Instant,
    alive_at: Option<Instant>,
    /// The store said that it is not valid any more.
    dead: bool,
    /// Whether a look-up or a login gave its life. An adopted token is unknown at first.
    known: bool,
}

/// How long a lease lives by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) ends: Instant,
    pub(super) renewable: bool,
}

/// Whether the store accepts a token at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pulse {
    Alive,
    Dead,
}

impl StoreToken {
    /// One that a login gave.
    pub(super) fn made(value: Arc<SecretBytes>, entry: Entry, seconds: u64, renewable: bool) -> Self {
        let now = Instant::now();
        // Not "seen alive": Keyferry looks into a 403 that follows, because the token may have been revoked at once.
        let life = Life { known: true, ..Life::of(now, seconds, renewable) };
        Self::new(value, entry, true, life)
    }

    /// A token of which nothing is known yet: from a file, or of an earlier process. `ours`: whether a login of Keyferry made it.
    pub(super) fn found(value: Arc<SecretBytes>, entry: Entry, ours: bool) -> Self {
        Self::new(value, entry, ours, Life::of(Instant::now(), 0, false))
    }

    fn new(value: Arc<SecretBytes>, entry: Entry, ours: bool, life: Life) -> Self {
        let digest = digest_of(&value);
        let (accessor, renewing, leases) = (OnceLock::new(), tokio::sync::Mutex::default(), Mutex::default());
        Self { value, digest, accessor, entry, ours, life: Mutex::new(life), renewing, leases }
    }

    /// The store said its accessor.
    pub(super) fn known_by(&self, accessor: &str) {
        if !accessor.is_empty() {
            // The first value stays: an accessor never changes.
            let _ = self.accessor.set(SecretBytes::new(accessor.into()));
        }
    }

    /// Whether an answer contains this token or its accessor. Keyferry must not deliver them.
    pub(super) fn is_in(&self, body: &SecretBytes) -> bool {
        echo::holds(body, &self.value) || self.accessor.get().is_some_and(|accessor| echo::holds(body, accessor))
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    pub(super) fn is_known(&self) -> bool {
        self.life().known
    }

    /// Whether Keyferry may send a new request with it. A token with leases, in its last third and not renewable, is left to these leases: a
    /// new lease could not live long.
    pub(super) fn is_usable(&self) -> bool {
        let (life, now) = (*self.life(), Instant::now());
        let near = life.left(now).is_some_and(|left| left <= LAST.min(life.span / 10));
        let left_to_leases = || !life.renewable && life.is_due(now, 2, 3) && self.bears_leases();
        !(life.dead || near || left_to_leases())
    }

    /// How long it still lives; `None`: it has no known end.
    pub(super) fn left(&self) -> Option<Duration> {
        self.life().left(Instant::now())
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.life().renewable
    }

    /// Whether the store accepted it after this time. Then a refusal since that time has another reason.
    pub(super) fn was_alive_after(&self, time: Instant) -> bool {
        self.life().alive_at.is_some_and(|at| at > time)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.life().dead
    }

    // === what lives by it ===

    pub(super) fn bear(&self, lease: Digest, term: Option<Term>) {
        let mut leases = self.leases();
        let now = Instant::now();
        leases.retain(|_, term| term.is_none_or(|term| term.ends > now));
        let term = term.or_else(|| leases.get(&lease).copied().flatten());
        leases.insert(lease, term);
    }

    pub(super) fn drop_lease(&self, lease: &Digest) {
        self.leases().remove(lease);
    }

    pub(super) fn term(&self, lease: &Digest) -> Option<Term> {
        self.leases().get(lease).copied().flatten()
    }

    /// When the token has expired, no lease of it lives, whatever the lease's own end is.
    pub(super) fn bears_leases(&self) -> bool {
        let now = Instant::now();
        if self.life().left(now).is_some_and(|left| left.is_zero()) {
            return false;
        }
        self.leases().values().any(|term| term.is_none_or(|term| term.ends > now))
    }

    // === its calls ===

    /// Renews it where `part` of `of` parts of its life have passed (two thirds, for example). A failed renewal is not an error: it still lives.
    pub(super) async fn renew_when_due(&self, clients: &Clients, (part, of): (u32, u32), deadline: Instant) {
        let due = |life: &Life, now| life.renewable && now >= life.rests_until && life.is_due(now, part, of);
        if !due(&self.life(), Instant::now()) {
            return;
        }
        let Ok(_turn) = self.renewing.try_lock() else { return };
        if !due(&self.life(), Instant::now()) {
            return;
        }
        if let Err(refusal) = self.renew(clients, deadline).await {
            tracing::debug!(server = %self.entry.server, reason = refusal.for_admin(), "a store token could not be renewed; a new login comes in time");
        }
    }

    async fn renew(&self, clients: &Clients, deadline: Instant) -> Result<(), Refusal> {
        self.life().rests_until = Instant::now() + RENEW_AGAIN;
        let call = Call::post(self.entry.path("auth/token/renew-self"), Some(&self.value), json(&[]), Repeat::Safe);
        let reply = clients.call(&self.entry.server, call, deadline).await?;
        let told = words(&reply, Needles::default().secret(&self.value));
        if !reply.status.is_success() {
            if reply.status.is_client_error() && of_status(&reply, &told).is_none() {
                self.life().renewable = false;
            }
            return Err(of_status(&reply, &told).unwrap_or_else(|| Refusal::new(Fault::Denied, told.shown())));
        }
        Refusal::of_partial(reply.status)?;
        let answer = Answer::parse(&reply.body)?;
        let Some(auth) = answer.auth else { return Err(Refusal::new(Fault::Corrupt, "the renewal's answer has no `auth`")) };
        self.life().extend(auth.lease_duration, auth.renewable);
        Ok(())
    }

    /// Asks the store whether it still accepts the token, and how long the token lives.
    ///
    /// # Errors
    /// The store cannot say now.
    pub(super) async fn look_up(&self, clients: &Clients, deadline: Instant) -> Result<Pulse, Refusal> {
        let call = Call::get(self.entry.path("auth/token/lookup-self"), &self.value);
        let reply = clients.call(&self.entry.server, call, deadline).await?;
        let told = words(&reply, Needles::default().secret(&self.value));
        match reply.status.as_u16() {
            200 => {
                let answer = Answer::parse(&reply.body)?;
                self.learn(answer.data.map(serde_json::value::RawValue::get).unwrap_or_default());
                Ok(Pulse::Alive)
            }
            400 | 401 | 403 | 404 => {
                self.life().dead = self.ours;
                Ok(Pulse::Dead)
            }
            _ => Err(of_status(&reply, &told).unwrap_or_else(|| {
                Refusal::new(Fault::Unhelpful, format!("the store cannot say whether its token is still valid: {}", reply.status))
            })),
        }
    }

    fn learn(&self, data: &str) {
        #[derive(serde::Deserialize, Default)]
        #[serde(default)]
        struct Lookup {
            ttl: u64,
            creation_ttl: u64,
            renewable: bool,
            accessor: String,
        }
        let Lookup { ttl, creation_ttl, renewable, accessor } = serde_json::from_str(data).unwrap_or_default();
        self.known_by(&accessor);
        let (now, mut life) = (Instant::now(), self.life());
        if !life.known {
            *life = Life { known: true, ..Life::of(now, ttl, renewable) };
            life.span = life.span.max(Duration::from_secs(creation_ttl).min(LONGEST));
            life.since = now.checked_sub(life.span.saturating_sub(Duration::from_secs(ttl).min(LONGEST))).unwrap_or(now);
        }
        life.alive_at = Some(now);
    }

    /// Revokes it, and with it all that lives by it. Only for tokens of Keyferry's own logins.
    ///
    /// # Errors
    /// The store does not revoke it now; it ends by itself.
    pub(super) async fn revoke(&self, clients: &Clients, deadline: Instant) -> Result<(), Refusal> {
        let call = Call::post(self.entry.path("auth/token/revoke-self"), Some(&self.value), json(&[]), Repeat::Safe);
        let reply = clients.call(&self.entry.server, call, deadline).await?;
        // 403: it is not valid any more.
        if reply.status.is_success() || reply.status.as_u16() == 403 {
            return Ok(());
        }
        let told = words(&reply, Needles::default().secret(&self.value));
        Err(of_status(&reply, &told)
            .unwrap_or_else(|| Refusal::new(Fault::Denied, format!("the store does not revoke its token: {}", told.shown()))))
    }

    /// A panic elsewhere cannot leave either half-changed: each is one assignment or one call to the map.
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<Digest, Option<Term>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StoreToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreToken").field("entry", &self.entry).field("life", &self.life()).finish_non_exhaustive()
    }
}

// === impl Life ===

impl Life {
    /// Zero seconds: it has no end.
    fn of(now: Instant, seconds: u64, renewable: bool) -> Self {
        let span = Duration::from_secs(seconds).min(LONGEST);
        let ends = (seconds > 0).then(|| now + span);
        Self { since: now, ends, span, renewable: renewable && seconds > 0, rests_until: now, alive_at: None, dead: false, known: false }
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(now))
    }

    /// Whether `part` of `of` parts of it have passed.
    fn is_due(&self, now: Instant, part: u32, of: u32) -> bool {
        self.ends.is_some() && now.saturating_duration_since(self.since) >= self.span * part / of
    }

    /// After a renewal. If it gave less than the token's first life, the token has reached its last end: another renewal would not give more.
    fn extend(&mut self, seconds: u64, renewable: bool) {
        let now = Instant::now();
        let made_for = self.span;
        *self = Self { known: true, alive_at: Some(now), rests_until: now, ..Self::of(now, seconds, renewable) };
        if self.span < made_for.mul_f64(0.9) {
            self.renewable = false;
        }
    }
}

pub(super) fn digest_of(secret: &SecretBytes) -> Digest {
    let mut of = [0; 32];
    of.copy_from_slice(digest(&SHA256, secret.expose()).as_ref());
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_life_is_renewed_from_two_thirds_and_until_its_last_end() {
        let mut life = Life::of(Instant::now(), 90, true);
        assert!(!life.is_due(Instant::now(), 2, 3));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(life.is_due(Instant::now(), 2, 3));
        life.extend(90, true);
        assert!(life.renewable && !life.is_due(Instant::now(), 2, 3));
        tokio::time::advance(Duration::from_mins(1)).await;
        life.extend(40, true);
        assert!(!life.renewable, "it came to its last end");
        assert_eq!(life.left(Instant::now()), Some(Duration::from_secs(40)));
        assert_eq!(Life::of(Instant::now(), 0, true).left(Instant::now()), None);
        assert_eq!(Life::of(Instant::now(), u64::MAX, true).span, LONGEST);
    }
}
