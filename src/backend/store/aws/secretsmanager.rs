//! Secrets Manager: one secret per call, or twenty; and the names that it has.
//!
//! API version 2017-10-17. Unknown members are skipped. A missing member may also be `null`.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::content;
use super::endpoint::Service;
use super::pin::Pin;
use crate::backend::Fault;
use crate::backend::remote::fields;
use crate::backend::remote::refusal::Refusal;
use crate::model::SecretBytes;

/// The most secrets of a `BatchGetSecretValue`, and the most names on a page of `ListSecrets`.
pub(super) const BATCH: usize = 20;
const PAGE: usize = 100;

/// A secret or a parameter, as AWS answered it.
pub(super) struct Answered {
    pub(super) name: String,
    pub(super) arn: Option<String>,
    pub(super) version: String,
    pub(super) content: SecretBytes,
}

/// The error in a batch for one secret.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Unread {
    #[serde(default)]
    pub(super) secret_id: String,
    #[serde(default)]
    pub(super) error_code: String,
    #[serde(default)]
    pub(super) message: Option<String>,
}

/// A secret of a batch that cannot be read: its name, and its ARN.
pub(super) type Unfit = (String, Option<String>, Refusal);

/// An answer to `BatchGetSecretValue`: each may fail by itself.
pub(super) struct Batch {
    pub(super) read: Vec<Result<Answered, Unfit>>,
    pub(super) unread: Vec<Unread>,
}

/// A page of names.
pub(super) struct Page {
    pub(super) names: Vec<String>,
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Value<'a> {
    #[serde(rename = "ARN")]
    arn: Option<String>,
    name: Option<String>,
    version_id: Option<String>,
    #[serde(borrow)]
    secret_string: Option<&'a RawValue>,
    #[serde(borrow)]
    secret_binary: Option<&'a RawValue>,
}

// === GetSecretValue ===

pub(super) fn one(id: &str, pin: Option<&Pin>) -> String {
    let mut asked = json!({ "SecretId": id });
    if let Some(Pin::Version { id, stage }) = pin {
        for (key, part) in [("VersionId", id), ("VersionStage", stage)] {
            if let Some(part) = part {
                asked[key] = json!(part);
            }
        }
    }
    asked.to_string()
}

/// # Errors
/// It is not an answer of Secrets Manager.
pub(super) fn read_one(body: &SecretBytes) -> Result<Answered, Refusal> {
    let value: Value<'_> = content::read(Service::SecretsManager, body)?;
    value.answered().map_err(|(_, _, refusal)| refusal)
}

// === BatchGetSecretValue ===

pub(super) fn several<'i>(ids: impl Iterator<Item = &'i str>) -> String {
    json!({ "SecretIdList": ids.collect::<Vec<_>>() }).to_string()
}

/// # Errors
/// It is not an answer of Secrets Manager.
pub(super) fn read_several(body: &SecretBytes) -> Result<Batch, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Several<'a> {
        #[serde(borrow)]
        secret_values: Option<Vec<Value<'a>>>,
        errors: Option<Vec<Unread>>,
    }
    let several: Several<'_> = content::read(Service::SecretsManager, body)?;
    let read = several.secret_values.unwrap_or_default().into_iter().map(Value::answered).collect();
    Ok(Batch { read, unread: several.errors.unwrap_or_default() })
}

// === ListSecrets ===

/// Names that begin with this text, without those that will be deleted.
pub(super) fn list(beginning: &str, next: Option<&str>) -> String {
    let mut asked = json!({ "MaxResults": PAGE, "SortBy": "name", "SortOrder": "asc" });
    if !beginning.is_empty() {
        asked["Filters"] = json!([{ "Key": "name", "Values": [beginning] }]);
    }
    if let Some(next) = next {
        asked["NextToken"] = json!(next);
    }
    asked.to_string()
}

/// # Errors
/// It is not an answer of Secrets Manager.
pub(super) fn read_list(body: &SecretBytes) -> Result<Page, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listed {
        secret_list: Option<Vec<Entry>>,
        next_token: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        name: Option<String>,
        deleted_date: Option<f64>,
    }
    let listed: Listed = content::read(Service::SecretsManager, body)?;
    let entries = listed.secret_list.unwrap_or_default().into_iter();
    let names = entries.filter(|entry| entry.deleted_date.is_none()).filter_map(|entry| entry.name);
    Ok(Page { names: names.collect(), next: listed.next_token })
}

// === impl Value ===

impl Value<'_> {
    fn answered(self) -> Result<Answered, (String, Option<String>, Refusal)> {
        let name = self.name.clone().unwrap_or_default();
        match self.content() {
            Ok(content) => Ok(Answered { name, arn: self.arn, version: self.version_id.unwrap_or_default(), content }),
            Err(refusal) => Err((name, self.arn, refusal)),
        }
    }

    fn content(&self) -> Result<SecretBytes, Refusal> {
        match (self.secret_string, self.secret_binary) {
            (Some(text), _) => content::text(text),
            (None, Some(binary)) => {
                let encoded = fields::text(binary).ok_or_else(unreadable)?;
                // With enough room, so that the buffer does not grow.
                let mut bytes = Zeroizing::new(vec![0; BASE64.decode_len(encoded.len()).map_err(|_| unreadable())?]);
                let length = BASE64.decode_mut(encoded.expose(), &mut bytes).map_err(|_| unreadable())?;
                bytes.truncate(length);
                Ok(SecretBytes::from(bytes))
            }
            (None, None) if self.name.is_none() => Err(unreadable()),
            (None, None) => {
                Err(Refusal::new(Fault::NotFound, "the secret has no value yet (put one into it: aws secretsmanager put-secret-value)"))
            }
        }
    }
}

fn unreadable() -> Refusal {
    content::unreadable(Service::SecretsManager)
}
