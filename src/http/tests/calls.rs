//! Single calls, redirects and retries.

use super::*;

#[tokio::test]
async fn every_failure_is_told_apart() {
    let scene = Scene::http1();
    let patience = Instant::now() + Duration::from_millis(100);
    assert!(matches!(scene.client.send(request("/slow"), patience).await, Err(HttpError::TimedOut)));
    assert!(matches!(scene.get("/large").await, Err(HttpError::TooLarge { limit: 4096 })));
    assert!(matches!(scene.get("/breaks").await, Err(HttpError::Broken(_))));
    let address = scene.server.stop().await;
    let refused = get(&client(address, config(&scene.folder)), "/").await.unwrap_err();
    insta::assert_snapshot!(refused, @"no connection: tcp connect error: Connection refused (os error 111)");
    // No resolver is asked for a name that long.
    let nowhere = get(&at(&format!("http://{}.invalid", "x".repeat(64)), HttpConfig::default()), "/").await.unwrap_err();
    assert!(matches!(&nowhere, HttpError::Connect(words) if words.contains("lookup address")), "{nowhere}");
}

#[tokio::test]
async fn a_request_goes_nowhere_else() {
    let scene = Scene::new();
    let endpoint = scene.client.endpoint().clone();
    for other in ["https://elsewhere.example/", "http://localhost/", "https://user@localhost/"] {
        let refused = get(&scene.client, other).await.unwrap_err();
        assert!(matches!(&refused, HttpError::Request(_)), "{refused}");
    }
    assert_eq!(get(&scene.client, &format!("{endpoint}/absolute")).await.unwrap().1, "/absolute");
    let below = at(&format!("{endpoint}/base/"), config(&scene.folder));
    assert_eq!(get(&below, "/v1/a").await.unwrap().1, "/base/v1/a");
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let folder = crate::folder::new();
    let path = folder.path().join("store.sock");
    let client = at(&format!("unix://{}", path.display()), HttpConfig::default());
    let refused = get(&client, "/").await.unwrap_err().to_string().replace(folder.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(refused, @"no connection: DIR/store.sock: No such file or directory (os error 2)");
    let _server = Server::unix(&path);
    assert_eq!(get(&client, "/v1/a").await.unwrap().1, "/v1/a");
}

// === redirects ===

fn redirect(to: &str) -> server::Answer {
    (307, vec![("location", to.to_owned())])
}

#[tokio::test]
async fn a_redirect_is_followed_within_the_origin_only() {
    let scene = Scene::new();
    scene.server.script([redirect("/next?x"), redirect(&format!("{}/last", scene.client.endpoint()))]);
    assert_eq!(scene.get("/first").await.unwrap().1, "/last");
    assert_eq!(scene.server.requests().len(), 3);

    scene.server.script([redirect("../other/./x?y"), redirect("?z")]);
    assert_eq!(scene.get("/v1/a/b").await.unwrap().1, "/v1/other/x?z", "a path from where it was said");
    scene.server.script([redirect("../..//elsewhere.example/")]);
    assert_eq!(scene.get("/v1/a").await.unwrap().1, "//elsewhere.example/", "a path, and no server");

    scene.server.script([redirect("https://user:canary@elsewhere.example/?canary")]);
    assert!(!scene.get("/").await.unwrap_err().to_string().contains("canary"));
    scene.server.script([redirect("https://elsewhere.example:8200/canary?canary")]);
    insta::assert_snapshot!(scene.get("/").await.unwrap_err(), @"it redirects to https://elsewhere.example:8200, which is not followed: it is another host; configure the address that answers without a redirect");
    scene.server.script([redirect("//elsewhere.example/")]);
    assert!(matches!(scene.get("/").await, Err(HttpError::Redirect { to, .. }) if to == "https://elsewhere.example"));
    scene.server.script(["/1", "/2", "/3", "/4"].map(redirect));
    assert!(matches!(scene.get("/").await, Err(HttpError::Redirect { why: "it has redirected three times already", .. })));
    scene.server.script([redirect("/next")]);
    let post = Request::post("/").body(Bytes::new()).unwrap();
    assert!(matches!(scene.client.send(post, soon()).await, Err(HttpError::Redirect { why, .. }) if why.starts_with("only a redirect")));
    scene.server.script([(302, Vec::new())]);
    assert_eq!(scene.get("/").await.unwrap().0, 302);
}

// === codings ===

/// What a client says of these bytes as an answer.
async fn raw(answer: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = server::bind(0);
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request[..read].to_vec()).unwrap()
    });
    let told = get(&at(&format!("http://{address}"), HttpConfig::default()), "/").await;
    assert!(serving.await.unwrap().to_lowercase().contains("accept-encoding: identity\r\n"));
    told.map_or_else(|error| error.to_string(), |(status, body)| format!("{status} {body}"))
}

