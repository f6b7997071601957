//! Trouble: hanging stores, rude clients, full disks, crowds and bugs. After each of them nothing is lost, nothing hangs, and the
//! next good mount works.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyferry::identity::Issuer;
use keyferry::model::PodClaims;
use keyferry::server::proto::MountResponse;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Duration, Instant};
use tonic::{Code, Status};

use crate::hang::hanging;
use crate::support::{House, ISSUER, Provider, assert_no_trap, connect, eventually, shown, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";
const DB_SHOWN: [&str; 1] = ["password 0644 correct horse"];
const METRICS: &str = "metrics: { listen: \"127.0.0.1:0\" }";

async fn assert_next_good_mount_works(house: &House, provider: &Provider) {
    let began = Instant::now();
    let answer = provider.mount_within(house.request(&web(), DB), Duration::from_secs(20)).await;
    assert_eq!(shown(&answer.unwrap_or_else(|status| panic!("{status:?}\n{}", provider.log()))), DB_SHOWN);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

async fn in_flight(provider: &Provider, mounts: u64) {
    eventually("so many mounts are in flight", async || provider.metric("keyferry_mounts_in_flight").await == mounts).await;
}

// === Crowds ===

#[tokio::test]
async fn over_the_limit_mounts_queue_and_then_are_overloaded() {
    let house = House::new(&format!("{METRICS}\nlimits: {{ mounts: 1 }}"));
    let provider = house.serve_hanging();
    let hung = provider.mount_within(house.request(&web(), &hanging(0)), Duration::from_secs(12));
    let others = async {
        in_flight(&provider, 1).await;
        // One that cannot wait long enough, and one that can.
        let (limit, began) = (Duration::from_secs(3), Instant::now());
        let hasty = provider.mount_within(house.request(&web(), DB), limit).await.unwrap_err();
        assert!(began.elapsed() < limit, "{:?}", began.elapsed());
        let patient = provider.mount_within(house.request(&web(), DB), Duration::from_secs(30)).await.unwrap();
        (hasty, patient)
    };
    let (hung, (hasty, patient)) = tokio::join!(hung, others);
    assert!(hung.unwrap_err().message().starts_with("BackendTimeout: "));
    assert_eq!(hasty.code(), Code::FailedPrecondition);
    insta::assert_snapshot!(hasty.message(), @"Overloaded: no place was free for this mount in 1 s (many Pods start at once, or a store is slow; kubelet tries again by itself)");
    assert_eq!(shown(&patient), DB_SHOWN);
    in_flight(&provider, 0).await;
}

#[tokio::test]
async fn a_thousand_mounts_at_once_all_succeed_in_bounded_memory() {
    let house = House::new(METRICS);
    let provider = house.serve();
    let client = provider.client().await;
    client.clone().mount(house.request(&web(), DB)).await.unwrap();
    // Each one for a Pod of its own, so that each has its own token, class parameters and audit line.
    let requests: Vec<_> =
        (0..1000).map(|number| house.request(&crate::support::pod("shop", &format!("many-{number}"), "web"), DB)).collect();
    let mut mounts = tokio::task::JoinSet::new();
    for request in requests {
        let mut client = client.clone();
        mounts.spawn(async move { client.mount(request).await });
    }
    while let Some(answer) = mounts.join_next().await {
        assert_eq!(shown(answer.unwrap().unwrap().get_ref()), DB_SHOWN);
    }
    let peak = provider.status("VmHWM");
    assert!(peak < 96 * 1024, "{peak} KiB at its peak, unoptimised");
    in_flight(&provider, 0).await;
    eventually("every audit line is there", async || house.audit().len() == 1001).await;
}

#[tokio::test]
async fn a_thousand_mounts_at_once_on_connections_of_their_own() {
    let house = House::new("");
    let provider = house.serve();
    let mut mounts = tokio::task::JoinSet::new();
    // With more connections than one user may have, one that is late with its call makes room for others.
    let connections = std::sync::Arc::new(tokio::sync::Semaphore::new(250));
    for _ in 0..1000 {
        let (socket, request, connections) = (provider.socket.clone(), house.request(&web(), DB), std::sync::Arc::clone(&connections));
        mounts.spawn(async move {
            let _one = connections.acquire().await.unwrap();
            connect(&socket).await.unwrap().mount(request).await
        });
    }
    while let Some(answer) = mounts.join_next().await {
        assert_eq!(shown(answer.unwrap().unwrap().get_ref()), DB_SHOWN);
    }
    assert_next_good_mount_works(&house, &provider).await;
}

#[tokio::test]
async fn a_hanging_store_harms_no_mount_that_needs_nothing_new_of_it() {
    let house = House::new(METRICS);
    let provider = house.serve_hanging();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_next_good_mount_works(&house, &provider).await;
    let mut client = provider.client().await;
    let hung: Vec<_> = (0..20)
        .map(|number| {
            let (mut client, mut request) = (client.clone(), tonic::Request::new(house.request(&web(), &hanging(number))));
            request.set_timeout(Duration::from_secs(6));
            tokio::spawn(async move { client.mount(request).await })
        })
        .collect();
    in_flight(&provider, 20).await;
    assert_eq!(shown(client.mount(house.request(&web(), DB)).await.unwrap().get_ref()), DB_SHOWN);
    for mount in hung {
        let status = mount.await.unwrap().unwrap_err();
        assert!(status.message().starts_with("BackendTimeout: "), "{status:?}");
    }
    in_flight(&provider, 0).await;
    let threads = provider.status("Threads");
    assert!(threads < 30, "{threads} threads");
}

// === Rude clients ===

/// A call whose body begins with `begun` and never ends.
async fn unfinished_call(provider: &Provider, begun: &'static [u8], timeout: &str) -> http::Response<hyper::body::Incoming> {
    use futures_util::{StreamExt, stream};
    let stream = TokioIo::new(UnixStream::connect(&provider.socket).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let frames = stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(begun)))]).chain(stream::pending());
    let request = http::Request::post("http://localhost/v1alpha1.CSIDriverProvider/Mount")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(StreamBody::new(Box::pin(frames)))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn a_client_that_never_sends_its_whole_request_is_answered_in_time() {
    let house = House::new(METRICS);
    let provider = house.serve();
    // Headers alone; half of a message's prefix; a message that is announced and not sent.
    for begun in [&b""[..], &[0, 0], &[0, 0, 0, 1, 0, 10, 5]] {
        for (timeout, seconds) in [("4S", 4), ("3000m", 3)] {
            let began = Instant::now();
            let answer = unfinished_call(&provider, begun, timeout).await;
            assert!(began.elapsed() < Duration::from_secs(seconds), "{:?} of {timeout}", began.elapsed());
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_no_trap(&status);
            assert!(status.message().starts_with("BackendTimeout: "), "{status:?}");
        }
    }
    in_flight(&provider, 0).await;
    assert_next_good_mount_works(&house, &provider).await;
}

