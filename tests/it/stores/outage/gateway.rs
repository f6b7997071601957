//! A gateway before a store. It answers some requests itself, by their paths, and hands the others on.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The status to answer a path with; `None`: the store's own answer.
type Rule = dyn Fn(&str) -> Option<u16> + Send + Sync;

/// It uses HTTP/1.1 without TLS, and one connection per request. It is gone when dropped.
pub struct Gateway {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Gateway {
    pub async fn start(store: SocketAddr, rule: impl Fn(&str) -> Option<u16> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, rule): (_, Arc<Rule>) = (listener.local_addr().unwrap(), Arc::new(rule));
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let rule = Arc::clone(&rule);
                tokio::spawn(async move { answer(client, store, &*rule).await });
            }
        });
        Self { address, serving }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut client: TcpStream, store: SocketAddr, rule: &Rule) -> std::io::Result<()> {
    let mut request = Vec::new();
    let end = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    while request.len() < end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    if let Some(status) = rule(path) {
        let body = r#"{"errors":["by the gateway"]}"#;
        let answer = format!(
            "HTTP/1.1 {status} Trouble\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await?;
        return client.shutdown().await;
    }
    let mut server = TcpStream::connect(store).await?;
    let line = head.find("\r\n").unwrap_or_default() + 2;
    server.write_all(&[&request[..line], b"connection: close\r\n", &request[line..]].concat()).await?;
    tokio::io::copy(&mut server, &mut client).await?;
    client.shutdown().await
}
