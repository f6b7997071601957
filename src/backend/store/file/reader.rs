//! The vault as the daemon sees it. The reader opens a secret once, and recognises it by the state of its file.
//!
//! Everything here blocks; [`super::FileBackend`] decides on which thread. Only [`Reader::recall`] is quick enough for any thread: it looks
//! into a table, and makes at most a few system calls to a file system that answers at once.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::document::Document;
use super::history::History;
use super::identity::{Identities, Keys};
use super::layout::{Layout, VaultName};
use super::names::{self, Unlistable};
use super::read::{Stamp, Unreadable, WholeFile};
use super::seal::{self, Unopened};
use super::{ReadFault, Revision, SecretType};
use crate::backend::Fault;
use crate::backend::sweep::{Sweeping, Swept};
use crate::clock::{Clock, SystemClock};
use crate::files::{Epoch, Found, Inotify, Located};
use crate::gathered::Prehashed;
use crate::memo::Memo;
use crate::model::{Field, FieldKind, FieldName, Secret, SecretBytes, SecretName};
use crate::shelf::Kept;

/// How many bytes opened secrets may need in memory, unless the daemon has less.
pub(super) const REMEMBERED: usize = 16 * 1024 * 1024;

/// How long an opened secret stays in memory if no mount asks for it.
pub(super) const UNUSED: Duration = Duration::from_mins(10);

/// For how many names per generation the reader knows the highest revision that it has seen.
const WATCHED: usize = 4_096;

/// How much longer a file may be than its secret: the longest escape of JSON needs six bytes for one. Name, header and the rest come on top.
const SEALED_FACTOR: usize = 6;
const SEALED_EXTRA: usize = 64 * 1024;

/// A file of more bytes is opened alone: decrypting and parsing it needs several times its size, and no mount's budget counts that.
const LARGE: usize = 128 * 1024;

/// The epoch of a file that the reader looks at each time: a link, a file with two names, a file of a network's file system.
const NEVER: u64 = u64::MAX;

/// The epoch of a file that was found in another state: nobody looks at it again before it is opened again.
const GONE: u64 = u64::MAX - 1;

/// Reads one vault.
#[derive(Debug)]
pub struct Reader {
    layout: Layout,
    folder: Arc<Path>,
    inotify: Inotify,
    identities: Identities,
    max_secret_bytes: usize,
    clock: Arc<dyn Clock>,
    sweeping: Sweeping,
    large: Mutex<()>,
    /// Each counts for the tenant that asked first for it.
    seen: Kept<Key, Arc<Seen>, Prehashed>,
    highest: Memo<SecretName, Revision>,
}

/// Which revision of which secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    pub name: SecretName,
    /// `None`: the current one.
    pub pin: Option<Revision>,
}

/// One number, from that of the name: [`Prehashed`].
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Odd: no two pins of a name get the same number.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let pin = self.pin.map_or(0, Revision::number);
        state.write_u64(self.name.hash_code() ^ pin.wrapping_mul(SPREAD));
    }
}

/// One revision of a secret, opened.
#[derive(Clone, Debug)]
pub struct Opened {
    pub secret: Arc<Secret>,
    pub revision: Revision,
    pub time: Timestamp,
    pub secret_type: Option<SecretType>,
}

/// An opened file, and the state it was in.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    stamp: Stamp,
    local: bool,
    /// For how long the reader knows, without another look, that it is in that state; 0: not at all yet.
    epoch: AtomicU64,
    /// The generation of the identities that opened it.
    generation: u64,
    /// When it was last asked for, in milliseconds of the reader's life.
    asked: AtomicU64,
    opened: Opened,
}

impl Reader {
    /// # Errors
    /// No identity file holds an identity. A vault that is not there yet is not an error: it may come later.
    pub fn open(root: &Path, identities: &[PathBuf], max_secret_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, ReadFault> {
        Ok(Self::with(Identities::open(identities, Arc::clone(&clock))?, root, max_secret_bytes, clock))
    }

    /// For a person, who has named the identity files.
    ///
    /// # Errors
    /// One of them holds no identity.
    pub fn open_all(root: &Path, identities: &[PathBuf], max_secret_bytes: usize) -> Result<Self, ReadFault> {
        Ok(Self::with(Identities::open_all(identities)?, root, max_secret_bytes, Arc::new(SystemClock)))
    }

    fn with(identities: Identities, root: &Path, max_secret_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            layout: Layout::of(root),
            folder: root.into(),
            inotify: Inotify::below(root),
            identities,
            max_secret_bytes,
            clock,
            sweeping: Sweeping::default(),
            large: Mutex::new(()),
            seen: Kept::of_bytes(REMEMBERED),
            highest: Memo::with_capacity(WATCHED),
        }
    }

