//! Files that are meant to do harm, or that are broken.

use super::*;
use crate::formats::pkcs12::write::{CERTIFICATE_BAG, DATA, ENCRYPTED_DATA, SHROUDED_KEY_BAG, X509};

const SAFE_CONTENTS_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x06];
const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01];
const PBE_3DES: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x03];
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];

fn file(contents: &[&[u8]], mac: Option<&[u8]>) -> Vec<u8> {
    let safe = value(der::CONTEXT_0, &[&octets(&sequence(contents))]);
    sequence(&[&number(3), &sequence(&[&oid(DATA), &safe]), mac.unwrap_or_default()]).to_vec()
}

fn mac(iterations: &[u8]) -> Vec<u8> {
    let signed = sequence(&[&sequence(&[&oid(SHA1), &der::null()]), &octets(&[0; 20])]);
    sequence(&[&signed, &octets(&[0; 8]), iterations]).to_vec()
}

fn info(kind: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[&oid(kind), &value(der::CONTEXT_0, &[content])]).to_vec()
}

fn bags(bags: &[&[u8]]) -> Vec<u8> {
    info(DATA, &octets(&sequence(bags)))
}

fn bag(kind: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[&oid(kind), &value(der::CONTEXT_0, &[content])]).to_vec()
}

fn old_scheme(iterations: u32) -> Vec<u8> {
    sequence(&[&oid(PBE_3DES), &sequence(&[&octets(&[0; 8]), &number(iterations)])]).to_vec()
}

fn shrouded(iterations: u32) -> Vec<u8> {
    bag(SHROUDED_KEY_BAG, &sequence(&[&old_scheme(iterations), &octets(&[0; 8])]))
}

fn sealed(iterations: u32) -> Vec<u8> {
    let content = sequence(&[&oid(DATA), &old_scheme(iterations), &value(0x80, &[&[0; 16]])]);
    info(ENCRYPTED_DATA, &sequence(&[&number(0), &content]))
}

fn certificate(der: &[u8]) -> Vec<u8> {
    bag(CERTIFICATE_BAG, &sequence(&[&oid(X509), &value(der::CONTEXT_0, &[&octets(der)])]))
}

fn refused(file: &[u8]) -> Undone {
    match open(file, Some("x"), &Steps::of(50_000_000)) {
        Ok(_) => panic!("it is opened"),
        Err(undone) => undone,
    }
}

/// The first key of any of these files would take minutes, and more steps than there are.
#[test]
fn iterations_are_added_up_before_the_first_one() {
    let too_many = |file: &[u8], sum: u64| {
        let steps = Steps::of(50_000_000);
        assert_eq!(open(file, Some("x"), &steps).err(), Some(Fault::Iterations(sum).into()));
        assert!(steps.spent() < 1_000_000, "{}", steps.spent());
    };
    too_many(&file(&[], Some(&mac(&number(1 << 31)))), 1 << 31);
    too_many(&file(&[&bags(&[&shrouded(1 << 31)])], None), 1 << 31);
    too_many(&file(&[&sealed(1 << 31)], None), 1 << 31);
    too_many(&file(&[&sealed(u32::MAX), &sealed(u32::MAX)], Some(&mac(&number(u32::MAX)))), 3 * u64::from(u32::MAX));
    // Each number alone is small.
    too_many(&file(&[&sealed(50_000), &bags(&[&shrouded(50_000)])], Some(&mac(&number(100_001)))), 200_001);
    let many: Vec<_> = (0..40).map(|_| sealed(5_001)).collect();
    too_many(&file(&many.iter().map(Vec::as_slice).collect::<Vec<_>>(), None), 40 * 5_001);
    let nested = bag(SAFE_CONTENTS_BAG, &sequence(&[&shrouded(1 << 31)]));
    too_many(&file(&[&bags(&[&nested])], None), 1 << 31);
    // A number of eighty bytes, and one that Java would take for a negative one.
    too_many(&file(&[], Some(&mac(&value(2, &[&[0x7f; 80]])))), u64::from(u32::MAX));
    assert_eq!(refused(&file(&[], Some(&mac(&value(2, &[&[0x80, 0, 0, 0]]))))), Fault::Damaged.into());
    assert_eq!(refused(&file(&[], Some(&mac(&number(0))))), Fault::Damaged.into());
}

/// Iterations that are visible only after decryption are added up before the work.
#[test]
fn iterations_within_an_encrypted_part_are_added_too() {
    let inner = sequence(&[&shrouded(1 << 31)]);
    let sealing = cipher::Sealing { salt: [1; 16], iv: [2; 16], iterations: std::num::NonZeroU32::new(1_000).unwrap() };
    let (identifier, content) = sealing.encrypt(&inner, &kdf::Password::of("x"), &Steps::unbounded()).unwrap();
    let content = sequence(&[&oid(DATA), &identifier, &value(0x80, &[&content])]);
    let part = info(ENCRYPTED_DATA, &sequence(&[&number(0), &content]));
    assert_eq!(refused(&file(&[&part], None)), Fault::Iterations((1 << 31) + 1_000).into());
}

