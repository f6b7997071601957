//! Nothing that is sent or answered is in a log or in an error, whichever part writes it and at any level.

use super::log::Log;
use super::server::Middle;
use super::*;

#[tokio::test]
async fn no_canary_sings() {
    let (log, _logging) = Log::start();
    let mut told = String::new();
    for alpn in [&["h2"] as &[_], &["http/1.1"]] {
        let scene = Scene::of(&Manner { alpn, ..Manner::named("store.example") });
        let proxy = Middle::proxy(scene.server.address, "200 OK");
        let variable = |_: &str| Some(format!("http://ann:canary@{}", proxy.address));
        let client =
            HttpClient::tuned("https://store.example".parse().unwrap(), config(&scene.folder), Names::default(), hurried(), variable)
                .unwrap();
        let asked = |path: &str| {
            Request::get(path).header("authorization", "Bearer canary").header("x-canary", "canary").body(Bytes::from("canary")).unwrap()
        };
        for path in ["/echo?canary", "/large?canary", "/breaks?canary"] {
            let outcome = client.call(asked(path), Repeat::Safe, soon()).await;
            told += &format!("{:?} {:?}\n", outcome.answer.as_ref().map(Response::body), client);
            if let Err(error) = &outcome.answer {
                told += &format!("{error}\n");
            }
        }
        scene.server.script([(503, vec![("set-cookie", "canary".to_owned())]), (302, vec![("location", "http://x/?canary".to_owned())])]);
        told += &format!("{:?}\n", client.call(asked("/?canary"), Repeat::Safe, soon()).await.answer.unwrap_err());
    }
    let log = log.text();
    assert!(log.contains("TRACE"), "something is logged");
    let base64 = ["Y2FuYXJ5", "NhbmFye", "jYW5hcn"];
    for text in [&log, &told] {
        let leak = text.lines().find(|line| line.contains("canary") || base64.iter().any(|part| line.contains(part)));
        assert_eq!(leak, None);
    }
}
