//! Keystores, made of fields and read again.

use std::sync::LazyLock;

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::model::{FieldOf, Keystore, Newline, Parse, Part, PasswordOf};

/// PEM of a key, of its certificate, of its issuer and of that one's issuer.
struct Issued {
    key: String,
    leaf: String,
    middle: String,
    root: String,
}

static ISSUED: LazyLock<[Issued; 2]> = LazyLock::new(|| [issue("one"), issue("two")]);

fn params(name: String, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn issue(name: &str) -> Issued {
    let key = KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(params(format!("{name} root"), true), KeyPair::generate().unwrap()).unwrap();
    let middle = CertifiedIssuer::signed_by(params(format!("{name} middle"), true), KeyPair::generate().unwrap(), &root).unwrap();
    let leaf = params(format!("{name} leaf"), false).signed_by(&key, &middle).unwrap();
    let pem = |label: &str, der: &[u8]| {
        let text = BASE64.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    Issued {
        key: pem("PRIVATE KEY", &key.serialize_der()),
        leaf: pem("CERTIFICATE", leaf.der()),
        middle: pem("CERTIFICATE", middle.der()),
        root: pem("CERTIFICATE", root.der()),
    }
}

/// Secret `a` has a key with its certificates. `b` has the password, another key and odd values.
fn two() -> Secrets {
    let [one, other] = &*ISSUED;
    let json_list = |texts: &[&String]| json(&serde_json::to_string(texts).unwrap());
    let chain = format!("{}{}{}", one.leaf, one.middle, one.root);
    let mut two = secrets(
        "a",
        [
            ("key", text(&one.key)),
            ("leaf", text(&one.leaf)),
            ("ca_chain", json_list(&[&one.middle, &one.root])),
            ("all", text(&format!("{}{chain}", one.key))),
            ("backwards", text(&format!("{}{}{}", one.root, one.middle, one.leaf))),
            ("gap", text(&format!("{}{}", one.leaf, one.root))),
            ("root", text(&one.root)),
            ("none", json("null")),
            ("canary", text(CANARY)),
            ("cut", text(&one.key[..one.key.len() - 30])),
            ("sealed", text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")),
            ("empty", text("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")),
        ],
    );
    two.extend(secrets(
        "b",
        [
            ("password", text("hunter2 x")),
            ("line", text("hunter2 x\n")),
            ("blank", text("")),
            ("binary", binary(b"hunter2\xff")),
            ("other", text(&other.key)),
            ("root", text(&other.root)),
        ],
    ));
    two
}

fn field_of(part: usize, field: &str) -> FieldOf {
    FieldOf { part, field: FieldName::new(field) }
}

/// Made of fields of `a`, or of fields of `b` if `b.` is before a name.
fn keystore(key: &str, chain: &[&str], trust: &[&str], password: &str) -> Object {
    let of = |name: &str| name.strip_prefix("b.").map_or_else(|| field_of(0, name), |name| field_of(1, name));
    let all = |names: &[&str]| names.iter().map(|name| of(name)).collect();
    let key = (!key.is_empty()).then(|| of(key));
    let keystore = Keystore { key, chain: all(chain), trust: all(trust), password: of(password), alias: "shop".to_owned() };
    let parts = (0..2).map(|secret| Part { name: String::new(), secret, optional: false, parse: None }).collect();
    let select = Select::Keystore { keystore: Box::new(keystore), path: "k.p12".parse().unwrap() };
    Object { parts, ..object(1, "a", select) }
}

/// A secret `c` with a file, together with the others.
fn stored(file: &[u8]) -> Secrets {
    let mut all = two();
    let coded = BASE64.encode(file);
    all.extend(secrets("c", [("pfx", binary(file)), ("text", text(&coded)), ("password", text("hunter2 x")), ("wrong", text("hunter2"))]));
    all
}

fn opened(index: usize, field: &str, password: Option<(usize, &str)>, select: Select) -> Object {
    let password = password.map(|(secret, field)| PasswordOf { secret, field: FieldName::new(field) });
    Object { parse: Some(Parse::Pkcs12 { field: FieldName::new(field), password }), ..object(index, "c", select) }
}

fn made(object: Object) -> Vec<u8> {
    rendered(vec![object], &two()).unwrap().files[0].contents.expose().to_vec()
}

#[test]
fn a_keystore_is_made_and_read_back() {
    let one = &ISSUED[0];
    let (chain, trust) = (format!("{}{}{}", one.leaf, one.middle, one.root), format!("{}{}", one.root, ISSUED[1].root));
    let file = made(keystore("key", &["leaf", "ca_chain"], &["root", "b.root"], "b.password"));
    assert_eq!(file, made(keystore("all", &["all"], &["root", "b.root"], "b.password")), "it does not matter where the parts come from");
    assert_eq!(file, made(keystore("key", &["leaf", "leaf", "ca_chain"], &["root", "b.root"], "b.password")), "each once");
    assert_ne!(file, made(keystore("key", &["leaf", "ca_chain"], &["b.root", "root"], "b.password")));
    let secrets = stored(&file);
    let (password, other) = (Some((2, "password")), Some((1, "password")));
    let objects = vec![
        opened(1, "pfx", password, fields(&["*"], "p/")),
        opened(2, "text", other, fields(&["*"], "t/")),
        opened(3, "pfx", password, field("key", "key.pem")),
        opened(4, "pfx", password, format_pem("tls.pem")),
    ];
    let files: BTreeMap<String, String> = {
        let rendered = rendered(objects, &secrets).unwrap();
        rendered.files.iter().map(|file| (file.path.to_string(), String::from_utf8(file.contents.expose().to_vec()).unwrap())).collect()
    };
    let wanted = [("key", &one.key), ("leaf", &one.leaf), ("chain", &chain), ("trust", &trust)];
    for folder in ["p", "t"] {
        for (name, pem) in wanted {
            assert_eq!(files[&format!("{folder}/{name}")], *pem, "{name}");
        }
    }
    assert_eq!((&files["key.pem"], &files["tls.pem"]), (&one.key, &format!("{chain}{}", one.key)));
}

/// Certificates and key, without trusted certificates.
fn format_pem(path: &str) -> Select {
    use crate::formats::{Format, pem::Part as PemPart};
    let patterns = ["chain", "key"].map(FieldPattern::new).to_vec();
    Select::Formatted { format: Format::Pem(PemPart::All), patterns, path: path.parse().unwrap() }
}

#[test]
fn line_ends_of_a_password() {
    let stripped = Object { newline: Newline::Strip, ..keystore("key", &["leaf"], &[], "b.line") };
    assert_eq!(made(stripped), made(keystore("key", &["leaf"], &[], "b.password")));
}

/// With any number of objects that read it.
#[test]
fn each_stored_file_is_opened_once() {
    let secrets = stored(&made(keystore("key", &["leaf"], &[], "b.password")));
    let work = |objects: Vec<Object>| {
        let (plan, steps) = (plan(objects), Steps::unbounded());
        render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &steps).unwrap();
        steps.spent()
    };
    let object = |n: usize, password| opened(n, "pfx", Some((2, password)), field("key", &format!("f{n}")));
    let one = work(vec![object(1, "password")]);
    let many = work((1..=50).map(|n| object(n, "password")).collect());
    assert!(one > 1_000_000 && many < one + 100_000, "{one}, {many}");
}

#[test]
fn what_makes_no_keystore() {
    let objects = vec![
        keystore("leaf", &["leaf"], &[], "b.password"),
        keystore("canary", &["leaf"], &[], "b.password"),
        keystore("cut", &["leaf"], &[], "b.password"),
        keystore("sealed", &["leaf"], &[], "b.password"),
        keystore("empty", &["leaf"], &[], "b.password"),
        keystore("all", &["backwards"], &[], "b.password"),
        keystore("key", &["gap"], &[], "b.password"),
        keystore("b.other", &["leaf"], &[], "b.password"),
        keystore("key", &["root"], &[], "b.password"),
        keystore("key", &["leaf", "canary"], &[], "b.password"),
        keystore("key", &["leaf"], &["canary"], "b.password"),
        keystore("key", &["laef"], &[], "b.pasword"),
        keystore("none", &["leaf"], &[], "b.password"),
        keystore("key", &["leaf"], &[], "b.line"),
        keystore("key", &["leaf"], &[], "b.blank"),
        keystore("key", &["leaf"], &[], "b.binary"),
    ];
    let objects = (1..).zip(objects).map(|(index, object)| Object { index, ..object }).collect();
    insta::assert_snapshot!(faults(objects, &two()), @r#"
    SecretNotFound: object 1 (k.p12): files/a: its field "leaf" has no private key in PEM (name the field that has it)
    InvalidRequest: object 2 (k.p12): files/a: its field "canary" has no PEM block (name a field that has a key or certificates)
    SecretCorrupt: object 3 (k.p12): files/a: its field "cut": PEM block 1 has a beginning and no end of the same kind (it seems cut: store it again)
    InvalidRequest: object 4 (k.p12): files/a: its field "sealed" has an encrypted key, and its password is not known (store it as `openssl pkcs8 -in OLD -out NEW` writes it)
    SecretCorrupt: object 5 (k.p12): files/a: its field "empty" has a key that cannot be read (store it as `openssl pkcs8 -topk8 -nocrypt` writes it)
    InvalidRequest: object 6 (k.p12): files/a: the certificates under `chain` are out of order: certificate 1 was not issued by the one that follows it (write the key's own certificate first, then its issuer, and so on to the root; what is trusted goes under `trust`)
    InvalidRequest: object 7 (k.p12): files/a: the certificates under `chain` are out of order: certificate 1 was not issued by the one that follows it (write the key's own certificate first, then its issuer, and so on to the root; what is trusted goes under `trust`)
    InvalidRequest: object 8 (k.p12): files/b: its field "other" does not fit the first certificate under `chain` (store the certificate that was issued for the key)
    InvalidRequest: object 9 (k.p12): files/a: its field "key" does not fit the first certificate under `chain` (store the certificate that was issued for the key)
    InvalidRequest: object 10 (k.p12): files/a: its field "canary" has no PEM block (name a field that has a key or certificates)
    InvalidRequest: object 11 (k.p12): files/a: its field "canary" has no PEM block (name a field that has a key or certificates)
    SecretNotFound: object 12 (k.p12): files/a: has no field "laef" (did you mean "leaf"? It has "leaf", "all", "backwards", "ca_chain", "canary", "cut", "empty", "gap", "key", "none" and 2 more)
    SecretNotFound: object 12 (k.p12): files/b: has no field "pasword" (did you mean "password"? It has "password", "binary", "blank", "line", "other", "root")
    SecretNotFound: object 13 (k.p12): files/a: its field "none" is null in the store (give it a value, or set `optional: true`)
    InvalidRequest: object 14 (k.p12): files/b: its field "line" has a character that Java does not allow in a keystore's password: use ASCII from the space to `~` (store another password; `newline: strip` removes a line end)
    InvalidRequest: object 15 (k.p12): files/b: its field "blank" is empty, and not every program opens a keystore without a password (store one)
    InvalidRequest: object 16 (k.p12): files/b: its field "binary" has a character that Java does not allow in a keystore's password: use ASCII from the space to `~` (store another password; `newline: strip` removes a line end)
    "#);
}

#[test]
fn what_is_absent_and_may_be() {
    let mut keystore_of_c = keystore("key", &["leaf"], &["b.root"], "b.password");
    let Select::Keystore { keystore, .. } = &mut keystore_of_c.select else { panic!() };
    keystore.trust.push(field_of(2, "root"));
    keystore_of_c.parts.push(Part { name: String::new(), secret: 2, optional: true, parse: None });
    let rendered = rendered(vec![keystore_of_c], &two()).unwrap();
    assert_eq!((rendered.files.len(), rendered.skipped[0].secret.to_string()), (1, "files/c".to_owned()));
}

#[test]
fn what_is_not_opened() {
    let file = made(keystore("key", &["leaf"], &[], "b.password"));
    let right = Some((2, "password"));
    let of = |n: usize, name: &str, password| opened(n, name, password, field("key", &format!("f{n}")));
    let objects = vec![
        of(1, "pfx", Some((2, "wrong"))),
        of(2, "pfx", None),
        of(3, "pfx", Some((1, "binary"))),
        of(4, "pfx", Some((1, "lost"))),
        of(5, "lost", right),
        of(6, "wrong", right),
        opened(7, "pfx", right, field("trust", "f7")),
    ];
    insta::assert_snapshot!(faults(objects, &stored(&file)), @r#"
    SecretCorrupt: object 1 (f1): files/c: its field "pfx" does not open with this password (correct the password: a line end at its end counts, too)
    InvalidRequest: object 2 (f2): files/c: its field "pfx" needs a password to open (add `password: { secret: NAME, field: NAME }` under `parse`)
    SecretCorrupt: object 3 (f3): files/c: its field "pfx" does not open with this password (correct the password: a line end at its end counts, too)
    SecretNotFound: object 4 (f4): files/b: has no field "lost" (it has "binary", "blank", "line", "other", "password", "root")
    SecretNotFound: object 5 (f5): files/c: has no field "lost" (it has "password", "pfx", "text", "wrong")
    SecretCorrupt: object 6 (f6): files/c: its field "wrong" is not a PKCS#12 file (store the file as it is, or as base64)
    SecretNotFound: object 7 (f7): files/c: has no field "trust" (it has "chain", "key", "leaf")
    "#);
    let lost = opened(1, "pfx", Some((2, "password")), field("key", "f"));
    let lost = Object { secret: 0, ..lost };
    insta::assert_snapshot!(faults(vec![lost], &two()), @r#"SecretNotFound: object 1 (f): files/a: has no field "pfx" (it has "all", "backwards", "ca_chain", "canary", "cut", "empty", "gap", "key", "leaf", "none" and 2 more)"#);
}

/// The message shows the file's iterations, and the sum, in full.
#[test]
fn iterations_have_a_bound() {
    let file = made(keystore("key", &["leaf"], &[], "b.password"));
    // The MAC's iterations are its last two bytes.
    let mut many = file.clone();
    let at = many.len() - 2;
    assert_eq!(many[at..], [8, 0]);
    many[at..].copy_from_slice(&[0x7f, 0xff]);
    let steps = Steps::unbounded();
    let plan = plan(vec![opened(1, "pfx", Some((2, "password")), field("key", "f"))]);
    let secrets = stored(&many);
    let faults = render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &steps).unwrap_err();
    assert_eq!(faults[0].code, Code::SecretCorrupt, "{}", faults[0]);
    assert!(steps.spent() > 3_000_000, "it is derived: {}", steps.spent());
}

/// A mount pays for each derived key, and no mount has enough for two files with the most allowed iterations.
#[test]
fn work_is_paid_for() {
    let plan = plan(vec![keystore("key", &["leaf"], &[], "b.password")]);
    let secrets = two();
    for (steps, fits) in [(500_000, false), (3_000_000, true)] {
        let steps = Steps::new(steps, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        let outcome = render(&plan, &beside(&plan, &secrets), FileMode::DEFAULT, LIMITS, &steps);
        assert_eq!(outcome.is_ok(), fits);
    }
}
