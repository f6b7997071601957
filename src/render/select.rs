//! Which bytes of a secret go into a file: all of it, a field, or what an expression finds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jmespath::{Rcvar, Variable};
use serde_json::value::RawValue;

use super::{LOOK, Problem, RenderLimits, WRITTEN, json, too_large};
use crate::glob::Glob;
use crate::model::{
    Code, Encoding, Field, FieldKind, FieldName, FieldPattern, Object, Plan, Query, QueryError, Response, Secret, SecretBytes, Select,
    clean, quoted,
};
use crate::nearest::nearest;
use crate::steps::{Spent, Steps};

/// The most that an expression's values may take, as a multiple of the largest file. Small values need many times their text in memory, so
/// the limit is low.
pub(super) const WORKSPACE: usize = 4;

/// The memory that a value takes besides its text, in bytes.
pub(super) const VALUE: usize = 100;

/// The most memory for the values that an expression makes, as a multiple of the largest file.
const MADE: usize = 16;

/// The longest number that the library writes, in bytes: 17 digits, a sign, a dot and an exponent.
const MAX_NUMBER: usize = 32;

/// How many of a secret's fields a message names.
const NAMED: usize = 10;

/// How many of a secret's fields are compared to find the most similar name, and how long a name may be for that: comparing is slow.
const COMPARED: usize = 200;
const COMPARED_LENGTH: usize = 64;

/// Finds a field as vault-csi-provider finds a `secretKey`: in a map called `data` if the secret has one, else outside of it. KV v2's
/// answers have lost that map already, and a user's own field `data` is not that map. Such an answer has a version, and no other answer of
/// those stores has one.
pub(super) fn key(secret: &Secret, key: &str, steps: &Steps) -> Result<Option<Field>, Spent> {
    let outer = secret.fields.get("data").filter(|field| secret.version.is_none() && field.kind == FieldKind::Json);
    let inner = match outer.and_then(json::text_of) {
        Some(text) => {
            steps.charge(WRITTEN * text.len() as u64 + LOOK * json::values(text) as u64)?;
            json::member(text, key)
        }
        None => None,
    };
    Ok(inner.or_else(|| secret.fields.get(key).cloned()))
}

/// The stored bytes, if the store gave them; else the bytes of the only field; else JSON of all fields.
pub(super) fn whole(secret: &Secret, encoding: Encoding, limit: usize) -> Result<Arc<SecretBytes>, Problem> {
    let lone = || if secret.fields.len() == 1 { secret.fields.values().next().map(|field| &field.bytes) } else { None };
    if let Some(bytes) = stored(secret).or_else(lone) {
        // Only the native format has whole secrets.
        return super::encoding::decode(encoding, Arc::clone(bytes), true);
    }
    if encoding != Encoding::Utf8 {
        let text =
            format!("`encoding` decodes one text, and the secret has {} (add `field`, or `fields` for one file per field)", count(secret));
        return Err(Problem { code: Code::InvalidRequest, text });
    }
    json::of_secret(secret, limit)
}

pub(super) fn stored(secret: &Secret) -> Option<&Arc<SecretBytes>> {
    match &secret.response {
        Some(Response::Stored(bytes)) => Some(bytes),
        Some(Response::Answer(_)) | None => None,
    }
}

/// The store's whole answer.
pub(super) fn response(secret: &Secret) -> Result<Arc<SecretBytes>, Problem> {
    secret.response.as_ref().map(|response| Arc::clone(response.bytes())).ok_or_else(|| {
        let text = "has no response to deliver as a whole: its backend gives only fields (name a field)".to_owned();
        Problem { code: Code::InvalidRequest, text }
    })
}

/// A number as the answer writes it, if a plain path finds it. An expression has only 64 bits for a number: it makes 1.1 of 1.10, and
/// 1000.0 of 1e3.
pub(super) fn to_the_digit(
    response: &SecretBytes,
    query: &Query,
    found: Arc<SecretBytes>,
    steps: &Steps,
) -> Result<Arc<SecretBytes>, Spent> {
    let is_fraction = |text: &[u8]| {
        let begins = text.first().is_some_and(|first| *first == b'-' || first.is_ascii_digit());
        begins && text.len() <= MAX_NUMBER && text.iter().any(|byte| matches!(byte, b'.' | b'e'))
    };
    let Some(text) = str::from_utf8(response.expose()).ok().filter(|_| is_fraction(found.expose())) else { return Ok(found) };
    // Each name of the path reads what the one before it has found.
    let times = 2 + query.as_str().matches(['.', '[']).count() as u64;
    steps.charge(times * (WRITTEN * text.len() as u64 + LOOK * json::values(text) as u64))?;
    let written = serde_json::from_str::<&RawValue>(text).ok().and_then(|document| query.written(document));
    // A text may look like a number.
    let number = written.map(RawValue::get).filter(|written| !written.starts_with('"'));
    Ok(number.map_or(found, |number| Arc::new(SecretBytes::new(number.as_bytes().to_vec()))))
}