    /// With another limit in bytes for the opened secrets that it keeps.
    pub fn remembering(self, bytes: usize) -> Self {
        Self { seen: Kept::of_bytes(bytes), ..self }
    }

    /// What the reader knows already, if it is sure without waiting that this is still true.
    pub fn recall(&self, key: &Key, now: Instant) -> Option<Opened> {
        let life = self.identities.life(now);
        if self.identities.due(life) {
            return None;
        }
        let seen = self.seen.find(key)?;
        (seen.local && self.holds(&seen, now)).then(|| Self::again(&seen, life))
    }

    /// As [`Reader::read_for`], for a caller without a tenant.
    pub fn read(&self, key: &Key) -> Result<Opened, ReadFault> {
        self.read_for(key, "")
    }

    /// The secret as it is now, or its pinned revision. Opens only that file. What it keeps counts for the tenant.
    pub fn read_for(&self, key: &Key, tenant: &str) -> Result<Opened, ReadFault> {
        let keys = self.identities.refresh().inspect_err(|_| self.seen.clear())?;
        if let Some(seen) = self.seen.find(key).filter(|seen| self.holds(seen, Instant::now())) {
            return Ok(Self::again(&seen, self.life()));
        }
        let name = VaultName::try_from(&key.name).map_err(|cause| ReadFault::new(Fault::Invalid, format!("the name {cause}")))?;
        let seen = match key.pin {
            None => self.current(&name, &keys)?.ok_or_else(|| self.absent(&name))?,
            Some(revision) => self.pinned(&name, revision, &keys)?,
        };
        let opened = seen.opened.clone();
        if seen.stamp.settled(self.clock.now(), seen.local) {
            let weight = seen.weight();
            self.seen.keep(tenant, key.clone(), Arc::new(seen), weight);
        }
        Ok(opened)
    }

    /// Where the secret is, whether it is there or not.
    pub fn file(&self, key: &Key) -> Option<Located> {
        let name = VaultName::try_from(&key.name).ok()?;
        let path = key.pin.map_or_else(|| self.layout.current(&name), |revision| self.layout.earlier(&name, revision));
        Located::below(&self.folder, &path)
    }

    /// What is in a folder, as an answer: its field `keys` is a list of names. Keeps nothing of it.
    pub fn listing(&self, folder: &SecretName) -> Result<Secret, ReadFault> {
        let name = folder_name(folder)?;
        let names = match names::in_folder(&self.layout, &name, self.max_secret_bytes) {
            Ok(names) => names.unwrap_or_default(),
            Err(Unlistable::Io { path, cause }) => return Err(self.unavailable(&path, &cause)),
            Err(fault @ (Unlistable::TooLong { .. } | Unlistable::TooMany)) => {
                return Err(ReadFault::new(Fault::TooLarge, format!("{fault} (name a longer prefix)")));
            }
        };
        if names.is_empty() {
            self.present()?;
            let remedy = "make them with `keyferry vault set`, correct the prefix, or set `optional: true`";
            return Err(ReadFault::new(Fault::NotFound, format!("there are no secrets below it ({remedy})")));
        }
        let keys = serde_json::Value::from_iter(names).to_string();
        let field = Field { bytes: Arc::new(SecretBytes::new(keys.into_bytes())), kind: FieldKind::Json };
        Ok(Secret { fields: BTreeMap::from([(FieldName::new("keys"), field)]), response: None, version: None, lease: None })
    }

    /// Where a folder is, whether it is there or not.
    pub fn folder(&self, folder: &SecretName) -> Option<Located> {
        Located::below(&self.folder, &self.layout.folder(&folder_name(folder).ok()?))
    }

    pub fn list(&self, prefix: &str) -> Result<Vec<SecretName>, ReadFault> {
        self.present()?;
        names::starting_with(&self.layout, prefix).map_err(|fault| {
            let kind = match fault {
                Unlistable::Io { .. } => Fault::Unavailable,
                Unlistable::TooLong { .. } | Unlistable::TooMany => Fault::TooLarge,
            };
            match &fault {
                Unlistable::Io { path, cause } => self.about(kind, path, |at| format!("cannot list {at}: {cause}")),
                Unlistable::TooLong { .. } | Unlistable::TooMany => ReadFault::new(kind, format!("{fault} (name a longer prefix)")),
            }
        })
    }

