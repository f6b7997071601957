use super::*;

/// A backend that may do everything.
fn root(bench: &Bench) -> Arc<VaultBackend> {
    let file = bench.file("root-token", &bench.bao.token);
    bench.backend(&format!("auth: {{ method: token, tokenFile: {} }}", file.display()))
}

async fn read_version(bench: &Bench, backend: &VaultBackend, name: &str, version: &str) -> Result<Arc<Secret>, BackendError> {
    let pinned = secret(backend, name).with(|asked| asked.version = Some(backend.config.pin(version).unwrap()));
    fetch(backend, &pinned, &bench.cx(&web())).await
}

#[tokio::test]
async fn versions_are_pinned_and_those_that_are_gone_say_how() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    bench.bao.put("kv", "shop/db", json!({ "password": "second" })).await;
    bench.bao.put("kv", "shop/db", json!({ "password": "third" })).await;
    let pinned = read_version(&bench, &backend, "kv/data/shop/db", "2").await.unwrap();
    assert_eq!((field(&pinned, "password").as_str(), pinned.version.as_ref().unwrap().as_str()), ("second", "2"));
    insta::assert_snapshot!(read_version(&bench, &backend, "kv/data/shop/db", "9").await.unwrap_err(), @"bao/kv/data/shop/db: there is no version 9 of it, or no such secret (pin another, or none)");
    bench.bao.must("POST", "kv/destroy/shop/db", json!({ "versions": [1] })).await;
    insta::assert_snapshot!(read_version(&bench, &backend, "kv/data/shop/db", "1").await.unwrap_err(), @"bao/kv/data/shop/db: version 1 is destroyed: its content is gone for good (write it again, or pin another version)");
    bench.bao.must("POST", "kv/delete/shop/db", json!({ "versions": [3] })).await;
    let deleted = bench.read(&backend, "kv/data/shop/db").await.unwrap_err();
    assert_eq!(deleted.fault, Fault::NotFound);
    let year = deleted.reason.find("20").unwrap();
    let shown = deleted.reason.replace(&deleted.reason[year..deleted.reason.find("Z ").unwrap()], "TIME");
    insta::assert_snapshot!(shown, @"version 3, the latest, was deleted at TIMEZ (undelete it, write it again, or pin another version)");
    bench.bao.must("POST", "kv/undelete/shop/db", json!({ "versions": [3] })).await;
    assert_eq!(field(&bench.read(&backend, "kv/data/shop/db").await.unwrap(), "password"), "third");
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let bench = Bench::start().await;
    let backend = root(&bench);
    bench.bao.kv1("kv1").await;
    for name in ["kv/data/shop/none", "kv1/none", "nowhere/x", "kv/shop/db"] {
        assert_eq!(bench.read(&backend, name).await.unwrap_err().fault, Fault::NotFound, "{name}");
    }
    insta::assert_snapshot!(bench.read(&backend, "kv/data/shop/none").await.unwrap_err(), @"bao/kv/data/shop/none: there is no such secret (write it, or correct the path)");
    insta::assert_snapshot!(bench.read(&backend, "nowhere/x").await.unwrap_err(), @"bao/nowhere/x: no secrets engine is mounted there (correct the path)");
}

#[tokio::test]
async fn values_are_exact_and_all_names_reach_the_store() {
    let bench = Bench::start().await;
    let backend = root(&bench);
    bench.bao.kv1("kv1").await;
    let odd = json!({ "n": 9_007_199_254_740_993_u64, "f": 1.5, "b": true, "x": null, "l": [1, "a"], "t": "ü\n\"<&>\u{0}" });
    bench.bao.must("POST", "kv1/a%20b/%C3%BC+%26=x", odd).await;
    let read = bench.read(&backend, "kv1/a b/ü+&=x").await.unwrap();
    assert_eq!(field(&read, "n"), "9007199254740993");
    assert_eq!(field(&read, "t"), "ü\n\"<&>\u{0}");
    assert_eq!((field(&read, "l").as_str(), field(&read, "x").as_str()), ("[1,\"a\"]", "null"));
    assert_eq!(read.version, None);
    let response: Value = serde_json::from_slice(read.response.as_ref().unwrap().bytes().expose()).unwrap();
    assert_eq!(response["data"]["b"], true);
    assert_eq!(response.as_object().unwrap().keys().collect::<Vec<_>>(), ["lease_id", "lease_duration", "renewable", "data", "warnings"]);
    let again = bench.read(&backend, "kv1/a b/ü+&=x").await.unwrap();
    assert_eq!(again.response.as_ref().unwrap().bytes().expose(), read.response.as_ref().unwrap().bytes().expose());
}

