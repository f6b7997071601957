use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::*;
use crate::backend::stack::sealed::{Sealed, SealedConfig};
use crate::backend::{Called, Fault};
use crate::budget::Ceilings;
use crate::clock::{Clock, ManualClock};
use crate::model::{Field, Lease, Method, PodClaims, PodTokens, Secret, SecretBytes, SecretName, SecretPrefix, Source, Version};
use crate::telemetry::Metrics;

mod calling;
mod keeping;
mod leaving;
mod making;
mod renewing;
mod replacing;
mod restarting;
mod sharing;

const HOUR: i64 = 3600;

/// A lease with these Unix times.
pub(super) fn lease(since: i64, ends: i64) -> Lease {
    let time = |second| Timestamp::from_second(second).unwrap();
    let bytes = |text: &str| Arc::new(SecretBytes::new(text.into()));
    let secret = secret("db/creds/app");
    Lease {
        id: bytes("lease-1"),
        renewable: true,
        since: time(since),
        ends: time(ends),
        token: bytes("token-1"),
        secret,
        while_asked: false,
    }
}

fn secret(name: &str) -> SecretRef {
    SecretRef::read("bao".parse().unwrap(), name.parse().unwrap())
}

fn pod(uid: &str) -> PodIdentity {
    of_account(uid, "web", "sa-1")
}

fn of_account(uid: &str, service_account: &str, account_uid: &str) -> PodIdentity {
    PodIdentity {
        service_account_uid: Some(account_uid.into()),
        verified: true,
        ..PodIdentity::believed(&PodClaims {
            namespace: "shop".into(),
            name: format!("web-{uid}"),
            uid: uid.into(),
            service_account: service_account.into(),
        })
    }
}

fn context(uid: &str) -> FetchContext {
    context_in("shop", uid)
}

fn context_in(namespace: &str, uid: &str) -> FetchContext {
    let deadline = Instant::now() + Duration::from_secs(30);
    let pod = Arc::new(PodIdentity { namespace: namespace.into(), ..pod(uid) });
    FetchContext {
        pod,
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline,
    }
}

/// A store that makes a credential for each caller, and counts.
#[derive(Debug)]
struct Fake {
    clock: Arc<Clocks>,
    issued: AtomicUsize,
    renewed: AtomicUsize,
    revoked: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<String>>,
    adopted: AtomicUsize,
    /// Calls of the keeper under way, and the highest number of them at once.
    calls: (AtomicUsize, AtomicUsize),
    rules: Mutex<Rules>,
}

/// What the store does next.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Seconds of a credential's life, and of what a renewal adds.
    ttl: i64,
    /// Seconds after issue when everything ends.
    max_ttl: i64,
    renewable: bool,
    leased: bool,
    made: Option<Made>,
    fetch: Option<Fault>,
    renew: Option<Fault>,
    revoke: Option<Fault>,
    /// How long a fetch waits for its turn.
    queue: Duration,
    /// How long each call takes.
    slow: Duration,
    /// The keeper's calls about secrets with this prefix are never answered.
    silent: Option<&'static str>,
    /// The bytes of a credential's password.
    large: usize,
    panics: bool,
}

/// What the store makes without a lease.
#[derive(Clone, Copy, Debug)]
enum Made {
    /// After `ttl`.
    Ending,
    /// It does not say when it ends.
    Endless,
}

impl Default for Rules {
    fn default() -> Self {
        let (fetch, renew, revoke, slow) = (None, None, None, Duration::ZERO);
        Self {
            ttl: HOUR,
            max_ttl: 1000 * HOUR,
            renewable: true,
            leased: true,
            made: None,
            fetch,
            renew,
            revoke,
            queue: Duration::ZERO,
            slow,
            silent: None,
            large: 0,
            panics: false,
        }
    }
}

/// A wall clock that follows tokio's time, and that a test can set.
#[derive(Debug)]
struct Clocks {
    began: Instant,
    set: ManualClock,
}

impl Clock for Clocks {
    fn now(&self) -> Timestamp {
        self.set.now() + SignedDuration::try_from(self.began.elapsed()).unwrap()
    }
}

