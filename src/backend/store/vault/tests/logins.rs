use super::*;

#[tokio::test]
async fn a_hundred_pods_of_one_service_account_log_in_once() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let db = secret(&backend, "kv/data/shop/db");
    let calls = (0..100).map(|n| (db.clone(), bench.cx(&pod("shop", &format!("web-{n}"), "web")))).collect();
    assert!(at_once(&backend, calls).await.iter().all(Result::is_ok));
    assert_eq!(json!(bench.bao.counted()), json!({ "update auth/jwt/login": 1, "read kv/data/shop/db": 100 }));

    let apart = bench.backend("auth: { method: jwt, role: csi, audience: bao }\nshare: pod");
    let calls = (0..5).map(|n| (db.clone(), bench.cx(&pod("shop", &format!("web-{n}"), "web")))).collect();
    assert!(at_once(&apart, calls).await.iter().all(Result::is_ok));
    assert_eq!(json!(bench.bao.counted()), json!({ "update auth/jwt/login": 5, "read kv/data/shop/db": 5 }));
}

#[tokio::test]
async fn other_service_accounts_roles_and_audiences_are_other_logins() {
    let bench = Bench::start().await;
    bench.role("other", json!({ "policies": ["shop"] })).await;
    let backend = bench.as_pod();
    let plain = secret(&backend, "kv/data/shop/db");
    let role = Login { role: Some("other".into()), ..Login::default() };
    let (as_other, web, api) = (secret_as(&backend, "kv/data/shop/db", role), web(), pod("shop", "api-0", "api"));
    for (secret, pod) in [(&plain, &web), (&plain, &api), (&as_other, &web), (&plain, &web)] {
        fetch(&backend, secret, &bench.cx(pod)).await.unwrap();
    }
    assert_eq!(bench.bao.counted()["update auth/jwt/login"], 3);
    let scope = |secret: &SecretRef, pod: &PodClaims| backend.scope(secret, &verified(pod));
    assert_eq!(scope(&plain, &web), scope(&plain, &pod("shop", "web-1", "web")));
    assert!(matches!(scope(&plain, &web), Scope::Account(_)));
    assert_ne!(scope(&plain, &web), scope(&plain, &api));
    assert_ne!(plain, as_other, "another login is another request");
    let again = PodIdentity { service_account_uid: Some("another".into()), ..verified(&web) };
    assert_ne!(scope(&plain, &web), backend.scope(&plain, &again), "a ServiceAccount that was made again is another one");
    assert_eq!(backend.scope(&plain, &PodIdentity::believed(&web)), Scope::Pod(web.uid.as_str().into()));
    assert_eq!(scope(&posted(&backend, "pki/issue/web", &[]), &web), Scope::Pod(web.uid.as_str().into()));
    let apart = bench.backend("auth: { method: jwt, role: csi, audience: bao }\nshare: pod");
    assert_eq!(apart.scope(&plain, &verified(&web)), Scope::Pod(web.uid.into()));
}

#[tokio::test]
async fn kubernetes_reviews_the_pods_token() {
    let (bench, reviews) = (Bench::start().await, Reviews::start());
    bench.bao.kubernetes("kubernetes", &reviews).await;
    let bound = json!({ "policies": ["shop"], "audience": "bao", "bound_service_account_names": ["web"] });
    bench.bao.kubernetes_role("kubernetes", "csi", bound).await;
    let backend = bench.backend("auth: { method: kubernetes, role: csi, audience: bao }");
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!(reviews.count(), 1);

    let other = fetch(&backend, &secret(&backend, "kv/data/shop/db"), &bench.cx(&pod("shop", "api-0", "api"))).await.unwrap_err();
    assert_eq!(other.fault, Fault::Unauthenticated);
    insta::assert_snapshot!(other, @"bao/kv/data/shop/db: the store refuses to log in role csi at auth/kubernetes with the Pod's token for bao: service account name not authorized (does role csi exist at auth/kubernetes, bound to ServiceAccount shop/api and audience bao? the store also says no when it cannot reach the cluster's API server)");
    reviews.go_down();
    let down = fetch(&backend, &secret(&backend, "kv/data/shop/db"), &bench.cx(&pod("bank", "web-0", "web"))).await.unwrap_err();
    insta::assert_snapshot!(down, @"bao/kv/data/shop/db: the store refuses to log in role csi at auth/kubernetes with the Pod's token for bao: permission denied (does role csi exist at auth/kubernetes, bound to ServiceAccount bank/web and audience bao? the store also says no when it cannot reach the cluster's API server)");
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
}

