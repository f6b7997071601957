//! The vault as its writers see it: this makes and lists it, without an identity. [`super::Writer`] changes it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use age::x25519::Recipient;
use jiff::Timestamp;
use thiserror::Error;

use super::document::MAX_FIELDS;
use super::layout::{Layout, VaultName};
use super::names::{self, Unlistable};
use super::read::Unreadable;
use super::recipients::{InvalidRecipients, Recipients};
use super::rekey::sealed_files;
use super::writer::lock;
use super::{Revision, write};
use crate::clock::{Clock, SystemClock};
use crate::model::{Field, FieldName, InvalidName, SecretName};

/// How many earlier revisions are kept by default.
pub const KEPT: usize = 5;

/// The most bytes the fields of a secret may hold. A mount's answer is at most 4 MiB long (the driver's
/// `--max-call-recv-msg-size`), and the daemon's `limits.secretBytes` is 1 MiB unless configured.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A vault's folder, for writing.
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
    /// How many recipients it has now.
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
    #[error("{} is not a vault: it has no list of recipients (make a vault with `keyferry vault init`)", .path.display())]
    NoVault { path: PathBuf },
    #[error("{} is neither empty nor a vault: {found:?} is there (name a separate folder for the vault)", .path.display())]
    NotEmpty { path: PathBuf, found: String },
    #[error("there is no secret {name} in the vault (`keyferry vault list` shows what there is)")]
    NotFound { name: VaultName },
    #[error(transparent)]
    Recipients(#[from] InvalidRecipients),
    #[error(
        "Keyferry cannot tell which revision {name} has now: {} is missing (give --identity, so that it can read the file itself; or restore the vault's .history)",
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
    /// Makes a vault, or adds recipients to the one that is there. Files that are already encrypted stay as they are.
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

    /// Whether a vault is in this folder.
    pub fn exists(path: &Path) -> bool {
        Layout::of(path).recipients().exists()
    }

    /// Whether a vault is in this folder, or could be made there.
    pub fn check_place(path: &Path) -> Result<(), VaultError> {
        if Layout::of(path).recipients().exists() { Ok(()) } else { check_vacant(path) }
    }

    /// The vault in this folder. Its list of recipients must be valid.
    pub fn open_for_writing(path: impl Into<PathBuf>) -> Result<Self, VaultError> {
        let vault = Self { layout: Layout::of(path), keep: KEPT };
        vault.recipients()?;
        Ok(vault)
    }

    /// How many earlier revisions of the secret a change keeps; [`KEPT`] by default.
    pub fn keeping(self, keep: usize) -> Self {
        Self { keep, ..self }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The recipients that secrets are encrypted for.
    pub fn recipients(&self) -> Result<Vec<Recipient>, VaultError> {
        match Recipients::read(&self.layout) {
            Err(InvalidRecipients::Unreadable { cause: Unreadable::Absent, .. }) => {
                Err(VaultError::NoVault { path: self.layout.root().to_owned() })
            }
            list => Ok(list?.usable(&self.layout)?.keys),
        }
    }

    /// The recipients, each with its comment.
    pub fn listed(&self) -> Result<Vec<(Recipient, Option<String>)>, VaultError> {
        Ok(Recipients::read(&self.layout)?.listed())
    }

    /// How many encrypted files it has.
    pub fn files(&self) -> Result<usize, VaultError> {
        Ok(sealed_files(&self.layout)?.len())
    }

    /// The earlier revisions of all secrets, lowest first.
    pub fn histories(&self) -> Result<BTreeMap<SecretName, Vec<Revision>>, VaultError> {
        let mut histories: BTreeMap<SecretName, Vec<Revision>> = BTreeMap::new();
        for file in sealed_files(&self.layout)? {
            if let Some(revision) = file.revision {
                histories.entry(file.name.into()).or_default().push(revision);
            }
        }
        Ok(histories)
    }

    /// How many earlier revisions a change keeps.
    pub(super) fn kept(&self) -> usize {
        self.keep
    }

    /// Replaces all fields of a secret, or makes it. It has no type.
    pub fn set(&self, name: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Result<Revision, VaultError> {
        self.lock()?.set(name, None, fields)
    }

    /// Whether a secret of this name and these fields could be set, in any vault.
    pub fn check(name: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Result<(), VaultError> {
        vault_name(name)?;
        check_size(fields)
    }

    /// Whether the vault has the secret.
    pub fn has(&self, name: &SecretName) -> Result<bool, VaultError> {
        Ok(self.layout.current(&vault_name(name)?).exists())
    }

    /// The secrets' names that start with `prefix`, sorted.
    pub fn list(&self, prefix: &str) -> Result<Vec<SecretName>, VaultError> {
        self.recipients()?;
        Ok(names::starting_with(&self.layout, prefix)?)
    }
}

/// Whole seconds: a finer time says more about the writer than anyone needs.
pub(super) fn now() -> Timestamp {
    let now = SystemClock.now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

impl VaultError {
    /// Whether the caller asked for something that is impossible in any vault, or named a folder that is not a vault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::NoFields | Self::NoVault { .. } | Self::TooManyFields { .. })
    }
}

pub(super) fn vault_name(name: &SecretName) -> Result<VaultName, VaultError> {
    VaultName::try_from(name).map_err(|cause| VaultError::Name { name: name.to_string(), cause })
}

pub(super) fn check_size(fields: &BTreeMap<FieldName, Field>) -> Result<(), VaultError> {
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

/// Files that only a running writer needs do not belong in a repository.
fn ignore_in_git(layout: &Layout) -> Result<(), VaultError> {
    let path = layout.root().join(".gitignore");
    if path.exists() {
        return Ok(());
    }
    write::replace(&path, format!(".lock\n{}\n", write::UNFINISHED).as_bytes()).map_err(doing("write", &path))
}

pub(super) fn doing(action: &'static str, path: &Path) -> impl Fn(io::Error) -> VaultError + use<> {
    let path = path.to_owned();
    move |cause| VaultError::Io { action, path: path.clone(), cause }
}
