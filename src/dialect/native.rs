//! The native format: `objects` is a list of mappings, one mapping per object (`docs/classes.md`).

use std::collections::BTreeMap;

use self::parts::{Asked, read_ask};
use self::values::{Formatting, encoding, mode, newline, owner, query, read_format, read_path, read_patterns};
use super::class::{Class, Format, RequestKeys, position};
use super::keys::Keys;
use super::{ClassLimits, login};
use crate::formats::Format as FileFormat;
use crate::model::{
    Ask, Catalogue, ClassFaults, FieldPattern, FileMode, FilePath, FolderPath, Label, LeaseFor, Login, Object, Owner, Plan, Query, Select,
    Template, quoted,
};
use crate::steps::Steps;
use crate::units::parse_duration;
use crate::yaml::{self, Faults, Node, Reader, Value};

mod below;
mod keystore;
mod parts;
#[cfg(test)]
mod tests;
pub(super) mod values;

/// Keys of the class as a whole.
const CLASS_KEYS: Keys = Keys {
    known: &["objects", "backend", "mode", "role", "audience", "mount", "namespace", "address", "fresh", "maxStale", "dialect"],
    shown: &["objects", "backend", "mode", "role", "audience", "mount", "namespace", "address", "fresh", "maxStale", "dialect"],
    later: &[],
    foreign: &[
        ("roleName", "here it is `role`; a class in the format of the vault provider says `dialect: vault`"),
        ("vaultAddress", "here it is `address`; a class in the format of the vault provider says `dialect: vault`"),
        ("vaultAuthMountPath", "here it is `mount`; a class in the format of the vault provider says `dialect: vault`"),
        ("vaultNamespace", "here it is `namespace`; a class in the format of the vault provider says `dialect: vault`"),
    ],
    of_others: |_| None,
};

/// Keys of an object.
const OBJECT_KEYS: Keys = Keys {
    known: &[
        "secret", "field", "fields", "path", "mode", "owner", "encoding", "version", "optional", "backend", "method", "args", "lease",
        "keep", "parse", "newline", "format", "keys", "part", "secrets", "template", "prefix", "include", "exclude", "rename", "key",
        "chain", "trust", "alias", "password",
    ],
    shown: &[
        "secret", "field", "fields", "path", "mode", "owner", "encoding", "version", "optional", "backend", "method", "args", "lease",
        "keep", "parse", "newline", "format", "keys", "part", "secrets", "template", "prefix", "include", "exclude", "rename", "key",
        "chain", "trust", "alias", "password",
    ],
    later: &[],
    foreign: &[
        ("filePermission", "here it is `mode`"),
        ("objectName", "here it is `path`"),
        ("secretArgs", "here it is `args`"),
        ("secretKey", "here it is `field`"),
        ("secretPath", "here it is `secret`"),
    ],
    of_others: |_| None,
};

const FORMAT: Format = Format {
    class_keys: CLASS_KEYS,
    object_keys: OBJECT_KEYS,
    document: yaml::parse_within,
    path: "path",
    request: RequestKeys { name: "secret", version: "version", method: "method", args: "args", lease: "lease" },
    blank: &["backend", "mode", "version", "encoding", "method", "lease", "keep", "owner", "newline", "format", "keys", "part"],
    sample: "secret: shop/db",
    without_objects: "add it: a list of objects, each with at least `secret: <name>`; `objects: \"[]\"` for an empty volume",
    may_be_empty: true,
};

/// These keys replace `secret`.
const IN_PLACE_OF_SECRET: [&str; 3] = ["prefix", "secrets", "template"];

/// A keystore may name a secret at each of its fields.
const IN_A_KEYSTORE: [&str; 1] = ["format"];

/// These keys say how fields become files. A template does that itself.
const BESIDE_NO_TEMPLATE: [&str; 7] = ["field", "fields", "format", "keys", "part", "encoding", "newline"];

/// The endings of file names whose format has a syntax for values.
const SYNTAXES: [&str; 7] = [".json", ".yaml", ".yml", ".toml", ".properties", ".env", ".sh"];

