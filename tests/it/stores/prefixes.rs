//! All secrets below a prefix of a real OpenBao.

use serde_json::{Value, json};

use super::Store;
use crate::bao::Proxy;
use crate::support::{Provider, shown, web};

const CERTS: &str = "- { prefix: kv/data/shop/certs/, path: certs/ }";

async fn store() -> Store {
    let store = Store::new().await;
    for name in ["web", "api", "team/batch"] {
        store.bao.put("kv", &format!("shop/certs/{name}"), json!({ "crt": name })).await;
    }
    store
}

async fn mount(store: &Store, provider: &Provider, objects: &str) -> String {
    match provider.mount(store.asking(&web(), objects)).await {
        Ok(answer) => {
            let mut files = shown(&answer);
            files.sort();
            files.join("\n")
        }
        Err(status) => status.message().to_owned(),
    }
}

fn sources(store: &Store) -> Vec<Value> {
    let line = store.house.audit().pop().unwrap();
    let object = &line["objects"][0];
    let others = object["others"].as_array().into_iter().flatten().map(|other| other["source"].clone());
    [object["source"].clone()].into_iter().chain(others).collect()
}

const FILES: &str = "certs/api 0644 api\ncerts/team/batch 0644 team/batch\ncerts/web 0644 web";

#[tokio::test]
async fn kv_v2_is_listed_below_metadata_and_a_listing_is_cached() {
    let store = store().await;
    let provider = store.house.serve();
    store.bao.requests();
    assert_eq!(mount(&store, &provider, CERTS).await, FILES);
    let counted = store.bao.counted();
    let lists: Vec<_> = counted.iter().filter(|(call, _)| call.starts_with("list ")).collect();
    assert_eq!(
        lists,
        [(&"list kv/metadata/shop/certs/".to_owned(), &1), (&"list kv/metadata/shop/certs/team/".to_owned(), &1)],
        "{counted:?}"
    );
    assert_eq!(mount(&store, &provider, CERTS).await, FILES);
    assert_eq!(store.bao.counted().iter().filter(|(call, _)| call.contains("kv/")).count(), 0, "all of it is in memory");
    assert_eq!(sources(&store), [json!("fresh"), json!("fresh"), json!("fresh"), json!("fresh")]);
}

#[tokio::test]
async fn a_listing_that_changes_is_listed_once_more() {
    let store = store().await;
    let provider = store.house.serve();
    assert_eq!(mount(&store, &provider, "- { prefix: kv/data/shop/certs/, include: api, path: certs/ }").await, "certs/api 0644 api");
    store.bao.must("DELETE", "kv/metadata/shop/certs/web", json!(null)).await;
    store.bao.requests();
    // The listing that Keyferry has in memory still has it.
    let all = "- { prefix: kv/data/shop/certs/, include: '*', path: certs/ }";
    assert_eq!(mount(&store, &provider, all).await, "certs/api 0644 api");
    let counted = store.bao.counted();
    assert_eq!(counted.iter().filter(|(call, _)| call.starts_with("list ")).map(|(_, calls)| calls).sum::<usize>(), 1, "{counted:?}");
    // A secret whose latest version is deleted is still listed.
    store.bao.must("DELETE", "kv/data/shop/certs/api", json!(null)).await;
    let fresh = |optional: bool| json!({ "objects": format!("- {{ prefix: kv/data/shop/certs/, path: certs/, optional: {optional} }}"), "fresh": "0" });
    let refused = provider.mount(store.asking_with(&web(), &fresh(false))).await.unwrap_err();
    assert!(
        refused.message().starts_with("SecretNotFound: object 1 (certs/): bao/kv/data/shop/certs/api: version 1, the latest, was deleted"),
        "{refused:?}"
    );
    let answer = provider.mount(store.asking_with(&web(), &fresh(true))).await.unwrap();
    assert_eq!(shown(&answer), ["certs/team/batch 0644 team/batch"]);
}

#[tokio::test]
async fn what_the_store_denies_is_counted() {
    let store = store().await;
    let policy = r#"
path "kv/metadata/shop/certs/*" { capabilities = ["list"] }
path "kv/metadata/shop/certs/team/*" { capabilities = ["deny"] }
path "kv/data/shop/certs/+" { capabilities = ["read"] }
path "kv/data/shop/certs/web" { capabilities = ["deny"] }
"#;
    store.bao.policy("csi", policy).await;
    let provider = store.house.serve();
    let said = [
        mount(&store, &provider, "- { prefix: kv/data/shop/certs/, include: '*' }").await,
        mount(&store, &provider, "- { prefix: kv/data/shop/certs/, optional: true, exclude: web }").await,
        mount(&store, &provider, "- { prefix: kv/data/shop/certs/, exclude: [web, 'team/**'] }").await,
        mount(&store, &provider, "- { prefix: kv/data/shop/none/ }").await,
        mount(&store, &provider, "- { prefix: kv/data/bank/ }").await,
        mount(&store, &provider, "- { prefix: sys/policies/ }").await,
    ];
    let said = said.join("\n");
    insta::assert_snapshot!(said, @r#"
    BackendDenied: object 1 (certs/): bao/kv/data/shop/certs/: the store denies 1 of the 2 secrets below it (let the role read them, or leave them out with `exclude`)
    BackendDenied: object 1 (certs/): bao/kv/data/shop/certs/: the store refuses to list a folder below it (let the role list it, or leave it out with `exclude`)
    certs/api 0644 api
    BackendDenied: object 1 (none/): bao/kv/data/shop/none/: bao refused the list: permission denied for role csi (does the policy of role csi allow list on kv/metadata/shop/none?)
    PolicyDenied: object 1 (bank/): bao/kv/data/bank/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["bao/kv/data/bank/**"])
    PolicyDenied: object 1 (policies/): bao/sys/policies/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["bao/sys/policies/**"])
    "#);
}

#[tokio::test]
async fn kv_v1_is_listed_where_it_is() {
    let store = Store::new().await;
    store.bao.kv1("kv1").await;
    for name in ["a", "b/c"] {
        store.bao.must("POST", &format!("kv1/shop/{name}"), json!({ "v": name })).await;
    }
    store.bao.policy("csi", r#"path "kv1/shop/*" { capabilities = ["read", "list"] }"#).await;
    store.configure_as(
        "{ method: jwt, mount: jwt, role: csi, audience: bao }",
        &store.bao.url(),
        "",
        "",
        "  - pods: { namespace: shop }\n    read: [\"bao/kv1/shop/**\"]",
    );
    let provider = store.house.serve();
    assert_eq!(mount(&store, &provider, "- { prefix: kv1/shop/ }").await, "shop/a 0644 a\nshop/b/c 0644 b/c");
    assert_eq!(mount(&store, &provider, "- { prefix: kv1/shop/b/, format: yaml, path: all.yaml }").await, "all.yaml 0644 \"v\": \"b/c\"\n");
}

/// While the store is out, listing and secrets stay as they were, and are marked.
#[tokio::test]
async fn a_listing_serves_while_the_store_is_out() {
    let store = store().await;
    let proxy = Proxy::start(store.bao.address());
    store.configure(&store.bao.url_at(proxy.address), ", cache: { fresh: 0, stale: 24h }", "");
    let provider = store.house.serve();
    assert_eq!(mount(&store, &provider, CERTS).await, FILES);
    proxy.lead_nowhere();
    assert_eq!(mount(&store, &provider, CERTS).await, FILES);
    assert_eq!(sources(&store), [json!("stale"), json!("stale"), json!("stale"), json!("stale")]);
}
