//! Crowds at the doors: clients that connect and say nothing, or do not read, or begin what they do not end. They keep nobody out, and nobody loses
//! a call because of them.

use std::os::unix::process::CommandExt;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use keyferry::server::proto::MountRequest;
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::support::{House, Provider, apart, eventually, http, keyferry, run, shown, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";
const DB_SHOWN: [&str; 1] = ["password 0644 correct horse"];
const METRICS: &str = "metrics: { listen: \"127.0.0.1:0\" }";

/// On a machine with other things to do. A connection that has to wait for others' time waits longer.
const SOON: Duration = Duration::from_secs(3);

/// What an HTTP/2 client sends first: the preface, and settings without any.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// On a connection of its own, as a driver that has just started.
async fn assert_mounts_at_once(house: &House, provider: &Provider) {
    let began = Instant::now();
    let answer = provider.mount_within(house.request(&web(), DB), Duration::from_mins(1)).await;
    assert_eq!(shown(&answer.unwrap_or_else(|status| panic!("{status:?}\n{}", provider.log()))), DB_SHOWN);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

async fn crowd(provider: &Provider, size: usize, says: &[u8]) -> Vec<UnixStream> {
    let mut all = Vec::new();
    for _ in 0..size {
        let mut stream = UnixStream::connect(&provider.socket).await.unwrap();
        // It may have been closed by now.
        let _ = stream.write_all(says).await;
        all.push(stream);
    }
    all
}

// === The sockets ===

#[tokio::test]
async fn a_thousand_silent_connections_make_nobody_wait() {
    let house = House::new("");
    let provider = house.serve();
    let mut driver = provider.client().await;
    for says in [&b""[..], &HELLO[..10], b"\0"] {
        let began = Instant::now();
        let silent = crowd(&provider, 1000, says).await;
        assert_mounts_at_once(&house, &provider).await;
        driver.mount(house.request(&web(), DB)).await.unwrap();
        // Keyferry closes each one when its time has passed.
        for mut stream in silent {
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("it is closed");
        }
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
    driver.mount(house.request(&web(), DB)).await.unwrap();
}

#[tokio::test]
async fn a_thousand_connections_that_say_hello_and_no_more_make_nobody_wait() {
    let house = House::new("");
    let mut provider = house.serve();
    let mut driver = provider.client().await;
    driver.mount(house.request(&web(), DB)).await.unwrap();
    // A call is under way on a connection that is older than all of them.
    let (mut sender, under_way) = begun(&provider, 1, "60S").await;
    let crowd = crowd(&provider, 1000, HELLO).await;
    assert_mounts_at_once(&house, &provider).await;
    assert_mounts_at_once(&house, &provider).await;
    driver.mount(house.request(&web(), DB)).await.unwrap();
    // What has begun is not lost, nor is its connection.
    sleep(Duration::from_secs(3)).await;
    assert!(under_way.iter().all(|call| !call.is_finished()));
    let answer = sender.send_request(mount(&house.request(&web(), DB), "20S")).await.unwrap();
    assert_eq!(grpc_status(answer).await, "0");
    under_way.iter().for_each(tokio::task::JoinHandle::abort);
    drop((crowd, sender));
    provider.signal(rustix::process::Signal::TERM);
    assert_eq!(provider.wait_within(Duration::from_secs(8)).await.code(), Some(0), "{}", provider.log());
}

/// Keyferry tells those that make room, as HTTP/2 says.
#[tokio::test]
async fn a_connection_that_makes_room_is_told_by_goaway() {
    let house = House::new("");
    let provider = house.serve();
    let mut first = crowd(&provider, 1, HELLO).await.pop().unwrap();
    sleep(Duration::from_millis(700)).await;
    let _others = crowd(&provider, 300, HELLO).await;
    let mut heard = Vec::new();
    let _ = timeout(Duration::from_secs(10), first.read_to_end(&mut heard)).await.expect("it is closed in the end");
    let mut kinds = Vec::new();
    let mut rest = heard.as_slice();
    while let [a, b, c, kind, ..] = *rest {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        kinds.push((kind, u32::from_be_bytes(rest[5..9].try_into().unwrap())));
        rest = &rest[9 + length..];
    }
    // SETTINGS, its acknowledgement, GOAWAY and the PING that goes with it (RFC 9113, sections 6.8 and 6.7); no RST_STREAM (3).
    assert!(kinds.iter().any(|(kind, stream)| *kind == 7 && *stream == 0), "{kinds:?}");
    assert!(kinds.iter().all(|(kind, _)| *kind != 3), "{kinds:?}");
}

type Begun = StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send>>>;

/// Calls that begin and never end, on a connection of their own.
async fn begun(provider: &Provider, calls: usize, limit: &str) -> (SendRequest<Begun>, Vec<tokio::task::JoinHandle<()>>) {
    let stream = TokioIo::new(UnixStream::connect(&provider.socket).await.unwrap());
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = http.timer(TokioTimer::new()).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let calls = (0..calls).map(|_| {
        let mut sender = sender.clone();
        let frames = stream::iter([Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 1])))]).chain(stream::pending());
        let request = request(StreamBody::new(Box::pin(frames) as _), limit);
        tokio::spawn(async move { drop(sender.send_request(request).await) })
    });
    let calls: Vec<_> = calls.collect();
    (sender, calls)
}

fn request(body: Begun, limit: &str) -> http::Request<Begun> {
    http::Request::post("http://localhost/v1alpha1.CSIDriverProvider/Mount")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", limit)
        .body(body)
        .unwrap()
}

