//! The daemon's own token: a file that kubelet renews. So Keyferry reads it at each use.

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use http::header::HeaderValue;
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::files::{Unreadable, WholeFile};
use crate::text;

/// The longest token in bytes. Tokens of Kubernetes have about 1 KiB.
const MAX_LEN: usize = 16 * 1024;

/// Where the token is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnToken(PathBuf);

/// Why it cannot be used. The message never has the token.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("the daemon's own token, {path}: {problem}")]
pub struct OwnTokenError {
    path: String,
    problem: String,
}

impl OwnToken {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The `iss` in the token. Nothing is verified: kubelet wrote the file.
    ///
    /// # Errors
    /// The file cannot be read, or has no JWT with an `iss`.
    pub fn issuer(&self) -> Result<String, OwnTokenError> {
        #[derive(Deserialize)]
        struct Claims {
            iss: String,
        }
        let token = self.read()?;
        let mut parts = token.split(|byte| *byte == b'.');
        let payload = parts.nth(1).and_then(|payload| BASE64URL_NOPAD.decode(payload).ok());
        let claims = payload.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
        claims
            .map(|claims| claims.iss)
            .filter(|issuer| !issuer.is_empty())
            .ok_or_else(|| self.fault("it is not a ServiceAccount token with an `iss`"))
    }

    /// The value of an `Authorization` header. Blocks for as long as the file system does.
    pub(super) fn bearer(&self) -> Result<HeaderValue, OwnTokenError> {
        let token = self.read()?;
        let value = Zeroizing::new([b"Bearer ", token.as_slice()].concat());
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| self.fault("it has control characters, which no token has"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, OwnTokenError> {
        let file = WholeFile::read(&self.0, MAX_LEN).map_err(|cause| match cause {
            // In the system's own words.
            Unreadable::Absent => self.fault("it cannot be read: No such file or directory (os error 2)"),
            Unreadable::TooLarge { .. } => self.fault(format!("it is over {MAX_LEN} bytes")),
            Unreadable::Io(_) | Unreadable::NotAFile | Unreadable::TooMany(_) | Unreadable::Unstable => self.fault(format!("it {cause}")),
        })?;
        let trimmed = text::without_mark(&file.bytes).map_err(|cause| self.fault(format!("it {cause}")))?.trim_ascii();
        if trimmed.is_empty() {
            return Err(self.fault("it is empty"));
        }
        Ok(Zeroizing::new(trimmed.to_vec()))
    }

    pub(super) fn fault(&self, problem: impl Into<String>) -> OwnTokenError {
        OwnTokenError { path: self.0.display().to_string(), problem: problem.into() }
    }
}

impl OwnTokenError {
    /// Problem, and what to do.
    pub(super) fn into_parts(self) -> (String, String) {
        (self.to_string(), "kubelet mounts it where the Pod's automountServiceAccountToken is true".to_owned())
    }
}
