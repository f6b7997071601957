//! What a status without a secret means, and the message for it.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;

use crate::backend::Fault;
use crate::backend::remote::refusal::{Needles, Refusal, Words, short};
use crate::model::SecretBytes;
use crate::yaml::{Faults, Reader, not_text, unknown_key};

/// The most of the store's own words that a message repeats, in characters.
const MAX_WORDS: usize = 200;

/// What the configuration may say that a status means.
const MEANINGS: [(&str, Fault); 7] = [
    ("unauthenticated", Fault::Unauthenticated),
    ("denied", Fault::Denied),
    ("notFound", Fault::NotFound),
    ("invalid", Fault::Invalid),
    ("throttled", Fault::Throttled),
    ("timedOut", Fault::TimedOut),
    ("unavailable", Fault::Unavailable),
];

/// The statuses that mean something else than usual.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Statuses(BTreeMap<u16, Fault>);

// === impl Statuses ===

impl Statuses {
    pub(super) fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let Some(inner) = reader.reader("statuses", faults) else { return Self::default() };
        let mut statuses = BTreeMap::new();
        for (key, node) in inner.entries() {
            let path = inner.path(&key.text);
            let status = key.text.parse::<u16>().ok().filter(|status| (300..=599).contains(status) && key.text.len() == 3);
            if status.is_none() {
                faults.add(key.at, path.clone(), "is not a status of an answer without a secret (300 to 599)");
            }
            let meaning = node.text().map_or_else(|| Err(not_text(node)), meaning);
            match (status, meaning) {
                (Some(status), Ok(fault)) => _ = statuses.insert(status, fault),
                (_, Err(problem)) => faults.add(node.at, path, problem),
                (None, Ok(_)) => {}
            }
        }
        Self(statuses)
    }

    fn fault(&self, status: u16) -> Fault {
        self.0.get(&status).copied().unwrap_or_else(|| usual(status))
    }

    /// `whom` says who asked, as in "may ... read it". `words` are what the store says, and `after` says after how many tries.
    pub(super) fn refusal(&self, status: StatusCode, words: &Words, whom: &str, after: &str) -> Refusal {
        let told = match words.shown() {
            "" => status.to_string(),
            words => format!("{}: {words}", status.as_u16()),
        };
        let fault = self.fault(status.as_u16());
        let (problem, remedy) = match fault {
            Fault::Unauthenticated => ("does not accept the login", format!("is {whom} valid, and is it for this store?")),
            Fault::Denied => ("refused the read", format!("may {whom} read it there?")),
            Fault::NotFound => {
                ("has no such secret", "write it, or correct the name; `url` of the backend says where Keyferry looks for it".to_owned())
            }
            Fault::Throttled => ("throttles", "kubelet tries again by itself".to_owned()),
            Fault::TimedOut => ("did not answer in time", "kubelet tries again by itself".to_owned()),
            Fault::Invalid => (
                "does not understand the request",
                "correct the name or version in the class, or `url`, `method` and `body` of the backend".to_owned(),
            ),
            Fault::Unavailable if status.is_server_error() => ("failed", "see its log; kubelet tries again by itself".to_owned()),
            Fault::Unavailable
            | Fault::Down
            | Fault::Unhelpful
            | Fault::Corrupt
            | Fault::NoLogin
            | Fault::NoTurn
            | Fault::Short
            | Fault::TooLarge
            | Fault::Unsupported => ("gave no secret", "see its log; `statuses` of the backend says what a status means".to_owned()),
        };
        Refusal::new(fault, format!("the store {problem}: {told}{after} ({remedy})"))
    }
}

fn meaning(text: &str) -> Result<Fault, String> {
    let known = MEANINGS.iter().find(|(word, _)| *word == text).map(|(_, fault)| *fault);
    known.ok_or_else(|| unknown_key(text, &MEANINGS.map(|(word, _)| word)).replace("known key", "meaning of a status"))
}

/// RFC 9110, section 15.
const fn usual(status: u16) -> Fault {
    match status {
        401 => Fault::Unauthenticated,
        403 => Fault::Denied,
        404 | 410 => Fault::NotFound,
        400 | 405 | 414 | 415 | 422 => Fault::Invalid,
        408 | 504 => Fault::TimedOut,
        429 => Fault::Throttled,
        500..=599 => Fault::Unavailable,
        _ => Fault::Unhelpful,
    }
}

// === the store's own words ===

/// The members that APIs use for their reasons, also those of RFC 9457. A message shows the first one that has a text.
const REASONS: [&str; 6] = ["errors", "error", "message", "error_description", "detail", "title"];

/// Members that say what kind of answer it is. A reason may have the same words.
const KINDS: [&str; 8] = ["code", "error_code", "instance", "path", "reason", "status", "statusCode", "type"];

