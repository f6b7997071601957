//! Pipes that nobody reads: a log collector that stops delays no mount, no probe and no end.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::support::{Client, House, apart, assert_no_trap, connect, eventually, http, keyferry, pod, run, shown};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";
const DB_SHOWN: [&str; 1] = ["password 0644 correct horse"];

/// A daemon with pipes of the test's own, killed when dropped.
struct Daemon {
    child: Child,
    address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Waits until it serves. Its log cannot show where the metrics are, so they are at a loopback address that no other process has.
    async fn start(house: &House, out: Stdio, err: Stdio) -> Self {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let address = SocketAddr::from(([127, 128 | high, middle, low], 9094)).to_string();
        house.reconfigure("METRICS", &address);
        let child = house.serve_command().stdout(out).stderr(err).spawn().unwrap();
        let daemon = Self { child, address };
        let socket = house.path("sockets/keyferry.sock");
        eventually("the socket is there", async || socket.exists()).await;
        daemon
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = http(&self.address, "GET", "/metrics").await.body;
        text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |value| value.trim().parse().unwrap())
    }

    async fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < limit, "it still runs after {limit:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A pipe that is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filling = writer.try_clone().unwrap();
    let flags = fcntl_getfl(&filling).unwrap();
    fcntl_setfl(&filling, flags | OFlags::NONBLOCK).unwrap();
    while filling.write(&[b'\n'; 4096]).is_ok() {}
    while filling.write(b"\n").is_ok() {}
    fcntl_setfl(&filling, flags).unwrap();
    (reader, writer)
}

fn house(extra: &str) -> House {
    House::new(&format!("metrics: {{ listen: \"METRICS\" }}\n{extra}"))
}

/// A class of sixty objects that policy denies: a long line for the log and for the audit.
fn denied() -> String {
    (0..60).map(|number| format!("- secret: bank/a-secret-with-quite-a-long-name-{number}\n")).collect()
}

