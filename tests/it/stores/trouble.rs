//! What happens to a store, and what Pods and admins see of it. After each case, mounts work again by themselves.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};
use tonic::Code;

use super::{Store, only_file};
use crate::bao::{Authority, Life, Options, Proxy};
use crate::support::{Provider, assert_no_trap, eventually, pod, web};

const DB: &str = "- {secret: kv/data/shop/db, field: password, path: p}";
/// Every mount asks the store.
const UNCACHED: &str = ", cache: { fresh: 0 }";

/// The refusal's message, once it is sure that kubelet will try again.
async fn refusal(provider: &Provider, store: &Store, objects: &str) -> String {
    let status = provider.mount(store.asking(&web(), objects)).await.unwrap_err();
    assert_no_trap(&status);
    status.message().to_owned()
}

async fn is_served(provider: &Provider, store: &Store) {
    assert_eq!(only_file(&provider.mount(store.asking(&web(), DB)).await.unwrap()), "correct horse");
}

#[tokio::test]
async fn a_sealed_store_is_called_sealed_and_serves_when_it_is_not() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), UNCACHED, "");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    store.bao.seal().await;
    let message = refusal(&provider, &store, DB).await;
    assert!(message.starts_with("BackendUnavailable: object 1 (p): bao/kv/data/shop/db: ") && message.contains("sealed"), "{message}");
    eventually("readiness names it", async || provider.get("/readyz").await.contains("sealed")).await;
    store.bao.unseal().await;
    eventually("it is served again", async || provider.mount(store.asking(&web(), DB)).await.is_ok()).await;
}

#[tokio::test]
async fn an_uninitialised_store_is_called_so() {
    let store = Store::new().await;
    let empty = crate::bao::Bao::configured(Options { uninitialised: true, ..Options::default() }).await;
    store.configure(&empty.url(), "", "");
    let message = refusal(&store.house.serve(), &store, DB).await;
    assert!(message.starts_with("BackendUnavailable: ") && message.contains("bao operator init"), "{message}");
}

#[tokio::test]
async fn a_restart_of_the_store_costs_no_mount() {
    let store = Store::with(Options { raft: true, ..Options::default() }).await;
    store.configure(&store.bao.url(), UNCACHED, "");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    store.bao.requests();
    store.bao.restart().await;
    is_served(&provider, &store).await;
    assert_eq!(store.bao.counted().get("update auth/jwt/login"), None, "the token lives on");
}

#[tokio::test]
async fn a_failover_to_another_address_costs_no_mount() {
    let store = Store::with(Options { tls: true, ..Options::default() }).await;
    let proxy = Proxy::start(store.bao.address());
    store.by_way_of(proxy.address, UNCACHED);
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    // The server's former address leads nowhere. A second way to it opens, and open connections are reset.
    let second = Proxy::start(store.bao.address());
    proxy.lead_to(second.address);
    is_served(&provider, &store).await;
    assert!(second.accepted() > 0);
}