#[tokio::test]
async fn what_is_still_coded_on_the_wire_is_refused() {
    let plain = raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(plain, "200 ok");
    let all = [
        raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await,
        raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await,
        raw("HTTP/1.1 500 Oh\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok").await,
        raw("HTTP/1.1 200 OK\r\ncontent-encoding: aws-chunked, gzip\r\ncontent-length: 2\r\n\r\nok").await,
    ];
    insta::assert_snapshot!(all.join("\n"), @r#"
    its answer (200 OK) has Transfer-Encoding "gzip", which Keyferry does not take: it asks for the plain body
    its answer (200 OK) has Transfer-Encoding "gzip", which Keyferry does not take: it asks for the plain body
    its answer (500 Internal Server Error) has Content-Encoding "gzip", which Keyferry does not take: it asks for the plain body
    its answer (200 OK) has Content-Encoding "gzip", which Keyferry does not take: it asks for the plain body
    "#);
}

// === retries ===

fn status(status: u16) -> server::Answer {
    (status, Vec::new())
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let scene = Scene::new();
    scene.server.script([503, 412].map(status));
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Ok(200), 3)));
    scene.server.script([500, 502, 429, 200].map(status));
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Ok(429), 3)), "the last answer as it is");
    scene.server.script([501].map(status));
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Ok(501), 1)));
    scene.server.script([503].map(status));
    assert!(matches!(scene.try_get("/", Repeat::Never).await, (Ok(503), 1)));
    let broken = Scene::http1();
    assert!(matches!(broken.try_get("/breaks", Repeat::Safe).await, (Err(HttpError::Broken(_)), 3)));
    assert!(matches!(broken.try_get("/breaks", Repeat::Never).await, (Err(HttpError::Broken(_)), 1)));
    assert_eq!(broken.server.requests().len(), 4);
}

#[tokio::test]
async fn a_server_that_asks_for_too_much_patience_is_believed() {
    let scene = Scene::new();
    scene.server.script([(429, vec![("retry-after", "60".to_owned())])]);
    let began = Instant::now();
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Ok(429), 1)));
    assert!(began.elapsed() < Duration::from_secs(2));
    scene.server.script([(429, vec![("retry-after", "0".to_owned())])]);
    assert!(matches!(scene.try_get("/", Repeat::Safe).await, (Ok(200), 2)));
}

#[tokio::test]
async fn who_cannot_be_reached_is_tried_again_whatever_is_asked() {
    let scene = Scene::new();
    let client = client(scene.server.address, config(&scene.folder));
    scene.server.stop().await;
    let outcome = client.call(request("/"), Repeat::Never, soon()).await;
    assert!(matches!(outcome.answer, Err(HttpError::Connect(_))));
    assert_eq!(outcome.after(), " after 3 tries");
}

#[tokio::test]
async fn the_deadline_is_for_all_tries() {
    let scene = Scene::new();
    scene.server.script([503].map(status));
    let outcome = scene.client.call(request("/slow"), Repeat::Safe, Instant::now() + Duration::from_millis(500)).await;
    assert!(matches!(outcome.answer, Err(HttpError::TimedOut)), "{outcome:?}");
    assert_eq!(outcome.tries, 2);
}

// === one connection ===

#[tokio::test]
async fn many_calls_at_once_make_one_connection() {
    let scene = Scene::new();
    let calls = (0..100).map(|n| {
        let client = scene.client.clone();
        tokio::spawn(async move { get(&client, &format!("/{n}")).await.unwrap().0 })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(scene.server.connections(), 1);
}

#[tokio::test]
async fn many_calls_to_nobody_do_not_wait_for_each_other() {
    let scene = Scene::new();
    let address = scene.server.stop().await;
    let client = client(address, config(&scene.folder));
    let calls = (0..50).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { get(&client, "/").await.unwrap_err() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), HttpError::Connect(_)));
    }
}

#[tokio::test]
async fn many_calls_that_cannot_be_served_make_one_connection() {
    let scene = Scene::of(&Manner::named("elsewhere.example"));
    // Its files are not looked at meanwhile: that takes one call or another a moment longer.
    let tuning = Tuning { files: Duration::from_mins(1), ..hurried() };
    let endpoint = format!("https://localhost:{}", scene.server.address.port()).parse().unwrap();
    let client = HttpClient::tuned(endpoint, config(&scene.folder), Names::default(), tuning, |_| None).unwrap();
    let calls = (0..50).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { get(&client, "/").await.unwrap_err() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), HttpError::Certificate(_)));
    }
    // One caller looks at the files meanwhile, and may come when the others have their answer.
    let connections = scene.server.connections();
    assert!((1..=2).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_leader_that_is_given_up_hands_over() {
    let (authority, folder) = (Authority::new("Test CA"), crate::folder::new());
    fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
    // Takes connections, and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(mute.local_addr().unwrap(), config(&folder));
    let hasty = client.send(request("/"), Instant::now() + Duration::from_millis(300));
    let patient = async {
        // Behind the other one, which has looked at the files by then.
        sleep(Duration::from_millis(100)).await;
        client.send(request("/"), Instant::now() + Duration::from_millis(500)).await
    };
    let (hasty, patient) = tokio::join!(hasty, patient);
    assert!(matches!((hasty, patient), (Err(HttpError::TimedOut), Err(HttpError::TimedOut))));
    let seen = async { (mute.accept().await, mute.accept().await) };
    assert!(tokio::time::timeout(Duration::from_secs(1), seen).await.is_ok(), "both have tried");
}
