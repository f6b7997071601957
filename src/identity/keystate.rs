//! The keys of an earlier run, in the state folder: a daemon that starts while the API server is down can still verify tokens.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{MAX_FILE, Unreadable, WholeFile, write_draft};

/// The file's name in the state folder.
const FILE: &str = "jwks.state";

/// The largest file in bytes: keys of 1 MiB, escaped.
const MAX_SIZE: usize = 4 * 1024 * 1024;

/// The file of the kept keys, and their origin.
#[derive(Debug)]
pub(super) struct KeyState {
    path: PathBuf,
    /// Names the address and its CA. If a node has moved to another cluster, it must not believe the former cluster's keys, even if the API
    /// server has the same address.
    origin: String,
}

/// The content of the file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct KeptKeys {
    pub(super) fetched: Timestamp,
    pub(super) jwks: String,
}

#[derive(Deserialize, Serialize)]
struct Wire {
    origin: String,
    fetched: Timestamp,
    jwks: String,
}

impl KeyState {
    pub(super) fn new(dir: &Path, url: &str, ca: Option<&Path>) -> Self {
        Self { path: dir.join(FILE), origin: origin(url, ca) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The kept keys, if they are from this origin. A file that cannot be used counts as none: Keyferry writes it again.
    pub(super) fn read(&self) -> Option<KeptKeys> {
        match read(&self.path) {
            Ok(wire) if wire.origin == self.origin => Some(KeptKeys { fetched: wire.fetched, jwks: wire.jwks }),
            Ok(_) => {
                tracing::info!(file = %self.path.display(), "the keys of an earlier run are of another issuer, so Keyferry does not use them");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), "the keys kept from an earlier run cannot be read: {error}");
                None
            }
        }
    }

    /// Keeps keys: written to another file, then renamed, so a crash leaves either the old or the new keys complete.
    pub(super) fn write(&self, fetched: Timestamp, jwks: &str) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let draft = self.path.with_extension(format!("{}", std::process::id()));
        let wire = Wire { origin: self.origin.clone(), fetched, jwks: jwks.to_owned() };
        let written = write_draft(&draft, &serde_json::to_vec(&wire)?).and_then(|()| fs::rename(&draft, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

fn read(path: &Path) -> io::Result<Wire> {
    let file = WholeFile::read(path, MAX_SIZE).map_err(|error| match error {
        Unreadable::Absent => io::Error::from(io::ErrorKind::NotFound),
        Unreadable::Io(error) => error,
        Unreadable::NotAFile | Unreadable::TooLarge { .. } | Unreadable::TooMany(_) | Unreadable::Unstable => io::Error::other(error),
    })?;
    serde_json::from_slice(&file.bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it does not have what Keyferry wrote"))
}

/// The address, and a hash of its CA's file. For a folder of certificates, or the system's own, only its name counts.
fn origin(url: &str, ca: Option<&Path>) -> String {
    let mut context = Context::new(&SHA256);
    if let Some(ca) = ca {
        let certificates = WholeFile::read(ca, MAX_FILE).map(|file| file.bytes.to_vec());
        context.update(&certificates.unwrap_or_else(|_| ca.as_os_str().as_encoded_bytes().to_vec()));
    }
    format!("{url} {}", HEXLOWER.encode(context.finish().as_ref()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_kept_for_their_origin_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, ca) = (folder.path().join("state"), folder.path().join("ca.crt"));
        fs::write(&ca, "one").unwrap();
        let state = KeyState::new(&dir, "https://10.0.0.1/jwks", Some(&ca));
        assert_eq!(state.read(), None);
        let fetched = "2026-01-01T00:00:00Z".parse().unwrap();
        state.write(fetched, "{\"keys\":[]}").unwrap();
        assert_eq!(state.read(), Some(KeptKeys { fetched, jwks: "{\"keys\":[]}".to_owned() }));
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);

        assert_eq!(KeyState::new(&dir, "https://10.0.0.2/jwks", Some(&ca)).read(), None);
        fs::write(&ca, "another cluster").unwrap();
        assert_eq!(KeyState::new(&dir, "https://10.0.0.1/jwks", Some(&ca)).read(), None);
    }

    #[test]
    fn a_spoilt_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = KeyState::new(folder.path(), "https://x/jwks", None);
        state.write(Timestamp::UNIX_EPOCH, "x").unwrap();
        let whole = fs::read(state.path()).unwrap();
        for spoilt in [&b""[..], b"garbage", &whole[..whole.len() - 2], &[0xff; 100]] {
            fs::write(state.path(), spoilt).unwrap();
            assert_eq!(state.read(), None);
            state.write(Timestamp::UNIX_EPOCH, "x").unwrap();
            assert!(state.read().is_some());
        }
    }
}
