//! A text with JSON: its members become the secret's fields. Most stores have JSON in one text.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::select::{self, VALUE, WORKSPACE};
use super::{LOOK, Problem, RenderLimits, WRITTEN, json};
use crate::formats::check_json;
use crate::model::{Code, Field, FieldKind, FieldName, Parse, Secret, quoted};
use crate::steps::{Spent, Steps};

/// The most fields of a secret, as in a store's answer.
const MAX_FIELDS: usize = 4096;

/// Why there are no such fields.
pub(super) enum Unparsed {
    /// The text is absent, and may be.
    Absent {
        field: String,
        text: String,
    },
    Problem(Problem),
}

/// A secret with the members of one of its texts as fields.
pub(super) fn parsed(secret: &Secret, parse: &Parse, limits: RenderLimits, steps: &Steps) -> Result<Result<Secret, Unparsed>, Spent> {
    let (name, field) = match found(secret, parse, steps) {
        Ok(found) => found,
        Err(unparsed) => return Ok(Err(unparsed)),
    };
    let Some(text) = json::text_of(field) else { return Ok(Err(corrupt(name, "is binary, and so not JSON (store the JSON as a text)"))) };
    let values = json::values(text);
    steps.charge(LOOK + 3 * WRITTEN * text.len() as u64 + LOOK * values as u64)?;
    let most = WORKSPACE * limits.secret_bytes / VALUE;
    if values > most {
        let problem = format!(
            "has {values} JSON values: at most {most} are parsed on this node (split the secret, or ask for a higher limits.secretBytes)"
        );
        return Ok(Err(unparsed(name, Code::TooLarge, &problem)));
    }
    Ok(fields(name, text).map(|fields| Secret { fields, response: None, version: secret.version.clone(), lease: None }))
}

fn found<'s>(secret: &'s Secret, parse: &Parse, steps: &Steps) -> Result<(&'s FieldName, &'s Field), Unparsed> {
    let found = match parse {
        Parse::Field(name) => secret.fields.get_key_value(name.as_str()).ok_or_else(|| {
            let text = select::no_field(secret, name.as_str(), None, Some(steps));
            Unparsed::Absent { field: name.as_str().to_owned(), text }
        })?,
        Parse::Lone => match secret.fields.first_key_value() {
            Some(lone) if secret.fields.len() == 1 => lone,
            Some(_) | None => {
                let text = format!(
                    "`parse: json` reads the only field of a secret, and it has {} (write `parse: {{ field: NAME, as: json }}`)",
                    select::count(secret)
                );
                return Err(Unparsed::Problem(Problem { code: Code::InvalidRequest, text }));
            }
        },
        // Keystores are opened, not parsed: see `keystore`.
        Parse::Pkcs12 { .. } => return Err(Unparsed::Problem(Problem { code: Code::Internal, text: "is a keystore".to_owned() })),
    };
    if found.1.is_null() {
        return Err(Unparsed::Absent { field: found.0.as_str().to_owned(), text: select::null(found.0) });
    }
    Ok(found)
}

/// If a name is there twice, the last one counts, as in Go.
fn fields(name: &FieldName, text: &str) -> Result<BTreeMap<FieldName, Field>, Unparsed> {
    let members: BTreeMap<String, &RawValue> = match serde_json::from_str(text) {
        Ok(members) => members,
        Err(error) if error.is_data() && !text.trim_start().starts_with('{') => {
            return Err(corrupt(name, "is JSON, but not an object, whose members could be fields (store an object, or leave `parse` out)"));
        }
        // The parser's words are left out: they may quote the text.
        Err(error) => {
            let problem = format!("is not JSON: line {}, column {} (store it again, or leave `parse` out)", error.line(), error.column());
            return Err(corrupt(name, &problem));
        }
    };
    if members.len() > MAX_FIELDS {
        let problem = format!("has {} members: no secret may have more than {MAX_FIELDS} fields (split the secret)", members.len());
        return Err(unparsed(name, Code::TooLarge, &problem));
    }
    let mut fields = BTreeMap::new();
    for (member, value) in members {
        let field = json::field(value).filter(|field| field.kind != FieldKind::Json || check_json(value.get()).is_ok());
        let unsound = || {
            let problem =
                format!("has a member {} with half a character in it, or nested too deep (write the secret again)", quoted(&member));
            corrupt(name, &problem)
        };
        let field = field.ok_or_else(unsound)?;
        fields.insert(FieldName::new(&member), field);
    }
    Ok(fields)
}

fn corrupt(name: &FieldName, problem: &str) -> Unparsed {
    unparsed(name, Code::SecretCorrupt, problem)
}

fn unparsed(name: &FieldName, code: Code, problem: &str) -> Unparsed {
    Unparsed::Problem(Problem { code, text: format!("its field {} {problem}", quoted(name.as_str())) })
}
