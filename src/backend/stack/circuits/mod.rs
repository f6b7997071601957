//! What is known about servers that are out, and about failed requests, so that they are not asked again and again (docs/outage.md).
//!
//! If the store fails for a *request*, this request is held back for one second, then two, four, and up to fifteen, whatever else the store
//! answers. After a 429 with `Retry-After`, all requests of that login are held back. So one tenant's broken path stops nothing for others.
//!
//! The *circuit* of a server opens in three cases: no connection is possible; its health probe fails after a request has failed; or three secrets
//! of two namespaces begin to fail with no answer between them. While it is open, no request is sent, and a caller gets the error at once.
//! [`Standby`](super::cache::Standby), outside of this, may have an old answer. A probe closes the circuit. If probes find nothing wrong, or if a
//! class has named the server, a mount's own request closes it. If a probe fails while requests are answered, probes do not count until one
//! succeeds.
//!
//! A server is an address with its TLS settings: if a class names a wrong one, only that class has the trouble. If names lead to several servers of
//! the configuration, each of them has its own circuit. So a server that is out of reach does not stop another one.

mod circuit;
mod held;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::asked::Asked;
use crate::backend::{BackendError, Fault};
use crate::clock::Clock;
use crate::model::{BackendName, Login, LoginTls, SecretRef, Tenant};
use crate::shelf::Shelf;

pub(super) use circuit::Looking;
use circuit::{Admission, Change, Circuit, Ended};
use held::HeldBack;

/// The bytes of a circuit for a class's server, besides its texts.
const CIRCUIT: usize = 4096;

/// If a request had less time than this and got no answer, that says nothing about the store.
const ENOUGH: Duration = Duration::from_secs(10);

/// What is known about one backend's servers and failed requests. It outlives its stack if a reload changes neither the store nor its login.
pub(in crate::backend) struct Circuits {
    backend: BackendName,
    /// The servers in the configuration: at least one.
    own: Vec<Own>,
    /// The servers that classes name.
    named: Mutex<Shelf<Server, Arc<Circuit>>>,
    held: HeldBack,
    /// Of this process only, so that two nodes choose different random numbers.
    dice: RandomState,
    clock: Arc<dyn Clock>,
    /// When a configured server was last found out or back; at first, when the backend was opened.
    changed: Mutex<Timestamp>,
}

/// A server in the configuration.
struct Own {
    /// The first element of the names that lead to it; empty: all names lead to it.
    first: &'static str,
    circuit: Circuit,
}

/// The server, as far as a class names it.
type Server = (Option<String>, Option<Box<LoginTls>>);

/// Why a store is out: for the author of a class, and for the node's admin.
#[derive(Clone, Debug)]
struct Cause {
    reason: String,
    full: Option<String>,
}

/// What a request shows about its server.
#[derive(Debug)]
enum Sign {
    Answered,
    /// The server serves nobody.
    Down(Cause),
    /// The server did not serve this request.
    Failed(Cause),
    /// The server has not answered in time, and the time was short.
    Late,
    /// The server may not have been asked; or it has so much to do that it refuses.
    Nothing,
}

/// Whether it leads to a server that is not the configured one.
fn is_named(login: &Login) -> bool {
    login.address.is_some() || login.tls.is_some()
}

// === impl Circuits ===

