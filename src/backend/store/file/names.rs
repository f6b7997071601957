//! Which secrets a vault holds: a walk through its folders. No mount of a named secret needs it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::layout::{Layout, SEALED, VaultName};
use super::read::is_absence;
use crate::model::SecretName;

/// The most names one listing gives.
pub const MAX_NAMES: usize = 250_000;

#[derive(Debug, Error)]
pub enum Unlistable {
    #[error("cannot list {}: {cause}", .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("there are more than {MAX_NAMES} secrets of that prefix")]
    TooMany,
}

/// The names that start with `prefix`, sorted. What is no secret's current revision is passed over; so is what a name cannot reach.
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

struct Walk<'p> {
    prefix: &'p str,
    /// The folders we are in, by device and inode: a symlink may lead back to one.
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
        let kind = entry.file_type().map_err(|cause| Unlistable::Io { path: entry.path(), cause })?;
        // Where a symlink leads is what counts; one that leads nowhere is nothing.
        let (is_folder, is_file) = if kind.is_symlink() {
            fs::metadata(entry.path()).map_or((false, false), |there| (there.is_dir(), there.is_file()))
        } else {
            (kind.is_dir(), kind.is_file())
        };
        if let (true, Some(name)) = (is_file, name.strip_suffix(SEALED)) {
            self.add(name)
        } else if is_folder && name.starts_with(self.prefix) && name.parse::<VaultName>().is_ok() {
            self.folder(&entry.path(), &format!("{name}/"))
        } else {
            Ok(())
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

/// The root and what lies between it and the folder where the walk starts.
fn folders_above(root: &Path, folder: &str) -> Vec<(u64, u64)> {
    let above = root.join(folder);
    let between = above.ancestors().skip(1).take(folder.split('/').count());
    between.filter_map(|path| fs::metadata(path).ok().map(|metadata| identity(&metadata))).collect()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