/// The steps that parsing an expression takes, per byte.
const QUERY: u64 = 16;

const LEASES: [(&str, LeaseFor); 2] = [("pod", LeaseFor::Pod), ("shared", LeaseFor::Shared)];

pub(super) fn parse(
    parameters: &BTreeMap<String, String>,
    catalogue: &dyn Catalogue,
    limits: ClassLimits,
    steps: &Steps,
) -> Result<Plan, ClassFaults> {
    let mut class = Class::new(FORMAT, catalogue, limits, steps);
    class.check_keys(parameters);
    let defaults = Defaults {
        backend: parameters.get("backend").map(String::as_str).filter(|backend| !backend.is_empty()),
        mode: class.parsed(parameters, "mode", mode),
        owners: limits.owners,
        login: Login {
            address: class.parsed_login(parameters, "address", login::text),
            audience: class.parsed_login(parameters, "audience", login::text),
            mount: class.parsed_login(parameters, "mount", login::path),
            namespace: class.parsed_login(parameters, "namespace", login::path),
            role: class.parsed_login(parameters, "role", login::text),
            ..Login::default()
        },
    };
    if let Some(problem) = defaults.login.mount.as_deref().and_then(login::doubt_of_mount) {
        class.warn(None, "mount", problem);
    }
    let fresh = class.parsed(parameters, "fresh", parse_duration);
    let max_stale = class.parsed(parameters, "maxStale", parse_duration);
    let objects = class.objects(parameters, path_for_messages, |class, label, reader, faults| {
        ObjectReader { class, defaults: &defaults, label }.read(reader, faults)
    });
    class.finish(objects).map(|plan| Plan { fresh, max_stale, ..plan })
}

/// What a class says of all its objects.
struct Defaults<'c> {
    backend: Option<&'c str>,
    mode: Option<FileMode>,
    owners: bool,
    login: Login,
}

/// Reads one object.
struct ObjectReader<'r, 'c> {
    class: &'r mut Class<'c>,
    defaults: &'r Defaults<'r>,
    label: &'r Label,
}

// === impl ObjectReader ===