impl Circuits {
    /// Keeps this many bytes about failures. `servers`: the first elements of names that lead to separate servers.
    pub(in crate::backend) fn new(backend: &BackendName, servers: &[&'static str], bytes: usize, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let all = if servers.is_empty() { &[""] } else { servers };
        Arc::new(Self {
            backend: backend.clone(),
            own: all.iter().map(|first| Own { first, circuit: Circuit::default() }).collect(),
            named: Mutex::new(Shelf::of_bytes(bytes / 4)),
            held: HeldBack::new(bytes / 4 * 3),
            dice: RandomState::new(),
            clock: Arc::clone(clock),
            changed: Mutex::new(clock.now()),
        })
    }

    /// Whether a configured server is out, and since when.
    pub(in crate::backend) fn state(&self) -> (bool, Timestamp) {
        (self.open() > 0, *self.changed())
    }

    /// How many of the configured servers are out.
    fn open(&self) -> usize {
        self.own.iter().filter(|own| own.circuit.is_open()).count()
    }

    pub(in crate::backend) fn resize(&self, bytes: usize) {
        self.named().resize(bytes / 4);
        self.held.resize(bytes / 4 * 3);
    }

    /// Whether this request's server is out.
    pub(super) fn is_open(&self, secret: &SecretRef) -> bool {
        self.of(secret, Circuit::is_open)
    }

    /// Whether to give an answer for a while longer that was fresh until `until`, although the store answers again. So not everything that has
    /// become too old in an outage is asked for at once. Each answer has its moment within `fresh`, or within the length of the outage.
    pub(super) fn spares(&self, asked: &Asked, until: Instant, fresh: Duration) -> bool {
        let Some(Ended { at, lasted }) = self.of(&asked.secret, Circuit::ended) else { return false };
        until <= at && Instant::now() < at + fresh.min(lasted).mul_f64(self.jitter(asked))
    }

    /// Asks the circuit of this request's server.
    fn of<T>(&self, secret: &SecretRef, say: impl FnOnce(&Circuit) -> T) -> T {
        if !is_named(&secret.login) {
            return say(&self.own(secret).circuit);
        }
        let server = (secret.login.address.clone(), secret.login.tls.clone());
        // If nothing is known about it, it is closed.
        let named = self.named().find(&server).cloned().unwrap_or_default();
        say(&named)
    }

    /// The configured server that this request's name leads to.
    fn own(&self, secret: &SecretRef) -> &Own {
        self.own_by(secret.name.as_str().split('/').next().unwrap_or_default())
    }

    fn own_by(&self, first: &str) -> &Own {
        self.own.iter().find(|own| own.first == first).unwrap_or(&self.own[0])
    }

    /// Why this request is not sent now. It is [`Fault::Down`] if its server is out, as if no connection had been possible.
    pub(super) fn refuse(&self, asked: &Asked, tenant: &Tenant) -> Option<BackendError> {
        self.ask(asked, tenant, Circuit::admit)
    }

    /// The same for a request that is not sent in any case: it uses no turn.
    pub(super) fn would_refuse(&self, asked: &Asked, tenant: &Tenant) -> Option<BackendError> {
        self.ask(asked, tenant, Circuit::would_admit)
    }

    fn ask(&self, asked: &Asked, tenant: &Tenant, admit: impl Fn(&Circuit, &Tenant, Instant) -> Admission) -> Option<BackendError> {
        let (now, secret) = (Instant::now(), &asked.secret);
        // This is first: a request that is held back must not use the turn of others.
        if let Some(hold) = self.held.find(asked, tenant, now) {
            let (ago, again) = (now.duration_since(hold.failed).as_secs(), hold.until.duration_since(now).as_secs() + 1);
            let said = format!("not asked again for {again} s, because the store failed {ago} s ago");
            let fault = if self.is_open(secret) { Fault::Down } else { Fault::Unavailable };
            return Some(self.error(fault, secret, &said, hold.cause));
        }
        if let Admission::Refused { since, cause } = self.of(secret, |circuit| admit(circuit, tenant, now)) {
            let said = format!("not asked, because the store has been out for {} s", now.duration_since(since).as_secs());
            return Some(self.error(Fault::Down, secret, &said, cause));
        }
        None
    }

    /// Whether a task must look at this request's server, and under which name. It must if the server is in doubt, no task looks at it yet, and no
    /// class has named it.
    pub(super) fn look(&self, secret: &SecretRef) -> Option<(&'static str, Looking)> {
        if is_named(&secret.login) {
            return None;
        }
        let own = self.own(secret);
        Some((own.first, own.circuit.look(Instant::now())?))
    }

    /// How long to wait before the next probe of a configured server, after this number of probes; `None`: none is due.
    pub(super) fn next_probe(&self, server: &'static str, probes: usize) -> Option<Duration> {
        let wait = self.own_by(server).circuit.next_probe(probes, Instant::now())?;
        Some(wait.mul_f64(0.75 + 0.25 * self.jitter((server, probes, Instant::now()))))
    }

    /// The result of a probe of a configured server.
    pub(super) fn probed(&self, server: &'static str, found: &Result<(), BackendError>) {
        let cause = found.as_ref().err().filter(|error| error.fault.is_outage()).map(Cause::of);
        self.tell(Some(server), self.own_by(server).circuit.probed(cause, Instant::now()));
    }

    fn error(&self, fault: Fault, secret: &SecretRef, said: &str, cause: Cause) -> BackendError {
        let Cause { reason, full } = cause;
        let full = full.map(|full| format!("{said}: {full}"));
        BackendError::with(fault, self.backend.clone(), Some(secret.name.clone()), format!("{said}: {reason}"), full)
    }

    /// A request of this tenant has ended, with this error if it failed. The last argument says when it began, and whether its caller had little
    /// time.
    pub(super) fn note(&self, asked: &Asked, tenant: &Tenant, error: Option<&BackendError>, (began, hurried): (Instant, bool)) {
        let (now, secret) = (Instant::now(), &asked.secret);
        let sign = Sign::of(error, now.duration_since(began), hurried);
        // A request that has already failed for a while shows nothing new: a tenant's broken paths are not part of an outage.
        let mut is_first = true;
        match error {
            // A request that had little time says nothing about the next one, which may have more.
            Some(error) if error.fault.is_outage() && !matches!(sign, Sign::Late) => {
                let cause = Cause::of(error);
                if let Some(wait) = error.retry_after {
                    self.held.wished(asked, tenant, cause.clone(), wait, now);
                }
                is_first = self.held.failed(asked, tenant, cause, self.jitter((asked, now)), now);
            }
            None => self.held.answered(asked),
            Some(_) => {}
        }
        let sign = if is_first { sign } else { sign.again() };
        let named = is_named(&secret.login);
        let circuit = if named { self.named_for(&secret.login, tenant, &sign) } else { None };
        let change = match &circuit {
            Some(circuit) => circuit.note(tenant, &secret.name, sign, (began, now)),
            None if named => None,
            None => self.own(secret).circuit.note(tenant, &secret.name, sign, (began, now)),
        };
        self.tell((!named).then(|| self.own(secret).first), change);
    }

    /// The circuit of a server that a class names. If nothing has failed there, it is not kept.
    fn named_for(&self, login: &Login, tenant: &Tenant, sign: &Sign) -> Option<Arc<Circuit>> {
        let server = (login.address.clone(), login.tls.clone());
        let mut named = self.named();
        match sign {
            Sign::Answered | Sign::Late | Sign::Nothing => named.find(&server).cloned(),
            Sign::Down(_) | Sign::Failed(_) => {
                if let Some(known) = named.find(&server) {
                    return Some(Arc::clone(known));
                }
                let circuit = Arc::new(Circuit::without_probes());
                let weight = CIRCUIT + 2 * weight_of(login);
                named.put(tenant.as_str(), server, Arc::clone(&circuit), weight, |_| false);
                Some(circuit)
            }
        }
    }

    /// Logs a change of a configured server, once per outage. For a server that a class names, the class's author sees it.
    fn tell(&self, own: Option<&'static str>, change: Option<Change>) {
        let (Some(server), Some(change)) = (own, change) else { return };
        let server = Some(server).filter(|server| !server.is_empty());
        match change {
            Change::Opened(cause) => {
                if self.open() == 1 {
                    *self.changed() = self.clock.now();
                }
                tracing::warn!(
                    backend = %self.backend,
                    server,
                    cause = cause.full.as_ref().unwrap_or(&cause.reason),
                    "the store is out: until it answers again, mounts get the answers that cache.stale allows, and the others fail"
                );
            }
            Change::Closed(ended) => {
                if self.open() == 0 {
                    *self.changed() = self.clock.now();
                }
                tracing::info!(backend = %self.backend, server, seconds = ended.lasted.as_secs(), "the store answers again");
            }
        }
    }

    /// A number from 0 to 1, always the same for the same thing.
    #[allow(clippy::cast_precision_loss)] // 32 bits fit
    fn jitter(&self, of: impl std::hash::Hash) -> f64 {
        (self.dice.hash_one(of) >> 32) as f64 / f64::from(u32::MAX)
    }

    /// The bytes kept about servers that classes name: in all, and for one tenant.
    #[cfg(test)]
    pub(super) fn weight_of_named(&self, tenant: &str) -> (usize, usize) {
        let named = self.named();
        (named.weight(), named.weight_of(tenant))
    }

    fn changed(&self) -> MutexGuard<'_, Timestamp> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each change is one call of the shelf.
    fn named(&self) -> MutexGuard<'_, Shelf<Server, Arc<Circuit>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of its texts.
fn weight_of(login: &Login) -> usize {
    let Login { address, audience, mount, namespace, role, tls } = login;
    let texts = [address, audience, mount, namespace, role];
    let tls = tls.as_deref().map_or(0, |LoginTls { ca, client, server_name, skip_verify: _ }| {
        let files = ca.iter().chain(client.iter().flat_map(|(chain, key)| [chain, key]));
        files.map(|path| path.as_os_str().len()).sum::<usize>() + server_name.as_ref().map_or(0, String::len)
    });
    texts.into_iter().flatten().map(String::len).sum::<usize>() + tls
}

impl fmt::Debug for Circuits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuits").field("backend", &self.backend).finish_non_exhaustive()
    }
}

