//! The socket's place in the file system: nobody can connect before it is protected, and it is removed only if it is still ours.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::place::{LastLink, Unsafe, judge};
use crate::telemetry::Metrics;

/// The key for the folder of the providers' sockets.
const DIR: &str = "socketDir";

/// The longest path of a Unix socket in bytes (Linux `sun_path` less its NUL).
const MAX_PATH: usize = 107;

/// How many bytes the end of a temporary name has, before it becomes hex.
const MADE_UP: usize = 4;

/// A running provider answers a connection attempt at once.
const PROBE: Duration = Duration::from_secs(2);

/// How often another process may interfere while a socket is put in its place.
const TRIES: usize = 5;

/// How often Keyferry looks at the sockets' places.
const LOOK: Duration = Duration::from_secs(5);

/// Where sockets are made, and for whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketConfig {
    /// A socket `<name>.sock` for each.
    pub providers: Vec<String>,
    /// Default `/var/run/secrets-store-csi-providers`.
    pub dir: PathBuf,
    /// 0600 or 0660.
    pub mode: u32,
    /// User ids that may connect.
    pub allowed_peers: Vec<u32>,
}

/// A socket that listens, until it is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    // It is dropped first: nobody finds a socket that does not listen.
    place: Place,
    pub listener: UnixListener,
    /// Empty: it is not a provider's socket.
    pub provider: String,
}

/// A socket's place. When it is dropped, its file is removed, unless another file has its place.
#[derive(Debug)]
pub struct Place(Mark);

/// A bound socket: its path, and which file was there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    pub path: PathBuf,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

/// Why clients do not reach this daemon at the socket's path any more.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Displaced {
    #[error("is gone (restart the provider)")]
    Gone,
    #[error("was replaced: clients that connect there do not reach this provider (find out what replaced it, then restart the provider)")]
    Replaced,
}

#[derive(Debug, Error)]
pub enum SocketError {
    #[error("{path}: cannot be bound: {cause} (does the user of the daemon own the folder, and does SELinux let it write there?)")]
    Bind { path: PathBuf, cause: io::Error },
    #[error("{path}: the folder cannot be made or opened: {cause} (make it, or name another by socketDir)")]
    Folder { path: PathBuf, cause: io::Error },
    #[error("{path}: another provider is listening there (stop it first; two providers of one name cannot share a node)")]
    Live { path: PathBuf },
    #[error("{path}: is not a socket, so Keyferry leaves it alone (remove it if nothing needs it)")]
    NotASocket { path: PathBuf },
    #[error("{path}: while it is made, the socket's path has {length} bytes, and the system allows {MAX_PATH} (choose a shorter {key})")]
    PathTooLong { path: PathBuf, length: usize, key: &'static str },
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
}

impl SocketConfig {
    pub fn path(&self, provider: &str) -> PathBuf {
        self.dir.join(format!("{provider}.sock"))
    }

    /// Checks what can be checked on any machine.
    ///
    /// # Errors
    /// A path is too long for a socket.
    pub fn check(&self) -> Result<(), SocketError> {
        self.providers.iter().try_for_each(|provider| check_length(self.path(provider), DIR))
    }

    /// Binds every socket, or none.
    ///
    /// # Errors
    /// The folder is missing and cannot be made; a user other than root and this one can change it or a folder above it; or a path is
    /// taken.
    pub async fn bind(&self) -> Result<Vec<BoundSocket>, SocketError> {
        guarded_folder(&self.dir)?;
        let mut sockets = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            sockets.push(BoundSocket { provider: provider.clone(), ..BoundSocket::bind(self.path(provider), DIR, self.mode).await? });
        }
        Ok(sockets)
    }
}

fn guarded_folder(dir: &Path) -> Result<(), SocketError> {
    let folder = |cause| SocketError::Folder { path: dir.to_owned(), cause };
    match judge(dir, LastLink::Refused) {
        Err(error) if error.is_absent() => {}
        judged => return Ok(judged?),
    }
    DirBuilder::new().recursive(true).create(dir).map_err(folder)?;
    // Whatever the umask is: a driver that is not root must be able to pass.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(folder)?;
    Ok(judge(dir, LastLink::Refused)?)
}

/// The socket is bound under a longer name first, see [`bind`].
fn check_length(path: PathBuf, key: &'static str) -> Result<(), SocketError> {
    let length = path.as_os_str().len() + ".".len() + 2 * MADE_UP;
    if length > MAX_PATH { Err(SocketError::PathTooLong { path, length, key }) } else { Ok(()) }
}

