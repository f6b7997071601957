//! Ways around the policy: what belongs to one tenant stays with it, whatever a class asks for and however the daemon logs in.

use std::fs;

use serde_json::{Value, json};

use super::{RULE, Store, only_file};
use crate::bao::{Options, Postgres};
use crate::support::{Provider, keyferry, pod, run, shown, web};

/// Every namespace may have what is made on request.
const OPEN: &str = r#"  - pods: { namespace: "*" }
    read: ["bao/database/creds/*"]
    update: ["bao/pki/issue/*"]"#;

/// A store where the daemon logs in as itself, with a role that may do anything.
struct Own {
    store: Store,
    /// The backend's `auth`.
    auth: String,
    /// Further keys of the backend.
    more: String,
}

impl Own {
    async fn by_approle() -> Self {
        let store = Store::new().await;
        store.bao.policy("all", ALL).await;
        let (role_id, secret_id) = store.bao.approle("approle", "node", json!({ "token_policies": ["all"] })).await;
        let file = store.house.path("secret-id");
        fs::write(&file, secret_id).unwrap();
        let auth = format!("{{ method: approle, roleId: {role_id}, secretIdFile: {} }}", file.display());
        Self { store, auth, more: String::new() }
    }

    async fn by_token() -> Self {
        let store = Store::new().await;
        store.bao.policy("all", ALL).await;
        let file = store.house.path("token");
        fs::write(&file, store.bao.new_token(json!({ "policies": ["all"] })).await).unwrap();
        Self { store, auth: format!("{{ method: token, tokenFile: {} }}", file.display()), more: String::new() }
    }

    async fn by_cert() -> Self {
        let store = Store::with(Options { tls: true, ..Options::default() }).await;
        store.bao.policy("all", ALL).await;
        let ca = &store.bao.authority().ca;
        store.bao.cert("cert", "node", ca, json!({ "token_policies": ["all"] })).await;
        let pair = store.bao.authority().client("node");
        let (certificate, key) = (store.house.path("node.pem"), store.house.path("node.key"));
        fs::write(&certificate, &pair.certificate).unwrap();
        fs::write(&key, &pair.key).unwrap();
        let more = format!(", clientCert: {}, clientKey: {}", certificate.display(), key.display());
        Self { store, auth: "{ method: cert, role: node }".to_owned(), more }
    }

    fn configure(&self, rules: &str) {
        let Self { store, auth, more } = self;
        store.configure_as(auth, &store.bao.url(), more, "", rules);
    }
}

/// Everything that a token may be allowed.
const ALL: &str = r#"path "*" { capabilities = ["create", "read", "update", "list", "sudo"] }"#;

#[tokio::test]
async fn a_shared_lease_stays_with_its_serviceaccount_however_the_daemon_logs_in() {
    let postgres = Postgres::start().await;
    for own in [Own::by_approle().await, Own::by_token().await, Own::by_cert().await] {
        let store = &own.store;
        store.bao.database("database", &postgres, "app", "1h", "24h").await;
        store.bao.pki("pki", "app", "1h", false).await;
        own.configure(OPEN);
        let provider = store.house.serve();
        let objects = "
- {secret: database/creds/app, field: username, path: username, lease: shared}
- {secret: pki/issue/app, method: POST, args: {common_name: app.example}, field: private_key, path: key, lease: shared}
";
        let payments = pod("bank", "payments-0", "payments");
        let mine = shown(&provider.mount(store.asking(&payments, objects)).await.unwrap());
        let theirs = shown(&provider.mount(store.asking(&pod("bank", "payments-1", "payments"), objects)).await.unwrap());
        assert_eq!(mine, theirs, "the Pods of a ServiceAccount share ({})", own.auth);
        for (namespace, account) in [("evil", "default"), ("evil", "payments"), ("bank", "default")] {
            let other = shown(&provider.mount(store.asking(&pod(namespace, "x-0", account), objects)).await.unwrap());
            assert!(mine[0] != other[0] && mine[1] != other[1], "{namespace}/{account} has its own ({})", own.auth);
        }
    }
}

#[tokio::test]
async fn without_a_proof_a_shared_lease_is_the_pods() {
    let (own, postgres) = (Own::by_approle().await, Postgres::start().await);
    let store = &own.store;
    store.bao.database("database", &postgres, "app", "1h", "24h").await;
    own.configure(OPEN);
    store.house.reconfigure("verify: jwks", "verify: driver");
    let provider = store.house.serve();
    let objects = "- {secret: database/creds/app, field: username, path: username, lease: shared}";
    let ask = async |pod| only_file(&provider.mount(store.asking(&pod, objects)).await.unwrap());
    let first = ask(web()).await;
    assert_eq!(ask(web()).await, first);
    assert_ne!(ask(pod("shop", "web-1", "web")).await, first);
}

