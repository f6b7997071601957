//! What an object asks for: one secret, or several under `secrets`.

use super::{Defaults, LEASES};
use crate::dialect::args;
use crate::dialect::class::{Class, position};
use crate::dialect::keys::one_of;
use crate::model::{Args, Ask, FieldName, LeaseFor, Method, Parse, Part, PasswordOf, Template, Verb, quoted};
use crate::units::parse_duration;
use crate::yaml::{Faults, Node, Position, Reader, Value, not_text};

/// The most secrets of one object.
const MAX_PARTS: usize = 64;

/// These keys belong to a secret, so each of several secrets may have them.
pub(super) const OF_A_SECRET: [&str; 8] = ["secret", "version", "method", "args", "lease", "keep", "backend", "parse"];

const BLANK: [&str; 5] = ["backend", "version", "method", "lease", "keep"];

const FORMS: [(&str, Form); 2] = [("json", Form::Json), ("pkcs12", Form::Pkcs12)];

/// The format in which a field is read.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Pkcs12,
}

/// A field that a class names.
pub(super) enum Named {
    /// A field of the secret that the key belongs to.
    Own(FieldName),
    Other(Part, FieldName),
}

/// What an object asks for, and how its fields are parsed before use.
pub(super) struct Asked {
    /// With several secrets: the first.
    pub secret: usize,
    /// With several secrets: each of them.
    pub parts: Vec<Part>,
    pub parse: Option<Parse>,
}

fn refuse_beside(reader: &mut Reader<'_>, faults: &mut Faults) {
    for key in OF_A_SECRET {
        if reader.get(key).is_some() {
            let problem = "cannot be used together with `secrets` (write it in the entry of each secret that it is for, such as \
                           `{ secret: shop/db, version: 3 }`)";
            faults.add(position(reader, key), key, problem);
        }
    }
}

fn has_fitting_number(secrets: usize, at: Position, faults: &mut Faults) -> bool {
    let fits = (1..=MAX_PARTS).contains(&secrets);
    if !fits {
        let problem = format!("has {secrets} secrets: a file is made of 1 to {MAX_PARTS} (add or remove secrets, or split the object)");
        faults.add(at, "secrets", problem);
    }
    fits
}

/// One secret, before its backend has seen it.
/// `instead`: what may replace its name.
pub(super) fn read_ask<'a, 'n: 'a>(
    defaults: &'a Defaults<'a>,
    instead: &[&'static str],
    reader: &mut Reader<'n>,
    faults: &mut Faults,
) -> Option<Ask<'a>> {
    let backend = reader.text("backend", faults);
    let version = reader.text("version", faults);
    let method = reader.parsed("method", faults, |text| one_of("method", &Method::ALL.map(|method| (method.as_str(), method)), text));
    let args = args::read("args", reader, faults);
    let lease = reader.parsed("lease", faults, |text| one_of("lease", &LEASES, text));
    let keep = reader.parsed("keep", faults, parse_duration);
    let is_method_known = method.is_some() || reader.get("method").is_none();
    if keep.is_some() && is_method_known && method.unwrap_or_default().verb() == Verb::Read {
        let problem = "works only with POST and PUT: it says how long Keyferry keeps what these requests create (remove it, or \
                       write the `method` that you mean)";
        faults.add(position(reader, "keep"), "keep", problem);
    }
    if reader.get("secret").is_none() && !instead.iter().any(|key| reader.get(key).is_some()) {
        reader.missing("secret", "write the secret's name, such as `secret: shop/db`", faults);
    }
    let name = reader.text("secret", faults)?;
    Some(Ask {
        backend: backend.or(defaults.backend),
        name,
        below: false,
        version,
        method: method.unwrap_or_default(),
        args: args.unwrap_or_default(),
        lease: lease.unwrap_or_default(),
        keep,
        login: defaults.login.clone(),
    })
}

