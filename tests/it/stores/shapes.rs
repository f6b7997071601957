//! What users write into a store may have any shape. How Keyferry reads it depends on the store, and not on the shape.

use serde_json::{Value, json};

use super::Store;
use crate::support::{Provider, eventually, shown, web};

const RULES: &str = r#"  - pods: { namespace: shop }
    read: ["bao/kv/data/shop/**", "bao/kv1/**"]"#;

struct Shapes {
    store: Store,
    provider: Provider,
}

impl Shapes {
    async fn new() -> Self {
        let store = Store::new().await;
        store.bao.policy("csi", "path \"kv/*\" { capabilities = [\"read\"] }\npath \"kv1/*\" { capabilities = [\"read\"] }").await;
        store.bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
        store.bao.kv1("kv1").await;
        let auth = "{ method: jwt, mount: jwt, role: csi, audience: bao }";
        store.configure_as(auth, &store.bao.url(), "", "", RULES);
        let provider = store.house.serve();
        Self { store, provider }
    }

    async fn write(&self, path: &str, data: Value) {
        self.store.bao.must("POST", path, data).await;
    }

    async fn native(&self, objects: &str) -> String {
        self.ask(&json!({ "objects": objects })).await
    }

    async fn dialect(&self, objects: &str) -> String {
        self.ask(&json!({ "dialect": "vault", "roleName": "csi", "audience": "bao", "objects": objects })).await
    }

    async fn ask(&self, parameters: &Value) -> String {
        match self.provider.mount(self.store.asking_with(&web(), parameters)).await {
            Ok(answer) => shown(&answer).join("\n"),
            Err(status) => status.message().to_owned(),
        }
    }
}

