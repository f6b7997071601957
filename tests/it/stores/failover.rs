//! Two real OpenBao servers, and a proxy before each that the test cuts: the second one answers while the first is out.

use keyferry::model::PodClaims;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{POLICY, Store, metric, only_file};
use crate::bao::{Bao, Postgres, Proxy};
use crate::support::{Provider, eventually, keyferry, pod, run, web};

const DB: &str = "- {secret: kv/data/shop/db, field: password, path: p}";
const CREDENTIAL: &str = "- {secret: database/creds/app, field: username, path: p}";
const CERTIFICATE: &str = "- {secret: pki/issue/app, method: POST, args: {common_name: app.example}, field: serial_number, path: p}";

/// Policy allows only `both`: nobody may name its members.
const RULES: &str = r#"  - pods: { namespace: shop }
    read: ["both/kv/data/shop/**", "both/database/creds/*"]
    update: ["both/pki/issue/*"]
  - pods: { namespace: shop, serviceAccount: api }
    deny: ["bao-dr/kv/data/shop/db"]"#;

/// Every mount asks the store, and Keyferry keeps the answers for an outage.
const CACHE: &str = ", cache: { fresh: 0, stale: 24h }";

struct Pair {
    store: Store,
    dr: Bao,
    proxies: [Proxy; 2],
    provider: Provider,
}

impl Pair {
    async fn new(extra: &str) -> Self {
        Self::with(|_| extra.to_owned()).await
    }

    /// The secret `shop/db` is in both, with other contents. `extra`: further keys of the configuration.
    async fn with(extra: impl FnOnce(&Store) -> String) -> Self {
        let (store, dr) = (Store::new().await, Bao::configured(crate::bao::Options::default()).await);
        dr.kv2("kv").await;
        dr.put("kv", "shop/db", json!({ "password": "of the second" })).await;
        dr.policy("csi", POLICY).await;
        dr.jwt("jwt", &store.house.issuer.jwks()).await;
        dr.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
        let proxies = [store.bao.address(), dr.address()].map(Proxy::start);
        let auth = "{ method: jwt, mount: jwt, role: csi, audience: bao }";
        store.configure_as(auth, &store.bao.url_at(proxies[0].address), CACHE, &extra(&store), RULES);
        let second = format!("  bao-dr: {{ kind: vault, address: \"{}\", auth: {auth}{CACHE} }}\n", dr.url_at(proxies[1].address));
        store.house.reconfigure("policy:\n", &format!("{second}  both: {{ kind: failover, of: [bao, bao-dr] }}\npolicy:\n"));
        let provider = store.house.serve();
        Self { store, dr, proxies, provider }
    }

    fn servers(&self) -> [&Bao; 2] {
        [&self.store.bao, &self.dr]
    }

    /// Nobody listens there any more, and open connections are reset.
    fn cut(&self, at: usize) {
        self.proxies[at].lead_nowhere();
    }

    /// It is killed and starts again.
    fn restart(&mut self) {
        self.provider.signal(Signal::KILL);
        self.provider.wait();
        self.provider = self.store.house.serve();
    }

    fn repair(&self, at: usize) {
        self.proxies[at].lead_to(self.servers()[at].address());
    }

    async fn mount(&self, pod: &PodClaims, objects: &str) -> Result<String, String> {
        let request = self.store.asking_with(pod, &json!({ "objects": objects, "backend": "both" }));
        self.provider.mount(request).await.map(|answer| only_file(&answer)).map_err(|status| status.message().to_owned())
    }

    /// What is delivered, with who answered and how fresh it is, as the audit has it.
    async fn told(&self, objects: &str) -> String {
        match self.mount(&web(), objects).await {
            Ok(text) => {
                let object = self.last_object();
                let word = |key: &str| object[key].as_str().unwrap_or("-").to_owned();
                format!("{text}: {} by {}, {}", word("backend"), word("by"), word("source"))
            }
            Err(message) => message,
        }
    }

    async fn becomes(&self, objects: &str, expected: &str) {
        let until = Instant::now() + Duration::from_secs(40);
        let mut told = self.told(objects).await;
        while told != expected && Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
            told = self.told(objects).await;
        }
        assert_eq!(told, expected, "{}", self.provider.log());
    }

    /// The last audit line's first object.
    fn last_object(&self) -> Value {
        self.store.house.audit().last().unwrap()["objects"][0].clone()
    }
}

