//! Encrypting a vault again: every revision of every secret, for the recipients that the vault has now.
//!
//! Nothing is written before every file has been opened, so that a file that cannot be is no surprise half-way. From then on each file is
//! replaced whole, the list of recipients last: a run that is cut short leaves a vault that works, and the same command finishes it. What is
//! encrypted is the same text as before, so that revisions, and with them the versions that Pods see, stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use age::x25519::Recipient;
use thiserror::Error;
use zeroize::Zeroizing;

use super::document::Document;
use super::identity::{Identities, Keys};
use super::layout::{Layout, VaultName};
use super::names;
use super::recipients::Recipients;
use super::vault::{doing, vault_name};
use super::writer::lock;
use super::{ReadFault, Revision, Vault, VaultError, seal, write};

/// How many files are written with one sync.
const BATCH: usize = 1_000;

/// Plaintexts and what they were sealed to, by revision.
type Resealed = BTreeMap<Revision, (Zeroizing<Vec<u8>>, Vec<u8>)>;

/// What became of a vault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rekeyed {
    pub secrets: usize,
    /// Earlier revisions, those of removed secrets included.
    pub earlier: usize,
    /// How many recipients the vault has now, and how many came and went.
    pub recipients: usize,
    pub added: usize,
    pub removed: usize,
    /// A line for each file that was left as it was.
    pub skipped: Vec<String>,
}

/// What is to be done with a vault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rekeying<'a> {
    pub add: &'a [Recipient],
    pub remove: &'a [Recipient],
    /// Leave what cannot be opened as it is, instead of changing nothing.
    pub skip_unreadable: bool,
    pub dry_run: bool,
}

/// Why a vault could not be encrypted again.
#[derive(Debug, Error)]
pub enum RekeyError {
    #[error(transparent)]
    Identity(ReadFault),
    /// A line for each file; nothing was changed.
    #[error("{}\nnote: nothing was changed: every file must open first (give each identity that is needed, or leave these files as they are: --skip-unreadable)", .0.join("\n"))]
    Unopened(Vec<String>),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// One encrypted file.
pub(super) struct Sealed {
    path: PathBuf,
    pub(super) name: VaultName,
    /// `None`: the current one.
    pub(super) revision: Option<Revision>,
}

impl Vault {
    /// Encrypts everything again. `progress` is given how many files are done, and how many there are.
    pub fn rekey(
        &self,
        identities: &[PathBuf],
        wanted: Rekeying<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Rekeyed, RekeyError> {
        let keys = Identities::open_all(identities).and_then(|identities| identities.refresh()).map_err(RekeyError::Identity)?;
        self.recipients()?;
        let layout = self.layout();
        let _lock = lock(layout)?;
        let mut list = Recipients::read(layout).map_err(VaultError::from)?;
        let (added, removed) = list.change(layout, wanted.add, wanted.remove).map_err(VaultError::from)?;
        let list = list.usable(layout).map_err(VaultError::from)?;
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        for file in sealed_files(layout)? {
            match file.open(&keys) {
                Ok(_) => files.push(file),
                Err(fault) => skipped.push(fault),
            }
        }
        if !skipped.is_empty() && !wanted.skip_unreadable {
            return Err(RekeyError::Unopened(skipped));
        }
        if !wanted.dry_run {
            encrypt_again(layout, &files, &keys, &list.keys, progress)?;
            if added + removed > 0 {
                write::replace(&layout.recipients(), list.as_str().as_bytes()).map_err(doing("write", &layout.recipients()))?;
            }
        }
        let earlier = files.iter().filter(|file| file.revision.is_some()).count();
        Ok(Rekeyed { secrets: files.len() - earlier, earlier, recipients: list.keys.len(), added, removed, skipped })
    }
}

/// Earlier revisions come before the current one of a secret: where the history keeps the current one too (a change was cut short, a
/// revision was put back), both stay one and the same file, by which the next change knows it.
fn encrypt_again(
    layout: &Layout,
    files: &[Sealed],
    keys: &Keys,
    recipients: &[Recipient],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), RekeyError> {
    let (batch, fault) = (layout.batch(), doing("write", &layout.batch()));
    let mut last: (Option<&VaultName>, Resealed) = (None, BTreeMap::new());
    let mut done = 0;
    for files_of_batch in files.chunks(BATCH) {
        let mut drafts = write::Batch::begin(batch.clone()).map_err(&fault)?;
        for file in files_of_batch {
            progress(done, files.len());
            done += 1;
            let plaintext = file.open(keys).map_err(|fault| RekeyError::Unopened(vec![fault]))?;
            if last.0 != Some(&file.name) {
                last = (Some(&file.name), BTreeMap::new());
            }
            let same = last.1.values().find(|(kept, _)| kept.as_slice() == plaintext.as_slice()).map(|(_, sealed)| sealed.clone());
            let sealed = match same {
                Some(sealed) => sealed,
                None => seal::seal(&plaintext, recipients).map_err(doing("write", &file.path))?,
            };
            drafts.put(write::Turn::Second, file.path.clone(), &sealed).map_err(&fault)?;
            if let Some(revision) = file.revision {
                last.1.insert(revision, (plaintext, sealed));
            }
        }
        drafts.commit().map_err(&fault)?;
    }
    Ok(())
}

/// Every sealed file of the vault, secret by secret.
pub(super) fn sealed_files(layout: &Layout) -> Result<Vec<Sealed>, VaultError> {
    let mut files = Vec::new();
    // Below `.history` each revision lies like a secret of its own: `<name>/<revision>`.
    let history = Layout::of(layout.root().join(".history"));
    for found in names::starting_with(&history, "")? {
        let revision = found.as_str().rsplit_once('/').and_then(|(name, revision)| Some((name.parse().ok()?, revision.parse().ok()?)));
        if let Some((name, revision)) = revision {
            files.push(Sealed { path: layout.earlier(&name, revision), name, revision: Some(revision) });
        }
    }
    for name in names::starting_with(layout, "")? {
        let name = vault_name(&name)?;
        files.push(Sealed { path: layout.current(&name), name, revision: None });
    }
    files.sort_by(|left, right| {
        (left.name.as_str(), left.revision.is_none(), left.revision).cmp(&(right.name.as_str(), right.revision.is_none(), right.revision))
    });
    Ok(files)
}

impl Sealed {
    /// The plaintext, if it is what this file should hold.
    fn open(&self, keys: &Keys) -> Result<Zeroizing<Vec<u8>>, String> {
        let at = |problem: &dyn std::fmt::Display| format!("{} {problem}", self.path.display());
        let sealed = fs::read(&self.path).map_err(|cause| at(&format!("cannot be read: {cause}")))?;
        let plaintext = seal::open(&sealed, &keys.identities).map_err(|cause| at(&cause))?;
        let document = Document::parse(&plaintext).map_err(|cause| at(&format!("opens, but what it holds {cause}")))?;
        if document.name != self.name.as_str() || self.revision.is_some_and(|revision| revision != document.revision) {
            return Err(at(&"was sealed as another secret or revision"));
        }
        Ok(plaintext)
    }
}
