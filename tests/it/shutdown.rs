//! The end of the daemon: what runs finishes, what hangs is cut off, and a successor takes over.

use std::fs;

use rustix::process::Signal;
use tokio::time::{Duration, Instant};

use crate::hang::hanging;
use crate::support::{House, Provider, assert_no_trap, eventually, shown, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";
const DB_SHOWN: [&str; 1] = ["password 0644 correct horse"];
const METRICS: &str = "metrics: { listen: \"127.0.0.1:0\" }";

async fn in_flight(provider: &Provider, mounts: u64) {
    eventually("the mount is in flight", async || provider.metric("keyferry_mounts_in_flight").await == mounts).await;
}

#[tokio::test]
async fn the_signals_of_kubelet_and_of_a_terminal_end_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let house = House::new("");
        let mut provider = house.serve();
        // A connected driver that asks nothing delays nobody.
        let _idle = provider.client().await;
        provider.mount(house.request(&web(), DB)).await.unwrap();
        provider.signal(signal);
        assert_eq!(provider.wait_within(Duration::from_secs(5)).await.code(), Some(0), "{}", provider.log());
        assert!(!provider.socket.exists());
        assert!(provider.log().lines().last().unwrap().contains("\"drained\":true"), "{}", provider.log());
    }
}

#[tokio::test]
async fn a_mount_under_way_at_the_signal_is_answered() {
    // The mount waits in the queue behind one that hangs, for about 2 s; the signal comes meanwhile.
    let house = House::new(&format!("{METRICS}\nlimits: {{ mounts: 1 }}"));
    let mut provider = house.serve_hanging();
    let hung = provider.mount_within(house.request(&web(), &hanging(0)), Duration::from_secs(4));
    let queued = async {
        in_flight(&provider, 1).await;
        provider.mount_within(house.request(&web(), DB), Duration::from_secs(30)).await
    };
    let signal = async {
        in_flight(&provider, 2).await;
        provider.signal(Signal::TERM);
        eventually("the socket is gone", async || !provider.socket.exists()).await;
    };
    let (hung, queued, ()) = tokio::join!(hung, queued, signal);
    assert_no_trap(&hung.unwrap_err());
    assert_eq!(shown(&queued.unwrap()), DB_SHOWN);
    assert_eq!(provider.wait_within(Duration::from_secs(5)).await.code(), Some(0), "{}", provider.log());
}

#[tokio::test]
async fn a_mount_that_hangs_is_cut_off() {
    let house = House::new(METRICS);
    let mut provider = house.serve_hanging();
    let mut client = provider.client().await;
    let request = house.request(&web(), &hanging(0));
    let mount = tokio::spawn(async move { client.mount(request).await });
    in_flight(&provider, 1).await;
    let began = Instant::now();
    provider.signal(Signal::TERM);
    let status = provider.wait_within(Duration::from_secs(14)).await;
    assert!((9..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(1), "{}", provider.log());
    assert!(provider.log().lines().last().unwrap().contains("mounts were still running after 10 s and were cut off"), "{}", provider.log());
    assert!(!provider.socket.exists());
    mount.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_successor_serves_while_the_first_drains() {
    let house = House::new(METRICS);
    let mut first = house.serve_hanging();
    let mut client = first.client().await;
    let mut slow = tonic::Request::new(house.request(&web(), &hanging(0)));
    slow.set_timeout(Duration::from_secs(8));
    let mount = tokio::spawn(async move { client.mount(slow).await });
    in_flight(&first, 1).await;
    first.signal(Signal::TERM);
    eventually("the socket is gone", async || !first.socket.exists()).await;
    let second = house.serve();
    assert!(first.is_running(), "it drains still");
    assert_eq!(shown(&second.mount(house.request(&web(), DB)).await.unwrap()), DB_SHOWN);
    // The first one answers what it has under way, and its end leaves the successor's socket alone.
    let status = mount.await.unwrap().unwrap_err();
    assert!(status.message().starts_with("BackendTimeout: "), "{status:?}");
    assert_eq!(first.wait_within(Duration::from_secs(10)).await.code(), Some(0), "{}", first.log());
    assert_eq!(shown(&second.mount(house.request(&web(), DB)).await.unwrap()), DB_SHOWN);
}

/// The driver makes its client once, and keeps it.
#[tokio::test]
async fn a_restart_under_a_connected_driver_works() {
    let house = House::new("");
    let provider = house.serve();
    let mut client = provider.client().await;
    let mut mount = async || client.mount(house.request(&web(), DB)).await.map(|answer| shown(answer.get_ref()));
    assert_eq!(mount().await.unwrap(), DB_SHOWN);
    assert!(provider.end().await.success());
    let provider = house.serve();
    assert_eq!(mount().await.unwrap(), DB_SHOWN);
    // Killed: it closes no connection, and leaves its socket behind.
    drop(provider);
    let provider = house.serve();
    // A connection that broke without a word may cost the one call that finds out, as with any gRPC client.
    let again = mount().await;
    assert_eq!(if again.is_err() { mount().await } else { again }.unwrap(), DB_SHOWN);
    drop(provider);
}

#[tokio::test]
async fn a_hangup_does_not_end_it() {
    let house = House::new("");
    let mut provider = house.serve();
    let mut client = provider.client().await;
    for _ in 0..3 {
        provider.signal(Signal::HUP);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(provider.is_running(), "{}", provider.log());
        assert_eq!(shown(client.mount(house.request(&web(), DB)).await.unwrap().get_ref()), DB_SHOWN);
    }
    assert!(provider.end().await.success());
}

#[tokio::test]
async fn a_socket_folder_that_is_gone_keeps_nobody_from_ending() {
    let house = House::new("");
    let mut provider = house.serve();
    fs::remove_dir_all(house.path("sockets")).unwrap();
    provider.signal(Signal::TERM);
    assert_eq!(provider.wait_within(Duration::from_secs(5)).await.code(), Some(0), "{}", provider.log());
}