#[tokio::test]
async fn a_client_that_disconnects_frees_what_its_mount_held() {
    let house = House::new(&format!("{METRICS}\nlimits: {{ mounts: 1 }}"));
    let provider = house.serve_hanging();
    for number in 0..3 {
        let mut client = provider.client().await;
        let request = house.request(&web(), &hanging(number));
        let mount = tokio::spawn(async move { client.mount(request).await });
        in_flight(&provider, 1).await;
        mount.abort();
        in_flight(&provider, 0).await;
    }
    assert_next_good_mount_works(&house, &provider).await;
}

#[tokio::test]
async fn connections_that_say_nothing_or_nonsense_harm_nobody() {
    let house = House::new(METRICS);
    let provider = house.serve();
    let silent = UnixStream::connect(&provider.socket).await.unwrap();
    let long_line = vec![b'A'; 100_000];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..65_536_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let after_preface = [&preface[..], &noise].concat();
    let huge_frame = [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\0", &long_line, &noise, &after_preface, &huge_frame] {
        let mut stream = UnixStream::connect(&provider.socket).await.unwrap();
        // Keyferry may close it before all of it is written.
        let _ = stream.write_all(nonsense).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.map(drop);
        assert!(!String::from_utf8_lossy(&answer).contains("correct horse"));
        assert_next_good_mount_works(&house, &provider).await;
    }
    drop(silent);
}

