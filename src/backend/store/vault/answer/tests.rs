use super::*;
use crate::model::FieldKind;

fn body(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn read(text: &str) -> Result<Vec<(String, String, FieldKind)>, String> {
    let body = body(text);
    let answer = Answer::parse(&body).map_err(|refusal| refusal.reason)?;
    let fields = answer.content(&name("kv/data/shop/db")).and_then(|content| content.fields(1000)).map_err(|refusal| refusal.reason)?;
    let shown = |field: &Field| String::from_utf8(field.bytes.expose().to_vec()).unwrap();
    Ok(fields.iter().map(|(name, field)| (name.to_string(), shown(field), field.kind)).collect())
}

fn plain(text: &str) -> Vec<(String, String)> {
    read(text).unwrap().into_iter().map(|(name, value, _)| (name, value)).collect()
}

#[test]
fn texts_are_raw_and_all_else_is_json_to_the_digit() {
    let fields = read(
        r#"{"data":{"t":"a\"\u003cb\u003e\n","n":12345678901234567890.1230,"e":1E400,"o":{"z":1,"a":[1.0,-0]},"b":true,"x":null,"s":""}}"#,
    );
    let shown: Vec<_> = fields.unwrap().into_iter().map(|(name, value, kind)| format!("{name} {kind:?} {value}")).collect();
    assert_eq!(
        shown,
        [
            "b Json true",
            "e Json 1E400",
            "n Json 12345678901234567890.1230",
            "o Json {\"z\":1,\"a\":[1.0,-0]}",
            "s Text ",
            "t Text a\"<b>\n",
            "x Json null"
        ]
    );
}

/// No value of it is shown.
#[test]
fn an_answer_in_another_shape_is_told_by_its_member() {
    assert_eq!(plain("\u{feff}{\"data\":{\"a\":\"b\"}}"), [("a".to_owned(), "b".to_owned())]);
    let all = [
        r#"{"lease_duration":"3600","data":{"a":"canary"}}"#,
        r#"{"lease_duration":-1,"data":{}}"#,
        r#"{"renewable":"canary","data":{}}"#,
        r#"{"auth":"canary"}"#,
        r#"{"auth":{"client_token":7}}"#,
        r#"{"auth":{"client_token":"canary","lease_duration":1.5}}"#,
        r#"{"data":{},"data":{}}"#,
        r#""canary""#,
        "7",
        "{\0\"\0d\0",
        r#"{"data":canary}"#,
    ];
    insta::assert_snapshot!(all.map(|text| read(text).unwrap_err()).join("\n"), @"
    the answer is JSON, but its `lease_duration` is not a whole number (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but its `lease_duration` is not a whole number (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but its `renewable` is not true or false (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but its `auth` is not an object (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but its `auth.client_token` is not a text (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but its `auth.lease_duration` is not a whole number (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but not as the store's API writes it (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but not an object (is the address that of Vault or OpenBao itself?)
    the answer is JSON, but not an object (is the address that of Vault or OpenBao itself?)
    the answer is UTF-16, and JSON is UTF-8 (is the address that of Vault or OpenBao itself?)
    the answer is not JSON of the store's API: it is wrong at line 1, column 9 (is the address that of Vault or OpenBao itself? a path that answers raw bytes, such as pki/ca/pem, has a twin that answers JSON: pki/cert/ca)
    ");
}

/// KV v2's metadata as OpenBao 2.7.2 writes it.
const METADATA: &str =
    r#"{"created_time":"2026-11-22T06:15:14.1Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":7}"#;

#[test]
fn kv_v2_is_known_by_its_path_and_its_metadata() {
    let versions = |path: &str, data: &str| {
        let body = body(&format!(r#"{{"data":{data}}}"#));
        let content = Answer::parse(&body).unwrap().content(&name(path)).map_err(|refusal| refusal.reason)?;
        let version = content.version().map(|version| version.to_string());
        Ok::<_, String>((content.fields(1000).unwrap().into_keys().map(|name| name.to_string()).collect::<Vec<_>>().join(" "), version))
    };
    let second = format!(r#"{{"data":{{"a":"1","b":null}},"metadata":{METADATA}}}"#);
    for path in ["kv/data/shop/db", "team-a/kv/data/x", "kv/v2/data/x", "secret/data/data"] {
        assert_eq!(versions(path, &second), Ok(("a b".to_owned(), Some("7".to_owned()))), "{path}");
    }
    let whole = Ok(("data metadata".to_owned(), None));
    for path in ["kv1/shop/db", "data/shop/db", "kv1/shop/data-base", "kv1/my-data/x"] {
        assert_eq!(versions(path, &second), whole, "{path}");
    }
    for data in [
        r#"{"kind":"Secret"}"#.to_owned(),
        "{}".to_owned(),
        r#"{"version":7,"deletion_time":"","destroyed":false}"#.to_owned(),
        METADATA.replace("false", "\"no\""),
        METADATA.replace('7', "\"7\""),
        format!("[{METADATA}]"),
        "null".to_owned(),
    ] {
        assert_eq!(versions("kv1/data/x", &format!(r#"{{"data":{{"a":"1"}},"metadata":{data}}}"#)), whole, "{data}");
    }
    assert_eq!(versions("kv1/data/x", &format!(r#"{{"data":"text","metadata":{METADATA}}}"#)), whole);
    assert_eq!(versions("kv1/data/x", r#"{"data":null,"metadata":{}}"#), whole);
    assert_eq!(versions("kv1/data/x", r#"{"data":{"a":"1"},"x":"2"}"#), Ok(("data x".to_owned(), None)));
}

#[test]
fn what_cannot_be_delivered_says_why() {
    let reason = |text: &str| read(text).unwrap_err();
    insta::assert_snapshot!(reason("<html>"), @"the answer is not JSON of the store's API: it is wrong at line 1, column 1 (is the address that of Vault or OpenBao itself? a path that answers raw bytes, such as pki/ca/pem, has a twin that answers JSON: pki/cert/ca)");
    insta::assert_snapshot!(reason("{}"), @"the answer has no data (does the path return anything?)");
    insta::assert_snapshot!(reason(r#"{"data":null,"wrap_info":{"token":"s.x"},"auth":null}"#), @"the answer is wrapped, and Keyferry did not ask for that: a control group needs others to authorise the request first (a mount cannot wait for that: take the path out of the control group)");
    insta::assert_snapshot!(reason(r#"{"auth":{"client_token":"s.x","lease_duration":1}}"#), @"the answer is a login with a store token in `auth`, not a secret (only Keyferry logs in to the store)");
    insta::assert_snapshot!(reason(r#"{"data":["x"]}"#), @"the answer's data is not an object of fields (Keyferry cannot deliver it)");
    insta::assert_snapshot!(reason(r#"{"errors":["x"]}"#), @"the store answered 200 with errors (see its log)");
    insta::assert_snapshot!(reason(r#"{"data":{"a":"\ud800"}}"#), @r#"field "a" has half a character in it (half of a surrogate pair: write the secret again)"#);
    insta::assert_snapshot!(reason(&format!(r#"{{"data":{{"a":"{}"}}}}"#, "x".repeat(1001))), @"its fields have 1001 bytes; at most 1000 are allowed (raise limits.secretBytes)");
    let names: String = (0..5).map(|n| format!(r#""{n}{}":"","#, "n".repeat(249))).collect();
    insta::assert_snapshot!(reason(&format!(r#"{{"data":{{{names}"a":""}}}}"#)), @"the names of its fields have 1251 bytes; at most 1000 are allowed (split the secret, or raise limits.secretBytes)");
    insta::assert_snapshot!(reason(r#"{"data":{"data":null,"metadata":{"created_time":"","version":2,"deletion_time":"2026-11-22T06:15:14Z","destroyed":false}}}"#), @"version 2, the latest, was deleted at 2026-11-22T06:15:14Z (undelete it, write it again, or pin another version)");
    insta::assert_snapshot!(reason(r#"{"data":{"data":null,"metadata":{"created_time":"","version":2,"deletion_time":"","destroyed":true}}}"#), @"version 2, the latest, is destroyed: its content is gone for good (write it again, or pin another version)");
    insta::assert_snapshot!(reason(r#"{"data":{"data":null,"metadata":{"created_time":"","version":2,"deletion_time":"","destroyed":false}}}"#), @"version 2, the latest, has no content (write it again, or pin another version)");
}

#[test]
fn half_a_character_is_never_left_out() {
    for text in [
        r#"{"data":{"a":"x\udc00"}}"#,
        r#"{"data":{"\ud800":"x"}}"#,
        r#"{"data":{"a":{"\ud800":"x"}}}"#,
        r#"{"data":{"a":["\ud800"]}}"#,
        r#"{"data":{"data":{"a":"\ud800"},"metadata":{"created_time":"","version":7,"deletion_time":"","destroyed":false}}}"#,
        r#"{"data":{"data":{"\ud800":"x"},"metadata":{"created_time":"","version":7,"deletion_time":"","destroyed":false}}}"#,
        r#"{"lease_id":"x\ud800","data":{"a":"x"}}"#,
        r#"{"warnings":["\ud800"],"data":{"a":"x"}}"#,
    ] {
        let reason = read(text).unwrap_err();
        assert!(reason.contains("half a character"), "{text}: {reason}");
    }
    assert_eq!(plain(r#"{"data":{"a":"\ud83d\ude00"},"request_id":"\\ud800"}"#), [("a".to_owned(), "\u{1f600}".to_owned())]);
}

#[test]
fn nothing_that_is_answered_panics() {
    let whole = r#"{"request_id":"x","lease_id":"l","renewable":true,"lease_duration":9,"data":{"data":{"a":1},"metadata":{"created_time":"","version":1,"deletion_time":"","destroyed":false}},"wrap_info":null,"warnings":["w"],"auth":{"client_token":"t"}}"#;
    for end in 0..whole.len() {
        let _ = read(&whole[..end]);
        let mutated = format!("{}[]{}", &whole[..end], &whole[end..]);
        let _ = read(&mutated);
    }
    for odd in [
        "[]",
        "null",
        "1",
        "\"x\"",
        "{\"lease_id\":5}",
        "{\"lease_duration\":-1}",
        "{\"data\":5}",
        "{\"data\":{\"data\":{},\"metadata\":{\"version\":\"x\"}}}",
    ] {
        let body = body(odd);
        if let Ok(answer) = Answer::parse(&body) {
            let (_, _, _, _) =
                (answer.content(&name("kv/data/x")).is_ok(), answer.issued().is_some(), answer.expiration(), answer.response(None));
        }
    }
    assert!(read(&format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000))).is_err());
}

#[test]
fn a_lease_is_one_with_an_id() {
    let issued = |text: &str| {
        let body = body(text);
        Answer::parse(&body).unwrap().issued().map(|issued| (issued.renewable, issued.lasts.as_secs()))
    };
    assert_eq!(issued(r#"{"lease_id":"database/creds/x","renewable":true,"lease_duration":3600,"data":{}}"#), Some((true, 3600)));
    assert_eq!(
        issued(r#"{"lease_id":"","renewable":false,"lease_duration":2764800,"data":{}}"#),
        None,
        "KV v1 says how long it may be kept"
    );
    assert_eq!(issued(r#"{"data":{}}"#), None);
    let expires = |text: &str| {
        let body = body(text);
        Answer::parse(&body).unwrap().expiration().map(Timestamp::as_second)
    };
    assert_eq!(expires(r#"{"data":{"certificate":"PEM","expiration":1795328111}}"#), Some(1_795_328_111));
    assert_eq!(expires(r#"{"data":{"certificate":"PEM","expiration":"soon"}}"#), None);
    let mut params = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2031, 5, 6);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    assert_eq!(expires(&serde_json::json!({ "data": { "certificate": pem } }).to_string()), Some(1_935_792_000));
    assert_eq!(expires(r#"{"data":{"expiration":1795328111}}"#), None);
}

#[test]
fn the_whole_response_is_the_peers_without_what_changes_at_each_poll() {
    let body = body(
        r#"{"request_id":"r-1","lease_id":"","renewable":false,"lease_duration":2764800,"data":{"a":"\u003c","n":1.50},"wrap_info":null,"warnings":null,"auth":null}"#,
    );
    let response = Answer::parse(&body).map(|answer| answer.response(answer.warnings())).unwrap();
    let shown = String::from_utf8(response.expose().to_vec()).unwrap();
    assert_eq!(shown, r#"{"lease_id":"","lease_duration":2764800,"renewable":false,"data":{"a":"\u003c","n":1.50},"warnings":null}"#);
}

#[test]
fn a_list_is_no_object_whose_members_come_in_turn() {
    assert!(read(r#"["",0,false,{"a":"sneaky"}]"#).unwrap_err().contains("is a JSON list"));
    let list = r#"{"data":{"data":{"a":"1"},"metadata":["x","",false,3],"kind":"Secret"}}"#;
    assert_eq!(plain(list).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["data", "kind", "metadata"]);
}
