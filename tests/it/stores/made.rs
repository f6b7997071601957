//! What a store makes without a lease: made once for its holder, and kept until its end.

use std::collections::BTreeSet;
use std::fs;

use keyferry::clock::SystemClock;
use keyferry::model::PodClaims;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Store, metric, only_file};
use crate::support::{Provider, eventually, pod, shown, web};

/// Of the role `csi`.
const POLICY: &str = r#"
path "auth/approle/role/*" { capabilities = ["update"] }
path "pki/issue/*" { capabilities = ["update"] }
path "transit/datakey/*" { capabilities = ["update"] }
"#;

const RULES: &str = r#"  - pods: { namespace: shop }
    update: ["bao/auth/approle/role/app/secret-id", "bao/pki/issue/*", "bao/transit/datakey/**", "bao/sys/wrapping/unwrap"]"#;

const ALL: &str = "
- {secret: auth/approle/role/app/secret-id, method: POST, field: secret_id, path: a-secret-id}
- {secret: pki/issue/app, method: POST, args: {common_name: app.example}, field: serial_number, path: b-certificate}
- {secret: transit/datakey/plaintext/app, method: PUT, field: plaintext, path: c-key}
";

/// With an `AppRole` whose secret ids live this long.
async fn making(secret_id_ttl: &str) -> Store {
    let store = Store::new().await;
    store.bao.policy("csi", POLICY).await;
    store.bao.approle("approle", "app", json!({ "secret_id_ttl": secret_id_ttl })).await;
    store.bao.pki("pki", "app", "1h", false).await;
    store.bao.mount("transit", "transit").await;
    store.bao.must("POST", "transit/keys/app", Value::Null).await;
    configure(&store, "");
    store
}

fn configure(store: &Store, extra: &str) {
    store.configure_as("{ method: jwt, mount: jwt, role: csi, audience: bao }", &store.bao.url(), "", extra, RULES);
}

async fn ask(store: &Store, provider: &Provider, pod: &PodClaims, objects: &str) -> Vec<String> {
    shown(&provider.mount(store.asking(pod, objects)).await.unwrap())
}

/// As many as the store has made since it was configured, which itself has made one.
async fn secret_ids(store: &Store) -> usize {
    let listed = store.bao.must("LIST", "auth/approle/role/app/secret-id", Value::Null).await;
    listed["data"]["keys"].as_array().unwrap().len() - 1
}

#[tokio::test]
async fn it_is_made_once_for_each_pod() {
    let store = making("10m").await;
    let provider = store.house.serve();
    let first = ask(&store, &provider, &web(), ALL).await;
    for _ in 0..4 {
        assert_eq!(ask(&store, &provider, &web(), ALL).await, first);
    }
    assert_eq!(secret_ids(&store).await, 1);
    let other = ask(&store, &provider, &pod("shop", "web-1", "web"), ALL).await;
    assert!(first.iter().zip(&other).all(|(one, other)| one != other), "{first:?} {other:?}");
    let counted = store.bao.counted();
    for made in ["auth/approle/role/app/secret-id", "pki/issue/app", "transit/datakey/plaintext/app"] {
        assert_eq!(counted.get(&format!("update {made}")), Some(&2), "{counted:?}");
    }
    assert!((metric(&provider, &["keyferry_leases{", "bao"]).await - 6.0).abs() < 0.1);
    let lines = store.house.audit();
    assert_eq!(lines[1]["objects"][2]["source"], "fresh", "{}", lines[1]);
}

#[tokio::test]
async fn with_a_shared_lease_the_pods_of_the_account_have_one() {
    let store = making("10m").await;
    let provider = store.house.serve();
    let shared = ALL.replace("path:", "lease: shared, path:");
    let one = ask(&store, &provider, &web(), &shared).await;
    assert_eq!(ask(&store, &provider, &pod("shop", "web-1", "web"), &shared).await, one);
    let other = ask(&store, &provider, &pod("shop", "batch-0", "batch"), &shared).await;
    assert!(one.iter().zip(&other).all(|(one, other)| one != other));
    assert_eq!(secret_ids(&store).await, 2);
}

#[tokio::test]
async fn keep_shortens_it_and_zero_makes_another_at_each_mount() {
    let store = making("0").await;
    let provider = store.house.serve();
    let each = ALL.replace("path:", "keep: 0, path:");
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        seen.extend(ask(&store, &provider, &web(), &each).await);
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
    let short = "- {secret: auth/approle/role/app/secret-id, method: POST, field: secret_id, path: v, keep: 6s}";
    let before = secret_ids(&store).await;
    let first = ask(&store, &provider, &web(), short).await;
    assert_eq!(ask(&store, &provider, &web(), short).await, first);
    eventually("another", async || ask(&store, &provider, &web(), short).await != first).await;
    assert_eq!(secret_ids(&store).await, before + 2);
}

