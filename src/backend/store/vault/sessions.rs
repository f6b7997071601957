//! Who is logged in: one store token per login and the Pods that share it. Keyferry gets it once, and keeps it until shortly before its
//! end. It revokes it when the last Pod that used it is gone.
//!
//! Keyferry never revokes a token while a lease lives by it: that would end the lease. It keeps the token beside the session that made it,
//! also when the session has a newer one.
//!
//! Classes name roles, and a namespace may make up as many as it likes. So namespaces share the room for sessions: a namespace pushes out
//! its own first, and Keyferry revokes the tokens of these. Sessions are weighed, since a role's name may be long. What policy denied is
//! weighed and shared separately.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::entry::Entry;
use super::fault::Refusal;
use super::token::{Digest, StoreToken, digest_of};
use crate::backend::Scope;
use crate::backend::remote::slot::{Pass, Slot, Slots, Standing};
use crate::model::{Lease, PodIdentity, SecretBytes};
use crate::shelf::Shelf;

/// The most sessions that are kept, without those in use; fewer where their logins have long names. A node has some hundreds of Pods.
const MAX_SESSIONS: usize = 4_096;

/// The bytes that a session counts for, with its token, if the texts of its login have the usual length.
const SESSION: usize = 1_536;

/// What a session weighs without those texts. Both the session and its token have them.
const BARE: usize = 1_024;

/// The most bytes of denied paths that are remembered.
const DENIED_BYTES: usize = 256 * 1024;

/// What a denial weighs without its words.
const DENIAL: usize = 256;

/// How long a denied path needs no new look at the token: longer than kubelet takes to ask again.
const DENIED: Duration = Duration::from_mins(5);

/// The login and who shares it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub(super) entry: Entry,
    pub(super) who: Scope,
}

/// All sessions of a backend, and every token that leases live by.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Table>);

#[derive(Debug)]
struct Table {
    sessions: Slots<Key, StoreToken>,
    /// The table of leases limits these: a lease lives by each.
    bearers: HashMap<Digest, Arc<StoreToken>>,
    /// Paths that policy denied to a token: until when Keyferry believes that, and the refusal.
    denied: Shelf<(Digest, Digest), (Instant, Refusal)>,
}

/// The state of a login.
pub(super) type Session = Slot<StoreToken>;

impl Sessions {
    /// The session of a login, with this Pod among its users. Also the tokens that made room for it: the caller revokes them.
    pub(super) fn enter(&self, key: Key, pod: &PodIdentity) -> (Arc<Session>, Vec<Arc<StoreToken>>) {
        let tenant = match key.who {
            Scope::Node => "",
            Scope::Account(_) | Scope::Pod(_) => &*pod.namespace,
        };
        let weight = SESSION.max(BARE + 2 * key.entry.weight());
        let (session, gone) = self.lock().sessions.enter(tenant, key, &pod.uid, weight);
        let tokens = gone.iter().filter_map(|gone| gone.pass());
        (session, tokens.filter(|token| token.is_ours() && !token.bears_leases()).collect())
    }

    // === what policy denied ===

    /// How the store denied a path to this token in the last minutes.
    pub(super) fn denial(&self, token: &StoreToken, path: &str) -> Option<Refusal> {
        let (key, mut table) = (of_path(token, path), self.lock());
        let (until, refusal) = table.denied.find(&key)?;
        if Instant::now() < *until {
            return Some(refusal.clone());
        }
        table.denied.remove(&key);
        None
    }

    /// `tenant` is the namespace that asked.
    pub(super) fn remember_denial(&self, tenant: &str, token: &StoreToken, path: &str, refusal: &Refusal) {
        let words = refusal.reason.len() + refusal.full.as_ref().map_or(0, String::len);
        let (key, weight) = (of_path(token, path), DENIAL + words);
        self.lock().denied.put(tenant, key, (Instant::now() + DENIED, refusal.clone()), weight, |_| false);
    }

    // === leases ===

    /// After a login that failed: Keyferry keeps nothing about a login that may never succeed.
    pub(super) fn leave(&self, key: &Key, session: &Arc<Session>) {
        self.lock().sessions.leave(key, session);
    }

    /// Keeps the token for a lease that lives by it.
    pub(super) fn keep(&self, token: &Arc<StoreToken>) {
        let mut table = self.lock();
        table.bearers.retain(|_, bearer| bearer.bears_leases());
        table.bearers.insert(token.digest(), Arc::clone(token));
    }

