//! AWS's Security Token Service: its three calls give an access key for a login, or say whose key it is.
//!
//! It takes forms and answers in XML (API version 2011-06-15). Keyferry uses its regional address. The caller says what a refusal means for
//! the Pod.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::session::Issued;
use crate::backend::Fault;
use crate::backend::remote::refusal::Refusal;
use crate::backend::store::aws::credentials::Credentials;
use crate::backend::store::aws::error::Failure;
use crate::backend::store::aws::line::{Ask, Line};
use crate::backend::store::aws::xml;
use crate::http::TRIES;
use crate::model::SecretBytes;

const VERSION: &str = "2011-06-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A client of the service in one region.
#[derive(Debug)]
pub(super) struct Sts(Line);

/// One request; `signed` is the key of a signed one.
struct Call<'c> {
    action: &'static str,
    parameters: Vec<(&'static str, &'c str)>,
    signed: Option<&'c Credentials>,
    hidden: Option<&'c SecretBytes>,
}

/// The role to assume, and the name of the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Becoming<'b> {
    pub(super) role: &'b str,
    pub(super) session: &'b str,
    pub(super) external_id: Option<&'b str>,
}

// === impl Sts ===

impl Sts {
    pub(super) fn new(line: Line) -> Self {
        Self(line)
    }

    /// `AssumeRoleWithWebIdentity`: gives a key of the role for the Pod's token.
    ///
    /// # Errors
    /// The service refuses, or does not answer.
    pub(super) async fn with_token(&self, to: Becoming<'_>, token: &SecretBytes, deadline: Instant) -> Result<Issued, Failure> {
        let Ok(jwt) = str::from_utf8(token.expose()) else {
            return Err(Failure::Other(Refusal::new(Fault::Unauthenticated, "the Pod's token is not a text (check what issues it)")));
        };
        let parameters = vec![("RoleArn", to.role), ("RoleSessionName", to.session), ("WebIdentityToken", jwt)];
        let call = Call { action: "AssumeRoleWithWebIdentity", parameters, signed: None, hidden: Some(token) };
        self.issue(&call, deadline).await
    }

    /// `AssumeRole`: gives a key of another role.
    ///
    /// # Errors
    /// The service refuses, or does not answer.
    pub(super) async fn assume(&self, to: Becoming<'_>, with: &Credentials, deadline: Instant) -> Result<Issued, Failure> {
        let mut parameters = vec![("RoleArn", to.role), ("RoleSessionName", to.session)];
        parameters.extend(to.external_id.map(|id| ("ExternalId", id)));
        let hidden = to.external_id.map(|id| SecretBytes::new(id.into()));
        self.issue(&Call { action: "AssumeRole", parameters, signed: Some(with), hidden: hidden.as_ref() }, deadline).await
    }

    /// `GetCallerIdentity`: gives the ARN of the key's owner. It needs no right.
    ///
    /// # Errors
    /// The service refuses, or does not answer.
    pub(super) async fn caller(&self, with: &Credentials, deadline: Instant) -> Result<String, Failure> {
        let call = Call { action: "GetCallerIdentity", parameters: Vec::new(), signed: Some(with), hidden: None };
        let answer = self.call(&call, deadline).await?;
        let arn = read(&answer, &["GetCallerIdentityResult", "Arn"]).map(|arn| arn.to_string());
        let fits = |arn: &String| arn.len() <= 512 && arn.bytes().all(|byte| byte.is_ascii_graphic());
        arn.filter(fits).ok_or_else(|| self.unfit(call.action, "is not from AWS's STS"))
    }

    /// Whether the service answers at all.
    ///
    /// # Errors
    /// The errors of [`Line::reach`].
    pub(super) async fn reach(&self, deadline: Instant) -> Result<(), Refusal> {
        self.0.reach(FORM, b"Action=GetCallerIdentity&Version=2011-06-15", deadline).await.map(drop)
    }

    async fn issue(&self, call: &Call<'_>, deadline: Instant) -> Result<Issued, Failure> {
        let answer = self.call(call, deadline).await?;
        let part = |name| read(&answer, &["Credentials", name]);
        let (id, secret, token) = (part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken"));
        let ends = part("Expiration").and_then(|ends| ends.parse::<Timestamp>().ok());
        let (Some(id), Some(secret), Some(ends)) = (id, secret, ends) else {
            return Err(self.unfit(call.action, "is not from AWS's STS"));
        };
        let credentials = Credentials::new(id.to_string(), secret, token, Some(ends));
        let credentials = credentials.map_err(|problem| self.unfit(call.action, &format!("has {problem}")))?;
        Ok(Issued { credentials, left: super::session::left(ends, answer.headers(), self.0.now()) })
    }

    async fn call(&self, call: &Call<'_>, deadline: Instant) -> Result<Response<SecretBytes>, Failure> {
        let ask = Ask {
            operation: call.action,
            kind: FORM,
            target: None,
            body: Bytes::from_owner(form(call)),
            credentials: call.signed,
            hidden: call.hidden,
            payer: None,
            tries: TRIES,
        };
        self.0.ask(&ask, deadline).await.map_err(|failure| match failure {
            // Only the logins are down. The store itself may be up.
            Failure::Other(refusal) if refusal.fault == Fault::Down => Failure::Other(Refusal { fault: Fault::Unavailable, ..refusal }),
            failure @ (Failure::Other(_) | Failure::Said(_)) => failure,
        })
    }

    fn unfit(&self, action: &str, problem: &str) -> Failure {
        let reason = format!("{}: the answer to {action} {problem} (see `endpoints`)", self.0.endpoint());
        Failure::Other(Refusal::new(Fault::Unhelpful, reason))
    }
}

/// In memory that is wiped, with room for every character's escape: a growing buffer would leave copies in memory.
fn form(call: &Call<'_>) -> Zeroizing<Vec<u8>> {
    let all = [("Action", call.action), ("Version", VERSION)].into_iter().chain(call.parameters.iter().copied());
    let room = call.parameters.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum::<usize>();
    let mut form = Zeroizing::new(Vec::with_capacity(room + 128));
    for (name, value) in all {
        if !form.is_empty() {
            form.push(b'&');
        }
        form.extend_from_slice(name.as_bytes());
        form.push(b'=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => form.push(byte),
                _ => {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    form.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
                }
            }
        }
    }
    form
}

fn read(answer: &Response<SecretBytes>, path: &[&str]) -> Option<Zeroizing<String>> {
    xml::text(str::from_utf8(answer.body().expose()).ok()?, path)
}
