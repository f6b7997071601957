//! Signature Version 4, for the one form of request that Keyferry sends to AWS: a POST to `/` without a query.
//!
//! The rules are AWS's ("Create a signed AWS API request",
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>). For this form they are two hashes and
//! five HMACs. AWS's crate for all forms brings seventeen other crates, and uses another library for hashes than ours.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use data_encoding::HEXLOWER;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::credentials::Credentials;

const DATE: &str = "x-amz-date";
const TOKEN: &str = "x-amz-security-token";

/// Where a request goes, and when it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signer<'s> {
    /// The region in the credential's scope, with any address.
    pub(super) region: &'s str,
    /// `secretsmanager`, `ssm` or `sts`.
    pub(super) service: &'s str,
    /// As it is sent: without the usual port of the scheme.
    pub(super) host: &'s str,
    /// By AWS's clock: AWS refuses a time that is more than five minutes off.
    pub(super) time: Timestamp,
}

// === impl Signer ===

impl Signer<'_> {
    /// The headers `x-amz-date`, `authorization` and, with a session, `x-amz-security-token`, for a request with these `headers` and maybe
    /// others. Names must be in small letters. Values must not have blanks at their ends, or two blanks together.
    pub(super) fn sign(&self, credentials: &Credentials, headers: &[(&str, &str)], body: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let time = self.time.strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut signed = [headers, &[("host", self.host), (DATE, &time)]].concat();
        signed.extend(credentials.token().map(|token| (TOKEN, token)));
        signed.sort_unstable();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let request = canonical(&signed, &names, body);
        let scope = format!("{}/{}/{}/aws4_request", &time[..8], self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&request));
        let signature = HEXLOWER.encode(hmac::sign(&self.key(credentials, &time[..8]), text.as_bytes()).as_ref());
        let id = credentials.id();
        let authorization = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        let name = HeaderName::from_static;
        let parts = [(name(DATE), Some(time.as_str())), (AUTHORIZATION, Some(&authorization)), (name(TOKEN), credentials.token())];
        parts.into_iter().filter_map(|(name, value)| Some((name, sensitive(value?)?))).collect()
    }

    /// The key for a day, a region and a service.
    fn key(&self, credentials: &Credentials, day: &str) -> Key {
        let secret = Zeroizing::new(format!("AWS4{}", credentials.secret()));
        let mut key = Key::new(HMAC_SHA256, secret.as_bytes());
        for part in [day, self.region, self.service, "aws4_request"] {
            key = Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        key
    }
}

/// The text that is signed. It can hold a session token.
fn canonical(signed: &[(&str, &str)], names: &str, body: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEAD: &str = "POST\n/\n\n";
    let lines: usize = signed.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    // A growing buffer would leave copies in memory.
    let mut request = Zeroizing::new(Vec::with_capacity(HEAD.len() + lines + names.len() + 2 + 64));
    request.extend_from_slice(HEAD.as_bytes());
    for (name, value) in signed {
        for part in [name, ":", value, "\n"] {
            request.extend_from_slice(part.as_bytes());
        }
    }
    for part in ["\n", names, "\n", &hex(body)] {
        request.extend_from_slice(part.as_bytes());
    }
    request
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// Credentials have been checked: a header can have each of their values.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn signed(token: Option<&str>, headers: &[(&str, &str)], body: &str) -> Vec<(HeaderName, HeaderValue)> {
        let token = token.map(|token| Zeroizing::new(token.to_owned()));
        let credentials = Credentials::new("AKIDEXAMPLE".to_owned(), Zeroizing::new(SECRET.to_owned()), token, None).unwrap();
        let time = "2015-08-30T12:36:00Z".parse().unwrap();
        let signer = Signer { region: "us-east-1", service: "service", host: "example.amazonaws.com", time };
        signer.sign(&credentials, headers, body.as_bytes())
    }

    fn authorization(headers: &[(HeaderName, HeaderValue)]) -> &str {
        headers.iter().find(|(name, _)| *name == AUTHORIZATION).unwrap().1.to_str().unwrap()
    }

    /// From AWS's published test suite: `post-vanilla`, `post-x-www-form-urlencoded` and `post-sts-header-before`.
    #[test]
    fn signatures_are_those_of_awss_test_suite() {
        let vanilla = signed(None, &[], "");
        assert_eq!(
            authorization(&vanilla),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        assert_eq!(vanilla.len(), 2);
        assert_eq!(vanilla[0], (HeaderName::from_static(DATE), HeaderValue::from_static("20150830T123600Z")));
        let form = signed(None, &[("content-type", "application/x-www-form-urlencoded")], "Param1=value1");
        assert_eq!(
            authorization(&form),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qk\
                     PpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD\
                     0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let session = signed(Some(token), &[], "");
        assert_eq!(
            authorization(&session),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-security-token, \
             Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
        );
        assert_eq!(session[2].1, token);
    }

    #[test]
    fn no_header_shows_itself() {
        assert!(signed(Some("token"), &[], "").iter().all(|(_, value)| value.is_sensitive()));
        assert_eq!(format!("{:?}", signed(None, &[], "")[1].1), "Sensitive");
    }
}
