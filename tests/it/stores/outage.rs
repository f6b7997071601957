//! Answers that Keyferry uses while the store is out: a real OpenBao, and a proxy before it that the test cuts.

use keyferry::model::PodClaims;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Store, metric, only_file};
use crate::bao::Proxy;
use crate::support::{Provider, eventually, pod, web};

mod disk;
mod gateway;
mod restarts;
mod table;

const DB: &str = "- {secret: kv/data/shop/db, field: password, path: p}";
/// Every mount asks the store.
const STALE: &str = ", cache: { fresh: 0, stale: 24h }";

/// The configuration's key for a sealed folder. It makes the folder's key.
pub fn sealed(store: &Store) -> String {
    let root = store.house.folder.path();
    std::fs::write(root.join("cache.key"), [7; 32]).unwrap();
    format!("cache: {{ sealed: {{ dir: {root}/cache, key: {root}/cache.key }} }}", root = root.display())
}

struct Outage {
    store: Store,
    proxy: Proxy,
    provider: Provider,
}

impl Outage {
    async fn new() -> Self {
        Self::with(|_| String::new()).await
    }

    /// With more in the configuration.
    async fn with(extra: impl FnOnce(&Store) -> String) -> Self {
        let store = Store::new().await;
        let proxy = Proxy::start(store.bao.address());
        store.configure(&store.bao.url_at(proxy.address), STALE, &extra(&store));
        let provider = store.house.serve();
        Self { store, proxy, provider }
    }

    /// Nobody listens there any more, and open connections are reset.
    fn cut(&self) {
        self.proxy.lead_nowhere();
    }

    fn repair(&self) {
        self.proxy.lead_to(self.store.bao.address());
    }

    /// The file, or the message.
    async fn mount(&self, pod: &PodClaims) -> Result<String, String> {
        self.mount_with(pod, &json!({ "objects": DB })).await
    }

    /// The same as the store says it, once it is asked again.
    async fn ask(&self, pod: &PodClaims) -> Result<String, String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.mount(pod).await;
            let was_asked = match &said {
                Ok(_) => self.last_object()["source"] == "store",
                Err(message) => !message.contains(": not asked"),
            };
            if was_asked {
                return said;
            }
            assert!(Instant::now() < until, "{said:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn mount_with(&self, pod: &PodClaims, parameters: &Value) -> Result<String, String> {
        let answer = self.provider.mount(self.store.asking_with(pod, parameters)).await;
        answer.map(|answer| only_file(&answer)).map_err(|status| status.message().to_owned())
    }

    /// The last audit line's first object.
    fn last_object(&self) -> Value {
        self.store.house.audit().last().unwrap()["objects"][0].clone()
    }

    async fn reload(&self, from: &str, to: &str) {
        let before = self.provider.log().matches("the configuration is reloaded").count();
        self.store.house.reconfigure(from, to);
        self.provider.signal(Signal::HUP);
        eventually("it is reloaded", async || self.provider.log().matches("the configuration is reloaded").count() > before).await;
    }
}

#[tokio::test]
async fn pods_start_while_the_store_is_down_and_everybody_sees_that() {
    let outage = Outage::new().await;
    let (good, next) = (Ok("correct horse".to_owned()), pod("shop", "web-1", "web"));
    assert_eq!(outage.mount(&web()).await, good);
    assert_eq!((outage.last_object()["source"].as_str(), outage.last_object().get("age")), (Some("store"), None));
    outage.cut();
    outage.store.bao.put("kv", "shop/db", json!({ "password": "battery staple" })).await;
    assert_eq!(outage.mount(&next).await, good, "a Pod that never mounted it, of the same ServiceAccount");
    assert_eq!(outage.last_object()["source"], "stale");
    assert!(outage.last_object()["age"].as_u64().is_some_and(|age| age < 60), "{}", outage.last_object());
    assert!(metric(&outage.provider, &["keyferry_cache_lookups_total", "outcome=\"stale\""]).await >= 1.0);
    assert!(metric(&outage.provider, &["keyferry_volume_oldest_stale_timestamp_seconds"]).await > 1e9);
    assert!((0.5..1.5).contains(&metric(&outage.provider, &["keyferry_volumes{", "stale"]).await));
    assert!(metric(&outage.provider, &["keyferry_volume_stale_half_timestamp_seconds"]).await > 1e9);
    assert!(outage.provider.get("/readyz").await.starts_with("HTTP/1.1 200"), "Pods start: {}", outage.provider.get("/readyz").await);
    let others = outage.mount(&pod("shop", "api-0", "api")).await.unwrap_err();
    assert!(others.starts_with("BackendUnavailable: ") && others.contains("connection"), "{others}");
    let denied = outage.mount(&pod("bank", "web-0", "web")).await.unwrap_err();
    assert!(denied.starts_with("PolicyDenied: "), "{denied}");
    let never = outage.mount_with(&web(), &json!({ "objects": DB, "maxStale": "0" })).await.unwrap_err();
    assert!(never.starts_with("BackendUnavailable: "), "{never}");
    assert_eq!(outage.mount_with(&web(), &json!({ "objects": DB, "maxStale": "48h" })).await, good);
    let other = json!({ "objects": "- {secret: kv/data/shop/new, field: password, path: p}" });
    outage.mount_with(&web(), &other).await.unwrap_err();
    outage.repair();
    let new = Ok("battery staple".to_owned());
    assert_eq!((outage.ask(&web()).await, outage.ask(&next).await), (new.clone(), new));
    assert_eq!(outage.last_object()["source"], "store");
    assert!(metric(&outage.provider, &["keyferry_volume_oldest_stale_timestamp_seconds"]).await < 1.0, "nobody has one any more");
    for line in ["the store is out", "the store answers again"] {
        assert_eq!(outage.provider.log().matches(line).count(), 1, "{line}: {}", outage.provider.log());
    }
}

