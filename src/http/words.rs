//! Texts for TLS errors. For most of its errors the library has no text and shows their form in memory: people cannot read that, and it may
//! show more than it should.

use rustls::{CertificateError, OtherError};

/// The most bytes of a text in a message: some of it may come from the server.
const MAX_TEXT: usize = 1024;

/// What is wrong with a certificate: completes "... cannot be used: ".
#[allow(clippy::wildcard_enum_match_arm)] // rustls's errors may become more; their names will do
pub(super) fn of_certificate(error: &CertificateError) -> String {
    let name = match error {
        CertificateError::Other(OtherError(inner)) => name_of(&inner.to_string()),
        other => name_of(&format!("{other:?}")),
    };
    let words = match name.as_str() {
        "ApplicationVerificationFailure" => "it is not trusted",
        "BadDer"
        | "BadDerTime"
        | "BadEncoding"
        | "ExtensionValueInvalid"
        | "InvalidCertValidity"
        | "InvalidSerialNumber"
        | "MalformedDnsIdentifier"
        | "MalformedExtensions"
        | "MalformedNameConstraint"
        | "TrailingData" => "it cannot be read",
        "BadSignature" => "the server does not prove that it has its key",
        "CaUsedAsEndEntity" => "it is the certificate of a CA, and not of a server",
        "CertDistrusted" | "CertRevoked" | "Revoked" => "it was revoked",
        "EndEntityUsedAsCa" => "it was signed by a certificate that is not a CA's",
        "EmptyEkuExtension" | "InvalidPurpose" | "InvalidPurposeContext" | "RequiredEkuNotFound" | "RequiredEkuNotFoundContext" => {
            "it is not for servers (its extended key usage is another)"
        }
        "MaximumPathDepthExceeded" | "PathLenConstraintViolated" => "too many certificates are between it and the CA",
        "NameConstraintViolation" => "its CA may not sign for this name",
        "UnhandledCriticalExtension" | "UnsupportedCriticalExtension" => "it has a critical extension that is not known here",
        "UnsupportedCertVersion" => "it is not of X.509 version 3",
        name if name.starts_with("UnsupportedSignatureAlgorithm") => "its signature is of a kind that is not taken",
        name => return format!("the TLS library calls it {name}"),
    };
    words.to_owned()
}

/// Any other error.
#[allow(clippy::wildcard_enum_match_arm)] // rustls's errors may become more; its words will do
pub(super) fn of_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => format!("the certificate cannot be used: {}", of_certificate(why)),
        other => plain(&other.to_string()),
    }
}

/// The name at the start: `UnknownIssuer` of `UnknownIssuer { .. }`.
pub(super) fn name_of(shown: &str) -> String {
    shown.chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// A text without the form of a value in memory: `MissingData("Random")` becomes `MissingData`, and `Timeout { after: 5 }` becomes
/// `Timeout`. Brackets after a space, as in `(os error 111)`, belong to the sentence.
pub(super) fn plain(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    let (mut words, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['(', '{']) {
        let before = &rest[..at];
        let name = before.trim_end_matches(' ').rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let touches = !before.ends_with(' ') || rest[at..].starts_with('{');
        let is_value = touches && name.starts_with(|first: char| first.is_ascii_uppercase());
        if let Some(end) = closing(&rest[at..]).filter(|_| is_value) {
            words.push_str(before.trim_end_matches(' '));
            rest = &rest[at + end..];
        } else {
            words.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
        }
    }
    words + rest
}

/// Where the first bracket is closed; texts inside may have their own brackets.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '{' | '[' if !quoted => depth += 1,
            ')' | '}' | ']' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + c.len_utf8());
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn values_are_left_out_and_sentences_stay() {
        for (text, words) in [
            ("Other(OtherError(CaUsedAsEndEntity))", "Other"),
            ("received corrupt message of type MissingData(\"a(b\")", "received corrupt message of type MissingData"),
            ("it failed: Custom { kind: Other, error: \"x}y\" } at once", "it failed: Custom at once"),
            ("Os { code: 2, kind: NotFound, message: \"No such file\" }", "Os"),
            ("Some(Ok(1)), Err(Error([1, 2]))", "Some, Err"),
            ("tcp connect error: Connection refused (os error 111)", "tcp connect error: Connection refused (os error 111)"),
            ("look up (its name) {x} f(x)", "look up (its name) {x} f(x)"),
            ("Unclosed(", "Unclosed("),
            ("", ""),
        ] {
            assert_eq!(plain(text), words);
        }
    }

    #[test]
    fn certificates_have_words() {
        let other = |name: &'static str| CertificateError::Other(OtherError(Arc::new(std::io::Error::other(name))));
        let told = [
            other("CaUsedAsEndEntity"),
            other("UnsupportedCertVersion"),
            other("SomethingNew { of: 1 }"),
            CertificateError::BadEncoding,
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::InvalidPurpose,
        ];
        let told: Vec<_> = told.iter().map(of_certificate).collect();
        insta::assert_snapshot!(told.join("\n"), @"
        it is the certificate of a CA, and not of a server
        it is not of X.509 version 3
        the TLS library calls it SomethingNew
        it cannot be read
        it was revoked
        it has a critical extension that is not known here
        it is not for servers (its extended key usage is another)
        ");
        let shown = of_tls(&rustls::Error::InvalidCertificate(other("CaUsedAsEndEntity")));
        assert_eq!(shown, "the certificate cannot be used: it is the certificate of a CA, and not of a server");
    }
}
