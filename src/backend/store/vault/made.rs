//! When something ends that the store has made without a lease. Engines have fields for the end, and a made token has it in itself.
//!
//! This is apart from the answer's own members, because no API says which of these fields an engine uses. Keyferry believes the earliest end
//! that any of them has. If there is none, the thing lives for as long as somebody asks for it.

use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::answer::Answer;
use crate::backend::remote::fields::{self, members};

/// How long it lives, in seconds or as Go writes a time. 0: without an end. `secret_id_ttl` is of `AppRole`, `token_ttl` of GCP.
const SPANS: [&str; 4] = ["expires_in", "secret_id_ttl", "token_ttl", "ttl"];

/// When it ends, in Unix seconds or as RFC 3339 writes a time. `expiration` is of PKI, `expires_at_seconds` of GCP.
const MOMENTS: [&str; 3] = ["expiration", "expires_at", "expires_at_seconds"];

/// A larger number is in milliseconds: in seconds it would be after the year 5138.
const SECONDS: f64 = 1e11;

/// Keyferry does not look for a token in a longer text.
const LONGEST_TOKEN: usize = 64 * 1024;

/// The earliest end that the answer has; `None`: none. `since`: when it came.
pub(super) fn ends(answer: &Answer<'_>, since: Timestamp) -> Option<Timestamp> {
    let data = members(answer.data?).ok()??;
    let spans = SPANS.iter().filter_map(|name| span(data.get(*name)?, since));
    let moments = MOMENTS.iter().filter_map(|name| moment(data.get(*name)?, since));
    let tokens = data.values().filter_map(|value| token_end(value));
    spans.chain(moments).chain(tokens).chain(answer.expiration()).min()
}

/// `since`: when the answer came. If Keyferry cannot read an end, it takes `since` for it: nobody knows the real one.
fn span(value: &RawValue, since: Timestamp) -> Option<Timestamp> {
    let text = text(value).filter(|text| !text.is_empty())?;
    let Some(seconds) = text.parse().ok().or_else(|| go_duration(&text)) else { return Some(since) };
    is_time(seconds).then(|| after(since, seconds)).flatten()
}

/// As [`span`].
fn moment(value: &RawValue, since: Timestamp) -> Option<Timestamp> {
    let text = text(value).filter(|text| !text.is_empty())?;
    let told = match text.parse::<f64>() {
        Ok(number) if is_time(number) => after(Timestamp::UNIX_EPOCH, if number > SECONDS { number / 1000.0 } else { number }),
        Ok(_) => None,
        Err(_) => Some(text.parse().unwrap_or(since)),
    };
    // Go writes its zero time as the year 1.
    told.filter(|end| *end > Timestamp::UNIX_EPOCH)
}

/// The `exp` of a JWT (RFC 7519); `None`: it is not a JWT, or it has no end.
fn token_end(value: &RawValue) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    // Its header is a JSON object, and so it begins with `{"` in base64.
    if value.get().len() > LONGEST_TOKEN || !value.get().starts_with("\"eyJ") {
        return None;
    }
    let token = text(value)?;
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    // serde would read a list as the claims in turn.
    let claims = Zeroizing::new(BASE64URL_NOPAD.decode(claims.as_bytes()).ok().filter(|claims| claims.starts_with(b"{"))?);
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    // An end before the answer came is still an end.
    after(Timestamp::UNIX_EPOCH, Some(exp).filter(|exp| is_time(*exp))?)
}

/// A text as it is, a number as it is written.
fn text(value: &RawValue) -> Option<Zeroizing<String>> {
    if value.get().starts_with('"') {
        return Some(Zeroizing::new(str::from_utf8(fields::text(value)?.expose()).ok()?.trim().to_owned()));
    }
    value.get().parse::<f64>().ok().map(|_| Zeroizing::new(value.get().to_owned()))
}

/// As `time.Duration` of Go is written, with Vault's `d`: `768h`, `1h30m`, `1.5h`.
fn go_duration(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| rest[number..].starts_with(unit))?;
        seconds += rest[..number].parse::<f64>().ok()? * factor;
        rest = &rest[number + unit.len()..];
    }
    Some(seconds)
}

fn is_time(seconds: f64) -> bool {
    seconds.is_finite() && seconds > 0.0
}

