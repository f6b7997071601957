//! One file with many fields of one secret or of several, in a form that an application reads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::{LOOK, Over, Problem, Renderer, WRITTEN, json, select, too_large};
use crate::formats::pem::{self, Bundle};
use crate::formats::{Format, Out, Unfit, Value};
use crate::model::{Code, Encoding, Field, FieldKind, FieldName, FieldPattern, FilePath, Object, Parse, Secret, SecretBytes, quoted};

/// The steps to read a byte of a certificate, and to compare it with 32 others.
pub(super) const CERTIFICATE: u64 = 64;

/// About how many bytes a file has around a value, besides its name.
const SIGNS: usize = 8;

/// A field of the file.
struct Chosen<'s> {
    /// Its secret, in the plan.
    place: usize,
    name: &'s FieldName,
    field: Field,
    /// The class names it.
    is_named: bool,
}

// === impl Renderer ===

impl<'p> Renderer<'p> {
    pub(super) fn formatted(
        &mut self,
        object: &'p Object,
        format: Format,
        patterns: &'p [FieldPattern],
        path: &FilePath,
        secrets: &[Option<&Secret>],
    ) -> Result<(), Over> {
        let Some((found, parsed)) = self.sources(object, secrets)? else { return Ok(()) };
        // Parsed fields replace the field that they were parsed from.
        let sources: Vec<_> =
            found.iter().zip(&parsed).filter_map(|((place, secret), parsed)| Some((*place, parsed.as_deref().or(*secret)?))).collect();
        let Some(parts) = self.chosen(object, patterns, &sources)? else { return Ok(()) };
        let bytes = |part: &Chosen<'_>| LOOK + 4 * WRITTEN * (part.name.as_str().len() + part.field.bytes.len()) as u64;
        self.steps.charge(parts.iter().map(bytes).sum())?;
        let limit = self.limits.secret_bytes;
        let contents = match format {
            Format::Pem(part) => {
                self.steps.charge(parts.iter().map(|part| CERTIFICATE * part.field.bytes.len() as u64).sum())?;
                of_blocks(&parts, part, limit)
            }
            Format::Dotenv(_) | Format::Json | Format::Properties(_) | Format::Toml | Format::Yaml => of_values(&parts, format, limit),
        };
        match contents {
            Ok(contents) => self.file(object, path.clone(), None, Ok(contents)),
            Err((place, problem)) => {
                self.fault_at(object, place.unwrap_or(object.secret), || problem);
                Ok(())
            }
        }
    }

