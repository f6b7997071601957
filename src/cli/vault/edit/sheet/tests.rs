use std::sync::Arc;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::backend::store::file::Revision;
use crate::model::Secret;

fn name() -> SecretName {
    "shop/db".parse().unwrap()
}

fn fields<'v>(pairs: impl IntoIterator<Item = (&'v str, &'v [u8])>) -> Fields {
    let field = |(name, value): (&str, &[u8])| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new(value.to_vec())));
    pairs.into_iter().map(field).collect()
}

fn opened(fields: Fields) -> Opened {
    let secret = Arc::new(Secret { fields, response: None, version: None, lease: None });
    Opened { secret, revision: Revision::new(3).unwrap(), time: "2026-01-02T03:04:05Z".parse().unwrap(), secret_type: None }
}

fn written(pairs: &[(&str, &str)]) -> String {
    let text = write(&name(), &opened(fields(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))));
    str::from_utf8(&text).unwrap().to_owned()
}

/// What is below the head.
fn body(pairs: &[(&str, &str)]) -> String {
    written(pairs).split_once("\n\n").unwrap().1.to_owned()
}

fn bytes(fields: &Fields) -> Vec<(&str, &[u8])> {
    fields.iter().map(|(name, field)| (name.as_str(), field.bytes.expose())).collect()
}

/// The value of a text with one field.
fn typed(text: &str) -> String {
    let fields = read(text.as_bytes(), &name(), &Fields::new()).unwrap_or_else(|faults| panic!("{text:?}: {faults:?}"));
    let [(_, value)] = *bytes(&fields) else { panic!("{text:?}: {fields:?}") };
    str::from_utf8(value).unwrap().to_owned()
}

fn faults(text: &str) -> String {
    let faults = read(text.as_bytes(), &name(), &fields([("tls.p12", &b"\xff"[..])])).unwrap_err();
    str::from_utf8(&with_faults(text.as_bytes(), &faults)).unwrap().to_owned()
}

/// The fault of a text with one fault.
fn fault(text: &str) -> String {
    let all = faults(text);
    let [_, fault] = all.lines().filter_map(|line| line.strip_prefix(MARK)).collect::<Vec<_>>()[..] else { panic!("{all}") };
    fault.to_owned()
}