// === what is the store's own ===

impl Own {
    /// The result of a mount of one object: the file, or the message.
    async fn ask(&self, provider: &Provider, object: &str) -> Result<String, String> {
        self.ask_with(provider, &json!({ "objects": format!("- {object}") })).await
    }

    async fn ask_with(&self, provider: &Provider, parameters: &Value) -> Result<String, String> {
        let answer = provider.mount(self.store.asking_with(&web(), parameters)).await;
        answer.map(|answer| shown(&answer).concat()).map_err(|status| status.message().to_owned())
    }
}

const EVERYTHING: &str = r#"  - pods: { namespace: "*" }
    read: ["bao/**", "**/lookup-self", "bao/*/*/*", "bao/*/*/*/*", "bao/${serviceAccount}/**"]
    update: ["bao/**", "bao/*/*/*", "bao/${serviceAccount}/**"]
    deny: ["bao/secret/data/root/**"]"#;

#[tokio::test]
async fn no_pod_gets_the_daemons_own_store_token() {
    for own in [Own::by_approle().await, Own::by_token().await, Own::by_cert().await] {
        let bao = &own.store.bao;
        bao.namespace("team-a").await.namespace("web").await;
        own.configure(EVERYTHING);
        own.store.house.reconfigure(&own.auth, &format!("{}, classMay: {{ namespace: [\"**\"] }}", own.auth));
        let provider = own.store.house.serve();
        bao.requests();
        for object in [
            "{secret: auth/token/lookup-self, field: id, path: t}",
            "{secret: auth/token/lookup-self, path: t}",
            "{secret: AUTH/token/lookup-self, field: id, path: t}",
            "{secret: auth/Token/lookup-self, field: id, path: t}",
            "{secret: auth//token/lookup-self, field: id, path: t}",
            "{secret: auth/token/lookup-self/, field: id, path: t}",
            "{secret: /auth/token/lookup-self, field: id, path: t}",
            "{secret: secret/../auth/token/lookup-self, field: id, path: t}",
            "{secret: auth%2ftoken/lookup-self, field: id, path: t}",
            "{secret: \" auth/token/lookup-self\", field: id, path: t}",
            "{secret: team-a/auth/token/lookup-self, field: id, path: t}",
            "{secret: team-a/web/auth/token/lookup-self, field: id, path: t}",
            "{secret: auth/token/create, method: POST, path: t}",
            "{secret: auth/token/renew-self, method: POST, path: t}",
            "{secret: auth/approle/login, method: POST, args: {role_id: x}, path: t}",
            "{secret: cubbyhole/x, path: t}",
            "{secret: cubbyhole, method: LIST, path: t}",
            "{secret: sys/leases/lookup/database/creds/app, method: LIST, path: t}",
            "{secret: sys/wrapping/wrap, method: POST, args: {a: b}, path: t}",
            "{secret: sys/wrapping/unwrap, method: POST, path: t}",
            "{secret: sys/policies/acl/all, path: t}",
            "{secret: sys/mounts, path: t}",
            "{secret: team-a/sys/mounts, path: t}",
            "{secret: identity/entity/id, method: LIST, path: t}",
            "{secret: auth/approle/role/node/secret-id, method: POST, path: t}",
        ] {
            let refused = own.ask(&provider, object).await.unwrap_err();
            assert!(refused.starts_with("PolicyDenied: ") || refused.starts_with("InvalidRequest: "), "{object}: {refused}");
        }
        for (namespace, secret) in [
            ("team-a", "auth/token/lookup-self"),
            ("team-a/web", "sys/mounts"),
            ("team-a/auth", "token/lookup-self"),
            ("sys", "mounts"),
            ("auth", "token/lookup-self"),
            ("root", "auth/token/lookup-self"),
        ] {
            let parameters = json!({ "namespace": namespace, "objects": format!("- {{secret: {secret}, path: t}}") });
            let refused = own.ask_with(&provider, &parameters).await.unwrap_err();
            assert!(refused.starts_with("PolicyDenied: "), "{namespace}: {refused}");
        }
        // The store has seen none of it.
        assert!(bao.requests().is_empty(), "{:?}", bao.requests());
    }
}

