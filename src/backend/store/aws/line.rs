//! One service of AWS at its endpoint: a request is signed, sent, and tried again where its answer says that this may help.
//!
//! `http` tries again if the status says so. AWS also throttles with a 400: its code shows that, here. A signature has the time in it, and
//! is not valid if the clock is wrong by minutes. The `Date` of AWS's answers shows how far its clock is ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant, sleep};

use super::config::AwsConfig;
use super::credentials::Credentials;
use super::endpoint::{Service, host_header};
use super::error::{Failure, Said, after};
use super::sign::Signer;
use crate::backend::remote::refusal::{Needles, Refusal};
use crate::budget::Payer;
use crate::clock::Clock;
use crate::http::{Endpoint, HttpClient, HttpConfig, HttpError, Repeat, TRIES, TRYING};
use crate::model::SecretBytes;

const TARGET: &str = "x-amz-target";

/// If clocks differ by this many seconds, AWS refuses signatures for that: it allows five minutes.
const SKEW: i64 = 4 * 60;

/// A client of the service.
#[derive(Debug)]
pub(super) struct Line {
    service: Service,
    http: HttpClient,
    host: String,
    region: String,
    clock: Arc<dyn Clock>,
    /// How many seconds AWS's clock is ahead of ours, if known.
    ahead: AtomicI64,
    /// Whether messages may show AWS's words.
    words: bool,
}

/// What is asked: a POST to `/`.
pub(super) struct Ask<'a> {
    pub(super) operation: &'static str,
    /// The value of `Content-Type`, and of `X-Amz-Target` if the service needs one.
    pub(super) kind: &'static str,
    pub(super) target: Option<String>,
    pub(super) body: Bytes,
    /// `None`: this call is not signed.
    pub(super) credentials: Option<&'a Credentials>,
    /// What else messages must not show of AWS's words.
    pub(super) hidden: Option<&'a SecretBytes>,
    pub(super) payer: Option<Payer>,
    /// The most tries if AWS throttles, or the trouble may pass.
    pub(super) tries: u32,
}

// === impl Line ===

impl Line {
    /// Nothing is connected before the first call.
    ///
    /// # Errors
    /// The CA cannot be used.
    pub(super) fn open(config: &AwsConfig, service: Service, max_body: usize, clock: &Arc<dyn Clock>) -> Result<Self, HttpError> {
        let endpoint = config.endpoint(service).clone();
        let host = host_header(&endpoint);
        let http = HttpClient::new(endpoint, HttpConfig { ca: config.ca.clone(), max_body, ..HttpConfig::default() })?;
        let (region, clock) = (config.region.as_str().to_owned(), Arc::clone(clock));
        Ok(Self { service, http, host, region, clock, ahead: AtomicI64::new(0), words: config.store_words })
    }

    /// An answer of success.
    ///
    /// # Errors
    /// There was no answer, or AWS answered with an error.
    pub(super) async fn ask(&self, ask: &Ask<'_>, deadline: Instant) -> Result<Response<SecretBytes>, Failure> {
        let (until, mut tries) = (deadline.min(Instant::now() + TRYING), 0);
        loop {
            let ahead = self.ahead();
            let outcome = self.http.call(self.request(ask, ahead), Repeat::Safe, deadline).await;
            tries += outcome.tries;
            let answer = outcome.answer.map_err(|error| Failure::Other(self.unanswered(&error, &after(tries))))?;
            if answer.status().is_success() {
                return Refusal::of_partial(answer.status()).map(|()| answer).map_err(Failure::Other);
            }
            let mut said = Said::of((self.service, ask.operation), &answer, &ask.needles(), self.words);
            (said.tries, said.retry_after) = (tries, outcome.retry_after);
            let (wait, most) = if ask.credentials.is_some() && self.learns(&said, ahead) {
                (Some(Duration::ZERO), TRIES)
            } else {
                (said.again().map(|first| jittered(first * 2_u32.pow(tries - 1))), ask.tries)
            };
            match wait.filter(|wait| tries < most && Instant::now() + *wait < until) {
                Some(wait) => sleep(wait).await,
                None => return Err(Failure::Said(Box::new(said))),
            }
        }
    }

