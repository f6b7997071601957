//! Retries: what is tried again, when, and how often.
//!
//! This is a plain loop and no tower layer: whether to go on depends on the deadline, on the server's wish, and on whether the server has
//! seen anything; and the caller must know how often it was tried. A `tower::retry::Policy` would have to carry all of that through its
//! request.

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::fmt::rfc2822::DateTimeParser;
use tokio::time::{Duration, Instant};

use super::HttpError;
use super::error::Failed;
use crate::model::SecretBytes;

/// The most tries of a call.
pub const TRIES: u32 = 3;

/// No try begins after this time.
pub const TRYING: Duration = Duration::from_secs(5);

/// The factor from one wait to the next: the first retry comes soon, after a short failure; the second late enough for a server that
/// restarts.
const GROWTH: u32 = 5;

/// Whether a request may reach the server twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repeat {
    /// It creates something: Keyferry tries again only if the server cannot have seen it.
    Never,
    /// It only reads, or the second time changes nothing.
    Safe,
}

/// How a call ended: the result of its last try.
#[derive(Debug)]
pub struct Outcome {
    pub answer: Result<Response<SecretBytes>, HttpError>,
    /// At least 1.
    pub tries: u32,
    /// The earliest time at which the server accepts another request, if a 429 or 503 says it.
    pub retry_after: Option<Duration>,
}

// === impl Outcome ===

impl Outcome {
    /// ` after 3 tries`, for a message; empty after a single try.
    pub fn after(&self) -> String {
        if self.tries > 1 { format!(" after {} tries", self.tries) } else { String::new() }
    }
}

/// How long to wait after try number `tried` (the first is 1). `None`: this is the final answer.
pub(super) fn wait(repeat: Repeat, base: Duration, tried: u32, came: &Result<Response<SecretBytes>, Failed>) -> Option<Duration> {
    if tried >= TRIES {
        return None;
    }
    let own = || jittered(base * GROWTH.pow(tried - 1));
    match (came, repeat) {
        (Err(failed), _) if !failed.seen => failed.error.passes().then(own),
        (Err(failed), Repeat::Safe) => failed.error.passes().then(own),
        (Ok(answer), Repeat::Safe) if passes(answer.status()) => Some(asked_for(answer).unwrap_or_else(own)),
        (Ok(_) | Err(_), Repeat::Never) | (Ok(_), Repeat::Safe) => None,
    }
}

/// Whether the same request may get another answer a moment later. Vault says 412 if a replica is not up to date yet.
fn passes(status: StatusCode) -> bool {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PRECONDITION_FAILED => true,
        StatusCode::NOT_IMPLEMENTED => false,
        status => status.is_server_error(),
    }
}

/// The time in `Retry-After` of a 429 or 503, in seconds or as a date (RFC 9110, section 10.2.3). A date is compared with the answer's own
/// `Date`: so wrong clocks do not matter. Some servers round whole seconds down (OpenBao's quotas), and many clients get the same number:
/// so up to one second is added.
pub(super) fn asked_for(answer: &Response<SecretBytes>) -> Option<Duration> {
    if ![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status()) {
        return None;
    }
    let asked = text(answer.headers(), RETRY_AFTER)?;
    let time = |text: &str| DateTimeParser::new().parse_timestamp(text).ok();
    let wait = match asked.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::try_from(time(asked)?.duration_since(time(text(answer.headers(), DATE)?)?)).ok()?,
    };
    Some(wait.saturating_add(jittered(Duration::from_secs(1))))
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name).map(HeaderValue::to_str)?.ok().map(str::trim)
}

/// Whether a try may still begin after `wait`: an earlier try than the server allows would only be refused.
pub(super) fn is_in_time(wait: Duration, began: Instant, deadline: Instant) -> bool {
    Instant::now().checked_add(wait).is_some_and(|next| next < deadline && next <= began + TRYING)
}

/// Between half of a time and all of it, so that many calls that fail together do not come back together.
fn jittered(whole: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness all wait equally long.
    let _ = aws_lc_rs::rand::fill(&mut random);
    whole.mul_f64(0.5 + f64::from(random[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);

    #[allow(clippy::unnecessary_wraps)] // what a try brought
    fn answer(status: u16, headers: &[(&'static str, &str)]) -> Result<Response<SecretBytes>, Failed> {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        Ok(answer.body(SecretBytes::new(Vec::new())).unwrap())
    }

    fn again(repeat: Repeat, came: &Result<Response<SecretBytes>, Failed>) -> bool {
        wait(repeat, BASE, 1, came).is_some()
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [412, 429, 500, 502, 503, 504] {
            assert!(again(Repeat::Safe, &answer(status, &[])), "{status}");
            assert!(!again(Repeat::Never, &answer(status, &[])), "{status}");
        }
        for status in [200, 204, 302, 400, 401, 403, 404, 409, 501] {
            assert!(!again(Repeat::Safe, &answer(status, &[])), "{status}");
        }
        let broken = || HttpError::Broken(String::new());
        assert!(again(Repeat::Safe, &Err(Failed::seen(broken()))));
        assert!(again(Repeat::Never, &Err(Failed::unseen(broken()))));
        assert!(!again(Repeat::Never, &Err(Failed::seen(broken()))));
        for lasting in [HttpError::TimedOut, HttpError::TooLarge { limit: 1 }, HttpError::Tls(String::new())] {
            assert!(!again(Repeat::Safe, &Err(Failed::unseen(lasting))));
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let came = answer(500, &[]);
        for _ in 0..50 {
            let (first, second) = (wait(Repeat::Safe, BASE, 1, &came).unwrap(), wait(Repeat::Safe, BASE, 2, &came).unwrap());
            assert!((BASE / 2..=BASE).contains(&first), "{first:?}");
            assert!((BASE * 5 / 2..=BASE * 5).contains(&second), "{second:?}");
        }
        assert_eq!(wait(Repeat::Safe, BASE, 3, &came), None);
    }

    #[test]
    fn a_server_says_when() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let near = |wait: Duration, seconds| (Duration::from_secs(seconds)..=Duration::from_secs(seconds + 1)).contains(&wait);
        let asked = |status, headers: &[(&'static str, &str)]| wait(Repeat::Safe, BASE, 1, &answer(status, headers)).unwrap();
        assert!(near(asked(429, &[("retry-after", "2")]), 2));
        assert!(near(asked(429, &[("retry-after", "0")]), 0));
        assert!(near(asked(503, &[date, ("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")]), 3));
        for own in [
            asked(500, &[("retry-after", "2")]),
            asked(429, &[("retry-after", "soon")]),
            asked(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")]),
            asked(503, &[date, ("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT")]),
        ] {
            assert!(own <= BASE, "{own:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_begins_too_late() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert!(is_in_time(second, now, now + 2 * second));
        assert!(!is_in_time(2 * second, now, now + 2 * second), "the deadline");
        assert!(is_in_time(TRYING, now, now + 60 * second));
        assert!(!is_in_time(TRYING + second, now, now + 60 * second), "5 s in all");
        assert!(!is_in_time(Duration::MAX, now, now + second));
    }
}