#[test]
fn it_reads_well() {
    let mut fields = fields([
        ("username", &b"app"[..]),
        ("password", b"it's #1: \"50%\""),
        ("tls.key", b"-----BEGIN KEY-----\nAB+/\nCD==\n-----END KEY-----\n"),
        ("windows", b"one\r\n  two\r\n"),
        ("empty", b""),
        ("port", b"05432"),
        ("a: b", b"x"),
        ("tls.p12", b"\xff\0"),
    ]);
    fields.insert("config".parse().unwrap(), Field::of_bytes(SecretBytes::new(b"  indented\n\nlast".to_vec())));
    let text = write(&name(), &opened(fields));
    assert_snapshot!(str::from_utf8(&text).unwrap(), @r#"
    # shop/db, revision 3. Each entry is a field. Change, add or remove some, save, and leave the editor.
    # Below `|-` every character counts, except the line break at the end. Below `|` it counts too.
    # If you change nothing, or remove all of this text, the secret stays as it is.
    # The field tls.p12 is not shown, and stays as it is (binary, 2 bytes).

    "a: b": x
    config: |2-
        indented

      last
    empty: ""
    password: |-
      it's #1: "50%"
    port: 05432
    tls.key: |
      -----BEGIN KEY-----
      AB+/
      CD==
      -----END KEY-----
    username: app
    windows: "one\r\n\
      \x20 two\r\n"
    "#);
}

#[test]
fn what_is_typed_before_a_comment_by_mistake_is_a_fault() {
    let text = write(&name(), &opened(fields([("a", &b"x"[..]), ("tls.p12", b"\xff")])));
    let text = str::from_utf8(&text).unwrap();
    for (at, _) in text.match_indices("# ") {
        let typed = format!("{}oops{}", &text[..at], &text[at..]);
        assert!(read(typed.as_bytes(), &name(), &Fields::new()).is_err(), "{typed}");
    }
    assert_eq!(text.matches("# ").count(), 4);
}

#[test]
fn every_form_is_read_as_it_is_meant() {
    for (text, value) in [
        ("a: hunter2", "hunter2"),
        ("a: 007", "007"),
        ("a: 1e3\n", "1e3"),
        ("a: true", "true"),
        ("a: 2026-01-02", "2026-01-02"),
        ("a:   x  \n", "x"),
        ("a: a#b", "a#b"),
        ("a: http://x:1/y?z", "http://x:1/y?z"),
        ("a: \"\"", ""),
        ("a: ''", ""),
        ("a: \"x\\ty\" # a note", "x\ty"),
        ("a: 'it''s'", "it's"),
        ("a: |-\n  # no comment\n  x ", "# no comment\nx "),
        ("a: |\n  x\n\n\n", "x\n"),
        ("a: |+\n  x\n\n", "x\n\n"),
        ("a: >\n  x\n  y\n", "x y\n"),
        ("a: |-", ""),
        ("a: |-\n", ""),
        ("a: |2- # deeper\n    x\n\n   y", "  x\n\n y"),
        ("a: \"x\n  y\"", "x y"),
        ("\"a\" : x", "x"),
        ("? a\n: x", "x"),
        ("{\"a\": \"x\"}", "x"),
        ("a: |-\r\n  x\r\n  y\r\n", "x\ny"),
        ("\u{feff}a: x", "x"),
        ("# c\n\na: x\n# d\n", "x"),
        ("é: x", "x"),
    ] {
        assert_eq!(typed(text), value, "{text:?}");
    }
}

/// A password may have characters that mean something in YAML. The secret must get exactly what the person typed.
#[test]
fn a_value_that_would_lose_something_is_a_fault() {
    for value in [
        "a #b",
        "a\t#b",
        "&a b",
        "!a b",
        "!!str 1",
        "!!binary aGk=",
        "a\n  b",
        "\n  a",
        "\n  a #b",
        "# |\n  a",
        "*a",
        "[a",
        "{a",
        "@a",
        "`a",
        "%a",
        "a: b",
        "- a",
        "'a' b",
        "\"a\" b",
        "| a",
        "> a",
    ] {
        let text = format!("x: {value}\n");
        assert!(read(text.as_bytes(), &name(), &Fields::new()).is_err(), "{text:?}");
    }
    assert_snapshot!(fault("password: hunter2 #1"), @"line 3: password: YAML does not read this value as you typed it (write it in the lines below `|-`, or in quotes)");
    // Many fields on one line are not more work than on many lines.
    let many: Vec<String> = (0..4000).map(|n| format!("\"f{n}\": \"{}\"", "x".repeat(1000))).collect();
    assert_eq!(read(format!("{{{}}}", many.join(", ")).as_bytes(), &name(), &Fields::new()).unwrap().len(), 4000);
}

#[test]
fn what_is_wrong_is_said_above_what_was_typed() {
    assert_snapshot!(faults("# head\n\na: x #y\nb:\nc: [x]\ntls.p12: x\n\"\\x01\": x\n"), @r#"
    #! Nothing is changed yet. Correct this, save, and leave the editor. If you leave it as it is, nothing changes.
    #! line 9: a: YAML does not read this value as you typed it (write it in the lines below `|-`, or in quotes)
    #! line 10: b: has no value (an empty one is "", and the word null needs quotes)
    #! line 11: c: is a list or a mapping, and a field is a text (write it in the lines below `|-`, or in quotes)
    #! line 12: tls.p12: is a binary field, which you cannot edit here (`keyferry vault patch shop/db tls.p12=@FILE`)
    #! line 13: a field name has 1 to 253 bytes and no control character
    # head

    a: x #y
    b:
    c: [x]
    tls.p12: x
    "\x01": x
    "#);
    let twice = faults(&faults("# head\na: x #y\n"));
    assert_eq!(twice, faults("# head\na: x #y\n"), "the former faults are gone");
    assert_eq!(faults(&format!("\u{feff}{twice}")), twice);
    assert_snapshot!(fault("a: x\na: y\n"), @"line 4: a: given twice in one mapping (remove one)");
    assert_snapshot!(fault("a: \"x\nb: y\n"), @"line 4: not valid YAML: invalid indentation in multiline quoted scalar (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    assert_snapshot!(fault("a: x\nhunter2\n"), @"line 4: not valid YAML: simple key expected ':' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    assert_snapshot!(fault("hunter2\n"), @"line 3: the text is not a list of fields (write `FIELD: VALUE`, one below the other)");
    assert_snapshot!(fault("- a\n"), @"line 3: the text is not a list of fields (write `FIELD: VALUE`, one below the other)");
    assert_snapshot!(fault("a: x\n---\na: y\n"), @"line 5: a second YAML document starts here; only one is read (remove the `---`)");
    assert_snapshot!(fault("a: {b: c}\n"), @"line 3: a: is a list or a mapping, and a field is a text (write it in the lines below `|-`, or in quotes)");
    assert_snapshot!(fault("a: null\n"), @r#"line 3: a: has no value (an empty one is "", and the word null needs quotes)"#);
    assert_snapshot!(fault("? [a]\n: x\n"), @"line 3: a key is a list or a mapping; keys are texts (one that starts with `[` or `{` needs quotes)");
    assert_snapshot!(fault("b: &x y\n<<: *x\n"), @"line 4: `<<` can merge only mappings (write a mapping, an alias of one, or a list of these)");
    assert_snapshot!(fault(&format!("{}: x\n", "x".repeat(300))), @"line 3: a field name has 1 to 253 bytes and no control character");
    assert_snapshot!(fault(&format!("a: {}\n", "x".repeat(5 << 20))), @"the fields hold 5242881 bytes; a secret has at most 4194304 (store it in parts)");
    let many: String = (0..5000).map(|n| format!("f{n}: x\n")).collect();
    assert_snapshot!(fault(&many), @"5001 fields; a secret has at most 4096 (store it in parts)");
    let broken = read(b"a: \xff\n", &name(), &Fields::new()).unwrap_err();
    assert_snapshot!(str::from_utf8(with_faults(b"", &broken).as_slice()).unwrap(), @r"
    #! Nothing is changed yet. Correct this, save, and leave the editor. If you leave it as it is, nothing changes.
    #! line 3: has bytes that are not UTF-8 (save the text as UTF-8)
    ");
    assert_eq!(with_faults(b"a: \xff\n", &broken).strip_suffix(b"\na: \xff\n").map(<[u8]>::is_empty), Some(false), "kept, whatever it is");
}

#[test]
fn a_secret_keeps_its_binary_fields_and_no_secret_is_without_a_field() {
    let former = fields([("tls.p12", &b"\xff"[..]), ("a", b"x")]);
    assert_eq!(bytes(&read(b"# all of them removed\n", &name(), &former).unwrap()), [("tls.p12", &b"\xff"[..])]);
    let faults = read(b"# all of them removed\n", &name(), &fields([("a", &b"x"[..])])).unwrap_err();
    assert_snapshot!(faults[0].problem, @"no field is left (to remove the secret: `keyferry vault remove shop/db`)");
}

#[test]
fn what_editors_take_off_the_ends_is_in_quotes() {
    for value in ["x ", "x\t", "x \ny", "x\n\n", "\n", "\n\n", " ", "x\n \ny", "\t"] {
        let text = body(&[("a", value)]);
        assert!(text.lines().all(|line| line.trim_end() == line) && !text.ends_with("\n\n"), "{text:?}");
        assert_eq!(typed(&text), value);
    }
}

/// Characters that mean something to YAML or to editors, and others.
fn odd_text() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just("\n"),
        Just("\n\n"),
        Just("\r\n"),
        Just("\r"),
        Just(" "),
        Just("  "),
        Just("\t"),
        Just("#"),
        Just(" #"),
        Just(": "),
        Just("- "),
        Just("'"),
        Just("\""),
        Just("\\"),
        Just("|"),
        Just(">"),
        Just("&a "),
        Just("*a"),
        Just("!!str "),
        Just("%"),
        Just("@"),
        Just("---"),
        Just("..."),
        Just("~"),
        Just("null"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just("?"),
        Just("\0"),
        Just("\u{7f}"),
        Just("\u{85}"),
        Just("\u{2028}"),
        Just("\u{feff}"),
        Just("\u{ffff}"),
        Just("\u{200b}"),
        Just("\u{a0}"),
        Just("é"),
        Just("🔑"),
        Just("\u{1fffe}"),
        Just("#! "),
        Just("x"),
        Just("0"),
    ];
    prop_oneof![proptest::collection::vec(odd, 0..12).prop_map(|parts| parts.concat()), any::<String>()]
}

fn odd_name() -> impl Strategy<Value = String> {
    odd_text().prop_map(|text| text.chars().filter(|c| !c.is_control()).take(20).chain(['n']).collect())
}

proptest! {
    #[test]
    fn every_secret_is_read_as_it_was_written(
        texts in proptest::collection::btree_map(odd_name(), odd_text(), 0..5),
        binary in proptest::collection::vec(128_u8..=255, 1..5),
    ) {
        let all = || texts.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).chain([("binary", binary.as_slice())]);
        let opened = opened(fields(all()));
        let text = write(&name(), &opened);
        match read(&text, &name(), &opened.secret.fields) {
            Ok(read) => prop_assert_eq!(bytes(&read), bytes(&opened.secret.fields)),
            Err(faults) => prop_assert!(false, "{:?}: {:?}", String::from_utf8_lossy(&text), faults),
        }
    }
}
