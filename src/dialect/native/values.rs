//! The values of an object's keys: each read from its text, or refused with what to write instead.

use std::str::FromStr;

use crate::dialect::class::position;
use crate::dialect::keys::one_of;
use crate::formats::pem::Part as PemPart;
use crate::formats::{Format, Names};
use crate::model::{Encoding, FieldPattern, FileMode, InvalidMode, InvalidPath, Newline, Owner, Query, quoted};
use crate::yaml::{Faults, Reader};

/// The most patterns with a `*` in one object: each is compared with every field.
const MAX_GLOBS: usize = 16;

/// The longest field name in bytes, and so the longest pattern that could match one.
const MAX_PATTERN: usize = 253;

const ENCODINGS: [(&str, Encoding); 4] =
    [("utf-8", Encoding::Utf8), ("base64", Encoding::Base64), ("base64url", Encoding::Base64Url), ("hex", Encoding::Hex)];

const FORMATS: [(&str, Format); 6] = [
    ("json", Format::Json),
    ("yaml", Format::Yaml),
    ("toml", Format::Toml),
    ("properties", Format::Properties(Names::AsStored)),
    ("dotenv", Format::Dotenv(Names::AsStored)),
    ("pem", Format::Pem(PemPart::All)),
];

const NAMES: [(&str, Names); 1] = [("env", Names::Env)];

const NEWLINES: [(&str, Newline); 3] = [("keep", Newline::Keep), ("strip", Newline::Strip), ("ensure", Newline::Ensure)];

const PEM_PARTS: [(&str, PemPart); 3] = [("key", PemPart::Key), ("leaf", PemPart::Leaf), ("chain", PemPart::Chain)];

/// Every spelling that users of Kubernetes write.
pub(in crate::dialect) fn mode(text: &str) -> Result<FileMode, String> {
    text.parse().map_err(|invalid| match invalid {
        InvalidMode::OutOfRange(_) if matches!(text.len(), 3) && text.bytes().all(|byte| byte < b'8') => {
            format!("{text} is decimal without a 0 before it, and over 0777 (did you mean 0{text}?)")
        }
        InvalidMode::OutOfRange(_) => format!("{invalid} (write an octal mode up to 0777)"),
        InvalidMode::Unreadable(_) => format!("{invalid} (write it in octal, such as 0444)"),
    })
}

pub(super) fn owner(text: &str) -> Result<Owner, String> {
    text.parse().map_err(|invalid| format!("{invalid} (write both numbers, in quotes)"))
}

pub(super) fn encoding(text: &str) -> Result<Encoding, String> {
    one_of("encoding", &ENCODINGS, text)
}

pub(super) fn newline(text: &str) -> Result<Newline, String> {
    one_of("rule for line ends", &NEWLINES, text)
}

/// What an object says of its format.
pub(super) enum Formatting {
    None,
    This(Format),
    /// It is not a format, and a fault says so.
    Wrong,
}

pub(super) fn read_format(reader: &mut Reader<'_>, faults: &mut Faults) -> Formatting {
    let names = reader.parsed("keys", faults, |text| one_of("spelling of keys", &NAMES, text));
    let part = reader.parsed("part", faults, |text| one_of("part", &PEM_PARTS, text));
    let (has_names, has_part) = (reader.get("keys").is_some(), reader.get("part").is_some());
    let is_there = reader.get("format").is_some();
    let format = reader.parsed("format", faults, one_of_formats);
    if reader.get("secrets").is_some() && !is_there {
        faults.add(
            position(reader, "secrets"),
            "secrets",
            "needs `format`, which makes one file of several secrets (add it, such as `format: json`)",
        );
    }
    if is_there && format.is_none() {
        return Formatting::Wrong;
    }
    let format = match (format, names, part) {
        (Some(Format::Dotenv(_)), Some(names), _) => Some(Format::Dotenv(names)),
        (Some(Format::Properties(_)), Some(names), _) => Some(Format::Properties(names)),
        (Some(Format::Pem(_)), _, Some(part)) => Some(Format::Pem(part)),
        (other, _, _) => other,
    };
    if has_names && !matches!(format, Some(Format::Dotenv(_) | Format::Properties(_))) {
        faults.add(position(reader, "keys"), "keys", "works only with `format: dotenv` and `format: properties` (remove it)");
    }
    if has_part && !matches!(format, Some(Format::Pem(_))) {
        faults.add(position(reader, "part"), "part", "works only with `format: pem` (remove it)");
    }
    format.map_or(Formatting::None, Formatting::This)
}