    /// Whether secrets could be served: the vault is there, and the identities can be read.
    pub fn check(&self) -> Result<(), ReadFault> {
        self.identities.check()?;
        self.present()?;
        std::fs::read_dir(self.layout.root()).map(drop).map_err(|cause| self.unavailable(self.layout.root(), &cause))
    }

    fn again(seen: &Seen, life: u64) -> Opened {
        seen.asked.store(life, Ordering::Relaxed);
        seen.opened.clone()
    }

    fn life(&self) -> u64 {
        self.identities.life(Instant::now())
    }

    /// Whether the file, at some moment after `now`, is in the state in which it was opened, and the identities still open it.
    fn holds(&self, seen: &Seen, now: Instant) -> bool {
        seen.generation == self.identities.generation() && (self.is_known(seen, now) || self.is_same(seen))
    }

    fn is_known(&self, seen: &Seen, now: Instant) -> bool {
        let known = seen.epoch.load(Ordering::Relaxed);
        known < GONE && self.inotify.epoch(now) == Some(Epoch(known))
    }

    fn is_same(&self, seen: &Seen) -> bool {
        match seen.epoch.load(Ordering::Relaxed) {
            GONE => return false,
            NEVER => return Stamp::of(&seen.path).is_ok_and(|now| now == seen.stamp),
            _ => {}
        }
        // Before the look: a change after it ends the epoch.
        let covered = self.inotify.cover(&seen.path);
        let found = Found::at(&seen.path).ok().filter(|found| found.stamp == seen.stamp);
        match (found, covered) {
            (None, _) => seen.epoch.store(GONE, Ordering::Relaxed),
            (Some(Found { is_noted, .. }), Some(Epoch(epoch))) => {
                seen.epoch.store(if is_noted { epoch } else { NEVER }, Ordering::Relaxed);
            }
            (Some(_), None) => {}
        }
        found.is_some()
    }

    fn current(&self, name: &VaultName, keys: &Keys) -> Result<Option<Seen>, ReadFault> {
        let path = self.layout.current(name);
        let mut seen = self.open_file(&path, name, keys)?;
        // A file older than one seen before is only worth a warning if it is still the one in place.
        while let Some(old) = seen.as_ref().filter(|seen| self.is_older(name, seen)) {
            if Stamp::of(&path).is_ok_and(|now| now == old.stamp) {
                self.warn_of_older(name, old);
                return Ok(seen);
            }
            seen = self.open_file(&path, name, keys)?;
        }
        if let Some(seen) = &seen {
            self.highest.insert(name.secret().clone(), seen.opened.revision);
        }
        Ok(seen)
    }

    fn is_older(&self, name: &VaultName, seen: &Seen) -> bool {
        self.highest.find(name.secret()).is_some_and(|highest| seen.opened.revision < highest)
    }

    fn warn_of_older(&self, name: &VaultName, seen: &Seen) {
        tracing::warn!(secret = %name, file = %seen.path.display(), revision = seen.opened.revision.number(),
            highest = self.highest.find(name.secret()).map(Revision::number),
            "an older revision has replaced a newer one, and is served (fine after a revert; otherwise somebody rolled the secret back)");
    }

    /// Looks into the history first: it keeps a pinned revision, whatever happens to the current one. The current revision may become an
    /// earlier one in between. It is in the history before it leaves its place, so the reader looks there a second time.
    fn pinned(&self, name: &VaultName, revision: Revision, keys: &Keys) -> Result<Seen, ReadFault> {
        let earlier = self.layout.earlier(name, revision);
        if let Some(seen) = self.open_file(&earlier, name, keys)? {
            return self.same_revision(seen, revision);
        }
        let current = self.open_file(&self.layout.current(name), name, keys)?;
        let now = current.as_ref().map(|seen| seen.opened.revision);
        if let Some(seen) = current.filter(|seen| seen.opened.revision == revision) {
            return Ok(seen);
        }
        match (self.open_file(&earlier, name, keys)?, now) {
            (Some(seen), _) => self.same_revision(seen, revision),
            (None, Some(now)) => Err(self.no_revision(name, revision, now)),
            (None, None) => Err(self.absent(name)),
        }
    }

