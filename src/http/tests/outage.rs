//! Servers that go and come back: no call is lost.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::Middle;
use super::*;

#[tokio::test]
async fn a_restart_between_calls_costs_none() {
    for alpn in [&["h2"] as &[_], &["http/1.1"]] {
        let manner = Manner { alpn, ..Manner::default() };
        let Scene { authority, folder: _folder, server, client } = Scene::of(&manner);
        assert!(get(&client, "/").await.is_ok());
        let address = server.stop().await;
        let server = Server::again(&authority, &manner, address);
        // It must not be repeated: so nothing of it was lost in the old connection.
        let outcome = client.call(request("/"), Repeat::Never, soon()).await;
        assert!(outcome.answer.is_ok() && outcome.tries == 1, "{alpn:?}: {outcome:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_restart_is_waited_out() {
    for alpn in [&["h2"] as &[_], &["http/1.1"]] {
        let manner = Manner { alpn, ..Manner::default() };
        let Scene { authority, folder: _folder, server, client } = Scene::of(&manner);
        assert!(get(&client, "/").await.is_ok());
        let address = server.stop().await;
        let call = tokio::spawn(async move { client.call(request("/"), Repeat::Never, soon()).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let _server = Server::again(&authority, &manner, address);
        let outcome = call.await.unwrap();
        assert!(outcome.answer.is_ok(), "{alpn:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_call_costs_none_that_may_be_repeated() {
    for alpn in [&["h2"] as &[_], &["http/1.1"]] {
        let manner = Manner { alpn, ..Manner::default() };
        let Scene { authority, folder: _folder, server, client } = Scene::of(&manner);
        let twice = |repeat| {
            let client = client.clone();
            tokio::spawn(async move { client.call(request("/slow"), repeat, Instant::now() + Duration::from_millis(900)).await })
        };
        let (safe, never) = (twice(Repeat::Safe), twice(Repeat::Never));
        while server.shared.requests.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let address = server.stop().await;
        let server = Server::again(&authority, &manner, address);
        server.script([(200, Vec::new())]);
        let (safe, never) = (safe.await.unwrap(), never.await.unwrap());
        assert!(safe.answer.is_ok() && safe.tries > 1, "{alpn:?}: {safe:?}");
        assert!(matches!(never.answer, Err(HttpError::Broken(_))) && never.tries == 1, "{alpn:?}: {never:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_in_silence_is_noticed() {
    let scene = Scene::new();
    let middle = Middle::before(scene.server.address);
    let endpoint = format!("https://{}", middle.address).parse().unwrap();
    let tuning = Tuning { ping: Duration::from_millis(50), pong: Duration::from_millis(100), ..hurried() };
    let client = HttpClient::tuned(endpoint, config(&scene.folder), Names::default(), tuning, |_| None).unwrap();
    assert!(get(&client, "/").await.is_ok());
    middle.cut();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let outcome = client.call(request("/"), Repeat::Safe, soon()).await;
    assert!(outcome.answer.is_ok() && outcome.tries > 1, "{outcome:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = at(&format!("http://{}", listener.local_addr().unwrap()), HttpConfig::default());
    let serving = tokio::spawn(async move {
        for body in ["half", "the whole"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{body}").as_bytes()).await.unwrap();
        }
    });
    let outcome = client.call(request("/"), Repeat::Safe, soon()).await;
    assert_eq!((outcome.answer.unwrap().body().expose(), outcome.tries), (&b"the whole"[..], 2));
    serving.await.unwrap();
}
