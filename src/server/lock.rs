//! The lock under which sockets are bound: two daemons with the same state folder that start at the same time take turns.
//!
//! The lock is a file that only we can open. If others can read a folder, they can lock it: flock(2) needs no right to write.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;
use thiserror::Error;
use tokio::time::{Duration, Instant, sleep};

use super::place::{LastLink, Unsafe, judge};

/// The file's name in the state folder.
const NAME: &str = "start.lock";

/// How long another daemon may hold it. A daemon that stops has 10 s for mounts under way, and one that starts asks each socket for at most
/// 2 s.
const WAIT: Duration = Duration::from_secs(20);

/// How often Keyferry tries again during this time.
const AGAIN: Duration = Duration::from_millis(100);

/// How many bytes of the file, and of `/proc/locks`, are read.
const MAX_READ: u64 = 1024 * 1024;

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct StartLock {
    _file: File,
}

#[derive(Debug, Error)]
pub enum LockError {
    #[error("{path}: {holder} has held the lock for {} s (end it, unless it is a Keyferry that is about to start)", WAIT.as_secs(), path = path.display())]
    Held { path: PathBuf, holder: String },
    #[error("{path}: is not the daemon's own file (remove it)", path = path.display())]
    NotOurs { path: PathBuf },
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
    #[error("{path}: {cause} (let the daemon write there)", path = path.display())]
    Write { path: PathBuf, cause: io::Error },
}

impl StartLock {
    /// Takes the lock in a state folder, which is made (0700) if it does not exist. Waits at most [`WAIT`] for the holder.
    ///
    /// # Errors
    /// The lock is held for longer, the folder or the file does not belong to us alone, or cannot be written ([`LockError::Write`]).
    pub async fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(NAME);
        let write = |cause| LockError::Write { path: path.clone(), cause };
        if judge(dir, LastLink::Followed).is_err_and(|error| error.is_absent()) {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(write)?;
        }
        judge(dir, LastLink::Followed)?;
        let mut file = open(&path)?;
        let began = Instant::now();
        let mut said = false;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
                return Err(write(error.into()));
            }
            if began.elapsed() >= WAIT {
                return Err(LockError::Held { holder: holder(&file), path });
            }
            if !said {
                tracing::info!(lock = %path.display(), holder = holder(&file), "waiting for another process, which has the lock that a daemon takes when it starts");
                said = true;
            }
            sleep(AGAIN).await;
        }
        // For the message of a daemon that waits; without it, that daemon only knows less.
        let _ = file.set_len(0).and_then(|()| file.write_all(us().as_bytes()));
        Ok(Self { _file: file })
    }
}

/// Opens the file without following a link and without waiting for a pipe's other end; a new one can be opened only by us.
fn open(path: &Path) -> Result<File, LockError> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path);
    let not_ours = || LockError::NotOurs { path: path.to_owned() };
    let write = |cause| LockError::Write { path: path.to_owned(), cause };
    let file = match opened {
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) || error.kind() == io::ErrorKind::IsADirectory =>
        {
            return Err(not_ours());
        }
        opened => opened.map_err(write)?,
    };
    let found = file.metadata().map_err(write)?;
    if !found.is_file() || ![0, geteuid().as_raw()].contains(&found.uid()) {
        return Err(not_ours());
    }
    if found.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(write)?;
    }
    Ok(file)
}