/// What an answer gives as its reason, if that is known. A web page is not repeated. `told`: whether messages may show it.
pub(super) fn words(body: &SecretBytes, needles: Needles, told: bool) -> Words {
    let answer = serde_json::from_slice::<Value>(short(body)).unwrap_or_default();
    let texts = REASONS.iter().find_map(|name| {
        let texts = texts(answer.get(name)?);
        (!texts.is_empty()).then_some(texts)
    });
    let known = [REASONS.as_slice(), KINDS.as_slice()].concat();
    Words::of(&texts.unwrap_or_default(), body, &known, needles, (MAX_WORDS, told))
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.get("message").and_then(Value::as_str).into_iter().collect(),
        Value::Bool(_) | Value::Null | Value::Number(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> String {
        let needles = Needles::default().secret(&SecretBytes::new(b"hunter2".to_vec()));
        let (status, body) = (StatusCode::from_u16(status).unwrap(), SecretBytes::new(body.as_bytes().to_vec()));
        let refusal = Statuses::default().refusal(status, &words(&body, needles, true), "the Pod's token", "");
        format!("{:?}: {}", refusal.fault, refusal.reason)
    }

    #[test]
    fn each_status_has_a_meaning_and_a_remedy() {
        let all = [400, 401, 402, 403, 404, 408, 410, 413, 418, 422, 429, 500, 503, 504, 304].map(|status| told(status, ""));
        insta::assert_snapshot!(all.join("\n"), @"
        Invalid: the store does not understand the request: 400 Bad Request (correct the name or version in the class, or `url`, `method` and `body` of the backend)
        Unauthenticated: the store does not accept the login: 401 Unauthorized (is the Pod's token valid, and is it for this store?)
        Unhelpful: the store gave no secret: 402 Payment Required (see its log; `statuses` of the backend says what a status means)
        Denied: the store refused the read: 403 Forbidden (may the Pod's token read it there?)
        NotFound: the store has no such secret: 404 Not Found (write it, or correct the name; `url` of the backend says where Keyferry looks for it)
        TimedOut: the store did not answer in time: 408 Request Timeout (kubelet tries again by itself)
        NotFound: the store has no such secret: 410 Gone (write it, or correct the name; `url` of the backend says where Keyferry looks for it)
        Unhelpful: the store gave no secret: 413 Payload Too Large (see its log; `statuses` of the backend says what a status means)
        Unhelpful: the store gave no secret: 418 I'm a teapot (see its log; `statuses` of the backend says what a status means)
        Invalid: the store does not understand the request: 422 Unprocessable Entity (correct the name or version in the class, or `url`, `method` and `body` of the backend)
        Throttled: the store throttles: 429 Too Many Requests (kubelet tries again by itself)
        Unavailable: the store failed: 500 Internal Server Error (see its log; kubelet tries again by itself)
        Unavailable: the store failed: 503 Service Unavailable (see its log; kubelet tries again by itself)
        TimedOut: the store did not answer in time: 504 Gateway Timeout (kubelet tries again by itself)
        Unhelpful: the store gave no secret: 304 Not Modified (see its log; `statuses` of the backend says what a status means)
        ");
    }

    #[test]
    fn the_stores_words_are_found_and_quote_nothing_that_was_sent() {
        let words = |body: &str| {
            let needles = Needles::default().secret(&SecretBytes::new(b"hunter2".to_vec()));
            super::words(&SecretBytes::new(body.as_bytes().to_vec()), needles, true).shown().to_owned()
        };
        assert_eq!(words(r#"{"error":"no such thing"}"#), "no such thing");
        assert_eq!(words(r#"{"error":{"code":403,"message":"not yours"}}"#), "not yours");
        assert_eq!(words(r#"{"errors":["a",{"message":"b\u001b[31m\nc"}]}"#), "a; b [31m; c");
        assert_eq!(
            words(r#"{"error":{"code":"DENIED","message":"denied: hunter33 is wrong","value":"hunter33"}}"#),
            "denied: [redacted] is wrong"
        );
        assert_eq!(words(r#"{"error":"code hunter33 is wrong","data":{"code":"hunter33"}}"#), "code [redacted] is wrong");
        assert_eq!(words(r#"{"title":"Forbidden","detail":"password hunter2 is wrong","status":403}"#), "password [redacted] is wrong");
        assert_eq!(words(&format!(r#"{{"message":"{}"}}"#, "ü".repeat(1000))).chars().count(), MAX_WORDS + 3);
        let long = format!(r#"{{"error":"no such thing","zeros":[{}0]}}"#, "0,".repeat(40_000));
        assert_eq!(words(&long), "", "what is too long is not looked through");
        for none in ["<html>error", "", "[]", r#""hunter2""#, r#"{"value":"hunter2"}"#, r#"{"error":true}"#] {
            assert_eq!(words(none), "");
        }
    }
}
