//! The keys that open a vault: age identity files, read again when they change.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ReadFault;
use super::read::{Stamp, WholeFile};
use crate::backend::Fault;
use crate::files::create_new;
use crate::text;

/// The longest identity file in bytes.
const MAX_FILE: usize = 64 * 1024;

/// How long the files' state is believed without another look, in milliseconds.
const BELIEVED: u64 = 1_000;

/// The identity files of a backend, and what they last held.
#[derive(Debug)]
pub struct Identities {
    paths: Vec<PathBuf>,
    keys: ArcSwap<Keys>,
    /// Changes with the keys, and when they cannot be read: what was opened with others does not count any more.
    generation: AtomicU64,
    since: Instant,
    checked: AtomicU64,
}

/// The identities of all files, and the state the files were in.
pub struct Keys {
    pub identities: Vec<Identity>,
    stamps: Vec<Stamp>,
}

// === impl Identities ===

impl Identities {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them is absent, unreadable, or holds no X25519 identity.
    pub fn open(paths: &[PathBuf]) -> Result<Self, ReadFault> {
        let keys = Keys::read(paths)?;
        Ok(Self {
            paths: paths.to_vec(),
            keys: ArcSwap::from_pointee(keys),
            generation: AtomicU64::new(0),
            since: Instant::now(),
            checked: AtomicU64::new(0),
        })
    }

    /// Whether it is time to look at the files again. Of several callers one is told so, and that one must call [`Self::refresh`].
    pub fn due(&self) -> bool {
        let last = self.checked.load(Ordering::Relaxed);
        let now = self.elapsed();
        now.saturating_sub(last) >= BELIEVED && self.checked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Names the present keys, without a look at the files.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The keys as the files hold them now. A stat a file, where nothing changed.
    pub fn refresh(&self) -> Result<Arc<Keys>, ReadFault> {
        self.checked.store(self.elapsed(), Ordering::Relaxed);
        let keys = self.keys.load_full();
        let same = self.paths.iter().zip(&keys.stamps).all(|(path, stamp)| Stamp::of(path).is_ok_and(|now| now == *stamp));
        if same { Ok(keys) } else { self.read_again(&keys) }
    }

    fn read_again(&self, old: &Keys) -> Result<Arc<Keys>, ReadFault> {
        let keys = match Keys::read(&self.paths) {
            Ok(keys) => Arc::new(keys),
            Err(fault) => {
                self.generation.fetch_add(1, Ordering::AcqRel);
                return Err(fault);
            }
        };
        self.keys.store(Arc::clone(&keys));
        if keys.recipients() != old.recipients() {
            self.generation.fetch_add(1, Ordering::AcqRel);
            tracing::info!(identities = keys.identities.len(), "the identities of the file vault changed, and are in force");
        }
        Ok(keys)
    }

    /// For messages: the files, and the recipients whose secrets they open.
    pub fn describe(&self, keys: &Keys) -> String {
        let files: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        format!("in {} ({})", files.join(", "), Self::recipients(keys))
    }

    /// The same without the node's paths.
    pub fn describe_to_classes(keys: &Keys) -> String {
        format!("of the backend ({})", Self::recipients(keys))
    }

    fn recipients(keys: &Keys) -> String {
        let recipients = keys.recipients();
        let shown = recipients.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let more = recipients.len().saturating_sub(3);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{shown}{more}")
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

// === impl Keys ===

impl Keys {
    pub fn recipients(&self) -> Vec<Recipient> {
        self.identities.iter().map(Identity::to_public).collect()
    }

    fn read(paths: &[PathBuf]) -> Result<Self, ReadFault> {
        let mut keys = Self { identities: Vec::new(), stamps: Vec::new() };
        for path in paths {
            let file = WholeFile::read(path, MAX_FILE)
                .map_err(|cause| fault_of(path, |file| format!("{file} {cause} (is its volume mounted, and may this user read it?)")))?;
            if file.mode & 0o077 != 0 {
                tracing::warn!(file = %path.display(), mode = %format!("{:04o}", file.mode & 0o7777),
                    "the identity file is open to other users (chmod 0400; in a volume of a Secret: defaultMode: 0400)");
            }
            keys.identities.extend(parse(path, &file.bytes)?);
            keys.stamps.push(file.stamp);
        }
        Ok(keys)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("recipients", &self.recipients()).finish_non_exhaustive()
    }
}

/// An identity a line; empty lines and `#` comments between them. Messages name lines, and never quote one.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Identity>, ReadFault> {
    let fault = |why: &str| fault_of(path, |file| format!("{file} {why}"));
    if bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE") {
        return Err(fault("is itself encrypted, and a daemon cannot type a passphrase (decrypt it with `age -d`)"));
    }
    let text = text::read(bytes).map_err(|problem| fault(&problem.to_string()))?;
    let mut identities = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = line.parse().map_err(|_| {
            fault(&format!(
                "has a line {number} that is no X25519 identity (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)"
            ))
        })?;
        identities.push(identity);
    }
    if identities.is_empty() { Err(fault("holds no identity (`keyferry vault init` makes one)")) } else { Ok(identities) }
}

