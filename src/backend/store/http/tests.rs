//! Tests with a real server, over TLS with a CA that the test makes.

mod answers;
mod conformance;
mod credentials;
mod leaks;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::time::Duration;

use super::*;
use crate::backend::testing::server::{Answer, Asked, Server};
use crate::backend::{Called, Kind};
use crate::clock::{Clock, SystemClock};
use crate::http::tests::server::{Authority, Manner};
use crate::model::{Method, PodClaims, PodToken, PodTokens, RefParts, SecretBytes};
use crate::yaml;

/// A store, its CA, and files.
struct Bench {
    authority: Authority,
    server: Server,
    folder: TempDir,
}

impl Bench {
    fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::of(&Manner::default(), answer)
    }

    fn of(manner: &Manner, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let authority = Authority::new("Test CA");
        let server = Server::secured(authority.acceptor(manner), answer);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
        Self { authority, server, folder }
    }

    /// Answers each request with this.
    fn saying(status: u16, body: &'static str) -> Self {
        Self::new(move |_| Answer::new(status, body))
    }

    fn origin(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// A backend `intranet` with its address, its CA and this configuration.
    fn backend(&self, rest: &str) -> Arc<HttpBackend> {
        self.backend_at("/v1/{name}", rest)
    }

    fn backend_at(&self, path: &str, rest: &str) -> Arc<HttpBackend> {
        let ca = self.folder.path().join("ca.crt");
        open(&format!("url: \"{}{path}\"\nca: {}\n{rest}", self.origin(), ca.display()))
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What the Pod gets if it asks for `shop/db`.
    async fn read(&self, rest: &str) -> Result<Arc<Secret>, BackendError> {
        fetch(&self.backend(rest), "shop/db").await
    }

    /// How the same fails.
    async fn fails(&self, rest: &str) -> String {
        self.told(&self.read(rest).await.unwrap_err())
    }

    fn told(&self, error: &BackendError) -> String {
        let folder = self.folder.path().display().to_string();
        format!("{:?}: {error}", error.fault).replace(&self.origin(), "ORIGIN").replace(&folder, "DIR")
    }
}

pub(super) fn parsed(text: &str) -> Result<HttpBackendConfig, String> {
    let (node, mut faults) = (yaml::parse(text).unwrap(), yaml::Faults::default());
    let mut reader = yaml::Reader::of(&node, "", &mut faults).unwrap();
    let config = HttpBackendConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    let told: Vec<_> = faults.into_sorted().iter().map(|fault| format!("{}: {fault}", fault.at.line)).collect();
    config.filter(|_| told.is_empty()).ok_or_else(|| told.join("\n"))
}

fn open(text: &str) -> Arc<HttpBackend> {
    Arc::new(HttpBackend::open("intranet".parse().unwrap(), &parsed(text).unwrap(), 64 * 1024).unwrap())
}

fn pod(name: &str, service_account: &str) -> PodIdentity {
    let claims =
        PodClaims { namespace: "shop".into(), name: name.into(), uid: format!("uid-{name}"), service_account: service_account.into() };
    let uid = Some(format!("uid-of-{service_account}").into());
    PodIdentity { service_account_uid: uid, verified: true, ..PodIdentity::believed(&claims) }
}

fn tokens(all: &[(&str, &str)]) -> PodTokens {
    let token = |jwt: &str| PodToken { jwt: Arc::new(SecretBytes::new(jwt.into())), expires: SystemClock.now() };
    PodTokens::new(all.iter().map(|(audience, jwt)| ((*audience).to_owned(), token(jwt))).collect::<BTreeMap<_, _>>())
}

/// The Pod `web-0` with its token for `intranet`, and for others.
fn cx() -> FetchContext {
    FetchContext {
        pod: Arc::new(pod("web-0", "web")),
        tokens: Arc::new(tokens(&[("intranet", "token-for-intranet"), ("keyferry", "token-for-keyferry")])),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline: Instant::now() + Duration::from_secs(20),
    }
}

fn secret(backend: &HttpBackend, name: &str, version: Option<&str>) -> SecretRef {
    let config = &backend.config;
    let version = version.map(|version| config.pin(version).unwrap());
    let asked = RefParts { version, ..RefParts::read("intranet".parse().unwrap(), config.canonical(name).unwrap()) };
    config.admit(asked).unwrap().into()
}

async fn fetch(backend: &HttpBackend, name: &str) -> Result<Arc<Secret>, BackendError> {
    backend.fetch(&secret(backend, name, None), &cx()).await.map(|fetched| fetched.secret)
}

/// `name=value name=value @version`.
fn shown(secret: &Secret) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = secret.fields.iter().map(|(name, field)| format!("{name}={}", text(field.bytes.expose())));
    fields.chain(secret.version.iter().map(|version| format!("@{version}"))).collect::<Vec<_>>().join(" ")
}
