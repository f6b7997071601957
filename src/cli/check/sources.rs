//! The files of a folder: what `keyferry check DIR` reads.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const KINDS: [&str; 3] = ["json", "yaml", "yml"];

/// What is in a folder and the folders below it, in the order of names.
#[derive(Debug, Default)]
pub struct Folder {
    pub files: Vec<PathBuf>,
    /// Folders with templates of a chart.
    pub templates: Vec<PathBuf>,
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

impl Folder {
    /// The folder itself may be a link. Links in it are not followed, and names that start with a dot are ignored.
    pub fn walk(dir: &Path) -> Self {
        let mut folder = Self::default();
        if is_of_chart(dir) {
            folder.templates.push(dir.to_owned());
        } else {
            folder.look_into(dir);
        }
        folder
    }

    fn look_into(&mut self, dir: &Path) {
        let mut entries = match fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(cause) => return self.unreadable.push((dir.to_owned(), cause)),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && is_of_chart(&path) => self.templates.push(path),
                Ok(kind) if kind.is_dir() => self.look_into(&path),
                Ok(kind) if kind.is_file() && is_manifest(&path) => self.files.push(path),
                Ok(_) => {}
                Err(cause) => self.unreadable.push((path, cause)),
            }
        }
    }
}

fn is_of_chart(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name == "templates") && dir.parent().is_some_and(|chart| chart.join("Chart.yaml").is_file())
}

fn is_manifest(file: &Path) -> bool {
    file.extension().is_some_and(|found| KINDS.iter().any(|kind| found.eq_ignore_ascii_case(kind)))
}
