//! Expressions over a store's whole answer.

use insta::assert_snapshot;

use super::*;
use crate::model::{Query, Response, Search};
use crate::render::RenderedFile;

fn searched(path: &str, searches: &[(&str, &str, Option<u64>)]) -> Select {
    let search = |(query, path, mode): &(&str, &str, Option<u64>)| Search {
        query: Query::expression(query).unwrap(),
        path: path.parse().unwrap(),
        mode: mode.and_then(FileMode::from_bits),
    };
    Select::Searched { path: path.parse().unwrap(), searches: searches.iter().map(search).collect() }
}

fn answer(content: &[u8]) -> Secrets {
    let response = Some(Response::Stored(Arc::new(SecretBytes::new(content.to_vec()))));
    let fields = BTreeMap::from([(FieldName::new("tls.crt"), text("a field, which no expression means"))]);
    HashMap::from([(reference("a"), Arc::new(Secret { fields, response, version: None, lease: None }))])
}

/// Each file with its mode, or the faults.
fn searched_of(content: &[u8], searches: &[(&str, &str, Option<u64>)]) -> String {
    let object = Object { mode: FileMode::from_bits(0o400), ..object(1, "a", searched("db", searches)) };
    let plan = Plan { version_ids: VersionIds::Paths, ..plan(vec![object]) };
    let secrets = answer(content);
    match render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &Steps::unbounded()) {
        Ok(rendered) => {
            let file = |file: &RenderedFile| format!("{} {} {}", file.path, file.mode, String::from_utf8_lossy(file.contents.expose()));
            rendered.files.iter().map(file).collect::<Vec<_>>().join("\n")
        }
        Err(faults) => faults.iter().map(|fault| format!("{} {fault}", fault.code)).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn expressions_search_the_whole_answer() {
    let json = br#"{"user":"web","port":5432,"tls":{"crt":"PEM"},"a-b":"","list":[1,{"x":"y"}],"none":null,"tls.crt":"quoted"}"#;
    let searches = [
        ("user", "user", None),
        ("tls.crt", "crt", Some(0o444)),
        ("\"tls.crt\"", "quoted", None),
        ("\"a-b\"", "empty", None),
        ("port", "port", None),
        ("list", "list", None),
        ("list[1].x", "x", None),
        ("{u: user, p: port}", "both", None),
    ];
    assert_snapshot!(searched_of(json, &searches), @r#"
    db 0400 {"user":"web","port":5432,"tls":{"crt":"PEM"},"a-b":"","list":[1,{"x":"y"}],"none":null,"tls.crt":"quoted"}
    user 0400 web
    crt 0444 PEM
    quoted 0400 quoted
    empty 0400 
    port 0400 5432
    list 0400 [1,{"x":"y"}]
    x 0400 y
    both 0400 {"p":5432,"u":"web"}
    "#);
    assert_snapshot!(searched_of(br#"[{"a":1},{"a":"two"}]"#, &[("[1].a", "second", None), ("[*].a", "all", None)]), @r#"
    db 0400 [{"a":1},{"a":"two"}]
    second 0400 two
    all 0400 [1,"two"]
    "#);
    assert_snapshot!(searched_of(br#""a text""#, &[("@", "text", None)]), @r#"
    db 0400 "a text"
    text 0400 a text
    "#);
}

/// An expression has 64 bits for a number. A plain path has the store's own digits.
#[test]
fn a_number_keeps_its_digits() {
    let json = br#"{"big":12345678901234567890123,"price":1.10,"e":1e3,"o":{"zero":-0,"text":"1e3"},"list":[2.50],"n":9007199254740993}"#;
    let searches = ["big", "price", "e", "o.zero", "o.text", "list[0]", "n"].map(|path| (path, path, None));
    let found = searched_of(json, &searches);
    assert_snapshot!(found.lines().skip(1).collect::<Vec<_>>().join("\n"), @"
    big 0400 12345678901234567890123
    price 0400 1.10
    e 0400 1e3
    o.zero 0400 -0
    o.text 0400 1e3
    list[0] 0400 2.50
    n 0400 9007199254740993
    ");
}

#[test]
fn what_an_expression_does_not_find_is_a_fault() {
    let json = br#"{"user":"hunter2","none":null,"n":1}"#;
    let told = [
        searched_of(json, &[("pasword", "a", None), ("none", "b", None), ("user.x", "c", None)]),
        searched_of(json, &[("length(n)", "a", None), ("{a: user, b: gone}", "b", None)]),
        searched_of(b"hunter2", &[("user", "a", None)]),
        searched_of(b"{\"user\": \"hunter2\"", &[("user", "a", None)]),
        searched_of(b"", &[("user", "a", None)]),
        searched_of(&[0xff, 0xfe], &[("user", "a", None)]),
    ];
    assert!(!told.concat().contains("hunter2"));
    assert_snapshot!(told.join("\n"), @r#"
    SecretNotFound object 1 (db): files/a: the expression "pasword" finds nothing in it (correct the expression, or the secret)
    SecretNotFound object 1 (db): files/a: the expression "none" finds nothing in it (correct the expression, or the secret)
    SecretNotFound object 1 (db): files/a: the expression "user.x" finds nothing in it (correct the expression, or the secret)
    InvalidRequest object 1 (db): files/a: the expression "length(n)": the JMESPath expression fails: argument 1 of a function must be array|object|string, but is number (correct the expression, or the secret)
    SecretNotFound object 1 (db): files/a: the expression "{a: user, b: gone}" finds nothing in it: its member gone is not there (correct the expression, or the secret)
    SecretCorrupt object 1 (db): files/a: is not JSON, which an expression searches: line 1, column 1 (store JSON, or remove `jmesPath`)
    SecretCorrupt object 1 (db): files/a: is not JSON, which an expression searches: line 1, column 18 (store JSON, or remove `jmesPath`)
    SecretCorrupt object 1 (db): files/a: is not JSON, which an expression searches: line 1, column 0 (store JSON, or remove `jmesPath`)
    SecretCorrupt object 1 (db): files/a: is binary, and an expression searches JSON (store JSON, or remove `jmesPath`)
    "#);
}
