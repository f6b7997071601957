//! What an answer holds: its fields and its version.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::HeaderMap;
use http::header::HeaderName;
use jmespath::{Rcvar, Variable};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::exact::{MAX_VALUES, Mark, Unsearchable};
use super::version::is_version;
use crate::backend::Fault;
use crate::backend::remote::fields::{self, Members};
use crate::backend::remote::refusal::Refusal;
use crate::model::{Field, FieldName, Query, QueryError, Secret, SecretBytes, Version, clean, quoted};
use crate::steps::{Spent, Steps};
use crate::text::{self, NotText};

/// The field of a secret that has no fields of its own.
const LONE_FIELD: &str = "value";

/// The most values that an expression may make of an answer, by its estimated cost.
const MAX_MADE: u64 = 10 * MAX_VALUES as u64;

/// How the body of an answer is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Json {
        /// Where the fields are; `None`: the document itself.
        fields: Option<Expression>,
        version: Option<VersionIn>,
    },
    /// The body is the secret.
    Raw { version: Option<VersionIn> },
}

/// Where an answer says its version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum VersionIn {
    Body(Expression),
    Header(HeaderName),
}

/// A member's name, or a JMESPath expression.
#[derive(Clone, Debug)]
pub(super) struct Expression(Query);

/// A body that is not as it should be.
fn corrupt(reason: impl Into<String>) -> Refusal {
    Refusal::new(Fault::Corrupt, reason)
}

// === impl Format ===

impl Format {
    pub(super) fn is_json(&self) -> bool {
        matches!(self, Self::Json { .. })
    }

    /// # Errors
    /// The answer has no secret, or not where the configuration says, or the secret is too large.
    pub(super) fn secret(&self, headers: &HeaderMap, body: &SecretBytes, max_bytes: usize, steps: &Steps) -> Result<Secret, Refusal> {
        if body.expose().trim_ascii().is_empty() {
            return Err(Refusal::new(Fault::NotFound, "the store's answer is empty (write the secret, or correct `url` of the backend)"));
        }
        let (fields, version) = match self {
            Self::Raw { version } => {
                fields::check_size(body.len(), max_bytes)?;
                let field = Field::of_bytes(SecretBytes::new(body.expose().to_vec()));
                (BTreeMap::from([(FieldName::new(LONE_FIELD), field)]), version.as_ref().map(|version| version.read(headers, None, steps)))
            }
            Self::Json { fields, version } => {
                Refusal::of_charset(headers)?;
                let json = text::without_mark(body.expose()).map_err(|fault| foreign(&fault))?;
                let document: &RawValue = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
                let found = self::fields(fields.as_ref(), document, max_bytes, steps)?;
                (found, version.as_ref().map(|version| version.read(headers, Some(document), steps)))
            }
        };
        // The rest of the body may change at each call, and is not a part of the secret: it is not kept as the response.
        Ok(Secret { fields, response: None, version: version.transpose()?.flatten(), lease: None })
    }
}

fn foreign(fault: &NotText) -> Refusal {
    corrupt(format!(
        "the answer is {}, but JSON must be UTF-8 (correct that in the store; `format: raw` delivers any body as it is)",
        fault.encoding()
    ))
}

fn not_json(error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    let remedy = "is `url` of the backend the address of the API? `format: raw` delivers any body as it is";
    corrupt(format!("the answer is not JSON: it is wrong at line {line}, column {column} ({remedy})"))
}

fn fields(at: Option<&Expression>, document: &RawValue, max_bytes: usize, steps: &Steps) -> Result<BTreeMap<FieldName, Field>, Refusal> {
    let Some(at) = at else { return fields_of(document, max_bytes) };
    let Some(found) = at.find(document, "fields", steps)? else {
        let reason = format!(
            "the answer has nothing at {} (does the secret exist? if it does, correct `fields` of the backend)",
            quoted(at.as_str())
        );
        return Err(Refusal::new(Fault::NotFound, reason));
    };
    let found: &RawValue = serde_json::from_str(&found).map_err(|error| not_json(&error))?;
    fields_of(found, max_bytes)
}

/// The members of an object; anything else is a secret of one field.
fn fields_of(value: &RawValue, max_bytes: usize) -> Result<BTreeMap<FieldName, Field>, Refusal> {
    if let Some(members) = fields::members(value)? {
        return fields::fields(&members, max_bytes);
    }
    if value.get() == "null" {
        return Err(Refusal::new(Fault::NotFound, "the answer is null (write the secret, or correct the name)"));
    }
    fields::fields(&Members::from([(LONE_FIELD.to_owned(), value)]), max_bytes)
}

