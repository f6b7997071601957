//! Files of many fields, texts that are JSON, and line ends.

use super::*;
use crate::formats::{Format, Names, pem};
use crate::model::{Newline, Parse, Part};

fn format(format: Format, patterns: &[&str], path: &str) -> Select {
    Select::Formatted {
        format,
        patterns: patterns.iter().map(|pattern| FieldPattern::new(*pattern)).collect(),
        path: path.parse().unwrap(),
    }
}

/// An object of several secrets: a name that ends in `?` is optional.
fn merged(names: &[&str], select: Select) -> Object {
    let place = |name: &str| NAMES.iter().position(|known| *known == name).unwrap();
    let part =
        |name: &&str| Part { name: String::new(), secret: place(name.trim_end_matches('?')), optional: name.ends_with('?'), parse: None };
    let parts: Vec<Part> = names.iter().map(part).collect();
    Object { secret: parts[0].secret, parts, ..object(1, "a", select) }
}

fn two() -> Secrets {
    let mut two = secrets("a", [("user", text("app")), ("port", json("5432"))]);
    two.extend(secrets("b", [("password", text("hunter2 x\n"))]));
    two
}

#[test]
fn a_secret_in_each_format() {
    let secrets = secrets("a", [("db.user", text("app")), ("pass word", text("a\"b\n")), ("list", json("[1.50,\"x\"]"))]);
    let env = Names::Env;
    let objects =
        [Format::Json, Format::Yaml, Format::Toml, Format::Properties(Names::AsStored), Format::Dotenv(env), Format::Properties(env)];
    let objects = (1..).zip(objects).map(|(n, one)| object(n, "a", format(one, &[], &format!("f{n}")))).collect();
    insta::assert_snapshot!(files(objects, &secrets), @r#"
    f1 = {"db.user":"app","list":[1.50,"x"],"pass word":"a\"b\n"}
    f2 = "db.user": "app"
    "list": [1.50, "x"]
    "pass word": "a\"b\n"

    f3 = "db.user" = "app"
    "list" = [1.50, "x"]
    "pass word" = "a\"b\n"

    f4 = db.user=app
    list=[1.50,"x"]
    pass\ word=a"b\n

    f5 = DB_USER=app
    LIST='[1.50,"x"]'
    PASS_WORD='a"b
    '

    f6 = DB_USER=app
    LIST=[1.50,"x"]
    PASS_WORD=a"b\n
    "#);
}

#[test]
fn fields_of_several_secrets_are_one_file() {
    assert_eq!(
        files(vec![merged(&["b", "a"], format(Format::Json, &[], "f"))], &two()),
        r#"f = {"password":"hunter2 x\n","port":5432,"user":"app"}"#
    );
    let some = merged(&["a", "b"], format(Format::Json, &["p*", "user"], "f"));
    assert_eq!(files(vec![some], &two()), r#"f = {"password":"hunter2 x\n","port":5432,"user":"app"}"#);
    let stripped = Object { newline: Newline::Strip, ..merged(&["a", "b"], format(Format::Json, &["p*"], "f")) };
    assert_eq!(files(vec![stripped], &two()), r#"f = {"password":"hunter2 x","port":5432}"#);
}

#[test]
fn an_absent_secret_of_several() {
    let optional = rendered(vec![merged(&["a", "c?"], format(Format::Json, &[], "f"))], &two()).unwrap();
    assert_eq!(optional.files[0].contents.expose(), br#"{"port":5432,"user":"app"}"#);
    assert_eq!((optional.skipped.len(), optional.skipped[0].secret.to_string()), (1, "files/c".to_owned()));
    let whole = Object { optional: true, ..merged(&["a", "c"], format(Format::Json, &[], "f")) };
    let whole = rendered(vec![whole], &two()).unwrap();
    assert_eq!((whole.files.len(), whole.skipped[0].secret.to_string()), (0, "files/c".to_owned()), "the object is optional: no file");
    insta::assert_snapshot!(faults(vec![merged(&["a", "c"], format(Format::Json, &[], "f"))], &two()), @"SecretNotFound: object 1 (f): files/c: is not in its store (store it, correct the name, or set `optional: true`)");
}

#[test]
fn what_makes_no_file() {
    let mut secrets = secrets(
        "a",
        [
            ("user", text("hunter2")),
            ("db-user", text("hunter2")),
            ("db.user", text("hunter2")),
            ("key", binary(b"hunter2\xff")),
            ("none", json("null")),
            ("quotes", text("it's `hunter2`")),
            ("...", text("hunter2")),
            ("half", json(r#"["hunter2 \ud800"]"#)),
            ("twice", json(r#"{"hunter2": 1, "hunter2": 2}"#)),
            ("coded", text("hunter2!")),
            ("list", json(r#"["hunter2"]"#)),
        ],
    );
    secrets.extend(super::secrets("b", [("user", text("hunter2"))]));
    let of = |n: usize, one: Format, names: &[&str]| object(n, "a", format(one, names, &format!("f{n}")));
    let env = Format::Dotenv(Names::Env);
    let objects = vec![
        of(1, Format::Yaml, &["key"]),
        of(2, Format::Toml, &["none*"]),
        of(3, Format::Json, &["none"]),
        of(4, env, &["quotes"]),
        of(5, Format::Dotenv(Names::AsStored), &["db.user"]),
        of(6, env, &["db-user", "db.user"]),
        of(7, env, &["..."]),
        of(8, Format::Json, &["half"]),
        of(9, Format::Yaml, &["twice"]),
        of(10, Format::Json, &["pasword", "user"]),
        Object { encoding: Encoding::Base64, ..of(11, Format::Json, &["coded"]) },
        Object { index: 12, ..merged(&["a", "b"], format(Format::Json, &["user"], "f12")) },
        of(13, Format::Pem(pem::Part::All), &["list"]),
        of(14, Format::Pem(pem::Part::Key), &["user*"]),
    ];
    insta::assert_snapshot!(faults(objects, &secrets), @r#"
    InvalidRequest: object 1 (f1): files/a: its field "key" is binary, which yaml cannot hold (deliver it with `field`, and name the other fields with `fields`)
    InvalidRequest: object 2 (f2): files/a: its field "none" is null in the store, or has a null in it, which toml cannot hold (give it a value, or name the other fields with `fields`)
    SecretNotFound: object 3 (f3): files/a: its field "none" is null in the store (give it a value, or set `optional: true`)
    InvalidRequest: object 4 (f4): files/a: its field "quotes" has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike (store another value, or deliver it with `field`)
    InvalidRequest: object 5 (f5): files/a: its field "db.user" has a name that cannot be a variable's: use letters, digits and `_`, no digit first, and not a variable that a shell sets itself (add `keys: env`, or rename it)
    InvalidRequest: object 6 (f6): files/a: the fields "db-user" and "db.user" would both become "DB_USER" (rename one, or choose with `fields`)
    InvalidRequest: object 7 (f7): files/a: its field "..." has no letter or digit for a variable's name (rename it, or choose with `fields`)
    SecretCorrupt: object 8 (f8): files/a: its field "half" has half a character in it (half of a surrogate pair: write the secret again)
    InvalidRequest: object 9 (f9): files/a: its field "twice" has a member twice in one object, which yaml does not allow (write the secret again)
    SecretNotFound: object 10 (f10): files/a: has no field "pasword" (it has "...", "coded", "db-user", "db.user", "half", "key", "list", "none", "quotes", "twice" and 1 more)
    SecretCorrupt: object 11 (f11): files/a: its field "coded": is not base64: a character outside its alphabet at byte 7 of 8 (store it as base64, or leave `encoding` out to deliver the text as it is)
    InvalidRequest: object 12 (f12): files/b: its field "user" is a field of files/a, too (name the fields of each with `fields`, or make a separate file for each secret)
    InvalidRequest: object 13 (f13): files/a: its field "list" has no PEM block (remove it from `fields`)
    SecretNotFound: object 14 (f14): files/a: as PEM: there is no private key
    "#);
}

#[test]
fn a_file_has_a_bound() {
    let secrets = secrets("a", [("x", text(&"\u{1}".repeat(200_000)))]);
    insta::assert_snapshot!(faults(vec![object(1, "a", format(Format::Json, &[], "f"))], &secrets), @"TooLarge: object 1 (f): files/a: is 1200008 bytes as a file: at most 1048576 are allowed on this node (deliver single fields, or ask for a higher limits.secretBytes)");
}

/// Writing is charged before it happens.
#[test]
fn work_is_paid_for() {
    let secrets = secrets("a", [("x", text(&"x".repeat(100_000)))]);
    for select in [format(Format::Yaml, &[], "f"), format(Format::Pem(pem::Part::All), &[], "f")] {
        let plan = plan(vec![object(1, "a", select)]);
        let steps = Steps::new(1_000_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        let faults = render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &steps).unwrap_err();
        assert_eq!((faults.len(), faults[0].code), (1, Code::TooLarge));
    }
    let parsed = Object { parse: Some(Parse::Lone), ..object(1, "a", whole("f")) };
    let plan = plan(vec![parsed]);
    let steps = Steps::new(1_000_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
    let faults = render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &steps).unwrap_err();
    assert_eq!(faults[0].code, Code::TooLarge);
}

fn parsed(index: usize, field: Option<&str>, select: Select) -> Object {
    let parse = field.map_or(Parse::Lone, |field| Parse::Field(FieldName::new(field)));
    Object { parse: Some(parse), ..object(index, "a", select) }
}

#[test]
fn a_text_that_is_json_gives_its_members() {
    let api = r#" {"token": "t\n", "port": 1.50, "nested": {"a": [1e3]}, "a.b": "dotted", "token ": ""} "#;
    let secrets = secrets("a", [("value", text(api)), ("other", text("x"))]);
    let value = Some("value");
    let objects = vec![
        parsed(1, value, field("token", "f1")),
        parsed(2, value, field("port", "f2")),
        parsed(3, value, field("nested.a[0]", "f3")),
        parsed(4, value, field("a.b", "f4")),
        parsed(5, value, whole("f5")),
        parsed(6, value, fields(&["token*"], "f6/")),
        Object { newline: Newline::Strip, ..parsed(7, value, field("token", "f7")) },
        parsed(8, value, format(Format::Yaml, &["port", "nested"], "f8")),
        object(9, "a", field("other", "f9")),
    ];
    insta::assert_snapshot!(files(objects, &secrets), @r#"
    f1 = t

    f2 = 1.50
    f3 = 1000.0
    f4 = dotted
    f5 = {"a.b":"dotted","nested":{"a": [1e3]},"port":1.50,"token":"t\n","token ":""}
    f6/token = t

    f6/token  = 
    f7 = t
    f8 = "nested": {"a": [1.0e+3]}
    "port": 1.50

    f9 = x
    "#);
}

#[test]
fn what_is_not_json() {
    let mut all = secrets(
        "a",
        [
            ("cut", text(r#"{"hunter2": "hunter2"#)),
            ("list", text(r#"["hunter2"]"#)),
            ("word", text("hunter2")),
            ("half", text(r#"{"x": ["\ud800"]}"#)),
            ("deep", text(&format!(r#"{{"x": {}{}}}"#, "[".repeat(100), "]".repeat(100)))),
            ("key", binary(b"\xff")),
            ("none", json("null")),
        ],
    );
    all.extend(secrets("b", [("x", text(&format!("{{{}}}", (0..5_000).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(","))))]));
    let of = |n: usize, name: &str| parsed(n, Some(name), whole(&format!("f{n}")));
    let names = ["cut", "list", "word", "half", "deep", "key", "none", "lost"];
    let mut objects: Vec<_> = (1..).zip(names).map(|(n, name)| of(n, name)).collect();
    objects.push(parsed(9, None, whole("f9")));
    objects.push(Object { secret: 1, ..parsed(10, None, whole("f10")) });
    insta::assert_snapshot!(faults(objects, &all), @r#"
    SecretCorrupt: object 1 (f1): files/a: its field "cut" is not JSON: line 1, column 20 (store it again, or leave `parse` out)
    SecretCorrupt: object 2 (f2): files/a: its field "list" is JSON, but not an object, whose members could be fields (store an object, or leave `parse` out)
    SecretCorrupt: object 3 (f3): files/a: its field "word" is not JSON: line 1, column 1 (store it again, or leave `parse` out)
    SecretCorrupt: object 4 (f4): files/a: its field "half" has a member "x" with half a character in it, or nested too deep (write the secret again)
    SecretCorrupt: object 5 (f5): files/a: its field "deep" has a member "x" with half a character in it, or nested too deep (write the secret again)
    SecretCorrupt: object 6 (f6): files/a: its field "key" is binary, and so not JSON (store the JSON as a text)
    SecretNotFound: object 7 (f7): files/a: its field "none" is null in the store (give it a value, or set `optional: true`)
    SecretNotFound: object 8 (f8): files/a: has no field "lost" (did you mean "list"? It has "list", "cut", "deep", "half", "key", "none", "word")
    InvalidRequest: object 9 (f9): files/a: `parse: json` reads the only field of a secret, and it has 7 fields (write `parse: { field: NAME, as: json }`)
    TooLarge: object 10 (f10): files/b: its field "x" has 5000 members: no secret may have more than 4096 fields (split the secret)
    "#);
    let optional = Object { optional: true, ..of(1, "lost") };
    assert_eq!(rendered(vec![optional], &all).unwrap().skipped[0].field.as_deref(), Some("lost"));
}
