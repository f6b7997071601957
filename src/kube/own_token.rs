//! The daemon's own token: a file that kubelet renews, so it is read at each use.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use http::header::HeaderValue;
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest token in bytes. Kubernetes' are about 1 KiB.
const MAX_LEN: u64 = 16 * 1024;

/// Where the token is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnToken(PathBuf);

/// Why it cannot be used. The message never holds it.
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

    /// The `iss` it says it has. Nothing is verified: the file is kubelet's word to us.
    ///
    /// # Errors
    /// The file cannot be read, or holds no JWT with an `iss`.
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
            .ok_or_else(|| self.fault("it is no ServiceAccount token with an `iss`"))
    }

    /// The value of an `Authorization` header.
    pub(super) fn bearer(&self) -> Result<HeaderValue, OwnTokenError> {
        let token = self.read()?;
        let value = Zeroizing::new([b"Bearer ", token.as_slice()].concat());
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| self.fault("it holds what no token has: control characters"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, OwnTokenError> {
        let unreadable = |error: std::io::Error| self.fault(format!("it cannot be read: {error}"));
        let file = File::open(&self.0).map_err(unreadable)?;
        // Room for all of it and one byte more: a buffer that grows leaves copies behind.
        let room = usize::try_from(MAX_LEN + 1).unwrap_or(usize::MAX);
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        file.take(MAX_LEN + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_LEN {
            return Err(self.fault(format!("it is over {MAX_LEN} bytes")));
        }
        let trimmed = text.trim_ascii();
        if trimmed.is_empty() {
            return Err(self.fault("it is empty"));
        }
        Ok(Zeroizing::new(trimmed.to_vec()))
    }

    fn fault(&self, problem: impl Into<String>) -> OwnTokenError {
        OwnTokenError { path: self.0.display().to_string(), problem: problem.into() }
    }
}

impl OwnTokenError {
    /// Problem and remedy.
    pub(super) fn into_parts(self) -> (String, String) {
        (self.to_string(), "kubelet mounts it where the Pod's automountServiceAccountToken is true".to_owned())
    }
}
