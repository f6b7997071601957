//! A file that holds one credential: a store token, a secret id, a password. Keyferry reads it each time it is needed, so that a new one is
//! used at once. A byte order mark is not a part of the credential.

use std::path::Path;

use tokio::time::Instant;

use super::refusal::Refusal;
use crate::backend::Fault;
use crate::files::{Desk, Unreadable, WholeFile};
use crate::model::SecretBytes;
use crate::text;

/// The longest credential in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Its content without blanks at the start and the end.
///
/// # Errors
/// It cannot be read, or not in time, is empty, too large, or UTF-16.
pub(in crate::backend) async fn read(desk: &Desk, path: &Path, deadline: Instant) -> Result<SecretBytes, Refusal> {
    trimmed(desk, path, deadline, <[u8]>::trim_ascii).await
}

/// Its content without the line end: a password may begin or end with a blank.
///
/// # Errors
/// As [`read`].
pub(in crate::backend) async fn read_line(desk: &Desk, path: &Path, deadline: Instant) -> Result<SecretBytes, Refusal> {
    trimmed(desk, path, deadline, text::without_line_end).await
}

async fn trimmed(desk: &Desk, path: &Path, deadline: Instant, trim: fn(&[u8]) -> &[u8]) -> Result<SecretBytes, Refusal> {
    let fault = |fault, problem: &str| {
        Refusal::new(fault, format!("{}: {problem} (the daemon logs in to the store with what is in this file)", path.display()))
    };
    let named = path.to_owned();
    // The file is the daemon's own, so no namespace pays for the read.
    let read = desk.run("", deadline, move || WholeFile::read(&named, MAX_LEN)).await;
    let file = read.map_err(|late| fault(late.into(), &format!("cannot be read: {late}")))?;
    let file = file.map_err(|cause| match cause {
        // In the system's own words.
        Unreadable::Absent => fault(Fault::Unauthenticated, "cannot be read: No such file or directory (os error 2)"),
        Unreadable::TooLarge { .. } => fault(Fault::Unauthenticated, &format!("is over {MAX_LEN} bytes")),
        Unreadable::Io(_) | Unreadable::NotAFile | Unreadable::TooMany(_) | Unreadable::Unstable => {
            fault(Fault::Unauthenticated, &cause.to_string())
        }
    })?;
    let text =
        text::without_mark(&file.bytes).map_err(|cause| Refusal::new(Fault::Unauthenticated, format!("{}: {cause}", path.display())))?;
    match trim(text) {
        [] => Err(fault(Fault::Unauthenticated, "is empty")),
        credential => Ok(SecretBytes::new(credential.to_vec())),
    }
}
