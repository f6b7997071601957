//! The earlier revisions of one secret, and the number of all revisions that it ever had.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::layout::{Layout, SEALED, VaultName};
use super::read::is_absence;
use super::revision::InvalidRevision;
use super::{Revision, write};
use crate::text;

/// `.history/<name>/`.
#[derive(Debug)]
pub struct History<'a> {
    layout: &'a Layout,
    name: &'a VaultName,
}

impl<'a> History<'a> {
    pub fn of(layout: &'a Layout, name: &'a VaultName) -> Self {
        Self { layout, name }
    }

    /// The revisions that are kept, lowest first.
    pub fn kept(&self) -> io::Result<Vec<Revision>> {
        let entries = match fs::read_dir(self.layout.history(self.name)) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            kept.extend(file.to_str().and_then(|file| file.strip_suffix(SEALED)?.parse::<Revision>().ok()));
        }
        kept.sort_unstable();
        Ok(kept)
    }

    /// The highest revision ever given; `None` where no file has it.
    ///
    /// # Errors
    /// Of kind `InvalidData` where the file holds no revision.
    pub fn counter(&self) -> io::Result<Option<Revision>> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        match fs::read(self.layout.counter(self.name)) {
            Ok(bytes) => {
                let text = text::read(&bytes).map_err(|fault| invalid(format!("it {fault}")))?;
                text.trim().parse().map(Some).map_err(|fault: InvalidRevision| invalid(fault.to_string()))
            }
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write_counter(&self, revision: Revision) -> io::Result<()> {
        write::make_folder(&self.layout.history(self.name))?;
        write::replace(&self.layout.counter(self.name), format!("{revision}\n").as_bytes())
    }

    pub fn keep(&self, revision: Revision, sealed: &[u8]) -> io::Result<()> {
        write::make_folder(&self.layout.history(self.name))?;
        write::replace(&self.path(revision), sealed)
    }

    /// Removes all but the last few, and gives how many it removed.
    pub fn prune(&self, keep: usize) -> io::Result<usize> {
        let surplus = self.drop_surplus(keep)?;
        if surplus > 0 {
            write::sync_folder_of(&self.layout.counter(self.name))?;
        }
        Ok(surplus)
    }

    /// The same for many secrets: after a power cut some may be there again.
    pub fn drop_surplus(&self, keep: usize) -> io::Result<usize> {
        let kept = self.kept()?;
        let surplus = kept.len().saturating_sub(keep);
        for revision in &kept[..surplus] {
            write::remove_if_there(&self.path(*revision))?;
        }
        Ok(surplus)
    }

    fn path(&self, revision: Revision) -> PathBuf {
        self.layout.earlier(self.name, revision)
    }
}
