//! What can go wrong with a call, and how it is told: before it is known under which backend's name.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::wire::Server;
use crate::backend::Fault;
use crate::http::HttpError;
use crate::model::SecretBytes;

/// The most of the store's own words that a message repeats, in characters.
const MAX_WORDS: usize = 400;

/// What is shorter cannot be told from any word, and is no secret.
const MIN_NEEDLE: usize = 4;

/// A failed call: what kind of failure, why, and in brackets what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) reason: String,
}

/// What must not be repeated of the store's words: it may quote what it was sent.
#[derive(Default)]
pub(super) struct Needles(Vec<zeroize::Zeroizing<String>>);

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(fault: Fault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into() }
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

    /// A call that brought no answer; `after` says after how many tries.
    pub(super) fn unanswered(server: &Server, error: &HttpError, after: &str) -> Self {
        let (fault, remedy) = match error {
            HttpError::Broken(_) | HttpError::Connect(_) => {
                (Fault::Unavailable, "is the store up, and do network policies let the daemon out to it? kubelet tries again by itself")
            }
            HttpError::Ca { .. } | HttpError::ClientCertificate { .. } => (Fault::Unavailable, "the cluster's admin has to mend that file"),
            HttpError::Certificate(_) => {
                (Fault::Unavailable, "the store's certificate must be for its address, or `serverName`, and lead to the backend's `ca`")
            }
            HttpError::Proxy(_) => (Fault::Unavailable, "see to the proxy, or name the store's host in NO_PROXY"),
            HttpError::Redirect { .. } => (Fault::Unavailable, "name the address of the active node, or of what balances the load"),
            HttpError::Request(_) => (Fault::Invalid, "correct the name in the class"),
            HttpError::TimedOut => (Fault::TimedOut, "is the store slow or out of reach? kubelet tries again by itself"),
            HttpError::Tls(_) => (Fault::Unavailable, "see the backend's `address`, `clientCert` and `clientKey`"),
            HttpError::TooLarge { .. } => (Fault::TooLarge, "ask for less, or raise limits.secretBytes"),
        };
        Self::new(fault, format!("{server}: {error}{after} ({remedy})"))
    }
}

/// What a status means whatever was asked; `None`: it hangs on that. `words` are the store's own.
pub(super) fn of_status(status: StatusCode, words: &str, after: &str) -> Option<Refusal> {
    let told = if words.is_empty() { format!("{status}") } else { format!("{}: {words}", status.as_u16()) };
    let refusal = |fault, problem: String, remedy: &str| Some(Refusal::new(fault, format!("{problem}{after} ({remedy})")));
    match status.as_u16() {
        412 => refusal(Fault::Throttled, format!("the store's replica has not caught up: {told}"), "kubelet tries again by itself"),
        429 => refusal(
            Fault::Throttled,
            format!("the store throttles: {told}"),
            "a rate limit quota of the store; kubelet tries again by itself",
        ),
        472 | 473 => refusal(
            Fault::Unavailable,
            "the store is a secondary that serves no requests".to_owned(),
            "name the address of the primary, or of a standby",
        ),
        501 => refusal(Fault::Unavailable, "the store is not initialised".to_owned(), "an operator has to: `bao operator init`"),
        503 if words.contains("sealed") => {
            // A new server says so too, until it is initialised.
            refusal(
                Fault::Unavailable,
                "the store is sealed".to_owned(),
                "an operator has to unseal it: `bao operator unseal`; a new store wants `bao operator init` first",
            )
        }
        503 if words.contains("not initialized") => {
            refusal(Fault::Unavailable, "the store is not initialised".to_owned(), "an operator has to: `bao operator init`")
        }
        500..=599 => refusal(Fault::Unavailable, format!("the store failed: {told}"), "see its log; kubelet tries again by itself"),
        _ => None,
    }
}

// === the store's own words ===

/// What an answer gives as its reasons, fit for a message: one line, cut, without what must not be repeated. Empty: it gave none.
pub(super) fn words(body: &SecretBytes, needles: &Needles) -> String {
    #[derive(Deserialize, Default)]
    struct Errors {
        #[serde(default)]
        errors: Option<Vec<Value>>,
    }
    let errors = serde_json::from_slice::<Errors>(body.expose()).unwrap_or_default().errors.unwrap_or_default();
    let texts: Vec<String> =
        errors.iter().filter_map(Value::as_str).map(|text| needles.clean(text)).filter(|text| !text.is_empty()).collect();
    cut(&texts.join("; "))
}

/// Warnings that came with an answer, fit for a log.
pub(super) fn warnings(raw: Option<&str>, needles: &Needles) -> Vec<String> {
    let texts: Vec<String> = raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    texts.iter().map(|text| cut(&needles.clean(text))).filter(|text| !text.is_empty()).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl Needles {
    /// Tokens and the like.
    pub(super) fn secret(mut self, secret: &SecretBytes) -> Self {
        self.add(&String::from_utf8_lossy(secret.expose()));
        self
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
    fn clean(&self, text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> String {
        let needles =
            Needles::default().secret(&SecretBytes::new(b"s.token".to_vec())).json(r#"{"password":"hunter2","list":["one-time",1234567]}"#);
        words(&SecretBytes::new(body.as_bytes().to_vec()), &needles)
    }

    #[test]
    fn the_stores_words_are_one_line_and_quote_nothing_that_was_sent() {
        assert_eq!(told("{\"errors\":[\"1 error occurred:\\n\\t* permission denied\\n\\n\"]}"), "permission denied");
        assert_eq!(told(r#"{"errors":["a","b\u001b[31m"]}"#), "a; b [31m");
        assert_eq!(
            told(r#"{"errors":["cannot use hunter2, one-time, 1234567 with s.token"]}"#),
            "cannot use [redacted], [redacted], [redacted] with [redacted]"
        );
        assert_eq!(told(r#"{"errors":[]}"#), "");
        assert_eq!(told("<html>"), "");
        assert_eq!(told(r#"{"errors":[{"x":1}, null]}"#), "");
        assert_eq!(told(&format!(r#"{{"errors":["{}"]}}"#, "x".repeat(1000))).len(), MAX_WORDS + 3);
    }

    #[test]
    fn what_the_store_itself_is_in_trouble_with() {
        let of = |status: u16, words: &str| of_status(StatusCode::from_u16(status).unwrap(), words, "").map(|refusal| refusal.reason);
        insta::assert_snapshot!(of(503, "Vault is sealed").unwrap(), @"the store is sealed (an operator has to unseal it: `bao operator unseal`; a new store wants `bao operator init` first)");
        insta::assert_snapshot!(of(501, "").unwrap(), @"the store is not initialised (an operator has to: `bao operator init`)");
        insta::assert_snapshot!(of(500, "pq: down").unwrap(), @"the store failed: 500: pq: down (see its log; kubelet tries again by itself)");
        insta::assert_snapshot!(of(502, "").unwrap(), @"the store failed: 502 Bad Gateway (see its log; kubelet tries again by itself)");
        assert_eq!(of(403, "permission denied"), None);
    }
}
