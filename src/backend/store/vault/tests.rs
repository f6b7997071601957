//! Against a real OpenBao server.

mod conformance;
mod denials;
mod files;
mod leases;
mod logins;
mod reading;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::*;
use crate::backend::testing::bao::{self, Bao, Options, Postgres, Proxy, Reviews, eventually};
use crate::backend::{Called, Kind};
use crate::clock::SystemClock;
use crate::identity::Issuer;
use crate::model::{Login, Method, PodClaims, PodToken, PodTokens, RefParts, Secret, SecretBytes};
use crate::yaml;

const AUDIENCE: &str = "bao";

const READ_SHOP: &str = "path \"kv/data/shop/*\" { capabilities = [\"read\"] }";

/// A server with a secret, a policy and a jwt login for the Pods of this bench's issuer.
struct Bench {
    bao: Bao,
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let (bao, issuer) = (Bao::configured(options).await, Issuer::new("https://oidc.example").unwrap());
        bao.kv2("kv").await;
        bao.put("kv", "shop/db", json!({ "username": "app", "password": "correct horse" })).await;
        bao.policy("shop", READ_SHOP).await;
        bao.jwt("jwt", &issuer.jwks()).await;
        let bench = Self { bao, issuer, folder: tempfile::tempdir().unwrap() };
        bench.role("csi", json!({ "policies": ["shop"], "ttl": "1h" })).await;
        bench.bao.requests();
        bench
    }

    async fn role(&self, role: &str, more: Value) {
        self.bao.jwt_role("jwt", role, AUDIENCE, more).await;
    }

    /// A backend `bao` whose configuration is this after its address.
    fn backend(&self, rest: &str) -> Arc<VaultBackend> {
        open(&self.bao.url(), rest)
    }

    /// Logs in as the Pod by jwt, as role `csi`.
    fn as_pod(&self) -> Arc<VaultBackend> {
        self.backend("auth: { method: jwt, role: csi, audience: bao }")
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self.folder.path().join(name)
    }

    fn token(&self, claims: &PodClaims, audience: &str) -> String {
        self.issuer.token(claims, audience, std::time::Duration::from_hours(1), &SystemClock).unwrap()
    }

    fn cx(&self, claims: &PodClaims) -> FetchContext {
        self.cx_with(claims, AUDIENCE)
    }

    /// What a mount of this Pod brings along: a verified token for one audience.
    fn cx_with(&self, claims: &PodClaims, audience: &str) -> FetchContext {
        let jwt = Arc::new(SecretBytes::new(self.token(claims, audience).into_bytes()));
        let token = PodToken { jwt, expires: SystemClock.now() };
        FetchContext {
            pod: Arc::new(verified(claims)),
            tokens: Arc::new(PodTokens::new(BTreeMap::from([(audience.to_owned(), token)]))),
            fresh: None,
            max_stale: None,
            patience: None,
            live: false,
            payer: None,
            party: None,
            called: Called::default(),
            deadline: soon(),
        }
    }

    /// The web Pod reads a name.
    async fn read(&self, backend: &VaultBackend, name: &str) -> Result<Arc<Secret>, BackendError> {
        fetch(backend, &secret(backend, name), &self.cx(&web())).await
    }
}

const LIMITS: StoreLimits = StoreLimits { secret_bytes: 1024 * 1024, remembered: 0, clients: 1024 * 1024, calls: 64 };

fn open(address: &str, rest: &str) -> Arc<VaultBackend> {
    let text = format!("address: {address}\n{rest}");
    let (node, mut faults) = (yaml::parse(&text).unwrap(), yaml::Faults::default());
    let mut reader = yaml::Reader::of(&node, "bao", &mut faults).unwrap();
    let config = VaultConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    Arc::new(VaultBackend::open("bao".parse().unwrap(), &config.unwrap(), LIMITS, Arc::new(SystemClock)).unwrap())
}

fn verified(claims: &PodClaims) -> PodIdentity {
    let uid = format!("sa-{}-{}", claims.namespace, claims.service_account);
    PodIdentity { service_account_uid: Some(uid.into()), verified: true, ..PodIdentity::believed(claims) }
}

fn web() -> PodClaims {
    pod("shop", "web-0", "web")
}

fn pod(namespace: &str, name: &str, service_account: &str) -> PodClaims {
    let uid = format!("uid-{namespace}-{name}");
    PodClaims { namespace: namespace.into(), name: name.into(), uid, service_account: service_account.into() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// As a class asks for it that sets only a name.
fn secret(backend: &VaultBackend, name: &str) -> SecretRef {
    secret_as(backend, name, Login::default())
}

fn secret_as(backend: &VaultBackend, name: &str, login: Login) -> SecretRef {
    let asked = RefParts { login, ..RefParts::read("bao".parse().unwrap(), backend.config.canonical(name).unwrap()) };
    backend.config.admit(asked).unwrap().into()
}

fn posted(backend: &VaultBackend, name: &str, args: &[(&str, Value)]) -> SecretRef {
    let mut asked = RefParts { method: Method::Post, ..RefParts::clone(&secret(backend, name)) };
    for (name, value) in args {
        asked.args.insert(*name, value);
    }
    asked.into()
}

async fn fetch(backend: &VaultBackend, secret: &SecretRef, cx: &FetchContext) -> Result<Arc<Secret>, BackendError> {
    backend.fetch(secret, cx).await.map(|fetched| fetched.secret)
}

fn field(secret: &Secret, name: &str) -> String {
    String::from_utf8(secret.fields[name].bytes.expose().to_vec()).unwrap()
}

/// All of them at once.
async fn at_once(backend: &Arc<VaultBackend>, calls: Vec<(SecretRef, FetchContext)>) -> Vec<Result<Arc<Secret>, BackendError>> {
    let mut running = JoinSet::new();
    for (secret, cx) in calls {
        let backend = Arc::clone(backend);
        running.spawn(async move { fetch(&backend, &secret, &cx).await });
    }
    running.join_all().await
}

#[tokio::test]
async fn a_pod_reads_with_its_own_login() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let read = bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!((field(&read, "username"), field(&read, "password")), ("app".to_owned(), "correct horse".to_owned()));
    assert_eq!(read.version.as_ref().unwrap().as_str(), "1");
    assert!(read.lease.is_none());
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!(json!(bench.bao.counted()), json!({ "update auth/jwt/login": 1, "read kv/data/shop/db": 2 }));
    backend.check().await.unwrap();
}
