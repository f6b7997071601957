//! AWS's answer if it gives neither a secret nor a key: a code and words. The status says little: denial and throttling are a 400 as well.
//!
//! The codes come from the API references of the services, and from AWS's list of common errors. STS sends the same in XML.

use std::fmt;

use http::header::{DATE, HeaderMap};
use http::{Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Duration;

use super::endpoint::Service;
use super::xml;
use crate::backend::Fault;
use crate::backend::remote::refusal::{Needles, Refusal, short};
use crate::model::SecretBytes;

/// The most of AWS's own words that a message repeats, in characters.
pub(super) const MAX_WORDS: usize = 400;

/// The longest code and request id in bytes: a longer one is not AWS's.
const MAX_TOKEN: usize = 80;

/// The first wait before another try: if AWS throttles, and if STS has trouble that passes by itself. Each next wait may be twice as long.
/// SDKs do the same.
const THROTTLED: Duration = Duration::from_secs(1);
const PASSES: Duration = Duration::from_millis(50);

const AGAIN: &str = "kubelet tries again by itself";

/// The meaning of codes, without those whose words say more. AWS writes many of them with and without `Exception` at the end: here they are
/// without.
const FAULTS: [(Fault, &[&str]); 7] = [
    (Fault::NotFound, &["ResourceNotFound", "ParameterNotFound", "ParameterVersionNotFound"]),
    (Fault::Denied, &["AccessDenied"]),
    (Fault::Corrupt, &["DecryptionFailure", "InvalidKeyId"]),
    (
        Fault::Throttled,
        &[
            "Throttling",
            "Throttled",
            "RequestThrottled",
            "TooManyRequests",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceeded",
            "ProvisionedThroughputExceeded",
            "SlowDown",
            "PriorRequestNotComplete",
            "EC2Throttled",
        ],
    ),
    (
        Fault::Unavailable,
        &[
            "IDPCommunicationError",
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "InternalServiceError",
            "RequestTimeout",
            "ServiceUnavailable",
        ],
    ),
    (
        Fault::Unauthenticated,
        &[
            "ExpiredToken",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidIdentityToken",
            "MissingAuthenticationToken",
            "OptInRequired",
            "UnrecognizedClient",
        ],
    ),
    (
        Fault::Invalid,
        &[
            "InvalidFilterKey",
            "InvalidFilterOption",
            "InvalidFilterValue",
            "InvalidNextToken",
            "InvalidParameter",
            "InvalidRequest",
            "MalformedPolicyDocument",
            "PackedPolicyTooLarge",
            "Validation",
            "ValidationError",
        ],
    ),
];

/// Codes of a refused signature: a wrong clock may be the cause.
const SKEWED: [&str; 6] =
    ["AuthFailure", "InvalidSignature", "RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed", "SignatureDoesNotMatch"];

/// Why a call gave no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no answer, or not one of the service.
    Other(Refusal),
    /// The service gave the reason.
    Said(Box<Said>),
}

/// An answer with an error, or an entry of an answer with one.
pub(super) struct Said {
    service: Service,
    operation: &'static str,
    /// Empty: there was no code.
    code: String,
    status: Option<StatusCode>,
    /// AWS's words, to search in.
    raw: String,
    /// AWS's words as messages may show them.
    shown: String,
    request: Option<String>,
    /// By AWS's clock.
    pub(super) date: Option<Timestamp>,
    /// How often it was asked, and the earliest time for the next request, if it named one.
    pub(super) tries: u32,
    pub(super) retry_after: Option<Duration>,
}

/// A part that is not a text, or is there in both spellings, does not hide the code: without it, a denial would look like an outage.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(rename = "__type")]
    kind: Value,
    message: Value,
    #[serde(rename = "Message")]
    message_too: Value,
}

// === impl Failure ===

impl Failure {
    /// `what` is the login that STS was asked for; `remedy` is for a refusal by the service.
    pub(super) fn of_login(self, what: &str, remedy: &str) -> Refusal {
        match self {
            Self::Other(refusal) => refusal,
            Self::Said(said) => said.of_login(what, remedy),
        }
    }

    /// The service's code, if there is one.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Other(_) => "",
            Self::Said(said) => &said.code,
        }
    }

    /// Whether AWS no longer accepts the key that signed the call.
    pub(super) fn is_of_the_key(&self) -> bool {
        matches!(stem(self.code()), "ExpiredToken" | "InvalidClientTokenId" | "UnrecognizedClient")
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(refusal) => refusal,
            Failure::Said(said) => said.into_refusal(),
        }
    }
}

// === impl Said ===

