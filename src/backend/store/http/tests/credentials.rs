//! Who asks, and what is asked.

use super::*;

#[tokio::test]
async fn the_pods_token_goes_out_and_no_other() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    bench.read("auth: { bearer: { podToken: intranet } }").await.unwrap();
    let asked = bench.server.asked();
    assert_eq!((asked.len(), asked[0].header("authorization")), (1, "Bearer token-for-intranet"));
    assert!(!format!("{asked:?}").contains("token-for-keyferry"));
    insta::assert_snapshot!(bench.fails("auth: { bearer: { podToken: secrets.example } }").await, @r#"Unauthenticated: intranet/shop/db: the store needs the Pod's token for the audience "secrets.example", and verified tokens came for "intranet", "keyferry" (add audience: secrets.example to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"#);
    let backend = bench.backend("auth: { bearer: { podToken: intranet } }");
    let cx = FetchContext { tokens: Arc::default(), ..cx() };
    insta::assert_snapshot!(backend.fetch(&secret(&backend, "db", None), &cx).await.unwrap_err(), @r#"intranet/db: the store needs the Pod's token for the audience "intranet", and no verified token of it came (add audience: intranet to tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"#);
    assert!(bench.server.asked().is_empty(), "without its token nothing is asked");
}

#[tokio::test]
async fn files_are_read_when_they_are_needed() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    let (key, token, password) = (bench.file("key", "one\n"), bench.file("token", "t1"), bench.file("password", " pass:word \r\n"));
    let header = format!("headers: {{ X-Api-Key: {{ file: {} }}, Accept: application/vnd.x+json }}\n", key.display());
    let with_token = bench.backend(&format!("{header}auth: {{ bearer: {{ file: {} }} }}", token.display()));
    fetch(&with_token, "db").await.unwrap();
    bench.file("key", "two");
    bench.file("token", "t2\n");
    fetch(&with_token, "db").await.unwrap();
    let seen = bench.server.asked();
    let sent: Vec<_> = seen.iter().map(|asked| ["x-api-key", "authorization", "accept"].map(|name| asked.header(name))).collect();
    assert_eq!(sent, [["one", "Bearer t1", "application/vnd.x+json"], ["two", "Bearer t2", "application/vnd.x+json"]]);
    bench.read(&format!("auth: {{ basic: {{ user: app, passwordFile: {} }} }}", password.display())).await.unwrap();
    let basic = data_encoding::BASE64.encode(b"app: pass:word ");
    assert_eq!(bench.server.asked()[0].header("authorization"), format!("Basic {basic}"));
    bench.file("key", "\u{feff}three\r\n");
    bench.file("password", "\u{feff}pass:word\r\n");
    fetch(&with_token, "db").await.unwrap();
    bench.read(&format!("auth: {{ basic: {{ user: app, passwordFile: {} }} }}", password.display())).await.unwrap();
    let seen = bench.server.asked();
    assert_eq!(seen[0].header("x-api-key"), "three", "without what Windows puts around it");
    assert_eq!(seen[1].header("authorization"), format!("Basic {}", data_encoding::BASE64.encode(b"app:pass:word")));
    bench.file("key", "h\0u\0n\0t\0e\0r\0");
    insta::assert_snapshot!(bench.told(&fetch(&with_token, "db").await.unwrap_err()), @"Unauthenticated: intranet/db: DIR/key: is UTF-16, as PowerShell writes it (save it as UTF-8)");
    bench.file("key", "a\nhunter2");
    insta::assert_snapshot!(bench.told(&fetch(&with_token, "db").await.unwrap_err()), @"Unauthenticated: intranet/db: DIR/key: holds a control character, such as a tab or a line's end within it (it must be one line, without tabs)");
    bench.file("key", "\n");
    insta::assert_snapshot!(bench.told(&fetch(&with_token, "db").await.unwrap_err()), @"Unauthenticated: intranet/db: DIR/key: is empty (the daemon logs in to the store with what is in this file)");
    std::fs::remove_file(&key).unwrap();
    insta::assert_snapshot!(bench.told(&fetch(&with_token, "db").await.unwrap_err()), @"Unauthenticated: intranet/db: DIR/key: cannot be read: No such file or directory (os error 2) (the daemon logs in to the store with what is in this file)");
    insta::assert_snapshot!(bench.told(&with_token.check().await.unwrap_err()), @"Unauthenticated: intranet: DIR/key: cannot be read: No such file or directory (os error 2) (the daemon logs in to the store with what is in this file)");
}

