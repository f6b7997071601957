//! What a class alone can do, with secrets of the file vault.

use std::sync::Arc;

use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use super::flood::{Calls, in_turn};
use super::kind::{Kind, PODS, objects, of_all_pods};
use super::node::Node;
use crate::golden::pkcs12::golden;

/// How many fields a secret of the vault may have, and how many bytes their names.
const FIELDS: usize = 4096;
const NAME: usize = 253;

/// A secret may have this many names of that length.
const LONG_NAMES: usize = 1_000;

const fn kind(name: &'static str, may: &'static [&'static str], calls: fn(&Node, &str) -> Calls) -> Kind {
    Kind { name, at_once: 64, may, victims: "files", calls }
}

fn pods(node: &Node, namespace: &str, objects: &str) -> Calls {
    of_all_pods(node, namespace, "files", objects)
}

/// A secret with this many fields, with names of this length.
fn set_wide(node: &Node, secret: &str, fields: usize, name: usize, value: &[u8]) {
    let names: Vec<_> = (0..fields).map(|number| format!("{number:04}{}", "a".repeat(name - 4))).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), value)).collect();
    node.house.set(secret, &fields);
}

// === What a class unfolds into ===

/// Folders within folders: each object's path has two thousand.
pub const PATHS_OF_MANY_FOLDERS: Kind = kind("paths of many folders", &["OK"], |node, namespace| {
    node.set_small(namespace, "db");
    let path = |object: usize| format!("{object:03}/{}f", "a/".repeat(2_000));
    let object = |object: usize| format!("- {{ secret: {namespace}/db, field: password, path: {} }}\n", path(object));
    pods(node, namespace, &objects(60, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_unfold_into_folders() {
    PATHS_OF_MANY_FOLDERS.try_out().await;
}

/// Anchors within anchors, and as many items as a text has room for.
pub const NESTED_ANCHORS: Kind = kind("nested anchors", &["InvalidRequest"], |node, namespace| {
    let nested: String = (0..31).map(|level| format!("&a{level} [")).collect::<String>() + "x" + &"]".repeat(31);
    pods(node, namespace, &format!("- {{ secret: {namespace}/db, fields: [{}{nested}] }}\n", "x, ".repeat(60_000)))
});

#[tokio::test(flavor = "multi_thread")]
async fn anchors_within_anchors() {
    NESTED_ANCHORS.try_out().await;
}

/// Volumes whose classes differ in `fresh` alone: each is another class. Policy denies every second one.
pub const DIFFERING_IN_FRESH: Kind = kind("classes that differ in fresh", &["SecretNotFound", "PolicyDenied"], |node, namespace| {
    node.set_small(namespace, "db");
    let literals = |object: usize| (0..500).map(|number| format!("{object}-{number:03}-{}", "y".repeat(50))).collect::<Vec<_>>().join(", ");
    let of = |owner: &str| {
        let objects = objects(7, |object| format!("- {{ secret: {owner}/db, fields: [{}], path: d{object}/ }}\n", literals(object)));
        node.call(namespace, 0, &json!({ "backend": "files", "objects": objects, "fresh": "NUMBERms" }))
    };
    let (own, denied) = (of(namespace), of("victim"));
    Arc::new(move |number| {
        let class = if number.is_multiple_of(2) { &own } else { &denied };
        MountRequest { attributes: class.attributes.replacen("NUMBER", &number.to_string(), 1), ..class.clone() }
    })
});

#[tokio::test(flavor = "multi_thread")]
async fn volumes_whose_classes_differ_in_fresh() {
    DIFFERING_IN_FRESH.try_out().await;
}

// === Lists of faults ===

/// Thousands of names that no secret has: each is a fault with words of its own.
pub const ABSENT_LITERALS: Kind = kind("absent literals", &["SecretNotFound"], |node, namespace| {
    set_wide(node, &format!("{namespace}/wide"), 200, 50, b"v");
    let literals = |object: usize| (0..500).map(|number| format!("{object}-{number:03}-{}", "y".repeat(45))).collect::<Vec<_>>().join(", ");
    let object = |object: usize| format!("- {{ secret: {namespace}/wide, fields: [{}], path: d{object}/ }}\n", literals(object));
    pods(node, namespace, &objects(8, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn absent_literals_by_the_thousand() {
    ABSENT_LITERALS.try_out().await;
}

// === Work ===

/// Sixteen globs over a thousand long names, which is as many as a secret may have of them, for each of 512 objects.
pub const GLOBS_OVER_LONG_NAMES: Kind = kind("globs over long names", &["OK"], |node, namespace| {
    set_wide(node, &format!("{namespace}/wide"), LONG_NAMES, NAME, b"");
    let globs = (0..16).map(|number| format!("\"*a*a*a*a*a*{number}\"")).collect::<Vec<_>>().join(", ");
    pods(node, namespace, &objects(512, |object| format!("- {{ secret: {namespace}/wide, fields: [{globs}], path: d{object}/ }}\n")))
});

#[tokio::test(flavor = "multi_thread")]
async fn globs_over_thousands_of_long_names() {
    GLOBS_OVER_LONG_NAMES.try_out().await;
}

/// Expressions over two secrets in turn: what Keyferry made of one is of no use for the next.
pub const EXPRESSIONS_IN_TURN: Kind = kind("expressions over two secrets in turn", &["OK"], |node, namespace| {
    for secret in ["one", "other"] {
        set_wide(node, &format!("{namespace}/{secret}"), FIELDS, 50, b"v");
    }
    let secret = |object: usize| if object.is_multiple_of(2) { "one" } else { "other" };
    let object = |object: usize| format!("- {{ secret: {namespace}/{}, field: \"length(keys(@))\", path: f{object} }}\n", secret(object));
    pods(node, namespace, &objects(512, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn expressions_over_two_secrets_in_turn() {
    EXPRESSIONS_IN_TURN.try_out().await;
}

/// Files of thousands of fields, written again each time: of a few secrets together, of texts that are JSON, and in every form.
pub const FORMATS_OF_WIDE_SECRETS: Kind = kind("formats of wide secrets", &["OK"], |node, namespace| {
    for (secret, letter) in [("one", "a"), ("other", "b")] {
        let names: Vec<_> = (0..FIELDS).map(|number| format!("{letter}{number:04}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), b"v".as_slice())).collect();
        node.house.set(&format!("{namespace}/{secret}"), &fields);
    }
    let members = (0..FIELDS).map(|number| format!("\"c{number}\": [{number}]")).collect::<Vec<_>>().join(", ");
    node.house.set(&format!("{namespace}/api"), &[("value", format!("{{{members}}}").as_bytes())]);
    let parsed = format!("{{ secret: {namespace}/api, parse: json }}");
    let object = |object: usize| {
        let format = ["dotenv", "json", "properties", "toml", "yaml"][object % 5];
        format!("- {{ secrets: [{namespace}/one, {namespace}/other, {parsed}], fields: [\"*{object:03}\"], format: {format}, keys: KEYS, path: f{object} }}\n")
            .replace("keys: KEYS, ", if object.is_multiple_of(5) { "keys: env, " } else { "" })
    };
    pods(node, namespace, &objects(20, object))
});

#[tokio::test(flavor = "multi_thread")]
async fn formats_of_thousands_of_fields() {
    FORMATS_OF_WIDE_SECRETS.try_out().await;
}

/// A text that doubles, loops within loops, and filters over the largest text, in turn.
pub const GREEDY_TEMPLATES: Kind = kind("greedy templates", &["TooLarge"], |node, namespace| {
    let big = "x".repeat(100_000);
    let list = format!("[{}0]", "0,".repeat(999));
    node.house.set(&format!("{namespace}/big"), &[("text", big.as_bytes()), ("list", list.as_bytes())]);
    let loops =
        |what: &str| format!("{{% set l = s.list | fromjson %}}{{% for a in l %}}{{% for b in l %}}{what}{{% endfor %}}{{% endfor %}}");
    let templates = [
        "{% set a = s.text %}".to_owned() + &"{% set a = a ~ a %}".repeat(40),
        loops(""),
        loops("{% set x = s.text | sha256 %}"),
        loops("{% set x = s.text | replace('x', s.text) %}"),
        loops("{% set x = l | jmespath('[@,@,@,@]|[@,@,@,@]|[@,@,@,@]') %}"),
        loops("{% set x = s.text | indent(256) | pem_chain %}"),
    ];
    let object = |object: usize| {
        let template = &templates[object % templates.len()];
        format!("- {{ template: {template:?}, secrets: {{ s: {namespace}/big }}, path: f{object} }}\n")
    };
    in_turn((0..templates.len()).flat_map(|first| node.pods(namespace, PODS / 4, "files", &object(first))).collect())
});

#[tokio::test(flavor = "multi_thread")]
async fn templates_that_want_everything() {
    GREEDY_TEMPLATES.try_out().await;
}

/// Keystores that are written, eight for each class, and stored ones with as many iterations as are allowed and more.
pub const KEYSTORES: Kind = kind("keystores", &["OK", "TooLarge"], |node, namespace| {
    let golden = golden();
    let case = |list: &str, name: &str| {
        let cases = golden[list].as_array().unwrap();
        cases.iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let bytes = |case: &Value, key: &str| case[key].as_str().unwrap().as_bytes().to_vec();
    let (own, most, more) =
        (case("written", "RSA, trusting"), case("read", "openssl, many iterations"), case("read", "openssl, too many iterations"));
    let parts = ["key", "chain", "trust", "password"].map(|key| (key, bytes(&own, key)));
    node.house.set(&format!("{namespace}/tls"), &parts.each_ref().map(|(key, bytes)| (*key, bytes.as_slice())));
    for number in 0..8 {
        let fields = [("most", bytes(&most, "file")), ("more", bytes(&more, "file")), ("password", bytes(&most, "password"))];
        node.house.set(&format!("{namespace}/pfx-{number}"), &fields.each_ref().map(|(key, bytes)| (*key, bytes.as_slice())));
    }
    let written = |object: usize| {
        format!(
            "- {{ secret: {namespace}/tls, format: pkcs12, key: key, chain: chain, trust: trust, password: password, path: f{object} }}\n"
        )
    };
    let read = |object: usize, field: &str| {
        let parse = format!("{{ field: {field}, as: pkcs12, password: password }}");
        format!("- {{ secret: {namespace}/pfx-{object}, parse: {parse}, field: key, path: f{object} }}\n")
    };
    let classes = [objects(8, written), objects(8, |object| read(object, "most")), objects(8, |object| read(object, "more"))];
    in_turn(classes.iter().flat_map(|class| node.pods(namespace, PODS / 3, "files", class)).collect())
});

#[tokio::test(flavor = "multi_thread")]
async fn keystores_by_the_dozen() {
    KEYSTORES.try_out().await;
}

/// Templates of 64 KiB, each another one, so Keyferry compiles each. The policy denies their secret: Keyferry keeps none.
pub const LONG_TEMPLATES: Kind = kind("long templates", &["PolicyDenied"], |node, namespace| {
    let template = |number: usize| format!("{number:04}{}", "{% if s.a %}{{ s.a | quote }}{% endif %}".repeat(1_600));
    let classes = |number: usize| {
        let objects = format!("- {{ template: {:?}, secrets: {{ s: elsewhere/{namespace} }}, path: f }}\n", template(number));
        node.pods(namespace, 1, "files", &objects)
    };
    in_turn((0..PODS).flat_map(classes).collect())
});

#[tokio::test(flavor = "multi_thread")]
async fn templates_that_take_long_to_compile() {
    LONG_TEMPLATES.try_out().await;
}

/// A key and each item of its list make a path for messages: a hundred kilobytes, sixty thousand times. Keyferry never asks the store.
pub const ARGS_WITH_A_LONG_KEY: Kind = kind("args with a long key", &["PolicyDenied"], |node, namespace| {
    let args = format!("? {}\n    : [{}]", "k".repeat(100_000), vec!["1"; 60_000].join(","));
    of_all_pods(node, namespace, "bao", &format!("- secret: victim/{namespace}\n  path: f\n  args:\n    {args}\n"))
});

#[tokio::test(flavor = "multi_thread")]
async fn args_with_a_long_key_and_many_items() {
    ARGS_WITH_A_LONG_KEY.try_out().await;
}

// === Bytes ===

/// Own secrets of the vault that are large: no two calls of the same Pod in a row ask for the same.
pub const LARGE_SECRETS: Kind = kind("large vault secrets", &["OK"], |node, namespace| {
    const SECRETS: usize = 150;
    const EACH: usize = 4;
    let set = |number: usize| node.house.set(&format!("{namespace}/large-{number}"), &[("v", &vec![b'x'; 120_000])]);
    std::thread::scope(|threads| {
        for half in 0..2 {
            threads.spawn(move || (half..SECRETS).step_by(2).for_each(set));
        }
    });
    let number = |pod: usize, object: usize| (pod * EACH + object) % SECRETS;
    let object =
        |pod: usize, object: usize| format!("- {{ secret: {namespace}/large-{}, field: v, path: f{object} }}\n", number(pod, object));
    let class = |pod: usize| json!({ "backend": "files", "objects": objects(EACH, |number| object(pod, number)) });
    in_turn((0..PODS).map(|pod| node.call(namespace, pod, &class(pod))).collect())
});

#[tokio::test(flavor = "multi_thread")]
async fn large_secrets_of_ones_own() {
    LARGE_SECRETS.try_out().await;
}

/// Names of fields are bytes too: the values are empty.
pub const ALL_NAMES: Kind = kind("secrets that are all names", &["OK"], |node, namespace| all_names(node, namespace, LONG_NAMES));

/// The same, and more of them than allowed: Keyferry reads and decrypts before it refuses.
pub const TOO_MANY_NAMES: Kind = kind("secrets of too many names", &["TooLarge"], |node, namespace| all_names(node, namespace, FIELDS));

fn all_names(node: &Node, namespace: &str, fields: usize) -> Calls {
    const SECRETS: usize = 16;
    (0..SECRETS).for_each(|number| set_wide(node, &format!("{namespace}/wide-{number}"), fields, NAME, b""));
    let object = |object: usize| format!("- {{ secret: {namespace}/wide-{object}, fields: [\"*\"], path: d{object}/ }}\n");
    pods(node, namespace, &objects(SECRETS, object))
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_all_names() {
    ALL_NAMES.try_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_more_names_than_may_be() {
    TOO_MANY_NAMES.try_out().await;
}

/// A class of three lines whose audit line names twelve thousand files.
pub const MANY_FILES: Kind = kind("audit of many files", &["OK"], |node, namespace| {
    set_wide(node, &format!("{namespace}/wide"), 4_000, 4, b"v");
    pods(node, namespace, &objects(3, |object| format!("- {{ secret: {namespace}/wide, fields: \"*\", path: d{object}/ }}\n")))
});

#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_of_thousands_of_files() {
    MANY_FILES.try_out().await;
}