fn mount(message: &MountRequest, limit: &str) -> http::Request<Begun> {
    let message = prost::Message::encode_to_vec(message);
    let prefix = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat();
    let frame = Frame::data(Bytes::from([prefix, message].concat()));
    request(StreamBody::new(Box::pin(stream::iter([Ok(frame)])) as _), limit)
}

async fn grpc_status(answer: http::Response<Incoming>) -> String {
    let (head, body) = answer.into_parts();
    let end = body.collect().await.unwrap();
    let status = end.trailers().and_then(|trailers| trailers.get("grpc-status")).or(head.headers.get("grpc-status"));
    status.unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn calls_that_are_begun_and_never_ended_take_no_other_connections_places() {
    let house = House::new("");
    let provider = house.serve();
    let mut driver = provider.client().await;
    let mut all = Vec::new();
    for _ in 0..12 {
        all.push(begun(&provider, 2048, "60S").await);
    }
    sleep(Duration::from_secs(1)).await;
    assert_mounts_at_once(&house, &provider).await;
    let began = Instant::now();
    let calls = (0..100).map(|_| {
        let (mut driver, request) = (driver.clone(), house.request(&web(), DB));
        async move { driver.mount(request).await.unwrap() }
    });
    futures_util::future::join_all(calls).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    driver.mount(house.request(&web(), DB)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_closed_after_its_own_time() {
    let house = House::new(METRICS);
    house.set("shop/large", &[("v", &vec![b'x'; 900_000])]);
    let provider = house.serve();
    let stream = TokioIo::new(UnixStream::connect(&provider.socket).await.unwrap());
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).initial_stream_window_size(1024).initial_connection_window_size(64 * 1024);
    let (mut sender, connection) = http.handshake::<_, Begun>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(mount(&house.request(&web(), "- { secret: shop/large, field: v }\n"), "3S")).await.unwrap();
    // The answer has begun, and the rest of it cannot leave.
    assert_eq!(answer.headers().get("grpc-status"), None);
    let began = Instant::now();
    assert_mounts_at_once(&house, &provider).await;
    let ended = timeout(Duration::from_secs(10), connection).await.expect("it is closed").unwrap();
    drop((ended, answer));
    assert!(began.elapsed() >= Duration::from_secs(2), "not before its own time: {:?}", began.elapsed());
    assert_mounts_at_once(&house, &provider).await;
}

/// Users that can connect, by the socket's group, but may not ask. They have few seats, and none of the others'.
#[tokio::test]
async fn strangers_keep_nobody_out() {
    const DRIVER: u32 = 12345;
    if !geteuid().is_root() {
        // Only root can be two users at once.
        return;
    }
    let house = House::new(&format!("socketMode: \"0660\"\nallowedPeers: [{DRIVER}]"));
    let mut command = keyferry();
    command.gid(DRIVER);
    std::fs::set_permissions(house.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let provider = house.serve_by(command);
    let program = house.path("keyferry");
    std::fs::copy(env!("CARGO_BIN_EXE_keyferry"), &program).unwrap();
    let healthy = || {
        let mut health = apart(&program);
        health.uid(DRIVER).gid(DRIVER).arg("health").arg("--socket").arg(&provider.socket);
        run(&mut health, "")
    };
    assert_eq!(healthy().0, 0, "{:?}", healthy());
    // We are root, and root is not among the allowed.
    for says in [&b""[..], HELLO] {
        let crowd = crowd(&provider, 600, says).await;
        let began = Instant::now();
        assert_eq!(healthy().0, 0, "{:?}", healthy());
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        drop(crowd);
    }
    // Keyferry still tells each of them why.
    let status = provider.mount(house.request(&web(), DB)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
}

// === The metrics ===

#[tokio::test]
async fn clients_that_do_not_read_or_do_not_ask_leave_the_metrics_to_others() {
    let house = House::new(METRICS);
    let provider = house.serve();
    let address = provider.metrics_address();
    let at_once = async || {
        let began = Instant::now();
        for path in ["/metrics", "/readyz", "/livez"] {
            assert_eq!(http(&address, "GET", path).await.status, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    };
    let ask = "GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n";
    for (says, times) in [(ask, 1), (ask, 50), ("", 1), ("GET /metrics HTTP/1.1\r\nhost:", 1)] {
        let mut crowd = Vec::new();
        for _ in 0..200 {
            let socket = TcpSocket::new_v4().unwrap();
            // So that the client's side takes little of the answer.
            socket.set_recv_buffer_size(1024).unwrap();
            let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
            let _ = stream.write_all(says.repeat(times).as_bytes()).await;
            crowd.push(stream);
            if crowd.len() % 64 == 0 {
                at_once().await;
            }
        }
        at_once().await;
        drop(crowd);
    }
}

#[tokio::test]
async fn a_connection_to_the_metrics_has_an_end_whatever_its_client_does() {
    let house = House::new(METRICS);
    let provider = house.serve();
    let address = provider.metrics_address();
    // One that says nothing, one that sends slowly, one that asks and stays.
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut dripping = TcpStream::connect(&address).await.unwrap();
    let mut staying = TcpStream::connect(&address).await.unwrap();
    staying.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let (_, mut writing) = dripping.split();
    let drip = async {
        for byte in b"GET /metrics HTTP/1.1\r\nhost: ".iter().chain([b'x'; 100].iter()) {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("it was never closed");
    };
    let mut answer = String::new();
    let (heard, silence, ()) = tokio::join!(staying.read_to_string(&mut answer), silent.read_u8(), drip);
    assert!(heard.is_ok() && answer.ends_with("ok\n"), "{answer}");
    silence.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("all is well", async || http(&address, "GET", "/livez").await.status == 200).await;
}