#[tokio::test]
async fn many_idle_connections_keep_nobody_out() {
    let house = House::new("");
    let mut provider = house.serve();
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(UnixStream::connect(&provider.socket).await.unwrap());
    }
    assert_next_good_mount_works(&house, &provider).await;
    // They do not delay the end either.
    provider.signal(rustix::process::Signal::TERM);
    assert_eq!(provider.wait_within(Duration::from_secs(5)).await.code(), Some(0), "{}", provider.log());
}

// === The vault and the keys ===

#[tokio::test]
async fn a_vault_that_vanishes_and_returns() {
    let house = House::new("");
    let provider = house.serve();
    assert_next_good_mount_works(&house, &provider).await;
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    let status = provider.mount(house.request(&web(), DB)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let whole = house.path("vault").display().to_string();
    eventually("the log has the whole path", async || provider.log().contains(&whole)).await;
    insta::assert_snapshot!(status.message().replace(house.folder.path().to_str().unwrap(), "ROOT"), @"BackendUnavailable: object 1 (password): files/shop/db: the vault's folder is not there (is its volume mounted, and synced?)");
    fs::rename(house.path("elsewhere"), house.path("vault")).unwrap();
    assert_next_good_mount_works(&house, &provider).await;
}

#[tokio::test]
async fn a_daemon_that_starts_before_its_vault_serves_once_it_is_there() {
    let house = House::new("");
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    let provider = house.serve();
    assert!(provider.log().contains("a backend cannot serve now"), "{}", provider.log());
    provider.mount(house.request(&web(), DB)).await.unwrap_err();
    fs::rename(house.path("elsewhere"), house.path("vault")).unwrap();
    assert_next_good_mount_works(&house, &provider).await;
}

/// A mount with a token that was never seen before, of another issuer's key.
async fn mount_signed_by(issuer: &Issuer, house: &House, provider: &Provider, pod: &PodClaims) -> Result<MountResponse, Status> {
    let token = issuer.token(pod, "keyferry", Duration::from_hours(1), &keyferry::clock::SystemClock).unwrap();
    let mut request = house.request(pod, DB);
    let mut attributes: Value = serde_json::from_str(&request.attributes).unwrap();
    let tokens = serde_json::json!({ "keyferry": { "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" } });
    attributes["csi.storage.k8s.io/serviceAccount.tokens"] = tokens.to_string().into();
    request.attributes = attributes.to_string();
    provider.mount(request).await
}

#[tokio::test]
async fn keys_rotate_in_place_by_a_swap_and_through_a_broken_file() {
    let house = House::new("");
    let provider = house.serve();
    let (second, third, fourth) = (Issuer::new(ISSUER).unwrap(), Issuer::new(ISSUER).unwrap(), Issuer::new(ISSUER).unwrap());
    let mut pods = (0..).map(|number| crate::support::pod("shop", &format!("web-{number}"), "web"));
    let mut mount = async |issuer: &Issuer| mount_signed_by(issuer, &house, &provider, &pods.next().unwrap()).await;
    mount(&house.issuer).await.unwrap();
    let unknown = mount(&second).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);
    assert!(unknown.message().starts_with("IdentityUnverified: key: "), "{unknown:?}");

    // Written in place.
    fs::write(house.path("jwks.json"), second.jwks()).unwrap();
    mount(&second).await.unwrap();
    mount(&house.issuer).await.unwrap_err();

    // By a projected volume's swap of symlinks.
    fs::create_dir(house.path("one")).unwrap();
    fs::create_dir(house.path("two")).unwrap();
    fs::write(house.path("one/jwks.json"), second.jwks()).unwrap();
    fs::write(house.path("two/jwks.json"), third.jwks()).unwrap();
    let swap = |to: &str| {
        symlink(to, house.path("..tmp")).unwrap();
        fs::rename(house.path("..tmp"), house.path("..data")).unwrap();
    };
    swap("one");
    symlink("..data/jwks.json", house.path("link")).unwrap();
    fs::rename(house.path("link"), house.path("jwks.json")).unwrap();
    mount(&second).await.unwrap();
    swap("two");
    mount(&third).await.unwrap();
    mount(&second).await.unwrap_err();

    // Broken: the last keys stay in force for a moment, and the log says so. Then repaired.
    fs::write(house.path("two/jwks.json"), "{ \"keys\": [ {").unwrap();
    mount(&third).await.unwrap();
    mount(&fourth).await.unwrap_err();
    eventually("the log says so", async || provider.log().contains("the last ones stay in force for 10 s")).await;
    fs::write(house.path("two/jwks.json"), fourth.jwks()).unwrap();
    mount(&fourth).await.unwrap();
    mount(&third).await.unwrap_err();
}