impl ObjectReader<'_, '_> {
    fn read(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Object> {
        let is_below = reader.get("prefix").is_some();
        if !is_below {
            refuse_without_prefix(reader, faults);
        }
        let is_of_several = is_below || reader.get("secrets").is_some() || reader.get("template").is_some();
        let is_keystore = keystore::is_meant(reader);
        let instead = if is_keystore { &IN_A_KEYSTORE[..] } else { &IN_PLACE_OF_SECRET };
        let ask = if is_of_several { None } else { read_ask(self.defaults, instead, reader, faults) };
        // A name that a store refuses cannot be a default either.
        let default_name = ask.as_ref().map(|ask| ask.name.rsplit('/').next().unwrap_or(ask.name));
        let mode = reader.parsed("mode", faults, mode);
        let owner = self.read_owner(reader, faults);
        let encoding = reader.parsed("encoding", faults, encoding).unwrap_or_default();
        let newline = reader.parsed("newline", faults, newline).unwrap_or_default();
        let optional = reader.boolean("optional", faults).unwrap_or(false);
        let mut below = None;
        let (asked, select) = if is_keystore {
            self.read_keystore(ask, reader, faults)
        } else {
            keystore::refuse(reader, faults);
            let asked = if is_below {
                self.read_below(reader, faults).map(|(asked, of_prefix)| {
                    below = Some(Box::new(of_prefix));
                    asked
                })
            } else {
                self.read_asked(ask.clone(), reader, faults)
            };
            // It is read without a secret too, so that its faults are reported.
            let select = self.read_select(reader, default_name.filter(|_| asked.is_some()), faults);
            (asked, select)
        };
        let Asked { secret, parts, parse } = asked?;
        let (index, mode) = (self.label.index, mode.or(self.defaults.mode));
        let object = Object { index, secret, parts, below, select: select?, mode, owner, parse, encoding, newline, optional };
        self.class.has_room_for_keystores(self.label, reader.at(), &object).then_some(object)
    }

    fn read_asked(&mut self, ask: Option<Ask<'_>>, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Asked> {
        if reader.get("template").is_some() {
            return parts::read_names(self.class, self.defaults, reader, faults);
        }
        if reader.get("secrets").is_some() {
            return parts::read_list(self.class, self.defaults, reader, faults);
        }
        let own_backend = reader.get("backend").is_some();
        let secret = ask.and_then(|ask| self.class.resolve(ask, own_backend, reader, faults));
        let parse = parts::read_parse(self.class, self.defaults, secret, reader, faults);
        Some(Asked { secret: secret?, parts: Vec::new(), parse })
    }

    fn read_owner(&self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Owner> {
        let owner = reader.parsed("owner", faults, owner)?;
        if !self.defaults.owners {
            let problem = "works with `delivery: provider` only: on this node the driver writes the files, and they belong to root \
                           (remove it, and let others read the file with `mode`)";
            faults.add(position(reader, "owner"), "owner", problem);
        }
        Some(owner)
    }

    fn read_select(&mut self, reader: &mut Reader<'_>, default_name: Option<&str>, faults: &mut Faults) -> Option<Select> {
        if reader.get("field").is_some() && reader.get("fields").is_some() {
            let problem = "cannot be used together with `field` (keep one: `field` makes one file, `fields` makes a folder of files)";
            faults.add(position(reader, "fields"), "fields", problem);
            return None;
        }
        if reader.get("template").is_some() && reader.get("prefix").is_none() {
            return self.read_template(reader, faults);
        }
        let of_prefix = below::default_name(reader);
        let default_name = default_name.or(of_prefix.as_deref());
        match read_format(reader, faults) {
            Formatting::None => {}
            Formatting::This(format) => return self.read_formatted(format, reader, default_name, faults),
            Formatting::Wrong => return None,
        }
        if of_prefix.is_some() {
            return self.read_each(reader, faults);
        }
        if reader.get("fields").is_some() {
            let patterns = read_patterns(reader, faults);
            let folder: FolderPath = read_path(reader, default_name, faults)?;
            return self.claim_folder(reader, patterns?, folder, faults);
        }
        let text = reader.get("field").and_then(Node::text);
        if !self.class.charge(text.map_or(0, |text| QUERY * text.len() as u64)) {
            return None;
        }
        let query = reader.get("field").is_some().then(|| reader.parsed("field", faults, query));
        if let Some((query, wrong)) = query.iter().flatten().find_map(|query| Some((query, query.suspicious()?))) {
            let problem = format!("{} {wrong} (correct it; it is right only if a field has exactly this name)", quoted(query.as_str()));
            self.class.warn(Some(self.label), "field", problem);
        }
        let default_name = query.as_ref().map_or(default_name, |query| query.as_ref().map(Query::as_str));
        let path: FilePath = read_path(reader, default_name, faults)?;
        self.class.claim_file(self.label, position(reader, "path"), &path);
        match query {
            Some(query) => query.map(|query| Select::Field { query, path }),
            None => Some(Select::Whole { path }),
        }
    }

    fn read_template(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Select> {
        for key in BESIDE_NO_TEMPLATE {
            if reader.get(key).is_some() {
                faults.add(position(reader, key), key, "cannot be used together with `template`, which makes the whole file (remove it)");
            }
        }
        let names: Vec<&str> = match reader.get("secrets").map(|node| &node.value) {
            Some(Value::Mapping(entries)) => entries.iter().map(|(key, _)| key.text.as_str()).collect(),
            Some(Value::Null | Value::Scalar { .. } | Value::Sequence(_)) | None => Vec::new(),
        };
        let text = reader.text("template", faults)?;
        let at = position(reader, "template");
        let compiled = self.class.within(|steps| Template::parse(text, &names, steps))?;
        let template = compiled.map_err(|fault| faults.add(at, "template", fault.to_string()));
        if reader.get("path").is_none() {
            reader.missing("path", "name the file that the template makes", faults);
        }
        let path: FilePath = read_path(reader, None, faults)?;
        self.class.claim_file(self.label, position(reader, "path"), &path);
        let template = template.ok()?;
        if let Some(line) = template.bare().filter(|_| has_syntax(path.as_str())) {
            let problem = format!(
                "line {line} writes a value without a filter, so the author of the secret could add more than a value to {} (add a filter: \
                 `json`, `yaml`, `toml`, `properties`, `dotenv`, `quote` or `shellquote`)",
                quoted(path.as_str())
            );
            self.class.warn(Some(self.label), "template", problem);
        }
        Some(Select::Template { template: template.into(), path })
    }

    fn read_formatted(
        &mut self,
        format: FileFormat,
        reader: &mut Reader<'_>,
        default_name: Option<&str>,
        faults: &mut Faults,
    ) -> Option<Select> {
        if reader.get("field").is_some() {
            let problem =
                "cannot be used together with `format`, which writes fields under their names (write `fields` to choose the fields)";
            faults.add(position(reader, "field"), "field", problem);
            return None;
        }
        let patterns = if reader.get("fields").is_some() { read_patterns(reader, faults) } else { Some(Vec::new()) };
        if reader.get("secrets").is_some() && reader.get("path").is_none() {
            reader.missing("path", "name the file: it is made of several secrets", faults);
        }
        let path: FilePath = read_path(reader, default_name, faults)?;
        let patterns = patterns?;
        let names = patterns.iter().filter(|pattern| pattern.is_literal()).count();
        if !self.class.has_room_for_names(self.label, position(reader, "fields"), names) {
            return None;
        }
        self.class.claim_file(self.label, position(reader, "path"), &path);
        Some(Select::Formatted { format, patterns, path })
    }

    /// Claims the folder, and the files that are known without the secret: those of patterns without `*`.
    fn claim_folder(
        &mut self,
        reader: &mut Reader<'_>,
        patterns: Vec<FieldPattern>,
        folder: FolderPath,
        faults: &mut Faults,
    ) -> Option<Select> {
        let (at, label) = (position(reader, "path"), self.label);
        let names = || patterns.iter().filter(|pattern| pattern.is_literal()).map(FieldPattern::as_str);
        if !self.class.has_room_for_names(label, position(reader, "fields"), names().count()) {
            return None;
        }
        if let Some(path) = folder.as_path() {
            self.class.claim_folder(label, at, path);
        }
        let mut fine = true;
        for name in names() {
            if let Err(cause) = self.class.claim_within(label, at, &folder, name) {
                let problem = format!(
                    "the field {} cannot name a file: the path {cause} (write a separate object for it, with `field` and `path`)",
                    quoted(name)
                );
                faults.add(position(reader, "fields"), "fields", problem);
                fine = false;
            }
        }
        fine.then_some(Select::Fields { patterns, folder })
    }
}

fn refuse_without_prefix(reader: &mut Reader<'_>, faults: &mut Faults) {
    for key in below::OF_A_PREFIX {
        if reader.get(key).is_some() {
            faults.add(position(reader, key), key, "works only with `prefix` (remove it, or write `prefix` instead of `secret`)");
        }
    }
}

fn has_syntax(path: &str) -> bool {
    SYNTAXES.iter().any(|end| path.ends_with(end))
}

/// The path that names an object in messages: its own path, or the default. Nothing of it has been checked yet.
fn path_for_messages(node: &Node) -> String {
    let Value::Mapping(entries) = &node.value else {
        return String::new();
    };
    let text = |key: &str| entries.iter().find(|(k, _)| k.text == key).and_then(|(_, node)| node.text());
    let last_element = || text("secret").or_else(|| text("prefix")?.strip_suffix('/')).and_then(|name| name.rsplit('/').next());
    text("path").or_else(|| text("field")).or_else(last_element).unwrap_or_default().chars().take(256).collect()
}
