//! What a dump of the process would show. Only the vault's memo may hold secrets: those that Keyferry serves now.
//!
//! Reads the memory of the daemon as root, or as a user who may trace it: kernel.yama.ptrace_scope 0.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use keyferry::backend::store::file::{FileBackend, FileConfig};
use keyferry::backend::{Backend, Called, FetchContext};
use keyferry::clock::{Clock, ManualClock, SystemClock};
use keyferry::model::{PodIdentity, PodTokens, SecretRef};
use tokio::time::{Duration, Instant, sleep};
use zeroize::Zeroizing;

use crate::support::{House, Provider, apart, web};

const CLASS: &str = "
- { secret: shop/canary, field: password, path: password }
- { secret: shop/canary, path: all.json }
- { secret: shop/canary, field: encoded, encoding: base64, path: decoded }
";

/// Where a process has memory that it can write.
fn writable(pid: u32) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let range = |line: &str| {
        let (range, rights) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        rights.starts_with("rw").then(|| (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap()))
    };
    maps.lines().filter_map(range).collect()
}

/// How often each text is in the memory that the process can write.
fn occurrences(provider: &Provider, texts: &[&str]) -> Vec<usize> {
    let mut memory =
        File::open(format!("/proc/{}/mem", provider.pid())).expect("the daemon's memory cannot be read: run the tests as root");
    let mut counts = vec![0; texts.len()];
    for (from, to) in writable(provider.pid()) {
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
    // Keyferry remembers a file only if nobody has changed it for a moment.
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

/// A text in a form that lets this process look for it in its own memory: with every bit inverted.
struct Inverted(Vec<u8>);

impl Inverted {
    fn in_our_memory(&self) -> usize {
        const PIECE: usize = 64 * 1024;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut piece = vec![0; PIECE];
        let mut count = 0;
        for (from, to) in writable(std::process::id()) {
            // Each piece overlaps the next, so that no text is cut in two.
            for at in (from..to).step_by(PIECE - self.0.len()) {
                // Our own copy of the piece before must not be found.
                piece.fill(0);
                let length = PIECE.min(usize::try_from(to - at).unwrap());
                let Ok(read) = memory.read_at(&mut piece[..length], at) else { continue };
                let is_here = |window: &&[u8]| window.iter().zip(&self.0).all(|(byte, inverted)| *byte == !inverted);
                count += piece[..read].windows(self.0.len()).filter(is_here).count();
            }
        }
        piece.fill(0);
        count
    }
}

/// In this process and not in a daemon, because the time must pass in a moment. It wipes what it frees, as the daemon does.
#[tokio::test(start_paused = true)]
async fn a_secret_that_nobody_asks_for_is_gone_after_ten_minutes() {
    let house = House::bare();
    house.vault(&["init"]);
    // Made where we do not see it.
    let make = "od -An -N24 -tx1 /dev/urandom | tr -d ' \\n' > canary";
    assert!(apart("sh").arg("-c").arg(make).current_dir(house.folder.path()).status().unwrap().success());
    house.vault(&["set", "shop/canary", &format!("password=@{}", house.path("canary").display())]);
    let canary = Inverted(Zeroizing::new(fs::read(house.path("canary")).unwrap()).iter().map(|byte| !byte).collect());
    assert_eq!(canary.0.len(), 48);
    let config = FileConfig { vault: house.path("vault"), identity: vec![house.path("age.key")] };
    // By this clock nobody has changed the file for long, so Keyferry remembers it.
    let clock = ManualClock::at(SystemClock.now() + jiff::SignedDuration::from_hours(1));
    let backend = FileBackend::open("files".parse().unwrap(), &config, 1 << 20, Arc::new(clock)).unwrap();
    let secret = SecretRef::read("files".parse().unwrap(), "shop/canary".parse().unwrap());
    let pod = Arc::new(PodIdentity::believed(&web()));
    for _ in 0..5 {
        let cx = FetchContext {
            pod: Arc::clone(&pod),
            tokens: Arc::new(PodTokens::default()),
            fresh: None,
            max_stale: None,
            patience: None,
            live: false,
            payer: None,
            party: None,
            called: Called::default(),
            deadline: Instant::now() + Duration::from_mins(1),
        };
        let fetched = backend.fetch(&secret, &cx).await.unwrap();
        assert_eq!(fetched.secret.fields["password"].bytes.expose().len(), 48);
    }
    sleep(Duration::from_mins(9)).await;
    assert!((1..=2).contains(&canary.in_our_memory()), "one copy, while a mount may ask for it again");
    sleep(Duration::from_mins(3)).await;
    assert_eq!(canary.in_our_memory(), 0, "an unused secret outlived its time");
    drop(backend);
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

/// The most that a burst may leave behind, in KiB.
const LEFT: u64 = 10 * 1024;

#[tokio::test]
async fn what_a_burst_of_large_mounts_took_is_given_back() {
    let house = House::new("");
    let large = "x".repeat(850_000);
    let objects: String = (0..4).map(|number| format!("- {{ secret: shop/large-{number}, field: v, path: f{number} }}\n")).collect();
    (0..4).for_each(|number| house.set(&format!("shop/large-{number}"), &[("v", large.as_bytes())]));
    let provider = house.serve();
    let idle = provider.status("RssAnon");
    for _ in 0..2 {
        let mut mounts = tokio::task::JoinSet::new();
        for pod in 0..24 {
            let request = house.request(&crate::support::pod("shop", &format!("burst-{pod}"), "web"), &objects);
            let socket = provider.socket.clone();
            mounts.spawn(async move { crate::support::connect(&socket).await.unwrap().mount(request).await.unwrap() });
        }
        while let Some(answer) = mounts.join_next().await {
            assert_eq!(answer.unwrap().get_ref().files.len(), 4);
        }
    }
    crate::support::eventually("the daemon gives back what the burst took", async || provider.status("RssAnon") < idle + LEFT).await;
}