impl Said {
    /// For a whole answer.
    pub(super) fn of((service, operation): (Service, &'static str), answer: &Response<SecretBytes>, needles: &Needles, told: bool) -> Self {
        let (headers, looked) = (answer.headers(), short(answer.body()));
        let parsed: Body = serde_json::from_slice(looked).unwrap_or_default();
        let text = str::from_utf8(looked).unwrap_or_default();
        let element = |path: &[&str]| xml::text(text, path).map(|text| text.to_string());
        let said = |part: &Value| part.as_str().map(str::to_owned);
        let code = said(&parsed.kind).or_else(|| header(headers, "x-amzn-errortype")).or_else(|| element(&["Error", "Code"]));
        let raw = said(&parsed.message).or_else(|| said(&parsed.message_too)).or_else(|| element(&["Error", "Message"]));
        let (code, raw) = (code.unwrap_or_default(), raw.unwrap_or_default());
        let shown = if told { needles.clean(&raw, MAX_WORDS) } else { String::new() };
        Self {
            service,
            operation,
            code: bare(&code),
            status: Some(answer.status()),
            raw,
            shown,
            request: request_id(headers).or_else(|| element(&["RequestId"]).filter(|id| is_request_id(id))),
            date: date(headers),
            tries: 1,
            retry_after: None,
        }
    }

    /// For one entry of a batch's answer.
    pub(super) fn entry(
        operation: &'static str,
        (code, message): (&str, &str),
        request: Option<&str>,
        (needles, told): (&Needles, bool),
    ) -> Self {
        Self {
            service: Service::SecretsManager,
            operation,
            code: bare(code),
            status: None,
            raw: message.to_owned(),
            shown: if told { needles.clean(message, MAX_WORDS) } else { String::new() },
            request: request.map(str::to_owned),
            date: None,
            tries: 1,
            retry_after: None,
        }
    }

    pub(super) fn fault(&self) -> Fault {
        let is_login = self.service == Service::Tokens;
        let known = FAULTS.iter().find(|(_, codes)| codes.contains(&self.stem())).map(|(fault, _)| *fault);
        match (known, self.status.map(|status| status.as_u16())) {
            _ if self.may_be_skew() => Fault::Unauthenticated,
            _ if self.is_to_be_deleted() => Fault::NotFound,
            // AWS could not get the issuer's keys. That may pass. After only one try, it is not known whether it passes.
            _ if self.stem() == "InvalidIdentityToken" && (self.tries == 1 || self.raw.contains("retrieve verification key")) => {
                Fault::Unavailable
            }
            (Some(Fault::Denied), _) if is_login => Fault::Unauthenticated,
            (Some(fault), _) => fault,
            (None, Some(429)) => Fault::Throttled,
            (None, Some(500..) | None) => Fault::Unavailable,
            // AWS has a code for each of its errors.
            (None, Some(404)) => Fault::Unhelpful,
            (None, Some(_)) if self.code.is_empty() => Fault::Unhelpful,
            (None, Some(_)) if is_login => Fault::Unauthenticated,
            (None, Some(401)) => Fault::Unauthenticated,
            (None, Some(403)) => Fault::Denied,
            (None, Some(_)) => Fault::Invalid,
        }
    }

    /// Whether a wrong clock may be the cause.
    pub(super) fn may_be_skew(&self) -> bool {
        SKEWED.contains(&self.stem())
    }

    /// How long to wait first, before the same request may get another answer. `None`: it will get the same, or `http` has already tried
    /// again.
    pub(super) fn again(&self) -> Option<Duration> {
        let is_tried = self.status == Some(StatusCode::TOO_MANY_REQUESTS);
        match self.stem() {
            "IDPCommunicationError" | "InvalidIdentityToken" => Some(PASSES),
            _ => (self.fault() == Fault::Throttled && !is_tried).then_some(THROTTLED),
        }
    }

    pub(super) fn into_refusal(self) -> Refusal {
        let fault = self.fault();
        let (service, after) = (self.service.name(), after(self.tries));
        let words = if self.shown.is_empty() { String::new() } else { format!(": {}", self.shown) };
        let reason = match self.stranger() {
            Some(stranger) => stranger,
            None => format!("{service} says {}{after}{words} ({})", self.what(), self.remedy(fault)),
        };
        identified(Refusal::new(fault, reason), self.request.as_deref()).until(self.retry_after)
    }

    /// The same for a login, with the role or key that it is about.
    fn of_login(self, what: &str, remedy: &str) -> Refusal {
        let fault = self.fault();
        let (problem, remedy) = if fault == Fault::Throttled {
            ("throttles requests for", "kubelet tries again by itself; Keyferry keeps a session until it ends")
        } else if fault == Fault::Unavailable {
            ("cannot answer now for", AGAIN)
        } else {
            ("refuses", remedy)
        };
        let words = if self.shown.is_empty() { String::new() } else { format!(": {}", self.shown.trim_end_matches('.')) };
        let reason = match self.stranger() {
            Some(stranger) => stranger,
            None => format!("AWS STS {problem} {what}: {}{}{words} ({remedy})", self.what(), after(self.tries)),
        };
        identified(Refusal::new(fault, reason), self.request.as_deref()).until(self.retry_after)
    }

    /// The message for an answer of a proxy, or of a server that is not AWS.
    fn stranger(&self) -> Option<String> {
        let is_strange = self.fault() == Fault::Unhelpful;
        is_strange.then(|| {
            format!(
                "the server that answers for {} is not AWS: it says {}{} (check `endpoints` of the backend, and the proxies on the way)",
                self.service.name(),
                self.what(),
                after(self.tries)
            )
        })
    }

    fn what(&self) -> String {
        match (self.code.as_str(), self.status) {
            ("", Some(status)) => status.to_string(),
            ("", None) => "nothing".to_owned(),
            (code, _) => code.to_owned(),
        }
    }

    fn remedy(&self, fault: Fault) -> String {
        let action = format!("{}:{}", self.service, self.operation);
        match fault {
            Fault::NotFound if self.is_to_be_deleted() => {
                "it can be restored until its deletion: aws secretsmanager restore-secret".to_owned()
            }
            Fault::NotFound if self.has_no_value() => "it may have no value yet: aws secretsmanager put-secret-value".to_owned(),
            Fault::NotFound => "check the name, its version and the backend's region".to_owned(),
            Fault::Denied if self.is_of_key() => {
                "the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's".to_owned()
            }
            Fault::Denied => format!("allow {action} on it in the role's policy; AWS says the same about a secret that does not exist"),
            Fault::Corrupt => "check the KMS key of the secret: is it disabled, or will it be deleted?".to_owned(),
            Fault::Throttled => format!("the account's quota for {action} in this region is used up; {AGAIN}"),
            Fault::Unauthenticated if self.may_be_skew() => "is the access key right, and the clock of this node?".to_owned(),
            Fault::Unauthenticated => "check the role or the access key of the backend's `auth`".to_owned(),
            Fault::NoLogin | Fault::Unavailable => AGAIN.to_owned(),
            Fault::Down
            | Fault::Invalid
            | Fault::NoTurn
            | Fault::Short
            | Fault::TimedOut
            | Fault::TooLarge
            | Fault::Unhelpful
            | Fault::Unsupported => "check the name and the version in the class".to_owned(),
        }
    }

    /// Only the words tell. AWS's references have several: "it was marked for deletion", "the secret is scheduled for deletion", "it's
    /// currently marked deleted".
    fn is_to_be_deleted(&self) -> bool {
        let words = ["marked for deletion", "scheduled for deletion", "marked deleted"];
        self.stem() == "InvalidRequest" && words.iter().any(|words| self.raw.contains(words))
    }

    /// The secret is there. Each version that somebody puts into it gets this label.
    fn has_no_value(&self) -> bool {
        self.raw.contains("secret value for staging label: AWSCURRENT")
    }

    /// Whether the denial is about a KMS key. These words have blanks in them, so the name of a secret or a role cannot have them.
    fn is_of_key(&self) -> bool {
        ["Access to KMS", "Service: AWSKMS", "customer master key", "perform: kms:"].iter().any(|words| self.raw.contains(words))
    }

    fn stem(&self) -> &str {
        stem(&self.code)
    }
}

/// AWS's words may repeat what it was sent, so this does not show them.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said").field("code", &self.code).field("status", &self.status).finish_non_exhaustive()
    }
}

/// With AWS's id of the request: AWS's support asks for that.
pub(super) fn identified(refusal: Refusal, request: Option<&str>) -> Refusal {
    let Some(id) = request else { return refusal };
    let reason = match refusal.reason.strip_suffix(')') {
        Some(reason) => format!("{reason}; AWS's request id is {id})"),
        None => format!("{} (AWS's request id is {id})", refusal.reason),
    };
    Refusal { reason, ..refusal }
}

/// ` after 3 tries`, for a message; empty after only one try.
pub(super) fn after(tries: u32) -> String {
    if tries > 1 { format!(" after {tries} tries") } else { String::new() }
}

pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    header(headers, "x-amzn-requestid").filter(|id| is_request_id(id))
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_TOKEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The time of an answer, by the server's clock.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(header(headers, DATE.as_str())?).ok()
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// `prefix#Code:more` is `Code`.
fn bare(code: &str) -> String {
    let code = code.rsplit('#').next().unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    let fits = code.len() <= MAX_TOKEN && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
    if fits { code.to_owned() } else { String::new() }
}

fn stem(code: &str) -> &str {
    code.strip_suffix("Exception").unwrap_or(code)
}