/// A control character might end a header. In encoded text it would only make the credential wrong, and nobody would see why.
#[tokio::test]
async fn a_credential_with_a_control_character_is_not_sent() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    let file = bench.file("credential", "");
    let ways =
        ["auth: { basic: { user: app, passwordFile: FILE } }", "auth: { bearer: { file: FILE } }", "headers: { X-Key: { file: FILE } }"];
    for way in ways.map(|way| way.replace("FILE", &file.display().to_string())) {
        let backend = bench.backend(&way);
        for content in ["hunter2\tx", "hunter2\0a", "hunter2\r\nx\n", "hunter2\nx", "\u{7f}hunter2"] {
            bench.file("credential", content);
            for error in [fetch(&backend, "db").await.unwrap_err(), backend.check().await.unwrap_err()] {
                let told = bench.told(&error);
                assert!(told.starts_with("Unauthenticated: ") && told.contains("DIR/credential: holds a control character"), "{told}");
                assert!(!told.contains("hunter2"), "{told}");
            }
        }
        bench.file("credential", "hünter2 x\r\n");
        fetch(&backend, "db").await.unwrap();
    }
}

/// A store may have its callers' credentials among its secrets, or show callers who they are.
#[tokio::test]
async fn an_answer_with_the_credential_in_it_is_not_delivered() {
    let bench = Bench::of(&Manner::default(), |asked| {
        let (bearer, key) = (asked.header("authorization").to_owned(), asked.header("x-api-key").to_owned());
        Answer::new(200, serde_json::json!({ "other": "harmless", "caller": { "bearer": bearer, "key": key } }).to_string())
    });
    let (token, password, key) =
        (bench.file("token", "tok-0123456789abcdef"), bench.file("password", "pass-0123456789"), bench.file("key", "key-0123456789abcdef"));
    for more in [
        format!("auth: {{ bearer: {{ file: {} }} }}", token.display()),
        format!("auth: {{ basic: {{ user: app, passwordFile: {} }} }}", password.display()),
        format!("headers: {{ X-Api-Key: {{ file: {} }} }}", key.display()),
        "auth: { bearer: { podToken: intranet } }".to_owned(),
    ] {
        for format in ["", "format: raw\n", "fields: caller\n"] {
            let told = bench.fails(&format!("{format}{more}")).await;
            assert!(
                told.starts_with("Denied: intranet/shop/db: the answer holds the credential that Keyferry sent with the request"),
                "{more}: {told}"
            );
        }
    }
    bench.read("headers: { X-Api-Key: no-secret-0123456789 }").await.unwrap();
    // A short one may be a word of an answer, but not the whole of a field.
    bench.file("password", "harmless");
    assert!(
        bench.fails(&format!("auth: {{ basic: {{ user: app, passwordFile: {} }} }}", password.display())).await.starts_with("Denied: ")
    );
}