    /// The secrets, each with its place (`None`: absent, and may be), and in the same order what was parsed of them. `None`: the object has
    /// no file, and a fault says why.
    #[allow(clippy::type_complexity)] // two lists side by side: the one borrows what the other does not
    pub(super) fn sources<'s>(
        &mut self,
        object: &'p Object,
        secrets: &[Option<&'s Secret>],
    ) -> Result<Option<(Vec<(usize, Option<&'s Secret>)>, Vec<Option<Arc<Secret>>>)>, Over> {
        let own = [(object.secret, false, object.parse.as_ref())];
        let all: Vec<(usize, bool, Option<&'p Parse>)> = match object.parts.as_slice() {
            [] => own.to_vec(),
            parts => parts.iter().map(|part| (part.secret, part.optional, part.parse.as_ref())).collect(),
        };
        let (mut found, mut parsed, mut is_whole) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()), true);
        for (place, optional, parse) in all {
            match (secrets[place], parse) {
                (None, _) if optional => {
                    self.skip_at(object, place, None);
                    found.push((place, None));
                    parsed.push(None);
                }
                (None, _) => {
                    self.absent_secret(object, place);
                    is_whole = false;
                }
                (Some(secret), None) => {
                    found.push((place, Some(secret)));
                    parsed.push(None);
                }
                (Some(secret), Some(parse)) => match self.parsed(object, place, secret, parse, secrets)? {
                    Some(of_text) => {
                        found.push((place, Some(secret)));
                        parsed.push(Some(of_text));
                    }
                    None => is_whole = false,
                },
            }
        }
        Ok(is_whole.then_some((found, parsed)))
    }

    /// The fields that go into the file, by name, each decoded. `None`: some fields cannot, and a fault says why.
    fn chosen<'s>(
        &mut self,
        object: &'p Object,
        patterns: &'p [FieldPattern],
        sources: &[(usize, &'s Secret)],
    ) -> Result<Option<Vec<Chosen<'s>>>, Over> {
        let mut parts: BTreeMap<&str, Chosen<'s>> = BTreeMap::new();
        let mut unmatched: Option<Vec<&FieldPattern>> = None;
        let mut is_whole = true;
        for &(place, secret) in sources {
            let fields = if patterns.is_empty() {
                secret.fields.iter().map(|(name, field)| (name, field, false)).collect()
            } else {
                let matched = select::matching(secret, patterns, self.steps)?;
                let is_in = |pattern: &&FieldPattern| matched.unmatched.iter().any(|other| std::ptr::eq(*other, *pattern));
                unmatched = Some(match unmatched {
                    Some(before) => before.into_iter().filter(is_in).collect(),
                    None => matched.unmatched.clone(),
                });
                matched.fields
            };
            self.steps.charge(LOOK * fields.len() as u64)?;
            for (name, field, is_named) in fields {
                if is_named && field.is_null() {
                    self.absent_at(object, place, Some(name.as_str()), || select::null(name));
                    is_whole = false;
                    continue;
                }
                let Some(field) = self.decoded(object, place, name, field)? else {
                    is_whole = false;
                    continue;
                };
                match parts.entry(name.as_str()) {
                    Entry::Vacant(free) => {
                        free.insert(Chosen { place, name, field, is_named });
                    }
                    Entry::Occupied(taken) => {
                        let (plan, other) = (self.plan, taken.get().place);
                        self.fault_at(object, place, || twice(name, &plan.secrets[other].to_string()));
                        is_whole = false;
                    }
                }
            }
        }
        for pattern in unmatched.unwrap_or_default() {
            match sources.first() {
                Some((place, secret)) if pattern.is_literal() => {
                    let (named, steps) = (!object.optional && self.names_fields(), self.steps);
                    let text = || select::no_field(secret, pattern.as_str(), None, named.then_some(steps));
                    self.absent_at(object, *place, Some(pattern.as_str()), text);
                    is_whole = false;
                }
                Some(_) | None => self.skip(object, Some(pattern.as_str())),
            }
        }
        Ok(is_whole.then(|| parts.into_values().collect()))
    }

    /// A field as the file has it. JSON has no encoding, and no line ends to change.
    pub(super) fn decoded(&mut self, object: &'p Object, place: usize, name: &FieldName, field: &Field) -> Result<Option<Field>, Over> {
        if field.kind == FieldKind::Json && object.encoding == Encoding::Utf8 {
            return Ok(Some(field.clone()));
        }
        match self.decode(object, Arc::clone(&field.bytes))? {
            Ok(bytes) => {
                let kind = if str::from_utf8(bytes.expose()).is_ok() { FieldKind::Text } else { FieldKind::Binary };
                Ok(Some(Field { bytes, kind }))
            }
            Err(problem) => {
                self.fault_at(object, place, || problem.of_field(name));
                Ok(None)
            }
        }
    }
}

/// What is wrong, and with which secret.
type Faulty = (Option<usize>, Problem);

