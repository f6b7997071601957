//! What a store says in its own words, and what of it reaches a Pod's event, the log and the audit line.

use std::fs;

use serde_json::{Value, json};

use crate::api_server::{Answer, ApiServer, Call};
use crate::bao::Bao;
use crate::support::{House, ISSUER, Provider, eventually, web};

const TOKEN: &str = "hvs.CAESIJlU02LQZq-Gr5YnXrGhkVvT7Yc3bSUZ";
const VALUE: &str = "correct horse battery staple";

/// A store that quotes what it gets, and what it has, in every way it can.
fn quoting(call: &Call) -> (u16, String) {
    let errors = |status, words: &str| (status, json!({ "errors": [words], "data": { "password": VALUE } }).to_string());
    match call.path.trim_start_matches("/v1/") {
        "auth/token/lookup-self" => (200, json!({ "data": { "id": TOKEN, "ttl": 0, "renewable": false } }).to_string()),
        "kv/plain" => errors(500, &format!("bad token {TOKEN}!")),
        "kv/shorter" => errors(500, &format!("bad token {}!", TOKEN.replace("GhkV", "hkV"))),
        "kv/case" => errors(403, &format!("bad token {}!", TOKEN.to_lowercase())),
        "kv/broken" => errors(400, &format!("bad token {}!", TOKEN.replace("Gr5Y", "Gr5\n  Y"))),
        "kv/hidden" => errors(404, &format!("bad token {}!", TOKEN.replace("Gr5Y", "Gr5\u{200b}\u{202e}Y"))),
        "kv/base64" => errors(503, &format!("bad token {}!", data_encoding::BASE64.encode(format!("x:{TOKEN}").as_bytes()))),
        "kv/value" => errors(500, &format!("pq: password \"{VALUE}\" is wrong")),
        "kv/spaces" => errors(500, "pq: password CorrectHorse BatteryStaple is wrong"),
        "kv/bidi" => errors(500, "safe\u{202e}txt.exe\u{2028}WARN forged\u{85}line\r\nanother"),
        "kv/words" => errors(500, "the engine is out of order"),
        "kv/warned" => {
            let warnings = [format!("weak password {VALUE}"), format!("token {TOKEN} ends soon"), "use \u{202e}another".to_owned()];
            (200, json!({ "data": { "password": VALUE }, "warnings": warnings }).to_string())
        }
        _ => (404, json!({ "errors": [] }).to_string()),
    }
}