    /// `None`: there is no such file.
    fn open_file(&self, path: &Path, name: &VaultName, keys: &Keys) -> Result<Option<Seen>, ReadFault> {
        let generation = self.identities.generation();
        let limit = self.max_secret_bytes.saturating_mul(SEALED_FACTOR).saturating_add(SEALED_EXTRA);
        let file = match WholeFile::read(path, limit) {
            Ok(file) => file,
            Err(Unreadable::Absent) => return Ok(None),
            Err(cause) => return Err(self.unreadable(path, &cause)),
        };
        // Nothing waits for a file system while this lock is held.
        let _alone = (file.bytes.len() > LARGE).then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        let plaintext = seal::open(&file.bytes, &keys.identities).map_err(|cause| self.unopened(path, cause, keys))?;
        let document = Document::parse(&plaintext).map_err(|cause| {
            self.about(Fault::Corrupt, path, |at| format!("{at} opens, but what it holds {cause} (set the secret again)"))
        })?;
        let opened = self.checked(path, name, document)?;
        let asked = AtomicU64::new(self.life());
        let epoch = AtomicU64::new(if file.local { 0 } else { NEVER });
        Ok(Some(Seen { path: path.to_owned(), stamp: file.stamp, local: file.local, epoch, generation, asked, opened }))
    }

    fn checked(&self, path: &Path, name: &VaultName, document: Document) -> Result<Opened, ReadFault> {
        if document.name != name.as_str() {
            let sealed_for: String = document.name.chars().take(200).collect();
            return Err(self.about(Fault::Corrupt, path, |at| {
                format!(
                    "{at} was encrypted as {sealed_for:?}, and is not served under another name (it was moved or copied: set the secret again)"
                )
            }));
        }
        let bytes: usize = document.fields.values().map(|field| field.bytes.len()).sum();
        if bytes > self.max_secret_bytes {
            let most = self.max_secret_bytes;
            return Err(self.about(Fault::TooLarge, path, |at| {
                format!("{at} holds {bytes} bytes; at most {most} are served (make it smaller, or ask for a higher limits.secretBytes)")
            }));
        }
        let names: usize = document.fields.keys().map(|name| name.as_str().len()).sum();
        if names > self.max_secret_bytes {
            let most = self.max_secret_bytes;
            return Err(self.about(Fault::TooLarge, path, |at| {
                format!("{at} has field names of {names} bytes together; at most {most} are served (split the secret, or ask for a higher limits.secretBytes)")
            }));
        }
        let version = Some(document.revision.into());
        let secret = Arc::new(Secret { fields: document.fields, response: None, version, lease: None });
        Ok(Opened { secret, revision: document.revision, time: document.time, secret_type: document.secret_type })
    }

    fn unreadable(&self, path: &Path, cause: &Unreadable) -> ReadFault {
        let about = |fault, more: &str| self.about(fault, path, |at| format!("{at} {cause}{more}"));
        match cause {
            Unreadable::Absent => about(Fault::NotFound, ""),
            Unreadable::Io(cause) => self.unavailable(path, cause),
            Unreadable::NotAFile => about(Fault::Corrupt, " (remove it, and set the secret again)"),
            // Only folders have this.
            Unreadable::TooMany(_) => about(Fault::TooLarge, ""),
            Unreadable::TooLarge { .. } => {
                let limit = self.max_secret_bytes;
                let more =
                    format!(", as secrets of up to {limit} bytes need no more (make it smaller, or ask for a higher limits.secretBytes)");
                about(Fault::TooLarge, &more)
            }
            Unreadable::Unstable => {
                about(Fault::Unavailable, " (write a file next to its place, then rename it, as `keyferry vault set` does)")
            }
        }
    }

    /// About a file or folder of the vault.
    fn about(&self, fault: Fault, path: &Path, say: impl Fn(&str) -> String) -> ReadFault {
        ReadFault::of_file(fault, self.layout.root(), path, say)
    }

    fn unavailable(&self, path: &Path, cause: &std::io::Error) -> ReadFault {
        unavailable(self.layout.root(), path, cause)
    }

    fn unopened(&self, path: &Path, cause: Unopened, keys: &Keys) -> ReadFault {
        match cause {
            Unopened::WrongIdentity => {
                let say = |at: &str, identities: &str| {
                    format!(
                        "{at} cannot be opened with any identity {identities}: it is encrypted for other recipients, or its header was altered \
                         (list this recipient in the vault and set the secret again, or give the daemon the right identity file)"
                    )
                };
                let whole = self.about(Fault::Corrupt, path, |at| say(at, &self.identities.describe(keys)));
                let told = self.about(Fault::Corrupt, path, |at| say(at, &Identities::describe_to_classes(keys)));
                ReadFault { told: told.told, ..whole }
            }
            Unopened::Altered | Unopened::Empty | Unopened::LongHeader | Unopened::NotAge | Unopened::Passphrase | Unopened::Truncated => {
                self.about(Fault::Corrupt, path, |at| format!("{at} {cause} (restore it, or set the secret again)"))
            }
            Unopened::Armoured | Unopened::GitLfsPointer => self.about(Fault::Corrupt, path, |at| format!("{at} {cause}")),
        }
    }