/// While there is an old one, there is always one that the store takes.
#[tokio::test]
async fn it_is_replaced_before_its_end() {
    let store = making("6s").await;
    let provider = store.house.serve();
    let object = "- {secret: auth/approle/role/app/secret-id, method: POST, field: secret_id, path: v}";
    let role_id = store.bao.must("GET", "auth/approle/role/app/role-id", Value::Null).await["data"]["role_id"].clone();
    let (began, mut seen) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < Duration::from_secs(13) {
        let secret_id = only_file(&provider.mount(store.asking(&web(), object)).await.unwrap());
        let login = store.bao.login("approle", json!({ "role_id": role_id, "secret_id": secret_id })).await;
        assert!(login.is_ok(), "{:?} after {:?}", login.err(), began.elapsed());
        seen.insert(secret_id);
        sleep(Duration::from_millis(200)).await;
    }
    assert!((3..=4).contains(&seen.len()), "{seen:?}");
}

/// The end of a token is in the token. This answer can be read only once: reading it uses up the token that wraps it.
#[tokio::test]
async fn a_token_is_kept_until_its_own_end() {
    let store = making("0").await;
    let provider = store.house.serve();
    let token = store.house.issuer.token(&web(), "other", Duration::from_secs(12), &SystemClock).unwrap();
    let wrapped = store.bao.request("POST", "sys/wrapping/wrap", json!({ "token": token }), &[("x-vault-wrap-ttl", "1h")]).await.body;
    let wrapping = wrapped["wrap_info"]["token"].as_str().unwrap();
    let object = format!("- {{secret: sys/wrapping/unwrap, method: POST, args: {{token: {wrapping}}}, field: token, path: v}}");
    for _ in 0..8 {
        assert_eq!(only_file(&provider.mount(store.asking(&web(), &object)).await.unwrap()), token);
        sleep(Duration::from_secs(1)).await;
    }
    sleep(Duration::from_secs(5)).await;
    let refused = provider.mount(store.asking(&web(), &object)).await.unwrap_err();
    assert!(refused.message().contains("sys/wrapping/unwrap"), "{refused:?}");
}

#[tokio::test]
async fn each_mount_needs_its_permit() {
    let store = making("10m").await;
    let provider = store.house.serve();
    ask(&store, &provider, &web(), ALL).await;
    store.house.reconfigure("\"bao/transit/datakey/**\", ", "");
    provider.signal(rustix::process::Signal::HUP);
    eventually("a denial", async || provider.mount(store.asking(&web(), ALL)).await.is_err()).await;
    let denied = provider.mount(store.asking(&web(), ALL)).await.unwrap_err();
    assert!(denied.message().starts_with("PolicyDenied: object 3 (c-key): bao/transit/datakey/plaintext/app"), "{denied:?}");
}

/// At a socket of the vault provider, whose classes have no `keep`.
#[tokio::test]
async fn a_class_of_the_vault_provider_makes_it_once() {
    let store = making("10m").await;
    let provider = store.house.serve();
    let class = json!({
        "dialect": "vault",
        "roleName": "csi",
        "audience": "bao",
        "vaultAuthMountPath": "jwt",
        "objects": "- { objectName: v, secretPath: auth/approle/role/app/secret-id, secretKey: secret_id, method: POST }",
    });
    let mount = async || only_file(&provider.mount(store.asking_with(&web(), &class)).await.unwrap());
    assert_eq!(mount().await, mount().await);
    assert_eq!(secret_ids(&store).await, 1);
}

#[tokio::test]
async fn a_killed_provider_makes_nothing_twice() {
    let store = making("0").await;
    fs::write(store.house.path("cache.key"), [7; 32]).unwrap();
    let root = store.house.folder.path().display().to_string();
    configure(&store, &format!("cache: {{ sealed: {{ dir: {root}/cache, key: {root}/cache.key }} }}\n"));
    let mut provider = store.house.serve();
    let first = ask(&store, &provider, &web(), ALL).await;
    provider.signal(rustix::process::Signal::KILL);
    provider.wait();
    let provider = store.house.serve();
    assert_eq!(ask(&store, &provider, &web(), ALL).await, first);
    assert_eq!(secret_ids(&store).await, 1);
    let secret_id = first[0].rsplit(' ').next().unwrap();
    for file in fs::read_dir(store.house.path("cache/leases")).unwrap().flatten() {
        let bytes = fs::read(file.path()).unwrap();
        assert!(!bytes.windows(secret_id.len()).any(|window| window == secret_id.as_bytes()), "{:?} is readable", file.path());
    }
}
