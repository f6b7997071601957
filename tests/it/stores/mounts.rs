//! What a class asks of a store, and gets.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Store, only_file};
use crate::support::{pod, shown, web};

#[tokio::test]
async fn fields_pins_numbers_and_what_is_optional() {
    let store = Store::new().await;
    store
        .bao
        .put("kv", "shop/db", json!({ "username": "app", "password": "next", "big": 123_456_789_012_345_u64, "list": [1, 2.5] }))
        .await;
    let provider = store.house.serve();
    let objects = r#"
- {secret: kv/data/shop/db, field: password, path: db/password, mode: 0400}
- {secret: kv/data/shop/db, field: big, path: big}
- {secret: kv/data/shop/db, field: list, path: list}
- {secret: kv/data/shop/db, field: password, version: "1", path: old}
- {secret: kv/data/shop/db, fields: [username], path: all/}
- {secret: kv/data/shop/none, optional: true, path: none}
"#;
    let answer = provider.mount(store.asking(&web(), objects)).await.unwrap();
    let mut files = shown(&answer);
    files.sort();
    assert_eq!(
        files,
        ["all/username 0644 app", "big 0644 123456789012345", "db/password 0400 next", "list 0644 [1,2.5]", "old 0644 correct horse"]
    );
    let versions: Vec<_> = answer.object_version.iter().map(|version| format!("{} {}", version.id, version.version)).collect();
    assert_eq!(versions[..2], ["bao/kv/data/shop/db 2", "bao/kv/data/shop/db@1 1"], "{versions:?}");
}

#[tokio::test]
async fn a_hundred_pods_of_one_serviceaccount_are_one_login() {
    let store = Store::new().await;
    for n in 0..10 {
        store.bao.put("kv", &format!("shop/s{n}"), json!({ "v": n.to_string() })).await;
    }
    let provider = store.house.serve();
    store.bao.requests();
    let objects: String = (0..10).map(|n| format!("- {{secret: kv/data/shop/s{n}, field: v, path: s{n}}}\n")).collect();
    let client = provider.client().await;
    let mut mounts = JoinSet::new();
    for n in 0..100 {
        let (mut client, request) = (client.clone(), store.asking(&pod("shop", &format!("web-{n}"), "web"), &objects));
        mounts.spawn(async move { client.mount(request).await });
    }
    while let Some(mounted) = mounts.join_next().await {
        assert_eq!(mounted.unwrap().unwrap().into_inner().files.len(), 10);
    }
    let counted = store.bao.counted();
    assert_eq!(counted.get("update auth/jwt/login"), Some(&1), "{counted:?}");
    assert_eq!(
        counted.iter().filter(|(call, _)| call.starts_with("read kv/data/")).map(|(_, calls)| calls).sum::<usize>(),
        10,
        "{counted:?}"
    );
}

#[tokio::test]
async fn another_serviceaccount_logs_in_by_itself() {
    let store = Store::new().await;
    let bound = json!({ "policies": ["csi"], "bound_subject": "system:serviceaccount:shop:web" });
    store.bao.jwt_role("jwt", "csi", "bao", bound).await;
    let provider = store.house.serve();
    let objects = "- {secret: kv/data/shop/db, field: password, path: p}";
    assert_eq!(only_file(&provider.mount(store.asking(&web(), objects)).await.unwrap()), "correct horse");
    // Keyferry has what the first one got in memory, and does not give it to the other one: the store would not.
    let refused = provider.mount(store.asking(&pod("shop", "batch-0", "batch"), objects)).await.unwrap_err();
    assert!(refused.message().starts_with("BackendLoginFailed: object 1 (p): bao/kv/data/shop/db: "), "{refused:?}");
}

#[tokio::test]
async fn what_a_peers_class_says_is_served_at_the_peers_socket() {
    let store = Store::new().await;
    store.bao.jwt("kubernetes", &store.house.issuer.jwks()).await;
    store.bao.jwt_role("kubernetes", "web", "vault", json!({ "policies": ["csi"] })).await;
    let may = ", classMay: { role: [\"*\"], mount: [kubernetes], audience: [vault] }";
    store.configure(&store.bao.url(), may, "providers: [keyferry, vault]\n");
    let _provider = store.house.serve();
    let objects = r"
- objectName: password
  secretPath: /v1/kv/data/shop/db
  secretKey: password
  filePermission: 0600
- objectName: first
  secretPath: kv/data/shop/db?version=1
  secretKey: port
- objectName: whole.json
  secretPath: kv/data/shop/db
";
    let parameters = json!({ "roleName": "web", "vaultAddress": store.bao.url(), "vaultAuthMountPath": "kubernetes", "audience": "vault", "objects": objects });
    let answer = store.mount_at("vault", store.asking_as(&web(), "vault", &parameters)).await.unwrap();
    let files = shown(&answer);
    assert_eq!(files[..2], ["password 0600 correct horse", "first 0644 5432"]);
    let whole: Value = serde_json::from_slice(&answer.files[2].contents).unwrap();
    assert_eq!(whole["data"]["data"]["port"], 5432);
    assert!(whole.get("request_id").is_none_or(|id| id == ""), "{whole}");
    let ids: Vec<_> = answer.object_version.iter().map(|version| version.id.as_str()).collect();
    assert_eq!(ids, ["password", "first", "whole.json"]);
    let again = store.mount_at("vault", store.asking_as(&web(), "vault", &parameters)).await.unwrap();
    assert_eq!(again, answer, "a poll changes nothing");
}