    /// The token that a lease lives by. The token of an earlier process is added.
    pub(super) fn bearer(&self, lease: &Lease, entry: Entry, ours: bool) -> Arc<StoreToken> {
        let (id, mut table) = (digest_of(&lease.token), self.lock());
        let token = table.bearers.get(&id).cloned().or_else(|| table.token(&id));
        let token = token.unwrap_or_else(|| Arc::new(StoreToken::found(Arc::clone(&lease.token), entry, ours)));
        token.bear(digest_of(&lease.id), None);
        table.bearers.insert(id, Arc::clone(&token));
        token
    }

    /// The lease has ended. Gives the token to revoke, where nothing else lives by it and nobody uses it.
    pub(super) fn release(&self, token: &Arc<StoreToken>, lease: &SecretBytes) -> Option<Arc<StoreToken>> {
        token.drop_lease(&digest_of(lease));
        let mut table = self.lock();
        if token.bears_leases() {
            return None;
        }
        let id = token.digest();
        table.bearers.remove(&id);
        (token.is_ours() && table.token(&id).is_none()).then(|| Arc::clone(token))
    }

    /// The Pod is gone. Gives the tokens to revoke: those that nobody uses and nothing lives by.
    pub(super) fn forget(&self, pod: &str) -> Vec<Arc<StoreToken>> {
        let idle = self.lock().sessions.forget(pod);
        let tokens = idle.iter().filter_map(|idle| idle.pass());
        tokens.filter(|token| token.is_ours() && !token.bears_leases()).collect()
    }

    /// A panic elsewhere cannot leave the tables half-changed: each step is one call to a map.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// This token, if it is still the token of a session.
    fn token(&self, id: &Digest) -> Option<Arc<StoreToken>> {
        self.sessions.values().filter_map(|session| session.pass()).find(|token| token.digest() == *id)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { sessions: Slots::of_bytes(MAX_SESSIONS * SESSION), bearers: HashMap::new(), denied: Shelf::of_bytes(DENIED_BYTES) }
    }
}

/// Neither the token nor the path is in the table.
fn of_path(token: &StoreToken, path: &str) -> (Digest, Digest) {
    (token.digest(), digest_of(&SecretBytes::new(path.into())))
}

