//! Leases that the store has issued, also to an earlier process. Keyferry renews and revokes them with the token that they live by.

use std::sync::Arc;

use jiff::SignedDuration;
use tokio::time::{Duration, Instant};

use super::VaultBackend;
use super::answer::Answer;
use super::config::Auth;
use super::entry::{Entry, within};
use super::fault::{Needles, Refusal, Words, of_status, or_status, words};
use super::token::{StoreToken, Term, digest_of};
use super::wire::{Call, Reply, json};
use crate::backend::Fault;
use crate::http::Repeat;
use crate::model::Lease;

impl VaultBackend {
    /// Renews the lease. It renews the token first where the token would end before the lease.
    pub(super) async fn lengthen(&self, lease: Lease, deadline: Instant) -> Result<Lease, Refusal> {
        if lease.is_of_made() {
            return Err(Refusal::new(Fault::Unsupported, "a certificate cannot be renewed: another has to be issued"));
        }
        let token = self.bearer(&lease)?;
        if !token.is_known() {
            token.look_up(&self.clients, deadline).await?;
        }
        token.renew_when_due(&self.clients, (1, 2), deadline).await;
        let id = digest_of(&lease.id);
        let known = token.term(&id);
        if known.is_none_or(|term| term.renewable) {
            let term = self.renew_lease(&lease, &token, known, deadline).await?;
            token.bear(id, Some(term));
        }
        let since = self.clock.now();
        Ok(as_it_stands(Lease { since, ..lease }, &token))
    }

    /// Revokes the lease, and also its token where nothing else lives by it.
    pub(super) async fn give_back(&self, lease: &Lease, deadline: Instant) -> Result<(), Refusal> {
        if lease.is_of_made() {
            return Ok(());
        }
        let token = self.bearer(lease)?;
        let revoked = self.revoke_lease(lease, &token, deadline).await;
        let denied = matches!(&revoked, Err(refusal) if refusal.fault == Fault::Denied);
        if revoked.is_err() && !denied {
            return revoked;
        }
        match self.sessions.release(&token, &lease.id) {
            // With the token, all that lives by it ends: also a lease that the token itself may not revoke.
            Some(idle) => idle.revoke(&self.clients, deadline).await,
            None => revoked,
        }
    }

    /// Adds the lease of an earlier process.
    pub(super) fn take_in(&self, lease: &Lease) {
        if !lease.is_of_made() {
            // The address is not valid any more: the lease ends by itself.
            let _ = self.bearer(lease);
        }
    }

    fn bearer(&self, lease: &Lease) -> Result<Arc<StoreToken>, Refusal> {
        let entry = Entry::of(&self.config, &lease.secret.login, None)?;
        let ours = !matches!(self.config.auth, Auth::Token { .. });
        Ok(self.sessions.bearer(lease, entry, ours))
    }

    async fn renew_lease(&self, lease: &Lease, token: &StoreToken, known: Option<Term>, deadline: Instant) -> Result<Term, Refusal> {
        let reply = self.lease_call(lease, token, "renew", deadline).await?;
        let told = words(&reply, needles(lease));
        if !reply.status.is_success() {
            return match known_end(&told) {
                Some(NotRenewed::Gone) => Err(Refusal::new(
                    Fault::NotFound,
                    format!("the store does not know the lease any more{} (the next mount gets another)", after_colon(&told)),
                )),
                // A lease of an earlier process: Keyferry asks how long it lives.
                Some(NotRenewed::Never) => self.look_up(lease, token, deadline).await,
                None => Err(refused("renew", &reply, &told)),
            };
        }
        Refusal::of_partial(reply.status)?;
        let answer = Answer::parse(&reply.body)?;
        let ends = Instant::now() + Duration::from_secs(answer.lease_duration.unwrap_or(0));
        // If this renewal did not put the end off, no renewal will.
        let put_off = known.is_none_or(|known| ends > known.ends + Duration::from_secs(1));
        Ok(Term { ends, renewable: answer.renewable.unwrap_or(false) && put_off })
    }

    async fn look_up(&self, lease: &Lease, token: &StoreToken, deadline: Instant) -> Result<Term, Refusal> {
        #[derive(serde::Deserialize)]
        struct Lookup {
            ttl: i64,
        }
        let reply = self.lease_call(lease, token, "lookup", deadline).await?;
        let told = words(&reply, needles(lease));
        if !reply.status.is_success() {
            return Err(refused("look up", &reply, &told));
        }
        Refusal::of_partial(reply.status)?;
        let answer = Answer::parse(&reply.body)?;
        let found = answer.data.and_then(|data| serde_json::from_str::<Lookup>(data.get()).ok());
        let ttl = found.map_or(0, |found| u64::try_from(found.ttl).unwrap_or(0));
        Ok(Term { ends: Instant::now() + Duration::from_secs(ttl), renewable: false })
    }

