//! Whether an answer holds the credential of its request. No Pod may get a credential of the daemon, or of a Pod for this store, as a
//! secret.
//!
//! This looks everywhere for its bytes, and for their base64 and hex, also behind the escapes of JSON. The time grows in proportion to the
//! answer.

use zeroize::Zeroizing;

use crate::model::{Secret, SecretBytes};
use crate::redact::encodings;

/// A shorter credential may be a normal word of an answer: it counts only as the whole of a field.
const MIN_PART: usize = 12;

/// A credential that is even shorter protects nothing (such as `root`, in a store for tests), and may well be a field.
const MIN_WHOLE: usize = 8;

/// Whether the body of an answer has the credential in it.
pub(in crate::backend) fn holds(body: &SecretBytes, credential: &SecretBytes) -> bool {
    if credential.len() < MIN_PART {
        return false;
    }
    // A credential that is not a text cannot have been sent in a header or as JSON.
    let Ok(plain) = str::from_utf8(credential.expose()) else { return false };
    let text = Zeroizing::new(String::from_utf8_lossy(body.expose()).into_owned());
    let encodings = encodings(plain.as_bytes());
    let found = |text: &str| text.contains(plain) || encodings.iter().any(|encoded| text.contains(encoded.as_str()));
    found(&text) || text.contains('\\') && found(&unescaped(&text))
}

/// Whether a field or the version has the credential in it, or is equal to a credential that is too short to look for.
pub(in crate::backend) fn is_delivered(secret: &Secret, credential: &SecretBytes) -> bool {
    let is_whole = |bytes: &SecretBytes| credential.len() >= MIN_WHOLE && bytes.expose() == credential.expose();
    let version = secret.version.as_ref().map(|version| SecretBytes::new(version.as_str().into()));
    let delivered = secret.fields.values().map(|field| &*field.bytes).chain(&version);
    delivered.into_iter().any(|bytes| is_whole(bytes) || holds(bytes, credential))
}

/// With the escapes of JSON texts resolved, whether they are in a JSON text or not.
fn unescaped(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let escaped = rest[at + 1..].chars().next();
        let code = rest.get(at + 2..at + 6).and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        let length = match (escaped, code) {
            (Some('u'), Some(char)) => {
                plain.push(char);
                6
            }
            (Some(char), _) => {
                plain.push(char);
                1 + char.len_utf8()
            }
            (None, _) => 1,
        };
        rest = &rest[at + length..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

    use super::*;

    const TOKEN: &str = "s.Zk3/Q+9~vXbTn7\"<wLq.0001";

    fn held(body: &str) -> bool {
        holds(&SecretBytes::new(body.into()), &SecretBytes::new(TOKEN.into()))
    }

    #[test]
    fn a_credential_is_seen_in_whatever_form() {
        assert!(held(&format!("before {TOKEN} behind")));
        assert!(held(&serde_json::json!({ "data": { "id": TOKEN } }).to_string()), "escaped as JSON");
        let all: String = TOKEN.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        assert!(held(&format!(r#"{{"id":"{all}"}}"#)));
        for before in ["", "a", "ab", "abc", "user:"] {
            for behind in ["", "x", "xy", "xyz"] {
                let wrapped = format!("{before}{TOKEN}{behind}");
                assert!(held(&BASE64.encode(wrapped.as_bytes())), "{wrapped}");
                assert!(held(&BASE64URL.encode(wrapped.as_bytes())), "{wrapped}");
                assert!(held(&HEXLOWER.encode(wrapped.as_bytes())) && held(&HEXUPPER.encode(wrapped.as_bytes())));
            }
        }
        assert!(!held(&TOKEN[1..]) && !held("") && !held(r"\u00e9 \"));
    }

    #[test]
    fn a_short_one_is_seen_as_a_field_alone() {
        let bytes = |text: &str| SecretBytes::new(text.into());
        assert!(!holds(&bytes("hunter22"), &bytes("hunter22")));
        let secret = |text: &str| {
            let fields = [("value".parse().unwrap(), crate::model::Field::of_bytes(bytes(text)))].into();
            Secret { fields, response: None, version: None, lease: None }
        };
        assert!(is_delivered(&secret("hunter22"), &bytes("hunter22")) && !is_delivered(&secret("hunter22!"), &bytes("hunter22")));
        assert!(!is_delivered(&secret("root"), &bytes("root")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,64}") {
            let _ = unescaped(&text);
            proptest::prop_assert_eq!(&*unescaped(&serde_json::Value::from(text.as_str()).to_string()), &{
                // JSON's escapes of a single letter mean a control character, and no credential has one.
                let mut plain = String::from("\"");
                for c in text.chars() {
                    plain.push(match c { '\n' => 'n', '\r' => 'r', '\t' => 't', '\u{8}' => 'b', '\u{c}' => 'f', c => c });
                }
                plain + "\""
            });
        }
    }
}