#[tokio::test]
async fn a_refused_login_says_why_and_what_to_do() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let db = secret(&backend, "kv/data/shop/db");
    let wrong = fetch(&backend, &db, &bench.cx_with(&web(), "other")).await.unwrap_err();
    assert_eq!(wrong.fault, Fault::Unauthenticated);
    insta::assert_snapshot!(wrong, @r#"bao/kv/data/shop/db: to log in there, the Pod's token for the audience "bao" is needed, and verified tokens came for "other" (add audience: bao to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"#);
    let none = FetchContext { tokens: Arc::default(), ..bench.cx(&web()) };
    insta::assert_snapshot!(fetch(&backend, &db, &none).await.unwrap_err(), @r#"bao/kv/data/shop/db: to log in there, the Pod's token for the audience "bao" is needed, and no verified token of it came (add audience: bao to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"#);

    let unfit = secret_as(&backend, "kv/data/shop/db", Login { audience: Some("other".into()), ..Login::default() });
    insta::assert_snapshot!(fetch(&backend, &unfit, &bench.cx_with(&web(), "other")).await.unwrap_err(), @"bao/kv/data/shop/db: the store refuses to log in role csi at auth/jwt with the Pod's token for other: error validating token: invalid audience (aud) claim: audience claim does not match any expected audience (does role csi exist at auth/jwt, with bound_audiences other and claims that a token of ServiceAccount shop/web has?)");
    let role = secret_as(&backend, "kv/data/shop/db", Login { role: Some("nobody".into()), ..Login::default() });
    insta::assert_snapshot!(fetch(&backend, &role, &bench.cx(&web())).await.unwrap_err(), @r#"bao/kv/data/shop/db: the store refuses to log in role nobody at auth/jwt with the Pod's token for bao: role "nobody" could not be found (does role nobody exist at auth/jwt, with bound_audiences bao and claims that a token of ServiceAccount shop/web has?)"#);
    let mount = secret_as(&backend, "kv/data/shop/db", Login { mount: Some("nowhere".into()), ..Login::default() });
    insta::assert_snapshot!(fetch(&backend, &mount, &bench.cx(&web())).await.unwrap_err(), @"bao/kv/data/shop/db: the store refuses to log in role csi at auth/nowhere with the Pod's token for bao: permission denied (does role csi exist at auth/nowhere, with bound_audiences bao and claims that a token of ServiceAccount shop/web has?)");
    let doubled = secret_as(&backend, "kv/data/shop/db", Login { mount: Some("auth/jwt".into()), ..Login::default() });
    insta::assert_snapshot!(fetch(&backend, &doubled, &bench.cx(&web())).await.unwrap_err(), @"bao/kv/data/shop/db: the store refuses to log in role csi at auth/auth/jwt with the Pod's token for bao: permission denied (leave the `auth/` out of the mount, in the class or in auth.mount of the backend: Keyferry adds it itself)");

    let long_ago = crate::clock::ManualClock::at("2020-01-01T00:00:00Z".parse().unwrap());
    let expired = bench.issuer.token(&web(), AUDIENCE, std::time::Duration::from_mins(1), &long_ago).unwrap();
    let token = PodToken { jwt: Arc::new(SecretBytes::new(expired.into_bytes())), expires: SystemClock.now() };
    let cx = FetchContext { tokens: Arc::new(PodTokens::new(BTreeMap::from([(AUDIENCE.to_owned(), token)]))), ..bench.cx(&web()) };
    let error = fetch(&backend, &db, &cx).await.unwrap_err();
    assert!(error.reason.contains("expired") && !error.reason.contains("eyJ"), "{error}");
}

#[tokio::test]
async fn the_daemon_logs_in_by_approle() {
    let bench = Bench::start().await;
    let (role_id, secret_id) = bench.bao.approle("approle", "node", json!({ "token_policies": ["shop"] })).await;
    let file = bench.file("secret-id", &format!("{secret_id}\n"));
    let rest = format!("auth: {{ method: approle, roleId: {role_id}, secretIdFile: {} }}", file.display());
    let backend = bench.backend(&rest);
    let db = secret(&backend, "kv/data/shop/db");
    for pod in [web(), pod("bank", "web-0", "web")] {
        let cx = FetchContext { tokens: Arc::default(), ..bench.cx(&pod) };
        fetch(&backend, &db, &cx).await.unwrap();
    }
    assert_eq!(bench.bao.counted()["update auth/approle/login"], 1, "one login for all Pods");
    let elsewhere = PodIdentity::believed(&pod("bank", "x", "y"));
    assert_eq!(backend.scope(&db, &verified(&web())), backend.scope(&db, &elsewhere));
    backend.check().await.unwrap();

    bench.file("secret-id", "not-one");
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    let fresh = bench.backend(&rest);
    insta::assert_snapshot!(bench.read(&fresh, "kv/data/shop/db").await.unwrap_err(), @"bao/kv/data/shop/db: the store refuses to log in the daemon's approle at auth/approle: invalid role or secret ID (is the role id right, and the secret id not used up or expired? write a new one into its file)");
    std::fs::remove_file(&file).unwrap();
    let error = bench.read(&fresh, "kv/data/shop/db").await.unwrap_err().to_string();
    assert!(error.contains("secret-id: cannot be read: No such file"), "{error}");
    assert_eq!(fresh.check().await.unwrap_err().fault, Fault::Unauthenticated);
}

#[tokio::test]
async fn the_daemon_shows_its_certificate() {
    let bench = Bench::with(Options { tls: true, ..Options::default() }).await;
    let client = bench.bao.authority().client("node");
    bench.bao.cert("cert", "node", &bench.bao.authority().ca, json!({ "token_policies": ["shop"] })).await;
    let (chain, key) = (bench.file("node.pem", &client.certificate), bench.file("node.key", &client.key));
    let ca = bench.bao.ca_file();
    let tls = format!("ca: {}\nclientCert: {}\nclientKey: {}\n", ca.display(), chain.display(), key.display());
    let backend = bench.backend(&format!("{tls}auth: {{ method: cert, role: node }}"));
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    let wrong = bench.backend(&format!("{tls}auth: {{ method: cert, role: other }}"));
    insta::assert_snapshot!(bench.read(&wrong, "kv/data/shop/db").await.unwrap_err(), @"bao/kv/data/shop/db: the store refuses to log in role other at auth/cert: invalid certificate or no client certificate supplied (does a role at auth/cert trust the CA of clientCert?)");
}

#[tokio::test]
async fn a_token_file_is_read_again() {
    let bench = Bench::start().await;
    let token = bench.bao.new_token(json!({ "policies": ["shop"], "ttl": "1h" })).await;
    let file = bench.file("token", &format!("{token}\n"));
    let backend = bench.backend(&format!("auth: {{ method: token, tokenFile: {} }}", file.display()));
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    assert_eq!(json!(bench.bao.counted()), json!({ "read auth/token/lookup-self": 1, "read kv/data/shop/db": 2 }));

    let next = bench.bao.new_token(json!({ "policies": ["shop"], "ttl": "1h", "no_default_policy": true })).await;
    bench.file("token", &next);
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    bench.bao.must("POST", "auth/token/revoke", json!({ "token": next })).await;
    let error = bench.read(&backend, "kv/data/shop/db").await.unwrap_err();
    assert_eq!(error.fault, Fault::Unauthenticated);
    insta::assert_snapshot!(error.to_string().replace(&file.display().to_string(), "FILE"), @"bao/kv/data/shop/db: the store does not accept the token in FILE any more: it expired or was revoked, or has no policy that allows anything here (write a new one into the file; Keyferry uses it at once)");
    bench.file("token", &token);
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    backend.forget(&web().uid, soon()).await;
    let itself = bench.bao.with_token(&token).api("GET", "auth/token/lookup-self", Value::Null).await;
    assert_eq!(itself.0, 200, "it is not ours to revoke");
}

#[tokio::test]
async fn a_token_is_renewed_in_its_last_third_and_replaced_at_its_end() {
    let bench = Bench::start().await;
    bench.role("short", json!({ "policies": ["shop"], "ttl": "3s", "max_ttl": "5s" })).await;
    let backend = bench.backend("auth: { method: jwt, role: short, audience: bao }");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        bench.read(&backend, "kv/data/shop/db").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let counted = bench.bao.counted();
    assert!((1..=4).contains(&counted["update auth/token/renew-self"]), "{counted:?}");
    assert!((2..=3).contains(&counted["update auth/jwt/login"]), "{counted:?}");
    // Once for a request that reached the store just as the token ended, if there was one.
    assert!(counted.get("read auth/token/lookup-self").is_none_or(|asked| *asked <= 2), "{counted:?}");
}

#[tokio::test]
async fn the_last_pod_takes_the_token_with_it() {
    let bench = Bench::start().await;
    let (backend, second) = (bench.as_pod(), pod("shop", "web-1", "web"));
    let db = secret(&backend, "kv/data/shop/db");
    fetch(&backend, &db, &bench.cx(&web())).await.unwrap();
    fetch(&backend, &db, &bench.cx(&second)).await.unwrap();
    let accessor = bench.bao.requests().remove(0).accessor;
    backend.forget(&web().uid, soon()).await;
    assert!(bench.bao.token_of(&accessor).await.is_some());
    backend.forget("somebody", soon()).await;
    backend.forget(&second.uid, soon()).await;
    assert!(bench.bao.token_of(&accessor).await.is_none());
    fetch(&backend, &db, &bench.cx(&second)).await.unwrap();
    let shown: Vec<String> = bench.bao.requests().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["update auth/token/revoke-self", "update auth/jwt/login", "read kv/data/shop/db"]);
}
