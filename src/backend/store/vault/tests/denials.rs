//! 403: policy refuses, or the token is not valid any more.

use super::*;
use crate::backend::testing::server::{Answer, Server};

#[tokio::test]
async fn a_denial_costs_one_read_a_poll_and_no_login() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let denied = bench.read(&backend, "kv/data/bank/db").await.unwrap_err();
    assert_eq!(denied.fault, Fault::Denied);
    insta::assert_snapshot!(denied, @"bao/kv/data/bank/db: bao refused the read: permission denied for role csi (does the policy of role csi allow read on kv/data/bank/db?)");
    bench.bao.requests();
    for _ in 0..5 {
        assert_eq!(bench.read(&backend, "kv/data/bank/db").await.unwrap_err().to_string(), denied.to_string());
    }
    assert_eq!(json!(bench.bao.counted()), json!({ "read kv/data/bank/db": 5 }));
    let post = posted(&backend, "kv/data/shop/db", &[("data", json!({ "password": "hunter2-value" }))]);
    let denied = fetch(&backend, &post, &bench.cx(&web())).await.unwrap_err();
    insta::assert_snapshot!(denied, @"bao/kv/data/shop/db: bao refused the POST: permission denied for role csi (does the policy of role csi allow create and update on kv/data/shop/db?)");
    let list = secret(&backend, "kv/metadata/shop").with(|asked| asked.method = Method::List);
    insta::assert_snapshot!(fetch(&backend, &list, &bench.cx(&web())).await.unwrap_err(), @"bao/kv/metadata/shop: bao refused the list: permission denied for role csi (does the policy of role csi allow list on kv/metadata/shop?)");
}

#[tokio::test]
async fn a_narrowed_policy_is_seen_at_once_and_a_widened_one_too() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    bench.bao.policy("shop", "path \"kv/data/other\" { capabilities = [\"read\"] }").await;
    assert_eq!(bench.read(&backend, "kv/data/shop/db").await.unwrap_err().fault, Fault::Denied);
    bench.bao.policy("shop", READ_SHOP).await;
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!(bench.bao.counted()["update auth/jwt/login"], 1);
}

#[tokio::test]
async fn a_dead_token_costs_one_lookup_and_one_login_whoever_finds_it() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let db = secret(&backend, "kv/data/shop/db");
    fetch(&backend, &db, &bench.cx(&web())).await.unwrap();
    let accessor = bench.bao.requests().remove(0).accessor;
    bench.bao.revoke_token(&accessor).await;
    let calls = (0..50).map(|n| (db.clone(), bench.cx(&pod("shop", &format!("web-{n}"), "web")))).collect();
    assert!(at_once(&backend, calls).await.iter().all(Result::is_ok));
    let counted = bench.bao.counted();
    assert_eq!((counted["update auth/jwt/login"], counted["read auth/token/lookup-self"]), (1, 1), "{counted:?}");
    assert!(counted["read kv/data/shop/db"] <= 100, "{counted:?}");
}

#[tokio::test]
async fn a_dead_token_is_found_also_behind_a_denied_path() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    assert_eq!(bench.read(&backend, "kv/data/bank/db").await.unwrap_err().fault, Fault::Denied);
    let accessor = bench.bao.requests().remove(0).accessor;
    bench.bao.revoke_token(&accessor).await;
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!(bench.bao.counted()["update auth/jwt/login"], 1);
}

#[tokio::test]
async fn the_name_that_was_meant_is_told() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    insta::assert_snapshot!(bench.read(&backend, "kv/shop/db").await.unwrap_err(), @"bao/kv/shop/db: bao refused the read: permission denied for role csi (did you mean kv/data/shop/db? kv is an engine of KV v2)");
    bench.bao.policy("shop", "path \"kv/*\" { capabilities = [\"read\"] }").await;
    insta::assert_snapshot!(bench.read(&backend, "kv/shop/db").await.unwrap_err(), @"bao/kv/shop/db: there is no such path: it is in an engine of KV v2, where secrets are read below data/ (did you mean kv/data/shop/db?)");
}

/// A mount pays for each of its failures by its weight, and may have hundreds of them.
#[tokio::test]
async fn a_long_denial_is_kept_short() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "hvs.token").unwrap();
    let long = "p".repeat(1_000);
    for (look_up, text) in [(200, "x"), (200, "\u{1f600}"), (500, "\u{1f600}")] {
        let body = json!({ "errors": [text.repeat(10_000)] }).to_string();
        let token = json!({ "data": { "ttl": 3600, "accessor": "a" } }).to_string();
        let server = Server::plain(move |asked| match asked.path() {
            // The first one is the login's.
            "/v1/auth/token/lookup-self" if look_up == 200 || asked.before == 0 => Answer::new(200, token.clone()),
            "/v1/auth/token/lookup-self" => Answer::new(look_up, body.clone()),
            _ => Answer::new(403, body.clone()),
        });
        let backend = open(&server.url(), &format!("auth: {{ method: token, tokenFile: {} }}", file.display()));
        let cx = FetchContext::new(Arc::new(verified(&web())), Arc::default(), soon());
        let denied = fetch(&backend, &secret(&backend, &format!("kv/data/{long}")), &cx).await.unwrap_err();
        assert_eq!(denied.fault, Fault::Denied);
        assert!(denied.weight() <= 8 * 1024 && denied.to_string().len() <= denied.weight() + long.len(), "{} {denied}", denied.weight());
    }
}
