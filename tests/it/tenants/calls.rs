//! Calls that are large, that do not end, or whose answers nobody reads. A class can make them large. The rest needs somebody at the socket, or a
//! driver that is in trouble.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keyferry::server::proto::MountRequest;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Duration;

use super::flood::{Calls, Told, in_turn};
use super::kind::{Kind, objects, of_all_pods};
use super::node::{Node, SMALL};
use super::trial::Trial;

/// Calls in flight: over three times as many as there are places.
const AT_ONCE: usize = 432;

/// Bytes of a large call.
const LARGE: usize = 700_000;

type Body = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// Calls with `secrets` of seven hundred kilobytes, as `nodePublishSecretRef` makes them.
pub const LARGE_CALLS: Kind = Kind { name: "large calls", at_once: AT_ONCE, may: &["OK"], victims: "files", calls: large_calls };

fn large_calls(node: &Node, namespace: &str) -> Calls {
    node.set_small(namespace, "db");
    let secrets = json!({ "unused": "x".repeat(LARGE) }).to_string();
    let calls = node.small(namespace, 8, "files", "db").into_iter();
    in_turn(calls.map(|call| MountRequest { secrets: secrets.clone(), ..call }).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_calls_that_wait() {
    // Four seconds, since it takes the debug build that long to read them.
    LARGE_CALLS.try_with(SMALL, Duration::from_secs(4), 1).await.assert();
}

/// Calls of that size of which the last part never comes.
async fn calls_without_end(calls: &Calls, socket: &Path) {
    let part = |number: usize| {
        let whole = framed(&calls(number));
        let most = whole.len() - 1000;
        stream::iter([Ok(Frame::data(whole.slice(..most)))]).chain(stream::pending())
    };
    at_the_socket(socket, Builder::new(TokioExecutor::new()), |number| StreamBody::new(Box::pin(part(number)) as _)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_request_never_ends() {
    let node = Node::new(SMALL);
    let calls = large_calls(&node, "hostile");
    let attack = async move |socket: &Path, _: &Told| calls_without_end(&calls, socket).await;
    Trial::new(node, "files").run("calls without end", AT_ONCE, &[], attack).await.assert();
}

/// Answers of half a megabyte, of which the client takes a kilobyte.
async fn unread_answers(calls: &Calls, socket: &Path) {
    let mut http = Builder::new(TokioExecutor::new());
    http.initial_stream_window_size(1024).initial_connection_window_size(64 * 1024);
    let body = |number: usize| StreamBody::new(Box::pin(stream::iter([Ok(Frame::data(framed(&calls(number))))])) as _);
    at_the_socket(socket, http, body).await;
}

/// Each of four files of 120 KB, of the same secrets: opened once, encoded for each.
fn large_answers(node: &Node, namespace: &str) -> Calls {
    (0..4).for_each(|number| node.house.set(&format!("{namespace}/large-{number}"), &[("v", &vec![b'x'; 120_000])]));
    let object = |object: usize| format!("- {{ secret: {namespace}/large-{object}, field: v, path: f{object} }}\n");
    of_all_pods(node, namespace, "files", &objects(4, object))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads() {
    let node = Node::new(SMALL);
    let calls = large_answers(&node, "hostile");
    let attack = async move |socket: &Path, _: &Told| unread_answers(&calls, socket).await;
    Trial::new(node, "files").run("unread answers", AT_ONCE, &[], attack).await.assert();
}

// === Below gRPC ===

/// This many calls on one connection of their own.
async fn at_the_socket(socket: &Path, mut http: Builder<TokioExecutor>, body: impl Fn(usize) -> Body) {
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let (sender, connection): (SendRequest<Body>, _) = http.timer(TokioTimer::new()).handshake(stream).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..AT_ONCE {
        let (mut sender, request) = (sender.clone(), request(body(number)));
        tasks.spawn(async move {
            // The answer's head comes, and nobody reads the rest.
            let _answer = sender.send_request(request).await;
            std::future::pending::<()>().await;
        });
    }
    let _ = connection.await;
}

fn request(body: Body) -> http::Request<Body> {
    http::Request::post("http://localhost/v1alpha1.CSIDriverProvider/Mount")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "2M")
        .body(body)
        .unwrap()
}

/// A message as gRPC frames it.
fn framed(message: &MountRequest) -> Bytes {
    let message = prost::Message::encode_to_vec(message);
    let prefix = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat();
    Bytes::from([prefix, message].concat())
}
