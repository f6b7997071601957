use std::sync::LazyLock;

use data_encoding::BASE64;
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::der::{self, OCTETS, number, octets, oid, sequence, value};
use super::salts::{Inputs, Use};
use super::*;
use crate::formats::pem::Bundle;
use crate::steps::Steps;

mod hostile;

const PASSWORD: &str = "correct horse";

/// The bit of a tag that says that the value is made of values.
const CONSTRUCTED: u8 = 0x20;

/// How many random keystores are read again.
const DRAWN: u32 = 1_000;

/// A key, its certificate and that of its issuer, each in DER.
struct Issued {
    key: Vec<u8>,
    leaf: Vec<u8>,
    ca: Vec<u8>,
}

fn params(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

/// Keys of some kinds. (tests/golden/pkcs12.json has the others.)
static ISSUED: LazyLock<Vec<Issued>> = LazyLock::new(|| {
    let kinds = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    let issued = kinds.iter().enumerate().map(|(at, kind)| {
        let key = KeyPair::generate_for(kind).unwrap();
        let ca = CertifiedIssuer::self_signed(params(&format!("ca {at}"), true), KeyPair::generate().unwrap()).unwrap();
        let leaf = params(&format!("leaf {at}"), false).signed_by(&key, &ca).unwrap();
        Issued { key: key.serialize_der(), leaf: leaf.der().to_vec(), ca: ca.der().to_vec() }
    });
    issued.collect()
});

fn salt_key(byte: u8) -> SaltKey {
    SaltKey::new(&[byte; 32])
}

/// Random content of a file.
#[derive(Clone, Debug)]
struct Drawn {
    kind: usize,
    has_key: bool,
    with_ca: bool,
    /// Which certificates are trusted.
    trust: Vec<usize>,
    alias: String,
    password: String,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let alias = prop_oneof!["[a-z0-9]{1,8}", "[ -~]{1,64}", "[\u{20}-\u{7e}\u{a0}-\u{d7ff}\u{e000}-\u{fffd}]{1,20}"];
    let trust = prop::sample::subsequence((0..6).collect::<Vec<usize>>(), 0..6);
    (0..3_usize, any::<bool>(), any::<bool>(), trust, alias, "[ -~]{1,40}").prop_map(|(kind, has_key, with_ca, trust, alias, password)| {
        let trust = if has_key || !trust.is_empty() { trust } else { vec![kind] };
        Drawn { kind, has_key, with_ca, trust, alias, password }
    })
}

impl Drawn {
    fn key(&self) -> Option<PrivateKey> {
        self.has_key.then(|| PrivateKey::of_pkcs8(&ISSUED[self.kind].key).unwrap())
    }

    fn chain(&self) -> Vec<Certificate<'static>> {
        let issued = &ISSUED[self.kind];
        let both = [&issued.leaf, &issued.ca];
        let many = if self.has_key { 1 + usize::from(self.with_ca) } else { 0 };
        both[..many].iter().map(|der| Certificate::of(der).unwrap()).collect()
    }

    fn trust(&self) -> Vec<Certificate<'static>> {
        let of = |at: usize| if at < 3 { &ISSUED[at].ca } else { &ISSUED[at - 3].leaf };
        self.trust.iter().map(|at| Certificate::of(of(*at)).unwrap()).collect()
    }

    fn write(&self) -> Vec<u8> {
        let (key, chain, trust) = (self.key(), self.chain(), self.trust());
        let keystore = Keystore { key: key.as_ref(), chain: &chain, trust: &trust, alias: &self.alias };
        write(&keystore, &self.password, &salt_key(7), &Steps::unbounded()).unwrap().to_vec()
    }
}

/// The blocks of a PEM text.
fn blocks(pem: &[u8]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let mut bundle = Bundle::of_at_most(MAX_CERTIFICATES);
    bundle.read(str::from_utf8(pem).unwrap()).unwrap();
    let certificates = bundle.certificates().map(<[u8]>::to_vec).collect();
    (certificates, bundle.key().map(|(_, key)| key.to_vec()))
}

fn ders(certificates: &[Certificate<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.der.to_vec()).collect()
}

/// What another reader finds: the key's name, the key, its chain; and each trusted certificate with its name.
type Theirs = (Vec<(String, Vec<u8>, Vec<Vec<u8>>)>, Vec<(String, Vec<u8>)>);