#[test]
fn what_is_no_keystore() {
    let issued = &ISSUED[0];
    let good = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![1], alias: "a".to_owned(), password: "x".to_owned() }.write();
    for other in [&b""[..], b"hunter2", b"{}", &issued.key, &issued.leaf, b"-----BEGIN CERTIFICATE-----", &[0xff; 100]] {
        assert_eq!(refused(other), Fault::NotPkcs12.into(), "{}", String::from_utf8_lossy(other));
    }
    let text = BASE64.encode(&good);
    assert!(open(text.as_bytes(), Some("x"), &Steps::unbounded()).is_ok());
    let lines = text.as_bytes().chunks(64).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect::<String>();
    assert!(open(lines.as_bytes(), Some("x"), &Steps::unbounded()).is_ok());
    assert_eq!(refused(&good[..good.len() - 1]), Fault::Damaged.into());
    let mut ber = good.clone();
    ber[1] = 0x80;
    assert_eq!(refused(&ber), Fault::Ber.into());
}

/// A change is noticed at once, or by the MAC. The exception is a parameter without meaning, the NULL of the MAC's hash.
#[test]
fn no_change_of_a_byte_makes_other_content() {
    let good = Drawn { kind: 0, has_key: true, with_ca: false, trust: vec![], alias: "a".to_owned(), password: "x".to_owned() }.write();
    let key = open(&good, Some("x"), &Steps::unbounded()).unwrap().key;
    let mut unseen = Vec::new();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        if let Ok(opened) = open(&changed, Some("x"), &Steps::of(50_000_000)) {
            assert_eq!(opened.key, key, "byte {at}");
            unseen.push(good[at]);
        }
    }
    assert_eq!(unseen, [5, 0]);
}

#[test]
fn a_wrong_password_and_none() {
    let good = Drawn { kind: 0, has_key: true, with_ca: true, trust: vec![], alias: "a".to_owned(), password: "x".to_owned() }.write();
    let with = |password: Option<&str>| open(&good, password, &Steps::unbounded()).err();
    assert_eq!(with(Some("x")), None);
    for wrong in ["y", "X", "x\n", " x", "\u{10ffff}"] {
        assert_eq!(with(Some(wrong)), Some(Fault::Password.into()), "{wrong:?}");
    }
    assert_eq!((with(None), with(Some(""))), (Some(Fault::Locked.into()), Some(Fault::Locked.into())));
    assert_eq!(with(Some(&"x".repeat(1_025))), Some(Fault::PasswordLength.into()));
}

#[test]
fn too_much_of_everything() {
    let issued = &ISSUED[0];
    let [other, key] = [&ISSUED[1].key, &issued.key].map(|key| bag(KEY_BAG, key));
    assert_eq!(refused(&file(&[&bags(&[&key, &other])], None)), Fault::TwoKeys.into());
    // The same key twice counts once.
    assert!(open(&file(&[&bags(&[&key, &key, &certificate(&issued.leaf)])], None), None, &Steps::unbounded()).is_ok());
    assert_eq!(refused(&file(&[&bags(&[&key, &certificate(&issued.ca)])], None)), Fault::Unfit.into());
    assert_eq!(refused(&file(&[&bags(&[&certificate(b"x")])], None)), Fault::Certificate.into());
    let deep = (0..20).fold(key.clone(), |inner, _| bag(SAFE_CONTENTS_BAG, &sequence(&[&inner])));
    assert_eq!(refused(&file(&[&bags(&[&deep])], None)), Fault::Damaged.into());
    let many = vec![key.as_slice(); 1_025];
    assert_eq!(refused(&file(&[&bags(&many)], None)), Fault::Damaged.into());
    let parts = vec![sealed(1); 65];
    assert_eq!(refused(&file(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), None)), Fault::Damaged.into());
    let mut certificates = Vec::new();
    for number in 0..=MAX_CERTIFICATES {
        let mut der = issued.leaf.clone();
        // In its serial number, which nobody reads.
        let at = der.len() - 20;
        der[at..at + 2].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
        certificates.push(certificate(&der));
    }
    let all: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    assert_eq!(refused(&file(&[&bags(&all)], None)), Fault::TooManyCertificates.into());
    assert!(open(&file(&[&bags(&all[1..])], None), None, &Steps::of(50_000_000)).is_ok());
}

proptest! {
    /// Any input ends, and pays for its work.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        let _ = open(&bytes, Some("x"), &Steps::of(50_000_000));
        let mut framed = file(&[&sealed(3), &bags(&[&shrouded(3), &certificate(&bytes)])], Some(&mac(&number(3))));
        let at = at.index(framed.len());
        framed.splice(at..(at + bytes.len()).min(framed.len()), bytes);
        let _ = open(&framed, None, &Steps::of(50_000_000));
    }
}
