use super::*;

async fn trouble(backend: &Arc<VaultBackend>, bench: &Bench) -> (Fault, String, String) {
    let error = bench.read(backend, "kv/data/shop/db").await.unwrap_err();
    let check = backend.check().await.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
    let plain = |text: String| text.replace(&bench.bao.address().to_string(), "ADDRESS");
    (error.fault, plain(error.to_string()), plain(check))
}

#[tokio::test]
async fn sealed_and_down() {
    let bench = Bench::start().await;
    bench.bao.seal().await;
    let (fault, error, check) = trouble(&bench.as_pod(), &bench).await;
    assert_eq!(fault, Fault::Unavailable);
    insta::assert_snapshot!(error, @"bao/kv/data/shop/db: the store is sealed after 3 tries (an operator must unseal it: `bao operator unseal`; a new store needs `bao operator init` first)");
    insta::assert_snapshot!(check, @"bao: the store at http://ADDRESS is sealed (an operator must unseal it: `bao operator unseal`)");
    bench.bao.stop();
    let (fault, error, check) = trouble(&bench.as_pod(), &bench).await;
    assert_eq!(fault, Fault::Down);
    insta::assert_snapshot!(error, @"bao/kv/data/shop/db: http://ADDRESS: no connection: tcp connect error: Connection refused (os error 111) after 3 tries (is the store up, and do network policies let the daemon out to it? kubelet tries again by itself)");
    insta::assert_snapshot!(check, @"bao: http://ADDRESS: no connection: tcp connect error: Connection refused (os error 111) after 3 tries (is the store up, and do network policies let the daemon out to it? kubelet tries again by itself)");
}

#[tokio::test]
async fn uninitialised_and_something_else() {
    let new = Bao::configured(Options { uninitialised: true, ..Options::default() }).await;
    let backend = open(&new.url(), "auth: { method: jwt, role: csi }");
    let shown = backend.check().await.unwrap_err().to_string().replace(&new.address().to_string(), "ADDRESS");
    insta::assert_snapshot!(shown, @"bao: the store at http://ADDRESS is not initialised (an operator must run `bao operator init`)");
}

#[tokio::test]
async fn throttled() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    bench.bao.rate_limit("kv", 1, 60, true).await;
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
    let error = bench.read(&backend, "kv/data/shop/db").await.unwrap_err();
    assert_eq!(error.fault, Fault::Throttled);
    insta::assert_snapshot!(error, @r#"bao/kv/data/shop/db: the store throttles: 429: request path "kv/data/shop/db": rate limit quota exceeded (a rate limit quota of the store; kubelet tries again by itself)"#);
}

#[tokio::test]
async fn the_wrong_certificate() {
    let bench = Bench::with(Options { tls: true, ..Options::default() }).await;
    let other = bench.file("other-ca.pem", &bao::Authority::new("another").ca);
    let backend = bench.backend(&format!("ca: {}\nauth: {{ method: jwt, role: csi, audience: bao }}", other.display()));
    let (fault, error, check) = trouble(&backend, &bench).await;
    assert_eq!(fault, Fault::Down);
    assert!(error.contains("certificate") && check.contains("certificate"), "{error}\n{check}");
}

#[tokio::test]
async fn silence_ends_with_the_deadline_for_all_who_wait() {
    let bench = Bench::start().await;
    let proxy = Proxy::start(bench.bao.address());
    let backend = open(&bench.bao.url_at(proxy.address), "auth: { method: jwt, role: csi, audience: bao }");
    proxy.blackhole(true);
    let db = secret(&backend, "kv/data/shop/db");
    let within = |seconds: u64| FetchContext { deadline: Instant::now() + Duration::from_secs(seconds), ..bench.cx(&web()) };
    let calls = (0..10).map(|_| (db.clone(), within(1))).collect();
    let began = Instant::now();
    for answer in at_once(&backend, calls).await {
        assert_eq!(answer.unwrap_err().fault, Fault::TimedOut);
    }
    assert!(began.elapsed() < Duration::from_secs(3));
    proxy.blackhole(false);
    proxy.cut();
    bench.read(&backend, "kv/data/shop/db").await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_down_is_not_tried_by_each_who_waits_for_the_login() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    bench.bao.stop();
    let db = secret(&backend, "kv/data/shop/db");
    let calls = (0..50).map(|n| (db.clone(), bench.cx(&pod("shop", &format!("web-{n}"), "web")))).collect();
    let began = Instant::now();
    for answer in at_once(&backend, calls).await {
        assert_eq!(answer.unwrap_err().fault, Fault::Down);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Debug output has no tokens, arguments or values of a request.
#[tokio::test]
async fn no_secret_is_shown() {
    let bench = Bench::start().await;
    let backend = bench.as_pod();
    let cx = bench.cx(&web());
    let read = fetch(&backend, &secret(&backend, "kv/data/shop/db"), &cx).await.unwrap();
    let denied = bench.read(&backend, "kv/data/bank/db").await.unwrap_err();
    let shown = format!("{backend:?} {read:?} {denied:?} {cx:?}");
    let jwt = String::from_utf8(cx.tokens.find(AUDIENCE).unwrap().jwt.expose().to_vec()).unwrap();
    for secret in ["correct horse", "s.", jwt.as_str()] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

#[tokio::test]
async fn a_doctor_sees_that_the_clocks_are_apart() {
    /// A node whose clock is ahead by this many seconds.
    #[derive(Debug)]
    struct Ahead(i64);
    impl Clock for Ahead {
        fn now(&self) -> jiff::Timestamp {
            SystemClock.now() + jiff::SignedDuration::from_secs(self.0)
        }
    }
    let bench = Bench::start().await;
    let text = format!("address: {}\nauth: {{ method: jwt, role: csi, audience: bao }}", bench.bao.url());
    let (node, mut faults) = (yaml::parse(&text).unwrap(), yaml::Faults::default());
    let config = VaultConfig::parse(&mut yaml::Reader::of(&node, "bao", &mut faults).unwrap(), &mut faults).unwrap();
    for (ahead, words) in [(100, "warn 100 s behind"), (-100, "warn 100 s ahead of"), (1000, "fail 1000 s behind")] {
        let backend = VaultBackend::open("bao".parse().unwrap(), &config, LIMITS, Arc::new(Ahead(ahead))).unwrap();
        let found = backend.examine(None).await;
        let clock = found.iter().find(|found| found.what == "backend bao: clock").unwrap();
        let (level, apart) = words.split_once(' ').unwrap();
        // A second may turn while it is asked.
        let apart = [apart.to_owned(), apart.replace("00 s", "01 s"), apart.replace("100 s", "99 s").replace("1000 s", "999 s")];
        assert!(clock.level.as_str() == level && apart.iter().any(|apart| clock.why.contains(apart)), "{clock:?}");
    }
}
