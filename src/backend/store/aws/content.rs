//! Turns the content of a name in AWS into a secret: the members of a JSON object are its fields; all else is one field.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::endpoint::Service;
use crate::backend::Fault;
use crate::backend::remote::fields::{self, check_size, half, has_half, is_object, members};
use crate::backend::remote::refusal::Refusal;
use crate::model::{Field, FieldKind, FieldName, Response, Secret, SecretBytes, Version};

/// The field for content that is not an object.
const VALUE: &str = "value";

/// The secret with this content.
///
/// # Errors
/// It is too large, or has half a character in it.
pub(super) fn secret(content: SecretBytes, version: Version, max_bytes: usize) -> Result<Secret, Refusal> {
    check_size(content.len(), max_bytes)?;
    let content = Arc::new(content);
    let fields = match object(&content, max_bytes)? {
        Some(fields) => fields,
        None => BTreeMap::from([(FieldName::new(VALUE), field(&content))]),
    };
    Ok(Secret { fields, response: Some(Response::Stored(content)), version: Some(version), lease: None })
}

/// `None`: it is not an object of JSON.
fn object(content: &SecretBytes, max_bytes: usize) -> Result<Option<BTreeMap<FieldName, Field>>, Refusal> {
    let Ok(text) = str::from_utf8(content.expose()) else { return Ok(None) };
    let Ok(value) = serde_json::from_str::<&RawValue>(text) else { return Ok(None) };
    if !is_object(value) {
        return Ok(None);
    }
    match members(value)? {
        Some(members) => fields::fields(&members, max_bytes).map(Some),
        None => Ok(None),
    }
}

fn field(content: &Arc<SecretBytes>) -> Field {
    let kind = if str::from_utf8(content.expose()).is_ok() { FieldKind::Text } else { FieldKind::Binary };
    Field { bytes: Arc::clone(content), kind }
}

/// An answer of a service, or a part of it.
///
/// # Errors
/// It is not an answer of that service.
pub(super) fn read<'b, T: Deserialize<'b>>(service: Service, body: &'b SecretBytes) -> Result<T, Refusal> {
    serde_json::from_slice(body.expose()).map_err(|_| unreadable(service))
}

pub(super) fn unreadable(service: Service) -> Refusal {
    let reason = format!(
        "the answer is not from {} (is the server AWS? check `endpoints` of the backend, and the proxies on the way)",
        service.name()
    );
    Refusal::new(Fault::Corrupt, reason)
}

/// A text of AWS's answer.
///
/// # Errors
/// It has half a character in it.
pub(super) fn text(raw: &RawValue) -> Result<SecretBytes, Refusal> {
    let unfit = || Refusal::new(Fault::Corrupt, "AWS's answer has a text that is not valid (check the secret in AWS)");
    if has_half(raw.get()) {
        return Err(half("the secret"));
    }
    fields::text(raw).ok_or_else(unfit)
}