fn fault_of(path: &Path, say: impl Fn(&str) -> String) -> ReadFault {
    ReadFault::about(Fault::Unavailable, &format!("the identity file {}", path.display()), "an identity file of the backend", say)
}

/// Makes a new X25519 identity in a new file (0600), as `age-keygen -o` does, and gives its recipient.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn generate_identity(path: &Path, now: Timestamp) -> io::Result<Recipient> {
    let identity = Identity::generate();
    let recipient = identity.to_public();
    let secret = identity.to_string();
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(&format!("# created: {now:.0}\n# public key: {recipient}\n"));
    text.push_str(secret.expose_secret());
    text.push('\n');
    let mut file = create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    super::write::sync_folder_of(path)?;
    Ok(recipient)
}

/// The recipients of the identities in a file.
pub fn recipients_of(path: &Path) -> Result<Vec<Recipient>, ReadFault> {
    Ok(Keys::read(&[path.to_owned()])?.recipients())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use insta::assert_snapshot;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:05.678Z";

    fn reason(bytes: &[u8]) -> String {
        parse(Path::new("/etc/age.key"), bytes).err().unwrap().reason
    }

    #[test]
    fn what_is_no_identity_is_named_by_its_line_and_never_quoted() {
        assert_snapshot!(reason(b""), @"the identity file /etc/age.key holds no identity (`keyferry vault init` makes one)");
        assert_snapshot!(reason(b"# x\n\nAGE-SECRET-KEY-1CANARY"), @"the identity file /etc/age.key has a line 3 that is no X25519 identity (those start with AGE-SECRET-KEY-1; plugin, ssh and post-quantum keys are not read)");
        assert_snapshot!(reason(b"age-encryption.org/v1\n"), @"the identity file /etc/age.key is itself encrypted, and a daemon cannot type a passphrase (decrypt it with `age -d`)");
        assert_snapshot!(reason(b"\xff"), @"the identity file /etc/age.key is not UTF-8 text: line 1 has other bytes (save it as UTF-8)");
    }

    #[test]
    fn a_made_identity_is_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("age.key");
        let recipient = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        assert_eq!(recipients_of(&path).unwrap(), std::slice::from_ref(&recipient));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# created: 2026-01-02T03:04:05Z\n# public key: {recipient}\nAGE-SECRET-KEY-1")), "{text}");
        assert_eq!(generate_identity(&path, NOW.parse().unwrap()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_changed_file_is_read_again_and_what_was_opened_before_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("age.key"), folder.path().join("other.key"));
        let first = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        let second = generate_identity(&other, NOW.parse().unwrap()).unwrap();
        let identities = Identities::open(std::slice::from_ref(&path)).unwrap();
        assert_eq!(identities.refresh().unwrap().recipients(), std::slice::from_ref(&first));
        assert_eq!(identities.generation(), 0);

        let both = [fs::read(&path).unwrap(), fs::read(&other).unwrap()].concat();
        fs::write(&other, both).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(identities.refresh().unwrap().recipients(), [first, second]);
        assert_eq!(identities.generation(), 1);

        fs::remove_file(&path).unwrap();
        assert!(identities.refresh().is_err());
        assert_eq!(identities.generation(), 2);
    }

    #[test]
    fn debug_shows_public_keys_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("age.key");
        let recipient = generate_identity(&path, NOW.parse().unwrap()).unwrap();
        let shown = format!("{:?}", Identities::open(&[path]).unwrap());
        assert!(shown.contains(&recipient.to_string()) && !shown.contains("SECRET"), "{shown}");
    }
}
