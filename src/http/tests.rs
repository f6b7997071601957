//! Against real servers, with CAs made for the test. Waits are real, so they are short.

use std::fs;
use std::io;
use std::net::SocketAddr;

use tempfile::TempDir;

use self::server::{Authority, Manner, Server};
use super::*;

mod calls;
mod leaks;
pub(crate) mod log;
mod outage;
mod proxied;
mod secured;
pub(crate) mod server;

/// A CA, its server, and a client that trusts it.
struct Scene {
    authority: Authority,
    folder: TempDir,
    server: Server,
    client: HttpClient,
}

impl Scene {
    /// HTTP/2 where it can be.
    fn new() -> Self {
        Self::of(&Manner::default())
    }

    fn http1() -> Self {
        Self::of(&Manner { alpn: &["http/1.1"], ..Manner::default() })
    }

    fn of(manner: &Manner) -> Self {
        let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
        let server = Server::start(&authority, manner);
        fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
        let client = client(server.address, config(&folder));
        Self { authority, folder, server, client }
    }

    async fn get(&self, path: &str) -> Result<(u16, String), HttpError> {
        get(&self.client, path).await
    }

    async fn try_get(&self, path: &str, repeat: Repeat) -> (Result<u16, HttpError>, u32) {
        let outcome = self.client.call(request(path), repeat, soon()).await;
        (outcome.answer.map(|answer| answer.status().as_u16()), outcome.tries)
    }
}

fn config(folder: &TempDir) -> HttpConfig {
    HttpConfig { ca: Some(folder.path().join("ca.crt")), max_body: 4096, ..HttpConfig::default() }
}

/// As [`Tuning::default`], in a hurry.
fn hurried() -> Tuning {
    let ms = Duration::from_millis;
    Tuning { backoff: ms(20), connect: ms(900), files: Duration::ZERO, ..Tuning::default() }
}

fn client(address: SocketAddr, config: HttpConfig) -> HttpClient {
    at(&format!("https://{address}"), config)
}

fn at(endpoint: &str, config: HttpConfig) -> HttpClient {
    HttpClient::tuned(endpoint.parse().unwrap(), config, Names::default(), hurried(), |_| None).unwrap()
}

fn request(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3)
}

async fn get(client: &HttpClient, path: &str) -> Result<(u16, String), HttpError> {
    let answer = client.send(request(path), soon()).await?;
    Ok((answer.status().as_u16(), String::from_utf8(answer.body().expose().to_vec()).unwrap()))
}

#[tokio::test]
async fn answers_come_whole_over_either_version() {
    for (scene, version) in [(Scene::new(), "HTTP/2.0"), (Scene::http1(), "HTTP/1.1")] {
        assert_eq!(scene.get("/hello?x=y").await.unwrap(), (200, "/hello?x=y".to_owned()));
        let post = Request::post("/echo").body(Bytes::from_static(b"body")).unwrap();
        assert_eq!(scene.client.send(post, soon()).await.unwrap().body().expose(), b"body");
        assert_eq!(scene.server.requests(), [format!("{version} GET /hello?x=y"), format!("{version} POST /echo")]);
        assert_eq!(scene.server.connections(), 1);
    }
}
