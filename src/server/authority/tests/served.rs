//! The repair under a real hyper server: what it answers, and that its HPACK table stays in step.

use super::*;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Reset,
    GoAway,
}

/// What a hyper server says to each of the requests in `octets`, in the order of its answers; up to a GOAWAY.
async fn answers(octets: &[u8], requests: usize, repair: bool) -> Vec<Answer> {
    let (ours, mut client) = UnixStream::pair().unwrap();
    let service = service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Empty::<bytes::Bytes>::new())) });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let server = tokio::spawn(async move {
        if repair {
            server.serve_connection(TokioIo::new(RepairAuthority::new(ours)), service).await
        } else {
            server.serve_connection(TokioIo::new(ours), service).await
        }
    });
    client.write_all(octets).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < requests {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        match head[3] {
            HEADERS => {
                assert_eq!(payload[0], 0x88, ":status 200");
                answers.push(Answer::Ok);
            }
            3 => answers.push(Answer::Reset),
            7 => {
                answers.push(Answer::GoAway);
                break;
            }
            _ => {}
        }
    }
    drop(client);
    let _closed = server.await.unwrap();
    answers
}

#[tokio::test]
async fn a_call_with_the_sockets_path_is_served() {
    for value in [PATH, b"var%2Frun%2Fkeyferry.sock", b"/run/{a}^.sock", "/run/cl\u{e9}.sock".as_bytes(), b"a:b:c", b"a@", b"//[", b"<"] {
        for block in spellings(value) {
            let octets = connection(&[headers(1, &block)]);
            assert_eq!(answers(&octets, 1, true).await, [Answer::Ok], "{value:?} as {block:x?}");
            assert_eq!(answers(&octets, 1, false).await, [Answer::Reset], "{value:?} as {block:x?}");
        }
    }
}

#[tokio::test]
async fn a_split_block_is_served() {
    let block = [GET, &named(INDEXED, b":authority", PATH, true)].concat();
    for at in 0..=block.len() {
        let (head, tail) = block.split_at(at);
        let octets = connection(&[frame(HEADERS, END_STREAM, 1, head), frame(CONTINUATION, END_HEADERS, 1, tail)]);
        assert_eq!(answers(&octets, 1, true).await, [Answer::Ok], "split at {at}");
    }
}

#[tokio::test]
async fn an_empty_authority_is_refused_as_before() {
    let octets = connection(&[headers(1, &[GET, &literal(PLAIN, 1, b"", false)].concat())]);
    assert_eq!(answers(&octets, 1, true).await, [Answer::Reset]);
}

/// A table that is filled to its last octet still has the repaired authority; with one more octet it does not, and h2 and the client agree
/// on that too.
#[tokio::test]
async fn h2_evicts_when_the_client_does() {
    for value in [PATH, b"var%2Frun%2Fkeyferry.sock", b"/run/{a}^.sock", "/run/cl\u{e9}.sock".as_bytes()] {
        for coded in [false, true] {
            let filler = |over: usize| named(INDEXED, b"a", &vec![b'a'; 4096 - (10 + value.len() + 32) - 33 + over], true);
            let requests = |over| {
                connection(&[
                    headers(1, &[GET, &literal(INDEXED, 1, value, coded)].concat()),
                    headers(3, &[GET, &[0xbe], &filler(over)].concat()),
                    headers(5, &[GET, &[0xbf]].concat()),
                ])
            };
            assert_eq!(answers(&requests(0), 3, true).await, [Answer::Ok, Answer::Ok, Answer::Ok], "{value:?}");
            assert!(answers(&requests(1), 3, true).await.contains(&Answer::GoAway), "{value:?}");
        }
    }
}
