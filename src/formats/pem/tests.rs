use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;

/// A root, the certificate that it issued, and the one which that issued; the leaf's key.
struct Chain {
    root: String,
    middle: String,
    leaf: String,
    key: String,
}

fn params(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn chain(name: &str) -> Chain {
    let key = KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(params(&format!("{name} root"), true), KeyPair::generate().unwrap()).unwrap();
    let middle = CertifiedIssuer::signed_by(params(&format!("{name} middle"), true), KeyPair::generate().unwrap(), &root).unwrap();
    let leaf = params(&format!("{name} leaf"), false).signed_by(&key, &middle).unwrap();
    // As tools write them: lines of 64 characters.
    let of = |der: &[u8]| normal("CERTIFICATE", der);
    Chain { root: of(root.der()), middle: of(middle.der()), leaf: of(leaf.der()), key: normal("PRIVATE KEY", &key.serialize_der()) }
}

/// Written by other code than the code under test.
fn normal(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn written(texts: &[&str], part: Part) -> Result<String, Fault> {
    let mut bundle = Bundle::default();
    for text in texts {
        bundle.read(text)?;
    }
    let mut out = Out::within(usize::MAX, 0);
    bundle.write(part, &mut out)?;
    Ok(String::from_utf8(out.into_bytes().unwrap().to_vec()).unwrap())
}

#[test]
fn from_the_leaf_to_the_root_and_then_the_key() {
    let Chain { root, middle, leaf, key } = chain("shop");
    let all = format!("{leaf}{middle}{root}{key}");
    for order in [[&root, &key, &leaf, &middle], [&key, &middle, &root, &leaf], [&leaf, &middle, &root, &key]] {
        assert_eq!(written(&order.map(String::as_str), Part::All).unwrap(), all);
    }
    let texts = [root.as_str(), &key, &leaf, &middle];
    assert_eq!(written(&texts, Part::Chain).unwrap(), format!("{leaf}{middle}{root}"));
    assert_eq!((written(&texts, Part::Leaf).unwrap(), written(&texts, Part::Key).unwrap()), (leaf.clone(), key.clone()));
    assert_eq!(written(&[&key], Part::All).unwrap(), key, "without certificates");
    assert_eq!(written(&[&middle], Part::All).unwrap(), middle, "the issuer may be elsewhere");
}

#[test]
fn other_spellings_are_made_one() {
    let Chain { leaf, middle, key, .. } = chain("shop");
    let body = |text: &str| text.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let on_one_line = format!("-----BEGIN CERTIFICATE-----\r\n{}\r\n-----END CERTIFICATE-----", body(&leaf));
    let with_text = format!("subject=CN = shop\n\n{middle}\nissuer: x\n{leaf}trailing");
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let texts = [parameters, &on_one_line, &with_text, &key];
    assert_eq!(written(&texts, Part::All).unwrap(), format!("{leaf}{middle}{key}"), "and each once");
}

#[test]
fn what_is_no_file_of_one_certificate() {
    let (one, other) = (chain("one"), chain("other"));
    let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    let cases: [(&[&str], Part); 14] = [
        (&[], Part::All),
        (&[&one.leaf], Part::Key),
        (&[&one.key], Part::Chain),
        (&[&one.key], Part::Leaf),
        (&[&one.leaf, &other.leaf], Part::Chain),
        (&[&one.leaf, &one.middle, &other.root], Part::All),
        (&[&one.leaf, &one.root], Part::Leaf),
        (&[&one.key, &other.key], Part::Key),
        (&[&block("CERTIFICATE", "****")], Part::All),
        (&[&one.leaf, &block("CERTIFICATE", "AAAA")], Part::All),
        (&["-----BEGIN CERTIFICATE-----\nAAAA\n"], Part::All),
        (&["-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n"], Part::All),
        (&[&block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA")], Part::All),
        (&[&block("PUBLIC KEY", "AAAA")], Part::All),
    ];
    let faults: Vec<String> = cases.into_iter().map(|(texts, part)| written(texts, part).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(faults.join("\n"), @"
    there is no certificate and no private key
    there is no private key
    there is no certificate
    there is no certificate
    the 2 certificates are not one chain from a leaf to its root (store the chain of one certificate)
    the 3 certificates are not one chain from a leaf to its root (store the chain of one certificate)
    the 2 certificates are not one chain from a leaf to its root (store the chain of one certificate)
    there are two private keys (store one of them, or name the field with `fields`)
    PEM block 1 is not base64 (store the block as the tool that made it writes it)
    PEM block 2 is a certificate that cannot be read (store it again)
    PEM block 1 has a beginning and no end of the same kind (it seems cut: store it again)
    PEM block 1 has a beginning and no end of the same kind (it seems cut: store it again)
    PEM block 1 is an encrypted key with headers (convert it with `openssl pkcs8 -topk8`)
    PEM block 1 is neither a certificate nor a private key (remove it)
    ");
    let many: Vec<String> = (0..=MAX_CERTIFICATES)
        .map(|n| {
            let key = KeyPair::generate().unwrap();
            normal("CERTIFICATE", params(&n.to_string(), false).self_signed(&key).unwrap().der())
        })
        .collect();
    assert_eq!(written(&many.iter().map(String::as_str).collect::<Vec<_>>(), Part::All), Err(Fault::TooMany(MAX_CERTIFICATES)));
}

/// Any text is read or refused.
#[test]
fn no_text_is_too_much() {
    let Chain { leaf, .. } = chain("shop");
    for end in 0..leaf.len() {
        let _ = written(&[&leaf[..end]], Part::All);
        let _ = written(&[&leaf[end..]], Part::All);
    }
}
