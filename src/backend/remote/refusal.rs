//! A failed call to a store over a network, before the backend's name is added; and how much of the store's own words a message may show.

use std::fmt;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::time::Duration;
use zeroize::Zeroizing;

use crate::backend::{BackendError, Fault};
use crate::http::{HttpError, foreign_charset};
use crate::model::{BackendName, SecretBytes, SecretName};
use crate::redact::Hidden;

/// The longest answer in bytes that is searched for the store's words. Refusals are short, and JSON takes many times its text in memory.
const MAX_LOOKED_THROUGH: usize = 64 * 1024;

const REACH: &str = "is the store up, and do network policies let the daemon out to it? kubelet tries again by itself";

/// A failed call: what kind of failure, why, and in brackets what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::backend) struct Refusal {
    pub(in crate::backend) fault: Fault,
    pub(in crate::backend) reason: String,
    /// The reason for the node's admin, if that says more.
    pub(in crate::backend) full: Option<String>,
    /// The earliest time for the next request, if the store named one.
    pub(in crate::backend) retry_after: Option<Duration>,
}

/// What a message must not repeat of the store's words: the store may quote what it was sent.
#[derive(Debug, Default)]
pub(in crate::backend) struct Needles(Hidden);

/// What a store says in its own words: the raw text to search, and the text for messages.
pub(in crate::backend) struct Words {
    raw: Zeroizing<String>,
    shown: String,
}

// === impl Refusal ===

impl Refusal {
    pub(in crate::backend) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into(), full: None, retry_after: None }
    }

    /// With another reason for the node's admin.
    pub(in crate::backend) fn in_full(self, full: impl Into<String>) -> Self {
        Self { full: Some(full.into()), ..self }
    }

    pub(in crate::backend) fn into_error(self, backend: BackendName, secret: Option<SecretName>) -> BackendError {
        BackendError { retry_after: self.retry_after, ..BackendError::with(self.fault, backend, secret, self.reason, self.full) }
    }

    /// With the `Retry-After` of a store that throttles.
    pub(in crate::backend) fn until(self, retry_after: Option<Duration>) -> Self {
        let retry_after = retry_after.filter(|_| self.fault == Fault::Throttled);
        Self { retry_after, ..self }
    }

    /// As the node's admin reads it.
    pub(in crate::backend) fn for_admin(&self) -> &str {
        self.full.as_deref().unwrap_or(&self.reason)
    }

    /// Whether every call would have failed with it: the trouble is the store's, not the caller's.
    pub(in crate::backend) fn is_of_store(&self) -> bool {
        match self.fault {
            Fault::Down | Fault::NoLogin | Fault::Throttled | Fault::Unavailable | Fault::Unhelpful => true,
            Fault::Corrupt
            | Fault::Denied
            | Fault::Invalid
            | Fault::NotFound
            | Fault::NoTurn
            | Fault::Short
            | Fault::TimedOut
            | Fault::TooLarge
            | Fault::Unauthenticated
            | Fault::Unsupported => false,
        }
    }

    /// A file that the class names cannot be used. Only the log says which file, and what is wrong with it: otherwise the author of a class
    /// could find out which files the node has.
    pub(in crate::backend) fn class_files(fault: Fault, why: &str) -> Self {
        const WORDS: &str = "a TLS file that the class names cannot be used";
        const REMEDY: &str = "each must be a PEM file of at most 1 MiB below the folder that the backend's classMay.tlsDir names; the \
                              daemon's log has the reason";
        Self::new(fault, format!("{WORDS} ({REMEDY})")).in_full(format!("{WORDS}: {why} ({REMEDY})"))
    }

    /// An answer of success that does not hold all that was asked for (RFC 9110, section 15.3; RFC 4918, section 11.1).
    ///
    /// # Errors
    /// The answer is of that kind.
    pub(in crate::backend) fn of_partial(status: StatusCode) -> Result<(), Self> {
        let problem = match status.as_u16() {
            202 => "the store has only started to work on the request",
            205 => "an answer with this status has no content",
            206 => "the answer is only one part",
            207 => "the answer holds several answers",
            _ => return Ok(()),
        };
        let reason = format!("the store answered {status}: {problem} (check the address; a secret comes with status 200)");
        Err(Self::new(Fault::Corrupt, reason))
    }

    /// JSON that says that it is not UTF-8.
    ///
    /// # Errors
    /// The answer says so.
    pub(in crate::backend) fn of_charset(headers: &HeaderMap) -> Result<(), Self> {
        let Some(charset) = foreign_charset(headers) else { return Ok(()) };
        let reason = format!("the answer has the charset {charset}: JSON must be UTF-8 (check the store's Content-Type)");
        Err(Self::new(Fault::Corrupt, reason))
    }

    /// A call without an answer; `after` says after how many tries.
    pub(in crate::backend) fn unanswered(server: &dyn fmt::Display, error: &HttpError, after: &str) -> Self {
        let (fault, remedy) = match error {
            HttpError::Broken(_) => (Fault::Unavailable, REACH),
            HttpError::Connect(_) => (Fault::Down, REACH),
            HttpError::Ca { .. } | HttpError::ClientCertificate { .. } => {
                (Fault::Unavailable, "the cluster's admin has to correct that file")
            }
            HttpError::ClassFiles(why) => return Self::class_files(Fault::Invalid, why),
            HttpError::Certificate(_) => (
                Fault::Down,
                "the store's certificate must be for its address or for `serverName`, and its chain must end at the backend's `ca`",
            ),
            HttpError::Coded { header: "Content-Type", .. } => {
                (Fault::Corrupt, "the answer has several bodies: use an address, or a form of it, that answers with one body")
            }
            HttpError::Coded { .. } => (
                Fault::Corrupt,
                "turn that off in the store, or in the proxy in front of it; often a reverse proxy compresses although Keyferry sends \
                 `Accept-Encoding: identity`",
            ),
            HttpError::Proxy(_) => (Fault::Down, "check the proxy, or add the store's host to NO_PROXY"),
            HttpError::Redirect { .. } => (Fault::Unhelpful, "that may be the address of the active node, or of a load balancer"),
            HttpError::Request(_) => (Fault::Invalid, "correct the name in the class"),
            HttpError::Short => (Fault::Short, "kubelet tries again by itself"),
            HttpError::TimedOut => (Fault::TimedOut, "is the store slow or out of reach? kubelet tries again by itself"),
            HttpError::Tls(_) => (Fault::Down, "check the backend's address, `clientCert` and `clientKey`"),
            HttpError::TooLarge { .. } => (Fault::TooLarge, "ask for less, or raise limits.secretBytes"),
        };
        Self::new(fault, format!("{server}: {error}{after} ({remedy})"))
    }
}

