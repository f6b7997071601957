//! A call to a store over a network that failed, before it is known under which backend's name; and what may be told of the store's own words.

use std::fmt;

use serde_json::Value;

use super::{BackendError, Fault};
use crate::http::HttpError;
use crate::model::{BackendName, SecretBytes, SecretName};

/// What is shorter cannot be told from any word, and is no secret.
const MIN_NEEDLE: usize = 4;

/// A failed call: what kind of failure, why, and in brackets what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) reason: String,
    /// The reason for the node's admin, where that says more.
    pub(super) full: Option<String>,
}

/// What must not be repeated of the store's words: it may quote what it was sent.
#[derive(Default)]
pub(super) struct Needles(Vec<zeroize::Zeroizing<String>>);

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into(), full: None }
    }

    /// With another reason for the node's admin.
    pub(super) fn in_full(self, full: impl Into<String>) -> Self {
        Self { full: Some(full.into()), ..self }
    }

    pub(super) fn into_error(self, backend: BackendName, secret: Option<SecretName>) -> BackendError {
        BackendError::with(self.fault, backend, secret, self.reason, self.full)
    }

    /// As the node's admin reads it.
    pub(super) fn for_admin(&self) -> &str {
        self.full.as_deref().unwrap_or(&self.reason)
    }

    /// Whether everybody's call would have failed with it: the store's own trouble, not that of who asked.
    pub(super) fn is_of_store(&self) -> bool {
        match self.fault {
            Fault::Throttled | Fault::Unavailable => true,
            Fault::Corrupt
            | Fault::Denied
            | Fault::Invalid
            | Fault::NotFound
            | Fault::TimedOut
            | Fault::TooLarge
            | Fault::Unauthenticated
            | Fault::Unsupported => false,
        }
    }

    /// A file that the class names cannot be used. What is wrong with which of them is for the log alone: a class's author could ask by it
    /// what there is on the node.
    pub(super) fn class_files(fault: Fault, why: &str) -> Self {
        const WORDS: &str = "a TLS file that the class names cannot be used";
        const REMEDY: &str = "each must be a PEM file of at most 1 MiB below the folder that the backend's classMay.tlsDir names; the \
                              daemon's log has the reason";
        Self::new(fault, format!("{WORDS} ({REMEDY})")).in_full(format!("{WORDS}: {why} ({REMEDY})"))
    }

    /// A call that brought no answer; `after` says after how many tries.
    pub(super) fn unanswered(server: &dyn fmt::Display, error: &HttpError, after: &str) -> Self {
        let (fault, remedy) = match error {
            HttpError::Broken(_) | HttpError::Connect(_) => {
                (Fault::Unavailable, "is the store up, and do network policies let the daemon out to it? kubelet tries again by itself")
            }
            HttpError::Ca { .. } | HttpError::ClientCertificate { .. } => (Fault::Unavailable, "the cluster's admin has to mend that file"),
            HttpError::ClassFiles(why) => return Self::class_files(Fault::Invalid, why),
            HttpError::Certificate(_) => {
                (Fault::Unavailable, "the store's certificate must be for its address, or `serverName`, and lead to the backend's `ca`")
            }
            HttpError::Proxy(_) => (Fault::Unavailable, "see to the proxy, or name the store's host in NO_PROXY"),
            HttpError::Redirect { .. } => (Fault::Unavailable, "that may be the address of the active node, or of what balances the load"),
            HttpError::Request(_) => (Fault::Invalid, "correct the name in the class"),
            HttpError::TimedOut => (Fault::TimedOut, "is the store slow or out of reach? kubelet tries again by itself"),
            HttpError::Tls(_) => (Fault::Unavailable, "see the backend's address, `clientCert` and `clientKey`"),
            HttpError::TooLarge { .. } => (Fault::TooLarge, "ask for less, or raise limits.secretBytes"),
        };
        Self::new(fault, format!("{server}: {error}{after} ({remedy})"))
    }
}

// === the store's own words ===

impl Needles {
    /// Tokens and the like.
    pub(super) fn secret(mut self, secret: &SecretBytes) -> Self {
        self.add_secret(secret);
        self
    }

    pub(super) fn add_secret(&mut self, secret: &SecretBytes) {
        self.add(&String::from_utf8_lossy(secret.expose()));
    }

    /// Every text in a JSON document.
    pub(super) fn json(mut self, json: &str) -> Self {
        if let Ok(value) = serde_json::from_str::<Value>(json) {
            self.leaves(&value);
        }
        // What holds another is replaced first.
        self.0.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        self
    }

    fn leaves(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text),
            Value::Number(number) => self.add(&number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.leaves(item)),
            Value::Object(members) => members.values().for_each(|member| self.leaves(member)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn add(&mut self, text: &str) {
        if text.len() >= MIN_NEEDLE {
            self.0.push(zeroize::Zeroizing::new(text.to_owned()));
        }
    }

    /// One line. Go's list of errors (`1 error occurred:`, each with a star) becomes a sentence.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = zeroize::Zeroizing::new(text.to_owned());
        for needle in &self.0 {
            if text.contains(needle.as_str()) {
                *text = text.replace(needle.as_str(), "[redacted]");
            }
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines = lines.filter(|line| !(line.ends_with("occurred:") && line.contains(" error")));
        let joined = lines.map(|line| line.trim_start_matches("* ")).collect::<Vec<_>>().join("; ");
        joined.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// At most so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