// === impl VersionIn ===

impl VersionIn {
    /// `None`: the answer has no version.
    fn read(&self, headers: &HeaderMap, document: Option<&RawValue>, steps: &Steps) -> Result<Option<Version>, Refusal> {
        let (text, at) = match (self, document) {
            (Self::Header(name), _) => {
                (headers.get(name).and_then(|value| value.to_str().ok()).map(|tag| entity_tag(tag).to_owned()), name.as_str())
            }
            (Self::Body(at), Some(document)) => (at.text(document, steps)?, at.as_str()),
            (Self::Body(_), None) => (None, ""),
        };
        let Some(text) = text else { return Ok(None) };
        if !is_version(&text) {
            let reason = format!(
                "what the answer has at {} is not a version: 1 to 256 bytes without control characters (correct the backend's configuration)",
                quoted(at)
            );
            return Err(corrupt(reason));
        }
        Ok(Some(Version::new(text)))
    }
}

/// Makes `"x"` and `W/"x"` into `x` (RFC 9110, section 8.8.3); leaves anything else as it is.
fn entity_tag(text: &str) -> &str {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

// === impl Expression ===

impl Expression {
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// What it finds, as JSON; `None`: nothing. `key` is its key in the configuration.
    fn find(&self, document: &RawValue, key: &str, steps: &Steps) -> Result<Option<Zeroizing<String>>, Refusal> {
        if !self.0.is_expression() {
            let member = fields::member(document, self.as_str())?;
            return Ok(member.map(RawValue::get).filter(|json| *json != "null").map(|json| Zeroizing::new(json.to_owned())));
        }
        let too_large = |reason: String| Refusal::new(Fault::TooLarge, reason);
        let too_much = |spent: Spent| too_large(format!("the answer {spent} to be searched (split the secret)"));
        let mark = Mark::of(document.get());
        let read = mark.read(document, steps).map_err(|error| match error {
            Unsearchable::Half => fields::half("the answer"),
            Unsearchable::Spent(spent) => too_much(spent),
            Unsearchable::TooDeep => corrupt("the answer is nested too deep to be searched (more than 64 levels)"),
            Unsearchable::TooMany => {
                too_large(format!("the answer has more than {MAX_VALUES} values, which are too many to be searched (split the secret)"))
            }
        })?;
        let (bytes, values) = (document.get().len() as u64, read.values as u64);
        if self.0.values().saturating_mul(values) > MAX_MADE {
            let reason =
                format!("{key} {}: could make more than {MAX_MADE} values of the answer (write a simpler one)", quoted(self.as_str()));
            return Err(too_large(reason));
        }
        steps.charge(self.0.steps(bytes, values)).map_err(too_much)?;
        if let Some(missing) = self.0.missing(&read.value) {
            let (expression, path) = (quoted(self.as_str()), clean(&missing.path));
            let near = missing.near(steps).map_or_else(String::new, |near| format!("did you mean {}? ", quoted(&near)));
            let remedy = format!("{near}correct the backend's `{key}`; if it may be absent, write {path} || `\"\"`");
            return Err(Refusal::new(Fault::NotFound, format!("{key} {expression}: its member {path} finds nothing ({remedy})")));
        }
        let found = self.0.search(&read.value);
        let found = found.map_err(|error| corrupt(format!("{key} {}: {error} (correct it in the backend)", quoted(self.as_str()))))?;
        Ok(found.map(|value| mark.write(&value)))
    }

    /// A text or a number.
    fn text(&self, document: &RawValue, steps: &Steps) -> Result<Option<String>, Refusal> {
        let Some(found) = self.find(document, "version", steps)? else { return Ok(None) };
        match found.as_bytes().first() {
            Some(b'"') => serde_json::from_str(&found).map(Some).map_err(|_| fields::half("the version")),
            Some(b'-' | b'0'..=b'9') => Ok(Some(found.to_string())),
            _ => {
                let reason = format!(
                    "what the answer has at {} is neither a text nor a number (correct `version` of the backend)",
                    quoted(self.as_str())
                );
                Err(corrupt(reason))
            }
        }
    }
}

impl FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let query: Query = text.parse().map_err(|error: crate::model::InvalidQuery| error.to_string())?;
        match query.search(&Rcvar::new(Variable::Null)) {
            Err(error @ QueryError::Syntax(_)) => {
                Err(format!("{error} (a member needs double quotes if its name has other characters than letters, digits and `_`)"))
            }
            Ok(_) | Err(QueryError::Failed(_)) => Ok(Self(query)),
        }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Expression {}
