//! The running daemon, as the kernel sees it: can its memory get to a disk?

use std::fs;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::time::{Duration, timeout};

use crate::model::Diagnosis;
use crate::server::SocketConfig;

const ANSWER: Duration = Duration::from_secs(2);

/// Finds the daemon behind the first socket, and looks at its limits.
pub async fn examine(sockets: &SocketConfig) -> Vec<Diagnosis> {
    let Some(path) = sockets.providers.first().map(|provider| sockets.path(provider)) else { return Vec::new() };
    match pid(&path).await {
        Some(pid) => look(&PathBuf::from(format!("/proc/{pid}")), Path::new("/proc/swaps")),
        // The check of the sockets reports that nobody answers.
        None => Vec::new(),
    }
}

/// The process that made the socket (unix(7), `SO_PEERCRED`). `None` also if that process is in another process namespace.
pub(super) async fn pid(socket: &Path) -> Option<i32> {
    let stream = timeout(ANSWER, UnixStream::connect(socket)).await.ok()?.ok()?;
    stream.peer_cred().ok()?.pid().filter(|pid| *pid > 0)
}

pub(super) fn look(process: &Path, swaps: &Path) -> Vec<Diagnosis> {
    let limits = fs::read_to_string(process.join("limits")).unwrap_or_default();
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next().map(str::to_owned));
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")?.split_whitespace().next()?.parse::<u64>().ok());
    let what = |of: &str| format!("process {}: {of}", process.file_name().unwrap_or_default().display());
    let mut found = Vec::new();
    match limit("Max core file size").as_deref() {
        Some("0") => found.push(Diagnosis::ok(what("core dumps"), "are off")),
        Some(size) => {
            let why = format!("are allowed up to {size} bytes: a crash would write secrets to a disk");
            found.push(Diagnosis::fail(what("core dumps"), why, "see the start of its log; does a security profile forbid setrlimit?"));
        }
        None => found.push(Diagnosis::warn(what("core dumps"), "not known: its limits cannot be read", "run the doctor as root")),
    }
    // The first line is the heading.
    let swap = fs::read_to_string(swaps).is_ok_and(|swaps| swaps.lines().count() > 1);
    found.push(match (locked, swap) {
        (Some(1..), _) => Diagnosis::ok(what("memory"), "is locked"),
        (_, false) => Diagnosis::ok(what("memory"), "is not locked, and the node has no swap"),
        (_, true) => {
            let why = "is not locked, and the node has swap: secrets in memory may be written to it";
            Diagnosis::warn(what("memory"), why, "give the daemon CAP_IPC_LOCK or an infinite RLIMIT_MEMLOCK, or encrypt the swap")
        }
    });
    found
}