/// `None`: later than any time.
fn after(since: Timestamp, seconds: f64) -> Option<Timestamp> {
    since.checked_add(SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::SecretBytes;

    const SINCE: i64 = 1_000_000_000;

    /// Seconds from the answer on; `None`: the answer has no end.
    #[allow(clippy::needless_pass_by_value)] // as `json!` gives it
    fn told(data: Value) -> Option<i64> {
        let body = SecretBytes::new(json!({ "data": data }).to_string().into_bytes());
        let answer = Answer::parse(&body).unwrap();
        ends(&answer, Timestamp::from_second(SINCE).unwrap()).map(|end| end.as_second() - SINCE)
    }

    fn jwt(claims: &Value) -> String {
        let part = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.c2ln", part(json!({ "alg": "RS256" }).to_string()), part(claims.to_string()))
    }

    #[test]
    fn the_words_of_engines() {
        // As `approle/role/x/secret-id` answers.
        assert_eq!(told(json!({ "secret_id": "x", "secret_id_accessor": "y", "secret_id_num_uses": 0, "secret_id_ttl": 600 })), Some(600));
        assert_eq!(told(json!({ "secret_id": "x", "secret_id_ttl": 0 })), None, "without an end");
        // As `gcp/roleset/x/token` answers.
        assert_eq!(told(json!({ "expires_at_seconds": SINCE + 3600, "token": "ya29.x", "token_ttl": 3599 })), Some(3599));
        // As `pki/issue/x` answers.
        assert_eq!(told(json!({ "certificate": "x", "expiration": SINCE + 7200 })), Some(7200));
        // As `transit/datakey/plaintext/x` and `kv/data/x` answer.
        assert_eq!(told(json!({ "plaintext": "x", "ciphertext": "vault:v1:x", "key_version": 1 })), None);
        assert_eq!(told(json!({ "created_time": "2026-11-27T10:00:00Z", "deletion_time": "", "destroyed": false, "version": 1 })), None);
        // As OAuth (RFC 6749) and AWS write it.
        assert_eq!(told(json!({ "access_token": "x", "expires_in": 299 })), Some(299));
        assert_eq!(told(json!({ "expiration": "2001-09-09T02:46:40Z" })), Some(3600));
        assert_eq!(told(json!({ "expires_at": "2001-09-09T04:46:40+02:00" })), Some(3600));
    }

    #[test]
    fn the_earliest_end_is_believed() {
        let token = jwt(&json!({ "exp": SINCE + 60 }));
        assert_eq!(told(json!({ "ttl": 3600, "expires_in": 120, "token": token })), Some(60));
        assert_eq!(told(json!({ "ttl": 3600, "expires_in": 0 })), Some(3600));
        assert_eq!(told(json!({ "expires_at": SINCE - 60, "ttl": 3600 })), Some(-60), "it had expired when it came");
    }

    #[test]
    fn every_spelling_of_a_time() {
        for (ttl, seconds) in [
            (json!(90), Some(90)),
            (json!(90.9), Some(90)),
            (json!("90"), Some(90)),
            (json!(" 90s "), Some(90)),
            (json!("1h30m"), Some(5400)),
            (json!("1h0m0.5s"), Some(3600)),
            (json!("2d"), Some(172_800)),
            (json!("1500ms"), Some(1)),
            (json!("0s"), None),
            (json!(-1), None),
            (json!(""), None),
            (json!("h"), Some(0)),
            (json!("1w"), Some(0)),
            (json!("never"), Some(0)),
            (json!("1h "), Some(3600)),
            (json!("NaN"), None),
            (json!("inf"), None),
            (json!(1e300), None),
            (json!(null), None),
            (json!(true), None),
            (json!([90]), None),
            (json!({ "ttl": 90 }), None),
        ] {
            assert_eq!(told(json!({ "ttl": ttl })), seconds, "{ttl}");
        }
        for (end, seconds) in [
            (json!(SINCE + 90), Some(90)),
            (json!((SINCE + 90).to_string()), Some(90)),
            (json!((SINCE + 90) * 1000), Some(90)),
            (json!(0), None),
            (json!("0001-01-01T00:00:00Z"), None),
            (json!(""), None),
            (json!("tomorrow"), Some(0)),
            (json!("2001-09-09"), Some(0)),
            (json!("2001-09-09T02:46:40"), Some(0)),
            (json!("2001-09-09 02:46:40 +0000 UTC"), Some(0)),
            (json!("Sun, 09 Sep 2001 02:46:40 GMT"), Some(0)),
            (json!(1e300), None),
        ] {
            assert_eq!(told(json!({ "expires_at": end })), seconds, "{end}");
        }
    }

    #[test]
    fn a_value_that_is_a_token_has_its_own_end() {
        let of = |claims: Value| told(json!({ "anything": jwt(&claims) }));
        assert_eq!(of(json!({ "exp": SINCE + 300, "sub": "web" })), Some(300));
        assert_eq!(of(json!({ "exp": 1_000_000_300.5 })), Some(300));
        assert_eq!(of(json!({ "sub": "web" })), None);
        assert_eq!(of(json!({ "exp": "soon" })), None);
        assert_eq!(of(json!({ "exp": 0 })), None);
        assert_eq!(of(json!({ "exp": -5 })), None);
        assert_eq!(of(json!({ "exp": 1e300 })), None);
        assert_eq!(of(json!([1])), None);
        let token = jwt(&json!({ "exp": SINCE + 300 }));
        for other in
            [format!("{token}.x"), token.replace('.', ":"), format!("x{token}"), "eyJ.!.".to_owned(), "eyJ..".to_owned(), "eyJ".to_owned()]
        {
            assert_eq!(told(json!({ "token": other })), None, "{other}");
        }
        assert_eq!(told(json!({ "nested": { "token": token } })), None);
        let large = jwt(&json!({ "exp": SINCE + 300, "x": "y".repeat(LONGEST_TOKEN) }));
        assert_eq!(told(json!({ "token": large })), None);
    }

    #[test]
    fn an_answer_that_is_no_object_has_no_end() {
        for body in ["{}", "{\"data\":null}", "{\"data\":[]}", "{\"data\":\"x\"}"] {
            let body = SecretBytes::new(body.into());
            assert_eq!(ends(&Answer::parse(&body).unwrap(), Timestamp::UNIX_EPOCH), None);
        }
    }
}