#[tokio::test]
async fn a_secret_of_kv_v1_that_looks_like_kv_v2_is_whole() {
    let shapes = Shapes::new().await;
    let forged = json!({ "created_time": "x", "deletion_time": "", "destroyed": false, "version": 3 });
    let manifest = json!({ "kind": "Secret", "metadata": { "name": "db" }, "data": { "password": "aW4=" }, "password": "out" });
    shapes.write("kv1/shop/db", manifest.clone()).await;
    shapes.write("kv1/shop/forged", json!({ "data": { "a": "1" }, "metadata": forged })).await;
    shapes.write("kv1/data/shape", json!({ "data": { "a": "1" }, "metadata": { "version": 3 } })).await;
    shapes.write("kv1/shop/none", json!({ "data": null, "metadata": {} })).await;
    shapes.write("kv/data/shop/v2", json!({ "data": manifest })).await;
    let names = ["kv1/shop/db", "kv1/shop/forged", "kv1/data/shape", "kv1/shop/none", "kv/data/shop/v2"];
    let objects: String = (0..).zip(names).map(|(n, name)| format!("- {{secret: {name}, path: f{n}}}\n")).collect();
    insta::assert_snapshot!(shapes.native(&objects).await, @r#"
    f0 0644 {"data":{"password":"aW4="},"kind":"Secret","metadata":{"name":"db"},"password":"out"}
    f1 0644 {"data":{"a":"1"},"metadata":{"created_time":"x","deletion_time":"","destroyed":false,"version":3}}
    f2 0644 {"data":{"a":"1"},"metadata":{"version":3}}
    f3 0644 {"data":null,"metadata":{}}
    f4 0644 {"data":{"password":"aW4="},"kind":"Secret","metadata":{"name":"db"},"password":"out"}
    "#);

    let key = |n: usize, name: &str, key: &str| format!("- {{objectName: f{n}, secretPath: {name}, secretKey: {key}}}\n");
    let both = key(0, "kv1/shop/db", "password") + &key(1, "kv1/shop/db", "kind") + &key(2, "kv/data/shop/v2", "password");
    insta::assert_snapshot!(shapes.dialect(&both).await, @"
    f0 0644 aW4=
    f1 0644 Secret
    f2 0644 out
    ");
    let native = "- {secret: kv1/shop/db, field: password, path: a}\n- {secret: kv1/shop/db, field: data.password, path: b}";
    insta::assert_snapshot!(shapes.native(native).await, @"
    a 0644 out
    b 0644 aW4=
    ");
    insta::assert_snapshot!(shapes.dialect(&key(0, "kv/data/shop/v2", "metadata")).await, @r#"f0 0644 {"name":"db"}"#);
    insta::assert_snapshot!(shapes.dialect(&key(0, "kv/data/shop/v2", "version")).await, @r#"SecretNotFound: object 1 (f0): bao/kv/data/shop/v2: has no field "version" (it has "data", "kind", "metadata", "password")"#);
}

#[tokio::test]
async fn a_field_without_a_value_is_told_and_never_four_letters_but_as_the_peer_writes_them() {
    let shapes = Shapes::new().await;
    shapes.write("kv/data/shop/odd", json!({ "data": { "user": "u", "password": null, "": "nameless", "a\nb\u{202e}": "odd" } })).await;
    shapes.write("kv/data/shop/lone", json!({ "data": { "password": null } })).await;
    let secret = "secret: kv/data/shop/odd";
    let native = shapes.native(&format!("- {{{secret}, path: whole}}\n- {{{secret}, fields: [\"u*\", \"p*\"], path: d}}")).await;
    insta::assert_snapshot!(native.replace('\u{202e}', "<202e>"), @r#"
    whole 0644 {"":"nameless","a\nb<202e>":"odd","password":null,"user":"u"}
    d/user 0644 u
    "#);
    let failing = format!(
        "- {{{secret}, field: password, path: p}}\n- {{{secret}, fields: [user, password], path: d}}\n- {{{secret}, field: usr, path: n}}\n- {{secret: kv/data/shop/lone, path: l}}"
    );
    insta::assert_snapshot!(shapes.native(&failing).await, @r#"SecretNotFound: object 1 (p): bao/kv/data/shop/odd: its field "password" is null in the store (give it a value, or set `optional: true`); object 2 (d/): bao/kv/data/shop/odd: its field "password" is null in the store (give it a value, or set `optional: true`); object 3 (n): bao/kv/data/shop/odd: has no field "usr" (did you mean "user"? It has "user", "", "a\nb\u{202e}", "password"); object 4 (l): bao/kv/data/shop/lone: its field "password" is null in the store (give it a value, or set `optional: true`)"#);
    let key = "- {objectName: p, secretPath: kv/data/shop/odd, secretKey: password}";
    assert_eq!(shapes.dialect(key).await, "p 0644 null");
    for _ in 0..2 {
        shapes.dialect(key).await;
    }
    eventually("the audit has the field that was left out", async || {
        shapes
            .store
            .house
            .audit()
            .iter()
            .any(|line| line.to_string().contains(r#""outcome":"absent""#) || line["objects"].to_string().contains("\"files\":2"))
    })
    .await;
    let log = shapes.provider.log();
    for told in ["no file is delivered for it", "has the four letters null"] {
        assert_eq!(log.matches(told).count(), 1, "{told}: {log}");
    }
}

#[tokio::test]
async fn a_name_is_asked_for_as_policy_saw_it() {
    let shapes = Shapes::new().await;
    for (path, value) in [("a%23b", "sharp"), ("100%25", "percent"), ("%25zz%25", "more"), ("x%252g", "digit")] {
        shapes.write(&format!("kv/data/shop/{path}"), json!({ "data": { "v": value } })).await;
    }
    let names = ["a#b", "100%", "%zz%", "x%2g"];
    let native: String = names.iter().map(|name| format!("- {{secret: \"kv/data/shop/{name}\"}}\n")).collect();
    insta::assert_snapshot!(shapes.native(&native).await, @"
    a#b 0644 sharp
    100% 0644 percent
    %zz% 0644 more
    x%2g 0644 digit
    ");
    let key = |name: &str| format!("- {{objectName: f, secretPath: \"kv/data/shop/{name}\", secretKey: v}}");
    assert_eq!(shapes.dialect(&key("a#b")).await, "f 0644 sharp");
    for unsafe_name in ["a%2fb", "a%23b", "a\\\\b"] {
        let told = shapes.native(&format!("- {{secret: \"kv/data/shop/{unsafe_name}\", path: f}}")).await;
        assert!(told.contains("which cannot be asked for safely"), "{told}");
        assert!(shapes.dialect(&key(unsafe_name)).await.contains("which cannot be asked for safely"));
    }
}
