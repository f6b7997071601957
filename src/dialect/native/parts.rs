//! What an object asks for: one secret, or several under `secrets`.

use super::values::parse;
use super::{Defaults, LEASES};
use crate::dialect::args;
use crate::dialect::class::{Class, position};
use crate::dialect::keys::one_of;
use crate::model::{Args, Ask, LeaseFor, Method, Parse, Part, Verb};
use crate::units::parse_duration;
use crate::yaml::{Faults, Node, Reader, Value, not_text};

/// The most secrets of one object.
const MAX_PARTS: usize = 64;

/// These belong to a secret, and so to each of several.
const OF_A_SECRET: [&str; 8] = ["secret", "version", "method", "args", "lease", "keep", "backend", "parse"];

/// What an object asks for, and how its fields are read first.
pub(super) struct Asked {
    /// Of several secrets, the first.
    pub secret: usize,
    /// Each of several.
    pub parts: Vec<Part>,
    pub parse: Option<Parse>,
}

/// One secret, before its backend has seen it.
/// `instead`: what may stand in the place of its name.
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
        let problem =
            "goes with POST and PUT alone: it says how long what they make is kept (remove it, or write the `method` that is meant)";
        faults.add(position(reader, "keep"), "keep", problem);
    }
    if reader.get("secret").is_none() && !instead.iter().any(|key| reader.get(key).is_some()) {
        reader.missing("secret", "write the secret's name, such as `secret: shop/db`", faults);
    }
    let name = reader.text("secret", faults)?;
    Some(Ask {
        backend: backend.or(defaults.backend),
        name,
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
    for key in OF_A_SECRET {
        if reader.get(key).is_some() {
            let problem = "stands beside `secrets` (write it in each entry of the list, such as `- { secret: shop/db, version: 3 }`)";
            faults.add(position(reader, key), key, problem);
        }
    }
    let list = reader.get("secrets")?;
    let Value::Sequence(items) = &list.value else {
        let problem = format!("is {}, but must be a list (start each secret with `- `, such as `- shop/db`)", list.kind());
        faults.add(list.at, "secrets", problem);
        return None;
    };
    if items.is_empty() || items.len() > MAX_PARTS {
        let problem = format!("has {} secrets: a file is made of 1 to {MAX_PARTS} (write as many, or split the object)", items.len());
        faults.add(list.at, "secrets", problem);
        return None;
    }
    let parts: Vec<_> = items.iter().map(|item| read_part(class, defaults, item, faults)).collect();
    let parts = parts.into_iter().collect::<Option<Vec<Part>>>().filter(|_| faults.len() == before)?;
    Some(Asked { secret: parts.first()?.secret, parts, parse: None })
}

/// A name alone, or a mapping with one.
fn read_part(class: &mut Class<'_>, defaults: &Defaults<'_>, item: &Node, faults: &mut Faults) -> Option<Part> {
    let nothing = Node { at: item.at, value: Value::Null };
    if let Some(name) = item.text() {
        let mut reader = Reader::of(&nothing, "secrets", faults)?;
        let backend = defaults.backend;
        let (method, args, lease) = (Method::default(), Args::default(), LeaseFor::default());
        let ask = Ask { backend, name, version: None, method, args, lease, keep: None, login: defaults.login.clone() };
        let secret = class.resolve(ask, false, &mut reader, faults)?;
        return Some(Part { secret, optional: false, parse: None });
    }
    if !matches!(item.value, Value::Mapping(_)) {
        faults.add(item.at, "secrets", not_text(item));
        return None;
    }
    let mut reader = Reader::of(item, "secrets", faults)?.with_blanks(&["backend", "version", "method", "lease", "keep"]);
    let ask = read_ask(defaults, &[], &mut reader, faults);
    let own_backend = reader.get("backend").is_some();
    let secret = ask.and_then(|ask| class.resolve(ask, own_backend, &mut reader, faults));
    let optional = reader.boolean("optional", faults).unwrap_or(false);
    let parse = parse(&mut reader, faults);
    reader.finish(faults);
    Some(Part { secret: secret?, optional, parse })
}