// === impl Cause ===

impl Cause {
    fn of(error: &BackendError) -> Self {
        Self { reason: error.reason.clone(), full: error.source.as_ref().map(ToString::to_string) }
    }

    /// The approximate bytes that it needs.
    fn weight(&self) -> usize {
        self.reason.len() + self.full.as_ref().map_or(0, String::len)
    }
}

// === impl Sign ===

impl Sign {
    /// The sign of a request that had failed before.
    fn again(self) -> Self {
        match self {
            Self::Failed(_) => Self::Late,
            Self::Answered | Self::Down(_) | Self::Late | Self::Nothing => self,
        }
    }

    fn of(error: Option<&BackendError>, took: Duration, hurried: bool) -> Self {
        let Some(error) = error else { return Self::Answered };
        match error.fault {
            Fault::Corrupt | Fault::Denied | Fault::NotFound => Self::Answered,
            Fault::Down => Self::Down(Cause::of(error)),
            Fault::TimedOut if hurried || took < ENOUGH => Self::Late,
            Fault::TimedOut | Fault::Unavailable => Self::Failed(Cause::of(error)),
            Fault::Invalid
            | Fault::NoLogin
            | Fault::NoTurn
            | Fault::Short
            | Fault::Throttled
            | Fault::TooLarge
            // Perhaps the daemon had no token to show.
            | Fault::Unauthenticated
            | Fault::Unhelpful
            | Fault::Unsupported => Self::Nothing,
        }
    }
}