fn theirs(file: &[u8], password: &str) -> Theirs {
    let store = KeyStore::from_pkcs12(file, password, Pkcs12ImportPolicy::Strict).unwrap();
    let (mut keys, mut trusted) = (Vec::new(), Vec::new());
    for (name, entry) in store.entries() {
        match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => {
                let certificates = chain.certs().iter().map(|certificate| certificate.as_der().to_vec()).collect();
                keys.push((name.clone(), chain.key().as_der().to_vec(), certificates));
            }
            KeyStoreEntry::Certificate(certificate) => trusted.push((name.clone(), certificate.as_der().to_vec())),
            KeyStoreEntry::Secret(_) => panic!("{name}"),
        }
    }
    (keys, trusted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: DRAWN, ..ProptestConfig::default() })]

    /// Reads with our code, and with other code.
    #[test]
    fn what_is_written_is_read_back(drawn in drawn()) {
        let file = drawn.write();
        prop_assert_eq!(&file, &drawn.write(), "made again, it is the same");
        let opened = open(&file, Some(&drawn.password), &Steps::unbounded()).unwrap();
        let key = drawn.has_key.then(|| ISSUED[drawn.kind].key.clone());
        let (chain, trust) = (ders(&drawn.chain()), ders(&drawn.trust()));
        prop_assert_eq!(blocks(&opened.key).1, key.clone());
        prop_assert_eq!(blocks(&opened.leaf).0, chain.first().cloned().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(blocks(&opened.chain).0, chain.clone());
        prop_assert_eq!(blocks(&opened.trust).0, trust.clone());

        let (keys, mut trusted) = theirs(&file, &drawn.password);
        prop_assert_eq!(keys, key.map(|key| (drawn.alias.clone(), key, chain)).into_iter().collect::<Vec<_>>());
        let mut named: Vec<_> = (1..).zip(trust).map(|(n, der)| (format!("{}-trust-{n}", drawn.alias), der)).collect();
        named.sort();
        trusted.sort();
        prop_assert_eq!(trusted, named);
    }
}

/// All salts and vectors in a file that was written: the octet strings of 16 bytes, outside of what is encrypted.
fn salts_of(file: &[u8]) -> Vec<[u8; 16]> {
    /// Those below one value, or `None` if it is not DER throughout.
    fn below(content: &[u8]) -> Option<Vec<[u8; 16]>> {
        let (mut salts, mut values) = (Vec::new(), der::Der::of(content));
        while !values.is_empty() {
            match values.next().ok()? {
                (OCTETS, content) => match content.try_into() {
                    Ok(salt) => salts.push(salt),
                    // Other octet strings hold DER, or what is encrypted.
                    Err(_) => salts.extend(below(content).unwrap_or_default()),
                },
                (tag, content) if tag & CONSTRUCTED != 0 => salts.extend(below(content)?),
                _ => {}
            }
        }
        Some(salts)
    }
    below(file).unwrap()
}