#[tokio::test]
async fn each_kind_of_outage_is_one() {
    let outage = Outage::new().await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    let is_stale = async |what: &str| {
        assert_eq!(outage.mount(&web()).await, good, "{what}");
        assert_eq!(outage.last_object()["source"], "stale", "{what}");
    };
    outage.store.bao.seal().await;
    is_stale("sealed").await;
    outage.store.bao.unseal().await;
    assert_eq!(outage.ask(&web()).await, good);
    outage.proxy.reset_after(100, 1_000);
    is_stale("cut in the middle").await;
    outage.proxy.reset_after(100, 0);
    outage.proxy.cut();
    assert_eq!(outage.ask(&web()).await, good);
    outage.proxy.blackhole(true);
    let began = Instant::now();
    is_stale("silent").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    outage.proxy.blackhole(false);
    outage.proxy.cut();
    assert_eq!(outage.ask(&web()).await, good);
    outage.store.bao.rate_limit("kv", 1, 600, false).await;
    assert_eq!(outage.mount(&web()).await, good);
    is_stale("429").await;
}

#[tokio::test]
async fn what_the_store_withdrew_serves_no_outage() {
    let outage = Outage::new().await;
    let (bao, good) = (&outage.store.bao, Ok("correct horse".to_owned()));
    let refused_in_an_outage = async |what: &str| {
        outage.cut();
        let refused = outage.mount(&web()).await;
        assert!(refused.as_ref().is_err_and(|message| message.starts_with("BackendUnavailable: ")), "{what}: {refused:?}");
        outage.repair();
    };
    assert_eq!(outage.mount(&web()).await, good);
    bao.must("DELETE", "kv/data/shop/db", Value::Null).await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("SecretNotFound: "));
    refused_in_an_outage("a deleted version").await;
    bao.put("kv", "shop/db", json!({ "password": "correct horse" })).await;
    assert_eq!(outage.ask(&web()).await, good);
    bao.policy("csi", r#"path "other/*" { capabilities = ["read"] }"#).await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendDenied: "));
    refused_in_an_outage("a path that is denied").await;
}

#[tokio::test]
async fn while_the_login_is_refused_nothing_serves_an_outage() {
    let outage = Outage::new().await;
    let (bao, good) = (&outage.store.bao, Ok("correct horse".to_owned()));
    assert_eq!(outage.mount(&web()).await, good);
    bao.must("DELETE", "auth/jwt/role/csi", Value::Null).await;
    for accessor in bao.accessors().await {
        if bao.token_of(&accessor).await.is_some_and(|token| token["path"] == "auth/jwt/login") {
            bao.revoke_token(&accessor).await;
        }
    }
    let refused = outage.mount(&web()).await.unwrap_err();
    assert!(refused.starts_with("BackendLoginFailed: "), "{refused}");
    outage.cut();
    let refused = outage.mount(&web()).await.unwrap_err();
    assert!(refused.starts_with("BackendUnavailable: "), "{refused}");
    outage.repair();
    bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
    assert_eq!(outage.ask(&web()).await, good);
    outage.cut();
    assert_eq!(outage.mount(&web()).await, good, "it succeeds again");
}

#[tokio::test]
async fn a_reload_takes_away_what_policy_denies_and_what_another_store_said() {
    let outage = Outage::new().await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    outage.cut();
    outage.reload("metrics: {", "limits: { perBackend: 63 }\nmetrics: {").await;
    assert_eq!(outage.mount(&web()).await, good, "what changes neither the store nor the rules changes nothing");
    outage.reload("bao/kv/data/shop/**", "bao/kv/data/other/**").await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("PolicyDenied: "));
    outage.reload("bao/kv/data/other/**", "bao/kv/data/shop/**").await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendUnavailable: "), "it was denied once");
    outage.repair();
    assert_eq!(outage.ask(&web()).await, good);
    outage.cut();
    outage.reload("role: csi", "role: other").await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("BackendUnavailable: "), "another login");
}