/// The secrets of a list, in its order.
pub(super) fn read_list(class: &mut Class<'_>, defaults: &Defaults<'_>, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Asked> {
    let before = faults.len();
    refuse_beside(reader, faults);
    let list = reader.get("secrets")?;
    let Value::Sequence(items) = &list.value else {
        let problem = format!("is {}, but must be a list (start each secret with `- `, such as `- shop/db`)", list.kind());
        faults.add(list.at, "secrets", problem);
        return None;
    };
    if !has_fitting_number(items.len(), list.at, faults) {
        return None;
    }
    let parts: Vec<_> = items.iter().map(|item| read_part(class, defaults, item, faults)).collect();
    let parts = parts.into_iter().collect::<Option<Vec<Part>>>().filter(|_| faults.len() == before)?;
    Some(Asked { secret: parts.first()?.secret, parts, parse: None })
}

/// The secrets of a template, under the names that the template uses.
pub(super) fn read_names(class: &mut Class<'_>, defaults: &Defaults<'_>, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Asked> {
    let before = faults.len();
    refuse_beside(reader, faults);
    let Some(list) = reader.get("secrets") else {
        reader.missing("secrets", "name the secrets that the template uses, such as `secrets: { db: shop/db }`", faults);
        return None;
    };
    let Value::Mapping(entries) = &list.value else {
        let problem = format!("is {}, but a template has a mapping (write `name: shop/db` for each secret)", list.kind());
        faults.add(list.at, "secrets", problem);
        return None;
    };
    if !has_fitting_number(entries.len(), list.at, faults) {
        return None;
    }
    let mut parts = Vec::with_capacity(entries.len());
    for (key, item) in entries {
        if !Template::is_name(&key.text) {
            let problem = format!(
                "{} is not a name for a template: letters, digits and `_`, and not a word of its language (use another one)",
                quoted(&key.text)
            );
            faults.add(key.at, "secrets", problem);
        }
        let part = read_part(class, defaults, item, faults);
        parts.extend(part.map(|part| Part { name: key.text.clone(), ..part }));
    }
    (faults.len() == before && parts.len() == entries.len()).then_some(())?;
    Some(Asked { secret: parts.first()?.secret, parts, parse: None })
}

/// A name, or a mapping with a name.
fn read_part(class: &mut Class<'_>, defaults: &Defaults<'_>, item: &Node, faults: &mut Faults) -> Option<Part> {
    let nothing = Node { at: item.at, value: Value::Null };
    if let Some(name) = item.text() {
        let mut reader = Reader::of(&nothing, "secrets", faults)?;
        let backend = defaults.backend;
        let (method, args, lease) = (Method::default(), Args::default(), LeaseFor::default());
        let ask = Ask { backend, name, below: false, version: None, method, args, lease, keep: None, login: defaults.login.clone() };
        let secret = class.resolve(ask, false, &mut reader, faults)?;
        return Some(Part { name: String::new(), secret, optional: false, parse: None });
    }
    if !matches!(item.value, Value::Mapping(_)) {
        faults.add(item.at, "secrets", not_text(item));
        return None;
    }
    let mut reader = Reader::of(item, "secrets", faults)?.with_blanks(&BLANK);
    let part = read_mapping(class, defaults, &mut reader, faults);
    reader.finish(faults);
    part
}

/// The keys of a secret, in a mapping of it.
fn read_mapping(class: &mut Class<'_>, defaults: &Defaults<'_>, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Part> {
    let ask = read_ask(defaults, &[], reader, faults);
    let own_backend = reader.get("backend").is_some();
    let secret = ask.and_then(|ask| class.resolve(ask, own_backend, reader, faults));
    let optional = reader.boolean("optional", faults).unwrap_or(false);
    let parse = read_parse(class, defaults, secret, reader, faults);
    Some(Part { name: String::new(), secret: secret?, optional, parse })
}

/// How a secret's fields are parsed before use: `json`, or a mapping that names a field. `own`: the secret.
pub(super) fn read_parse(
    class: &mut Class<'_>,
    defaults: &Defaults<'_>,
    own: Option<usize>,
    reader: &mut Reader<'_>,
    faults: &mut Faults,
) -> Option<Parse> {
    let node = reader.get("parse")?;
    if !matches!(node.value, Value::Mapping(_)) {
        let form = reader.parsed("parse", faults, |text| one_of("form of text", &FORMS, text))?;
        if matches!(form, Form::Pkcs12) {
            let problem = "needs the name of a field (write `parse: { field: NAME, as: pkcs12, password: { secret: NAME, field: NAME } }`)";
            faults.add(node.at, "parse", problem);
        }
        return Some(Parse::Lone);
    }
    let mut inner = reader.reader("parse", faults)?;
    for (key, remedy) in [("field", "name the field that is read"), ("as", "write `as: json` or `as: pkcs12`")] {
        if inner.get(key).is_none() {
            inner.missing(key, remedy, faults);
        }
    }
    let form = inner.parsed("as", faults, |text| one_of("form of text", &FORMS, text));
    let field = inner.text("field", faults).map(FieldName::new);
    let password = inner.get("password").map(|node| {
        if let Some(Form::Json) = form {
            faults.add(node.at, inner.path("password"), "works only with `as: pkcs12` (remove it)");
        }
        read_password(class, defaults, own, node, &inner.path("password"), faults)
    });
    inner.finish(faults);
    match (form?, password) {
        (Form::Json, _) => field.map(Parse::Field),
        (Form::Pkcs12, None) => field.map(|field| Parse::Pkcs12 { field, password: None }),
        (Form::Pkcs12, Some(password)) => Some(Parse::Pkcs12 { field: field?, password: Some(password?) }),
    }
}

fn read_password(
    class: &mut Class<'_>,
    defaults: &Defaults<'_>,
    own: Option<usize>,
    node: &Node,
    key: &str,
    faults: &mut Faults,
) -> Option<PasswordOf> {
    match read_named(class, defaults, key, node, faults)? {
        Named::Own(field) => own.map(|secret| PasswordOf { secret, field }),
        Named::Other(part, field) => {
            if part.optional {
                faults.add(
                    node.at,
                    key,
                    "cannot be optional here (write `optional: true` in the object: without this secret the object has no file)",
                );
            }
            if part.parse.is_some() {
                faults.add(node.at, key, "is a field as the store has it, so `parse` has no use here (remove it)");
            }
            Some(PasswordOf { secret: part.secret, field })
        }
    }
}

/// A field's name, or a mapping with a secret and its field.
pub(super) fn read_named(class: &mut Class<'_>, defaults: &Defaults<'_>, key: &str, node: &Node, faults: &mut Faults) -> Option<Named> {
    if let Some(field) = node.text() {
        return Some(Named::Own(FieldName::new(field)));
    }
    if !matches!(node.value, Value::Mapping(_)) {
        let problem = format!("is {}, but must be a field (write its name, or `{{ secret: NAME, field: NAME }}`)", node.kind());
        faults.add(node.at, key, problem);
        return None;
    }
    let mut reader = Reader::of(node, key, faults)?.with_blanks(&BLANK);
    if reader.get("field").is_none() {
        reader.missing("field", "name the secret's field", faults);
    }
    let field = reader.text("field", faults).map(FieldName::new);
    let part = read_mapping(class, defaults, &mut reader, faults);
    reader.finish(faults);
    Some(Named::Other(part?, field?))
}