#[tokio::test]
async fn any_path_is_asked_by_method_and_arguments() {
    let bench = Bench::start().await;
    let backend = root(&bench);
    let cx = bench.cx(&web());
    let list = secret(&backend, "kv/metadata/shop").with(|asked| asked.method = Method::List);
    assert_eq!(field(&fetch(&backend, &list, &cx).await.unwrap(), "keys"), "[\"db\"]");
    let query = secret(&backend, "kv/data/shop/db").with(|asked| asked.args.insert("version", &json!(1)));
    assert_eq!(field(&fetch(&backend, &query, &cx).await.unwrap(), "username"), "app");
    let random = posted(&backend, "sys/tools/random", &[("bytes", json!(4)), ("format", json!("hex"))]);
    assert_eq!(field(&fetch(&backend, &random, &cx).await.unwrap(), "random_bytes").len(), 8);

    let empty = posted(&backend, "kv/delete/shop/db", &[("versions", json!([7]))]);
    insta::assert_snapshot!(fetch(&backend, &empty, &cx).await.unwrap_err(), @"bao/kv/delete/shop/db: the store did the POST and answered nothing: there is nothing to deliver (ask for a path that answers)");
    let login = posted(&backend, "auth/token/create", &[]);
    insta::assert_snapshot!(fetch(&backend, &login, &cx).await.unwrap_err(), @"bao/auth/token/create: the answer is a login with a store token in `auth`, not a secret (only Keyferry logs in to the store)");
    let get = secret(&backend, "auth/token/create");
    insta::assert_snapshot!(fetch(&backend, &get, &cx).await.unwrap_err(), @"bao/auth/token/create: the store refused the read: unsupported operation (the path does not take GET: see `method`)");
    bench.bao.pki("pki", "web", "1h", false).await;
    let wrong = posted(&backend, "pki/issue/web", &[("common_name", json!("x")), ("ttl", json!("not-a-ttl"))]);
    insta::assert_snapshot!(fetch(&backend, &wrong, &cx).await.unwrap_err(), @r#"bao/pki/issue/web: the store refused the POST: Field validation failed: error converting input for field "ttl": time: invalid duration "[redacted]" (correct the class: the path, the method or the arguments)"#);
    let raw = secret(&backend, "pki/ca/pem");
    insta::assert_snapshot!(fetch(&backend, &raw, &cx).await.unwrap_err(), @"bao/pki/ca/pem: pki/ca/pem answers with raw bytes, not with JSON (ask for pki/cert/ca, and take its field `certificate`)");
}

#[tokio::test]
async fn namespaces_are_a_part_of_the_name() {
    let bench = Bench::start().await;
    let team = bench.bao.namespace("team-a").await;
    team.kv2("kv").await;
    team.put("kv", "shop/db", json!({ "password": "theirs" })).await;
    team.policy("shop", READ_SHOP).await;
    team.jwt("jwt", &bench.issuer.jwks()).await;
    team.jwt_role("jwt", "csi", AUDIENCE, json!({ "policies": ["shop"] })).await;
    bench.bao.requests();

    let backend = bench.as_pod();
    let theirs = secret_as(&backend, "kv/data/shop/db", Login { namespace: Some("team-a".into()), ..Login::default() });
    assert_eq!(theirs.to_string(), "bao/team-a/kv/data/shop/db");
    assert_eq!(field(&fetch(&backend, &theirs, &bench.cx(&web())).await.unwrap(), "password"), "theirs");
    assert_eq!(json!(bench.bao.counted()), json!({ "team-a: update auth/jwt/login": 1, "team-a: read kv/data/shop/db": 1 }));

    let configured = bench.backend("namespace: team-a\nauth: { method: jwt, role: csi, audience: bao }");
    assert_eq!(field(&bench.read(&configured, "kv/data/shop/db").await.unwrap(), "password"), "theirs");
    let denied = bench.read(&configured, "kv/shop/db").await.unwrap_err();
    insta::assert_snapshot!(denied, @"bao/team-a/kv/shop/db: bao refused the read: permission denied for role csi (did you mean team-a/kv/data/shop/db? kv is an engine of KV v2)");
    configured.forget(&web().uid, soon()).await;
    assert_eq!(bench.bao.counted()["team-a: update auth/token/revoke-self"], 1);
}
