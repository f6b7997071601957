//! Keystores, mounted: made of secrets, the same on every node, read by openssl, and read back.

use std::fs;

use keyferry::formats::pem::Bundle;
use serde_json::Value;

use crate::golden::pkcs12::golden;
use crate::support::{House, Provider, apart, run, web};

const PASSWORD: &str = "correct horse battery";

/// The keystore of the secrets that `fill` makes.
const CLASS: &str = "
- secret: shop/tls
  format: pkcs12
  key: tls.key
  chain: tls.crt
  trust: { secret: shop/ca, field: ca.crt }
  alias: web
  password: { secret: shop/keystore, field: password }
  path: web.p12
";

/// A key with its certificates, from the golden keystores: (key, chain, what is trusted).
fn parts() -> (String, String, String) {
    let golden = golden();
    let case: &Value = golden["written"].as_array().unwrap().iter().find(|case| case["name"] == "RSA, trusting").unwrap();
    let text = |key: &str| case[key].as_str().unwrap().to_owned();
    (text("key"), text("chain"), text("trust"))
}

fn fill(house: &House) {
    let (key, chain, trust) = parts();
    house.set("shop/tls", &[("tls.key", key.as_bytes()), ("tls.crt", chain.as_bytes())]);
    house.set("shop/ca", &[("ca.crt", trust.as_bytes())]);
    house.set("shop/keystore", &[("password", PASSWORD.as_bytes())]);
}

/// A house with a version key that others have too.
fn house() -> House {
    let house = House::new("versionKey: VERSION_KEY");
    let path = house.path("version.key");
    fs::write(&path, [7; 32]).unwrap();
    house.reconfigure("VERSION_KEY", path.to_str().unwrap());
    fill(&house);
    house
}

async fn file_of(house: &House, provider: &Provider, class: &str) -> Vec<u8> {
    let answer = provider.mount(house.request(&web(), class)).await.unwrap_or_else(|status| panic!("{}", status.message()));
    answer.files[0].contents.to_vec()
}

#[tokio::test]
async fn a_keystore_is_the_same_at_each_mount_and_on_each_node() {
    let (one, other) = (house(), house());
    let (first, second) = (one.serve(), other.serve());
    let file = file_of(&one, &first, CLASS).await;
    assert_eq!(file, file_of(&one, &first, CLASS).await, "at the next poll");
    assert_eq!(file, file_of(&other, &second, CLASS).await, "on another node");
    drop(first);
    assert_eq!(file, file_of(&one, &one.serve(), CLASS).await, "after a restart");
    one.set("shop/keystore", &[("password", b"another")]);
    let changed = file_of(&one, &one.serve(), CLASS).await;
    assert_ne!(file, changed);
    fs::write(other.path("version.key"), [8; 32]).unwrap();
    drop(second);
    assert_ne!(file, file_of(&other, &other.serve(), CLASS).await, "another version key");
}

/// It is for a program that somebody else wrote.
#[tokio::test]
async fn openssl_reads_it() {
    let house = house();
    let provider = house.serve();
    let (key, chain, trust) = parts();
    let classes = [
        (CLASS.to_owned(), PASSWORD),
        (CLASS.replace("  alias: web\n", "").replace("trust:", "# trust:"), PASSWORD),
        ("- { format: pkcs12, trust: { secret: shop/ca, field: ca.crt }, password: { secret: shop/keystore, field: password }, path: t.p12 }".to_owned(), PASSWORD),
    ];
    for (class, password) in classes {
        fs::write(house.path("in.p12"), file_of(&house, &provider, &class).await).unwrap();
        let mut openssl = apart("openssl");
        openssl.args(["pkcs12", "-noenc", "-in"]).arg(house.path("in.p12")).args(["-passin", &format!("pass:{password}")]);
        let (code, out, err) = run(&mut openssl, "");
        assert_eq!(code, 0, "{err}");
        let (mut read, mut wanted) = (Bundle::default(), Bundle::default());
        read.read(&out).unwrap();
        if class.contains("tls.key") {
            wanted.read(&format!("{key}{chain}")).unwrap();
        }
        if !class.contains("# trust:") {
            wanted.read(&trust).unwrap();
        }
        assert!(read.certificates().eq(wanted.certificates()), "{class}");
        assert_eq!(read.key(), wanted.key(), "{class}");
    }
}