async fn bind(path: PathBuf, key: &'static str, mode: u32) -> Result<BoundSocket, SocketError> {
    // The socket is bound under a private name and moved into place when its mode is set: so everybody finds it protected, and a stale one
    // is replaced in one step. The name is random each time: in containers every daemon is process 1.
    let failed = |cause| SocketError::Bind { path: path.clone(), cause };
    let private = path.with_extension(format!("sock.{}", made_up().map_err(failed)?));
    check_length(path.clone(), key)?;
    let mut former = find(&path).await?;
    let ready = UnixListener::bind(&private).and_then(|listener| {
        fs::set_permissions(&private, fs::Permissions::from_mode(mode))?;
        Ok((listener, identity(&private)?))
    });
    let placed = async {
        let (listener, identity) = ready.map_err(failed)?;
        for _ in 0..TRIES {
            if put(&private, &path, former).map_err(failed)? {
                return Ok((listener, identity));
            }
            former = find(&path).await?;
        }
        Err(SocketError::Live { path: path.clone() })
    };
    match placed.await {
        Ok((listener, identity)) => Ok(BoundSocket { place: Place(Mark { path, identity }), listener, provider: String::new() }),
        Err(error) => {
            let _ = fs::remove_file(&private);
            Err(error)
        }
    }
}

/// What is at a path: nothing, or a socket on which nobody listens.
async fn find(path: &Path) -> Result<Option<Identity>, SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(SocketError::Bind { path: path.to_owned(), cause }),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(cause)) if matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(Some((found.dev(), found.ino())))
        }
        // WouldBlock: the queue of connections that wait is full.
        Ok(Err(cause)) if cause.kind() != io::ErrorKind::WouldBlock => Err(SocketError::Bind { path: path.to_owned(), cause }),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(SocketError::Live { path: path.to_owned() }),
    }
}

/// Moves a socket into its place, where nothing or the `former` one was. Returns whether it could: `false` if another process came first,
/// such as a daemon with another state folder that starts at the same time. That socket stays where it is.
fn put(private: &Path, path: &Path, former: Option<Identity>) -> io::Result<bool> {
    let flags = if former.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match (renameat_with(CWD, private, CWD, path, flags), former) {
        (Ok(()), None) => Ok(true),
        (Ok(()), Some(former)) if identity(private)? == former => fs::remove_file(private).map(|()| true),
        (Ok(()), Some(_)) => {
            renameat_with(CWD, private, CWD, path, RenameFlags::EXCHANGE)?;
            Ok(false)
        }
        (Err(Errno::EXIST | Errno::NOENT), _) => Ok(false),
        // A file system that supports only the simple call.
        (Err(Errno::INVAL | Errno::NOSYS), _) => fs::rename(private, path).map(|()| true),
        (Err(error), _) => Err(error.into()),
    }
}

fn made_up() -> io::Result<String> {
    let mut bytes = [0; MADE_UP];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

// === impl Mark ===

impl Mark {
    /// Whether the path still leads to this socket.
    ///
    /// # Errors
    /// How it leads elsewhere.
    pub async fn look(&self) -> Result<(), Displaced> {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || identity(&path)).await {
            Ok(Ok(found)) if found == self.identity => Ok(()),
            Ok(Ok(_)) => Err(Displaced::Replaced),
            Ok(Err(_)) | Err(_) => Err(Displaced::Gone),
        }
    }
}

/// Looks at the places of all sockets until the future is dropped; reports changes in the log and the metrics.
pub async fn watch(marks: Arc<[Mark]>, metrics: Arc<Metrics>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = vec![Ok(()); marks.len()];
    loop {
        looks.tick().await;
        for (mark, before) in marks.iter().zip(&mut before) {
            let now = mark.look().await;
            if now == *before {
                continue;
            }
            match now {
                Ok(()) => tracing::info!(socket = %mark.path.display(), "the socket is in its place again"),
                Err(displaced) => tracing::error!(socket = %mark.path.display(), "the socket {displaced}"),
            }
            *before = now;
        }
        metrics.sockets_displaced(before.iter().filter(|place| place.is_err()).count());
    }
}

// === impl BoundSocket ===

impl BoundSocket {
    /// Binds one socket in a folder that nobody else can change. `key`: the configuration key of this folder.
    ///
    /// # Errors
    /// The folder cannot be written, the path is too long, or it is taken.
    pub async fn bind(path: PathBuf, key: &'static str, mode: u32) -> Result<Self, SocketError> {
        bind(path, key, mode).await
    }

    pub fn path(&self) -> &Path {
        &self.mark().path
    }

    pub fn mark(&self) -> &Mark {
        &self.place.0
    }

    /// Removes the file, unless another file has its place. Clients that have connected are still in the listener's queue.
    pub fn withdraw(&self) {
        self.place.withdraw();
    }

    /// The listener, and what must be kept while it listens.
    pub fn into_parts(self) -> (UnixListener, Place) {
        (self.listener, self.place)
    }
}

// === impl Place ===

