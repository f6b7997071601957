use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{RenderFault, RenderLimits, Rendered, Unrendered};
use crate::formats::pkcs12::SaltKey;
use crate::model::{
    Code, Encoding, FaultList, Field, FieldKind, FieldName, FieldPattern, FileMode, Object, Plan, Response, Secret, SecretBytes, SecretRef,
    Select, Version, VersionIds,
};
use crate::steps::Steps;

mod formats;
mod keystores;
mod searches;
mod templates;

/// It is in every value of these tests, and in no message.
const CANARY: &str = "hunter2";

const LIMITS: RenderLimits =
    RenderLimits { memory: 3 << 20, is_all_memory: true, files: 4096, secret_bytes: 1 << 20, mount_bytes: 3 << 20 };

/// What the plans of these tests ask for.
const NAMES: [&str; 3] = ["a", "b", "c"];

type Secrets = HashMap<SecretRef, Arc<Secret>>;

fn reference(name: &str) -> SecretRef {
    SecretRef::read("files".parse().unwrap(), name.parse().unwrap())
}

fn text(value: &str) -> Field {
    Field::of_bytes(SecretBytes::new(value.as_bytes().to_vec()))
}

fn binary(value: &[u8]) -> Field {
    Field { bytes: Arc::new(SecretBytes::new(value.to_vec())), kind: FieldKind::Binary }
}

fn json(value: &str) -> Field {
    Field { kind: FieldKind::Json, ..text(value) }
}

fn secrets<const N: usize>(name: &str, fields: [(&str, Field); N]) -> Secrets {
    let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, field)| (FieldName::new(name), field)).collect();
    HashMap::from([(reference(name), Arc::new(Secret { fields, response: None, version: Some(Version::new("1")), lease: None }))])
}

fn object(index: usize, name: &str, select: Select) -> Object {
    let secret = NAMES.iter().position(|known| *known == name).unwrap();
    Object::of_secret(index, secret, select)
}

fn whole(path: &str) -> Select {
    Select::Whole { path: path.parse().unwrap() }
}

fn field(query: &str, path: &str) -> Select {
    Select::Field { query: query.parse().unwrap(), path: path.parse().unwrap() }
}

fn fields(patterns: &[&str], folder: &str) -> Select {
    Select::Fields { patterns: patterns.iter().map(|pattern| FieldPattern::new(*pattern)).collect(), folder: folder.parse().unwrap() }
}

fn plan(objects: Vec<Object>) -> Plan {
    Plan { secrets: NAMES.map(reference).to_vec(), objects, ..Plan::default() }
}

fn beside<'s>(plan: &Plan, secrets: &'s Secrets) -> Vec<Option<&'s Secret>> {
    plan.secrets.iter().map(|secret| secrets.get(secret).map(|secret| &**secret)).collect()
}

/// None of these mounts waits for more memory, since there is no more.
fn render(
    plan: &Plan,
    secrets: &[Option<&Secret>],
    permission: FileMode,
    limits: RenderLimits,
    steps: &Steps,
) -> Result<Rendered, FaultList<RenderFault>> {
    super::render(plan, secrets, permission, limits, &SaltKey::new(b"test"), steps).map_err(|unrendered| match unrendered {
        Unrendered::Faults(faults) => faults,
        Unrendered::Short => panic!("it comes short"),
    })
}

fn rendered(objects: Vec<Object>, secrets: &Secrets) -> Result<Rendered, FaultList<RenderFault>> {
    let plan = plan(objects);
    render(&plan, &beside(&plan, secrets), FileMode::DEFAULT, LIMITS, &Steps::unbounded())
}

/// `path = content`, one line each.
fn files(objects: Vec<Object>, secrets: &Secrets) -> String {
    let rendered = rendered(objects, secrets).unwrap();
    let lines = rendered.files.iter().map(|file| format!("{} = {}", file.path, String::from_utf8_lossy(file.contents.expose())));
    lines.collect::<Vec<_>>().join("\n")
}

