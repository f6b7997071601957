//! `kind: http` through the daemon: a store of somebody's own, over TLS.

use std::fs;

use serde_json::json;

use super::only_file;
use crate::api_server::{Answer, ApiServer, Call};
use crate::support::{House, ISSUER, TOKENS, eventually, pod, request, shown, tokens, web};

/// The store knows one secret, and two versions of it.
fn answer(call: &Call) -> (u16, String) {
    let secret = |password: &str, version: u32| json!({ "data": { "password": password, "port": 5432 }, "meta": { "version": version } });
    match call.path.as_str() {
        "/v1/shop/db" => (200, secret("correct horse", 2).to_string()),
        "/v1/shop/db?version=1" => (200, secret("battery staple", 1).to_string()),
        "/v1/shop/forbidden" => (403, json!({ "error": "not for you" }).to_string()),
        _ => (404, String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_ones_own_is_read_with_the_pods_token_and_nothing_a_class_says_leads_elsewhere() {
    let (house, store) = (House::bare(), ApiServer::start(Answer::With(Box::new(answer))).await);
    fs::write(house.path("ca.pem"), &store.ca).unwrap();
    let (root, uid) = (house.folder.path().display(), rustix::process::geteuid().as_raw());
    let config = format!(
        "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\n\
         identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
         backends:\n  intranet: {{ kind: http, url: \"{}\", ca: {root}/ca.pem, auth: {{ bearer: {{ podToken: intranet }} }}, fields: data,\n    \
           version: meta.version, versionQuery: version }}\n\
         policy: [{{ pods: {{ namespace: shop }}, read: [\"intranet/shop/*\"] }}]\n",
        store.url("/v1/{name}")
    );
    fs::write(house.path("keyferry.yaml"), config).unwrap();
    let provider = house.serve();
    store.calls(); // at the start the daemon asks it whether it is there
    let token = house.token(&web(), "intranet");
    let asking = |objects: &str| {
        let both = tokens(&[("keyferry", &house.token(&web(), "keyferry")), ("intranet", &token)]);
        request(&web(), json!({ "objects": objects, TOKENS: both }))
    };

    let objects = "- {secret: shop/db, field: password, path: password, mode: 0400}\n- {secret: shop/db, field: port, path: port}";
    let answer = provider.mount(asking(objects)).await.unwrap();
    assert_eq!(shown(&answer), ["password 0400 correct horse", "port 0644 5432"]);
    assert_eq!((answer.object_version[0].id.as_str(), answer.object_version[0].version.as_str()), ("intranet/shop/db", "2"));
    let calls = store.calls();
    assert_eq!(calls.len(), 1, "two objects of one secret are one call: {calls:?}");
    assert_eq!(calls[0].authorization.as_deref(), Some(format!("Bearer {token}").as_str()), "the token for the store, and no other");
    let pinned = "- {secret: shop/db, field: password, version: \"1\", path: p}";
    assert_eq!(only_file(&provider.mount(asking(pinned)).await.unwrap()), "battery staple");

    let mut refused = Vec::new();
    for name in ["shop/none", "shop/forbidden", "bank/db", "shop/../bank/db", "@elsewhere.example/x", "shop/db?x"] {
        let status = provider.mount(asking(&format!("- {{secret: \"{name}\", path: p}}"))).await.unwrap_err();
        refused.push(format!("{:?} {}", status.code(), status.message()));
    }
    // Without a token for the store, Keyferry asks nothing.
    let own = tokens(&[("keyferry", &house.token(&pod("shop", "web-1", "web"), "keyferry"))]);
    let bare = json!({ "objects": "- {secret: shop/db, path: p}", TOKENS: own });
    refused.push(provider.mount(request(&pod("shop", "web-1", "web"), bare)).await.unwrap_err().message().to_owned());
    let asked: Vec<_> = store.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(asked, ["/v1/shop/db?version=1", "/v1/shop/none", "/v1/shop/forbidden"]);
    let told = refused.join("\n").replace(&store.url(""), "ORIGIN");
    assert!(!told.contains(&token), "{told}");
    insta::assert_snapshot!(told, @r#"
    NotFound SecretNotFound: object 1 (p): intranet/shop/none: the store has no such secret: 404 Not Found (write it, or correct the name; `url` of the backend says where Keyferry looks for it)
    PermissionDenied BackendDenied: object 1 (p): intranet/shop/forbidden: the store refused the read: 403: not for you (may the token of ServiceAccount shop/web for intranet read it there?)
    PermissionDenied PolicyDenied: object 1 (p): intranet/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["intranet/bank/db"])
    InvalidArgument InvalidRequest: object 1 (p): secret: the name "shop/../bank/db" has the element ".." (write the name as its store lists it)
    PermissionDenied PolicyDenied: object 1 (p): intranet/@elsewhere.example/x: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["intranet/@elsewhere.example/x"])
    InvalidArgument InvalidRequest: object 1 (p): secret: the name "shop/db?x" has the character '?', which stores read as an escape or a query (write the name as its store lists it)
    BackendLoginFailed: object 1 (p): intranet/shop/db: the store needs the Pod's token for the audience "intranet", and no verified token of it came (add audience: intranet to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)
    "#);
}

/// An ETag is often the MD5 of the secret, and many people read versions. So no answer, no audit line and no log has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_may_tell_the_value_is_seen_by_nobody() {
    const MD5: &str = "2ab96390c7dbe3439de74d0c9b0b1767";
    let answer = |call: &Call| match call.path.as_str() {
        "/v1/shop/number" => (200, json!({ "data": { "a": "hunter2" }, "v": 7 }).to_string()),
        "/v1/shop/text" => (200, json!({ "data": { "a": "hunter2" }, "v": MD5 }).to_string()),
        _ => (404, String::new()),
    };
    let (house, store) = (House::bare(), ApiServer::start(Answer::With(Box::new(answer))).await);
    fs::write(house.path("ca.pem"), &store.ca).unwrap();
    let (root, uid) = (house.folder.path().display(), rustix::process::geteuid().as_raw());
    let config = format!(
        "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\nlog: {{ level: debug }}\n\
         identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
         backends:\n  intranet: {{ kind: http, url: \"{}\", ca: {root}/ca.pem, fields: data, version: v }}\n\
         policy: [{{ pods: {{ namespace: shop }}, read: [\"intranet/shop/*\"] }}]\n",
        store.url("/v1/{name}")
    );
    fs::write(house.path("keyferry.yaml"), config).unwrap();
    let provider = house.serve();
    let objects = "- {secret: shop/number, field: a, path: a}\n- {secret: shop/text, field: a, path: b}";
    let answer = provider.mount(house.request(&web(), objects)).await.unwrap();
    let versions: Vec<_> = answer.object_version.iter().map(|object| object.version.as_str()).collect();
    assert_eq!((versions[0], versions[1].len()), ("7", 32));
    eventually("the audit line is there", async || !house.audit().is_empty()).await;
    let audit = fs::read_to_string(house.path("audit.jsonl")).unwrap();
    assert!(audit.contains(versions[1]));
    for (what, text) in [("answer", format!("{answer:?}")), ("audit", audit), ("log", provider.log())] {
        assert!(!text.contains(MD5), "{what}: {text}");
    }
}