/// A provider that reads from such a store with this token, by the kind `vault`.
fn house(store: &ApiServer, more: &str) -> House {
    let house = House::bare();
    fs::write(house.path("ca.pem"), &store.ca).unwrap();
    fs::write(house.path("token"), TOKEN).unwrap();
    let (root, uid) = (house.folder.path().display(), rustix::process::geteuid().as_raw());
    let (vault, http) = (store.url(""), store.url("/v1/{name}"));
    let config = format!(
        "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{uid}]\nlog: {{ level: debug }}\n\
         identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
         backends:\n  bao: {{ kind: vault, address: \"{vault}\", ca: {root}/ca.pem, auth: {{ method: token, tokenFile: {root}/token }}{more} }}\n  \
           http: {{ kind: http, url: \"{http}\", ca: {root}/ca.pem, auth: {{ bearer: {{ file: {root}/token }} }}{more} }}\n\
         policy: [{{ pods: {{ namespace: shop }}, read: [\"bao/kv/*\", \"http/kv/*\"] }}]\n"
    );
    fs::write(house.path("keyferry.yaml"), config).unwrap();
    house
}

async fn ask(house: &House, provider: &Provider, backend: &str, name: &str) -> String {
    let objects = format!("- {{backend: {backend}, secret: kv/{name}, field: password, path: p}}");
    let answer = provider.mount(house.asking(&web(), json!({ "objects": objects }))).await;
    answer.map_or_else(|status| status.message().to_owned(), |answer| String::from_utf8(answer.files[0].contents.to_vec()).unwrap())
}

/// No 12 characters of it in a row, whatever the case and the white space.
fn tells(text: &str, secret: &str) -> bool {
    let fold = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (text, secret) = (fold(text), fold(secret));
    secret.windows(12).any(|run| text.windows(12).any(|other| other == run))
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_token_nor_a_value_is_told_by_the_stores_words() {
    let store = ApiServer::start(Answer::With(Box::new(quoting))).await;
    let house = house(&store, "");
    let provider = house.serve();
    let mut told = Vec::new();
    for backend in ["bao", "http"] {
        for name in ["plain", "shorter", "case", "broken", "hidden", "base64", "value", "spaces", "bidi", "words"] {
            let message = ask(&house, &provider, backend, name).await;
            assert!(message.starts_with("Backend") || message.starts_with("Invalid") || message.starts_with("SecretNotFound"), "{message}");
            assert!(!tells(&message, TOKEN) && !tells(&message, VALUE), "{backend} {name}: {message}");
            assert!(!message.chars().any(|c| c.is_control() || matches!(c, '\u{200b}' | '\u{2028}' | '\u{202e}')), "{message:?}");
            told.push(message.replace(&house.folder.path().display().to_string(), "DIR"));
        }
    }
    assert_eq!(ask(&house, &provider, "bao", "warned").await, VALUE);
    eventually("the store's warnings are in the log", async || provider.log().contains("weak password [redacted]")).await;
    let (log, audit) = (provider.log(), Value::from(house.audit()).to_string());
    assert!(log.contains("the store warns"), "{log}");
    for text in [&log, &audit] {
        assert!(!tells(text, TOKEN) && !tells(text, VALUE), "{text}");
        assert!(!text.contains(['\u{200b}', '\u{2028}', '\u{202e}']), "{text}");
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    BackendUnavailable: object 1 (p): bao/kv/plain: the store failed: 500: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): bao/kv/shorter: the store failed: 500: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendDenied: object 1 (p): bao/kv/case: bao refused the read: bad token [redacted]! for the token in DIR/token (does the policy allow read on kv/case?)
    InvalidRequest: object 1 (p): bao/kv/broken: the store refused the read: bad token [redacted]! (correct the class: the path, the method or the arguments)
    SecretNotFound: object 1 (p): bao/kv/hidden: there is no such secret: bad token [redacted]! (write it, or correct the path)
    BackendUnavailable: object 1 (p): bao/kv/base64: the store failed: 503: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): bao/kv/value: the store failed: 500: pq: password "[redacted]" is wrong after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): bao/kv/spaces: the store failed: 500: pq: password [redacted] is wrong after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): bao/kv/bidi: the store failed: 500: safetxt.exe; WARN forged; line; another after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): bao/kv/words: the store failed: 500: the engine is out of order after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/plain: the store failed: 500: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/shorter: the store failed: 500: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendDenied: object 1 (p): http/kv/case: the store refused the read: 403: bad token [redacted]! (may the token in DIR/token read it there?)
    InvalidRequest: object 1 (p): http/kv/broken: the store does not understand the request: 400: bad token [redacted]! (correct the name or version in the class, or `url`, `method` and `body` of the backend)
    SecretNotFound: object 1 (p): http/kv/hidden: the store has no such secret: 404: bad token [redacted]! (write it, or correct the name; `url` of the backend says where Keyferry looks for it)
    BackendUnavailable: object 1 (p): http/kv/base64: the store failed: 503: bad token [redacted]! after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/value: the store failed: 500: pq: password "[redacted]" is wrong after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/spaces: the store failed: 500: pq: password [redacted] is wrong after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/bidi: the store failed: 500: safetxt.exe; WARN forged; line; another after 3 tries (see its log; kubelet tries again by itself)
    BackendUnavailable: object 1 (p): http/kv/words: the store failed: 500: the engine is out of order after 3 tries (see its log; kubelet tries again by itself)
    "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_admin_wants_it_the_store_is_not_quoted_at_all() {
    let store = ApiServer::start(Answer::With(Box::new(quoting))).await;
    let house = house(&store, ", storeWords: false");
    let provider = house.serve();
    let mut told = Vec::new();
    for backend in ["bao", "http"] {
        for name in ["words", "case", "broken", "hidden"] {
            told.push(ask(&house, &provider, backend, name).await.replace(&house.folder.path().display().to_string(), "DIR"));
        }
    }
    assert_eq!(ask(&house, &provider, "bao", "warned").await, VALUE);
    let all = format!("{told:?}{}{}", provider.log(), Value::from(house.audit()));
    for word in ["out of order", "bad token", "weak", "the store warns"] {
        assert!(!all.contains(word), "{word}: {all}");
    }
    insta::assert_snapshot!(told.join("\n"), @"
    BackendUnavailable: object 1 (p): bao/kv/words: the store failed: 500 Internal Server Error after 3 tries (see its log; kubelet tries again by itself)
    BackendDenied: object 1 (p): bao/kv/case: bao refused the read: 403 for the token in DIR/token (does the policy allow read on kv/case?)
    InvalidRequest: object 1 (p): bao/kv/broken: the store refused the read: 400 Bad Request (correct the class: the path, the method or the arguments)
    SecretNotFound: object 1 (p): bao/kv/hidden: there is no such secret (write it, or correct the path)
    BackendUnavailable: object 1 (p): http/kv/words: the store failed: 500 Internal Server Error after 3 tries (see its log; kubelet tries again by itself)
    BackendDenied: object 1 (p): http/kv/case: the store refused the read: 403 Forbidden (may the token in DIR/token read it there?)
    InvalidRequest: object 1 (p): http/kv/broken: the store does not understand the request: 400 Bad Request (correct the name or version in the class, or `url`, `method` and `body` of the backend)
    SecretNotFound: object 1 (p): http/kv/hidden: the store has no such secret: 404 Not Found (write it, or correct the name; `url` of the backend says where Keyferry looks for it)
    ");
}

/// Keyferry still knows what is wrong by the store's words, even if it does not show them.
#[tokio::test]
async fn a_sealed_store_is_known_without_its_words() {
    let store = super::Store::new().await;
    store.configure(&store.bao.url(), ", storeWords: false", "");
    let provider = store.house.serve();
    Bao::seal(&store.bao).await;
    let objects = "- {secret: kv/data/shop/db, field: password, path: p}";
    eventually("the message says that the store is sealed", async || {
        let refused = provider.mount(store.asking(&web(), objects)).await.unwrap_err();
        refused.message().contains("the store is sealed")
    })
    .await;
}
