//! Parameter Store: up to ten parameters per call, and the names that it has.
//!
//! API version 2014-11-06. A version or a label follows the name. If the role may not read one of the names, the whole call fails.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::content;
use super::endpoint::Service;
use super::pin::Pin;
use super::secretsmanager::{Answered, Page};
use crate::backend::Fault;
use crate::backend::remote::refusal::Refusal;
use crate::model::SecretBytes;

/// The most parameters of a `GetParameters`, and the most names on a page of `DescribeParameters`.
pub(super) const BATCH: usize = 10;
const PAGE: usize = 50;

/// An answer to `GetParameters`.
pub(super) struct Several {
    pub(super) read: Vec<(Answered, Option<String>)>,
    /// As they were sent.
    pub(super) invalid: Vec<String>,
}

/// The name as it is sent, with its pinned version.
pub(super) fn selected(id: &str, pin: Option<&Pin>) -> String {
    match pin {
        Some(Pin::Selector(selector)) => format!("{id}:{selector}"),
        Some(Pin::Version { .. }) | None => id.to_owned(),
    }
}

pub(super) fn several<'i>(names: impl Iterator<Item = &'i str>) -> String {
    json!({ "Names": names.collect::<Vec<_>>(), "WithDecryption": true }).to_string()
}

/// # Errors
/// It is not an answer of Parameter Store, or a value has half a character in it.
pub(super) fn read(body: &SecretBytes) -> Result<Several, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        #[serde(borrow)]
        parameters: Option<Vec<Parameter<'a>>>,
        invalid_parameters: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Parameter<'a> {
        name: Option<String>,
        #[serde(rename = "ARN")]
        arn: Option<String>,
        #[serde(borrow)]
        value: Option<&'a RawValue>,
        version: Option<u64>,
        selector: Option<String>,
    }
    let answer: Answer<'_> = content::read(Service::Parameters, body)?;
    let read = answer.parameters.unwrap_or_default().into_iter().map(|parameter| {
        let Parameter { name, arn, value, version, selector } = parameter;
        let content = content::text(value.ok_or_else(unreadable)?)?;
        let version = version.map(|version| version.to_string()).unwrap_or_default();
        Ok((Answered { name: name.unwrap_or_default(), arn, version, content }, selector))
    });
    Ok(Several { read: read.collect::<Result<_, Refusal>>()?, invalid: answer.invalid_parameters.unwrap_or_default() })
}

/// Names below a path, which is empty or has a `/` at its end.
pub(super) fn list(path: &str, next: Option<&str>) -> String {
    let mut asked = json!({ "MaxResults": PAGE });
    if let Some(path) = path.strip_suffix('/') {
        asked["ParameterFilters"] = json!([{ "Key": "Path", "Option": "Recursive", "Values": [format!("/{path}")] }]);
    }
    if let Some(next) = next {
        asked["NextToken"] = json!(next);
    }
    asked.to_string()
}

/// Without the `/` that names with several elements begin with.
///
/// # Errors
/// It is not an answer of Parameter Store.
pub(super) fn read_list(body: &SecretBytes) -> Result<Page, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listed {
        parameters: Option<Vec<Entry>>,
        next_token: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        name: Option<String>,
    }
    let listed: Listed = content::read(Service::Parameters, body)?;
    let names = listed.parameters.unwrap_or_default().into_iter().filter_map(|entry| entry.name);
    let names = names.map(|name| name.strip_prefix('/').map_or(name.clone(), str::to_owned));
    Ok(Page { names: names.collect(), next: listed.next_token })
}

/// The refusal if the answer does not have the parameter.
pub(super) fn absent() -> Refusal {
    let reason = "Parameter Store has no such parameter, version or label (check the name, its version and the backend's region)";
    Refusal::new(Fault::NotFound, reason)
}

fn unreadable() -> Refusal {
    content::unreadable(Service::Parameters)
}
