//! Which secrets a vault holds: a walk through its folders. A mount of a named secret does not need it.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::layout::{Layout, SEALED, VaultName};
use super::read::is_absence;
use crate::model::SecretName;

/// How many bytes a name needs in a list besides its own: quotes and a comma.
const QUOTED: usize = 3;

/// The most names one listing gives.
pub const MAX_NAMES: usize = 250_000;

#[derive(Debug, Error)]
pub enum Unlistable {
    #[error("cannot list {}: {cause}", .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("the names in the folder have more than {most} bytes together")]
    TooLong { most: usize },
    #[error("there are more than {MAX_NAMES} secrets of that prefix")]
    TooMany,
}

/// The names that start with `prefix`, sorted. Skips what is not the current revision of a secret, and what no name leads to.
pub fn starting_with(layout: &Layout, prefix: &str) -> Result<Vec<SecretName>, Unlistable> {
    let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut walk = Walk { prefix, above: Vec::new(), names: Vec::new() };
    // A prefix that no name can have (`../x`, `.history/`) has no names, and must not be walked.
    if folder.is_empty() && !prefix.starts_with('/') {
        walk.folder(layout.root(), "")?;
    } else if folder.parse::<VaultName>().is_ok() {
        walk.above.extend(folders_above(layout.root(), folder));
        walk.folder(&layout.root().join(folder), &format!("{folder}/"))?;
    }
    walk.names.sort_unstable();
    Ok(walk.names)
}

/// What is in one folder, sorted: names of secrets, and of folders with a `/` at the end. `None`: there is no such folder. Folders without a
/// secret are there too.
///
/// # Errors
/// The folder cannot be read, or the names have more bytes than `most` together.
pub fn in_folder(layout: &Layout, folder: &VaultName, most: usize) -> Result<Option<BTreeSet<String>>, Unlistable> {
    let path = layout.folder(folder);
    let fault = |cause| Unlistable::Io { path: path.clone(), cause };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(fault(error)),
    };
    let (mut names, mut bytes) = (BTreeSet::new(), 0);
    for (number, entry) in entries.enumerate() {
        let entry = entry.map_err(fault)?;
        if number >= MAX_NAMES {
            return Err(Unlistable::TooMany);
        }
        let Some(name) = kind_of(&entry)?.and_then(|kind| kind.listed(entry.file_name().to_str()?)) else { continue };
        // What no name leads to does not count.
        if format!("{folder}/{}", name.trim_end_matches('/')).parse::<VaultName>().is_err() {
            continue;
        }
        bytes += name.len() + QUOTED;
        if bytes > most {
            return Err(Unlistable::TooLong { most });
        }
        names.insert(name);
    }
    Ok(Some(names))
}

enum EntryKind {
    File,
    Folder,
}

impl EntryKind {
    /// The name of the secret in this file, or of the folder with its `/`.
    fn listed(&self, file: &str) -> Option<String> {
        match self {
            Self::File => file.strip_suffix(SEALED).filter(|name| !name.is_empty()).map(ToOwned::to_owned),
            Self::Folder => Some(format!("{file}/")),
        }
    }
}

/// For a symlink, what it leads to counts; one that leads nowhere is nothing.
fn kind_of(entry: &fs::DirEntry) -> Result<Option<EntryKind>, Unlistable> {
    let kind = entry.file_type().map_err(|cause| Unlistable::Io { path: entry.path(), cause })?;
    let (is_folder, is_file) = if kind.is_symlink() {
        fs::metadata(entry.path()).map_or((false, false), |there| (there.is_dir(), there.is_file()))
    } else {
        (kind.is_dir(), kind.is_file())
    };
    Ok(match (is_folder, is_file) {
        (true, _) => Some(EntryKind::Folder),
        (false, true) => Some(EntryKind::File),
        (false, false) => None,
    })
}

struct Walk<'p> {
    prefix: &'p str,
    /// The folders above, by device and inode: a symlink may lead back to one.
    above: Vec<(u64, u64)>,
    names: Vec<SecretName>,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, base: &str) -> Result<(), Unlistable> {
        let fault = |cause| Unlistable::Io { path: path.to_owned(), cause };
        let (entries, here) = match fs::read_dir(path).and_then(|entries| Ok((entries, identity(&fs::metadata(path)?)))) {
            Ok(found) => found,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(fault(error)),
        };
        if self.above.contains(&here) {
            return Ok(());
        }
        self.above.push(here);
        for entry in entries {
            let entry = entry.map_err(fault)?;
            if let Some(element) = entry.file_name().to_str() {
                self.entry(&entry, &format!("{base}{element}"))?;
            }
        }
        self.above.pop();
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, name: &str) -> Result<(), Unlistable> {
        match kind_of(entry)? {
            Some(EntryKind::File) => name.strip_suffix(SEALED).map_or(Ok(()), |name| self.add(name)),
            Some(EntryKind::Folder) if name.starts_with(self.prefix) && name.parse::<VaultName>().is_ok() => {
                self.folder(&entry.path(), &format!("{name}/"))
            }
            Some(EntryKind::Folder) | None => Ok(()),
        }
    }

    fn add(&mut self, name: &str) -> Result<(), Unlistable> {
        if name.starts_with(self.prefix)
            && let Ok(name) = name.parse::<VaultName>()
        {
            if self.names.len() >= MAX_NAMES {
                return Err(Unlistable::TooMany);
            }
            self.names.push(name.into());
        }
        Ok(())
    }
}

/// The root, and the folders between it and the folder where the walk starts.
fn folders_above(root: &Path, folder: &str) -> Vec<(u64, u64)> {
    let above = root.join(folder);
    let between = above.ancestors().skip(1).take(folder.split('/').count());
    between.filter_map(|path| fs::metadata(path).ok().map(|metadata| identity(&metadata))).collect()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
