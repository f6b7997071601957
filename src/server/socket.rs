//! The socket's place in the file system: made so that nobody connects before it is guarded, and taken away only if it is still ours.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, timeout};

/// The longest path of a Unix socket in bytes (Linux `sun_path` less its NUL).
const MAX_PATH: usize = 107;

/// A live provider answers a connection attempt at once.
const PROBE: Duration = Duration::from_secs(2);

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

/// A socket that listens. Dropping it takes its file away, unless another has taken the place.
#[derive(Debug)]
pub struct BoundSocket {
    pub listener: UnixListener,
    pub provider: String,
    path: PathBuf,
    identity: (u64, u64),
}

#[derive(Debug, Error)]
pub enum SocketError {
    #[error("{path}: cannot be bound: {cause} (does the user of the daemon own the folder, and does SELinux let it write there?)")]
    Bind { path: PathBuf, cause: io::Error },
    #[error("{path}: the folder cannot be made or opened: {cause} (make it, or name another by socketDir)")]
    Folder { path: PathBuf, cause: io::Error },
    #[error(
        "{path}: the folder may be written by everyone (mode {mode:04o}): any user could put a socket of his own there (chmod o-w {path})"
    )]
    FolderWritable { path: PathBuf, mode: u32 },
    #[error("{path}: another provider is listening there (stop it first; two providers of one name cannot share a node)")]
    Live { path: PathBuf },
    #[error("{path}: is there and is not a socket; it is left alone (remove it if nothing needs it)")]
    NotASocket { path: PathBuf },
    #[error("{path}: the path has {length} bytes; a socket's has at most {MAX_PATH} (name a shorter socketDir)")]
    PathTooLong { path: PathBuf, length: usize },
}

impl SocketConfig {
    pub fn path(&self, provider: &str) -> PathBuf {
        self.dir.join(format!("{provider}.sock"))
    }

    /// Binds every socket, or none.
    ///
    /// # Errors
    /// The folder is missing and cannot be made, is writable by everyone, or a path is taken.
    pub async fn bind(&self) -> Result<Vec<BoundSocket>, SocketError> {
        let folder = guarded_folder(&self.dir)?;
        // Two providers that start at once take turns; the lock ends with the file.
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)
            .map_err(|cause| SocketError::Folder { path: self.dir.clone(), cause: cause.into() })?;
        let mut sockets = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            sockets.push(bind(self.path(provider), provider, self.mode).await?);
        }
        Ok(sockets)
    }
}

fn guarded_folder(dir: &Path) -> Result<File, SocketError> {
    let folder = |cause| SocketError::Folder { path: dir.to_owned(), cause };
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).create(dir).map_err(folder)?;
        // Whatever the umask: a driver that is not root has to come through.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(folder)?;
    }
    let opened = File::open(dir).map_err(folder)?;
    let mode = opened.metadata().map_err(folder)?.mode() & 0o7777;
    // The sticky bit keeps strangers from replacing a file, not from putting one where ours is to come.
    if mode & 0o002 != 0 {
        return Err(SocketError::FolderWritable { path: dir.to_owned(), mode });
    }
    Ok(opened)
}

async fn bind(path: PathBuf, provider: &str, mode: u32) -> Result<BoundSocket, SocketError> {
    // The socket is bound under a private name and moved into place when its mode is set: whoever finds it finds it guarded, and a
    // stale one is replaced in one step.
    let private = path.with_extension(format!("sock.{}", std::process::id()));
    let length = private.as_os_str().len();
    if length > MAX_PATH {
        return Err(SocketError::PathTooLong { path, length });
    }
    check_place(&path).await?;
    let bound = (|| {
        let _ = fs::remove_file(&private);
        let listener = UnixListener::bind(&private)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(mode))?;
        let identity = identity(&private)?;
        fs::rename(&private, &path)?;
        Ok((listener, identity))
    })();
    match bound {
        Ok((listener, identity)) => Ok(BoundSocket { listener, provider: provider.to_owned(), path, identity }),
        Err(cause) => {
            let _ = fs::remove_file(&private);
            Err(SocketError::Bind { path, cause })
        }
    }
}

/// Whether the path is free, or holds a socket nobody listens on.
async fn check_place(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(SocketError::Bind { path: path.to_owned(), cause }),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(cause)) if matches!(cause.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Ok(Ok(_)) | Err(_) => Err(SocketError::Live { path: path.to_owned() }),
        Ok(Err(cause)) => Err(SocketError::Bind { path: path.to_owned(), cause }),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl BoundSocket {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if identity(&self.path).ok() == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
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
        insta::assert_snapshot!(refused, @"DIR/vault.sock: is there and is not a socket; it is left alone (remove it if nothing needs it)");
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
        insta::assert_snapshot!(shown(config(temp.path()).bind().await.unwrap_err(), temp.path()), @"DIR: the folder may be written by everyone (mode 1777): any user could put a socket of his own there (chmod o-w DIR)");
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let long = temp.path().join("x".repeat(100));
        assert!(matches!(config(&long).bind().await, Err(SocketError::PathTooLong { .. })));
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(config(&file).bind().await, Err(SocketError::Folder { .. })));
    }
}
