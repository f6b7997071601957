//! Which bytes of a secret go into a file: all of it, a field, or what an expression finds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jmespath::{Rcvar, Variable};

use super::{Problem, json, too_large};
use crate::model::{Code, Encoding, Field, FieldKind, FieldName, FieldPattern, Query, QueryError, Secret, SecretBytes, clean, quoted};
use crate::nearest::nearest;

/// The most that an expression's values may reach, as a multiple of the largest file.
/// Small values cost many times their text in memory, so that there is little to give.
const WORKSPACE: u64 = 4;

/// How many of a secret's fields a message names.
const NAMED: usize = 10;

/// How many of a secret's fields are looked at for the nearest name, and how long a name may be for it: comparing is slow.
const COMPARED: usize = 200;
const COMPARED_LENGTH: usize = 64;

/// A lone field's bytes, else JSON of all fields.
pub(super) fn whole(secret: &Secret, encoding: Encoding, limit: usize) -> Result<Arc<SecretBytes>, Problem> {
    if let (1, Some(field)) = (secret.fields.len(), secret.fields.values().next()) {
        return super::encoding::decode(encoding, Arc::clone(&field.bytes));
    }
    if encoding != Encoding::Utf8 {
        let text = format!("`encoding` decodes one text, and the secret has {} (add `field`, or `fields` for a file each)", count(secret));
        return Err(Problem { code: Code::InvalidRequest, text });
    }
    json::of_secret(secret, limit)
}

/// What the store answered, as it is.
pub(super) fn response(secret: &Secret) -> Result<Arc<SecretBytes>, Problem> {
    secret.response.as_ref().map(Arc::clone).ok_or_else(|| {
        let text = "has no response to deliver as a whole: its backend gives fields alone (name a field)".to_owned();
        Problem { code: Code::InvalidRequest, text }
    })
}

/// The fields that a pattern matches, each once, by name.
pub(super) fn matching<'s>(secret: &'s Secret, patterns: &[FieldPattern]) -> impl Iterator<Item = (&'s FieldName, &'s Field)> {
    let literals: HashSet<&str> = patterns.iter().filter(|pattern| pattern.is_literal()).map(FieldPattern::as_str).collect();
    let globs: Vec<&FieldPattern> = patterns.iter().filter(|pattern| !pattern.is_literal()).collect();
    let is_wanted = move |name: &str| literals.contains(name) || globs.iter().any(|glob| glob.matches(name));
    let wanted: Vec<_> = secret.fields.iter().filter(|(name, _)| is_wanted(name.as_str())).collect();
    wanted.into_iter()
}

/// Secrets as the values that expressions search. The last one is kept: objects of one secret stand together, and all at once could be large.
pub(super) struct Documents {
    limit: usize,
    /// With its secret's place in the plan.
    last: Option<(usize, Document)>,
}

struct Document {
    value: Rcvar,
    /// Of the fields in it, in bytes.
    size: usize,
}

// === impl Documents ===

impl Documents {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, last: None }
    }

    /// What an expression finds: a text as it is, anything else as JSON.
    pub(super) fn search(&mut self, place: usize, secret: &Secret, query: &Query) -> Result<Arc<SecretBytes>, Problem> {
        if !query.is_expression() {
            return found(query.search(&Rcvar::new(Variable::Null)), secret, query, self.limit);
        }
        let document = match self.last.take() {
            Some((of, document)) if of == place => document,
            _ => Document::of(secret)?,
        };
        let document = &self.last.insert((place, document)).1;
        let workspace = query.growth().saturating_mul(document.size as u64);
        if workspace > WORKSPACE.saturating_mul(self.limit as u64) {
            let text =
                format!("the expression {} could need {workspace} bytes on this secret (write a simpler one)", quoted(query.as_str()));
            return Err(Problem { code: Code::TooLarge, text });
        }
        found(query.search(&document.value), secret, query, self.limit)
    }
}

fn found(result: Result<Option<Rcvar>, QueryError>, secret: &Secret, query: &Query, limit: usize) -> Result<Arc<SecretBytes>, Problem> {
    match result {
        Ok(Some(value)) => match value.as_string() {
            Some(text) if text.len() > limit => Err(too_large(text.len(), limit)),
            Some(text) => Ok(Arc::new(SecretBytes::new(text.as_bytes().to_vec()))),
            None => json::of_value(&value, limit),
        },
        Ok(None) => Err(absent(secret, query, "")),
        Err(error @ QueryError::Syntax(_)) => Err(absent(secret, query, &format!("; {error}"))),
        Err(error @ QueryError::Failed(_)) => {
            let text = format!(
                "has no field {}, and {error} (correct the expression, or name {})",
                quoted(query.as_str()),
                names(secret, query.as_str())
            );
            Err(Problem { code: Code::InvalidRequest, text })
        }
    }
}

// === impl Document ===

impl Document {
    /// The text fields: texts as strings, what is JSON parsed. Binary fields cannot be searched.
    ///
    /// The copies live as long as the rendering; what frees them wipes them (the allocator does).
    fn of(secret: &Secret) -> Result<Self, Problem> {
        let mut fields = BTreeMap::new();
        let mut size = 0;
        for (name, field) in &secret.fields {
            let Some(text) = json::text_of(field) else { continue };
            size += text.len() + name.as_str().len();
            let value = match field.kind {
                FieldKind::Json => Variable::from_json(text).map_err(|_| not_json(name))?,
                FieldKind::Binary | FieldKind::Text => Variable::String(text.to_owned()),
            };
            fields.insert(name.as_str().to_owned(), Rcvar::new(value));
        }
        Ok(Self { value: Rcvar::new(Variable::Object(fields)), size })
    }
}

fn not_json(name: &FieldName) -> Problem {
    let text = format!(
        "its field {} came as JSON and cannot be read as such (its nesting may be too deep, or a number too large)",
        quoted(name.as_str())
    );
    Problem { code: Code::SecretCorrupt, text }
}

// === absent fields ===

fn absent(secret: &Secret, query: &Query, why: &str) -> Problem {
    Problem { code: Code::SecretNotFound, text: no_field(secret, query.as_str(), why) }
}

/// Names what is there instead.
pub(super) fn no_field(secret: &Secret, wanted: &str, why: &str) -> String {
    match nearest(wanted, comparable(secret, wanted)) {
        Some(near) => format!("has no field {}{why} (did you mean {}? It has {})", quoted(wanted), quoted(near), names(secret, wanted)),
        None => format!("has no field {}{why} (it has {})", quoted(wanted), names(secret, wanted)),
    }
}

/// The fields' names, the nearest first.
fn names(secret: &Secret, wanted: &str) -> String {
    let near = nearest(wanted, comparable(secret, wanted));
    let others = secret.fields.keys().map(FieldName::as_str).filter(|name| Some(*name) != near);
    let shown: Vec<String> = near.into_iter().chain(others).take(NAMED).map(clean).collect();
    match secret.fields.len() {
        0 => "no fields at all".to_owned(),
        all if all > shown.len() => format!("{} and {} more", shown.join(", "), all - shown.len()),
        _ => shown.join(", "),
    }
}

fn comparable<'s>(secret: &'s Secret, wanted: &str) -> impl Iterator<Item = &'s str> {
    let compared = if wanted.len() > COMPARED_LENGTH { 0 } else { COMPARED };
    secret.fields.keys().take(compared).map(FieldName::as_str).filter(|name| name.len() <= COMPARED_LENGTH)
}

fn count(secret: &Secret) -> String {
    match secret.fields.len() {
        0 => "no fields".to_owned(),
        fields => format!("{fields} fields"),
    }
}
