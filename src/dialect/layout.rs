//! The paths that a class's objects claim, as far as they are known before any secret is: no two the same, none a folder of another.

use std::collections::HashSet;

use super::class_fault;
use crate::model::{Claim, ClassFault, FaultList, FilePath, Label, clashes, quoted};
use crate::yaml::Position;

/// Claims, in the order of the objects.
#[derive(Default)]
pub(super) struct Layout(Vec<Claimed>);

/// A path, and the object that wants it.
struct Claimed {
    label: Label,
    at: Position,
    path: FilePath,
    folder: bool,
}

// === impl Layout ===

impl Layout {
    pub(super) fn claim_file(&mut self, label: &Label, at: Position, path: FilePath) {
        self.0.push(Claimed { label: label.clone(), at, path, folder: false });
    }

    pub(super) fn claim_folder(&mut self, label: &Label, at: Position, path: FilePath) {
        self.0.push(Claimed { label: label.clone(), at, path, folder: true });
    }

    /// What stands in whose way; `key` is the format's word for a path.
    pub(super) fn faults(&self, key: &str, faults: &mut FaultList<ClassFault>) {
        let claims: Vec<Claim<'_>> = self.0.iter().map(|claimed| Claim { path: claimed.path.as_str(), folder: claimed.folder }).collect();
        let mut told = HashSet::new();
        for clash in clashes(&claims) {
            let (file, other) = (&self.0[clash.file], &self.0[clash.other]);
            // A field that is named twice is one file.
            if file.label.index == other.label.index && file.path == other.path && !other.folder {
                continue;
            }
            // The later object is the one to change, and needs to be told only once what stands in the way of a path.
            let file_is_later = file.label.index > other.label.index;
            let (later, earlier) = if file_is_later { (file, other) } else { (other, file) };
            if told.insert((later.label.index, &file.path)) {
                let at = Some((later.at.line, later.at.column));
                faults.add_with(|| {
                    let problem = problem(file, other, earlier, file_is_later);
                    ClassFault { object: Some(later.label.clone()), at, ..class_fault(key, problem) }
                });
            }
        }
    }
}

fn problem(file: &Claimed, other: &Claimed, earlier: &Claimed, file_is_later: bool) -> String {
    let (path, earlier) = (quoted(file.path.as_str()), &earlier.label);
    if file.path == other.path && !other.folder {
        format!("{path} is also the path of {earlier} (give each object a path of its own)")
    } else if file_is_later {
        format!("{path} would be a file, but {earlier} needs a folder there (change one of the paths)")
    } else {
        format!("{path} is a file, that of {earlier}: nothing can stand within it (change one of the paths)")
    }
}