#[tokio::test]
async fn a_throttled_call_is_made_again_when_the_store_says() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), UNCACHED, "");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    store.bao.rate_limit("kv", 1, 2, true).await;
    for _ in 0..2 {
        is_served(&provider, &store).await;
    }
    // Whole minutes away: no mount waits for that.
    store.bao.rate_limit("kv", 1, 600, false).await;
    let began = Instant::now();
    let mut message = String::new();
    for _ in 0..2 {
        if let Err(status) = provider.mount(store.asking(&web(), DB)).await {
            status.message().clone_into(&mut message);
        }
    }
    assert!(message.starts_with("BackendUnavailable: ") && message.contains("429"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    store.bao.lift_rate_limit().await;
    let refused = refusal(&provider, &store, DB).await;
    assert!(refused.contains(": not asked again for "), "{refused}");
    provider.mount(store.asking(&pod("shop", "api-0", "api"), DB)).await.expect("another login is not held back");
}

#[tokio::test]
async fn a_store_that_says_nothing_costs_a_mount_its_time_and_no_more() {
    let store = Store::new().await;
    let proxy = Proxy::start(store.bao.address());
    store.configure(&store.bao.url_at(proxy.address), UNCACHED, "limits: { timeout: 2s }");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    proxy.blackhole(true);
    let began = Instant::now();
    let message = refusal(&provider, &store, DB).await;
    assert!(message.starts_with("BackendTimeout: "), "{message}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    proxy.blackhole(false);
    eventually("it is served again", async || provider.mount(store.asking(&web(), DB)).await.is_ok()).await;
}

#[tokio::test]
async fn a_body_cut_off_in_the_middle_is_asked_for_again() {
    let store = Store::new().await;
    store.bao.put("kv", "shop/db", json!({ "password": "correct horse", "ballast": "x".repeat(200_000) })).await;
    let proxy = Proxy::start(store.bao.address());
    store.by_way_of(proxy.address, UNCACHED);
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    proxy.cut();
    proxy.reset_after(50_000, 1);
    is_served(&provider, &store).await;
    proxy.cut();
    proxy.reset_after(50_000, 100);
    let message = refusal(&provider, &store, DB).await;
    assert!(message.starts_with("BackendUnavailable: object 1 (p): bao/kv/data/shop/db: "), "{message}");
    proxy.reset_after(0, 0);
    eventually("it is served again", async || provider.mount(store.asking(&web(), DB)).await.is_ok()).await;
}

#[tokio::test]
async fn a_certificate_that_will_not_do_is_named_with_what_it_says() {
    let store = Store::with(Options { tls: true, ..Options::default() }).await;
    let other = Authority::new("Another CA");
    let own = store.house.path("other-ca.pem");
    std::fs::write(&own, &other.ca).unwrap();
    store.configure(&store.bao.url(), UNCACHED, "");
    store.house.reconfigure(&store.bao.ca_file().display().to_string(), &own.display().to_string());
    let message = refusal(&store.house.serve(), &store, DB).await;
    assert!(message.starts_with("BackendUnavailable: ") && message.contains("other-ca.pem"), "{message}");

    store.configure(&store.bao.url(), UNCACHED, "");
    is_served(&store.house.serve(), &store).await;
    let wrong = [(&["bao.example"], Life::Good, "bao.example"), (&["127.0.0.1"], Life::Expired, "expired")];
    for (names, life, word) in wrong {
        store.bao.certify(&store.bao.authority().server(names, life)).await;
        // A new process: open connections are good until they end.
        let message = refusal(&store.house.serve(), &store, DB).await;
        assert!(message.starts_with("BackendUnavailable: ") && message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn a_token_revoked_between_polls_is_replaced_by_one_login() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), UNCACHED, "");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    let login = store.bao.requests().into_iter().find(|request| request.to_string() == "update auth/jwt/login").unwrap();
    store.bao.revoke_token(&login.accessor).await;
    is_served(&provider, &store).await;
    is_served(&provider, &store).await;
    assert_eq!(store.bao.counted().get("update auth/jwt/login"), Some(&1));
    // The role goes: the token from it is valid until it ends, and nobody gets another.
    store.bao.must("DELETE", "auth/jwt/role/csi", Value::Null).await;
    is_served(&provider, &store).await;
    let tokens = store.bao.accessors().await;
    for accessor in tokens {
        if store.bao.token_of(&accessor).await.is_some_and(|token| token["path"] == "auth/jwt/login") {
            store.bao.revoke_token(&accessor).await;
        }
    }
    let message = refusal(&provider, &store, DB).await;
    assert!(message.starts_with("BackendLoginFailed: object 1 (p): bao/kv/data/shop/db: ") && message.contains("csi"), "{message}");
}

#[tokio::test]
async fn a_narrowed_policy_is_kept_to_at_once_and_costs_no_logins() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), ", cache: { fresh: 1s }", "");
    let provider = store.house.serve();
    is_served(&provider, &store).await;
    store.bao.policy("csi", "path \"kv/data/shop/other\" { capabilities = [\"read\"] }").await;
    sleep(Duration::from_millis(1500)).await;
    store.bao.requests();
    for _ in 0..5 {
        let status = provider.mount(store.asking(&web(), DB)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let message = status.message();
        assert!(message.starts_with("BackendDenied: object 1 (p): bao/kv/data/shop/db: bao refused"), "{message}");
        assert!(message.contains("role csi") && message.contains("read on kv/data/shop/db"), "{message}");
    }
    assert_eq!(store.bao.counted().get("update auth/jwt/login"), None);
    store.bao.policy("csi", super::POLICY).await;
    is_served(&provider, &store).await;
}

#[tokio::test]
async fn versions_that_are_gone_are_called_by_their_fate() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), UNCACHED, "");
    let provider = store.house.serve();
    store.bao.put("kv", "shop/db", json!({ "password": "second" })).await;
    store.bao.must("POST", "kv/delete/shop/db", json!({ "versions": [2] })).await;
    let message = refusal(&provider, &store, DB).await;
    assert!(message.starts_with("SecretNotFound: object 1 (p): bao/kv/data/shop/db: ") && message.contains("deleted"), "{message}");
    store.bao.must("PUT", "kv/destroy/shop/db", json!({ "versions": [1] })).await;
    let message = refusal(&provider, &store, "- {secret: kv/data/shop/db, version: \"1\", field: password, path: p}").await;
    assert!(message.starts_with("SecretNotFound: object 1 (p): bao/kv/data/shop/db@1: ") || message.contains("destroyed"), "{message}");
    assert!(message.contains("destroyed"), "{message}");
}

#[tokio::test]
async fn no_log_tells_a_token_a_value_or_a_lease() {
    let store = Store::new().await;
    store.configure(&store.bao.url(), UNCACHED, "log: { level: trace }\n");
    let provider = store.house.serve();
    let request = store.asking(&web(), DB);
    let jwt = store.house.token(&web(), "bao");
    provider.mount(request).await.unwrap();
    store.bao.policy("csi", "path \"nothing\" { capabilities = [\"read\"] }").await;
    refusal(&provider, &store, DB).await;
    store.bao.must("DELETE", "auth/jwt/role/csi", Value::Null).await;
    refusal(&provider, &store, DB).await;
    let said = format!("{}\n{:?}\n{}", provider.log(), store.house.audit(), provider.get("/metrics").await);
    // A token's signature differs each time; its head and claims do not.
    let claims = jwt.split('.').nth(1).unwrap();
    for canary in ["correct horse", "hvs.", &claims[..40]] {
        assert!(!said.contains(canary), "{canary} is shown");
    }
}