/// If one input were forgotten, two contents would have the same vector.
#[test]
fn each_input_changes_each_salt_and_vector() {
    let issued = &ISSUED[..2];
    let certificate = |der: &'static [u8]| Certificate::of(der).unwrap();
    let (key, other_key) = (PrivateKey::of_pkcs8(&issued[0].key).unwrap(), PrivateKey::of_pkcs8(&issued[1].key).unwrap());
    let (chain, other) = ([certificate(&issued[0].leaf), certificate(&issued[0].ca)], [certificate(&issued[1].leaf)]);
    let trust = [certificate(&issued[0].ca), certificate(&issued[1].ca)];
    let backwards = [trust[1], trust[0]];
    let base = Keystore { key: Some(&key), chain: &chain, trust: &trust, alias: "a" };
    let variants = [
        ("as it is", Keystore { ..base }, "x", 7),
        ("another key, with its certificate", Keystore { key: Some(&other_key), chain: &other, ..base }, "x", 7),
        ("a shorter chain", Keystore { chain: &chain[..1], ..base }, "x", 7),
        ("the chain's end is trusted once more", Keystore { chain: &chain[..1], trust: &[chain[1], trust[0], trust[1]], ..base }, "x", 7),
        ("the order of what is trusted", Keystore { trust: &backwards, ..base }, "x", 7),
        ("less is trusted", Keystore { trust: &trust[..1], ..base }, "x", 7),
        ("nothing is trusted", Keystore { trust: &[], ..base }, "x", 7),
        ("another alias", Keystore { alias: "b", ..base }, "x", 7),
        ("another password", Keystore { ..base }, "y", 7),
        ("no key", Keystore { key: None, chain: &[], ..base }, "x", 7),
        ("another version key", Keystore { ..base }, "x", 8),
    ];
    let mut seen: Vec<(&str, Vec<[u8; 16]>)> = Vec::new();
    for (what, keystore, password, byte) in variants {
        let file = write(&keystore, password, &salt_key(byte), &Steps::unbounded()).unwrap();
        let salts = salts_of(&file);
        assert_eq!(
            salts.len(),
            if keystore.key.is_some() { 5 } else { 3 },
            "{what}: a salt and a vector for each part, and the MAC's salt"
        );
        for (other, others) in &seen {
            assert!(salts.iter().all(|salt| !others.contains(salt)), "{what} and {other} share a salt");
        }
        assert!(salts.iter().enumerate().all(|(at, salt)| !salts[..at].contains(salt)), "{what}: one salt twice");
        seen.push((what, salts));
    }
}

proptest! {
    /// The same for the salts alone, with any input.
    #[test]
    fn no_two_lists_of_inputs_share_a_salt(
        one in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        other in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
    ) {
        let key = salt_key(1);
        let salts = |inputs: &[Vec<u8>]| {
            let mut all = Inputs::new();
            all.add_all(inputs.iter().map(Vec::as_slice));
            let salts = all.salts(&key);
            [salts.of(Use::Iv, 0), salts.of(Use::Salt, 0), salts.of(Use::Iv, 1), salts.of(Use::Salt, 1)]
        };
        let (ones, others) = (salts(&one), salts(&other));
        prop_assert!(one == other || ones.iter().all(|salt| !others.contains(salt)));
    }
}

/// Its parts say how they are encrypted, and nothing else.
#[test]
fn nothing_of_a_file_is_in_the_clear() {
    let drawn = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![1], alias: "shop".to_owned(), password: PASSWORD.to_owned() };
    let (file, issued) = (drawn.write(), &ISSUED[0]);
    let has = |part: &[u8]| file.windows(part.len()).any(|window| window == part);
    assert!(!has(&issued.key[issued.key.len() - 16..]) && !has(&issued.leaf[40..56]) && !has(PASSWORD.as_bytes()));
    // RFC 8018's names, and the number of iterations: in both parts and in the MAC.
    assert_eq!(file.windows(4).filter(|window| **window == [2, 2, 8, 0]).count(), 3);
}

#[test]
fn a_key_and_a_certificate_fit_or_do_not() {
    for (at, issued) in ISSUED.iter().enumerate() {
        let key = PrivateKey::of_pkcs8(&issued.key).unwrap();
        for (other, theirs) in ISSUED.iter().enumerate() {
            assert_eq!(key.fits(&Certificate::of(&theirs.leaf).unwrap()), at == other);
        }
        assert!(!key.fits(&Certificate::of(&issued.ca).unwrap()));
        let chain = [Certificate::of(&issued.ca).unwrap()];
        let keystore = Keystore { key: Some(&key), chain: &chain, trust: &[], alias: "a" };
        assert_eq!(write(&keystore, "x", &salt_key(1), &Steps::unbounded()), Err(Fault::Unfit.into()));
    }
}

