//! One writer at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

/// A writer holds it while it changes a vault. The kernel releases it when the process ends, in any way. Readers need no lock: every file
/// that they read is whole.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other writer holds it.
    pub fn acquire(path: &Path) -> io::Result<Self> {
        loop {
            // With a link of this name, the kernel would make the file where the link leads.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
            loop {
                match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Somebody may have removed the file during the wait: then others lock another file.
            let ours = file.metadata()?;
            if std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Self { _file: file });
            }
        }
    }
}