#[tokio::test]
async fn secrets_whose_names_only_look_so_are_read_as_before() {
    let own = Own::by_approle().await;
    let bao = &own.store.bao;
    let team = bao.namespace("team-a").await;
    for (bao, mount) in [(bao, "secret"), (bao, "kv-auth"), (bao, "sysadmin"), (&team, "kv")] {
        bao.kv2(mount).await;
        bao.put(mount, "auth/google/client", json!({ "v": mount })).await;
        bao.put(mount, "sys/x", json!({ "v": mount })).await;
        bao.put(mount, "shop/db", json!({ "v": mount })).await;
    }
    bao.kv1("kv1").await;
    bao.must("POST", "kv1/auth/db", json!({ "v": "kv1" })).await;
    bao.must("POST", "kv1/sys/db", json!({ "v": "kv1" })).await;
    own.configure(
        r#"  - pods: { namespace: shop }
    read: ["bao/**", "bao/kv1/sys/db"]"#,
    );
    own.store.house.reconfigure(&own.auth, &format!("{}, classMay: {{ namespace: [\"team-a\", root] }}", own.auth));
    let provider = own.store.house.serve();
    for namespace in ["team-a", "/team-a/"] {
        let parameters = json!({ "namespace": namespace, "objects": "- {secret: kv/data/auth/google/client, field: v, path: v}" });
        assert_eq!(own.ask_with(&provider, &parameters).await, Ok("v 0644 kv".to_owned()), "{namespace}");
    }
    for name in [
        "secret/data/auth/google/client",
        "secret/data/sys/x",
        "kv-auth/data/shop/db",
        "sysadmin/data/auth/google/client",
        "team-a/kv/data/auth/google/client",
        "team-a/kv/data/sys/x",
        "kv1/auth/db",
        // It may belong to a namespace: then the class names it in full.
        "kv1/sys/db",
    ] {
        let mount = name.split('/').find(|element| *element != "team-a").unwrap();
        assert_eq!(own.ask(&provider, &format!("{{secret: {name}, field: v, path: v}}")).await, Ok(format!("v 0644 {mount}")), "{name}");
    }
    let listed = own.ask(&provider, "{secret: secret/metadata/auth/google, method: LIST, field: keys, path: v}").await;
    assert_eq!(listed, Ok("v 0644 [\"client\"]".to_owned()));
}

/// A namespace may have a name that is a word of KV v2.
#[tokio::test]
async fn a_namespace_that_looks_like_an_engine_is_told_from_one() {
    let own = Own::by_approle().await;
    let bao = &own.store.bao;
    let data = bao.namespace("org").await.namespace("data").await;
    data.approle("approle", "app", json!({ "token_policies": ["default"] })).await;
    bao.namespace("approle").await.namespace("data").await.approle("approle", "app", json!({})).await;
    own.configure(
        r#"  - pods: { namespace: shop }
    read: ["bao/**", "bao/org/data/sys/policies/**"]
    update: ["bao/**"]"#,
    );
    let provider = own.store.house.serve();
    for object in [
        "{secret: org/data/sys/mounts, path: t}",
        "{secret: org/data/auth/token/lookup-self, field: id, path: t}",
        "{secret: org/data/auth/approle/role/app/secret-id, method: POST, path: t}",
        "{secret: approle/data/auth/approle/role/app/role-id, path: t}",
    ] {
        let refused = own.ask(&provider, object).await.unwrap_err();
        assert!(refused.contains("does not say that this is a secret of a KV engine"), "{object}: {refused}");
    }
    let accessors = data.api("LIST", "auth/approle/role/app/secret-id", Value::Null).await.1;
    assert_eq!(accessors["data"]["keys"].as_array().unwrap().len(), 1, "nothing was made before the request: {accessors}");
    own.store.house.reconfigure(&own.auth, &format!("{}, classMay: {{ namespace: [\"**\"] }}", own.auth));
    drop(provider);
    let provider = own.store.house.serve();
    let named = json!({ "namespace": "org/data", "objects": "- {secret: sys/policies/acl/default, field: name, path: v}" });
    assert_eq!(own.ask_with(&provider, &named).await, Ok("v 0644 default".to_owned()), "with its namespace the class can name it");
}