#[tokio::test]
async fn a_stored_keystore_is_read_back() {
    let house = house();
    let provider = house.serve();
    let file = file_of(&house, &provider, CLASS).await;
    house.set("shop/pfx", &[("pfx", &file)]);
    let class = "- { secret: shop/pfx, parse: { field: pfx, as: pkcs12, password: { secret: shop/keystore, field: password } }, fields: '*', path: '' }";
    let answer = provider.mount(house.request(&web(), class)).await.unwrap();
    let (key, chain, trust) = parts();
    let text = |name: &str| {
        let file = answer.files.iter().find(|file| file.path == name).unwrap();
        str::from_utf8(&file.contents).unwrap().to_owned()
    };
    assert_eq!((text("key"), text("leaf"), text("chain"), text("trust")), (key, chain.clone(), chain, trust));
    // The audit line and the policy know both secrets.
    let denied = class.replace("shop/keystore", "bank/keystore");
    let refused = provider.mount(house.request(&web(), &denied)).await.unwrap_err();
    assert!(refused.message().starts_with("PolicyDenied: object 1"), "{}", refused.message());
}

#[tokio::test]
async fn what_a_keystore_is_refused_for() {
    let house = house();
    let provider = house.serve();
    let file = file_of(&house, &provider, CLASS).await;
    let mut endless = file.clone();
    // The iterations of the MAC: 2,048 are two bytes, and those of 2^31 are five.
    let at = endless.len() - 4;
    assert_eq!(endless[at..], [2, 2, 8, 0]);
    endless.splice(at.., [2, 5, 0, 0x80, 0, 0, 0]);
    // The lengths of the MAC and of the file are three bytes more.
    assert_eq!(file[..2], [0x30, 0x82]);
    let length = u16::from_be_bytes([file[2], file[3]]) + 3;
    endless[2..4].copy_from_slice(&length.to_be_bytes());
    let mac = file.windows(2).rposition(|pair| pair == [0x30, 0x49]).unwrap();
    endless[mac + 1] += 3;
    house.set("shop/pfx", &[("pfx", &file), ("endless", &endless), ("text", b"correct horse")]);
    let (_, chain, _) = parts();
    let other = golden()["written"][2]["key"].as_str().unwrap().to_owned();
    house.set("shop/other", &[("tls.key", other.as_bytes()), ("tls.crt", chain.as_bytes())]);
    let read = |field: &str, password: &str| {
        format!("- {{ secret: shop/pfx, parse: {{ field: {field}, as: pkcs12{password} }}, field: key, path: f }}")
    };
    let right = ", password: { secret: shop/keystore, field: password }";
    // The renderer's own tests have the whole messages.
    let of = |class: &str, from: &str, to: &str| class.replace(from, to);
    for (class, code, part) in [
        (of(CLASS, "shop/tls", "shop/other"), "InvalidRequest", "its field \"tls.key\" does not fit the first certificate under `chain`"),
        (of(CLASS, "tls.crt", "tls.csr"), "SecretNotFound", "files/shop/tls: has no field \"tls.csr\" (did you mean \"tls.crt\"?"),
        (
            of(CLASS, "chain: tls.crt", "chain: [{ secret: shop/ca, field: ca.crt }, tls.crt]"),
            "InvalidRequest",
            "under `chain` are out of order",
        ),
        (of(CLASS, "field: password", "field: pasword"), "SecretNotFound", "files/shop/keystore: has no field \"pasword\""),
        (of(CLASS, "shop/keystore", "shop/none"), "SecretNotFound", "files/shop/none: "),
        (read("endless", right), "TooLarge", "its field \"endless\" takes 2147487744 iterations to open: at most 200000 are allowed"),
        (read("pfx", ", password: text"), "SecretCorrupt", "its field \"pfx\" does not open with this password"),
        (read("pfx", ""), "InvalidRequest", "its field \"pfx\" needs a password to open"),
        (read("text", right), "SecretCorrupt", "its field \"text\" is not a PKCS#12 file"),
        (of(CLASS, "pkcs12", "jks"), "InvalidRequest", "Java reads PKCS#12 under the type JKS, too (write `format: pkcs12`)"),
    ] {
        let refused = provider.mount(house.request(&web(), &class)).await.unwrap_err();
        let message = refused.message();
        assert!(message.starts_with(&format!("{code}: ")) && message.contains(part), "{message}");
        assert!(!message.contains("correct horse") && !message.contains("BEGIN"), "{message}");
    }
}
