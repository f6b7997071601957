//! What can go wrong with a call, and the message for it, still without the backend's name.

use serde::Deserialize;
use serde_json::Value;

use super::wire::Reply;
use crate::backend::Fault;

use crate::backend::remote::refusal::short;
pub(super) use crate::backend::remote::refusal::{Needles, Refusal, Words};

/// The most of the store's own words that a message repeats, in characters.
const MAX_WORDS: usize = 400;

/// The most warnings of one answer that are looked at.
const MAX_WARNINGS: usize = 16;

/// What a status means for every request; `None`: it depends on the request. `words` are the store's own.
pub(super) fn of_status(reply: &Reply, words: &Words) -> Option<Refusal> {
    let Reply { status, after, .. } = reply;
    let told = match words.shown() {
        "" => status.to_string(),
        words => format!("{}: {words}", status.as_u16()),
    };
    let refusal =
        |fault, problem: String, remedy: &str| Some(Refusal::new(fault, format!("{problem}{after} ({remedy})")).until(reply.retry_after));
    match status.as_u16() {
        412 => refusal(Fault::Unhelpful, format!("the store's replica has not caught up: {told}"), "kubelet tries again by itself"),
        429 => refusal(
            Fault::Throttled,
            format!("the store throttles: {told}"),
            "a rate limit quota of the store; kubelet tries again by itself",
        ),
        472 | 473 => refusal(
            Fault::Unhelpful,
            "the store is a secondary that serves no requests".to_owned(),
            "name the address of the primary, or of a standby",
        ),
        // Not `Down`: it may be only one namespace of OpenBao that is sealed. The server's health shows which.
        501 => refusal(Fault::Unavailable, "the store is not initialised".to_owned(), "an operator must run `bao operator init`"),
        503 if words.say("sealed") => {
            // A new server says so too, until it is initialised.
            refusal(
                Fault::Unavailable,
                "the store is sealed".to_owned(),
                "an operator must unseal it: `bao operator unseal`; a new store needs `bao operator init` first",
            )
        }
        503 if words.say("not initialized") => {
            refusal(Fault::Unavailable, "the store is not initialised".to_owned(), "an operator must run `bao operator init`")
        }
        500..=599 => refusal(Fault::Unavailable, format!("the store failed: {told}"), "see its log; kubelet tries again by itself"),
        _ => None,
    }
}

// === the store's own words ===

/// The members of an answer that are its words.
const WORDS: [&str; 3] = ["errors", "request_id", "warnings"];

/// What an answer gives as its reasons.
pub(super) fn words(reply: &Reply, needles: Needles) -> Words {
    #[derive(Deserialize, Default)]
    struct Errors {
        #[serde(default)]
        errors: Option<Vec<Value>>,
    }
    let errors = serde_json::from_slice::<Errors>(short(&reply.body)).unwrap_or_default().errors.unwrap_or_default();
    let texts: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
    Words::of(&texts, &reply.body, &WORDS, needles, (MAX_WORDS, reply.told))
}

/// The words, or the status where there are none to show.
pub(super) fn or_status(words: &Words, reply: &Reply) -> String {
    if words.shown().is_empty() { reply.status.to_string() } else { words.shown().to_owned() }
}