// === the store's own words ===

impl Needles {
    /// Tokens and the like.
    pub(in crate::backend) fn secret(mut self, secret: &SecretBytes) -> Self {
        self.add_secret(secret);
        self
    }

    pub(in crate::backend) fn add_secret(&mut self, secret: &SecretBytes) {
        self.0.credential(secret.expose());
    }

    /// A store's words that came without a JSON answer, ready for a message: one line, cut, without what was sent.
    pub(in crate::backend) fn clean(&self, words: &str, most: usize) -> String {
        self.0.clean(words, most)
    }

    /// Every text in a JSON document.
    pub(in crate::backend) fn json(mut self, json: &str) -> Self {
        if let Ok(value) = serde_json::from_str::<Value>(json) {
            self.leaves(&value);
        }
        self
    }

    /// Every text of an answer except in these members, which hold the store's words. `false`: the answer cannot be searched.
    fn answer(&mut self, body: &SecretBytes, but: &[&str]) -> bool {
        let Ok(answer) = serde_json::from_slice::<Value>(short(body)) else { return false };
        self.values(&answer, but);
        true
    }

    fn values(&mut self, answer: &Value, but: &[&str]) {
        let Value::Object(members) = answer else { return self.leaves(answer) };
        for (name, member) in members {
            match member {
                member if !but.contains(&name.as_str()) => self.leaves(member),
                // An error may be an object that has words and also values.
                Value::Object(_) => self.values(member, but),
                Value::Array(items) => items.iter().filter(|item| item.is_object()).for_each(|item| self.values(item, but)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }

    fn leaves(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.0.value(text.as_bytes()),
            Value::Number(number) => self.0.value(number.to_string().as_bytes()),
            Value::Array(items) => items.iter().for_each(|item| self.leaves(item)),
            Value::Object(members) => members.values().for_each(|member| self.leaves(member)),
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// The part of an answer that is searched: all of it, or nothing.
pub(in crate::backend) fn short(body: &SecretBytes) -> &[u8] {
    Some(body.expose()).filter(|body| body.len() <= MAX_LOOKED_THROUGH).unwrap_or_default()
}

// === impl Words ===

impl Words {
    /// `texts` are those of an answer's `body`, under its members `of`. A message shows at most `most` characters of them, without what was
    /// sent and without the rest of the answer. It shows nothing of an answer that cannot be searched.
    pub(in crate::backend) fn of(
        texts: &[&str],
        body: &SecretBytes,
        of: &[&str],
        mut needles: Needles,
        (most, told): (usize, bool),
    ) -> Self {
        let raw = Zeroizing::new(texts.join("\n"));
        let tell = told && !raw.is_empty() && needles.answer(body, of);
        let shown = if tell { needles.0.clean(&raw, most) } else { String::new() };
        Self { raw, shown }
    }

    /// Whether the store says that, even if messages may not show it.
    pub(in crate::backend) fn say(&self, part: &str) -> bool {
        self.raw.contains(part)
    }

    /// Ready for a message: one line, cut. Empty: the store said nothing, or messages show nothing of it.
    pub(in crate::backend) fn shown(&self) -> &str {
        &self.shown
    }

    /// The same without its text for messages: nobody knows what the store may quote.
    pub(in crate::backend) fn untold(self) -> Self {
        Self { shown: String::new(), ..self }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({:?})", self.shown)
    }
}
