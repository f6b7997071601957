//! A store in memory for the decorators' tests: it counts its calls, and does with each call what the test says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::conformance::{self, Store};
use crate::backend::{
    Backend, BackendError, Called, Facts, Fault, FetchContext, HangsOn, Inadmissible, Kind, Scope, StoreLimits, Visitor, only_reads,
};
use crate::clock::Clock;
use crate::model::{
    BackendName, Diagnosis, Fetched, InvalidName, Lease, PodClaims, PodIdentity, PodTokens, RefParts, Secret, SecretBytes, SecretName,
    SecretPrefix, SecretRef, Source, Verb, Version,
};

/// The result of one call.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// The secret that was put in.
    Answer,
    Leased,
    Fail(Fault),
    Panic,
    /// It throttles, and says for how long.
    RetryAfter(Duration),
}

#[derive(Debug, Default)]
pub struct Fake {
    secrets: Mutex<BTreeMap<String, Vec<Fields>>>,
    script: Mutex<VecDeque<(Duration, Then)>>,
    calls: AtomicUsize,
    in_the_air: AtomicUsize,
    probes: AtomicUsize,
    probed: Mutex<Option<Fault>>,
    out: Mutex<Option<Fault>>,
    /// Every answer, and for whom it was.
    pub given: Mutex<Vec<(Arc<Secret>, Scope, SecretRef)>>,
    pub revoked: AtomicUsize,
    pub forgotten: Mutex<Vec<String>>,
}

type Fields = Vec<(String, Vec<u8>)>;

/// The configuration of a fake.
#[derive(Debug)]
pub struct Configured;

/// For the conformance suite: a decorator around a store that the suite can fill.
#[derive(Debug)]
pub struct Around {
    pub store: Arc<Fake>,
    pub backend: Arc<dyn Backend>,
    pub lag: Duration,
}

/// Counts a call as in the air while this is alive.
struct InTheAir<'f>(&'f AtomicUsize);

// === impl Fake ===

impl Fake {
    /// With one secret, `kv/db`.
    pub fn new() -> Arc<Self> {
        let fake = Self::default();
        fake.put("kv/db", &[("password", b"v1")]);
        Arc::new(fake)
    }

    pub fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        self.secrets.lock().unwrap().entry(name.to_owned()).or_default().push(fields);
    }

    /// The next calls: how long each takes, and its result. Later calls answer at once.
    pub fn next(&self, calls: impl IntoIterator<Item = (Duration, Then)>) {
        self.script.lock().unwrap().extend(calls);
    }

    /// All calls from now on answer at once.
    pub fn clear(&self) {
        self.script.lock().unwrap().clear();
    }

    /// The result of probes from now on.
    pub fn fails_probes(&self, fault: Option<Fault>) {
        *self.probed.lock().unwrap() = fault;
    }

    /// Every call and probe fails in this way from now on; `None`: they work again.
    pub fn is_out(&self, fault: Option<Fault>) {
        *self.out.lock().unwrap() = fault;
        self.fails_probes(fault);
    }

    pub fn is_it_out(&self) -> bool {
        self.out.lock().unwrap().is_some()
    }

    pub fn remove(&self, name: &str) {
        self.secrets.lock().unwrap().remove(name);
    }

    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn in_the_air(&self) -> usize {
        self.in_the_air.load(Ordering::SeqCst)
    }

    fn answer(&self, secret: &SecretRef, then: Then, cx: &FetchContext) -> Result<Secret, BackendError> {
        let lease = match then {
            Then::Answer => None,
            Then::Leased => Some(lease(secret)),
            Then::Fail(fault) => return Err(error(fault, secret, "as it was told")),
            Then::Panic => panic!("as it was told"),
            Then::RetryAfter(wait) => {
                return Err(BackendError { retry_after: Some(wait), ..error(Fault::Throttled, secret, "as it was told") });
            }
        };
        if secret.verb() == Verb::Update || lease.is_some() {
            // What is made is made for one Pod.
            let made = format!("{}#{}", cx.pod.uid, self.calls());
            return Ok(Secret { fields: conformance::fields(&[("made", made.as_bytes())]), response: None, version: None, lease });
        }
        let secrets = self.secrets.lock().unwrap();
        let versions = secrets.get(secret.name.as_str()).map_or(&[][..], Vec::as_slice);
        let version = secret.version.as_ref().map_or(versions.len(), |version| version.as_str().parse().unwrap());
        let Some(fields) = version.checked_sub(1).and_then(|at| versions.get(at)) else {
            return Err(error(Fault::NotFound, secret, "there is no such secret"));
        };
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let version = Some(Version::new(version.to_string()));
        Ok(Secret { fields: conformance::fields(&fields), response: None, version, lease: None })
    }
}