    fn request(&self, ask: &Ask<'_>, ahead: i64) -> Request<Bytes> {
        let mut signed = vec![(CONTENT_TYPE.as_str(), ask.kind)];
        signed.extend(ask.target.as_deref().map(|target| (TARGET, target)));
        let signature = ask.credentials.map(|credentials| {
            // This sum fails only at the limits of time.
            let now = self.now();
            let time = now.saturating_add(SignedDuration::from_secs(ahead)).unwrap_or(now);
            let with = Signer { region: &self.region, service: self.service.as_str(), host: &self.host, time };
            with.sign(credentials, &signed, &ask.body)
        });
        let mut request = Request::new(ask.body.clone());
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ask.kind));
        let target = ask.target.as_deref().and_then(|target| HeaderValue::from_str(target).ok());
        headers.extend(target.map(|target| (HeaderName::from_static(TARGET), target)));
        headers.extend(signature.into_iter().flatten());
        if let Some(payer) = ask.payer.clone() {
            request.extensions_mut().insert(payer);
        }
        request
    }

    /// Whether AWS's clock is now known to differ from the time that signed the request. Then the signature may be refused for that. If
    /// several requests are refused together, one of them finds the difference.
    fn learns(&self, said: &Said, signed: i64) -> bool {
        let Some(theirs) = said.date.filter(|_| said.may_be_skew()) else { return false };
        let ahead = theirs.as_second() - self.now().as_second();
        if (ahead - self.ahead()).abs() >= SKEW {
            self.ahead.store(ahead, Ordering::Relaxed);
            let (by, side) = (ahead.abs(), if ahead < 0 { "ahead of" } else { "behind" });
            tracing::warn!(
                store = %self.http.endpoint(),
                "this node's clock is {by} s {side} AWS's: Keyferry signs requests by AWS's clock (set the node's clock by NTP)"
            );
        }
        (self.ahead() - signed).abs() >= SKEW
    }

    /// How many seconds AWS's clock is ahead of ours, if known.
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the service answers at all: the refusal of a request without a signature is also an answer. Returns how many seconds its
    /// clock is ahead of ours, if the answer has the time.
    ///
    /// # Errors
    /// It does not answer, or says that it has failed.
    pub(super) async fn reach(&self, kind: &'static str, body: &'static [u8], deadline: Instant) -> Result<Option<i64>, Refusal> {
        let unanswered = |error| self.unanswered(&error, "");
        self.http.check_files().await.map_err(unanswered)?;
        let ask = Ask {
            operation: "probe",
            kind,
            target: None,
            body: Bytes::from_static(body),
            credentials: None,
            hidden: None,
            payer: None,
            tries: 1,
        };
        let answer = self.http.send(self.request(&ask, 0), deadline).await.map_err(unanswered)?;
        let said = Said::of((self.service, ask.operation), &answer, &Needles::default(), self.words);
        if matches!(answer.status().as_u16(), 502..=504) {
            return Err(said.into_refusal());
        }
        Ok(said.date.map(|date| date.as_second() - self.now().as_second()))
    }

    fn unanswered(&self, error: &HttpError, after: &str) -> Refusal {
        Refusal::unanswered(self.http.endpoint(), error, after)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.http.endpoint()
    }
}

// === impl Ask ===

impl Ask<'_> {
    /// The texts that must be removed from AWS's words.
    fn needles(&self) -> Needles {
        let needles = self.credentials.map_or_else(Needles::default, Credentials::needles);
        self.hidden.into_iter().fold(needles, Needles::secret)
    }
}

/// A random time from zero up to the whole.
fn jittered(whole: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness all wait equally long.
    let _ = aws_lc_rs::rand::fill(&mut random);
    whole.mul_f64(f64::from(random[0]) / 256.0)
}