#[tokio::test]
async fn the_second_serves_while_the_first_is_out_and_the_first_again_afterwards() {
    let pair = Pair::new("").await;
    assert_eq!(pair.told(DB).await, "correct horse: both by bao, store");
    pair.cut(0);
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, store");
    let next = pair.mount(&pod("shop", "new-0", "new"), DB).await;
    assert_eq!(next, Ok("of the second".to_owned()), "a Pod that has never mounted anything starts");
    let of = async |parts: &[&str]| metric(&pair.provider, parts).await;
    assert!(of(&["keyferry_failover_answers_total", "backend=\"both\"", "by=\"bao-dr\""]).await >= 2.0);
    assert!(of(&["keyferry_breaker_open", "\"bao\""]).await > 0.5 && of(&["keyferry_breaker_open", "both"]).await < 0.5);
    assert!(pair.provider.get("/readyz").await.starts_with("HTTP/1.1 200"), "{}", pair.provider.get("/readyz").await);
    pair.cut(1);
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, stale", "the newest of before");
    assert!(pair.last_object()["age"].as_u64().is_some_and(|age| age < 60), "{}", pair.last_object());
    let never = pair.mount(&pod("shop", "later-0", "later"), DB).await.unwrap_err();
    assert!(never.starts_with("BackendUnavailable: ") && never.contains("both/kv/data/shop/db: bao: "), "{never}");
    assert!(never.contains("; bao-dr: "), "both are named: {never}");
    pair.repair(0);
    pair.becomes(DB, "correct horse: both by bao, store").await;
}