/// The Pod `pod` of the ServiceAccount `account`, with this much time.
pub fn context(pod: &str, account: &str, time: Duration) -> FetchContext {
    let claims = PodClaims { namespace: "shop".into(), name: pod.into(), uid: pod.into(), service_account: account.into() };
    FetchContext {
        pod: Arc::new(PodIdentity::believed(&claims)),
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline: Instant::now() + time,
    }
}

pub fn secret(name: &str) -> SecretRef {
    SecretRef::read("bao".parse().unwrap(), name.parse().unwrap())
}

/// The text of the first field.
pub fn text(fetched: &Fetched) -> String {
    let field = fetched.secret.fields.values().next().unwrap();
    String::from_utf8(field.bytes.expose().to_vec()).unwrap()
}

fn lease(secret: &SecretRef) -> Lease {
    let bytes = |text: &str| Arc::new(SecretBytes::new(text.into()));
    let (since, ends) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
    Lease { id: bytes("lease"), renewable: true, since, ends, token: bytes("token"), secret: secret.clone(), while_asked: false }
}

fn error(fault: Fault, secret: &SecretRef, reason: &str) -> BackendError {
    BackendError {
        fault,
        backend: secret.backend.clone(),
        secret: Some(secret.name.clone()),
        reason: reason.to_owned(),
        retry_after: None,
        source: None,
    }
}

#[async_trait]
impl Backend for Fake {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        cx.called.mark();
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.in_the_air.fetch_add(1, Ordering::SeqCst);
        let _landing = InTheAir(&self.in_the_air);
        if let Some(fault) = *self.out.lock().unwrap() {
            return Err(error(fault, secret, "as it was told"));
        }
        let (after, then) = self.script.lock().unwrap().pop_front().unwrap_or((Duration::ZERO, Then::Answer));
        // The secret is read when the call arrives; the answer may come later.
        let answer = matches!(then, Then::Answer).then(|| self.answer(secret, then, cx));
        if !after.is_zero() && timeout_at(cx.deadline, sleep(after)).await.is_err() {
            return Err(error(Fault::TimedOut, secret, "the store is slow"));
        }
        let answer = Arc::new(answer.unwrap_or_else(|| self.answer(secret, then, cx))?);
        self.given.lock().unwrap().push((Arc::clone(&answer), self.scope(secret, &cx.pod), secret.clone()));
        Ok(Fetched { secret: answer, source: Source::Store, by: secret.backend.clone() })
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Err(error(Fault::Unsupported, &secret("list"), "it cannot list"))
    }

    async fn renew(&self, lease: Lease, _: Instant) -> Result<Lease, BackendError> {
        Ok(lease)
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        self.revoked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn adopt(&self, _: &Lease) {}

    async fn forget(&self, pod: &str, _: Instant) {
        self.forgotten.lock().unwrap().push(pod.to_owned());
    }

    async fn check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self, _: &str) -> Result<(), BackendError> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        let probed = *self.probed.lock().unwrap();
        probed.map_or(Ok(()), |fault| Err(error(fault, &secret("probe"), "as it was told")))
    }

    /// Secrets below `own/` are for one Pod each, those below `node/` for all Pods of the node, and all others for a ServiceAccount's Pods.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        if secret.verb() == Verb::Update || secret.name.as_str().starts_with("own/") {
            return Scope::Pod(Arc::clone(&pod.uid));
        }
        if secret.name.as_str().starts_with("node/") { Scope::Node } else { Scope::Account(pod.account()) }
    }
}

#[async_trait]
impl Kind for Configured {
    fn facts(&self) -> Facts<'_> {
        Facts::default()
    }

    fn hangs_on(&self) -> HangsOn {
        HangsOn::default().and("kind", "fake")
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        name.parse()
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        version.parse::<usize>().map(|number| Version::new(number.to_string())).map_err(|error| error.to_string())
    }

    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible> {
        only_reads(asked, "fake store")
    }

    fn open(&self, _: &BackendName, _: StoreLimits, _: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Fake::new())
    }

    async fn examine(
        &self,
        _: &BackendName,
        _: StoreLimits,
        _: &Arc<dyn Clock>,
        _: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        Ok(Vec::new())
    }
}

impl Drop for InTheAir<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store for Around {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn kind(&self) -> &dyn Kind {
        &Configured
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        self.store.put(name, fields);
    }

    fn remove(&self, name: &str) {
        self.store.remove(name);
    }

    fn name(&self) -> &'static str {
        "bao"
    }

    fn lag(&self) -> Duration {
        self.lag
    }
}
