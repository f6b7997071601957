//! Tests with moto where it is good enough, and with a fake of these tests for the rest.

mod annotations;
mod bounds;
mod fake;
mod local;
mod logins;
mod refusals;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio::time::Duration;

use super::*;
use crate::backend::store::aws::tests::moto::Moto;
use crate::backend::testing::server::{Answer, Server};
use crate::clock::SystemClock;
use crate::model::{Login, PodClaims, PodToken, PodTokens, Response};
use crate::yaml;

const AUDIENCE: &str = "sts.amazonaws.com";

const ROLE: &str = "arn:aws:iam::123456789012:role/web";

/// A configuration with a region, then this text, and STS at this address.
fn config(sts: &str, rest: &str) -> AwsConfig {
    let text = format!("region: eu-west-1\nendpoints: {{ sts: \"{sts}\" }}\n{rest}");
    let (node, mut faults) = (yaml::parse(&text).unwrap(), yaml::Faults::default());
    let mut reader = yaml::Reader::of(&node, "amazon", &mut faults).unwrap();
    let config = AwsConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    config.unwrap()
}

fn open(sts: &str, rest: &str) -> Arc<Identities> {
    let nowhere = || Annotations::of(ANNOTATION, Err("this is not a Pod".to_owned()));
    Arc::new(Identities::with(&config(sts, rest), nowhere, Arc::new(SystemClock)).unwrap())
}

fn pod(namespace: &str, name: &str, service_account: &str) -> PodIdentity {
    let uid = format!("uid-{namespace}-{name}");
    let claims = PodClaims { namespace: namespace.into(), name: name.into(), uid, service_account: service_account.into() };
    let uid = format!("sa-{namespace}-{service_account}");
    PodIdentity { service_account_uid: Some(uid.into()), verified: true, ..PodIdentity::believed(&claims) }
}

fn web() -> PodIdentity {
    pod("shop", "web-0", "web")
}

/// With tokens for both audiences.
fn cx(pod: &PodIdentity) -> FetchContext {
    let token = |audience: &str| {
        let jwt = format!("jwt-of-{}-for-{audience}", pod.name);
        (audience.to_owned(), PodToken { jwt: Arc::new(SecretBytes::new(jwt.into())), expires: SystemClock.now() })
    };
    let tokens = PodTokens::new(BTreeMap::from([token(AUDIENCE), token("pods.eks.amazonaws.com")]));
    FetchContext::new(Arc::new(pod.clone()), Arc::new(tokens), Instant::now() + Duration::from_secs(30))
}

fn secret(role: Option<&str>) -> SecretRef {
    let login = Login { role: role.map(str::to_owned), ..Login::default() };
    let asked = crate::model::RefParts { login, ..crate::model::RefParts::read("amazon".parse().unwrap(), "ssm/a".parse().unwrap()) };
    asked.into()
}

/// An answer that a store might give.
fn answer(text: &str) -> Secret {
    Secret {
        fields: BTreeMap::new(),
        response: Some(Response::Stored(Arc::new(SecretBytes::new(text.into())))),
        version: None,
        lease: None,
    }
}

/// The id of the key that a Pod is given.
async fn key_of(identities: &Identities, role: Option<&str>, pod: &PodIdentity) -> Result<String, Refusal> {
    Box::pin(identities.session(&secret(role), &cx(pod))).await.map(|session| session.credentials().id().to_owned())
}

async fn refused(identities: &Identities, role: Option<&str>, pod: &PodIdentity) -> Refusal {
    let refusal = key_of(identities, role, pod).await.unwrap_err();
    assert!(!refusal.reason.contains("jwt-of") && !refusal.reason.contains("canary"), "{}", refusal.reason);
    refusal
}

/// Logs in for all of them at once. Returns the number of different keys.
async fn keys_at_once(identities: &Arc<Identities>, pods: Vec<PodIdentity>) -> usize {
    let mut running = JoinSet::new();
    for pod in pods {
        let identities = Arc::clone(identities);
        running.spawn(async move { key_of(&identities, Some(ROLE), &pod).await.unwrap() });
    }
    running.join_all().await.into_iter().collect::<std::collections::BTreeSet<_>>().len()
}

/// Files of a test, which end with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `auth: { method: keys ...` without its end.
    fn keys(&self, id: &str, secret: &str) -> String {
        let (id, secret) = (self.file("id", id), self.file("secret", secret));
        format!("auth: {{ method: keys, accessKeyIdFile: {}, secretAccessKeyFile: {}", id.display(), secret.display())
    }
}

impl Identities {
    /// The same API server for another backend.
    fn annotations_of_test(&self) -> Annotations {
        let Way::Irsa { annotations, .. } = &self.way else { panic!("no annotations") };
        annotations.again()
    }

    /// The weight of all annotations, and of those of a namespace.
    fn noted_of_test(&self, namespace: &str) -> (usize, usize) {
        let Way::Irsa { annotations, .. } = &self.way else { panic!("no annotations") };
        annotations.weights(namespace)
    }

    async fn annotation_of_test(&self, pod: &PodIdentity) -> Result<Arc<Noted>, Refusal> {
        let Way::Irsa { annotations, .. } = &self.way else { panic!("no annotations") };
        annotations.of_pod(pod, Instant::now() + Duration::from_secs(30)).await
    }
}
