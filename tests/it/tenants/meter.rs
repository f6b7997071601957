//! A thread of its own looks how much memory the daemon has. It kills the daemon if it has too much, as the kernel would.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Duration, Instant, sleep};

use super::node::MIB;

/// How often it looks.
const EACH: Duration = Duration::from_millis(5);

/// How much of the limit the pages of the program's file take in the released build. The debug build has many times as many, so its own pages do not
/// count, and this number is in their place.
const FILE: u64 = 8 * MIB;

/// Bytes of memory, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Memory of the process's own: heap and stacks.
    pub own: u64,
    /// Pages of the program's file.
    pub file: u64,
    /// The most there ever was, both together (`VmHWM`).
    pub peak: u64,
}

/// The daemon also pays for pages of volumes that it has written, wherever they are mounted: the bytes of these file systems.
fn charged(volumes: &[PathBuf]) -> u64 {
    let used = |volume: &PathBuf| {
        let found = rustix::fs::statvfs(volume).unwrap();
        (found.f_blocks - found.f_bfree) * found.f_bsize
    };
    volumes.iter().map(used).sum()
}

/// Watches one process until it is dropped, and kills it when it has more of its own than it may, as a cgroup's limit does.
pub struct Meter {
    pid: u32,
    volumes: Arc<Vec<PathBuf>>,
    seen: Arc<Seen>,
    looking: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    most: AtomicU64,
    killed: OnceLock<Instant>,
}

impl Memory {
    /// `None`: the process has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |key: &str| -> Option<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Self { own: bytes("RssAnon")? + bytes("RssShmem")?, file: bytes("RssFile")?, peak: bytes("VmHWM")? })
    }

    /// The most of its own that the process ever had. Pages of the file only grow in number, so it was not less than this.
    fn own_peak(&self) -> u64 {
        self.peak.saturating_sub(self.file).max(self.own)
    }
}

impl Meter {
    pub fn start(pid: u32, most: u64, volumes: Vec<PathBuf>) -> Self {
        let (seen, volumes) = (Arc::new(Seen::default()), Arc::new(volumes));
        let (of_thread, written) = (Arc::clone(&seen), Arc::clone(&volumes));
        let looking = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(look(pid, most, &written, &of_thread));
        });
        Self { pid, volumes, seen, looking: Some(looking) }
    }

    /// The most it had, in bytes, as it would be in the released build: what was seen, or `VmHWM` if that is more.
    pub fn peak(&self) -> u64 {
        let told = self.now().map_or(0, |now| now.own_peak() + charged(&self.volumes));
        FILE + told.max(self.seen.most.load(Ordering::Relaxed))
    }

    /// When the process was killed for its memory.
    pub fn killed(&self) -> Option<Instant> {
        self.seen.killed.get().copied()
    }

    pub fn now(&self) -> Option<Memory> {
        Memory::of(self.pid)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        drop(self.looking.take().map(JoinHandle::join));
    }
}

async fn look(pid: u32, most: u64, volumes: &[PathBuf], seen: &Seen) {
    while !seen.stop.load(Ordering::Relaxed)
        && let Some(memory) = Memory::of(pid)
    {
        let all = memory.own + charged(volumes);
        seen.most.fetch_max(all, Ordering::Relaxed);
        if all > most {
            seen.killed.get_or_init(Instant::now);
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
            return;
        }
        sleep(EACH).await;
    }
}