fn of_values(parts: &[Chosen<'_>], format: Format, limit: usize) -> Result<Arc<SecretBytes>, Faulty> {
    let names = names(parts, format)?;
    let values: Vec<(&str, Value<'_>)> = names.iter().map(|name| &**name).zip(parts.iter().map(|part| value(&part.field))).collect();
    let fault = |(position, unfit): (usize, Unfit)| {
        let (part, code) = (&parts[position], code_of(&unfit));
        (Some(part.place), Problem { code, text: format!("its field {} {unfit}", quoted(part.name.as_str())) })
    };
    let guess = parts.iter().map(|part| part.name.as_str().len() + part.field.bytes.len() + SIGNS).sum();
    let mut out = Out::within(limit, guess);
    format.write(&values, &mut out).map_err(fault)?;
    whole(out, limit)
}

fn whole(out: Out, limit: usize) -> Result<Arc<SecretBytes>, Faulty> {
    out.into_bytes().map(|bytes| Arc::new(SecretBytes::from(bytes))).map_err(|length| (None, too_large(length, limit)))
}

fn code_of(unfit: &Unfit) -> Code {
    match unfit {
        Unfit::Half | Unfit::NotJson => Code::SecretCorrupt,
        Unfit::Binary { .. }
        | Unfit::Deep
        | Unfit::Dotenv(_)
        | Unfit::LongName
        | Unfit::Name
        | Unfit::Null { .. }
        | Unfit::Number
        | Unfit::Runs
        | Unfit::Twice { .. } => Code::InvalidRequest,
    }
}

/// The names of the fields in the file, each once. The names in their secrets are already distinct.
fn names<'p>(parts: &'p [Chosen<'_>], format: Format) -> Result<Vec<Cow<'p, str>>, Faulty> {
    let mut taken: BTreeMap<Cow<'p, str>, &FieldName> = BTreeMap::new();
    let mut names = Vec::with_capacity(parts.len());
    for part in parts {
        let fault = |text: String| (Some(part.place), Problem { code: Code::InvalidRequest, text });
        let Some(name) = format.name(part.name.as_str()) else {
            let field = quoted(part.name.as_str());
            return Err(fault(format!(
                "its field {field} has no letter or digit for a variable's name (rename it, or choose with `fields`)"
            )));
        };
        if let Cow::Owned(_) = &name
            && let Some(other) = taken.insert(name.clone(), part.name)
        {
            let (one, two) = (quoted(other.as_str()), quoted(part.name.as_str()));
            let name = quoted(&name);
            return Err(fault(format!("the fields {one} and {two} would both become {name} (rename one, or choose with `fields`)")));
        }
        names.push(name);
    }
    Ok(names)
}

fn twice(name: &FieldName, other: &str) -> Problem {
    let text = format!(
        "its field {} is a field of {other}, too (name the fields of each with `fields`, or make a separate file for each secret)",
        quoted(name.as_str())
    );
    Problem { code: Code::InvalidRequest, text }
}

fn value(field: &Field) -> Value<'_> {
    match (field.kind, json::text_of(field)) {
        (FieldKind::Json, Some(text)) => Value::Json(text),
        (FieldKind::Binary | FieldKind::Text, Some(text)) => Value::Text(text),
        (FieldKind::Binary | FieldKind::Json | FieldKind::Text, None) => Value::Binary(field.bytes.expose()),
    }
}

fn of_blocks(parts: &[Chosen<'_>], wanted: pem::Part, limit: usize) -> Result<Arc<SecretBytes>, Faulty> {
    let mut bundle = Bundle::default();
    for part in parts {
        let problem = |fault: pem::Fault| Problem { code: code_of_pem(fault), text: fault.to_string() }.of_field(part.name);
        let blocks = read(&mut bundle, &part.field).map_err(|fault| (Some(part.place), problem(fault)))?;
        if blocks == 0 && part.is_named {
            let text = format!("its field {} has no PEM block (remove it from `fields`)", quoted(part.name.as_str()));
            return Err((Some(part.place), Problem { code: Code::InvalidRequest, text }));
        }
    }
    let fault = |fault: pem::Fault| (None, Problem { code: code_of_pem(fault), text: format!("as PEM: {fault}") });
    let mut out = Out::within(limit, parts.iter().map(|part| part.field.bytes.len()).sum());
    bundle.write(wanted, &mut out).map_err(fault)?;
    whole(out, limit)
}

/// A text, or a list of texts, such as the `ca_chain` of Vault.
pub(super) fn read(bundle: &mut Bundle, field: &Field) -> Result<usize, pem::Fault> {
    match (field.kind, json::text_of(field)) {
        (FieldKind::Json, Some(list)) => {
            let texts: Vec<zeroize::Zeroizing<String>> = serde_json::from_str(list).unwrap_or_default();
            texts.iter().try_fold(0, |blocks, text| Ok(blocks + bundle.read(text)?))
        }
        (FieldKind::Binary | FieldKind::Text, Some(text)) => bundle.read(text),
        (FieldKind::Binary | FieldKind::Json | FieldKind::Text, None) => Ok(0),
    }
}

pub(super) fn code_of_pem(fault: pem::Fault) -> Code {
    match fault {
        pem::Fault::Body(_) | pem::Fault::Certificate(_) | pem::Fault::Cut(_) => Code::SecretCorrupt,
        pem::Fault::NoCertificate | pem::Fault::NoKey | pem::Fault::Nothing => Code::SecretNotFound,
        pem::Fault::TooMany(_) => Code::TooLarge,
        pem::Fault::Headers(_) | pem::Fault::Scattered(_) | pem::Fault::TwoKeys | pem::Fault::Unknown(_) => Code::InvalidRequest,
    }
}
