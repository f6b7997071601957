//! A mount as a whole, whose store denies each of its secrets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::audit::AuditLog;
use crate::backend::stack::Decorator;
use crate::backend::store::file::FileConfig;
use crate::backend::testing::fake::Fake;
use crate::backend::{Backend, BackendConfig, Configured, FetchContext};
use crate::budget::FREE;
use crate::clock::SystemClock;
use crate::identity::{IdentityError, Proof};
use crate::model::{Code, PodTokens};
use crate::{turns, yaml};

const OBJECTS: usize = 512;

/// Denies each read with a message of this length.
#[derive(Debug)]
struct Denying {
    inner: Arc<Fake>,
    length: usize,
    calls: AtomicUsize,
    /// The most that a purse had spent when the store was asked.
    most: AtomicUsize,
}

#[async_trait]
impl Decorator for Denying {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(cx.payer.as_ref().unwrap().purse().spent(), Ordering::SeqCst);
        Err(BackendError {
            fault: Fault::Denied,
            backend: secret.backend.clone(),
            secret: Some(secret.name.clone()),
            reason: "x".repeat(self.length),
            retry_after: None,
            source: None,
        })
    }
}

/// Believes each Pod.
#[derive(Debug)]
struct Believing;

#[async_trait]
impl Attest for Believing {
    async fn attest(&self, claims: &PodClaims, _: &RawTokens) -> Result<Attested, IdentityError> {
        let (pod, tokens) = (Arc::new(PodIdentity::believed(claims)), PodTokens::new(BTreeMap::new()));
        Ok(Attested { pod, tokens, proof: Proof::default() })
    }

    async fn still_holds(&self, _: &Proof) -> Result<(), IdentityError> {
        Ok(())
    }
}

struct Bench {
    store: Arc<Denying>,
    pipeline: Pipeline,
}

impl Bench {
    /// With room for two whole purses of about a MiB, and a store whose denials have this length.
    fn denying(length: usize) -> Self {
        let (clock, metrics): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Arc::new(Metrics::new()));
        let store = Arc::new(Denying { inner: Fake::new(), length, calls: AtomicUsize::new(0), most: AtomicUsize::new(0) });
        let config = BackendConfig::File(FileConfig { vault: "/vault".into(), identity: Vec::new() });
        let name = || "files".parse().unwrap();
        let configured = Configured::new(BTreeMap::from([(name(), config)]), &BTreeMap::new());
        let rules = yaml::parse("- { pods: { namespace: shop }, read: [\"files/**\"] }").unwrap();
        let limits = MountLimits { objects: OBJECTS, class_bytes: 1 << 20, files: OBJECTS, secret_bytes: 1 << 16, mount_bytes: 1 << 18 };
        let budget = Budget::new(8 << 20, limits.mount_bytes, limits.secret_bytes, 4).unwrap();
        let commons = Arc::new(Commons::new(budget, 4, Volumes::new(1 << 20)));
        let deliverer = Deliverer::new(DeliveryMode::Driver, Path::new("/kubelet"), Arc::clone(&clock), Arc::clone(&commons.volumes));
        let pipeline = Pipeline {
            identity: Arc::new(Believing),
            policy: Policy::parse(&rules, &[], &mut yaml::Faults::default()),
            backends: Backends::new(configured, BTreeMap::from([(name(), Arc::clone(&store) as Arc<dyn Backend>)])),
            version_key: VersionKey::new(&vec![7; VersionKey::LENGTH].into()),
            limits,
            deliverer,
            audit: Arc::new(AuditLog::start(Box::new(Vec::new()), false, Arc::clone(&metrics)).unwrap()),
            metrics,
            clock,
            commons,
            plans: Arc::new(Plans::new(1 << 20)),
            teller: None,
        };
        Self { store, pipeline }
    }

    /// A mount of hundreds of secrets.
    async fn mount(&self) -> Code {
        let objects: String = (0..OBJECTS).map(|n| format!("- {{ secret: shop/{n}, field: v, path: f{n} }}\n")).collect();
        let attributes = json!({
            "csi.storage.k8s.io/pod.name": "web-0",
            "csi.storage.k8s.io/pod.namespace": "shop",
            "csi.storage.k8s.io/pod.uid": "uid-0",
            "csi.storage.k8s.io/serviceAccount.name": "web",
            "backend": "files",
            "objects": objects,
        });
        let target_path = "/kubelet/pods/uid-0/volumes/kubernetes.io~csi/secrets/mount".to_owned();
        let call = MountCall { attributes: attributes.to_string(), secrets: String::new(), target_path, permission: "420".to_owned() };
        let (request, given) = (RequestId::new(1), Duration::from_mins(2));
        let cx = MountContext::new(request, OWN_PROVIDER.into(), Instant::now(), Some(given), given);
        self.pipeline.mount(call, None, &cx).await.unwrap_err().code()
    }

    fn most(&self) -> usize {
        self.store.most.load(Ordering::SeqCst)
    }

    fn calls(&self) -> usize {
        self.store.calls.load(Ordering::SeqCst)
    }

    fn moving(&self) -> &turns::Turns {
        self.pipeline.commons.budget.moving()
    }

    /// Bytes and places that mounts have now.
    fn used(&self) -> (usize, usize) {
        (self.moving().slots().used(), self.pipeline.commons.places.slots().used())
    }
}

#[tokio::test(start_paused = true)]
async fn a_mount_pays_for_each_failure() {
    let bench = Bench::denying(1_000);
    assert_eq!(bench.mount().await, Code::BackendDenied);
    assert_eq!(bench.calls(), OBJECTS);
    let kept = (OBJECTS - AT_ONCE) * bench.store.length;
    assert!(bench.most() > kept && bench.most() <= FREE + bench.moving().each(), "{} of {kept}", bench.most());
    assert_eq!(bench.used(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_that_need_more_than_a_mount_may_have_are_too_large() {
    let bench = Bench::denying(4_000);
    assert_eq!(bench.mount().await, Code::TooLarge);
    assert!(bench.calls() < OBJECTS, "it asked for all {OBJECTS}");
    assert!(bench.most() <= FREE + bench.moving().each(), "{}", bench.most());
    assert_eq!(bench.used(), (0, 0));
}

/// What the other mounts hold is theirs, however many failures a mount has.
#[tokio::test(start_paused = true)]
async fn failures_wait_for_memory_that_others_hold() {
    let bench = Bench::denying(1_400);
    let others = bench.moving().draw(&"bank".into(), bench.moving().slots().capacity() / 2).unwrap();
    assert_eq!(bench.mount().await, Code::Overloaded);
    let given_back = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.used(), (others.n(), 1), "while it waits, it has its place and nothing else");
        drop(others);
    };
    let calls = bench.calls();
    let (code, ()) = tokio::join!(bench.mount(), given_back);
    assert_eq!(code, Code::BackendDenied);
    assert!(bench.calls() - calls > OBJECTS, "with a whole purse it asks again");
    assert_eq!(bench.used(), (0, 0));
}
