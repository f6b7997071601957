//! Files that a template makes.

use super::*;
use crate::model::{Parse, Part, Template};
use crate::render::Skipped;

/// An object whose template has the secrets `a`, `b` and `c` under these names: a name that ends in `?` is optional.
fn template(source: &str, names: &[&str]) -> Object {
    let place = |name: &str| NAMES.iter().position(|known| *known == name).unwrap();
    let part = |name: &&str| {
        let (name, optional) = (name.trim_end_matches('?'), name.ends_with('?'));
        Part { name: name.to_owned(), secret: place(name), optional, parse: None }
    };
    let parts: Vec<Part> = names.iter().map(part).collect();
    let known: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let template = Template::parse(source, &known, &Steps::unbounded()).unwrap().unwrap();
    let select = Select::Template { template: template.into(), path: "app.conf".parse().unwrap() };
    Object { secret: parts[0].secret, parts, ..object(1, "a", select) }
}

fn two() -> Secrets {
    let mut two = secrets("a", [("user", text("app")), ("port", json("5432"))]);
    two.extend(secrets("b", [("password", text("{{ a.user }} hunter2"))]));
    two
}

#[test]
fn values_of_several_secrets_are_one_file() {
    let object = template("{{ a.user | json }}@{{ a.port }}: {{ b.password }}\n", &["b", "a"]);
    assert_eq!(files(vec![object], &two()), "app.conf = \"app\"@5432: {{ a.user }} hunter2\n");
    let mut parsed = template("{{ a.token }}", &["a"]);
    parsed.parts[0].parse = Some(Parse::Lone);
    assert_eq!(files(vec![parsed], &secrets("a", [("value", text(r#"{"token": "t"}"#))])), "app.conf = t");
}

#[test]
fn an_absent_secret_is_none_or_leaves_the_file_out() {
    let source = "{{ a.user }}{% if c is not none %}{{ c.x }}{% endif %}";
    let rendered = rendered(vec![template(source, &["a", "c?"])], &two()).unwrap();
    assert_eq!(rendered.files[0].contents.expose(), b"app");
    assert_eq!((rendered.skipped.len(), rendered.skipped[0].secret.to_string()), (1, "files/c".to_owned()));
    let whole = Object { optional: true, ..template(source, &["a", "c"]) };
    let whole = super::rendered(vec![whole], &two()).unwrap();
    assert_eq!((whole.files.len(), whole.skipped[0].secret.to_string()), (0, "files/c".to_owned()));
    insta::assert_snapshot!(faults(vec![template(source, &["a", "c"])], &two()), @"SecretNotFound: object 1 (app.conf): files/c: is not in its store (store it, correct the name, or set `optional: true`)");
}

#[test]
fn a_fault_has_the_line_and_no_value() {
    insta::assert_snapshot!(faults(vec![template("x\n{{ b.pasword }}", &["a", "b"])], &two()), @"SecretNotFound: object 1 (app.conf): files/b: template: line 2: \"b.pasword\" is not there (correct the name, or write `| default('')`)");
    let optional = Object { optional: true, ..template("{{ a.user }} {{ b.pasword }}", &["a", "b"]) };
    let left_out = rendered(vec![optional], &two()).unwrap();
    let Skipped { secret, field, .. } = &left_out.skipped[0];
    assert_eq!((left_out.files.len(), secret.to_string(), field.as_deref()), (0, "files/b".to_owned(), Some("pasword")));
    insta::assert_snapshot!(faults(vec![template("{{ b.password | b64decode }}", &["b"])], &two()), @"InvalidRequest: object 1 (app.conf): files/b: template: line 1: the filter `b64decode` needs base64, and this is not base64");
}

/// With little memory, a mount asks for more; with all that the daemon has, it fails.
#[test]
fn memory_has_two_bounds() {
    let source = format!("{}x{}", "{% for n in a %}".repeat(12), "{% endfor %}".repeat(12));
    let outcome = |memory: usize, is_all_memory: bool| {
        let plan = plan(vec![template(&source, &["a"])]);
        let limits = RenderLimits { memory, is_all_memory, ..LIMITS };
        let steps = Steps::new(50_000_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        super::super::render(&plan, &beside(&plan, &two()), FileMode::DEFAULT, limits, &SaltKey::new(b"test"), &steps)
            .map(|rendered| rendered.files.len())
    };
    assert_eq!(outcome(64 * 1024, false), Err(Unrendered::Short));
    assert_eq!(outcome(3 << 20, false), Ok(1));
    let Err(Unrendered::Faults(faults)) = outcome(64 * 1024, true) else { panic!("it is rendered") };
    assert_eq!(faults[0].code, Code::TooLarge);
    insta::assert_snapshot!(faults[0], @"object 1 (app.conf): files/a: its template makes more than 65536 bytes while Keyferry renders it (write a simpler one)");
}

#[test]
fn a_file_has_a_bound() {
    let source = "{% set x = '' %}".to_owned() + &"{{ b.password }}".repeat(3);
    let long = secrets("b", [("password", text(&"x".repeat(500_000)))]);
    insta::assert_snapshot!(faults(vec![template(&source, &["b"])], &long), @"TooLarge: object 1 (app.conf): files/b: makes a file of more than 1048576 bytes: no more are allowed on this node (make a shorter one, or ask for a higher limits.secretBytes)");
}