/// Who holds the lock, as far as Keyferry can see: from the kernel, else from the text of the last holder.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|found| format!(":{}", found.ino())).unwrap_or_default();
    let locks = read(File::open("/proc/locks"));
    let pids = locks.lines().filter_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF` (proc_locks(5)); a process that waits has a `->` before the kind.
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        place.ends_with(&inode).then(|| pid.to_owned())
    });
    let shown = pids.map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", if name.is_empty() { "unknown" } else { name.trim_end() })
    });
    let shown: Vec<_> = shown.collect();
    if !shown.is_empty() {
        return shown.join(", ");
    }
    match read(file.try_clone()).trim() {
        "" => "a process that Keyferry cannot see".to_owned(),
        last => format!("a process that Keyferry cannot see (the last one known is {last})"),
    }
}

fn read(file: io::Result<File>) -> String {
    let mut bytes = Vec::new();
    // A file that cannot be read gives no information.
    let _ = file.and_then(|file| file.take(MAX_READ).read_to_end(&mut bytes));
    let printable = |c: &char| *c == '\n' || !c.is_control();
    String::from_utf8_lossy(&bytes).chars().filter(printable).collect()
}

/// In a container the process is usually number 1, and the host's name is the Pod's.
fn us() -> String {
    let system = rustix::system::uname();
    format!("process {} of {}", std::process::id(), system.nodename().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("state");
        (temp, dir)
    }

    fn shown<T: std::fmt::Debug>(taken: Result<T, LockError>, temp: &tempfile::TempDir) -> String {
        taken.unwrap_err().to_string().replace(temp.path().to_str().unwrap(), "DIR").replace(&std::process::id().to_string(), "PID")
    }

    #[tokio::test]
    async fn the_folder_and_the_file_are_ours_alone() {
        let (_temp, dir) = folder();
        let lock = StartLock::take(&dir).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&dir), mode(&dir.join(NAME))), (0o700, 0o600));
        drop(lock);
        // Left open by another program: closed again.
        fs::set_permissions(dir.join(NAME), Permissions::from_mode(0o666)).unwrap();
        drop(StartLock::take(&dir).await.unwrap());
        assert_eq!(mode(&dir.join(NAME)), 0o600);
        assert!(fs::read_to_string(dir.join(NAME)).unwrap().starts_with(&format!("process {} of ", std::process::id())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_it_is_waited_for_and_then_named() {
        let (temp, dir) = folder();
        let first = StartLock::take(&dir).await.unwrap();
        let began = Instant::now();
        let refused = shown(StartLock::take(&dir).await, &temp);
        assert!((WAIT..WAIT + Duration::from_secs(1)).contains(&began.elapsed()));
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        insta::assert_snapshot!(refused.replace(name.trim_end(), "NAME"), @"DIR/state/start.lock: process PID (NAME) has held the lock for 20 s (end it, unless it is a Keyferry that is about to start)");
        let second = tokio::spawn({
            let dir = dir.clone();
            async move { StartLock::take(&dir).await }
        });
        sleep(Duration::from_secs(15)).await;
        drop(first);
        second.await.unwrap().unwrap();
    }

    /// By a shared lock too, whatever is there.
    #[tokio::test(start_paused = true)]
    async fn a_lock_of_the_folder_is_nothing_to_us() {
        let (_temp, dir) = folder();
        fs::create_dir(&dir).unwrap();
        let folder = File::open(&dir).unwrap();
        for kind in [FlockOperation::LockShared, FlockOperation::LockExclusive] {
            flock(&folder, kind).unwrap();
            let began = Instant::now();
            StartLock::take(&dir).await.unwrap();
            assert!(began.elapsed() < AGAIN);
        }
    }

    #[tokio::test]
    async fn what_is_not_ours_is_refused_and_not_followed() {
        let (temp, dir) = folder();
        fs::create_dir(&dir).unwrap();
        let at = dir.join(NAME);
        std::os::unix::fs::symlink(temp.path().join("elsewhere"), &at).unwrap();
        let mut all = format!("{}\n", shown(StartLock::take(&dir).await, &temp));
        assert!(!temp.path().join("elsewhere").exists());
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        all += &format!("{}\n", shown(StartLock::take(&dir).await, &temp));
        fs::remove_dir(&at).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &at, rustix::fs::Mode::RWXU).unwrap();
        all += &format!("{}\n", shown(StartLock::take(&dir).await, &temp));
        fs::remove_file(&at).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        all += &format!("{}\n", shown(StartLock::take(&dir).await, &temp));
        insta::assert_snapshot!(all, @"
        DIR/state/start.lock: is not the daemon's own file (remove it)
        DIR/state/start.lock: is not the daemon's own file (remove it)
        DIR/state/start.lock: is not the daemon's own file (remove it)
        DIR/state: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w DIR/state)
        ");
    }
}
