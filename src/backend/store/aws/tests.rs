//! Tests with moto, which simulates AWS; and with a small AWS of these tests, for what moto cannot do.

mod batches;
mod conformance;
mod fake;
mod naming;
mod outages;
mod reading;
mod trouble;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::*;
use crate::backend::Kind;
use crate::backend::testing::bao;
pub(super) use crate::backend::testing::moto;
use crate::backend::testing::server::Answer;
use crate::clock::{ManualClock, SystemClock};
use crate::model::{Login, PodClaims, PodTokens, Version};
use crate::yaml;
use fake::Aws;

/// A backend `amazon`, and the files of its key.
struct Bench {
    folder: TempDir,
    clock: Arc<dyn Clock>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(SystemClock) }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self.folder.path().join(name)
    }

    /// With this key, at one address for all services. `auth`: further keys in it.
    fn backend_with(&self, url: &str, (id, secret): (&str, &str), auth: &str, rest: &str) -> Arc<AwsBackend> {
        let (id, secret) = (self.file("id", id), self.file("secret", secret));
        let text = format!(
            "region: eu-west-1\nauth: {{ method: keys, accessKeyIdFile: {}, secretAccessKeyFile: {}{auth} }}\n\
             endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{url}\" }}\n{rest}",
            id.display(),
            secret.display()
        );
        let limits = StoreLimits { secret_bytes: 1024 * 1024, remembered: 0, clients: 0, calls: 64 };
        Arc::new(AwsBackend::open("amazon".parse().unwrap(), &config(&text).unwrap(), limits, Arc::clone(&self.clock)).unwrap())
    }

    /// A backend of the tests' own AWS, with the same account.
    fn backend(&self, aws: &Aws) -> Arc<AwsBackend> {
        self.backend_with(&format!("http://{}", aws.address), fake::KEY, "", "account: \"111122223333\"")
    }
}

/// The entry, or its faults.
fn config(text: &str) -> Result<AwsConfig, String> {
    let (node, mut faults) = (yaml::parse(text).unwrap(), yaml::Faults::default());
    let mut reader = yaml::Reader::of(&node, "amazon", &mut faults).unwrap();
    let config = AwsConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    let said: Vec<_> = faults.into_sorted().iter().map(ToString::to_string).collect();
    if said.is_empty() { Ok(config.unwrap()) } else { Err(said.join("\n")) }
}

fn cx() -> FetchContext {
    cx_of("web-0")
}

fn cx_of(pod: &str) -> FetchContext {
    let claims = PodClaims { namespace: "shop".into(), name: pod.into(), uid: format!("uid-{pod}"), service_account: "web".into() };
    let pod = PodIdentity { service_account_uid: Some("sa-1".into()), verified: true, ..PodIdentity::believed(&claims) };
    FetchContext::new(Arc::new(pod), Arc::new(PodTokens::new(BTreeMap::new())), Instant::now() + Duration::from_secs(30))
}

/// A secret as a class names it: `NAME` or `NAME@VERSION`.
fn secret(backend: &AwsBackend, text: &str) -> SecretRef {
    let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
    let kind = &backend.core.config;
    let asked = RefParts::read("amazon".parse().unwrap(), kind.canonical(name).unwrap());
    kind.admit(RefParts { version: version.map(Version::new), ..asked }).unwrap().into()
}

async fn read(backend: &AwsBackend, text: &str) -> Result<Arc<Secret>, BackendError> {
    backend.fetch(&secret(backend, text), &cx()).await.map(|fetched| fetched.secret)
}

/// Reads all of them at once; the results are in the same order.
async fn at_once(backend: &Arc<AwsBackend>, names: impl IntoIterator<Item = String>) -> Vec<Result<Arc<Secret>, BackendError>> {
    let mut running = JoinSet::new();
    for (at, name) in names.into_iter().enumerate() {
        let backend = Arc::clone(backend);
        running.spawn(async move { (at, read(&backend, &name).await) });
    }
    let mut all = running.join_all().await;
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, read)| read).collect()
}

fn many(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("secretsmanager/many/{n}")).collect()
}

fn field(secret: &Secret, name: &str) -> String {
    String::from_utf8(secret.fields[name].bytes.expose().to_vec()).unwrap()
}

fn whole(secret: &Secret) -> String {
    String::from_utf8(secret.response.as_ref().unwrap().bytes().expose().to_vec()).unwrap()
}

fn version(secret: &Secret) -> &str {
    secret.version.as_ref().unwrap().as_str()
}
