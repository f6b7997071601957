//! One connection, from the accepted stream to its end.
//!
//! It ends as HTTP/2 does, by GOAWAY: calls that have begun still get their answers. If a connection is closed or reset during a call, the
//! client makes one of the codes of the trap from it (`status.rs`). So Keyferry does this only to peers that do not listen.

use std::future::poll_fn;
use std::io;
use std::pin::pin;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Duration, timeout};

use super::Provider;
use super::authority::RepairAuthority;
use super::gather::{Gather, Gathered};
use super::seats::{Farewell, Taken};
use super::timed::Timed;
use super::wire::csi_driver_provider_server::CsiDriverProviderServer;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client must send it within this time. Until then no call can be under way.
const GREETING: Duration = Duration::from_secs(2);

pub(super) type Connection = http2::Connection<
    TokioIo<RepairAuthority<Gather<UnixStream>>>,
    TowerToHyperService<Timed<CsiDriverProviderServer<Provider>>>,
    TokioExecutor,
>;

/// Whether the client uses HTTP/2, and has said so in time. Nothing is read from the stream.
pub(super) async fn greets(stream: &UnixStream) -> bool {
    matches!(timeout(GREETING, stream.async_io(Interest::READABLE, || look(stream))).await, Ok(Ok(true)))
}

/// The same, without waiting.
pub(super) fn has_greeted(stream: &UnixStream) -> bool {
    look(stream).unwrap_or(false)
}

fn look(stream: &UnixStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    let (length, _) = rustix::net::recv(stream, &mut seen, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    match seen.get(..length) {
        Some(seen) if seen == PREFACE => Ok(true),
        // The rest is still to come; the system reports when.
        Some(seen) if !seen.is_empty() && PREFACE.starts_with(seen) => Err(io::ErrorKind::WouldBlock.into()),
        Some(_) | None => Ok(false),
    }
}

/// Serves a connection to its end. When `stop` is true, or another connection needs the seat, the client is asked to leave.
pub(super) async fn tend(connection: Connection, gathered: Gathered<UnixStream>, taken: Taken, mut stop: watch::Receiver<bool>) {
    let mut connection = pin!(connection);
    let seat = &taken.seat;
    let mut farewell = None;
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| gathered.poll_with(cx, connection.as_mut())) => {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection ended with an error"),
                    Err(error) => tracing::debug!(%error, "a connection ended with an error"),
                }
                return;
            }
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                (stopping, farewell) = (true, Some(Farewell::last()));
                connection.as_mut().graceful_shutdown();
            }
            () = seat.asked_to_leave(), if farewell.is_none() => {
                farewell = Some(Farewell::for_another());
                connection.as_mut().graceful_shutdown();
            }
            () = seat.outstays(farewell) => {
                tracing::debug!("a connection is closed: its client does not leave, or does not read its answers");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn a_preface_in_parts_is_waited_for() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let greeting = tokio::spawn(async move { greets(&server).await });
        for part in PREFACE.chunks(5) {
            client.write_all(part).await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        assert!(greeting.await.unwrap());
    }

    #[tokio::test]
    async fn anything_else_and_silence_is_turned_away() {
        for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"] {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(said).await.unwrap();
            assert!(!greets(&server).await);
        }
        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        assert!(!greets(&server).await);
        for said in [&b""[..], b"PRI * HTTP"] {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(said).await.unwrap();
            let began = Instant::now();
            assert!(!greets(&server).await);
            assert!(began.elapsed() >= GREETING);
        }
    }
}
