//! A vault during a change. There is one writer. It holds the lock from reading to the last rename, so that nobody changes the vault in
//! between.
//!
//! A change can be cut short at any moment. The writer first keeps the current revision in the history. Then it writes down the new number.
//! Then a rename puts the new file in its place. After a cut, the secret is the old or the new one, and every kept revision is whole. At
//! worst, one number stays unused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use age::x25519::Recipient;

use super::document::Document;
use super::history::History;
use super::layout::{Layout, VaultName};
use super::lock::Lock;
use super::read::is_absence;
use super::reader::Opened;
use super::recipients::Recipients;
use super::vault::{check_size, doing, now, vault_name};
use super::{Revision, SecretType, Vault, VaultError, seal, write};
use crate::model::{Field, FieldName, SecretName};

/// Holds the vault's lock until it is dropped.
#[derive(Debug)]
pub struct Writer {
    layout: Layout,
    recipients: Vec<Recipient>,
    keep: usize,
    _lock: Lock,
}

/// Which revisions of a secret there are, as far as Keyferry knows without an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revisions {
    /// Whether the secret has a current revision.
    pub there: bool,
    /// Its number; `None` also where the counter was lost.
    pub current: Option<Revision>,
    /// The revisions in the history, lowest first. The current one may be among them.
    pub kept: BTreeSet<Revision>,
}

/// A revision on its way into the history: its number, and its file.
type Earlier = (Revision, Vec<u8>);

/// What one change writes, in this order.
struct Plan {
    revision: Revision,
    /// The current revision, into the history.
    earlier: Option<Earlier>,
    path: PathBuf,
    sealed: Vec<u8>,
}

impl Vault {
    /// Waits until no other writer holds the lock.
    pub fn lock(&self) -> Result<Writer, VaultError> {
        // This comes first, so that no lock file is made in a folder that is not a vault.
        self.recipients()?;
        let lock = lock(self.layout())?;
        Ok(Writer { layout: self.layout().clone(), recipients: self.recipients()?, keep: self.kept(), _lock: lock })
    }

    /// Which revisions of a secret there are.
    ///
    /// # Errors
    /// There is none, or the folder cannot be read.
    pub fn revisions(&self, name: &SecretName) -> Result<Revisions, VaultError> {
        let name = vault_name(name)?;
        self.recipients()?;
        let found = revisions(self.layout(), &name)?;
        if found.there || !found.kept.is_empty() { Ok(found) } else { Err(VaultError::NotFound { name }) }
    }
}

impl Writer {
    pub fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// The number that the secret gets with the next change.
    pub fn next(&self, name: &SecretName) -> Result<Revision, VaultError> {
        Ok(highest(&self.layout, &vault_name(name)?)?.map_or(Revision::FIRST, Revision::next))
    }

    /// Replaces all fields of a secret, or makes it. Its old fields become an earlier revision.
    pub fn set(
        &self,
        name: &SecretName,
        secret_type: Option<&SecretType>,
        fields: &BTreeMap<FieldName, Field>,
    ) -> Result<Revision, VaultError> {
        let name = vault_name(name)?;
        let Plan { revision, earlier, path, sealed } = self.plan(&name, secret_type, fields)?;
        let fault = doing("write", &path);
        let history = History::of(&self.layout, &name);
        if let Some((earlier, sealed)) = earlier {
            history.keep(earlier, &sealed).map_err(doing("write", &self.layout.history(&name)))?;
        }
        history.write_counter(revision).map_err(doing("write", &self.layout.counter(&name)))?;
        write::make_folder(write::folder_of(&path)).map_err(&fault)?;
        write::replace(&path, &sealed).map_err(&fault)?;
        history.prune(self.keep).map_err(doing("tidy", &self.layout.history(&name)))?;
        Ok(revision)
    }

    /// Sets many secrets, each as [`Self::set`] does, with one sync for all. If it is cut short, each is the old or the new one.
    pub fn set_all<'s>(
        &self,
        secrets: impl IntoIterator<Item = (&'s SecretName, Option<&'s SecretType>, &'s BTreeMap<FieldName, Field>)>,
    ) -> Result<Vec<Revision>, VaultError> {
        let fault = doing("write", &self.layout.batch());
        let mut batch = write::Batch::begin(self.layout.batch()).map_err(&fault)?;
        let (mut names, mut revisions) = (Vec::new(), Vec::new());
        for (name, secret_type, fields) in secrets {
            let name = vault_name(name)?;
            let Plan { revision, earlier, path, sealed } = self.plan(&name, secret_type, fields)?;
            if let Some((earlier, sealed)) = earlier {
                batch.put(write::Turn::First, self.layout.earlier(&name, earlier), &sealed).map_err(&fault)?;
            }
            batch.put(write::Turn::First, self.layout.counter(&name), format!("{revision}\n").as_bytes()).map_err(&fault)?;
            batch.put(write::Turn::Second, path, &sealed).map_err(&fault)?;
            names.push(name);
            revisions.push(revision);
        }
        batch.commit().map_err(&fault)?;
        for name in &names {
            History::of(&self.layout, name).drop_surplus(self.keep).map_err(doing("tidy", &self.layout.history(name)))?;
        }
        Ok(revisions)
    }

