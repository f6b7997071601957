//! A key as a node's own services give it: the agent and the instance use the same JSON, except for one member.

use http::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::session::{Issued, left};
use crate::backend::remote::metadata::SecretText;
use crate::backend::store::aws::credentials::Credentials;
use crate::model::{SecretBytes, quoted};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    /// Only from an instance: `Success`, or what is wrong in an answer of 200.
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<SecretText>,
    token: Option<SecretText>,
    expiration: Option<String>,
}

// === impl Answer ===

impl Answer {
    /// # Errors
    /// It holds no key. The text continues a sentence that begins with "the answer".
    pub(super) fn parse(answer: &Response<SecretBytes>, now: Timestamp) -> Result<Issued, String> {
        let parsed = serde_json::from_slice::<Self>(answer.body().expose()).map_err(|_| "is not JSON with an access key".to_owned())?;
        let Self { code, access_key_id, secret_access_key, token, expiration } = parsed;
        if let Some(code) = code.filter(|code| code != "Success") {
            return Err(format!("says {}", quoted(&code)));
        }
        let (Some(id), Some(SecretText(secret)), Some(SecretText(token))) = (access_key_id, secret_access_key, token) else {
            return Err("has no access key".to_owned());
        };
        let ends = expiration.and_then(|ends| ends.parse::<Timestamp>().ok()).ok_or("does not say when its key ends")?;
        let credentials = Credentials::new(id, secret, Some(token), Some(ends)).map_err(|problem| format!("has {problem}"))?;
        Ok(Issued { credentials, left: left(ends, answer.headers(), now) })
    }
}
