use std::sync::Mutex;

use serde_json::{Map, Value, json};

use super::*;
use crate::backend::testing::conformance::{self, Store};

/// All versions of each secret.
type Secrets = Arc<Mutex<BTreeMap<String, Vec<Map<String, Value>>>>>;

struct Shelf {
    secrets: Secrets,
    backend: Arc<HttpBackend>,
    _bench: Bench,
}

impl Store for Shelf {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as Arc<dyn Backend>
    }

    fn kind(&self) -> &dyn Kind {
        &self.backend.config
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), json!(str::from_utf8(value).unwrap())));
        self.secrets.lock().unwrap().entry(name.to_owned()).or_default().push(fields.collect());
    }

    fn remove(&self, name: &str) {
        self.secrets.lock().unwrap().remove(name);
    }

    fn name(&self) -> &'static str {
        "intranet"
    }

    fn keeps_bytes(&self) -> bool {
        false
    }
}

fn answer(secrets: &Secrets, line: &str) -> Option<Value> {
    let (name, query) = line.strip_prefix("GET /v1/")?.split_once('?').unwrap_or((line.strip_prefix("GET /v1/")?, ""));
    let secrets = secrets.lock().unwrap();
    let versions = secrets.get(name)?;
    let version = query.strip_prefix("version=").map_or(versions.len(), |version| version.parse().unwrap());
    let data = versions.get(version.checked_sub(1)?)?;
    Some(json!({ "data": data, "meta": { "version": version } }))
}

#[tokio::test]
async fn an_http_store_conforms() {
    let secrets = Secrets::default();
    let kept = Arc::clone(&secrets);
    let bench = Bench::new(move |asked| match answer(&kept, &asked.line) {
        Some(answer) => Answer::new(200, answer.to_string()),
        None => Answer::new(404, r#"{"error":"no such secret"}"#),
    });
    let backend = bench.backend("fields: data\nversion: meta.version\nversionQuery: version");
    conformance::hold(&Shelf { secrets, backend, _bench: bench }).await;
}
