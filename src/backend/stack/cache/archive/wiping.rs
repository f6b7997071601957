//! The sealed answers as `keyferry cache` sees them: from outside of the daemon, which may be running.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::content::split;
use super::open::rooms;
use super::wipes::Wipe;
use crate::backend::Scope;
use crate::backend::stack::sealed::Sealed;
use crate::model::{BackendName, SecretRef};

/// One answer on the disk, without its value.
#[derive(Debug)]
pub struct Listed {
    pub secret: SecretRef,
    pub namespace: String,
    pub account: String,
    /// The uid of the only Pod that it is for.
    pub pod: Option<String>,
    /// When the store was asked.
    pub at: Timestamp,
    /// The size of the file.
    pub bytes: u64,
}

/// What to wipe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    All,
    /// The names of a backend with this prefix.
    Backend(BackendName, String),
}

/// The answers that are there, and how many files do not open.
///
/// # Errors
/// The folder cannot be read.
pub fn list(sealed: &Arc<Sealed>) -> io::Result<(Vec<Listed>, usize)> {
    let (mut found, mut unopened) = (Vec::new(), 0);
    each(sealed, |_, listed| {
        match listed {
            Some(listed) => found.push(listed),
            None => unopened += 1,
        }
        Ok(())
    })?;
    Ok((found, unopened))
}

/// Writes a mark that forbids the daemon to give these answers, and then removes the files. Returns how many files it removed.
///
/// # Errors
/// The folder cannot be written: the mark may be missing, or some files may still be there.
pub fn wipe(sealed: &Arc<Sealed>, target: &Target, now: Timestamp) -> io::Result<usize> {
    let [answers, _, wipes, _] = rooms(sealed);
    let (backend, prefix) = match target {
        Target::All => (None, String::new()),
        Target::Backend(backend, prefix) => (Some(backend.to_string()), prefix.clone()),
    };
    let mut wipe = Wipe { backend, prefix, at: now };
    wipe.write(&wipes)?;
    let mut removed = 0;
    each(sealed, |path, listed| {
        // Nobody can say what a file has that does not open: it is removed only if all files are wiped.
        let goes = listed.map_or(*target == Target::All, |listed| wipe.covers(&listed.secret));
        if goes && !path.is_dir() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => removed += 1,
            }
        }
        Ok(())
    })?;
    answers.sync()?;
    Ok(removed)
}

fn each(sealed: &Arc<Sealed>, mut visit: impl FnMut(&Path, Option<Listed>) -> io::Result<()>) -> io::Result<()> {
    let [answers, ..] = rooms(sealed);
    let mut outcome = Ok(());
    answers.visit(false, |path, content| {
        let bytes = fs::symlink_metadata(path).map_or(0, |found| found.len());
        let listed = content.ok().and_then(|content| listed(content.expose(), bytes));
        outcome = visit(path, listed);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome
}

fn listed(content: &[u8], bytes: u64) -> Option<Listed> {
    let (head, _) = split(content)?;
    let asked = head.asked()?;
    let pod = match &asked.scope {
        Scope::Pod(uid) => Some(uid.to_string()),
        Scope::Account(_) | Scope::Node => None,
    };
    Some(Listed { secret: asked.secret, namespace: head.namespace, account: head.account, pod, at: head.at, bytes })
}
