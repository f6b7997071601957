//! Errors on the way to the server.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test]
async fn statuses_mean_what_the_configuration_says() {
    let bench = Bench::saying(418, r#"{"message":"short and stout"}"#);
    insta::assert_snapshot!(bench.fails("").await, @"Unhelpful: intranet/shop/db: the store gave no secret: 418: short and stout (see its log; `statuses` of the backend says what a status means)");
    insta::assert_snapshot!(bench.fails("statuses: { 418: notFound }").await, @"NotFound: intranet/shop/db: the store has no such secret: 418: short and stout (write it, or correct the name; `url` of the backend says where Keyferry looks for it)");
    let denied = Bench::saying(403, r#"{"errors":["token-for-intranet may not"]}"#);
    insta::assert_snapshot!(denied.fails("auth: { bearer: { podToken: intranet } }").await, @"Denied: intranet/shop/db: the store refused the read: 403: [redacted] may not (may the token of ServiceAccount shop/web for intranet read it there?)");
    assert_eq!(denied.server.asked().len(), 1, "a refusal is not asked for again");
    let absent = Bench::saying(404, "<html>hunter2</html>");
    insta::assert_snapshot!(absent.fails("").await, @"NotFound: intranet/shop/db: the store has no such secret: 404 Not Found (write it, or correct the name; `url` of the backend says where Keyferry looks for it)");
}

/// A mount pays for each of its failures by its weight, and may have hundreds of them.
#[tokio::test]
async fn a_long_refusal_is_kept_short() {
    for (status, text) in [(403, "x"), (403, "\u{1f600}"), (422, "\u{1f600}")] {
        let body = serde_json::json!({ "error": text.repeat(10_000) }).to_string();
        let refused = Bench::new(move |_| Answer::new(status, body.clone())).read("").await.unwrap_err();
        assert!(refused.reason.contains(text) && refused.weight() <= 2 * 1024, "{} {refused}", refused.weight());
    }
}

#[tokio::test]
async fn only_a_get_is_tried_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let bench = Bench::new(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503, ""),
        _ => Answer::new(200, r#"{"a":"1"}"#),
    });
    assert_eq!(shown(&bench.read("").await.unwrap()), "a=1");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    calls.store(0, Ordering::SeqCst);
    insta::assert_snapshot!(bench.fails("method: POST").await, @"Unavailable: intranet/shop/db: the store failed: 503 Service Unavailable (see its log; kubelet tries again by itself)");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let elsewhere = Bench::saying(200, r#"{"a":"stolen"}"#);
    let there = format!("{}/v1/shop/db", elsewhere.origin());
    let bench = Bench::new(move |asked| match asked.line.as_str() {
        "GET /v1/moved" => Answer::new(307, "").header("location", "/v2/moved"),
        "GET /v2/moved" => Answer::new(200, r#"{"a":"1"}"#),
        _ => Answer::new(302, "").header("location", there.as_str()),
    });
    let told = bench.fails("auth: { bearer: { podToken: intranet } }").await.replace(&elsewhere.origin(), "ELSEWHERE");
    insta::assert_snapshot!(told, @"Unhelpful: intranet/shop/db: ORIGIN: it redirects to ELSEWHERE, which is not followed: it is another host; configure the address that answers without a redirect (that may be the address of the active node, or of a load balancer)");
    assert!(elsewhere.server.asked().is_empty());
    assert_eq!(shown(&fetch(&bench.backend(""), "moved").await.unwrap()), "a=1", "to the same host it is");
}

#[tokio::test]
async fn a_slow_store_fails_at_the_deadline() {
    let bench = Bench::new(|_| Answer::new(200, "{}").after(Duration::from_mins(1)));
    let backend = bench.backend("");
    let cx = FetchContext { deadline: Instant::now() + Duration::from_millis(300), ..cx() };
    let began = Instant::now();
    let error = backend.fetch(&secret(&backend, "db", None), &cx).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10));
    insta::assert_snapshot!(bench.told(&error), @"TimedOut: intranet/db: ORIGIN: no answer in time (is the store slow or out of reach? kubelet tries again by itself)");
}

#[tokio::test]
async fn a_store_is_ready_when_it_answers() {
    let bench = Bench::new(|asked| match asked.line.as_str() {
        "GET /healthz" => Answer::new(503, ""),
        "HEAD /" => Answer::new(404, ""),
        line => panic!("{line}"),
    });
    let backend = bench.backend("auth: { bearer: { podToken: intranet } }");
    for _ in 0..3 {
        backend.check().await.unwrap();
    }
    let asked = bench.server.asked();
    assert_eq!((asked.len(), asked[0].header("authorization")), (1, ""), "once for several, and as nobody");
    insta::assert_snapshot!(bench.told(&bench.backend("check: /healthz").check().await.unwrap_err()), @"Unavailable: intranet: ORIGIN/healthz answers 503 Service Unavailable (see the store's log)");
    let gone = bench.backend("check: /healthz");
    let origin = bench.origin();
    drop(bench);
    let error = gone.check().await.unwrap_err();
    assert_eq!(error.fault, Fault::Down, "{error} {origin}");
}

#[tokio::test]
async fn a_stranger_is_not_believed() {
    let bench = Bench::saying(200, "{}");
    let other = Authority::new("Other CA");
    bench.file("ca.crt", &other.pem);
    let told = bench.fails("auth: { bearer: { podToken: intranet } }").await;
    assert!(told.starts_with("Down: intranet/shop/db: ORIGIN: "), "{told}");
    assert!(bench.server.asked().is_empty());
    let missing = HttpBackend::open("intranet".parse().unwrap(), &parsed("url: https://s.example/{name}\nca: /no/such.crt").unwrap(), 1);
    insta::assert_snapshot!(missing.unwrap_err(), @"intranet: https://s.example: the CA cannot be read: /no/such.crt: No such file or directory (os error 2) (name PEM certificates; kubelet mounts them from a ConfigMap or Secret) (the cluster's admin has to correct that file)");
}
