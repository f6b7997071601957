//! How the body of an answer is encoded. The caller needs the store's own bytes, so each request says `Accept-Encoding: identity`. An
//! answer that is encoded all the same is refused, with the name of the coding. Otherwise Keyferry would deliver, for example, a key file
//! that is really gzip, and nobody would know.

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};

use super::HttpError;
use crate::model::{SecretBytes, quoted};

/// Codings that leave the body as it is. S3 stores keep the last one from an upload; they do not send chunks of that kind.
const NONE: [&str; 3] = ["", "identity", "aws-chunked"];

pub(super) fn ask_for_none<B>(request: &mut Request<B>) {
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Lets an answer pass if its body is not encoded. An answer without a body has no coding.
///
/// # Errors
/// [`HttpError::Coded`].
pub(super) fn plain(answer: Response<SecretBytes>) -> Result<Response<SecretBytes>, HttpError> {
    let (status, headers) = (answer.status(), answer.headers());
    if answer.body().is_empty() {
        return Ok(answer);
    }
    if let Some(coding) = codings(headers, &CONTENT_ENCODING).find(|coding| !is_none(coding)) {
        return Err(coded(status, "Content-Encoding", coding));
    }
    // One `chunked` was already removed. A second one would still be in the body.
    let mut chunked = 0;
    for coding in codings(headers, &TRANSFER_ENCODING).filter(|coding| !is_none(coding)) {
        chunked += usize::from(coding.eq_ignore_ascii_case("chunked"));
        if chunked != 1 || !coding.eq_ignore_ascii_case("chunked") {
            return Err(coded(status, "Transfer-Encoding", coding));
        }
    }
    match parts(headers).into_iter().find(|part| part.get(..MULTIPART.len()).is_some_and(|start| start.eq_ignore_ascii_case(MULTIPART))) {
        Some(kind) => Err(coded(status, "Content-Type", &String::from_utf8_lossy(&kind))),
        None => Ok(answer),
    }
}

/// Several bodies in one.
const MULTIPART: &[u8] = b"multipart/";

fn coded(status: StatusCode, header: &'static str, value: &str) -> HttpError {
    HttpError::Coded { status, header, value: quoted(value.trim()) }
}

/// The list in all headers of this name. A value that is not text counts as an unknown coding.
fn codings<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim)
}

fn is_none(coding: &str) -> bool {
    NONE.iter().any(|none| coding.eq_ignore_ascii_case(none))
}

/// The charset in an answer's header, if it is not UTF-8. JSON has no other (RFC 8259, section 8.1).
pub fn foreign_charset(headers: &HeaderMap) -> Option<String> {
    parts(headers).iter().find_map(|part| {
        let part = String::from_utf8_lossy(part);
        let (name, value) = part.split_once('=')?;
        let charset = value.trim().trim_matches(['"', '\'']);
        let is_foreign = name.trim().eq_ignore_ascii_case("charset") && !UTF_8.iter().any(|utf8| charset.eq_ignore_ascii_case(utf8));
        is_foreign.then(|| quoted(charset))
    })
}

/// No charset, UTF-8, and subsets of UTF-8.
const UTF_8: [&str; 5] = ["", "utf-8", "utf8", "us-ascii", "ascii"];

/// The types and parameters of all Content-Type headers, one by one. A proxy may have joined two headers; text in double quotes is one
/// value (RFC 9110, section 5.6.6).
fn parts(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for value in headers.get_all(CONTENT_TYPE) {
        let (mut part, mut is_quoted, mut is_escaped) = (Vec::new(), false, false);
        for byte in value.as_bytes() {
            if !is_quoted && matches!(byte, b';' | b',') {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            is_quoted ^= *byte == b'"' && !is_escaped;
            is_escaped = is_quoted && *byte == b'\\' && !is_escaped;
            part.push(*byte);
        }
        parts.push(part);
    }
    parts.iter().map(|part| part.trim_ascii().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(headers: &[(&'static str, &str)], body: &str) -> String {
        let mut answer = Response::builder().status(200);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let plain = plain(answer.body(SecretBytes::new(body.into())).unwrap());
        plain.map_or_else(|error| error.to_string(), |_| "plain".to_owned())
    }

    #[test]
    fn what_is_coded_is_named() {
        for none in ["identity", "", " Identity ", "aws-chunked", "identity, aws-chunked", ","] {
            assert_eq!(told(&[("content-encoding", none)], "x"), "plain", "{none:?}");
        }
        for chunked in ["chunked", "Chunked", "identity, chunked", ""] {
            assert_eq!(told(&[("transfer-encoding", chunked)], "x"), "plain", "{chunked:?}");
        }
        assert_eq!(
            told(&[("content-encoding", "gzip"), ("content-type", "multipart/mixed")], ""),
            "plain",
            "there is nothing that is coded"
        );
        assert_eq!(told(&[("content-type", "application/multipart")], "x"), "plain");
        let long = "x".repeat(200);
        let all = [
            told(&[("content-encoding", "gzip")], "x"),
            told(&[("content-encoding", "identity, br")], "x"),
            told(&[("content-encoding", "identity"), ("content-encoding", "zstd")], "x"),
            told(&[("content-encoding", "X-GZIP")], "x"),
            told(&[("content-encoding", "chunked")], "x"),
            told(&[("content-encoding", &long)], "x"),
            told(&[("transfer-encoding", "gzip, chunked")], "x"),
            told(&[("transfer-encoding", "deflate")], "x"),
            told(&[("transfer-encoding", "chunked, chunked")], "x"),
            told(&[("content-type", "Multipart/Form-Data; boundary=a\"b")], "x"),
            told(&[("content-type", "application/json"), ("content-type", "multipart/mixed")], "x"),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        its answer (200 OK) has Content-Encoding "gzip", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Encoding "br", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Encoding "zstd", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Encoding "X-GZIP", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Encoding "chunked", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Encoding "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"..., which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Transfer-Encoding "gzip", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Transfer-Encoding "deflate", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Transfer-Encoding "chunked", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Type "Multipart/Form-Data", which Keyferry does not take: it asks for the plain body
        its answer (200 OK) has Content-Type "multipart/mixed", which Keyferry does not take: it asks for the plain body
        "#);
    }

    #[test]
    fn a_charset_other_than_utf_8_is_named() {
        let charset = |kind: &str| foreign_charset(&HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]));
        for fine in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;Charset=\"UTF-8\"",
            "application/json; charset=",
            "text/plain; q=latin1",
            "application/json; charset='utf-8'",
            "application/json; charset=us-ascii",
            "application/json;charset=utf-8, application/json",
            "application/json; x=\"a; charset=utf-16\"",
            "application/json; x=\"a\\\"; charset=utf-16\"",
        ] {
            assert_eq!(charset(fine), None, "{fine}");
        }
        assert_eq!(foreign_charset(&HeaderMap::new()), None);
        assert_eq!(charset("application/json; charset=ISO-8859-1").unwrap(), r#""ISO-8859-1""#);
        assert_eq!(charset("application/json; v=1 ; charset=\"utf-16\"; x").unwrap(), r#""utf-16""#);
        assert_eq!(charset("application/json; charset=utf-8; charset=utf-16").unwrap(), r#""utf-16""#);
        assert_eq!(charset("application/json; x=\u{e9}; charset=utf-16").unwrap(), r#""utf-16""#);
        assert_eq!(charset("application/json; charset=utf-8x").unwrap(), r#""utf-8x""#);
    }
}