    /// Removes a secret with all its revisions, and gives how many earlier revisions it had. Only its counter stays, so that a new secret
    /// of that name continues to count from there.
    pub fn remove(&self, name: &SecretName) -> Result<usize, VaultError> {
        let name = vault_name(name)?;
        let path = self.layout.current(&name);
        let history = History::of(&self.layout, &name);
        if !path.exists() && history.kept().map_err(doing("read", &self.layout.history(&name)))?.is_empty() {
            return Err(VaultError::NotFound { name });
        }
        if let Some(highest) = highest(&self.layout, &name)? {
            history.write_counter(highest).map_err(doing("write", &self.layout.counter(&name)))?;
        }
        if write::remove_if_there(&path).map_err(doing("remove", &path))? {
            write::sync_folder_of(&path).map_err(doing("remove", &path))?;
        }
        remove_empty_folders(&self.layout, &path);
        history.prune(0).map_err(doing("empty", &self.layout.history(&name)))
    }

    /// Puts a secret with its history under another name, and gives its current revision there. The numbers stay, unless that name was in use
    /// before: then they continue from its counter. The old name's counter stays too, so that no version ever means two things.
    ///
    /// If it is cut short, the secret is under the old name or under both.
    pub fn rename(&self, old: &SecretName, new: &SecretName, current: &Opened, earlier: &[Opened]) -> Result<Revision, VaultError> {
        let name = vault_name(new)?;
        let history = History::of(&self.layout, &name);
        let used = highest(&self.layout, &name)?;
        let all: BTreeMap<Revision, &Opened> = earlier.iter().chain([current]).map(|opened| (opened.revision, opened)).collect();
        let mut last = used;
        let mut numbered = BTreeMap::new();
        for revision in all.keys() {
            last = Some(if used.is_some() { last.map_or(Revision::FIRST, Revision::next) } else { *revision });
            numbered.extend(last.map(|number| (*revision, number)));
        }
        let number = |opened: &Opened| numbered.get(&opened.revision).copied().unwrap_or(opened.revision);
        let sealed = |opened: &Opened, path: &Path| {
            let fields = &opened.secret.fields;
            let document = Document::write(name.as_str(), number(opened), opened.time, opened.secret_type.as_ref(), fields);
            seal::seal(&document, &self.recipients).map_err(doing("encrypt", path))
        };
        if let Some(last) = last {
            history.write_counter(last).map_err(doing("write", &self.layout.counter(&name)))?;
        }
        for opened in all.values().filter(|opened| opened.revision != current.revision) {
            let path = self.layout.earlier(&name, number(opened));
            history.keep(number(opened), &sealed(opened, &path)?).map_err(doing("write", &path))?;
        }
        let path = self.layout.current(&name);
        let file = sealed(current, &path)?;
        write::make_folder(write::folder_of(&path)).and_then(|()| write::replace(&path, &file)).map_err(doing("write", &path))?;
        self.remove(old)?;
        Ok(number(current))
    }

    /// Removes these earlier revisions.
    pub fn forget(&self, name: &SecretName, revisions: &[Revision]) -> Result<(), VaultError> {
        let name = vault_name(name)?;
        for revision in revisions {
            let path = self.layout.earlier(&name, *revision);
            write::remove_if_there(&path).map_err(doing("remove", &path))?;
        }
        let history = self.layout.history(&name);
        write::sync_folder_of(&self.layout.counter(&name)).map_err(doing("tidy", &history))
    }

    /// Adds some recipients to the list and removes others. Secrets that are already encrypted stay as they are.
    ///
    /// # Errors
    /// A recipient to remove is not on the list, or nobody would be left.
    pub fn change_recipients(
        &self,
        add: &[Recipient],
        remove: &[Recipient],
        write: bool,
    ) -> Result<Vec<(Recipient, Option<String>)>, VaultError> {
        let mut list = Recipients::read(&self.layout)?;
        list.change(&self.layout, add, remove)?;
        let list = list.usable(&self.layout)?;
        if write {
            let path = self.layout.recipients();
            write::replace(&path, list.as_str().as_bytes()).map_err(doing("write", &path))?;
        }
        Ok(list.listed())
    }

