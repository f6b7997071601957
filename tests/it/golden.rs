//! The tests compare their own driver with the real one. `tests/golden/driver-*.json` has what the real one sends, and what it and kubelet do after
//! each kind of answer. `make golden-driver` records that on a real node. All mounts of these tests depend on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use keyferry::model::Code;
use keyferry::server::proto::MountRequest;
use keyferry::server::status::{TRAP, grpc_code};
use serde_json::{Map, Value, json};

use super::support::{House, TOKENS, tokens, web};

mod dotenv;
pub mod pkcs12;
mod readers;

fn recorded() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/driver-v1.6.0.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn our_calls_have_the_real_drivers_shape() {
    let house = House::new("");
    let token = tokens(&[("keyferry", &house.token(&web(), "keyferry"))]);
    let ours = house.asking(&web(), json!({ "objects": "" }));
    let in_both_fields = MountRequest { secrets: json!({ TOKENS: token }).to_string(), ..ours.clone() };
    let without = house.asking(&web(), json!({ "objects": "", TOKENS: null }));
    for (name, request) in [("first mount", &ours), ("republish", &ours), ("tokens in secrets", &in_both_fields), ("no tokens", &without)] {
        compare(&recorded()["calls"][name]["request"], &shape(request), name);
    }
}

#[test]
fn the_real_driver_is_at_localhost_and_says_how_long_it_waits() {
    for (name, call) in recorded()["calls"].as_object().unwrap() {
        assert_eq!(call["authority"], "localhost", "{name}");
        assert_eq!(call["headers"]["grpc-timeout"], "120000m", "{name}: kubelet gives a volume two minutes");
    }
}

/// After each code that Keyferry answers with, the driver asks again, and the Pod starts with its files.
#[test]
fn every_code_of_ours_leads_to_another_try() {
    let recorded = recorded();
    for code in Code::ALL {
        let name = grpc_name(grpc_code(code));
        let seen = &recorded["answers"][&name];
        assert_eq!((&seen["asked again"], &seen["pod"]), (&json!(true), &json!("Running, with its file")), "{code}: {name}");
        let event = seen["events"][0].as_str().unwrap();
        assert!(event.ends_with("the provider's words"), "{code}: the event must have them: {event}");
    }
}

/// The five codes of the trap are those from which the real driver and kubelet make it. UNAVAILABLE is one only after the driver has tried three
/// times.
#[test]
fn the_trap_is_what_was_recorded() {
    let recorded = recorded();
    let empty = recorded["answers"].as_object().unwrap().iter().filter(|(_, seen)| seen["pod"] == "Running, with an empty folder");
    let seen: BTreeSet<String> = empty.map(|(answer, _)| answer.clone()).collect();
    let mut expected: BTreeSet<String> = TRAP.into_iter().map(grpc_name).collect();
    expected.remove("UNAVAILABLE");
    expected.extend(["UNAVAILABLE, three times".to_owned(), "no files".to_owned()]);
    assert_eq!(seen, expected);
}

/// `FailedPrecondition` is `FAILED_PRECONDITION` in gRPC's own documents.
pub fn grpc_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// A request of ours in the recorder's form, without its placeholders: each token as its header and claims.
fn shape(request: &MountRequest) -> Value {
    let attributes: Map<String, Value> = serde_json::from_str(&request.attributes).unwrap();
    let secrets: Value = serde_json::from_str(&request.secrets).unwrap();
    let opened = |fields: &Map<String, Value>| -> Value {
        fields
            .iter()
            .map(|(key, value)| (key.clone(), if key == TOKENS { open_tokens(value.as_str().unwrap()) } else { value.clone() }))
            .collect()
    };
    json!({
        "attributes": opened(&attributes),
        "current_object_version": request.current_object_version.iter().map(|version| &version.id).collect::<Vec<_>>(),
        "permission": request.permission,
        "secrets": secrets.as_object().map_or(Value::Null, opened),
        "target_path": request.target_path,
    })
}

fn open_tokens(text: &str) -> Value {
    let given: Map<String, Value> = serde_json::from_str(text).unwrap();
    let open = |(audience, mut entry): (String, Value)| {
        entry["token"] = open_token(entry["token"].as_str().unwrap());
        (audience, entry)
    };
    given.into_iter().map(open).collect()
}

fn open_token(jwt: &str) -> Value {
    let part = |number| -> Value {
        serde_json::from_slice(&BASE64URL_NOPAD.decode(jwt.split('.').nth(number).unwrap().as_bytes()).unwrap()).unwrap()
    };
    let claims = part(1);
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    json!({ "header": part(0), "claims": claims, "lifetime_s": lifetime })
}

/// Ours has the recorded keys and no others, and the recorded texts. `<name>` in a recorded text matches any text.
fn compare(recorded: &Value, ours: &Value, at: &str) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            let keys = |object: &Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(recorded), keys(ours), "{at}: recorded keys, and ours");
            for (key, value) in recorded {
                // The tests' issuer signs with another algorithm; Keyferry takes both.
                if key != "alg" {
                    compare(value, &ours[key], &format!("{at}/{key}"));
                }
            }
        }
        (Value::String(recorded), Value::Number(_)) if recorded.starts_with('<') => {}
        (Value::String(recorded), Value::String(ours)) => assert!(is_like(recorded, ours), "{at}: recorded {recorded:?}, ours {ours:?}"),
        _ => assert_eq!(recorded, ours, "{at}"),
    }
}

fn is_like(recorded: &str, ours: &str) -> bool {
    let Some((before, rest)) = recorded.split_once('<') else { return recorded == ours };
    let (_, after) = rest.split_once('>').unwrap();
    let Some(remaining) = ours.strip_prefix(before) else { return false };
    (1..=remaining.len()).any(|length| remaining.is_char_boundary(length) && is_like(after, &remaining[length..]))
}
