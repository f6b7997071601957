use serde_json::{Value, json};

use super::bao::Elsewhere;
use super::moto::Moto;
use super::*;
use crate::backend::testing::conformance::{self, Store};
use crate::backend::{Facts, HangsOn, Inadmissible, Visitor};
use crate::model::{Diagnosis, InvalidName};

/// One service with the names of the suite. Names of AWS begin with the service: this adds it to each name, and removes it from each
/// answer.
#[derive(Debug)]
struct Below {
    inner: Arc<AwsBackend>,
    service: &'static str,
}

struct Region {
    moto: Moto,
    below: Arc<Below>,
    elsewhere: Elsewhere,
}

impl Region {
    fn call(&self, target: &'static str, body: Value) -> (u16, Value) {
        let moto = self.moto.clone();
        self.elsewhere.run(async move { moto.json("eu-west-1", target, body).await })
    }
}

/// A JSON object of the fields: AWS keeps several fields like this.
fn content(fields: &[(&str, &[u8])]) -> String {
    let texts = fields.iter().map(|(name, value)| ((*name).to_owned(), json!(str::from_utf8(value).unwrap())));
    Value::Object(texts.collect()).to_string()
}

impl Store for Region {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.below) as Arc<dyn Backend>
    }

    fn kind(&self) -> &dyn Kind {
        &*self.below
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        let text = content(fields);
        if self.below.service == "ssm" {
            let body = json!({ "Name": format!("/{name}"), "Value": text, "Type": "SecureString", "Overwrite": true });
            assert_eq!(self.call("AmazonSSM.PutParameter", body).0, 200);
        } else if self.call("secretsmanager.CreateSecret", json!({ "Name": name, "SecretString": text })).0 != 200 {
            assert_eq!(self.call("secretsmanager.PutSecretValue", json!({ "SecretId": name, "SecretString": text })).0, 200);
        }
    }

    fn remove(&self, name: &str) {
        let (target, body) = if self.below.service == "ssm" {
            ("AmazonSSM.DeleteParameter", json!({ "Name": format!("/{name}") }))
        } else {
            ("secretsmanager.DeleteSecret", json!({ "SecretId": name, "ForceDeleteWithoutRecovery": true }))
        };
        assert_eq!(self.call(target, body).0, 200);
    }

    fn name(&self) -> &'static str {
        "amazon"
    }

    fn has_empty_elements(&self) -> bool {
        self.below.service == "secretsmanager"
    }

    fn keeps_bytes(&self) -> bool {
        false
    }
}

impl Below {
    fn at(&self, secret: &SecretRef) -> SecretRef {
        secret.with(|asked| asked.name = format!("{}/{}", self.service, secret.name).parse().unwrap())
    }

    fn without(&self, name: &SecretName) -> SecretName {
        name.as_str().strip_prefix(self.service).and_then(|name| name.strip_prefix('/')).unwrap().parse().unwrap()
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Below {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        self.inner.fetch(&self.at(secret), cx).await.map_err(|error| BackendError { secret: Some(secret.name.clone()), ..error })
    }

    async fn list(&self, prefix: &SecretPrefix, cx: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        let below = SecretPrefix { prefix: format!("{}/{}", self.service, prefix.prefix), ..prefix.clone() };
        Ok(self.inner.list(&below, cx).await?.iter().map(|name| self.without(name)).collect())
    }
}

#[async_trait]
impl Kind for Below {
    fn facts(&self) -> Facts<'_> {
        self.inner.core.config.facts()
    }

    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        Ok(self.without(&self.inner.core.config.canonical(&format!("{}/{name}", self.service))?))
    }

    fn pin(&self, version: &str) -> Result<Version, String> {
        self.inner.core.config.pin(version)
    }

    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible> {
        Ok(asked)
    }

    fn hangs_on(&self) -> HangsOn {
        self.inner.core.config.hangs_on()
    }

    fn open(&self, _: &BackendName, _: StoreLimits, _: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::clone(&self.inner) as Arc<dyn Backend>)
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

async fn hold(service: &'static str) {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    let inner = bench.backend_with(&moto.url(), ("AKIAEXAMPLE", "a-secret-key"), "", "");
    conformance::hold(&Region { moto, below: Arc::new(Below { inner, service }), elsewhere: Elsewhere::new() }).await;
}

#[tokio::test]
async fn secrets_manager_conforms() {
    hold("secretsmanager").await;
}

#[tokio::test]
async fn parameter_store_conforms() {
    hold("ssm").await;
}