    /// An absent secret, or an absent vault: an empty mount point must not look like a vault without secrets.
    fn absent(&self, name: &VaultName) -> ReadFault {
        if let Err(fault) = self.present() {
            return fault;
        }
        self.about(Fault::NotFound, &self.layout.current(name), |at| {
            format!("there is no such secret in the vault: {at} is absent (make it with `keyferry vault set {name} FIELD=@FILE`)")
        })
    }

    fn same_revision(&self, seen: Seen, revision: Revision) -> Result<Seen, ReadFault> {
        let sealed_as = seen.opened.revision;
        if sealed_as == revision {
            return Ok(seen);
        }
        Err(self.about(Fault::Corrupt, &seen.path, |at| {
            format!("{at} was encrypted as revision {sealed_as}, and is not served as another (restore the vault's .history)")
        }))
    }

    fn no_revision(&self, name: &VaultName, revision: Revision, current: Revision) -> ReadFault {
        let kept = History::of(&self.layout, name).kept().unwrap_or_default();
        let kept: Vec<String> = kept.iter().filter(|kept| **kept != current).map(ToString::to_string).collect();
        let earlier = if kept.is_empty() { "no earlier one is kept".to_owned() } else { format!("kept are {}", kept.join(", ")) };
        ReadFault::new(
            Fault::NotFound,
            format!("there is no revision {revision}: the current one is {current}, and {earlier} (pin another, or leave `version` out)"),
        )
    }

    fn present(&self) -> Result<(), ReadFault> {
        let (root, marker) = (self.layout.root(), self.layout.recipients());
        match (std::fs::metadata(&marker), std::fs::metadata(root)) {
            (Ok(_), _) => Ok(()),
            (Err(_), Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let whole = format!("the vault's folder {}", root.display());
                let say = |folder: &str| format!("{folder} is not there (is its volume mounted, and synced?)");
                Err(ReadFault::about(Fault::Unavailable, &whole, "the vault's folder", say))
            }
            (Err(_), Err(error)) => Err(self.unavailable(root, &error)),
            (Err(error), Ok(_)) if error.kind() == std::io::ErrorKind::NotFound => {
                let remedy = "is its volume mounted, and synced? `keyferry vault init` makes a vault";
                let say = |folder: &str, list: &str| format!("{folder} is not a vault: it has no list of recipients, {list} ({remedy})");
                let whole = say(&root.display().to_string(), &marker.display().to_string());
                Err(ReadFault { told: say("the vault's folder", ".recipients"), ..ReadFault::new(Fault::Unavailable, whole) })
            }
            (Err(error), Ok(_)) => Err(self.unavailable(&marker, &error)),
        }
    }
}

impl Swept for Reader {
    const SPACING: Duration = Duration::from_mins(1);

    /// Forgets the opened secrets that nobody has asked for in [`UNUSED`]. Gives the earliest time at which the next one may be due; `None`:
    /// none is left. A forgotten secret is wiped when the mounts that still hold it have ended.
    fn sweep(&self) -> Option<Instant> {
        let now = self.life();
        let next = AtomicU64::new(u64::MAX);
        let kept = self.seen.retain(|seen| {
            let ends = seen.asked.load(Ordering::Relaxed).saturating_add(millis(UNUSED));
            let used = ends > now;
            if used {
                next.fetch_min(ends, Ordering::Relaxed);
            }
            used
        });
        (kept > 0).then(|| self.identities.born() + Duration::from_millis(next.into_inner()))
    }

    fn sweeping(&self) -> &Sweeping {
        &self.sweeping
    }
}

impl Seen {
    /// About how many bytes it needs in memory.
    fn weight(&self) -> usize {
        self.opened.secret.weight() + 2 * self.path.as_os_str().len() + 512
    }
}

/// The secrets in it have names of a vault. The folder's name alone could end like a pinned version.
fn folder_name(folder: &SecretName) -> Result<VaultName, ReadFault> {
    VaultName::of_folder(folder).map_err(|cause| ReadFault::new(Fault::Invalid, format!("the name {cause}")))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unavailable(root: &Path, path: &Path, cause: &std::io::Error) -> ReadFault {
    let remedy = if cause.kind() == std::io::ErrorKind::PermissionDenied {
        format!("let uid {} enter the vault's folders and read its files", rustix::process::geteuid().as_raw())
    } else {
        "is its volume mounted and healthy?".to_owned()
    };
    ReadFault::of_file(Fault::Unavailable, root, path, |at| format!("{at} cannot be read: {cause} ({remedy})"))
}
