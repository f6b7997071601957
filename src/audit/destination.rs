//! Where lines go: a writer such as standard output, or a file.
//!
//! Only the file has rules of its own: it is rotated by size at the ends of lines, it is opened again on request (for logrotate), and
//! Keyferry never leaves a part of a line in it.
//!
//! A rotation is a row of renames: `audit.jsonl.3` to `.4`, and so on, `audit.jsonl` to `.1`, then a new file. Wherever a crash stops it,
//! each file has whole lines, and no two files have the same name: at worst a number is missing, and the next rotation fills it. If a
//! rotation fails, the lines stay in the file that is open.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;
use tokio::time::{Duration, Instant};

use super::config::Rotate;
use super::line::LINE;
use super::losses::MINUTE;
use crate::telemetry::outlet::Patient;

/// How long another process may still write the file: a daemon that stops has 10 s for mounts under way.
const WAIT: Duration = Duration::from_secs(12);

/// How often Keyferry tries again during this time.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) enum Destination {
    File(LineFile),
    Writer(Box<dyn Write + Send>),
}

/// A file for whole lines.
#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// The file ends with a part of a line.
    is_torn: bool,
    rotation: Option<Rotation>,
}

/// Only where no other process writes the file.
#[derive(Debug)]
struct Rotation {
    rotate: Rotate,
    /// When the rotation last failed.
    failed: Option<Instant>,
    /// Held until the process ends.
    _lock: File,
}

/// Why the file cannot be opened. The message follows the file's name.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("is a folder (name a file in it)")]
    Folder,
    #[error("another process writes it, and holds {lock} (end that process, or give each daemon a file of its own)", lock = lock.display())]
    InUse { lock: PathBuf },
    #[error("{0} (make its folder, and let the daemon write there)")]
    Io(#[from] io::Error),
    #[error("is a link, which a rotation would replace (name the file that it leads to, or remove `rotate`)")]
    Link,
    #[error("the lock {lock}: {cause} (let the daemon make that file and lock it)", lock = lock.display())]
    Lock { lock: PathBuf, cause: io::Error },
    #[error("is not a regular file, so it cannot be rotated (name another file, or remove `rotate`)")]
    NotAFile,
    #[error(
        "belongs to user {owner}, and the daemon runs as user {us}: that user could change the lines (chown it to {us}, or move it away)"
    )]
    Owner { owner: u32, us: u32 },
    #[error("nobody reads this pipe (start its reader first, or name a file)")]
    Unread,
}

// === impl Destination ===

impl Destination {
    /// # Errors
    /// The line is not written, not even in part.
    pub(super) fn write(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        match self {
            Self::File(file) => file.write(line, now),
            Self::Writer(writer) => writer.write_all(line).and_then(|()| writer.flush()),
        }
    }

    /// Opens again the file that has the name now.
    pub(super) fn reopen(&mut self) {
        if let Self::File(file) = self {
            file.reopen();
        }
    }
}

// === impl LineFile ===

impl LineFile {
    /// # Errors
    /// It cannot be opened for appending; or rotated, where that is asked for.
    pub(super) fn open(path: &Path, rotate: Option<Rotate>) -> Result<Self, OpenError> {
        let mut file = open(path, rotate.is_some())?;
        let rotation = match rotate {
            Some(rotate) => Some(Rotation { rotate, failed: None, _lock: lock(path, WAIT)? }),
            None => None,
        };
        // A daemon that ended in the meantime may have rotated the file.
        if rotation.is_some() && !is_at(&file, path) {
            file = open(path, true)?;
        }
        let mut opened = Self { path: path.to_owned(), file, is_torn: false, rotation };
        opened.look_at_the_end();
        Ok(opened)
    }