#[tokio::test]
async fn what_the_second_refuses_is_part_of_the_outage_and_what_the_first_refuses_is_not() {
    let pair = Pair::new("").await;
    let optional = "- {secret: kv/data/shop/one, field: password, path: p, optional: true}";
    let absent = pair.mount(&web(), &format!("{DB}\n{}", optional.replace("path: p", "path: q"))).await;
    assert_eq!(absent, Ok("correct horse".to_owned()), "the first says that it is not there");
    pair.store.bao.put("kv", "shop/one", json!({ "password": "one" })).await;
    assert_eq!(pair.told(optional).await, "one: both by bao, store");
    pair.cut(0);
    assert_eq!(pair.told(optional).await, "one: both by bao, stale", "the second's 404 removes no file");
    let other = pair.mount(&pod("shop", "other-0", "other"), optional).await.unwrap_err();
    assert!(other.starts_with("BackendUnavailable: "), "it is not absent either if nothing is kept: {other}");
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, store");
    pair.dr.policy("csi", r#"path "other/*" { capabilities = ["read"] }"#).await;
    assert_eq!(pair.told(DB).await, "correct horse: both by bao, stale", "the second has withdrawn its own");
    pair.dr.policy("csi", POLICY).await;
    pair.repair(0);
    pair.becomes(DB, "correct horse: both by bao, store").await;
    pair.store.bao.policy("csi", r#"path "other/*" { capabilities = ["read"] }"#).await;
    let denied = pair.mount(&web(), DB).await.unwrap_err();
    assert!(denied.starts_with("BackendDenied: ") && denied.contains("both/kv/data/shop/db: bao: "), "{denied}");
    pair.cut(0);
    let barred = pair.mount(&web(), DB).await.unwrap_err();
    assert!(barred.starts_with("BackendUnavailable: ") && barred.contains("bao-dr is not asked, because bao has denied"), "{barred}");
    pair.store.bao.policy("csi", POLICY).await;
    pair.repair(0);
    pair.becomes(DB, "correct horse: both by bao, store").await;
    pair.cut(0);
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, store", "the first has allowed it again");
}

/// The daemon is killed directly after it has told the Pod of the first member's denial.
#[tokio::test]
async fn what_the_first_refuses_does_not_end_with_the_daemon() {
    let mut pair = Pair::with(super::outage::sealed).await;
    pair.store.bao.policy("csi", r#"path "other/*" { capabilities = ["read"] }"#).await;
    let denied = pair.mount(&web(), DB).await.unwrap_err();
    assert!(denied.starts_with("BackendDenied: "), "{denied}");
    pair.cut(0);
    for _ in 0..2 {
        pair.restart();
        let barred = pair.mount(&web(), DB).await.unwrap_err();
        assert!(barred.starts_with("BackendUnavailable: ") && barred.contains("bao-dr is not asked, because bao has denied"), "{barred}");
    }
    assert_eq!(pair.mount(&pod("shop", "new-0", "new"), DB).await, Ok("of the second".to_owned()), "another ServiceAccount's request");
    pair.store.bao.policy("csi", POLICY).await;
    pair.repair(0);
    pair.becomes(DB, "correct horse: both by bao, store").await;
    pair.cut(0);
    pair.restart();
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, store", "the first has allowed it again");
}

#[tokio::test]
async fn a_lease_stays_with_the_store_that_gave_it() {
    let (pair, postgres) = (Pair::new("").await, Postgres::start().await);
    for bao in pair.servers() {
        bao.database("database", &postgres, "app", "8s", "10m").await;
    }
    pair.cut(0);
    let given = pair.mount(&web(), CREDENTIAL).await.unwrap();
    assert_eq!(pair.last_object()["by"], "bao-dr");
    assert_eq!(pair.mount(&web(), CREDENTIAL).await, Ok(given.clone()), "kept over polls");
    pair.repair(0);
    eventually("the first gives one of its own", async || pair.mount(&web(), CREDENTIAL).await.is_ok_and(|name| name != given)).await;
    assert_eq!((pair.store.bao.leases("database/creds/app").await.len(), pair.last_object()["by"].as_str()), (1, Some("bao")));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(pair.dr.leases("database/creds/app").await.len(), 1, "after its first life the second renews it: {}", pair.provider.log());
    assert!(metric(&pair.provider, &["keyferry_lease_events_total", "\"bao-dr\"", "\"renewed\""]).await >= 1.0);
    let roles = postgres.sql(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{given}'"));
    assert_eq!(roles.trim(), "1", "{roles}");
}

#[tokio::test]
async fn what_is_made_is_made_at_the_second_only_if_the_first_did_not_get_the_request() {
    let pair = Pair::new("limits: { timeout: 6s }\n").await;
    for bao in pair.servers() {
        bao.pki("pki", "app", "1h", false).await;
    }
    let made = async |bao: &Bao| bao.must("LIST", "pki/certs", Value::Null).await["data"]["keys"].as_array().unwrap().len();
    let before = [made(&pair.store.bao).await, made(&pair.dr).await];
    assert!(pair.mount(&pod("shop", "warm-0", "web"), DB).await.is_ok(), "the login is there");
    pair.proxies[0].blackhole(true);
    let silent = pair.mount(&web(), CERTIFICATE).await.unwrap_err();
    assert!(silent.starts_with("BackendTimeout: "), "{silent}");
    assert_eq!(made(&pair.dr).await, before[1], "the first may have made it");
    pair.proxies[0].blackhole(false);
    pair.cut(0);
    eventually("Keyferry knows that nobody is there", async || pair.mount(&web(), CERTIFICATE).await.is_ok()).await;
    assert_eq!((pair.last_object()["by"].as_str(), made(&pair.dr).await), (Some("bao-dr"), before[1] + 1));
    pair.mount(&web(), CERTIFICATE).await.unwrap();
    assert_eq!(made(&pair.dr).await, before[1] + 1, "it is kept by the one that made it");
}

#[tokio::test]
async fn the_commands_say_what_the_daemon_does() {
    let pair = Pair::new("").await;
    let config = pair.store.house.path("keyferry.yaml").display().to_string();
    let can = |secret: &str, account: &str| run(keyferry().args(["can", "read", secret, "--as", account, "--config", &config]), "");
    let (code, out, _) = can("both/kv/data/shop/db", "shop/api");
    assert!(code == 1 && out.contains("which is for bao-dr and so for both too"), "{out}");
    let denied = pair.mount(&pod("shop", "api-0", "api"), DB).await.unwrap_err();
    assert!(denied.starts_with("PolicyDenied: ") && denied.contains("which is for bao-dr and so for both too"), "{denied}");
    assert_eq!(can("both/kv/data/shop/db", "shop/web").0, 0);
    assert_eq!(can("bao/kv/data/shop/db", "shop/web").0, 1, "a right to the failover is not a right to its members");
    let class = |objects: &str| {
        format!(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{ name: shop, namespace: shop }}\nspec:\n  \
             provider: keyferry\n  parameters:\n    backend: both\n    objects: |\n      {objects}\n"
        )
    };
    let check = |objects: &str| run(keyferry().args(["check", "--config", &config, "--as", "shop/web", "-"]), &class(objects));
    let (code, out, _) = check(DB);
    assert_eq!(code, 0, "{out}");
    let pinned = DB.replace("path: p", "path: p, version: 1");
    let (code, out, _) = check(&pinned);
    assert!(code == 1 && out.contains("cannot be pinned in a failover: bao and bao-dr each count their own versions"), "{out}");
    let refused = pair.mount(&web(), &pinned).await.unwrap_err();
    assert!(refused.starts_with("InvalidRequest: ") && refused.contains("cannot be pinned in a failover"), "{refused}");
    pair.cut(0);
    let (_, out, _) = run(keyferry().args(["doctor", "--config", &config]), "");
    assert!(out.contains("backend both") && out.contains("bao-dr answers mounts in place of bao"), "{out}");
    assert_eq!(pair.told(DB).await, "of the second: both by bao-dr, store");
    let (_, out, _) = run(keyferry().args(["status", "--config", &config]), "");
    assert!(out.contains("both"), "{out}");
}
