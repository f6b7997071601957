//! The vault as its writers see it: made, changed and listed, with no identity at hand.
//!
//! A change is safe at any moment it may be cut short. The current revision is first kept in the history, then the new number is
//! written down, then the new file takes its place by a rename. After a cut the secret is the old or the new one, every kept
//! revision is whole, and at worst a number was given to nobody.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use age::x25519::Recipient;
use jiff::Timestamp;
use thiserror::Error;

use super::document::{Document, MAX_FIELDS};
use super::history::History;
use super::layout::{Layout, VaultName};
use super::lock::Lock;
use super::names::{self, Unlistable};
use super::read::{Unreadable, is_absence};
use super::recipients::{InvalidRecipients, Recipients};
use super::{Revision, SecretType, seal, write};
use crate::clock::{Clock, SystemClock};
use crate::model::{Field, FieldName, InvalidName, SecretName};

/// How many earlier revisions are kept, where nothing else is said.
pub const KEPT: usize = 5;

/// The most bytes the fields of a secret may hold. A mount's answer is at most 4 MiB long (the driver's
/// `--max-call-recv-msg-size`), and the daemon's `limits.secretBytes` is 1 MiB unless configured.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A vault's folder, to be written to.
#[derive(Clone, Debug)]
pub struct Vault {
    layout: Layout,
    keep: usize,
}

/// A vault, and what [`Vault::init`] did to it.
#[derive(Debug)]
pub struct Initialised {
    pub vault: Vault,
    /// Whether there was none before.
    pub new: bool,
    /// How many recipients were added to the list.
    pub added: usize,
    /// How many it has now.
    pub recipients: usize,
}

/// Why a vault could not be changed or listed.
#[derive(Debug, Error)]
pub enum VaultError {
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("the name {name:?} {cause}")]
    Name { name: String, cause: InvalidName },
    #[error("a secret has at least one field (give it one)")]
    NoFields,
    #[error("{} is no vault: it has no list of recipients (make a vault with `keyferry vault init`)", .path.display())]
    NoVault { path: PathBuf },
    #[error("{} is neither empty nor a vault: {found:?} is there (name a folder of its own for the vault)", .path.display())]
    NotEmpty { path: PathBuf, found: String },
    #[error("there is no secret {name} in the vault (`keyferry vault list` shows what there is)")]
    NotFound { name: VaultName },
    #[error(transparent)]
    Recipients(#[from] InvalidRecipients),
    #[error(
        "which revision {name} has now cannot be told: {} is missing (give --identity, so that the file itself can be asked; or restore the vault's .history)",
        .counter.display()
    )]
    RevisionUnknown { name: VaultName, counter: PathBuf },
    #[error(
        "{} and {} both claim to be the same revision and differ (one was put there by hand: move it out of the vault)",
        .current.display(), .earlier.display()
    )]
    Tangled { current: PathBuf, earlier: PathBuf },
    #[error("the fields hold {bytes} bytes; a secret has at most {MAX_BYTES} (store it in parts)")]
    TooLarge { bytes: usize },
    #[error("{count} fields; a secret has at most {MAX_FIELDS} (store it in parts)")]
    TooManyFields { count: usize },
    #[error(transparent)]
    Unlistable(#[from] Unlistable),
}

impl Vault {
    /// Makes a vault, or adds recipients to the one that is there. What is sealed already stays as it is.
    pub fn init(path: impl Into<PathBuf>, recipients: &[Recipient]) -> Result<Initialised, VaultError> {
        let layout = Layout::of(path);
        Self::check_place(layout.root())?;
        if !layout.recipients().exists() {
            write::make_folder(layout.root()).map_err(doing("make", layout.root()))?;
        }
        let _lock = lock(&layout)?;
        let new = !layout.recipients().exists();
        let mut list = if new { Recipients::none() } else { Recipients::read(&layout)? };
        let added = list.add(recipients);
        let list = list.usable(&layout)?;
        if added > 0 {
            write::replace(&layout.recipients(), list.as_str().as_bytes()).map_err(doing("write", &layout.recipients()))?;
        }
        ignore_in_git(&layout)?;
        let recipients = list.keys.len();
        Ok(Initialised { vault: Self { layout, keep: KEPT }, new, added, recipients })
    }

    /// Whether a vault is in this folder, or could be made there.
    pub fn check_place(path: &Path) -> Result<(), VaultError> {
        if Layout::of(path).recipients().exists() { Ok(()) } else { check_vacant(path) }
    }

