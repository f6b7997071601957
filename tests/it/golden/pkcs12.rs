//! Keyferry, openssl and keytool: `tests/golden/pkcs12.json` has the keystores that Keyferry writes, with what the other two read in them, and
//! keystores that the other two wrote. `make golden-pkcs12` asks them again.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use keyferry::formats::pem::Bundle;
use keyferry::formats::pkcs12::{Certificate, Fault, Keystore, PrivateKey, SaltKey, Undone, open, write};
use keyferry::steps::Steps;
use serde_json::{Value, json};

/// A mount's.
const STEPS: u64 = keyferry::steps::OF_A_MOUNT;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pkcs12.json")
}

pub fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap()
}

fn blocks(pem: &str) -> Bundle {
    let mut bundle = Bundle::of_at_most(8);
    bundle.read(pem).unwrap();
    bundle
}

/// The file that Keyferry makes of a case, with a salt key that is always the same.
fn file(case: &Value) -> Vec<u8> {
    let text = |key: &str| case[key].as_str().unwrap();
    let (key, chain, trust) = (blocks(text("key")), blocks(text("chain")), blocks(text("trust")));
    let key = key.key().map(|(label, bytes)| PrivateKey::of_pem(label, bytes).unwrap());
    let [chain, trust] = [&chain, &trust].map(|bundle| bundle.certificates().map(|der| Certificate::of(der).unwrap()).collect::<Vec<_>>());
    let keystore = Keystore { key: key.as_ref(), chain: &chain, trust: &trust, alias: text("alias") };
    write(&keystore, text("password"), &SaltKey::new(&[7; 32]), &Steps::of(STEPS)).unwrap().to_vec()
}

/// openssl and keytool have read these very bytes.
#[test]
fn keystores_are_those_that_others_have_read() {
    let mut golden = golden();
    if std::env::var_os("GOLDEN").is_some_and(|what| what == "write") {
        for case in golden["written"].as_array_mut().unwrap() {
            case["file"] = json!(BASE64.encode(&file(case)));
        }
        return fs::write(path(), serde_json::to_string(&golden).unwrap()).unwrap();
    }
    let cases = golden["written"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        assert_eq!(case["file"], json!(BASE64.encode(&file(case))), "{}: another file (run `make golden-pkcs12`)", case["name"]);
        let answers = &case["answers"];
        let entries = usize::from(case["key"] != "") + blocks(case["trust"].as_str().unwrap()).certificates().len();
        assert_eq!(answers["keytool"].as_array().unwrap().len(), entries, "{}", case["name"]);
        assert!(answers["openssl"]["info"].to_string().contains("AES-256-CBC"), "{}", case["name"]);
    }
}

#[test]
fn keystores_of_others_are_read() {
    let golden = golden();
    let mut refused = Vec::new();
    for case in golden["read"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let password = Some(text("password")).filter(|password| !password.is_empty());
        let opened = match open(text("file").as_bytes(), password, &Steps::of(STEPS)) {
            Ok(opened) => opened,
            Err(Undone::Fault(fault)) => {
                refused.push((text("name"), fault));
                continue;
            }
            Err(Undone::Spent(spent)) => panic!("{}: {spent}", text("name")),
        };
        let [key, leaf, chain, trust] = [&opened.key, &opened.leaf, &opened.chain, &opened.trust].map(|pem| str::from_utf8(pem).unwrap());
        let same = |one: &str, other: &str| blocks(one).certificates().eq(blocks(other).certificates());
        if text("name").ends_with("alone") {
            assert!(key.is_empty() && leaf.is_empty() && chain.is_empty() && same(trust, text("ca")), "{}", text("name"));
            continue;
        }
        let [found, wanted] = [key, text("key")].map(|key| blocks(key).key().map(|(label, bytes)| (label, bytes.to_vec())));
        assert_eq!(found, wanted, "{}", text("name"));
        assert!(same(leaf, text("leaf")) && same(chain, &format!("{}{}", text("leaf"), text("ca"))), "{}", text("name"));
        // keytool's have the CA as an entry of its own, too.
        assert!(same(trust, if text("name").starts_with("keytool") { text("ca") } else { "" }), "{}", text("name"));
        let other = open(text("file").as_bytes(), Some("another"), &Steps::of(STEPS)).map(|_| ());
        assert!(other.is_err() || text("name").ends_with("in the clear"), "{}: another password opens it", text("name"));
    }
    assert_eq!(refused, [("openssl, too many iterations", Fault::Iterations(200_001)), ("openssl, RC4", Fault::Cipher)]);
}