    fn write(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        if self.is_full(line.len(), now) {
            self.rotate(now);
        }
        if self.is_torn {
            Patient(&self.file).write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut written = 0;
        while written < line.len() {
            match Patient(&self.file).write(&line[written..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(self.undo(written, io::ErrorKind::WriteZero.into())),
                Ok(bytes) => written += bytes,
                Err(error) => return Err(self.undo(written, error)),
            }
        }
        Ok(())
    }

    /// Removes the part of a line that still fitted on the disk.
    fn undo(&mut self, written: usize, error: io::Error) -> io::Error {
        self.is_torn = written > 0 && self.cut_off(written as u64).is_none();
        error
    }

    /// `None`: the file cannot be cut, or another process has written to it since.
    fn cut_off(&mut self, bytes: u64) -> Option<()> {
        // After a write that appends, the position is the end of the written text.
        let position = self.file.stream_position().ok()?;
        let is_last = self.file.metadata().is_ok_and(|found| found.is_file() && found.len() == position);
        if is_last { self.file.set_len(position.checked_sub(bytes)?).ok() } else { None }
    }

    /// A crash, or a full disk, may have left a part of a line. Keyferry removes it where no other process writes the file. Otherwise
    /// Keyferry ends the line.
    fn look_at_the_end(&mut self) {
        let Ok((length, part @ 1..)) = unfinished(&self.path, &self.file) else { return };
        // A part that is longer than any line is not Keyferry's.
        if self.rotation.is_some() && part < LINE as u64 && self.file.set_len(length - part).is_ok() {
            tracing::warn!(file = %self.path.display(), bytes = part, "the audit file ended in a part of a line, which is removed");
        } else {
            self.is_torn = true;
        }
    }

    fn is_full(&self, bytes: usize, now: Instant) -> bool {
        let Some(Rotation { rotate, failed, .. }) = &self.rotation else { return false };
        // While the rotation fails, the file grows: that is better than a lost line.
        let may = failed.is_none_or(|failed| now >= failed + MINUTE);
        let has = self.file.metadata().map_or(0, |found| found.len());
        may && has > 0 && has + bytes as u64 > rotate.size
    }

    fn rotate(&mut self, now: Instant) {
        let Some(rotation) = &mut self.rotation else { return };
        match renew(&self.path, &self.file, rotation.rotate.keep) {
            Ok(file) => {
                rotation.failed = None;
                (self.file, self.is_torn) = (file, false);
            }
            Err(error) => {
                rotation.failed = Some(now);
                let file = self.path.display();
                tracing::error!(%file, %error, "the audit file could not be rotated; it grows meanwhile, and no line is lost (let the daemon rename files in its folder)");
            }
        }
    }

    fn reopen(&mut self) {
        let path = &self.path;
        if is_at(&self.file, path) {
            return;
        }
        match open(path, self.rotation.is_some()) {
            Ok(file) => {
                self.file = file;
                self.is_torn = false;
                self.look_at_the_end();
                tracing::info!(file = %self.path.display(), "the audit file is opened again");
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the audit file cannot be opened again; lines go on into the one that was open");
            }
        }
    }
}

/// Opens for appending. A pipe without a reader is an error, and Keyferry does not wait for one (`O_NONBLOCK`, open(2)); after that, writes
/// wait. `ours`: it must be a regular file that we own, and not a link.
fn open(path: &Path, ours: bool) -> Result<File, OpenError> {
    let flags = OFlags::NONBLOCK | if ours { OFlags::NOFOLLOW } else { OFlags::empty() };
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flag(flags)).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::ISDIR) => OpenError::Folder,
        Some(Errno::LOOP) if ours => OpenError::Link,
        Some(Errno::NXIO) => {
            if ours {
                OpenError::NotAFile
            } else {
                OpenError::Unread
            }
        }
        _ => error.into(),
    })?;
    let found = file.metadata()?;
    if ours && !found.is_file() {
        return Err(OpenError::NotAFile);
    }
    let us = geteuid().as_raw();
    if ours && found.uid() != us {
        return Err(OpenError::Owner { owner: found.uid(), us });
    }
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)? - OFlags::NONBLOCK).map_err(io::Error::from)?;
    Ok(file)
}

/// Renames the file and its predecessors to the next number, and makes a new file. Only the file with the last number is overwritten.
fn renew(path: &Path, file: &File, keep: usize) -> io::Result<File> {
    // Another process has moved it: Keyferry must not move the file that has the name now.
    if !is_at(file, path) {
        return open(path, true).map_err(io::Error::other);
    }
    // Up to the first free number: a crash may have left one.
    let last = (1..keep).find(|number| fs::symlink_metadata(numbered(path, *number)).is_err()).unwrap_or(keep);
    for number in (2..=last).rev() {
        fs::rename(numbered(path, number - 1), numbered(path, number))?;
    }
    let first = numbered(path, 1);
    fs::rename(path, &first)?;
    open(path, true).map_err(|error| {
        // The lines go on into the former file: under its own name again, unless another file has that name now.
        let _ = renameat_with(CWD, &first, CWD, path, RenameFlags::NOREPLACE);
        io::Error::other(error)
    })
}

/// `audit.jsonl.1`
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Whether the path leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Held by the one process that may rename the file. The lock is a file that only we can open: anybody who may read the audit file could
/// lock the audit file itself.
fn lock(path: &Path, wait: Duration) -> Result<File, OpenError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock = PathBuf::from(name);
    let failed = |cause| OpenError::Lock { lock: lock.clone(), cause };
    let flags = flag(OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&lock);
    let file = opened.map_err(failed)?;
    let began = Instant::now();
    let mut is_said = false;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        match error {
            Errno::WOULDBLOCK if began.elapsed() >= wait => return Err(OpenError::InUse { lock }),
            Errno::WOULDBLOCK | Errno::INTR => {}
            error => return Err(failed(error.into())),
        }
        if !is_said {
            tracing::info!(lock = %lock.display(), "waiting for another process, which writes the audit file");
            is_said = true;
        }
        #[expect(clippy::disallowed_methods, reason = "files are opened on a thread that may be kept waiting")]
        thread::sleep(AGAIN);
    }
    Ok(file)
}

/// A file's length, and how many bytes follow its last whole line: 0 where the file cannot be read.
fn unfinished(path: &Path, file: &File) -> io::Result<(u64, u64)> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok((0, 0));
    }
    let mut reader = OpenOptions::new().read(true).custom_flags(flag(OFlags::NONBLOCK)).open(path)?;
    let length = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(length.saturating_sub(LINE as u64)))?;
    let mut end = Vec::with_capacity(LINE);
    reader.take(LINE as u64).read_to_end(&mut end)?;
    Ok((length, end.iter().rev().take_while(|byte| **byte != b'\n').count() as u64))
}

fn flag(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