/// `keystore` reads `pkcs12`; here it is only in the list.
fn one_of_formats(text: &str) -> Result<Format, String> {
    const ALL: [&str; 7] = ["json", "yaml", "toml", "properties", "dotenv", "pem", "pkcs12"];
    match FORMATS.iter().find(|(name, _)| *name == text) {
        Some((_, format)) => Ok(*format),
        None if text == "jks" => {
            Err("there is no format \"jks\": Java reads PKCS#12 under the type JKS, too (write `format: pkcs12`)".to_owned())
        }
        None => one_of("format", &ALL.map(|name| (name, ())), text).and(Err(String::new())),
    }
}

pub(super) fn query(text: &str) -> Result<Query, String> {
    text.parse().map_err(|invalid| format!("{invalid} (write a field's name, or a simpler JMESPath expression)"))
}

/// The path of a file or a folder; if it is left out, the default is used.
pub(super) fn read_path<P: FromStr<Err = InvalidPath>>(reader: &mut Reader<'_>, default: Option<&str>, faults: &mut Faults) -> Option<P> {
    if reader.get("path").is_some() {
        return reader.parsed("path", faults, |text| text.parse().map_err(|cause| path_problem(text, &cause)));
    }
    let name = default?;
    name.parse().map_err(|cause| no_default(reader, name, &cause, faults)).ok()
}

fn no_default(reader: &Reader<'_>, name: &str, cause: &InvalidPath, faults: &mut Faults) {
    faults.add(reader.at(), "path", format!("is missing, and {} cannot be used instead: it {cause} (add a path)", quoted(name)));
}

fn path_problem(path: &str, cause: &InvalidPath) -> String {
    let remedy = match cause {
        InvalidPath::Absolute => "remove the `/` at its start",
        InvalidPath::ControlCharacter => "remove it",
        InvalidPath::DotElement(_) => "write the path without it",
        InvalidPath::Empty => "name the file, or leave `path` out",
        InvalidPath::EmptyElement => "name a file; only an object with `fields` makes a folder",
        InvalidPath::LongElement(_) | InvalidPath::TooLong(_) => "shorten it",
        InvalidPath::Reserved => "choose another name",
    };
    format!("{} {cause} ({remedy})", quoted(path))
}

pub(super) fn read_patterns(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Vec<FieldPattern>> {
    let before = faults.len();
    let texts = reader.texts("fields", faults)?;
    if texts.is_empty() && faults.len() == before {
        faults.add(position(reader, "fields"), "fields", "is an empty list (name fields, or write \"*\" for all)");
    }
    for (at, text) in &texts {
        if text.is_empty() || text.len() > MAX_PATTERN || text.chars().any(char::is_control) {
            let problem = format!(
                "{} cannot name a field: a field's name has 1 to {MAX_PATTERN} bytes and no control character (write a name, or \"*\" for all)",
                quoted(text)
            );
            faults.add(*at, "fields", problem);
        }
    }
    if let Some((at, _)) = texts.iter().filter(|(_, text)| text.contains('*')).nth(MAX_GLOBS) {
        faults.add(*at, "fields", format!("has more than {MAX_GLOBS} patterns with a `*` (name the fields, or use fewer patterns)"));
    }
    (faults.len() == before).then(|| texts.into_iter().map(|(_, text)| FieldPattern::new(text)).collect())
}
