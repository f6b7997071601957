//! Sealing a vault anew: every revision of every secret, to the recipients that the vault has now.
//!
//! Nothing is written before every file has been opened, so that a file that cannot be is no surprise half-way. From then on each file is
//! replaced whole, the list of recipients first: a run that is cut short leaves a vault that works, and running again finishes it. What is sealed is
//! the same text as before, so that revisions, and with them the versions that Pods see, stay as they are.

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
use super::vault::{doing, lock};
use super::{ReadFault, Revision, Vault, VaultError, seal, write};
use crate::model::SecretName;

/// Plaintexts and what they were sealed to, by revision.
type Resealed = BTreeMap<Revision, (Zeroizing<Vec<u8>>, Vec<u8>)>;

/// What became of a vault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rekeyed {
    pub secrets: usize,
    /// Earlier revisions, those of removed secrets included.
    pub earlier: usize,
    /// How many recipients the vault has now, and how many came and went.
    pub recipients: usize,
    pub added: usize,
    pub removed: usize,
}

/// Why a vault could not be sealed anew.
#[derive(Debug, Error)]
pub enum RekeyError {
    #[error(transparent)]
    Identity(ReadFault),
    /// A line for each file; nothing was changed.
    #[error("{}\nnothing was changed: every file must open first (give each identity that is needed, or remove what is damaged)", .0.join("\n"))]
    Unopened(Vec<String>),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// One file to be sealed anew.
struct Sealed {
    path: PathBuf,
    name: VaultName,
    /// `None`: the current one.
    revision: Option<Revision>,
}

impl Vault {
    /// Seals everything anew, with these recipients added to the list and those taken off it.
    pub fn rekey(&self, identities: &[PathBuf], add: &[Recipient], remove: &[Recipient]) -> Result<Rekeyed, RekeyError> {
        let keys = Identities::open_all(identities).and_then(|identities| identities.refresh()).map_err(RekeyError::Identity)?;
        self.recipients()?;
        let layout = self.layout();
        let _lock = lock(layout)?;
        let mut list = Recipients::read(layout).map_err(VaultError::from)?;
        let (added, removed) = (list.add(add), list.remove(remove));
        let list = list.usable(layout).map_err(VaultError::from)?;
        let files = files(layout)?;
        let faults: Vec<String> = files.iter().filter_map(|file| file.open(&keys).err()).collect();
        if !faults.is_empty() {
            return Err(RekeyError::Unopened(faults));
        }
        if added + removed > 0 {
            write::replace(&layout.recipients(), list.as_str().as_bytes()).map_err(doing("write", &layout.recipients()))?;
        }
        seal_anew(&files, &keys, &list.keys)?;
        let earlier = files.iter().filter(|file| file.revision.is_some()).count();
        Ok(Rekeyed { secrets: files.len() - earlier, earlier, recipients: list.keys.len(), added, removed })
    }
}

/// Earlier revisions come before the current one of a secret: where the history keeps the current one too (a change was cut short, a
/// revision was put back), both stay one and the same file, by which the next change knows it.
fn seal_anew(files: &[Sealed], keys: &Keys, recipients: &[Recipient]) -> Result<(), RekeyError> {
    let mut last: (Option<&VaultName>, Resealed) = (None, BTreeMap::new());
    for file in files {
        let plaintext = file.open(keys).map_err(|fault| RekeyError::Unopened(vec![fault]))?;
        if last.0 != Some(&file.name) {
            last = (Some(&file.name), BTreeMap::new());
        }
        let same = last.1.values().find(|(kept, _)| kept.as_slice() == plaintext.as_slice()).map(|(_, sealed)| sealed.clone());
        let fault = doing("write", &file.path);
        let sealed = match same {
            Some(sealed) => sealed,
            None => seal::seal(&plaintext, recipients).map_err(&fault)?,
        };
        write::replace(&file.path, &sealed).map_err(fault)?;
        if let Some(revision) = file.revision {
            last.1.insert(revision, (plaintext, sealed));
        }
    }
    Ok(())
}

/// Every sealed file of the vault, secret by secret.
fn files(layout: &Layout) -> Result<Vec<Sealed>, VaultError> {
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

fn vault_name(name: &SecretName) -> Result<VaultName, VaultError> {
    VaultName::try_from(name).map_err(|cause| VaultError::Name { name: name.to_string(), cause })
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