impl Pass for StoreToken {
    /// Other calls renew it in the store.
    fn standing(&self) -> Standing {
        if self.is_usable() { Standing::Fresh } else { Standing::Spent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Fault;
    use crate::backend::store::vault::token::Term;
    use crate::backend::store::vault::wire::Server;
    use crate::model::{Account, LoginTls, PodClaims};

    fn pod(namespace: &str) -> PodIdentity {
        let claims =
            PodClaims { namespace: namespace.into(), name: "p".into(), uid: format!("uid-{namespace}"), service_account: "s".into() };
        PodIdentity { service_account_uid: Some("sa".into()), verified: true, ..PodIdentity::believed(&claims) }
    }

    fn key(namespace: &str, role: &str) -> Key {
        let server = Server { endpoint: "https://bao".parse().unwrap(), tls: LoginTls::default(), below: None, named_by: None };
        let (mount, role, audience) = ("jwt".to_owned(), Some(role.to_owned()), "bao".to_owned());
        let who = Scope::Account(Account { namespace: namespace.into(), name: "s".into(), uid: Some("sa".into()) });
        Key { entry: Entry { server, namespace: String::new(), mount, role, audience }, who }
    }

    fn token(key: &Key, value: &str) -> StoreToken {
        StoreToken::made(Arc::new(SecretBytes::new(value.into())), key.entry.clone(), 3600, true)
    }

    async fn enter(session: &Session, namespace: &str, token: StoreToken) -> Result<Arc<StoreToken>, Refusal> {
        session.enter(None, &pod(namespace).uid, Instant::now() + Duration::from_secs(5), async { Ok(Arc::new(token)) }).await
    }

    /// Logs in, and gives the tokens that made room for it.
    async fn log_in(sessions: &Sessions, namespace: &str, role: &str) -> Vec<Arc<StoreToken>> {
        let key = key(namespace, role);
        let (session, gone) = sessions.enter(key.clone(), &pod(namespace));
        let made = enter(&session, namespace, token(&key, role)).await;
        made.map(|_| gone).unwrap_or_default()
    }

    #[tokio::test]
    async fn made_up_roles_push_out_their_own_namespaces_logins_and_those_are_given_back() {
        let sessions = Sessions::default();
        assert!(log_in(&sessions, "shop", "csi").await.is_empty());
        let mut gone = Vec::new();
        for n in 0..MAX_SESSIONS + 100 {
            gone.extend(log_in(&sessions, "evil", &format!("role-{n}")).await);
        }
        let values: Vec<_> = gone.iter().map(|token| String::from_utf8(token.value.expose().to_vec()).unwrap()).collect();
        assert_eq!(values, (0..=100).map(|n| format!("role-{n}")).collect::<Vec<_>>(), "its own, the oldest first");
        let (session, gone) = sessions.enter(key("shop", "csi"), &pod("shop"));
        assert!(gone.is_empty() && session.pass().is_some());
    }

    #[tokio::test]
    async fn long_names_count_for_as_many_bytes_as_they_have() {
        let sessions = Sessions::default();
        assert!(log_in(&sessions, "shop", "csi").await.is_empty());
        let long = "x".repeat(100_000);
        for n in 0..200 {
            log_in(&sessions, "evil", &format!("{n}{long}")).await;
        }
        let table = sessions.lock();
        assert!((5_000_000..=MAX_SESSIONS * SESSION).contains(&table.sessions.weight()), "{}", table.sessions.weight());
        assert_eq!((table.sessions.values().count(), table.sessions.weight_of("shop")), (32, SESSION));
    }

    #[tokio::test(start_paused = true)]
    async fn denials_are_weighed_shared_and_of_one_token() {
        let sessions = Sessions::default();
        let (key, refusal) = (key("shop", "csi"), Refusal::new(Fault::Denied, "no ".repeat(100)));
        let [shop, evil] = ["a", "b"].map(|value| token(&key, value));
        for n in 0..50 {
            sessions.remember_denial("shop", &shop, &format!("kv/{n}"), &refusal);
        }
        for n in 0..10_000 {
            sessions.remember_denial("evil", &evil, &format!("kv/{n}"), &refusal);
        }
        assert!((0..50).all(|n| sessions.denial(&shop, &format!("kv/{n}")).is_some()));
        assert!(sessions.denial(&evil, "kv/9999").is_some() && sessions.denial(&evil, "kv/1").is_none());
        assert!(sessions.denial(&token(&key, "c"), "kv/1").is_none(), "another token may do better");
        assert!(sessions.lock().denied.weight() <= DENIED_BYTES);
        tokio::time::advance(DENIED).await;
        assert!(sessions.denial(&shop, "kv/1").is_none());
    }

    /// The store may report a longer life for a lease than for its token.
    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_over_bears_nothing_and_is_not_kept() {
        let sessions = Sessions::default();
        let key = key("shop", "csi");
        let bearing = |value: &str| {
            let token = Arc::new(token(&key, value));
            let years = Duration::from_hours(10 * 365 * 24);
            token.bear(digest_of(&SecretBytes::new(value.into())), Some(Term { ends: Instant::now() + years, renewable: true }));
            sessions.keep(&token);
        };
        for n in 0..100 {
            bearing(&format!("t-{n}"));
        }
        assert_eq!(sessions.lock().bearers.len(), 100);
        tokio::time::advance(Duration::from_hours(1)).await;
        bearing("next");
        assert_eq!(sessions.lock().bearers.len(), 1);
    }

    #[tokio::test]
    async fn what_is_in_use_or_bears_a_lease_is_not_given_back() {
        let sessions = Sessions::default();
        let (held, _) = sessions.enter(key("evil", "held"), &pod("evil"));
        let leased = key("evil", "leased");
        let (session, _) = sessions.enter(leased.clone(), &pod("evil"));
        let token = enter(&session, "evil", token(&leased, "leased")).await.unwrap();
        token.bear(digest_of(&SecretBytes::new(b"lease".to_vec())), None);
        sessions.keep(&token);
        drop(session);
        for n in 0..MAX_SESSIONS + 10 {
            let gone = log_in(&sessions, "evil", &format!("role-{n}")).await;
            assert!(gone.iter().all(|gone| gone.value.expose() != b"leased"));
        }
        assert!(Arc::ptr_eq(&sessions.enter(key("evil", "held"), &pod("evil")).0, &held));
        let idle = sessions.release(&token, &SecretBytes::new(b"lease".to_vec()));
        assert!(idle.is_some_and(|idle| Arc::ptr_eq(&idle, &token)), "with its last lease it is");
    }

    #[tokio::test]
    async fn a_login_that_failed_leaves_nothing() {
        let sessions = Sessions::default();
        let (key, pod) = (key("evil", "nobody"), pod("evil"));
        let (first, _) = sessions.enter(key.clone(), &pod);
        let (second, _) = sessions.enter(key.clone(), &pod);
        sessions.leave(&key, &first);
        assert!(sessions.lock().sessions.find(&key).is_some(), "another caller is still logging in");
        drop(first);
        sessions.leave(&key, &second);
        assert!(sessions.lock().sessions.find(&key).is_none());
        assert!(log_in(&sessions, "evil", "nobody").await.is_empty());
        let (session, _) = sessions.enter(key.clone(), &pod);
        sessions.leave(&key, &session);
        assert!(sessions.lock().sessions.find(&key).is_some(), "it has a token");
    }
}
