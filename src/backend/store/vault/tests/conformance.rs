use super::*;
use crate::backend::testing::conformance::{self, Store};

/// KV with the names of the suite. The backend never rewrites names, and an engine has its own prefix before each. So this adds the prefix,
/// and removes it from reported names.
#[derive(Debug)]
struct Below {
    inner: Arc<VaultBackend>,
    prefix: &'static str,
}

struct Kv {
    bao: Bao,
    below: Arc<Below>,
    /// Where a secret is written, and in what.
    write: fn(&str, Value) -> (String, Value),
    elsewhere: bao::Elsewhere,
}

impl Kv {
    fn api(&self, method: &'static str, path: String, body: Value) {
        let bao = self.bao.clone();
        self.elsewhere.run(async move { bao.must(method, &path, body).await });
    }
}

impl Store for Kv {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.below) as Arc<dyn Backend>
    }

    fn kind(&self) -> &dyn Kind {
        &self.below.inner.config
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        let texts = fields.iter().map(|(name, value)| ((*name).to_owned(), json!(str::from_utf8(value).unwrap())));
        let (path, body) = (self.write)(name, Value::Object(texts.collect()));
        self.api("POST", path, body);
    }

    fn remove(&self, name: &str) {
        self.api("DELETE", (self.write)(name, Value::Null).0, Value::Null);
    }

    fn name(&self) -> &'static str {
        "bao"
    }

    fn keeps_bytes(&self) -> bool {
        false
    }
}

#[async_trait]
impl crate::backend::stack::Decorator for Below {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let below = secret.with(|asked| asked.name = format!("{}{}", self.prefix, secret.name).parse().unwrap());
        self.inner.fetch(&below, cx).await.map_err(|error| BackendError { secret: Some(secret.name.clone()), ..error })
    }
}

async fn hold(prefix: &'static str, write: fn(&str, Value) -> (String, Value)) {
    let bao = Bao::dev().await;
    if prefix.starts_with("kv1") {
        bao.kv1("kv1").await;
    } else {
        bao.kv2("kv").await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &bao.token).unwrap();
    let inner = open(&bao.url(), &format!("auth: {{ method: token, tokenFile: {} }}", file.display()));
    conformance::hold(&Kv { bao, below: Arc::new(Below { inner, prefix }), write, elsewhere: bao::Elsewhere::new() }).await;
}

#[tokio::test]
async fn the_second_version_of_kv_conforms() {
    hold("kv/data/", |name, fields| (format!("kv/data/{name}"), json!({ "data": fields }))).await;
}

#[tokio::test]
async fn the_first_version_of_kv_conforms() {
    hold("kv1/", |name, fields| (format!("kv1/{name}"), fields)).await;
}
