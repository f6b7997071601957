//! A file that holds one credential: a store token, a secret id, a password. Read when it is needed, so that a new one is used at once.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Fault;
use super::refusal::Refusal;
use crate::model::SecretBytes;
use zeroize::Zeroizing;

/// The longest credential in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Its content without blanks at its ends. The file is local and small: it is read on the caller's thread.
///
/// # Errors
/// It cannot be read, is empty, or is too large.
pub(super) fn read(path: &Path) -> Result<SecretBytes, Refusal> {
    trimmed(path, <[u8]>::trim_ascii)
}

/// Its content without the line's end: a password may well begin or end with a blank.
///
/// # Errors
/// As [`read`].
pub(super) fn read_line(path: &Path) -> Result<SecretBytes, Refusal> {
    trimmed(path, |text| {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        text.strip_suffix(b"\r").unwrap_or(text)
    })
}

fn trimmed(path: &Path, trim: impl Fn(&[u8]) -> &[u8]) -> Result<SecretBytes, Refusal> {
    let fault = |problem: String| {
        let reason = format!("{}: {problem} (the daemon enters the store with what this file holds)", path.display());
        Refusal::new(Fault::Unauthenticated, reason)
    };
    let file = File::open(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    // Room for all of it and one byte more: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    let most = u64::try_from(MAX_LEN + 1).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut text).map_err(|error| fault(format!("cannot be read: {error}")))?;
    match trim(&text) {
        _ if text.len() > MAX_LEN => Err(fault(format!("is over {MAX_LEN} bytes"))),
        [] => Err(fault("is empty".to_owned())),
        credential => Ok(SecretBytes::new(credential.to_vec())),
    }
}
