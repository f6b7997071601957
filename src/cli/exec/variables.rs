//! Variables from mounted files. A person who may write a secret may have written these files. So each is opened without waiting, must be a
//! regular file, and is read up to a bound.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::dotenv::read_own;
use crate::files::{Named, Unreadable, WholeFile};
use crate::text::{NotText, lines};

/// The most bytes of a file of variables, and of all files of a folder together. A whole volume is smaller, unless its limits were raised.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The most files in a folder.
const MAX_FILES: usize = 4096;

/// How often a volume is read again if it is replaced during the read.
const ATTEMPTS: usize = 20;

/// A volume's link to its files, and the start of a volume's internal names. Kubernetes' `AtomicWriter` and Keyferry both use them.
const DATA: &str = "..data";
const OWN: &str = "..";

/// Where variables are read from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    File(&'a Path),
    Folder(&'a Path),
}

/// A variable. `Debug` does not show its value.
#[derive(Eq, PartialEq)]
pub struct Variable {
    pub name: String,
    pub value: OsString,
}

/// Why a folder was not read.
enum Unread {
    Failed(Failure),
    /// It was replaced or removed during the read.
    Changed(Failure),
}

// === impl Source ===

impl Source<'_> {
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Folder(path) => path,
        }
    }

    /// All variables, or those that `only` names.
    ///
    /// # Errors
    /// A file cannot be read (exit code 2), or has content that a variable cannot have (1).
    pub fn read(self, only: &[String]) -> Result<Vec<Variable>, Failure> {
        match self {
            Self::File(path) => of_file(path, only),
            Self::Folder(path) => of_folder(path, only),
        }
    }
}

fn is_chosen(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|chosen| chosen == name)
}

fn of_file(path: &Path, only: &[String]) -> Result<Vec<Variable>, Failure> {
    let shown = path.display();
    let whole = WholeFile::read(path, MAX_BYTES).map_err(|cause| unreadable(path, &cause))?;
    let text = str::from_utf8(&whole.bytes).map_err(|fault| {
        let line = lines(&[&whole.bytes[..fault.valid_up_to()], b"?"].concat()).count();
        Failure::fault(format!("{shown}: {}", NotText::Utf8 { line }))
    })?;
    let variables =
        read_own(text).map_err(|faults| Failure::fault(faults.iter().map(|fault| format!("{shown}: {fault}\n")).collect::<String>()))?;
    let chosen = variables.into_iter().filter(|variable| is_chosen(variable.name, only));
    Ok(chosen.map(|variable| Variable { name: variable.name.to_owned(), value: variable.value.into() }).collect())
}

/// Reads one state of the folder: if a volume changes during the read, it is read again.
fn of_folder(dir: &Path, only: &[String]) -> Result<Vec<Variable>, Failure> {
    let mut last = unreadable(dir, &Unreadable::Unstable);
    for _ in 0..ATTEMPTS {
        match of_present(dir, only) {
            Ok(variables) => return Ok(variables),
            Err(Unread::Failed(failure)) => return Err(failure),
            Err(Unread::Changed(failure)) => last = failure,
        }
    }
    Err(last)
}

/// The folder that a volume's link leads to now. Its content does not change while the link leads there. Only later it is emptied, file by file.
fn state(dir: &Path) -> Result<PathBuf, Unread> {
    let found = match fs::canonicalize(dir.join(DATA)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::canonicalize(dir),
        found => found,
    };
    found.map_err(|error| Unread::of(dir, &error.into()))
}

fn of_present(dir: &Path, only: &[String]) -> Result<Vec<Variable>, Unread> {
    let present = state(dir)?;
    let entries = Named::anywhere(&present).entries(MAX_FILES).map_err(|cause| Unread::of(dir, &cause))?;
    let (mut variables, mut faults, mut room) = (Vec::new(), Vec::new(), MAX_BYTES);
    for entry in entries {
        let name = entry.path().file_name().unwrap_or_default();
        let shown = dir.join(name);
        if name.as_bytes().starts_with(OWN.as_bytes()) {
            continue;
        }
        // Kubernetes takes the same names: https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/
        let name = name.to_str().filter(|name| name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'='));
        let Some(name) = name else {
            if only.is_empty() {
                faults.push(format!(
                    "{}: a variable's name has printable ASCII characters, and no `=` (rename the file, or choose with --only)",
                    shown.display()
                ));
            }
            continue;
        };
        if !is_chosen(name, only) {
            continue;
        }
        let whole = entry.read(room).map_err(|cause| match cause {
            Unreadable::TooLarge { size, .. } => {
                let why = format!(
                    "{}: with its {size} bytes the variables have more than {MAX_BYTES} bytes (let the application read the file)",
                    shown.display()
                );
                Unread::Failed(Failure::usage(why))
            }
            cause @ (Unreadable::Absent | Unreadable::Io(_) | Unreadable::NotAFile | Unreadable::TooMany(_) | Unreadable::Unstable) => {
                Unread::of(&shown, &cause)
            }
        })?;
        room -= whole.bytes.len();
        if whole.bytes.contains(&0) {
            faults.push(format!(
                "{}: has a zero byte, which no environment variable can have (let the application read the file, or deliver it as a text)",
                shown.display()
            ));
        }
        variables.push(Variable { name: name.to_owned(), value: OsString::from_vec(whole.bytes.to_vec()) });
    }
    if state(dir)? != present {
        return Err(Unread::Changed(unreadable(dir, &Unreadable::Unstable)));
    }
    if faults.is_empty() { Ok(variables) } else { Err(Unread::Failed(Failure::fault(faults.join("\n")))) }
}

fn unreadable(path: &Path, cause: &Unreadable) -> Failure {
    let remedy = match cause {
        Unreadable::Absent => " (is the volume mounted there, and the file in the class?)",
        Unreadable::NotAFile => " (pipes and devices are not read; --dir takes a folder of files, and --only chooses some of them)",
        Unreadable::TooLarge { .. } => " (let the application read the file)",
        Unreadable::TooMany(_) => " (name a folder that has only the variables)",
        Unreadable::Io(_) | Unreadable::Unstable => "",
    };
    Failure::usage(format!("{}: {cause}{remedy}", path.display()))
}

// === impl Unread ===

impl Unread {
    fn of(path: &Path, cause: &Unreadable) -> Self {
        match cause {
            Unreadable::Absent | Unreadable::Unstable => Self::Changed(unreadable(path, cause)),
            Unreadable::Io(_) | Unreadable::NotAFile | Unreadable::TooLarge { .. } | Unreadable::TooMany(_) => {
                Self::Failed(unreadable(path, cause))
            }
        }
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable").field("name", &self.name).finish_non_exhaustive()
    }
}
