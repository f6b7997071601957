//! What AWS says where it gives neither a secret nor a key: a code and words, with a status that tells little. Denial and throttling are a
//! 400 as well.
//!
//! The codes are those of the services' API references, and the common ones of all. STS says the same in XML.

use std::fmt;

use http::header::{DATE, HeaderMap};
use http::{Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use tokio::time::Duration;

use super::endpoint::Service;
use super::xml;
use crate::backend::Fault;
use crate::backend::remote::refusal::{Needles, Refusal, short};
use crate::model::SecretBytes;

/// The most of AWS's own words that a message repeats, in characters.
pub(super) const MAX_WORDS: usize = 400;

/// The longest code and request id in bytes: what is longer is not AWS's.
const MAX_TOKEN: usize = 80;

/// The first waits before another try: of what throttles, and of what passes by itself at STS. Each next one may be twice as long. SDKs do
/// the same.
const THROTTLED: Duration = Duration::from_secs(1);
const PASSES: Duration = Duration::from_millis(50);

const AGAIN: &str = "kubelet tries again by itself";

/// What codes mean, but for those whose words tell more. AWS writes many of them with and without `Exception` at the end: here without.
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

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or one that is not the service's.
    Other(Refusal),
    /// The service said so.
    Said(Box<Said>),
}

/// An answer that is not what was asked for, or a part of one.
pub(super) struct Said {
    service: Service,
    operation: &'static str,
    /// Empty: it gave none.
    code: String,
    status: Option<StatusCode>,
    /// As AWS says it: to be looked into.
    raw: String,
    /// As it may be told.
    shown: String,
    request: Option<String>,
    /// By AWS's clock.
    pub(super) date: Option<Timestamp>,
    /// How often it was asked, and when it wants to be asked again at the earliest, where it said so.
    pub(super) tries: u32,
    pub(super) retry_after: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(rename = "__type")]
    kind: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

// === impl Failure ===

impl Failure {
    /// `what` was asked of STS; `remedy` is for a refusal of the service's.
    pub(super) fn of_login(self, what: &str, remedy: &str) -> Refusal {
        match self {
            Self::Other(refusal) => refusal,
            Self::Said(said) => said.of_login(what, remedy),
        }
    }

    /// The service's code, if it said one.
    pub(super) fn code(&self) -> &str {
        match self {
            Self::Other(_) => "",
            Self::Said(said) => &said.code,
        }
    }

    /// Whether the key that the call was signed with is none any more.
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
    /// Of a whole answer.
    pub(super) fn of((service, operation): (Service, &'static str), answer: &Response<SecretBytes>, needles: &Needles, told: bool) -> Self {
        let (headers, looked) = (answer.headers(), short(answer.body()));
        let parsed: Body = serde_json::from_slice(looked).unwrap_or_default();
        let text = str::from_utf8(looked).unwrap_or_default();
        let element = |path: &[&str]| xml::text(text, path).map(|text| text.to_string());
        let code = parsed.kind.or_else(|| header(headers, "x-amzn-errortype")).or_else(|| element(&["Error", "Code"])).unwrap_or_default();
        let raw = parsed.message.or_else(|| element(&["Error", "Message"])).unwrap_or_default();
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

    /// Of one entry of a batch's answer.
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
            // AWS could not get the issuer's keys. It may pass, and once alone there was no time to see whether it does.
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

    /// Whether a clock that is wrong may be the cause.
    pub(super) fn may_be_skew(&self) -> bool {
        SKEWED.contains(&self.stem())
    }

    /// How long to wait, at first, before the same may well be answered otherwise. `None`: it will not be, or `http` has tried that.
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

    /// The same of a login, with what it means for whom.
    fn of_login(self, what: &str, remedy: &str) -> Refusal {
        let fault = self.fault();
        let (problem, remedy) = if fault == Fault::Throttled {
            ("throttles", "kubelet tries again by itself; a session is kept for as long as AWS lets it live")
        } else if fault == Fault::Unavailable {
            ("cannot tell now", AGAIN)
        } else {
            ("says no", remedy)
        };
        let words = if self.shown.is_empty() { String::new() } else { format!(": {}", self.shown.trim_end_matches('.')) };
        let reason = match self.stranger() {
            Some(stranger) => stranger,
            None => format!("AWS STS {problem} to {what}: {}{}{words} ({remedy})", self.what(), after(self.tries)),
        };
        identified(Refusal::new(fault, reason), self.request.as_deref()).until(self.retry_after)
    }

    /// What is told of an answer that is a proxy's, or of a server that is not AWS.
    fn stranger(&self) -> Option<String> {
        let is_strange = self.fault() == Fault::Unhelpful;
        is_strange.then(|| {
            format!(
                "what answers for {} is not AWS, since it says {}{} (see `endpoints` of the backend, and proxies before it)",
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
            Fault::NotFound => "see the name, its version and the backend's region".to_owned(),
            Fault::Denied if self.is_of_key() => {
                "the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's".to_owned()
            }
            Fault::Denied => format!("allow {action} on it in the role's policy; AWS says the same of a secret that does not exist"),
            Fault::Corrupt => "see the KMS key of the secret: is it disabled, or to be deleted?".to_owned(),
            Fault::Throttled => format!("the account's quota for {action} in this region is used up; {AGAIN}"),
            Fault::Unauthenticated if self.may_be_skew() => "is the access key right, and the clock of this node?".to_owned(),
            Fault::Unauthenticated => "see the role or the access key of the backend's `auth`".to_owned(),
            Fault::NoLogin | Fault::Unavailable => AGAIN.to_owned(),
            Fault::Down
            | Fault::Invalid
            | Fault::NoTurn
            | Fault::Short
            | Fault::TimedOut
            | Fault::TooLarge
            | Fault::Unhelpful
            | Fault::Unsupported => "see the name and the version in the class".to_owned(),
        }
    }

    fn is_to_be_deleted(&self) -> bool {
        self.stem() == "InvalidRequest" && self.raw.contains("marked for deletion")
    }

    /// Whether a key of KMS is what may not be used. These words have blanks in them, so that no name of a secret or a role has them.
    fn is_of_key(&self) -> bool {
        ["Access to KMS", "Service: AWSKMS", "customer master key", "perform: kms:"].iter().any(|words| self.raw.contains(words))
    }

    fn stem(&self) -> &str {
        stem(&self.code)
    }
}

/// AWS's words may hold what it was sent.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said").field("code", &self.code).field("status", &self.status).finish_non_exhaustive()
    }
}

/// With AWS's id of the request that it was the answer to: its support asks for that.
pub(super) fn identified(refusal: Refusal, request: Option<&str>) -> Refusal {
    let Some(id) = request else { return refusal };
    let reason = match refusal.reason.strip_suffix(')') {
        Some(reason) => format!("{reason}; AWS's request id is {id})"),
        None => format!("{} (AWS's request id is {id})", refusal.reason),
    };
    Refusal { reason, ..refusal }
}

/// ` after 3 tries`, for a message; empty where there was but one.
pub(super) fn after(tries: u32) -> String {
    if tries > 1 { format!(" after {tries} tries") } else { String::new() }
}

pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    header(headers, "x-amzn-requestid").filter(|id| is_request_id(id))
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_TOKEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The time of an answer, by the clock of who gave it.
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