/// Warnings that came with an answer.
pub(super) fn warnings(reply: &Reply, raw: Option<&str>, needles: impl Fn() -> Needles) -> Vec<Words> {
    let raw = raw.filter(|_| !short(&reply.body).is_empty());
    let texts: Vec<String> = raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    let texts = texts.iter().take(MAX_WARNINGS);
    texts.map(|text| Words::of(&[text], &reply.body, &WORDS, needles(), (MAX_WORDS, reply.told))).collect()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::model::SecretBytes;

    fn reply(body: &str, told: bool) -> Reply {
        Reply::of(StatusCode::BAD_REQUEST, body, told)
    }

    fn told(body: &str) -> String {
        let needles =
            Needles::default().secret(&SecretBytes::new(b"s.token".to_vec())).json(r#"{"password":"hunter2","list":["one-time",1234567]}"#);
        words(&reply(body, true), needles).shown().to_owned()
    }

    #[test]
    fn the_stores_words_are_one_line_and_quote_nothing_that_was_sent() {
        assert_eq!(told("{\"errors\":[\"1 error occurred:\\n\\t* permission denied\\n\\n\"]}"), "permission denied");
        assert_eq!(told(r#"{"errors":["a","b\u001b[31m\u202e"]}"#), "a; b [31m");
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
    fn a_value_of_the_answer_is_not_told_by_its_words() {
        let body = r#"{"errors":["pq: password hunter22 is wrong"],"data":{"a":[{"password":"hunter22"}]},"request_id":"pq: password"}"#;
        assert_eq!(told(body), "pq: password [redacted] is wrong");
        let answer = reply(r#"{"data":{"password":"hunter22"}}"#, true);
        let said = warnings(&answer, Some(r#"["pq: password HUNTER22 is weak","second"]"#), Needles::default);
        assert_eq!(said.iter().map(Words::shown).collect::<Vec<_>>(), ["pq: password [redacted] is weak", "second"]);
        let deep = format!(r#"{{"errors":["password hunter22"],"data":{}"hunter22"{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(told(&deep), "", "what cannot be searched is not shown");
        let long = format!(r#"{{"errors":["denied"],"data":[{}0]}}"#, "0,".repeat(40_000));
        assert_eq!(told(&long), "", "what is too long to be searched is not shown");
        assert!(warnings(&reply(&long, true), Some(r#"["a"]"#), Needles::default).is_empty());
    }

    #[test]
    fn where_no_words_are_told_they_still_say_what_is_the_matter() {
        let sealed = words(&reply(r#"{"errors":["Vault is sealed"]}"#, false), Needles::default());
        assert!(sealed.shown().is_empty() && sealed.say("sealed"));
        let refusal = of_status(&Reply::of(StatusCode::SERVICE_UNAVAILABLE, "", false), &sealed).unwrap();
        assert!(refusal.reason.starts_with("the store is sealed"));
        assert!(warnings(&reply("{}", false), Some(r#"["a"]"#), Needles::default)[0].shown().is_empty());
    }

    #[test]
    fn what_the_store_itself_is_in_trouble_with() {
        let of = |status: u16, said: &str| {
            let body = serde_json::json!({ "errors": [said] }).to_string();
            let reply = Reply::of(StatusCode::from_u16(status).unwrap(), &body, true);
            of_status(&reply, &words(&reply, Needles::default())).map(|refusal| refusal.reason)
        };
        insta::assert_snapshot!(of(503, "Vault is sealed").unwrap(), @"the store is sealed (an operator must unseal it: `bao operator unseal`; a new store needs `bao operator init` first)");
        insta::assert_snapshot!(of(501, "").unwrap(), @"the store is not initialised (an operator must run `bao operator init`)");
        insta::assert_snapshot!(of(500, "pq: down").unwrap(), @"the store failed: 500: pq: down (see its log; kubelet tries again by itself)");
        insta::assert_snapshot!(of(502, "").unwrap(), @"the store failed: 502 Bad Gateway (see its log; kubelet tries again by itself)");
        assert_eq!(of(403, "permission denied"), None);
    }

    /// It may be only one namespace of OpenBao that is sealed. So an answer to one tenant never means that the server serves nobody.
    #[test]
    fn no_answer_to_a_request_says_that_the_server_is_down() {
        for (status, said) in [(503, "1 error occurred:\n\t* namespace is sealed\n\n"), (503, "Vault is sealed"), (501, ""), (500, "down")]
        {
            let reply = Reply::of(StatusCode::from_u16(status).unwrap(), &serde_json::json!({ "errors": [said] }).to_string(), true);
            let refusal = of_status(&reply, &words(&reply, Needles::default())).unwrap();
            assert_eq!(refusal.fault, Fault::Unavailable, "{said}");
        }
    }
}
