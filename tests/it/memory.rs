//! What a dump of the process would show. The vault's memo holds the secrets that are being served, and nothing else may.
//!
//! Reads the memory of the daemon as root, or as whoever may trace it: kernel.yama.ptrace_scope 0.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};

use tokio::time::{Duration, sleep};

use crate::support::{House, Provider, web};

const CLASS: &str = "
- { secret: shop/canary, field: password, path: password }
- { secret: shop/canary, path: all.json }
- { secret: shop/canary, field: encoded, encoding: base64, path: decoded }
";

/// How often each text stands in the memory that the process can write.
fn occurrences(provider: &Provider, texts: &[&str]) -> Vec<usize> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", provider.pid())).unwrap();
    let mut memory =
        File::open(format!("/proc/{}/mem", provider.pid())).expect("the daemon's memory cannot be read: run the tests as root");
    let mut counts = vec![0; texts.len()];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // Guard pages and the kernel's own cannot be read.
        if memory.seek(SeekFrom::Start(from)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        for (count, text) in counts.iter_mut().zip(texts) {
            *count += bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
        }
    }
    counts
}

#[tokio::test]
async fn freed_secrets_and_tokens_are_gone_from_memory() {
    let house = House::new("");
    let (old, new) = ("canary-old-7f3a9c1e5b", "canary-new-2d8e4f6a0c");
    house.vault(&["set", "shop/canary", &format!("password={old}"), "encoded=ZGVjb2RlZC1jYW5hcnktYjFj"]);
    let provider = house.serve();
    // A file is remembered only when it has been left alone for a moment.
    sleep(Duration::from_millis(300)).await;
    let request = house.request(&web(), CLASS);
    let token = request.attributes.split("eyJ").nth(2).unwrap()[..60].to_owned();
    for _ in 0..20 {
        provider.mount(request.clone()).await.unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    let held = occurrences(&provider, &[old, &token, "decoded-canary-b1c"]);
    assert!((1..=2).contains(&held[0]), "the memo holds one copy of what is served: {held:?}");
    assert_eq!(held[1], 0, "a token outlived its mount");
    assert_eq!(held[2], 0, "a rendered file outlived its mount");

    house.vault(&["set", "shop/canary", &format!("password={new}"), "encoded=ZGVjb2RlZC1jYW5hcnktYjFj"]);
    sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        provider.mount(request.clone()).await.unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    let held = occurrences(&provider, &[old, new]);
    assert_eq!(held[0], 0, "a rotated secret is still in memory");
    assert!((1..=2).contains(&held[1]), "{held:?}");
}

#[tokio::test]
async fn the_process_cannot_dump_core() {
    let house = House::new("");
    let provider = house.serve();
    let limits = fs::read_to_string(format!("/proc/{}/limits", provider.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let status = fs::read_to_string(format!("/proc/{}/status", provider.pid())).unwrap();
    assert!(status.lines().any(|line| line == "Umask:\t0077"), "{status}");
}