impl Fake {
    fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.rules.lock().unwrap());
    }

    async fn obey(&self, fault: Option<Fault>) -> Result<(), BackendError> {
        let rules = *self.rules.lock().unwrap();
        sleep(rules.slow).await;
        assert!(!rules.panics, "as ordered");
        let secret = Some("db/creds/app".parse().unwrap());
        fault.map_or(Ok(()), |fault| {
            // Databases do this.
            let reason = "as ordered: role \"USER-1\" is in the way".to_owned();
            Err(BackendError { fault, backend: "bao".parse().unwrap(), secret, reason, retry_after: None, source: None })
        })
    }

    /// One call of the keeper.
    async fn call(&self, name: &str, fault: Option<Fault>) -> Result<(), BackendError> {
        struct UnderWay<'a>(&'a AtomicUsize);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let (now, most) = &self.calls;
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let _under_way = UnderWay(now);
        let silent = self.rules.lock().unwrap().silent;
        if silent.is_some_and(|silent| name.starts_with(silent)) {
            std::future::pending::<()>().await;
        }
        self.obey(fault).await
    }

    /// The highest number of the keeper's calls at once since the last call of this.
    fn most(&self) -> usize {
        self.calls.1.swap(self.calls.0.load(Ordering::Relaxed), Ordering::Relaxed)
    }

    fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    fn revoked(&self) -> Vec<String> {
        let mut revoked = self.revoked.lock().unwrap().clone();
        revoked.sort();
        revoked
    }
}

#[async_trait]
impl Backend for Fake {
    async fn fetch(&self, asked: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let rules = *self.rules.lock().unwrap();
        sleep(rules.queue).await;
        cx.called.mark();
        self.obey(rules.fetch).await?;
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.clock.now();
        let bytes = |text: String| Arc::new(SecretBytes::new(text.into()));
        let lease = Lease {
            id: bytes(format!("lease-{number}")),
            renewable: rules.renewable,
            since: now,
            ends: now + SignedDuration::from_secs(rules.ttl),
            token: bytes("token".into()),
            secret: asked.clone(),
            while_asked: false,
        };
        let user = Field::of_bytes(SecretBytes::new(format!("user-{number}").into()));
        let mut fields = BTreeMap::from([("username".parse().unwrap(), user)]);
        if rules.large > 0 {
            fields.insert("password".parse().unwrap(), Field::of_bytes(SecretBytes::new(vec![b'x'; rules.large])));
        }
        let lease = match rules {
            Rules { made: Some(Made::Ending), .. } => Some(Lease::of_made(asked, now, Some(lease.ends))),
            Rules { made: Some(Made::Endless), .. } => Some(Lease::of_made(asked, now, None)),
            Rules { made: None, leased, .. } => leased.then_some(lease),
        };
        let secret = Secret { fields, response: None, version: None, lease };
        Ok(Fetched { secret: Arc::new(secret), source: Source::Store, by: "bao".parse().unwrap() })
    }

    async fn list(&self, _prefix: &SecretPrefix, _cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Ok(Vec::new())
    }

    async fn renew(&self, lease: Lease, _deadline: Instant) -> Result<Lease, BackendError> {
        let rules = *self.rules.lock().unwrap();
        self.renewed.fetch_add(1, Ordering::Relaxed);
        self.call(lease.secret.name.as_str(), rules.renew).await?;
        let now = self.clock.now();
        let last = self.clock.set.now() + SignedDuration::from_secs(rules.max_ttl);
        Ok(Lease { since: now, ends: (now + SignedDuration::from_secs(rules.ttl)).min(last), ..lease })
    }

    async fn revoke(&self, lease: Lease, _deadline: Instant) -> Result<(), BackendError> {
        let rules = *self.rules.lock().unwrap();
        self.call(lease.secret.name.as_str(), rules.revoke).await?;
        self.revoked.lock().unwrap().push(String::from_utf8(lease.id.expose().to_vec()).unwrap());
        Ok(())
    }