#[tokio::test]
async fn what_a_rule_spells_is_possible() {
    let own = Own::by_approle().await;
    let bao = &own.store.bao;
    bao.approle("approle", "app", json!({})).await;
    let team = bao.namespace("team-a").await;
    team.approle("approle", "app", json!({})).await;
    own.configure(r#"  - pods: { namespace: shop }
    read: ["bao/sys/policies/*/all", "bao/auth/approle/role/*/role-id"]
    update: ["bao/auth/approle/role/app/secret-id", "bao/sys/tools/**", "bao/sys/wrapping/unwrap", "bao/*/auth/approle/role/app/secret-id"]"#);
    let provider = own.store.house.serve();
    for object in [
        "{secret: auth/approle/role/app/secret-id, method: POST, field: secret_id, path: v}",
        "{secret: team-a/auth/approle/role/app/secret-id, method: POST, field: secret_id, path: v}",
        "{secret: auth/approle/role/app/role-id, field: role_id, path: v}",
        "{secret: sys/tools/random, method: POST, args: {format: hex}, field: random_bytes, path: v}",
        "{secret: sys/policies/acl/all, field: name, path: v}",
    ] {
        own.ask(&provider, object).await.unwrap();
    }
    // A wrapping token of the class's own.
    let wrapped = bao.request("POST", "sys/wrapping/wrap", json!({ "v": "given" }), &[("x-vault-wrap-ttl", "1h")]).await.body;
    let token = wrapped["wrap_info"]["token"].as_str().unwrap();
    let object = format!("{{secret: sys/wrapping/unwrap, method: POST, args: {{token: {token}}}, field: v, path: v}}");
    assert_eq!(own.ask(&provider, &object).await, Ok("v 0644 given".to_owned()));
}

/// If somebody writes the store's own token into a secret, Keyferry does not hand it on.
#[tokio::test]
async fn no_answer_with_the_daemons_own_token_is_delivered() {
    let own = Own::by_token().await;
    let bao = &own.store.bao;
    let token = fs::read_to_string(own.store.house.path("token")).unwrap();
    let accessor =
        bao.with_token(&token).must("GET", "auth/token/lookup-self", Value::Null).await["data"]["accessor"].as_str().unwrap().to_owned();
    let text = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    for (name, value) in [
        ("plain", json!(token)),
        ("within", json!(format!("export VAULT_TOKEN={token}\n"))),
        ("deep", json!({ "a": [1, { "b": token }] })),
        ("base64", json!(text(&token))),
        ("basic", json!(text(&format!("user:{token}!")))),
        ("accessor", json!(accessor)),
    ] {
        bao.put("kv", &format!("shop/{name}"), json!({ "v": value, "other": "harmless" })).await;
    }
    own.configure("  - pods: { namespace: shop }\n    read: [\"bao/**\"]");
    let provider = own.store.house.serve();
    assert_eq!(own.ask(&provider, "{secret: kv/data/shop/db, field: username, path: v}").await, Ok("v 0644 app".to_owned()));
    for name in ["plain", "within", "deep", "base64", "basic", "accessor"] {
        for field in ["v", "other"] {
            let refused = own.ask(&provider, &format!("{{secret: kv/data/shop/{name}, field: {field}, path: v}}")).await.unwrap_err();
            assert!(
                refused.starts_with("BackendDenied: object 1 (v): bao/kv/data/shop/") && refused.contains("is not delivered"),
                "{refused}"
            );
            assert!(!refused.contains(&token) && !provider.log().contains(&token));
        }
    }
}

// === the Pods' tokens for the daemon ===

#[tokio::test]
async fn the_pods_token_for_the_daemon_goes_to_no_store() {
    let store = Store::new().await;
    store.bao.jwt_role("jwt", "csi", "keyferry", json!({ "policies": ["csi"] })).await;
    store.configure(&store.bao.url(), ", classMay: { audience: [\"*\"], role: [\"*\"] }", "providers: [keyferry, vault]");
    let provider = store.house.serve();
    store.bao.requests();
    let objects = "- {secret: kv/data/shop/db, field: password, path: p}";
    let refused = provider.mount(store.asking_with(&web(), &json!({ "audience": "keyferry", "objects": objects }))).await.unwrap_err();
    insta::assert_snapshot!(refused.message(), @r#"PolicyDenied: object 1 (p): bao/kv/data/shop/db: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)"#);
    let peers = json!({ "audience": "keyferry", "roleName": "csi", "objects": "- {objectName: p, secretPath: kv/data/shop/db, secretKey: password}" });
    let refused = store.mount_at("vault", store.asking_with(&web(), &peers)).await.unwrap_err();
    insta::assert_snapshot!(refused.message(), @r#"PolicyDenied: object 1 (p): bao/kv/data/shop/db: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)"#);
    assert!(store.bao.requests().is_empty());
}

#[tokio::test]
async fn a_configuration_that_sends_it_is_refused_at_start_and_by_check() {
    let store = Store::new().await;
    for auth in ["{ method: jwt, mount: jwt, role: csi, audience: keyferry }", "{ method: kubernetes, role: csi, audience: keyferry }"] {
        store.configure_as(auth, &store.bao.url(), "", "", RULE);
        let (code, _, log) = run(&mut store.house.serve_command(), "");
        assert!(code == 2 && log.contains("backends.bao.auth.audience: "), "{code}: {log}");
        let (code, out, _) = run(keyferry().arg("check").arg("--config").arg(store.house.path("keyferry.yaml")), "");
        assert!(code == 1 && out.contains("\"keyferry\" is identity.audience"), "{code}: {out}");
    }
}