impl Place {
    fn withdraw(&self) {
        if identity(&self.0.path).ok() == Some(self.0.identity) {
            let _ = fs::remove_file(&self.0.path);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> SocketConfig {
        SocketConfig { providers: vec!["keyferry".into(), "vault".into()], dir: dir.to_owned(), mode: 0o600, allowed_peers: vec![0] }
    }

    #[tokio::test]
    async fn the_folder_is_made_and_the_sockets_are_guarded_and_taken_away() {
        let temp = crate::folder::new();
        let config = config(&temp.path().join("a/b"));
        let sockets = config.bind().await.unwrap();
        for provider in ["keyferry", "vault"] {
            let mode = fs::metadata(config.path(provider)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
        drop(sockets);
        assert_eq!(fs::read_dir(&config.dir).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let temp = crate::folder::new();
        let config = config(temp.path());
        drop(std::os::unix::net::UnixListener::bind(config.path("keyferry")).unwrap());
        let held = config.bind().await.unwrap();
        let refused = config.bind().await.unwrap_err().to_string().replace(temp.path().to_str().unwrap(), "DIR");
        insta::assert_snapshot!(refused, @"DIR/keyferry.sock: another provider is listening there (stop it first; two providers of one name cannot share a node)");
        drop(held);
        assert!(config.bind().await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let temp = crate::folder::new();
        let config = config(temp.path());
        fs::write(config.path("vault"), "precious").unwrap();
        let refused = config.bind().await.unwrap_err().to_string().replace(temp.path().to_str().unwrap(), "DIR");
        insta::assert_snapshot!(refused, @"DIR/vault.sock: is not a socket, so Keyferry leaves it alone (remove it if nothing needs it)");
        assert_eq!(fs::read_to_string(config.path("vault")).unwrap(), "precious");
        assert!(!config.path("keyferry").exists(), "all or nothing");
    }

    #[tokio::test]
    async fn a_successors_socket_survives_our_end() {
        let temp = crate::folder::new();
        let config = config(temp.path());
        let ours = config.bind().await.unwrap();
        fs::remove_file(config.path("keyferry")).unwrap();
        let successor = std::os::unix::net::UnixListener::bind(config.path("keyferry")).unwrap();
        drop(ours);
        assert!(config.path("keyferry").exists());
        drop(successor);
    }

    #[tokio::test]
    async fn an_open_folder_and_a_long_path_are_refused() {
        let temp = crate::folder::new();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let shown = |error: SocketError, dir: &Path| error.to_string().replace(dir.to_str().unwrap(), "DIR");
        insta::assert_snapshot!(shown(config(temp.path()).bind().await.unwrap_err(), temp.path()), @"DIR: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w DIR)");
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let long = temp.path().join("x".repeat(100));
        assert!(matches!(config(&long).bind().await, Err(SocketError::PathTooLong { .. })));
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(config(&file).bind().await, Err(SocketError::Unsafe(Unsafe::NotAFolder { .. }))));
    }

    /// Daemons with different state folders have no common lock.
    #[tokio::test]
    async fn many_that_start_at_once_leave_one_that_serves() {
        for stale in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let config = SocketConfig { providers: vec!["keyferry".into()], ..config(temp.path()) };
            if stale {
                drop(std::os::unix::net::UnixListener::bind(config.path("keyferry")).unwrap());
            }
            let mut starts = tokio::task::JoinSet::new();
            for _ in 0..32 {
                let config = config.clone();
                starts.spawn(async move { config.bind().await });
            }
            let bound: Vec<_> = starts.join_all().await.into_iter().filter_map(Result::ok).collect();
            assert_eq!(bound.len(), 1, "stale: {stale}");
            assert_eq!(bound[0][0].mark().look().await, Ok(()));
            let (accepted, connected) = tokio::join!(bound[0][0].listener.accept(), UnixStream::connect(config.path("keyferry")));
            drop((accepted.unwrap(), connected.unwrap()));
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "no private name is left");
        }
    }

    /// As if the other had bound its socket between our look and our move.
    #[tokio::test]
    async fn who_came_between_is_left_in_the_place() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let bind = |name: &str| std::os::unix::net::UnixListener::bind(at(name)).unwrap();
        let (_ours, stale) = (bind("private"), bind("place"));
        let former = identity(&at("place")).unwrap();
        drop(stale);
        fs::remove_file(at("place")).unwrap();
        assert!(!put(&at("private"), &at("place"), Some(former)).unwrap(), "the stale one is gone");
        let _other = bind("place");
        let (theirs, mine) = (identity(&at("place")).unwrap(), identity(&at("private")).unwrap());
        assert!(!put(&at("private"), &at("place"), None).unwrap());
        assert!(theirs == former || !put(&at("private"), &at("place"), Some(former)).unwrap());
        assert_eq!((identity(&at("place")).unwrap(), identity(&at("private")).unwrap()), (theirs, mine));
        assert!(put(&at("private"), &at("place"), Some(theirs)).unwrap());
        assert_eq!(identity(&at("place")).unwrap(), mine);
        assert!(!at("private").exists());
    }

    #[tokio::test]
    async fn a_socket_that_is_taken_away_or_replaced_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let config = SocketConfig { providers: vec!["keyferry".into()], ..config(temp.path()) };
        let sockets = config.bind().await.unwrap();
        let (mark, path) = (sockets[0].mark().clone(), config.path("keyferry"));
        assert_eq!(mark.look().await, Ok(()));
        fs::rename(&path, temp.path().join("aside")).unwrap();
        assert_eq!(mark.look().await, Err(Displaced::Gone));
        std::os::unix::fs::symlink("aside", &path).unwrap();
        assert_eq!(mark.look().await, Err(Displaced::Replaced), "a link is somebody's");
        fs::rename(temp.path().join("aside"), &path).unwrap();
        assert_eq!(mark.look().await, Ok(()));
    }
}