/// The fields of a secret that patterns match.
pub(super) struct Matched<'s, 'p> {
    /// Each field once, by name; and whether a pattern without `*` names it.
    pub fields: Vec<(&'s FieldName, &'s Field, bool)>,
    /// In the order of the class.
    pub unmatched: Vec<&'p FieldPattern>,
}

/// Looks at each field once, with any number of patterns. If no pattern has a `*`, it looks only at the fields that they name.
pub(super) fn matching<'s, 'p>(secret: &'s Secret, patterns: &'p [FieldPattern], steps: &Steps) -> Result<Matched<'s, 'p>, Spent> {
    let mut tried: Vec<(Option<Glob<'_>>, bool)> = Vec::with_capacity(patterns.len());
    let mut named = BTreeMap::new();
    for pattern in patterns {
        steps.charge(LOOK + pattern.as_str().len() as u64)?;
        let field = if pattern.is_literal() { secret.fields.get_key_value(pattern.as_str()) } else { None };
        named.extend(field);
        tried.push(((!pattern.is_literal()).then(|| Glob::new(pattern.as_str())), field.is_some()));
    }
    let fields = if tried.iter().any(|(glob, _)| glob.is_some()) {
        let mut fields = Vec::new();
        for (name, field) in &secret.fields {
            let is_named = named.contains_key(name);
            let (mut is_wanted, mut looked) = (is_named, LOOK);
            for (glob, has_matched) in &mut tried {
                let Some(glob) = glob.filter(|_| !(is_wanted && *has_matched)) else { continue };
                let matches = glob.matches(name.as_str(), &mut looked);
                (is_wanted, *has_matched) = (is_wanted || matches, *has_matched || matches);
            }
            steps.charge(looked)?;
            fields.extend(is_wanted.then_some((name, field, is_named)));
        }
        fields
    } else {
        named.into_iter().map(|(name, field)| (name, field, true)).collect()
    };
    let unmatched = patterns.iter().zip(tried).filter(|(_, (_, has_matched))| !has_matched).map(|(pattern, _)| pattern).collect();
    Ok(Matched { fields, unmatched })
}

/// What the expressions of a plan find. Those of one secret are searched together, when the first of them is needed. So each secret becomes
/// a document once, and there is never more than one document.
pub(super) struct Expressions<'p> {
    limits: RenderLimits,
    /// By the secret's place in the plan: the expressions that were not searched yet, in the order of the plan.
    waiting: HashMap<usize, Vec<(usize, &'p Query)>>,
    /// By the object's index: what was found early.
    found: HashMap<usize, Found>,
    /// Bytes of what was found early.
    ahead: usize,
}

/// What an expression finds: a text stays as it is, anything else is JSON.
pub(super) type Found = Result<Arc<SecretBytes>, Unfound>;

/// Why nothing was found.
pub(super) enum Unfound {
    /// There is no such field. It has the reason why the text is not an expression either.
    Absent(Option<QueryError>),
    Failed(QueryError),
    /// A member of a multiselect is absent: its path, and the name that the author probably meant.
    Member {
        path: String,
        near: Option<String>,
    },
    Problem(Problem),
}

/// A secret as the value that expressions search.
pub(super) struct Document {
    value: Rcvar,
    /// The bytes of its fields.
    size: usize,
    values: usize,
}

// === impl Expressions ===

impl<'p> Expressions<'p> {
    pub(super) fn of(plan: &'p Plan, limits: RenderLimits) -> Self {
        let mut waiting: HashMap<_, Vec<_>> = HashMap::new();
        for object in &plan.objects {
            // A parsed secret needs its own document.
            if let Select::Field { query, .. } = &object.select
                && query.is_expression()
                && object.parse.is_none()
            {
                waiting.entry(object.secret).or_default().push((object.index, query));
            }
        }
        Self { limits, waiting, found: HashMap::new(), ahead: 0 }
    }

    /// What an object's expression finds, if no field of the secret has the expression as its name.
    pub(super) fn search(&mut self, object: &Object, secret: &Secret, query: &Query, steps: &Steps) -> Result<Found, Spent> {
        if let Some(found) = self.found.remove(&object.index) {
            self.ahead -= length(&found);
            return Ok(found);
        }
        let document = Document::of(secret, self.limits.secret_bytes, steps)?;
        let search = |query: &Query| match &document {
            Ok(document) => document.search(query, self.limits.secret_bytes, steps),
            Err(problem) => Ok(Err(Unfound::Problem(problem.clone()))),
        };
        let own = search(query)?;
        if object.parse.is_some() {
            return Ok(own);
        }
        // What is found early may be at most as large as what may be delivered.
        let mut waiting = self.waiting.remove(&object.secret).unwrap_or_default().into_iter();
        while self.ahead <= self.limits.mount_bytes {
            let Some((index, query)) = waiting.next() else { break };
            if index > object.index && !secret.fields.contains_key(query.as_str()) {
                let found = search(query)?;
                self.ahead += length(&found);
                self.found.insert(index, found);
            }
        }
        self.waiting.insert(object.secret, waiting.collect());
        Ok(own)
    }
}

fn length(found: &Found) -> usize {
    found.as_ref().map_or(0, |bytes| bytes.len())
}

/// The fault of a text that is not an expression, and not the name of a field either.
pub(super) fn without_document(query: &Query) -> Unfound {
    Unfound::Absent(query.search(&Rcvar::new(Variable::Null)).err())
}

fn found(result: Result<Option<Rcvar>, QueryError>, limit: usize) -> Found {
    match result {
        Ok(Some(value)) => match value.as_string() {
            Some(text) if text.len() > limit => Err(Unfound::Problem(too_large(text.len(), limit))),
            Some(text) => Ok(Arc::new(SecretBytes::new(text.as_bytes().to_vec()))),
            None => json::of_value(&value, limit).map_err(Unfound::Problem),
        },
        Ok(None) => Err(Unfound::Absent(None)),
        Err(error @ QueryError::Syntax(_)) => Err(Unfound::Absent(Some(error))),
        Err(error @ QueryError::Failed(_)) => Err(Unfound::Failed(error)),
    }
}

// === impl Document ===

impl Document {
    /// The text fields: texts as strings, and JSON parsed. Binary fields cannot be searched. JSON values need many times their text in
    /// memory, so they are counted before any is made.
    ///
    /// The copies live as long as the search. The allocator wipes them when they are freed.
    fn of(secret: &Secret, limit: usize, steps: &Steps) -> Result<Result<Self, Problem>, Spent> {
        let texts = || secret.fields.iter().filter_map(|(name, field)| Some((name, field, json::text_of(field)?)));
        let size = texts().map(|(name, _, text)| text.len() + name.as_str().len()).sum();
        let values = texts().map(|(_, field, text)| if field.kind == FieldKind::Json { json::values(text) } else { 1 }).sum::<usize>() + 1;
        steps.charge(WRITTEN * size as u64 + LOOK * (secret.fields.len() + values) as u64)?;
        if values * VALUE > WORKSPACE * limit {
            let (made, most) = (secret.fields.len(), WORKSPACE * limit / VALUE);
            let text = format!(
                "its {made} fields hold {values} JSON values: an expression searches at most {most} on this node (name a field to deliver it as \
                 it is, split the secret, or ask for a higher limits.secretBytes)"
            );
            return Ok(Err(Problem { code: Code::TooLarge, text }));
        }
        let mut fields = BTreeMap::new();
        for (name, field, text) in texts() {
            let value = match field.kind {
                FieldKind::Json => match Variable::from_json(text) {
                    Ok(value) => value,
                    Err(_) => return Ok(Err(not_json(name))),
                },
                FieldKind::Binary | FieldKind::Text => Variable::String(text.to_owned()),
            };
            fields.insert(name.as_str().to_owned(), Rcvar::new(value));
        }
        Ok(Ok(Self { value: Rcvar::new(Variable::Object(fields)), size, values }))
    }

    /// A store's whole answer as one JSON document.
    pub(super) fn of_response(response: &SecretBytes, limit: usize, steps: &Steps) -> Result<Result<Self, Problem>, Spent> {
        const REMEDY: &str = "store JSON, or remove `jmesPath`";
        let corrupt = |problem: String| Problem { code: Code::SecretCorrupt, text: problem };
        let Ok(text) = str::from_utf8(response.expose()) else {
            return Ok(Err(corrupt(format!("is binary, and an expression searches JSON ({REMEDY})"))));
        };
        let (size, values) = (text.len(), json::values(text));
        steps.charge(WRITTEN * size as u64 + LOOK * values as u64)?;
        if values * VALUE > WORKSPACE * limit {
            let most = WORKSPACE * limit / VALUE;
            let text = format!(
                "has {values} JSON values: an expression searches at most {most} on this node (split the secret, or ask for a higher \
                 limits.secretBytes)"
            );
            return Ok(Err(Problem { code: Code::TooLarge, text }));
        }
        // The parser's words are left out: they may quote the text.
        let value = Variable::from_json(text).map_err(|_| {
            let at = serde_json::from_str::<serde::de::IgnoredAny>(text).err();
            let at = at.map_or_else(String::new, |error| format!(": line {}, column {}", error.line(), error.column()));
            corrupt(format!("is not JSON, which an expression searches{at} ({REMEDY})"))
        });
        Ok(value.map(|value| Self { value: Rcvar::new(value), size, values }))
    }

    pub(super) fn search(&self, query: &Query, limit: usize, steps: &Steps) -> Result<Found, Spent> {
        let workspace = query.growth().saturating_mul(self.size as u64);
        let made = query.values().saturating_mul((self.values * VALUE) as u64);
        let over = |needed: u64, most: usize| Some(needed).filter(|needed| *needed > (most * limit) as u64);
        if let Some(needed) = over(workspace, WORKSPACE).or(over(made, MADE)) {
            let text = format!("the expression {} could need {needed} bytes on this secret (write a simpler one)", quoted(query.as_str()));
            return Ok(Err(Unfound::Problem(Problem { code: Code::TooLarge, text })));
        }
        steps.charge(query.steps(self.size as u64, self.values as u64))?;
        if let Some(missing) = query.missing(&self.value) {
            return Ok(Err(Unfound::Member { near: missing.near(steps), path: missing.path }));
        }
        let found = found(query.search(&self.value), limit);
        steps.charge(WRITTEN * length(&found) as u64)?;
        Ok(found)
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

/// Names the fields that the secret has, as long as there are steps for it; `None`: names nothing.
pub(super) fn no_field(secret: &Secret, wanted: &str, why: Option<&QueryError>, steps: Option<&Steps>) -> String {
    let why = why.map_or_else(String::new, |error| format!("; {error}"));
    let Some(steps) = steps else {
        return format!("has no field {}{why} (correct the name, or set `optional: true`)", quoted(wanted));
    };
    let near = near(secret, wanted, steps);
    let names = names(secret, near);
    match near {
        Some(near) => format!("has no field {}{why} (did you mean {}? It has {names})", quoted(wanted), quoted(near)),
        None => format!("has no field {}{why} (it has {names})", quoted(wanted)),
    }
}

/// The same for a member of a multiselect.
pub(super) fn no_member(secret: &Secret, query: &str, path: &str, near: Option<&str>, names_fields: bool) -> String {
    if secret.fields.get(path).is_some_and(|field| json::text_of(field).is_none()) {
        let path = quoted(path);
        return format!("the expression {}: its member {path} is binary, which JSON cannot hold (deliver it with `field`)", quoted(query));
    }
    let hint = match near {
        Some(near) => format!("did you mean {}? If", quoted(near)),
        None if names_fields => format!("the secret has {}; if", names(secret, None)),
        None => "if".to_owned(),
    };
    let path = clean(path);
    format!("the expression {}: its member {path} finds nothing ({hint} it may be absent, write {path} || `\"\"`)", quoted(query))
}

/// A field that is present and has no value.
pub(super) fn null(name: &FieldName) -> String {
    format!("its field {} is null in the store (give it a value, or set `optional: true`)", quoted(name.as_str()))
}

/// The same for an expression that fails.
pub(super) fn failed(secret: &Secret, query: &Query, error: &QueryError, steps: Option<&Steps>) -> Problem {
    let remedy = match steps {
        Some(steps) => format!("correct the expression, or name {}", names(secret, near(secret, query.as_str(), steps))),
        None => "correct the expression".to_owned(),
    };
    let text = format!("has no field {}, and {error} ({remedy})", quoted(query.as_str()));
    Problem { code: Code::InvalidRequest, text }
}

/// The fields' names, first the most similar.
fn names(secret: &Secret, near: Option<&str>) -> String {
    let others = secret.fields.keys().map(FieldName::as_str).filter(|name| Some(*name) != near);
    let shown: Vec<String> = near.into_iter().chain(others).take(NAMED).map(quoted).collect();
    match secret.fields.len() {
        0 => "no fields at all".to_owned(),
        all if all > shown.len() => format!("{} and {} more", shown.join(", "), all - shown.len()),
        _ => shown.join(", "),
    }
}

fn near<'s>(secret: &'s Secret, wanted: &str, steps: &Steps) -> Option<&'s str> {
    // Each letter of one name is compared with each letter of the other.
    let compared = comparable(secret, wanted).map(|name| (name.len() * wanted.len()) as u64 + LOOK).sum();
    steps.charge(compared).ok()?;
    nearest(wanted, comparable(secret, wanted))
}

fn comparable<'s>(secret: &'s Secret, wanted: &str) -> impl Iterator<Item = &'s str> {
    let compared = if wanted.len() > COMPARED_LENGTH { 0 } else { COMPARED };
    secret.fields.keys().take(compared).map(FieldName::as_str).filter(|name| (1..=COMPARED_LENGTH).contains(&name.len()))
}

pub(super) fn count(secret: &Secret) -> String {
    match secret.fields.len() {
        0 => "no fields".to_owned(),
        fields => format!("{fields} fields"),
    }
}