    /// The vault in this folder. Its list of recipients must be sound.
    pub fn open_for_writing(path: impl Into<PathBuf>) -> Result<Self, VaultError> {
        let vault = Self { layout: Layout::of(path), keep: KEPT };
        vault.recipients()?;
        Ok(vault)
    }

    /// How many earlier revisions a change leaves of the secret; [`KEPT`] at first.
    pub fn keeping(self, keep: usize) -> Self {
        Self { keep, ..self }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The recipients that secrets are sealed to.
    pub fn recipients(&self) -> Result<Vec<Recipient>, VaultError> {
        match Recipients::read(&self.layout) {
            Err(InvalidRecipients::Unreadable { cause: Unreadable::Absent, .. }) => {
                Err(VaultError::NoVault { path: self.layout.root().to_owned() })
            }
            list => Ok(list?.usable(&self.layout)?.keys),
        }
    }

    /// Replaces all fields of a secret, or makes it. The fields it had become an earlier revision. It has no type.
    pub fn set(&self, name: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Result<Revision, VaultError> {
        self.set_typed(name, None, fields)
    }

    /// The same, for a Secret of Kubernetes that has a type.
    pub fn set_typed(
        &self,
        name: &SecretName,
        secret_type: Option<&SecretType>,
        fields: &BTreeMap<FieldName, Field>,
    ) -> Result<Revision, VaultError> {
        let name = vault_name(name)?;
        check_size(fields)?;
        let recipients = self.recipients()?;
        let _lock = lock(&self.layout)?;
        let path = self.layout.current(&name);
        let fault = doing("write", &path);
        let highest = self.archive(&name)?;
        let revision = highest.map_or(Revision::FIRST, Revision::next);
        let document = Document::write(name.as_str(), revision, now(), secret_type, fields);
        let sealed = seal::seal(&document, &recipients).map_err(&fault)?;
        let history = History::of(&self.layout, &name);
        history.write_counter(revision).map_err(doing("write", &self.layout.counter(&name)))?;
        write::make_folder(write::folder_of(&path)).map_err(&fault)?;
        write::replace(&path, &sealed).map_err(&fault)?;
        history.prune(self.keep).map_err(doing("tidy", &self.layout.history(&name)))?;
        Ok(revision)
    }

    /// Whether a secret of this name and these fields could be set, whatever the vault holds.
    pub fn check(name: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Result<(), VaultError> {
        vault_name(name)?;
        check_size(fields)
    }

    /// Whether the vault has the secret.
    pub fn has(&self, name: &SecretName) -> Result<bool, VaultError> {
        Ok(self.layout.current(&vault_name(name)?).exists())
    }

    /// Removes a secret with all its revisions, and gives how many earlier ones those were. Only its count stays, so that a secret
    /// made anew under that name starts after it.
    pub fn remove(&self, name: &SecretName) -> Result<usize, VaultError> {
        let name = vault_name(name)?;
        self.recipients()?;
        let _lock = lock(&self.layout)?;
        let path = self.layout.current(&name);
        let history = History::of(&self.layout, &name);
        if !path.exists() && history.kept().map_err(doing("read", &self.layout.history(&name)))?.is_empty() {
            return Err(VaultError::NotFound { name });
        }
        let highest = self.highest(&name)?;
        if let Some(highest) = highest {
            history.write_counter(highest).map_err(doing("write", &self.layout.counter(&name)))?;
        }
        if write::remove_if_there(&path).map_err(doing("remove", &path))? {
            write::sync_folder_of(&path).map_err(doing("remove", &path))?;
        }
        remove_empty_folders(&self.layout, &path);
        history.prune(0).map_err(doing("empty", &self.layout.history(&name)))
    }

    /// The secrets' names that start with `prefix`, sorted.
    pub fn list(&self, prefix: &str) -> Result<Vec<SecretName>, VaultError> {
        self.recipients()?;
        Ok(names::starting_with(&self.layout, prefix)?)
    }

    /// Writes down the current revision of a secret whose history was lost, as its file tells it.
    pub fn adopt(&self, name: &SecretName, revision: Revision) -> Result<(), VaultError> {
        let name = vault_name(name)?;
        let _lock = lock(&self.layout)?;
        let history = History::of(&self.layout, &name);
        let fault = doing("write", &self.layout.counter(&name));
        match history.counter().map_err(&fault)? {
            Some(_) => Ok(()),
            None => history.write_counter(revision).map_err(fault),
        }
    }

    /// Keeps the current revision, if there is one, in the history, and gives the highest number that was ever given.
    fn archive(&self, name: &VaultName) -> Result<Option<Revision>, VaultError> {
        let current = self.layout.current(name);
        let sealed = match fs::read(&current) {
            Ok(sealed) => sealed,
            Err(error) if is_absence(&error) => return self.highest(name),
            Err(cause) => return Err(doing("read", &current)(cause)),
        };
        let history = History::of(&self.layout, name);
        let fault = doing("write", &self.layout.history(name));
        let highest = self.highest(name)?;
        // Kept already: a former change was cut short, or an older revision was put back (a revert). Its number is known, then.
        for revision in history.kept().map_err(&fault)? {
            if fs::read(self.layout.earlier(name, revision)).map_err(&fault)? == sealed {
                return Ok(highest);
            }
        }
        if let Some(highest) = highest {
            let earlier = self.layout.earlier(name, highest);
            if earlier.exists() {
                return Err(VaultError::Tangled { current, earlier });
            }
            history.keep(highest, &sealed).map_err(fault)?;
        }
        Ok(highest)
    }

    /// The highest number ever given to a revision of this secret.
    fn highest(&self, name: &VaultName) -> Result<Option<Revision>, VaultError> {
        let history = History::of(&self.layout, name);
        let counter = self.layout.counter(name);
        let given = history.counter().map_err(doing("read", &counter))?;
        if given.is_none() && self.layout.current(name).exists() {
            return Err(VaultError::RevisionUnknown { name: name.clone(), counter });
        }
        let kept = history.kept().map_err(doing("read", &self.layout.history(name)))?;
        Ok(given.max(kept.last().copied()))
    }
}

/// Whole seconds: finer times say more about the writer than anyone needs.
fn now() -> Timestamp {
    let now = SystemClock.now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl VaultError {
    /// Whether the caller asked for something that cannot be, whatever the vault holds.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::NoFields | Self::TooManyFields { .. })
    }
}

fn vault_name(name: &SecretName) -> Result<VaultName, VaultError> {
    VaultName::try_from(name).map_err(|cause| VaultError::Name { name: name.to_string(), cause })
}

fn check_size(fields: &BTreeMap<FieldName, Field>) -> Result<(), VaultError> {
    let bytes = fields.values().map(|field| field.bytes.len()).sum();
    match fields.len() {
        0 => Err(VaultError::NoFields),
        count if count > MAX_FIELDS => Err(VaultError::TooManyFields { count }),
        _ if bytes > MAX_BYTES => Err(VaultError::TooLarge { bytes }),
        _ => Ok(()),
    }
}

/// A new vault is made in an empty folder, or in one that holds nothing but dotfiles (a fresh git repository).
fn check_vacant(root: &Path) -> Result<(), VaultError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(doing("read", root)(cause)),
    };
    for entry in entries {
        let found = entry.map_err(doing("read", root))?.file_name().to_string_lossy().into_owned();
        if !found.starts_with('.') {
            return Err(VaultError::NotEmpty { path: root.to_owned(), found });
        }
    }
    Ok(())
}

/// What only writers at work need does not belong into a repository.
fn ignore_in_git(layout: &Layout) -> Result<(), VaultError> {
    let path = layout.root().join(".gitignore");
    if path.exists() {
        return Ok(());
    }
    write::replace(&path, format!(".lock\n{}\n", write::UNFINISHED).as_bytes()).map_err(doing("write", &path))
}

/// Folders that hold no secret any more. One that is not empty stays: that is no failure.
fn remove_empty_folders(layout: &Layout, removed: &Path) {
    for folder in removed.ancestors().skip(1).take_while(|folder| *folder != layout.root()) {
        // Left by a cut-short write, and of no use to anyone.
        let _ = write::remove_if_there(&folder.join(write::UNFINISHED));
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

pub(super) fn lock(layout: &Layout) -> Result<Lock, VaultError> {
    Lock::acquire(&layout.lock()).map_err(doing("lock", &layout.lock()))
}

pub(super) fn doing(action: &'static str, path: &Path) -> impl Fn(io::Error) -> VaultError + use<> {
    let path = path.to_owned();
    move |cause| VaultError::Io { action, path: path.clone(), cause }
}