#[test]
fn keys_that_are_none() {
    let of = |label: &str, bytes: &[u8]| PrivateKey::of_pem(label, bytes).map(|_| ()).unwrap_err();
    let key = &ISSUED[0].key;
    assert_eq!(of("PRIVATE KEY", &key[..key.len() - 1]), Fault::Key);
    assert_eq!(of("PRIVATE KEY", &[key.as_slice(), &[0]].concat()), Fault::Key);
    assert_eq!(of("PRIVATE KEY", b""), Fault::Key);
    assert_eq!(of("RSA PRIVATE KEY", key), Fault::Key, "it is one of another kind");
    assert_eq!(of("EC PRIVATE KEY", b"\x30\x03\x02\x01\x01"), Fault::Key);
    assert_eq!(of("OPENSSH PRIVATE KEY", b"x"), Fault::KeyKind);
    assert_eq!(of("DSA PRIVATE KEY", b"x"), Fault::KeyKind);
    // Ed448 (RFC 8410), and a curve that is not known.
    let other = |algorithm: &[&[u8]]| sequence(&[&number(0), &sequence(algorithm), &octets(&[0; 57])]);
    assert_eq!(of("PRIVATE KEY", &other(&[&oid(&[0x2b, 0x65, 0x71])])), Fault::KeyKind);
    let brainpool = [0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07];
    assert_eq!(of("PRIVATE KEY", &other(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]), &oid(&brainpool)])), Fault::KeyKind);
}

#[test]
fn passwords_that_no_keystore_has() {
    let trust = [Certificate::of(&ISSUED[0].ca).unwrap()];
    let keystore = Keystore { key: None, chain: &[], trust: &trust, alias: "a" };
    let with = |password: &str| write(&keystore, password, &salt_key(1), &Steps::unbounded()).map(|_| ());
    assert_eq!(with(""), Err(Fault::NoPassword.into()));
    for sign in ["x\n", "\t", "pä", "x\u{7f}", "\0"] {
        assert_eq!(with(sign), Err(Fault::PasswordSign.into()), "{sign:?}");
    }
    assert_eq!(with(&"x".repeat(1_025)), Err(Fault::PasswordLength.into()));
    assert_eq!(with(&"x".repeat(1_024)), Ok(()));
    let file = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![], alias: "a".to_owned(), password: "x".repeat(1_024) }.write();
    assert!(open(&file, Some(&"x".repeat(1_024)), &Steps::unbounded()).is_ok());
}

/// Writer and reader charge work before they do it.
#[test]
fn work_is_paid_for() {
    let drawn = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![1], alias: "a".to_owned(), password: "x".to_owned() };
    let (key, chain) = (drawn.key().unwrap(), drawn.chain());
    let keystore = Keystore { key: Some(&key), chain: &chain, trust: &[], alias: "a" };
    let spent = |steps: &Steps| write(&keystore, "x", &salt_key(1), steps).is_ok();
    let all = Steps::unbounded();
    assert!(spent(&all) && (1_000_000..2_000_000).contains(&all.spent()), "{}", all.spent());
    assert!(!spent(&Steps::of(all.spent() - 1)) && spent(&Steps::of(all.spent())));
    let (file, all) = (drawn.write(), Steps::unbounded());
    open(&file, Some("x"), &all).unwrap();
    assert!((1_500_000..2_500_000).contains(&all.spent()), "{}", all.spent());
    assert!(matches!(open(&file, Some("x"), &Steps::of(all.spent() - 1)), Err(Undone::Spent(_))));
}

/// One of them may take 5 ms.
#[test]
#[ignore = "measures: run it alone, with --no-capture"]
fn how_long_one_takes() {
    let drawn = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![1], alias: "a".to_owned(), password: "x".to_owned() };
    let file = drawn.write();
    let time = |what: &str, work: &dyn Fn()| {
        let began = tokio::time::Instant::now();
        (0..100).for_each(|_| work());
        println!("{what}: {:.3} ms", began.elapsed().as_secs_f64() * 10.0);
    };
    time("write", &|| drop(drawn.write()));
    time("open", &|| drop(open(&file, Some("x"), &Steps::unbounded()).unwrap()));
    let (password, salt) = (kdf::Password::of("x"), [0; 16]);
    let many = std::num::NonZeroU32::new(10_000).unwrap();
    for hash in [kdf::Hash::Sha1, kdf::Hash::Sha256, kdf::Hash::Sha512] {
        time(&format!("10,000 iterations of PBKDF2, {hash:?}"), &|| {
            drop(kdf::pbkdf2(hash, &password, &salt, many, hash.length(), &Steps::unbounded()).unwrap());
        });
        time(&format!("10,000 iterations of PKCS#12, {hash:?}"), &|| {
            drop(kdf::pkcs12(hash, kdf::Purpose::Mac, &password, &salt, many, hash.length(), &Steps::unbounded()).unwrap());
        });
    }
}
