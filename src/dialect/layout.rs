//! The paths that a class's objects claim, as far as they are known without any secret: no two are the same, and none is a folder of
//! another.

use std::collections::HashSet;

use super::class_fault;
use crate::model::{Claim, ClassFault, FaultList, FilePath, Label, clashes, quoted};
use crate::steps::{Spent, Steps};
use crate::yaml::Position;

/// The most bytes of all paths of a class together: the answer has them too, and has room for three times that with all its contents.
const MAX_TEXT: usize = 1024 * 1024;

/// Claims, in the order of the objects.
pub(super) struct Layout {
    claims: Vec<Claimed>,
    /// Of the objects that claim.
    labels: Vec<Label>,
    /// What was counted so far, kept or not.
    files: usize,
    text: usize,
    max_files: usize,
    is_full: bool,
}

/// A path, and the object that claims it.
struct Claimed {
    /// In [`Layout::labels`].
    label: usize,
    at: Position,
    path: FilePath,
    folder: bool,
}

/// Whether a class may claim more.
pub(super) enum Room {
    Free,
    /// A limit was exceeded before.
    None,
    /// This claim exceeds a limit, and why.
    Over(String),
}

// === impl Layout ===

impl Layout {
    pub(super) fn new(max_files: usize) -> Self {
        Self { claims: Vec::new(), labels: Vec::new(), files: 0, text: 0, max_files, is_full: false }
    }

    /// Counts files, and bytes of a path.
    pub(super) fn count(&mut self, files: usize, bytes: usize) -> Room {
        (self.files, self.text) = (self.files + files, self.text + bytes);
        let most = self.max_files;
        let problem = if self.files > most {
            format!(
                "with this object the class has more than {most} files: no more are allowed on this node (split the class, or ask for a \
                 higher limits.files)"
            )
        } else if self.text > MAX_TEXT {
            format!("with this object the paths of the class have more than {MAX_TEXT} bytes together (shorten them, or split the class)")
        } else {
            return Room::Free;
        };
        if std::mem::replace(&mut self.is_full, true) { Room::None } else { Room::Over(problem) }
    }

    pub(super) fn claim_file(&mut self, label: &Label, at: Position, path: FilePath) {
        self.claim(label, at, path, false);
    }

    pub(super) fn claim_folder(&mut self, label: &Label, at: Position, path: FilePath) {
        self.claim(label, at, path, true);
    }

    fn claim(&mut self, label: &Label, at: Position, path: FilePath, folder: bool) {
        if self.labels.last().is_none_or(|last| last.index != label.index) {
            self.labels.push(label.clone());
        }
        self.claims.push(Claimed { label: self.labels.len() - 1, at, path, folder });
    }

    /// Finds the paths that clash; `key` is the format's word for a path.
    ///
    /// # Errors
    /// The steps are used up.
    pub(super) fn faults(&self, key: &str, faults: &mut FaultList<ClassFault>, steps: &Steps) -> Result<(), Spent> {
        let claims: Vec<Claim<'_>> =
            self.claims.iter().map(|claimed| Claim { path: claimed.path.as_str(), folder: claimed.folder }).collect();
        let mut told = HashSet::new();
        for clash in clashes(&claims, steps)? {
            let (file, other) = (&self.claims[clash.file], &self.claims[clash.other]);
            // A field that is named twice gives one file.
            if file.label == other.label && file.path == other.path && !other.folder {
                continue;
            }
            // The author should change the later object. Each path is reported once.
            let file_is_later = file.label > other.label;
            let (later, earlier) = if file_is_later { (file, other) } else { (other, file) };
            if told.insert((later.label, &file.path)) {
                let at = Some((later.at.line, later.at.column));
                faults.add_with(|| {
                    let problem = problem(file, other, &self.labels[earlier.label], file_is_later);
                    ClassFault { object: Some(self.labels[later.label].clone()), at, ..class_fault(key, problem) }
                });
            }
        }
        Ok(())
    }
}

fn problem(file: &Claimed, other: &Claimed, earlier: &Label, file_is_later: bool) -> String {
    let path = quoted(file.path.as_str());
    if file.path == other.path && !other.folder {
        format!("{path} is also the path of {earlier} (give each object a different path)")
    } else if file_is_later {
        format!("{path} would be a file, but {earlier} needs a folder there (change one of the paths)")
    } else {
        format!("{path} is the file of {earlier}: nothing can be below a file (change one of the paths)")
    }
}