#[tokio::test]
async fn a_certificate_of_our_own_is_shown() {
    let bench = Bench::of(&Manner { asks: true, ..Manner::default() }, |_| Answer::new(200, r#"{"a":"1"}"#));
    insta::assert_snapshot!(bench.fails("").await, @"Down: intranet/shop/db: ORIGIN: no secure connection: the server refused: CertificateRequired: it needs a client certificate, and none is configured (check the backend's address, `clientCert` and `clientKey`)");
    let files = bench.authority.write_client(bench.folder.path(), "node-1");
    let own = format!("clientCert: {}\nclientKey: {}", files.chain.display(), files.key.display());
    assert_eq!(shown(&bench.read(&own).await.unwrap()), "a=1");
}

#[tokio::test]
async fn a_name_stays_below_the_url_at_its_host() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    let backend = bench.backend_at("/v1/{name}/value?for={namespace}", "versionQuery: v");
    let hostile =
        ["a@evil.example", "a:80", "a b", "a&for=x", "a;b=c", "a+b", "ünï/ключ", "a\u{202e}b", "...", "a:b@evil.example/x", "{name}"];
    for name in hostile {
        let pinned = secret(&backend, name, Some("1&for=x#"));
        backend.fetch(&pinned, &cx()).await.unwrap();
    }
    let asked = bench.server.asked();
    assert!(asked.iter().all(|asked| format!("https://{}", asked.host) == bench.origin()));
    insta::assert_snapshot!(asked.into_iter().map(|asked| asked.line).collect::<Vec<_>>().join("\n"), @"
    GET /v1/a%40evil.example/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%3A80/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%20b/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%26for%3Dx/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%3Bb%3Dc/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%2Bb/value?for=shop&v=1%26for%3Dx%23
    GET /v1/%C3%BCn%C3%AF/%D0%BA%D0%BB%D1%8E%D1%87/value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%E2%80%AEb/value?for=shop&v=1%26for%3Dx%23
    GET /v1/.../value?for=shop&v=1%26for%3Dx%23
    GET /v1/a%3Ab%40evil.example/x/value?for=shop&v=1%26for%3Dx%23
    GET /v1/%7Bname%7D/value?for=shop&v=1%26for%3Dx%23
    ");
    for name in ["//evil.example", "../x", "a/../../x", "a%2f..", "a\\b", "a?x", "a#x", "/a", ".", "a\r\nHost: evil"] {
        assert!(backend.config.canonical(name).is_err(), "{name:?}");
    }
}

#[tokio::test]
async fn a_body_names_the_secret_where_the_store_wants_it_so() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    let rest = "method: POST\nbody: '{\"path\": \"/{name}\", \"of\": [\"{namespace}\", \"{serviceAccount}\"], \"v\": \"{version}\"}'\nlatest: newest";
    let backend = bench.backend_at("/read", rest);
    fetch(&backend, "a\"b/c").await.unwrap();
    backend.fetch(&secret(&backend, "x", Some("3")), &cx()).await.unwrap();
    let asked = bench.server.asked();
    assert_eq!((asked[0].line.as_str(), asked[0].header("content-type")), ("POST /read", "application/json"));
    assert_eq!(asked[0].body, r#"{"path": "/a\"b/c", "of": ["shop", "web"], "v": "newest"}"#);
    assert_eq!(asked[1].body, r#"{"path": "/x", "of": ["shop", "web"], "v": "3"}"#);
}

#[tokio::test]
async fn versions_are_pinned_where_the_store_has_a_way() {
    let bench = Bench::saying(200, r#"{"a":"1"}"#);
    let slot = bench.backend_at("/s/{name}/versions/{version}:access", "latest: latest");
    fetch(&slot, "db").await.unwrap();
    slot.fetch(&secret(&slot, "db", Some("a/2")), &cx()).await.unwrap();
    assert_eq!(bench.server.lines(), ["GET /s/db/versions/latest:access", "GET /s/db/versions/a%2F2:access"]);
    insta::assert_snapshot!(slot.config.pin("..").unwrap_err(), @r#"".." is not a version (1 to 256 bytes, no control characters, not `.` or `..`)"#);
    insta::assert_snapshot!(bench.backend("").config.pin("2").unwrap_err(), @"cannot be pinned in this store (remove it; or the cluster's admin sets versionQuery of the backend, or {version} in its url)");
}

#[tokio::test]
async fn what_a_class_may_not_say_is_refused() {
    let bench = Bench::saying(200, "{}");
    let config = &bench.backend("").config;
    let asked = RefParts::read("intranet".parse().unwrap(), "db".parse().unwrap());
    let posted = config.admit(RefParts { method: Method::Post, ..asked.clone() });
    insta::assert_snapshot!(format!("{:?}", posted.unwrap_err()), @r#"Request { key: "method", problem: "POST means nothing to a store over HTTP, whose secrets are only read (remove it)" }"#);
    let login = crate::model::Login { role: Some("x".into()), ..crate::model::Login::default() };
    insta::assert_snapshot!(format!("{:?}", config.admit(RefParts { login, ..asked.clone() }).unwrap_err()), @r#"NoLogin { key: Role, problem: "means nothing to a store over HTTP: nobody logs in there (remove it)" }"#);
}

#[test]
fn who_is_the_same_to_the_store_shares() {
    let scope = |rest: &str, pod: &PodIdentity| {
        let backend = open(&format!("url: https://s.example/{rest}"));
        backend.scope(&secret(&backend, "db", None), pod)
    };
    let (one, two, other) = (pod("web-0", "web"), pod("web-1", "web"), pod("db-0", "db"));
    let node = "{name}";
    assert_eq!(scope(node, &one), scope(node, &other));
    let named = "{namespace}/{name}";
    assert_eq!(scope(named, &one), scope(named, &two));
    assert_ne!(scope(named, &one), scope(named, &other));
    let by_pod = "{name}\nauth: { bearer: { podToken: intranet } }";
    assert_eq!(scope(by_pod, &one), Scope::Pod("uid-web-0".into()));
    let by_account = "{name}\nauth: { bearer: { podToken: intranet } }\nshare: serviceAccount";
    assert_eq!(scope(by_account, &one), scope(by_account, &two));
    assert_ne!(scope(by_account, &one), scope(by_account, &other));
    let other_account = PodIdentity { service_account_uid: Some("another".into()), ..two.clone() };
    assert_ne!(scope(by_account, &one), scope(by_account, &other_account));
    let believed = PodIdentity { verified: false, ..two };
    assert_eq!(scope(by_account, &believed), Scope::Pod("uid-web-1".into()));
}