// === The audit ===

#[tokio::test]
async fn with_fail_closed_no_mount_goes_without_its_line() {
    let house = House::new(&format!("{METRICS}\naudit: {{ file: /dev/full, failClosed: true }}"));
    let provider = house.serve();
    // Each of them, also those that would only repeat a line.
    for _ in 0..3 {
        let status = provider.mount(house.request(&web(), DB)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        insta::allow_duplicates! {
            insta::assert_snapshot!(status.message(), @"AuditUnavailable: the audit line could not be written, and audit.failClosed is set: No space left on device (os error 28) (free space on the disk, or repair the file that audit.file names; mounts then go on by themselves)");
        }
    }
    assert_eq!(provider.metric("keyferry_mounts_total{outcome=\"failed\",code=\"AuditUnavailable\"}").await, 3);
    assert_eq!(provider.metric("keyferry_files_delivered_total").await, 0);
}

#[tokio::test]
async fn without_fail_closed_mounts_go_on_and_lost_lines_are_counted() {
    let house = House::new(&format!("{METRICS}\naudit: {{ file: /dev/full }}"));
    let provider = house.serve();
    for number in 1..=3 {
        let pod = crate::support::pod("shop", &format!("web-{number}"), "web");
        assert_eq!(shown(&provider.mount(house.request(&pod, DB)).await.unwrap()), DB_SHOWN);
    }
    eventually("three lines are lost", async || provider.metric("keyferry_audit_lines_lost_total").await == 3).await;
    assert!(provider.log().contains("an audit line could not be written"), "{}", provider.log());
}

/// The reader of the audit has stopped reading. The daemon waits for it only where it must.
#[tokio::test]
async fn an_audit_that_hangs_holds_up_no_mount_unless_it_must() {
    for fail_closed in [false, true] {
        let house = House::bare();
        let pipe = house.path("audit.pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        // Read-write, so that opening waits for nobody. Full, so that writing does.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        let mut held = fs::OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(&pipe).unwrap();
        while held.write(&[b'\n'; 4096]).is_ok() {}
        house.vault(&["init"]);
        house.vault(&["set", "shop/db", "password=correct horse"]);
        let audit = format!("{METRICS}\naudit: {{ file: \"{}\", failClosed: {fail_closed} }}", pipe.display());
        house.configure("pods: { namespace: shop }\n    read: [\"files/shop/**\"]", &audit);
        let provider = house.serve();
        let (limit, began) = (Duration::from_secs(2), Instant::now());
        let answer = provider.mount_within(house.request(&web(), DB), limit).await;
        assert!(began.elapsed() < limit, "{:?}", began.elapsed());
        match answer {
            Ok(answer) => assert!(!fail_closed && shown(&answer) == DB_SHOWN),
            Err(status) => {
                assert!(fail_closed, "{status:?}");
                assert_no_trap(&status);
            }
        }
        in_flight(&provider, 0).await;
        // The reader is back.
        drain(&mut held);
        assert_next_good_mount_works(&house, &provider).await;
        assert!(provider.end().await.success());
    }
}

fn drain(pipe: &mut fs::File) {
    let mut buffer = [0; 4096];
    while pipe.read(&mut buffer).is_ok() {}
}