    fn adopt(&self, _lease: &Lease) {
        self.adopted.fetch_add(1, Ordering::Relaxed);
    }

    async fn forget(&self, pod: &str, _deadline: Instant) {
        let _ = self.call(pod, None).await;
        self.forgotten.lock().unwrap().push(pod.to_owned());
    }

    async fn check(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// As if the daemon logged in as itself: every Pod is the same to the store.
    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        match secret.method {
            Method::Get | Method::List => Scope::Node,
            Method::Post | Method::Put => Scope::Pod(Arc::clone(&pod.uid)),
        }
    }
}

/// A store behind its decorator, and the table's task is running.
struct Bench {
    fake: Arc<Fake>,
    leases: Arc<Leases>,
    leased: Arc<Leased>,
    metrics: Arc<Metrics>,
    clock: Arc<Clocks>,
    kubelet: TempDir,
    task: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        Self::with(None)
    }

    /// With this sealed folder, if there is one.
    fn with(sealed: Option<&Arc<Sealed>>) -> Self {
        let kubelet = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clocks { began: Instant::now(), set: ManualClock::at("2026-01-02T03:04:05Z".parse().unwrap()) });
        let metrics = Arc::new(Metrics::new());
        let leases =
            Leases::open(kubelet.path(), sealed, Arc::clone(&clock) as Arc<dyn Clock>, Arc::clone(&metrics), &Ceilings::of(64 << 20)).0;
        let fake = Arc::new(fake(&clock));
        let stack = Arc::new(leased(&fake, "https://bao", &leases));
        let run = Arc::clone(&leases);
        let task = tokio::spawn(async move { run.run().await });
        Self { fake, leases, leased: stack, metrics, clock, kubelet, task }
    }

    async fn fetch(&self, uid: &str, name: &str) -> Result<Fetched, BackendError> {
        self.leased.fetch(&secret(name), &context(uid)).await
    }

    /// Asks for a Pod of any namespace.
    async fn ask(&self, namespace: &str, uid: &str, name: &str) -> Result<Fetched, BackendError> {
        self.leased.fetch(&secret(name), &context_in(namespace, uid)).await
    }

    /// Gets leases for Pods of a namespace, 128 each, up to `most` or until there is no more room. Returns their number, and the error if one came.
    async fn fill(&self, namespace: &str, most: usize) -> (usize, Option<BackendError>) {
        for number in 0..most {
            if let Err(error) = self.ask(namespace, &format!("{namespace}-{}", number / 128), &format!("{namespace}/{number}")).await {
                return (number, Some(error));
            }
        }
        (most, None)
    }

    /// The user that this Pod gets.
    async fn user(&self, uid: &str) -> String {
        user(&self.fetch(uid, "db/creds/app").await.unwrap())
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.encode().contains(line)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn leased(fake: &Arc<Fake>, origin: &str, leases: &Arc<Leases>) -> Leased {
    store("bao", fake, origin, leases)
}

fn store(name: &str, fake: &Arc<Fake>, origin: &str, leases: &Arc<Leases>) -> Leased {
    Leased::new(Arc::clone(fake) as Arc<dyn Backend>, &name.parse().unwrap(), Origin::new(origin), Arc::clone(leases))
}

fn fake(clock: &Arc<Clocks>) -> Fake {
    Fake {
        clock: Arc::clone(clock),
        issued: AtomicUsize::new(0),
        renewed: AtomicUsize::new(0),
        revoked: Mutex::default(),
        forgotten: Mutex::default(),
        adopted: AtomicUsize::new(0),
        calls: (AtomicUsize::new(0), AtomicUsize::new(0)),
        rules: Mutex::default(),
    }
}

fn user(fetched: &Fetched) -> String {
    String::from_utf8(fetched.secret.fields["username"].bytes.expose().to_vec()).unwrap()
}

async fn pass(seconds: u64) {
    // In steps, as time passes on a node: each timer fires in its turn.
    for _ in 0..seconds.div_ceil(10) {
        sleep(Duration::from_secs(10)).await;
    }
}