/// The messages, a line each, with the code before each. None may hold the canary.
fn faults(objects: Vec<Object>, secrets: &Secrets) -> String {
    let faults = rendered(objects, secrets).unwrap_err();
    assert!(!format!("{faults:?}").contains(CANARY), "{faults:?}");
    let lines = faults.iter().map(|fault| format!("{}: {fault}", fault.code));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_whole_secret_is_its_lone_field_or_json_of_all() {
    let lone = secrets("a", [("only", text("plain\n"))]);
    assert_eq!(files(vec![object(1, "a", whole("x"))], &lone), "x = plain\n");
    let lone = secrets("a", [("only", binary(&[0xff, 0]))]);
    assert_eq!(rendered(vec![object(1, "a", whole("x"))], &lone).unwrap().files[0].contents.expose(), [0xff, 0]);
    let many = secrets("a", [("user", text("a\"b\n")), ("list", json("[1, 2.50]")), ("empty", text(""))]);
    assert_eq!(files(vec![object(1, "a", whole("x"))], &many), r#"x = {"empty":"","list":[1, 2.50],"user":"a\"b\n"}"#);
    assert_eq!(files(vec![object(1, "a", whole("x"))], &secrets("a", [])), "x = {}");
}

#[test]
fn a_field_of_exactly_that_name_wins() {
    let secrets = secrets(
        "a",
        [
            ("tls.crt", text("dotted")),
            (".dockerconfigjson", text("{}")),
            ("ca-cert", text("dashed")),
            ("tls", json(r#"{"crt": "nested", "hosts": ["a", "b"], "n": 1.50, "deep": {"x": null}}"#)),
            ("key", binary(&[0xff])),
            ("password", text("p")),
        ],
    );
    let queries = [
        "tls.crt",
        ".dockerconfigjson",
        "ca-cert",
        "tls",
        "tls.hosts",
        "tls.hosts[0]",
        "tls.n",
        "tls.\"crt\"",
        "join(':', ['u', password])",
        "length(keys(@))",
    ];
    let objects = queries.iter().enumerate().map(|(n, query)| object(n + 1, "a", field(query, &format!("f{n}")))).collect();
    insta::assert_snapshot!(files(objects, &secrets), @r#"
    f0 = dotted
    f1 = {}
    f2 = dashed
    f3 = {"crt": "nested", "hosts": ["a", "b"], "n": 1.50, "deep": {"x": null}}
    f4 = ["a","b"]
    f5 = a
    f6 = 1.5
    f7 = nested
    f8 = u:p
    f9 = 5
    "#);
    let raw = rendered(vec![object(1, "a", field("key", "k"))], &secrets).unwrap();
    assert_eq!(raw.files[0].contents.expose(), [0xff]);
}

#[test]
fn a_whole_response_is_shared_and_must_be_there() {
    let response = Arc::new(SecretBytes::new(br#"{"data":{"password":"hunter2"}}"#.to_vec()));
    let answer = |response| Arc::new(Secret { fields: BTreeMap::new(), response, version: None, lease: None });
    let secrets = HashMap::from([(reference("a"), answer(Some(Response::Answer(Arc::clone(&response))))), (reference("b"), answer(None))]);
    let whole = |path: &str| Select::Response { path: path.parse().unwrap() };
    // No encoding is the response's own.
    let object_of_a = Object { encoding: Encoding::Base64, ..object(1, "a", whole("a.json")) };
    let rendered = rendered(vec![object_of_a], &secrets).unwrap();
    assert!(Arc::ptr_eq(&rendered.files[0].contents, &response));
    assert_eq!(rendered.files[0].field, None);
    insta::assert_snapshot!(faults(vec![object(1, "b", whole("b.json"))], &secrets), @"InvalidRequest: object 1 (b.json): files/b: has no response to deliver as a whole: its backend gives only fields (name a field)");
}

#[test]
fn raw_bytes_are_shared_not_copied() {
    let secrets = secrets("a", [("x", text("1"))]);
    let objects = vec![object(1, "a", whole("w")), object(2, "a", field("x", "f")), object(3, "a", fields(&["*"], "d"))];
    let original = &secrets[&reference("a")].fields["x"].bytes;
    for file in rendered(objects, &secrets).unwrap().files {
        assert!(Arc::ptr_eq(&file.contents, original), "{}", file.path);
    }
}

#[test]
fn fields_are_a_file_each() {
    let secrets = secrets("a", [("tls.crt", text("c")), ("tls.key", text("k")), ("ca.crt", text("ca")), ("note", text("n"))]);
    assert_eq!(files(vec![object(1, "a", fields(&["*"], "."))], &secrets), "ca.crt = ca\nnote = n\ntls.crt = c\ntls.key = k");
    assert_eq!(
        files(vec![object(1, "a", fields(&["note", "*.crt", "tls.*"], "d/"))], &secrets),
        "d/ca.crt = ca\nd/note = n\nd/tls.crt = c\nd/tls.key = k"
    );
    let rendered = rendered(vec![object(1, "a", fields(&["tls.*"], "d"))], &secrets).unwrap();
    assert_eq!(rendered.files[1].field.as_ref().unwrap().as_str(), "tls.key");
}

#[test]
fn modes_are_the_objects_else_the_drivers() {
    let secrets = secrets("a", [("x", text("1"))]);
    let mut own = object(1, "a", whole("own"));
    own.mode = FileMode::from_bits(0o400);
    let plan = plan(vec![own, object(2, "a", whole("driver"))]);
    let rendered = render(&plan, &beside(&plan, &secrets), FileMode::from_bits(0o440).unwrap(), LIMITS, &Steps::unbounded()).unwrap();
    let modes: Vec<_> = rendered.files.iter().map(|file| file.mode.to_string()).collect();
    assert_eq!(modes, ["0400", "0440"]);
}

fn decoded(encoding: Encoding, stored: &str) -> Result<Vec<u8>, String> {
    let secrets = secrets("a", [("x", text(stored))]);
    let object = Object { encoding, ..object(1, "a", field("x", "x")) };
    match rendered(vec![object], &secrets) {
        Ok(rendered) => Ok(rendered.files[0].contents.expose().to_vec()),
        Err(faults) => {
            assert_eq!(faults[0].code, Code::SecretCorrupt);
            Err(faults[0].problem.clone())
        }
    }
}

#[test]
fn encodings_forgive_what_tools_add() {
    for stored in ["aHVudGVyMj8/", "aHVu\ndGVy\r\nMj8/\n", "  aHVudGVyMj8/\t"] {
        assert_eq!(decoded(Encoding::Base64, stored).unwrap(), b"hunter2??", "{stored:?}");
    }
    for stored in ["eA==", "eA", "eA==\n", "eA=\n="] {
        assert_eq!(decoded(Encoding::Base64, stored).unwrap(), b"x", "{stored:?}");
        assert_eq!(decoded(Encoding::Base64Url, stored).unwrap(), b"x", "{stored:?}");
    }
    assert_eq!(decoded(Encoding::Base64Url, "aHVudGVyMj8_").unwrap(), b"hunter2??");
    assert_eq!(decoded(Encoding::Hex, "fF 00\nAb\n").unwrap(), [0xff, 0, 0xab]);
    assert_eq!(decoded(Encoding::Utf8, "as it is\n").unwrap(), b"as it is\n");
    assert_eq!(decoded(Encoding::Base64, "").unwrap(), b"");
}

/// A class in another format has neither `optional` nor base64url.
#[test]
fn remedies_name_no_words_that_a_format_does_not_have() {
    let coded = Object { encoding: Encoding::Base64, ..object(2, "a", field("coded", "y")) };
    let objects = vec![object(1, "b", field("x", "x")), coded];
    let plan = Plan { version_ids: VersionIds::Paths, ..plan(objects) };
    let secrets = secrets("a", [("coded", text("aHVudGVyMj8_"))]);
    let faults = render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &Steps::unbounded()).unwrap_err();
    insta::assert_snapshot!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @"
    object 1 (x): files/b: is not in its store (store it, correct the name)
    object 2 (y): files/a: is not base64: a character outside its alphabet at byte 11 of 12 (it may be base64url, which only classes in the native format decode)
    ");
}

#[test]
fn encodings_are_strict_otherwise() {
    let stored = [
        (Encoding::Base64, "aHVu\ndG$y"),
        (Encoding::Base64, "aHVudGVyMj8_"),
        (Encoding::Base64Url, "aHVudGVyMj8/"),
        (Encoding::Base64, "aHVud"),
        (Encoding::Base64, "eB=="),
        (Encoding::Base64, "eA="),
        (Encoding::Base64, "eA==eA=="),
        (Encoding::Base64, "===="),
        (Encoding::Hex, "abc"),
        (Encoding::Hex, "0x12"),
    ];
    let problems: Vec<String> = stored.iter().map(|(encoding, stored)| decoded(*encoding, stored).unwrap_err()).collect();
    insta::assert_snapshot!(problems.join("\n"), @"
    is not base64: a character outside its alphabet at byte 7 of 9 (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not base64: a character outside its alphabet at byte 11 of 12 (it may be base64url: set `encoding: base64url`)
    is not base64url: a character outside its alphabet at byte 11 of 12 (it may be base64: set `encoding: base64`)
    is not base64: it ends in the middle of a group, after 5 bytes (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not base64: bits are left over at byte 1 of 4: it seems cut (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not base64: wrong padding at byte 2 of 3 (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not base64: a character outside its alphabet at byte 2 of 8 (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not base64: wrong padding at byte 0 of 4 (store it as base64, or leave `encoding` out to deliver the text as it is)
    is not hex: it ends in the middle of a group, after 3 bytes (store it as hex, or leave `encoding` out to deliver the text as it is)
    is not hex: a character outside its alphabet at byte 1 of 4 (store it as hex, or leave `encoding` out to deliver the text as it is)
    ");
}

#[test]
fn absent_secrets_and_fields() {
    let store = secrets("a", [("password", text(CANARY)), ("username", text(CANARY)), ("tls", json(r#"{"crt": "hunter2"}"#))]);
    let objects = || {
        vec![
            object(1, "a", field("pasword", "p")),
            object(2, "a", field("tls.key", "k")),
            object(3, "a", field("ca-crt", "c")),
            object(4, "a", fields(&["usernam", "x*", "zzz"], "d")),
            object(5, "b", whole("b")),
        ]
    };
    insta::assert_snapshot!(faults(objects(), &store), @r#"
    SecretNotFound: object 1 (p): files/a: has no field "pasword" (did you mean "password"? It has "password", "tls", "username")
    SecretNotFound: object 2 (k): files/a: has no field "tls.key" (it has "password", "tls", "username")
    SecretNotFound: object 3 (c): files/a: has no field "ca-crt"; as a JMESPath expression it is wrong at character 3 (it has "password", "tls", "username")
    SecretNotFound: object 4 (d/): files/a: has no field "usernam" (did you mean "username"? It has "username", "password", "tls")
    SecretNotFound: object 4 (d/): files/a: has no field "zzz" (it has "password", "tls", "username")
    SecretNotFound: object 5 (b): files/b: is not in its store (store it, correct the name, or set `optional: true`)
    "#);
    let optional = objects().into_iter().map(|object| Object { optional: true, ..object }).collect();
    let rendered = rendered(optional, &store).unwrap();
    assert!(rendered.files.is_empty());
    let skipped: Vec<_> = rendered
        .skipped
        .iter()
        .map(|skipped| format!("object {}: {}", skipped.object, skipped.field.as_deref().unwrap_or("all")))
        .collect();
    insta::assert_snapshot!(skipped.join("\n"), @"
    object 1: pasword
    object 2: tls.key
    object 3: ca-crt
    object 4: usernam
    object 4: x*
    object 4: zzz
    object 5: all
    ");
}

#[test]
fn a_glob_may_match_nothing_but_a_name_may_not() {
    let secrets = secrets("a", []);
    let none = rendered(vec![object(1, "a", fields(&["*"], "d"))], &secrets).unwrap();
    assert_eq!((none.files.len(), none.skipped.len()), (0, 1));
    insta::assert_snapshot!(faults(vec![object(1, "a", fields(&["x"], "d"))], &secrets), @r#"SecretNotFound: object 1 (d/): files/a: has no field "x" (it has no fields at all)"#);
}

#[test]
fn many_fields_are_named_in_part() {
    let fields: BTreeMap<_, _> = (0..500).map(|n| (format!("key{n:03}").parse().unwrap(), text(CANARY))).collect();
    let secrets = HashMap::from([(reference("a"), Arc::new(Secret { fields, response: None, version: None, lease: None }))]);
    insta::assert_snapshot!(faults(vec![object(1, "a", field("key077x", "p"))], &secrets), @r#"SecretNotFound: object 1 (p): files/a: has no field "key077x" (did you mean "key077"? It has "key077", "key000", "key001", "key002", "key003", "key004", "key005", "key006", "key007", "key008" and 490 more)"#);
}

#[test]
fn what_cannot_be_rendered() {
    let store = secrets(
        "a",
        [
            ("password", text(CANARY)),
            ("list", json(r#"["hunter2"]"#)),
            ("key", binary(b"\xff hunter2")),
            ("../evil", text(CANARY)),
            ("b64", text("hunter2 in my base64!")),
        ],
    );
    let base64 = |object: Object| Object { encoding: Encoding::Base64, ..object };
    let objects = vec![
        object(1, "a", whole("whole")),
        base64(object(2, "a", whole("decoded"))),
        base64(object(3, "a", field("b64", "b64"))),
        base64(object(4, "a", fields(&["b6*"], "d"))),
        object(5, "a", fields(&["*"], "e")),
        object(6, "a", field("join(',', password)", "f")),
        object(7, "a", field("nosuch(password)", "g")),
        object(8, "a", field("max_by(list, &foo)", "h")),
    ];
    insta::assert_snapshot!(faults(objects, &store), @r#"
    InvalidRequest: object 1 (whole): files/a: its field "key" is binary, which JSON cannot hold (deliver it with `field`, or all with `fields: "*"`)
    InvalidRequest: object 2 (decoded): files/a: `encoding` decodes one text, and the secret has 5 fields (add `field`, or `fields` for one file per field)
    SecretCorrupt: object 3 (b64): files/a: is not base64: a character outside its alphabet at byte 20 of 21 (store it as base64, or leave `encoding` out to deliver the text as it is)
    SecretCorrupt: object 4 (d/): files/a: its field "b64": is not base64: a character outside its alphabet at byte 20 of 21 (store it as base64, or leave `encoding` out to deliver the text as it is)
    InvalidRequest: object 5 (e/): files/a: its field "../evil" cannot name a file: the path has the element ".." (name the fields, or write a separate object for this one)
    InvalidRequest: object 6 (f): files/a: has no field "join(',', password)", and the JMESPath expression fails: argument 2 of a function must be array[string], but is string (correct the expression, or name "../evil", "b64", "key", "list", "password")
    InvalidRequest: object 7 (g): files/a: has no field "nosuch(password)", and the JMESPath expression fails: there is no function "nosuch" (correct the expression, or name "../evil", "b64", "key", "list", "password")
    InvalidRequest: object 8 (h): files/a: has no field "max_by(list, &foo)", and the JMESPath expression fails: `&` must give number|string, but gives null (correct the expression, or name "../evil", "b64", "key", "list", "password")
    "#);
    let broken = secrets("a", [("deep", json(&format!("{}\"hunter2\"{}", "[".repeat(200), "]".repeat(200)))), ("x", text(CANARY))]);
    insta::assert_snapshot!(faults(vec![object(1, "a", field("deep[0]", "x"))], &broken), @r#"SecretCorrupt: object 1 (x): files/a: its field "deep" came as JSON and cannot be read as such (its nesting may be too deep, or a number too large)"#);
}

#[test]
fn files_that_exclude_each_other() {
    let store = secrets("a", [("x", text(CANARY)), ("y", text(CANARY)), ("y/z", text(CANARY))]);
    let objects = vec![
        object(1, "a", field("x", "d/x")),
        object(2, "a", fields(&["x*"], "d")),
        object(3, "a", fields(&["y*"], "e")),
        object(4, "a", fields(&["*"], ".")),
        object(5, "a", whole("lone")),
    ];
    insta::assert_snapshot!(faults(objects, &store), @r#"
    InvalidRequest: object 2 (d/): files/a: it would deliver "d/x", which cannot be in one volume with "d/x" of object 1 (d/x) (name the fields, or change a path)
    InvalidRequest: object 3 (e/): files/a: it would deliver "e/y/z", which cannot be in one volume with "e/y" of object 3 (e/) (name the fields, or change a path)
    InvalidRequest: object 4 (./): files/a: it would deliver "y/z", which cannot be in one volume with "y" of object 4 (./) (name the fields, or change a path)
    "#);
}

#[test]
fn limits_hold_before_anything_large_is_made() {
    let store = secrets("a", [("x", text(&CANARY.repeat(20))), ("y", text("y"))]);
    let small = |secret_bytes, mount_bytes| RenderLimits { secret_bytes, mount_bytes, ..LIMITS };
    let messages = |objects: Vec<Object>, limits| {
        let plan = plan(objects);
        let faults = render(&plan, &beside(&plan, &store), FileMode::DEFAULT, limits, &Steps::unbounded()).unwrap_err();
        assert!(faults.iter().all(|fault| fault.code == Code::TooLarge), "{faults:?}");
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let objects = vec![
        object(1, "a", field("x", "x")),
        object(2, "a", whole("w")),
        object(3, "a", field("[x]", "j")),
        object(4, "a", field("join('', [x, y])", "k")),
        object(5, "a", field("[@,@,@,@]|[@,@,@,@]", "l")),
    ];
    insta::assert_snapshot!(messages(objects, small(100, 10_000)), @r#"
    object 1 (x): files/a: is 140 bytes as a file: at most 100 are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)
    object 2 (w): files/a: is 156 bytes as a file: at most 100 are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)
    object 3 (j): files/a: the expression "[x]" could need 429 bytes on this secret (write a simpler one)
    object 4 (k): files/a: the expression "join('', [x, y])" could need 1430 bytes on this secret (write a simpler one)
    object 5 (l): files/a: the expression "[@,@,@,@]|[@,@,@,@]" could need 11583 bytes on this secret (write a simpler one)
    "#);
    let many = (1..100).map(|n| object(n, "a", field("x", &format!("f{n}")))).collect();
    insta::assert_snapshot!(messages(many, small(1_000, 1_000)), @"object 7 (f7): files/a: with this object the volume has more than 1000 bytes (split the class over several volumes, or ask for a higher limits.mountBytes)");
    insta::assert_snapshot!(messages(vec![object(1, "a", fields(&["*"], "d"))], small(1_000, 50)), @"object 1 (d/): files/a: with this object the volume has more than 50 bytes (split the class over several volumes, or ask for a higher limits.mountBytes)");
}

#[test]
fn debug_shows_no_value() {
    let secrets = secrets("a", [("x", text(CANARY)), ("y", json("\"hunter2\""))]);
    let objects = vec![object(1, "a", whole("w")), object(2, "a", field("x", "x")), object(3, "a", field("[y]", "y"))];
    assert!(!format!("{:?}", rendered(objects, &secrets).unwrap()).contains(CANARY));
}

/// A secret of `n` fields, whose names are long and alike.
fn of_many(n: usize) -> Secrets {
    let fields = (0..n).map(|n| (format!("{}{n:06}", "a".repeat(200)).parse().unwrap(), text("x"))).collect();
    HashMap::from([(reference("a"), Arc::new(Secret { fields, response: None, version: None, lease: None }))])
}

/// `n` fields of JSON, each with a list of 100 values.
fn of_json(name: &str, n: usize) -> (SecretRef, Arc<Secret>) {
    let list = format!("[{}0]", "0,".repeat(99));
    let fields = (0..n).map(|n| (format!("f{n}").parse().unwrap(), json(&list))).collect();
    (reference(name), Arc::new(Secret { fields, response: None, version: None, lease: None }))
}

/// A kind of class or secret, and the steps for one of this size.
type Kind<'k> = (&'k str, &'k dyn Fn(usize) -> u64);

/// The steps that rendering takes, with any result.
fn steps_of(objects: Vec<Object>, secrets: &Secrets) -> u64 {
    let (steps, limits) = (Steps::unbounded(), RenderLimits { files: 100_000, secret_bytes: 4 << 20, mount_bytes: 1 << 30, ..LIMITS });
    let plan = plan(objects);
    let _ = render(&plan, &beside(&plan, secrets), FileMode::DEFAULT, limits, &steps);
    steps.spent()
}

#[test]
fn twice_the_work_takes_twice_the_steps() {
    let hostile = ["*a*a*a*b", "a*a*a*c", "*aaaaaaaaab*", "*b"];
    let globs = |n: usize| (0..n).map(|n| format!("*a*{n}b*")).collect::<Vec<_>>();
    let exploded = |patterns: &[&str], n: usize| (1..=n).map(|n| object(n, "a", fields(patterns, &format!("d{n}")))).collect::<Vec<_>>();
    let absent = |n: usize| (0..n).map(|n| format!("absent{n}")).collect::<Vec<_>>();
    let lone = |patterns: &[String]| vec![object(1, "a", fields(&patterns.iter().map(String::as_str).collect::<Vec<_>>(), "d"))];
    let kinds: [Kind<'_>; 12] = [
        ("globs over more fields", &|n| steps_of(exploded(&hostile, 1), &of_many(n))),
        ("globs of more objects", &|n| steps_of(exploded(&hostile, n), &of_many(40))),
        ("more globs", &|n| steps_of(lone(&globs(n)), &of_many(40))),
        ("all fields", &|n| steps_of(exploded(&["*"], n), &of_many(40))),
        ("absent names", &|n| steps_of(lone(&absent(n)), &of_many(200))),
        ("absent fields", &|n| steps_of((1..=n).map(|n| object(n, "a", field("nosuch", &format!("f{n}")))).collect(), &of_many(200))),
        ("whole secrets", &|n| steps_of((1..=n).map(|n| object(n, "a", whole(&format!("f{n}")))).collect(), &of_many(40))),
        ("encoded fields", &|n| {
            let base64 = |object: Object| Object { encoding: Encoding::Base64, ..object };
            let store = secrets("a", [("x", text(&"hunter2!".repeat(1_000)))]);
            steps_of((1..=n).map(|n| base64(object(n, "a", field("x", &format!("f{n}"))))).collect(), &store)
        }),
        ("texts that need escapes", &|n| {
            steps_of(vec![object(1, "a", whole("w"))], &secrets("a", [("x", text(&"\u{1}\"".repeat(100 * n))), ("y", text(""))]))
        }),
        ("encoded fields that are wrong", &|n| {
            let hex = |object: Object| Object { encoding: Encoding::Hex, ..object };
            let store = secrets("a", [("x", text(&"hunter2!".repeat(1_000)))]);
            steps_of((1..=n).map(|n| hex(object(n, "a", field("x", &format!("f{n}"))))).collect(), &store)
        }),
        ("expressions", &|n| {
            let expression = |n| object(n, "a", field("f0[?@ == `1`] | [0]", &format!("f{n}")));
            steps_of((1..=n).map(expression).collect(), &HashMap::from([of_json("a", 10)]))
        }),
        ("an expression over more", &|n| steps_of(vec![object(1, "a", field("sort(f0)", "f"))], &HashMap::from([of_json("a", n)]))),
    ];
    for (kind, steps) in kinds {
        let [once, twice] = [200, 400].map(steps);
        assert!(once > 5_000 && twice * 10 <= once * 22, "{kind}: {once}, {twice}");
    }
}

/// Every pattern is compared once with every field, and looks at each byte of a name at most once.
#[test]
fn sixteen_globs_over_long_names_look_at_each_once() {
    let globs: Vec<String> = (0..16).map(|n| format!("*a*a*{n}b")).collect();
    let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
    let spent = steps_of(vec![object(1, "a", fields(&globs, "d"))], &of_many(4_096));
    assert!(spent < 16 * 4_096 * 220, "{spent}");
    let spent = steps_of(vec![object(1, "a", fields(&["b*", "c*d"], "d"))], &of_many(4_096));
    assert!(spent < 4_096 * 50, "a name that begins otherwise is not looked through: {spent}");
    let spent = steps_of(vec![object(1, "a", fields(&["nosuch", "neither"], "d"))], &of_many(4_096));
    assert!(spent < 200_000, "names alone do not look at all fields: {spent}");
}

/// Only the first few faults name the fields that exist.
#[test]
fn many_absent_names_are_told_in_short() {
    let absent: Vec<String> = (0..3_000).map(|n| format!("keyx{n:04}")).collect();
    let absent: Vec<&str> = absent.iter().map(String::as_str).collect();
    let stored = (0..200).map(|n| (format!("key{n:04}").parse().unwrap(), text("x"))).collect();
    let store = HashMap::from([(reference("a"), Arc::new(Secret { fields: stored, response: None, version: None, lease: None }))]);
    let found = rendered(vec![object(1, "a", fields(&absent, "d"))], &store).unwrap_err();
    assert_eq!((found.len(), found.more()), (64, 3_000 - 64));
    let named = found.iter().filter(|fault| fault.problem.contains("did you mean")).count();
    assert_eq!(named, 8);
    insta::assert_snapshot!(found[8], @r#"object 1 (d/): files/a: has no field "keyx0008" (correct the name, or set `optional: true`)"#);
    let expressions = (1..=9).map(|n| object(n, "a", field("max(key0000)", &format!("f{n}")))).collect();
    insta::assert_snapshot!(rendered(expressions, &store).unwrap_err()[8], @r#"object 9 (f9): files/a: has no field "max(key0000)", and the JMESPath expression fails: argument 1 of a function must be array[string]|array[number], but is string (correct the expression)"#);
    let spent = steps_of(vec![object(1, "a", fields(&absent, "d"))], &store);
    assert!(spent < 2_000_000, "{spent}");
}

/// A secret becomes a document once, with its objects in any order.
#[test]
fn objects_of_several_secrets_in_turn_cost_what_they_cost_in_order() {
    let store = HashMap::from([of_json("a", 50), of_json("b", 50), of_json("c", 50)]);
    let of = |names: &[&str]| {
        let expression = |(n, name): (usize, &&str)| object(n + 1, name, field("f0[0]", &format!("f{n}")));
        names.iter().enumerate().map(expression).collect::<Vec<_>>()
    };
    let in_turn = ["a", "b", "c"].repeat(40);
    let mut in_order = in_turn.clone();
    in_order.sort_unstable();
    assert_eq!(steps_of(of(&in_turn), &store), steps_of(of(&in_order), &store));
    assert_eq!(files(of(&in_turn), &store), files(of(&in_order), &store));
    // What is found early keeps its object, its fault and its decoding.
    let mut mixed = of(&["a", "b", "a", "b", "a"]);
    mixed[2].select = field("f1[0].nosuch(@)", "f2");
    mixed[4].encoding = Encoding::Base64;
    insta::assert_snapshot!(faults(mixed, &store), @r#"
    InvalidRequest: object 3 (f2): files/a: has no field "f1[0].nosuch(@)", and the JMESPath expression fails: there is no function "nosuch" (correct the expression, or name "f0", "f1", "f10", "f11", "f12", "f13", "f14", "f15", "f16", "f17" and 40 more)
    SecretCorrupt: object 5 (f4): files/a: is not base64: it ends in the middle of a group, after 1 bytes (store it as base64, or leave `encoding` out to deliver the text as it is)
    "#);
}

/// What is found early has a limit: what does not fit is searched again.
#[test]
fn what_expressions_find_ahead_is_bounded() {
    let store = secrets("a", [("x", text(&"hunter2!".repeat(1_000))), ("y", text("y"))]);
    let objects: Vec<Object> = (1..=100).map(|n| object(n, "a", field("x || y", &format!("f{n}")))).collect();
    let limits = RenderLimits { mount_bytes: 100_000, ..LIMITS };
    let over = plan(objects);
    let faults = render(&over, &beside(&over, &store), FileMode::DEFAULT, limits, &Steps::unbounded()).unwrap_err();
    insta::assert_snapshot!(faults[0], @"object 13 (f13): files/a: with this object the volume has more than 100000 bytes (split the class over several volumes, or ask for a higher limits.mountBytes)");
    let hex: Vec<Object> =
        (1..=20).map(|n| Object { encoding: Encoding::Hex, ..object(n, "b", field("x || y", &format!("f{n}"))) }).collect();
    let store = secrets("b", [("x", text(&"ab".repeat(2_500))), ("y", text("y"))]);
    let plan = plan(hex);
    let rendered = render(&plan, &beside(&plan, &store), FileMode::DEFAULT, limits, &Steps::unbounded()).unwrap();
    assert_eq!(rendered.files.len(), 20, "100,000 bytes were found, and 50,000 are delivered");
}

#[test]
fn files_values_and_work_have_bounds() {
    let fault = |objects: Vec<Object>, store: &Secrets, files: usize, steps: u64| {
        let limits = RenderLimits { files, secret_bytes: 100_000, ..LIMITS };
        let steps = Steps::new(steps, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        let plan = plan(objects);
        let faults = render(&plan, &beside(&plan, store), FileMode::DEFAULT, limits, &steps).unwrap_err();
        assert_eq!((faults.len(), faults[0].code), (1, Code::TooLarge), "{faults:?}");
        faults[0].to_string()
    };
    let all = || vec![object(1, "a", fields(&["*"], "d")), object(2, "a", fields(&["*"], "e"))];
    insta::assert_snapshot!(fault(all(), &of_many(100), 150, u64::MAX), @"object 2 (e/): files/a: with this object the volume has more than 150 files (split the class over several volumes, or ask for a higher limits.files)");
    insta::assert_snapshot!(fault(all(), &of_many(1_000), 4096, 100_000), @"object 1 (d/): files/a: with this object the volume takes more than 100000 steps of work (split the class over several volumes)");
    let zeros = secrets("a", [("list", json(&format!("[{}0]", "0,".repeat(5_000)))), ("x", text("x"))]);
    insta::assert_snapshot!(fault(vec![object(1, "a", field("list[0]", "f"))], &zeros, 4096, u64::MAX), @"object 1 (f): files/a: its 2 fields hold 5004 JSON values: an expression searches at most 4000 on this node (name a field to deliver it as it is, split the secret, or ask for a higher limits.secretBytes)");
    let lists = secrets("a", [("list", json(&format!("[{}0]", "0,".repeat(3_000)))), ("x", text("x"))]);
    insta::assert_snapshot!(fault(vec![object(1, "a", field("list[*].[[[[[[@]]]]]]", "f"))], &lists, 4096, u64::MAX), @r#"object 1 (f): files/a: the expression "list[*].[[[[[[@]]]]]]" could need 2102800 bytes on this secret (write a simpler one)"#);
    let path = object(1, "a", field("list[2999]", "f"));
    assert_eq!(files(vec![path], &lists), "f = 0");
}

/// The deepest nesting: JSON as deep as Keyferry reads it, within all the brackets of an expression.
#[test]
fn the_deepest_values_fit_the_stack() {
    let deepest = || {
        let deep = format!("{}1{}", "[".repeat(126), "]".repeat(126));
        let store = secrets("a", [("deep", json(&deep)), ("x", text("x"))]);
        let compared = object(2, "a", field("deep == deep && deep", "g"));
        let nested = object(1, "a", field(&format!("{}deep{}", "[".repeat(30), "]".repeat(30)), "f"));
        let rendered = rendered(vec![nested, compared], &store).unwrap();
        assert_eq!((rendered.files[0].contents.len(), rendered.files[1].contents.len()), (2 * 156 + 1, 2 * 126 + 1));
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(deepest).unwrap().join().unwrap();
}

// === fields without a value ===

fn with_null() -> Secrets {
    secrets("a", [("user", text("u")), ("password", json("null")), ("port", json("5432")), ("", text("nameless"))])
}

#[test]
fn a_whole_is_every_member() {
    let all = files(vec![object(1, "a", whole("x"))], &with_null());
    assert_eq!(all, r#"x = {"":"nameless","password":null,"port":5432,"user":"u"}"#);
    let two = secrets("a", [("only", text(CANARY)), ("", json("null"))]);
    assert_eq!(files(vec![object(1, "a", whole("x"))], &two), r#"x = {"":null,"only":"hunter2"}"#, "two members are not a lone field");
}

#[test]
fn a_field_without_a_value_is_absent() {
    let lone = secrets("b", [("password", json("null"))]);
    let objects =
        vec![object(1, "a", field("password", "p")), object(2, "a", fields(&["user", "password"], "d")), object(3, "b", whole("w"))];
    let secrets = with_null().into_iter().chain(lone).collect();
    insta::assert_snapshot!(faults(objects, &secrets), @r#"
    SecretNotFound: object 1 (p): files/a: its field "password" is null in the store (give it a value, or set `optional: true`)
    SecretNotFound: object 2 (d/): files/a: its field "password" is null in the store (give it a value, or set `optional: true`)
    SecretNotFound: object 3 (w): files/b: its field "password" is null in the store (give it a value, or set `optional: true`)
    "#);
    let optional = |object| Object { optional: true, ..object };
    let objects = vec![
        optional(object(1, "a", field("password", "p"))),
        optional(object(2, "a", fields(&["user", "password"], "d"))),
        optional(object(3, "b", whole("w"))),
    ];
    let rendered = rendered(objects, &secrets).unwrap();
    let skipped: Vec<_> = rendered.skipped.iter().map(|skipped| (skipped.object, skipped.field.as_deref().unwrap())).collect();
    assert_eq!(skipped, [(1, "password"), (2, "password"), (3, "password")]);
    assert_eq!(rendered.files.len(), 1);
}

#[test]
fn a_glob_leaves_out_what_has_no_value_and_says_so() {
    let rendered = rendered(vec![object(1, "a", fields(&["p*"], "d"))], &with_null()).unwrap();
    assert_eq!(rendered.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["d/port"]);
    assert_eq!(rendered.skipped[0].field.as_deref(), Some("password"));
    let warnings: Vec<_> = rendered.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(warnings.join("\n"), @r#"object 1 (d/): files/a: its field "password" is null in the store: no file is delivered for it (give it a value, or remove it)"#);
}

#[test]
fn names_that_make_no_file_are_told_and_not_left_out() {
    let secrets = secrets(
        "a",
        [
            ("", text("1")),
            ("a\nb", text("2")),
            ("\u{202e}c", text("3")),
            (&"x".repeat(300), text("4")),
            ("fine", text("5")),
            ("..", text("6")),
        ],
    );
    insta::assert_snapshot!(faults(vec![object(1, "a", fields(&["*"], "d"))], &secrets), @r#"
    InvalidRequest: object 1 (d/): files/a: its field "" cannot name a file: the path has an empty element (`//`, or a `/` at its end) (name the fields, or write a separate object for this one)
    InvalidRequest: object 1 (d/): files/a: its field ".." cannot name a file: the path has the element ".." (name the fields, or write a separate object for this one)
    InvalidRequest: object 1 (d/): files/a: its field "a\nb" cannot name a file: the path has a control character (name the fields, or write a separate object for this one)
    InvalidRequest: object 1 (d/): files/a: its field "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... cannot name a file: the path has an element of 300 bytes: a file name has at most 255 (name the fields, or write a separate object for this one)
    "#);
    // Each can be delivered under another name.
    let by_name = |name: &str| field(name, "x");
    assert_eq!(files(vec![object(1, "a", by_name("a\nb"))], &secrets), "x = 2");
    assert_eq!(files(vec![object(1, "a", by_name(&"x".repeat(300)))], &secrets), "x = 4");
    insta::assert_snapshot!(faults(vec![object(1, "a", by_name("b"))], &secrets), @r#"SecretNotFound: object 1 (x): files/a: has no field "b" (it has "", "..", "a\nb", "fine", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"..., "\u{202e}c")"#);
}

#[test]
fn a_member_of_a_multiselect_that_finds_nothing_fails() {
    let secrets = secrets(
        "a",
        [("username", text(CANARY)), ("db", json(r#"{"host": "h", "name": null}"#)), ("none", json("null")), ("key", binary(b"\xff"))],
    );
    let queries = ["{u: usernme}", "[username, db.hots]", "{a: db.name}", "{n: none}", "{k: key}", "{a: username, b: db.host[0]}"];
    let objects = queries.iter().enumerate().map(|(n, query)| object(n + 1, "a", field(query, &format!("f{n}")))).collect();
    insta::assert_snapshot!(faults(objects, &secrets), @r#"
    SecretNotFound: object 1 (f0): files/a: the expression "{u: usernme}": its member usernme finds nothing (did you mean "username"? If it may be absent, write usernme || `""`)
    SecretNotFound: object 2 (f1): files/a: the expression "[username, db.hots]": its member db.hots finds nothing (did you mean "host"? If it may be absent, write db.hots || `""`)
    SecretNotFound: object 3 (f2): files/a: the expression "{a: db.name}": its member db.name finds nothing (the secret has "db", "key", "none", "username"; if it may be absent, write db.name || `""`)
    SecretNotFound: object 4 (f3): files/a: the expression "{n: none}": its member none finds nothing (the secret has "db", "key", "none", "username"; if it may be absent, write none || `""`)
    SecretNotFound: object 5 (f4): files/a: the expression "{k: key}": its member "key" is binary, which JSON cannot hold (deliver it with `field`)
    SecretNotFound: object 6 (f5): files/a: the expression "{a: username, b: db.host[0]}": its member db.host[0] finds nothing (the secret has "db", "key", "none", "username"; if it may be absent, write db.host[0] || `""`)
    "#);
    let fine = ["{u: username, p: password || `\"\"`}", "[db.host, db.name || 'x']", "{h: db.[host, name]}"];
    let objects = fine.iter().enumerate().map(|(n, query)| object(n + 1, "a", field(query, &format!("f{n}")))).collect();
    insta::assert_snapshot!(files(objects, &secrets), @r#"
    f0 = {"p":"","u":"hunter2"}
    f1 = ["h","x"]
    f2 = {"h":["h",null]}
    "#);
    let optional = Object { optional: true, ..object(1, "a", field("{u: usernme}", "f")) };
    assert_eq!(rendered(vec![optional], &secrets).unwrap().skipped.len(), 1);
}

fn key(name: &str, path: &str) -> Select {
    Select::Key { key: FieldName::new(name), path: path.parse().unwrap() }
}

/// As vault-csi-provider 1.7.4 looks for it (`keyFromData`): first in the map, then outside of it.
#[test]
fn a_peers_key_is_looked_for_in_a_map_called_data_first() {
    let keys = |secret: Secret| {
        let secrets = HashMap::from([(reference("a"), Arc::new(secret))]);
        let names = ["password", "kind", "null", "list", "data", "twice"];
        let objects = names.iter().enumerate().map(|(n, name)| Object { optional: true, ..object(n + 1, "a", key(name, name)) });
        let rendered = rendered(objects.collect(), &secrets).unwrap();
        let files = rendered.files.iter().map(|file| format!("{} = {}", file.path, String::from_utf8_lossy(file.contents.expose())));
        files.chain(rendered.warnings.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n")
    };
    let fields = |fields: &[(&str, Field)]| fields.iter().map(|(name, field)| (FieldName::new(name), field.clone())).collect();
    let data = json(r#"{"password":"in\u00e4","null":null,"list":[1, 2.50],"twice":"1","twice":"2"}"#);
    let outer = [("kind", text("Secret")), ("password", text("out")), ("data", data.clone())];
    let secret = |version| Secret { fields: fields(&outer), response: None, version, lease: None };
    insta::assert_snapshot!(keys(secret(None)), @r#"
    password = inä
    kind = Secret
    null = null
    list = [1, 2.50]
    data = {"password":"in\u00e4","null":null,"list":[1, 2.50],"twice":"1","twice":"2"}
    twice = 2
    object 3 (null): files/a: its field "null" is null in the store: the file has the four letters null, as vault-csi-provider writes it (give it a value)
    "#);
    insta::assert_snapshot!(keys(secret(Some(Version::new("1")))), @r#"
    password = out
    kind = Secret
    data = {"password":"in\u00e4","null":null,"list":[1, 2.50],"twice":"1","twice":"2"}
    "#);
    let of_text = Secret { fields: fields(&[("data", text(r#"{"password":"x"}"#))]), response: None, version: None, lease: None };
    insta::assert_snapshot!(keys(of_text), @r#"data = {"password":"x"}"#);
    // Native classes never look into the map.
    let secrets = HashMap::from([(reference("a"), Arc::new(secret(None)))]);
    assert_eq!(files(vec![object(1, "a", field("password", "x"))], &secrets), "x = out");
}