    /// Writes down the current revision of a secret whose history was lost. The file itself has the number.
    pub fn adopt(&self, name: &SecretName, revision: Revision) -> Result<(), VaultError> {
        let name = vault_name(name)?;
        let history = History::of(&self.layout, &name);
        let fault = doing("write", &self.layout.counter(&name));
        match history.counter().map_err(&fault)? {
            Some(_) => Ok(()),
            None => history.write_counter(revision).map_err(fault),
        }
    }

    fn plan(&self, name: &VaultName, secret_type: Option<&SecretType>, fields: &BTreeMap<FieldName, Field>) -> Result<Plan, VaultError> {
        check_size(fields)?;
        let path = self.layout.current(name);
        let (highest, earlier) = self.earlier(name)?;
        let revision = highest.map_or(Revision::FIRST, Revision::next);
        let document = Document::write(name.as_str(), revision, now(), secret_type, fields);
        let sealed = seal::seal(&document, &self.recipients).map_err(doing("write", &path))?;
        Ok(Plan { revision, earlier, path, sealed })
    }

    /// The highest number that was ever given, and the current revision where the history does not have it yet.
    fn earlier(&self, name: &VaultName) -> Result<(Option<Revision>, Option<Earlier>), VaultError> {
        let current = self.layout.current(name);
        let sealed = match fs::read(&current) {
            Ok(sealed) => sealed,
            Err(error) if is_absence(&error) => return Ok((highest(&self.layout, name)?, None)),
            Err(cause) => return Err(doing("read", &current)(cause)),
        };
        let highest = highest(&self.layout, name)?;
        // Kept already: an earlier change was cut short, or somebody put an older revision back (a revert). Then its number is known.
        if kept_as(&self.layout, name, &sealed)?.is_some() {
            return Ok((highest, None));
        }
        if let Some(highest) = highest {
            let earlier = self.layout.earlier(name, highest);
            if earlier.exists() {
                return Err(VaultError::Tangled { current, earlier });
            }
        }
        Ok((highest, highest.map(|highest| (highest, sealed))))
    }
}

fn revisions(layout: &Layout, name: &VaultName) -> Result<Revisions, VaultError> {
    let path = layout.current(name);
    let history = History::of(layout, name);
    let kept = history.kept().map_err(doing("read", &layout.history(name)))?.into_iter().collect();
    let current = match fs::read(&path) {
        Ok(sealed) => match kept_as(layout, name, &sealed)? {
            Some(revision) => Some(revision),
            None => history.counter().map_err(doing("read", &layout.counter(name)))?,
        },
        Err(error) if is_absence(&error) => return Ok(Revisions { there: false, current: None, kept }),
        Err(cause) => return Err(doing("read", &path)(cause)),
    };
    Ok(Revisions { there: true, current, kept })
}

/// The number under which the history has exactly this file.
fn kept_as(layout: &Layout, name: &VaultName, sealed: &[u8]) -> Result<Option<Revision>, VaultError> {
    let fault = doing("read", &layout.history(name));
    for revision in History::of(layout, name).kept().map_err(&fault)? {
        if fs::read(layout.earlier(name, revision)).map_err(&fault)? == sealed {
            return Ok(Some(revision));
        }
    }
    Ok(None)
}

/// The highest number ever given to a revision of this secret.
fn highest(layout: &Layout, name: &VaultName) -> Result<Option<Revision>, VaultError> {
    let history = History::of(layout, name);
    let counter = layout.counter(name);
    let given = history.counter().map_err(doing("read", &counter))?;
    if given.is_none() && layout.current(name).exists() {
        return Err(VaultError::RevisionUnknown { name: name.clone(), counter });
    }
    let kept = history.kept().map_err(doing("read", &layout.history(name)))?;
    Ok(given.max(kept.last().copied()))
}

/// Removes folders that hold no secret any more. A folder that is not empty stays: that is not an error.
fn remove_empty_folders(layout: &Layout, removed: &Path) {
    for folder in removed.ancestors().skip(1).take_while(|folder| *folder != layout.root()) {
        // A write that was cut short left it, and nobody needs it.
        let _ = write::remove_if_there(&folder.join(write::UNFINISHED));
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

pub(super) fn lock(layout: &Layout) -> Result<Lock, VaultError> {
    Lock::acquire(&layout.lock()).map_err(doing("lock", &layout.lock()))
}