    async fn revoke_lease(&self, lease: &Lease, token: &StoreToken, deadline: Instant) -> Result<(), Refusal> {
        let reply = self.lease_call(lease, token, "revoke", deadline).await?;
        // The store may quote the credential. Keyferry does not have it any more, so it cannot hide it: it repeats no words.
        let told = words(&reply, needles(lease)).untold();
        if reply.status.is_success() || known_end(&told).is_some() {
            return Ok(());
        }
        Err(refused("revoke", &reply, &told))
    }

    async fn lease_call(&self, lease: &Lease, token: &StoreToken, what: &str, deadline: Instant) -> Result<Reply, Refusal> {
        let Ok(id) = str::from_utf8(lease.id.expose()) else {
            return Err(Refusal::new(Fault::Corrupt, "the lease's id is not a text (Keyferry cannot renew or revoke it)"));
        };
        let path = within(namespace(lease.secret.name.as_str(), id), &format!("sys/leases/{what}"));
        let call = Call::post(path, Some(&token.value), json(&[("lease_id", id)]), Repeat::Safe);
        self.clients.call(&token.entry.server, call, deadline).await
    }
}

/// The lease, with the end that it has if nobody does anything: its own or its token's, whichever is first. It is renewable where a
/// renewal would put that end off.
pub(super) fn as_it_stands(lease: Lease, token: &StoreToken) -> Lease {
    let now = Instant::now();
    let term = token.term(&digest_of(&lease.id)).unwrap_or(Term { ends: now, renewable: false });
    let own = term.ends.saturating_duration_since(now);
    let (left, renewable) = match token.left() {
        Some(left) if left < own => (left, token.is_renewable()),
        _ => (own, term.renewable),
    };
    let left = SignedDuration::try_from(left).unwrap_or(SignedDuration::MAX);
    let ends = lease.since.checked_add(left).unwrap_or(jiff::Timestamp::MAX);
    Lease { renewable, ends, ..lease }
}

/// Why a lease was not renewed, where Keyferry knows the store's words for it.
enum NotRenewed {
    Gone,
    Never,
}

/// By the store's words, because there is no code for it (`expiration.go` of both servers).
fn known_end(told: &Words) -> Option<NotRenewed> {
    match () {
        () if ["lease not found", "invalid lease", "lease expired"].iter().any(|gone| told.say(gone)) => Some(NotRenewed::Gone),
        () if told.say("not renewable") => Some(NotRenewed::Never),
        () => None,
    }
}

fn after_colon(told: &Words) -> String {
    if told.shown().is_empty() { String::new() } else { format!(": {}", told.shown()) }
}

fn refused(what: &str, reply: &Reply, told: &Words) -> Refusal {
    if let Some(refusal) = of_status(reply, told) {
        return refusal;
    }
    let told = or_status(told, reply);
    let (fault, remedy) = match reply.status.as_u16() {
        403 => {
            (Fault::Denied, "is its token revoked? else let the policy of its role allow update on sys/leases/renew and sys/leases/revoke")
        }
        // The store also says 400 when it cannot reach what is behind the engine, such as a database.
        _ => (Fault::Unavailable, "can the store reach what is behind the engine, such as its database? see the store's log"),
    };
    Refusal::new(fault, format!("the store does not {what} the lease: {told} ({remedy})"))
}

fn needles(lease: &Lease) -> Needles {
    Needles::default().secret(&lease.token).secret(&lease.id)
}

/// The namespace of a name, found by the id of a lease that was issued for it. The id begins with the path within the namespace, and only
/// that namespace knows the lease.
fn namespace<'n>(name: &'n str, id: &str) -> &'n str {
    let splits = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
    let found = splits.into_iter().find(|at| id.strip_prefix(&name[*at..]).is_some_and(|rest| rest.starts_with('/')));
    found.map_or("", |at| name[..at].trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leases_namespace_is_what_its_name_has_before_its_id() {
        assert_eq!(namespace("database/creds/app", "database/creds/app/x7"), "");
        assert_eq!(namespace("team-a/web/database/creds/app", "database/creds/app/x7.k3"), "team-a/web");
        assert_eq!(namespace("a/a/creds", "a/creds/x"), "a");
        assert_eq!(namespace("other", "database/creds/app/x7"), "");
    }
}