/// Mounts that fail and mounts that do not, side by side: all get an answer in time, and none gets a code of the trap.
async fn assert_all_are_answered(house: &House, client: &Client, mounts: usize) {
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..mounts {
        let pod = pod("shop", &format!("web-{number}"), "web");
        let (good, bad) = (house.request(&pod, DB), house.request(&pod, &denied()));
        let mut client = client.clone();
        calls.spawn(async move {
            let status = timeout(Duration::from_secs(20), client.mount(bad)).await.expect("answered").unwrap_err();
            assert_no_trap(&status);
            assert!(status.message().starts_with("PolicyDenied: "), "{status:?}");
            let answer = timeout(Duration::from_secs(20), client.mount(good)).await.expect("answered").unwrap();
            assert_eq!(shown(answer.get_ref()), DB_SHOWN);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

fn assert_is_healthy(house: &House) {
    let began = std::time::Duration::from_secs(4);
    let mut command = apart("timeout");
    command
        .arg(began.as_secs().to_string())
        .arg(keyferry().get_program())
        .arg("health")
        .arg("--socket")
        .arg(house.path("sockets/keyferry.sock"));
    let (code, out, errors) = run(&mut command, "");
    assert_eq!(code, 0, "{out}{errors}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    for format in ["json", "text"] {
        let house = house(&format!("log: {{ format: {format}, level: debug }}\n"));
        let (reader, writer) = full_pipe();
        let mut daemon = Daemon::start(&house, Stdio::null(), writer.into()).await;
        let client = connect(&house.path("sockets/keyferry.sock")).await.unwrap();
        let mut mounts = 0;
        while daemon.metric("keyferry_log_lines_lost_total").await == 0 {
            assert!(mounts < 3000, "it lost nothing");
            assert_all_are_answered(&house, &client, 100).await;
            mounts += 100;
        }
        assert_is_healthy(&house);
        assert_eq!(http(&daemon.address, "GET", "/readyz").await.status, 200);
        let memory = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
        let peak =
            memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        assert!(peak < 96 * 1024, "{peak} KiB");
        // It flows again: what was kept comes whole, and then the number of lines that are missing.
        let lines = lines(reader);
        let said = timeout(Duration::from_secs(20), async {
            let mut all = Vec::new();
            loop {
                let line = lines.try_recv();
                let Ok(line) = line else {
                    sleep(Duration::from_millis(5)).await;
                    continue;
                };
                if format == "json" && !line.is_empty() {
                    serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                }
                let is_it = line.contains("log lines were lost");
                all.push(line);
                if is_it {
                    return all;
                }
            }
        });
        let said = said.await.expect("the log says what it lost");
        let last = said.last().unwrap();
        if format == "json" {
            let lines = serde_json::from_str::<Value>(last).unwrap()["lines"].as_u64().unwrap();
            assert!(lines > 0 && lines <= daemon.metric("keyferry_log_lines_lost_total").await, "{last}");
        }
        assert_eq!(daemon.ends_within(Duration::from_secs(5)).await, Some(0));
    }
}

/// The lines that come, by a thread that reads them.
fn lines(pipe: PipeReader) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

#[tokio::test]
async fn neither_the_end_nor_a_refused_start_waits_for_a_reader() {
    let house = house("");
    let (_reader, writer) = full_pipe();
    let mut daemon = Daemon::start(&house, writer.try_clone().unwrap().into(), writer.try_clone().unwrap().into()).await;
    assert_is_healthy(&house);
    // A second one is refused: it has much to say, and nobody to say it to.
    let mut second =
        Daemon { child: house.serve_command().stdout(Stdio::null()).stderr(Stdio::from(writer)).spawn().unwrap(), address: String::new() };
    let began = Instant::now();
    while second.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "the refused one still runs");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(second.child.wait().unwrap().code(), Some(2));
    assert_eq!(daemon.ends_within(Duration::from_secs(5)).await, Some(0));
}

#[tokio::test]
async fn a_log_whose_reader_is_gone_costs_lines_alone() {
    let house = house("");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut daemon = Daemon::start(&house, Stdio::null(), writer.into()).await;
    let client = connect(&house.path("sockets/keyferry.sock")).await.unwrap();
    assert_all_are_answered(&house, &client, 20).await;
    assert!(daemon.metric("keyferry_log_lines_lost_total").await >= 20);
    assert_is_healthy(&house);
    assert_eq!(daemon.ends_within(Duration::from_secs(5)).await, Some(0));
}

#[tokio::test]
async fn an_audit_that_nobody_reads_holds_up_nothing() {
    let house = house("audit: { file: stdout }\n");
    let ((mut reader, writer), (log, log_writer)) = (full_pipe(), std::io::pipe().unwrap());
    let log = lines(log);
    let mut daemon = Daemon::start(&house, writer.into(), log_writer.into()).await;
    let client = connect(&house.path("sockets/keyferry.sock")).await.unwrap();
    let mut mounts = 0;
    while daemon.metric("keyferry_audit_lines_lost_total").await == 0 {
        assert!(mounts < 6000, "it lost nothing");
        assert_all_are_answered(&house, &client, 100).await;
        mounts += 100;
    }
    assert_is_healthy(&house);
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65536];
        while reader.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    eventually("the log says what was lost", async || log.try_iter().any(|line| line.contains("audit lines were lost"))).await;
    assert_eq!(daemon.ends_within(Duration::from_secs(5)).await, Some(0));
}

#[tokio::test]
async fn an_audit_that_nobody_reads_fails_mounts_where_it_must() {
    let house = house("audit: { file: stdout, failClosed: true }\n");
    let (_reader, writer) = full_pipe();
    let mut daemon = Daemon::start(&house, writer.into(), Stdio::null()).await;
    let client = connect(&house.path("sockets/keyferry.sock")).await.unwrap();
    let calls = (0..20).map(|number| {
        let mut request = tonic::Request::new(house.request(&pod("shop", &format!("web-{number}"), "web"), DB));
        request.set_timeout(Duration::from_secs(4));
        let mut client = client.clone();
        async move { client.mount(request).await.unwrap_err() }
    });
    for status in futures_util::future::join_all(calls).await {
        assert_no_trap(&status);
        assert!(status.message().starts_with("AuditUnavailable: "), "{status:?}");
    }
    assert_is_healthy(&house);
    assert_eq!(daemon.ends_within(Duration::from_secs(8)).await, Some(0));
}
