//! The mapping under `audit`: where lines go, how their file is rotated, and what raises an alert.

use std::path::PathBuf;

use super::alerts::AlertRule;
use super::line::LINE;
use crate::files::absolute;
use crate::units::parse_size;
use crate::yaml::{Faults, Reader};

/// The most rotated files: each rotation renames all of them.
const MAX_KEEP: usize = 100;

/// The mapping under `audit`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuditConfig {
    /// `None`: standard output.
    pub file: Option<PathBuf>,
    /// `None`: the file grows. Only together with `file`.
    pub rotate: Option<Rotate>,
    /// A mount whose line cannot be written fails.
    pub fail_closed: bool,
    /// Each rule has another kind. A reload puts them in force.
    pub alerts: Vec<AlertRule>,
}

/// The mapping under `audit.rotate`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotate {
    /// No file is larger than this. Default 64 MiB.
    pub size: u64,
    /// How many rotated files are kept. Default 4.
    pub keep: usize,
}

// === impl AuditConfig ===

impl AuditConfig {
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let path = |text: &str| if text == "stdout" { Ok(None) } else { absolute(text).map(Some) };
        let found = faults.len();
        let file = reader.parsed("file", faults, path).flatten();
        let is_stdout = file.is_none() && faults.len() == found;
        let rotate = rotate(reader, faults);
        if let Some(node) = reader.get("rotate").filter(|_| is_stdout) {
            let problem = "cannot rotate standard output, because kubelet or the shell keeps its file (name a file in audit.file, or remove `rotate`)";
            faults.add(node.at, reader.path("rotate"), problem);
        }
        let fail_closed = reader.boolean("failClosed", faults).unwrap_or(false);
        let alerts = AlertRule::parse_all(reader, faults);
        Self { file, rotate, fail_closed, alerts }
    }

    /// Whether the two differ in something that a reload does not change.
    pub fn needs_restart(&self, other: &Self) -> bool {
        (&self.file, self.rotate, self.fail_closed) != (&other.file, other.rotate, other.fail_closed)
    }
}

fn rotate(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Rotate> {
    let mut inner = reader.reader("rotate", faults)?;
    let default = Rotate::default();
    let size = inner.parsed("size", faults, size).unwrap_or(default.size);
    let keep = inner.parsed("keep", faults, keep).unwrap_or(default.keep);
    inner.finish(faults);
    Some(Rotate { size, keep })
}

/// At least the longest line, so that no file is ever larger.
fn size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < LINE => {
            Err(format!("{text:?} is {bytes} bytes, and one line may have {} (write at least {}KiB, for example 64MiB)", LINE, LINE / 1024))
        }
        bytes => Ok(bytes as u64),
    }
}

fn keep(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would delete all lines at each rotation (write at least 1, or remove `rotate`)".to_owned()),
        Ok(keep) if keep <= MAX_KEEP => Ok(keep),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a number of files (write a whole number from 1 to {MAX_KEEP})")),
    }
}

impl Default for Rotate {
    fn default() -> Self {
        Self { size: 64 * 1024 * 1024, keep: 4 }
    }
}
