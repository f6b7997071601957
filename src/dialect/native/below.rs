//! An object that asks for all secrets below a prefix.

use super::ObjectReader;
use super::parts::{Asked, read_parse};
use super::values::{read_path, read_patterns};
use crate::dialect::class::position;
use crate::model::{Ask, Below, FieldPattern, FolderPath, Login, Parse, RENAMED, Select, Template, quoted};
use crate::yaml::{Faults, Position, Reader};

/// The most patterns under `include`, and under `exclude`: each is compared with every name.
const MAX_PATTERNS: usize = 16;

/// The longest pattern in bytes: no name is longer.
const MAX_PATTERN: usize = 1024;

/// Keys that cannot be used together with a prefix, and what to do.
const BESIDE_NO_PREFIX: [(&str, &str); 9] = [
    ("secret", "keep one: `secret` names one secret, `prefix` finds all secrets below a folder"),
    ("secrets", "keep one: `secrets` names them, `prefix` finds them"),
    ("template", "a template needs the names of its secrets: write them under `secrets`"),
    ("field", "write `fields`: each secret gets a folder of files"),
    ("version", "Keyferry reads the latest version of each secret that it finds: write a separate object for this secret"),
    ("method", "Keyferry only reads the secrets that it finds: write a separate object for this secret"),
    ("args", "Keyferry asks for the secrets that it finds only by name: remove it"),
    ("lease", "Keyferry only reads the secrets that it finds: remove it"),
    ("keep", "Keyferry only reads the secrets that it finds: remove it"),
];

/// These keys choose the secrets below a prefix, and the names of their files.
pub(super) const OF_A_PREFIX: [&str; 3] = ["include", "exclude", "rename"];

impl ObjectReader<'_, '_> {
    /// What it asks for, and which secrets of that.
    pub(super) fn read_below(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<(Asked, Below)> {
        let before = faults.len();
        for (key, remedy) in BESIDE_NO_PREFIX {
            if reader.get(key).is_some() {
                faults.add(position(reader, key), key, format!("cannot be used together with `prefix` ({remedy})"));
            }
        }
        let include = read_names("include", reader, faults);
        let exclude = read_names("exclude", reader, faults);
        let rename = self.read_rename(reader, faults);
        let parse = read_parse(self.class, self.defaults, None, reader, faults);
        if matches!(parse, Some(Parse::Pkcs12 { .. })) {
            faults.add(
                position(reader, "parse"),
                "parse",
                "cannot open keystores below a prefix (write a separate object for each keystore)",
            );
        }
        let own_backend = reader.get("backend").is_some();
        let backend = reader.text("backend", faults);
        let name = reader.parsed("prefix", faults, folder)?;
        let login: Login = self.defaults.login.clone();
        let ask = Ask { backend: backend.or(self.defaults.backend), name: &name, below: true, login, ..Ask::default() };
        let secret = self.class.resolve(ask, own_backend, reader, faults);
        if faults.len() > before {
            return None;
        }
        let below = Below { include: include.unwrap_or_default(), exclude: exclude.unwrap_or_default(), rename: rename.map(Into::into) };
        Some((Asked { secret: secret?, parts: Vec::new(), parse }, below))
    }

    fn read_rename(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Template> {
        let at = reader.get("rename")?.at;
        if reader.get("format").is_some() {
            faults.add(at, "rename", "cannot be used together with `format`, which makes one file (name the file with `path`)");
            return None;
        }
        let names = if reader.get("fields").is_some() { &RENAMED[..] } else { &RENAMED[..1] };
        let text = reader.text("rename", faults)?;
        let compiled = self.class.within(|steps| Template::parse_rename(text, names, steps))?;
        compiled.map_err(|fault| faults.add(at, "rename", fault.to_string())).ok()
    }

    /// One file for each secret, or a folder.
    pub(super) fn read_each(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Select> {
        let default = default_name(reader);
        let patterns: Option<Vec<FieldPattern>> = match reader.get("fields") {
            Some(_) => Some(read_patterns(reader, faults)?),
            None => None,
        };
        let folder: FolderPath = read_path(reader, default.as_deref(), faults)?;
        let names = patterns.iter().flatten().filter(|pattern| pattern.is_literal()).count();
        if !self.class.has_room_for_names(self.label, position(reader, "fields"), names) {
            return None;
        }
        if let Some(path) = folder.as_path() {
            self.class.claim_folder(self.label, position(reader, "path"), path);
        }
        Some(Select::Each { patterns, folder })
    }
}

/// The last element of the prefix.
pub(super) fn default_name(reader: &mut Reader<'_>) -> Option<String> {
    let prefix = reader.get("prefix")?.text()?;
    prefix.trim_end_matches('/').rsplit('/').next().map(ToOwned::to_owned)
}

/// The folder's name, without the slash at its end.
fn folder(text: &str) -> Result<String, String> {
    match text.strip_suffix('/') {
        Some("") => {
            Err("does not name a folder: Keyferry does not deliver a whole store (write a folder in it, such as \"shop/certs/\")"
                .to_owned())
        }
        Some(folder) => Ok(folder.to_owned()),
        None if text.is_empty() => Err("is empty (write a folder in the store, such as \"shop/certs/\")".to_owned()),
        None => {
            let meant = quoted(&format!("{text}/"));
            Err(format!("{} does not end with `/`: a prefix is a folder (did you mean {meant}?)", quoted(text)))
        }
    }
}

fn read_names(key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    reader.get(key)?;
    let before = faults.len();
    let texts = reader.texts(key, faults)?;
    if texts.is_empty() && faults.len() == before {
        faults.add(position(reader, key), key, "is an empty list (write patterns such as \"web-*\", or remove it)");
    }
    if let Some((at, _)) = texts.get(MAX_PATTERNS) {
        faults.add(*at, key, format!("has more than {MAX_PATTERNS} patterns (use fewer, or split the object)"));
    }
    let problems: Vec<(Position, String)> = texts.iter().filter_map(|(at, text)| Some((*at, problem(text)?))).collect();
    for (at, problem) in problems {
        faults.add(at, key, problem);
    }
    (faults.len() == before).then(|| texts.into_iter().map(|(_, text)| text.to_owned()).collect())
}

fn problem(pattern: &str) -> Option<String> {
    let told = |why: &str| Some(format!("{} {why}", quoted(pattern)));
    let mut elements = pattern.split('/');
    match () {
        () if pattern.len() > MAX_PATTERN => {
            Some(format!("has a pattern of {} bytes: no name has more than {MAX_PATTERN} (shorten it)", pattern.len()))
        }
        () if pattern.chars().any(char::is_control) => told("has a control character, and a name cannot have one (remove it)"),
        () if pattern.is_empty() || pattern.split('/').any(str::is_empty) => {
            told("has an empty element: a pattern describes the part of the name after the prefix (such as \"web\", \"*\" or \"old/**\")")
        }
        () if elements.any(|element| element.contains("**") && element != "**") => {
            told("has `**` within an element: `**` must be alone between slashes (such as \"old/**\"; within an element write `*`)")
        }
        () => None,
    }
}
