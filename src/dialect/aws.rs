//! The dialect `aws`: classes written for secrets-store-csi-driver-provider-aws (chart 3.1.1).
//!
//! This module follows that provider's source (`provider/secret_descriptor.go`, `provider/*_provider.go`, `server/server.go`). It is
//! stricter where the provider would mount a class only by chance, or only in part: two objects with one file name, a path out of the
//! volume, an ARN of another service, an unknown key.

use std::collections::BTreeMap;

use self::document::{JMES_KEYS, OBJECT_KEYS};
use self::name::{Fault, Service, Target};
use self::parameters::Entry;
use super::ClassLimits;
use super::arn::ARN;
use super::class::{Class, Format, RequestKeys, position};
use super::keys::{Keys, one_of};
use super::native::values;
use crate::model::{
    Args, Ask, Catalogue, ClassFaults, FileMode, FilePath, InvalidPath, InvalidQuery, Label, LeaseFor, Method, Object, Plan, Query, Search,
    SecretRef, Select, VersionIds, clean, quoted,
};
use crate::steps::Steps;
use crate::yaml::{Faults, Kind, Node, Reader, Value, not_text};

mod document;
mod name;
mod parameters;
#[cfg(test)]
mod tests;

const SERVICES: [(&str, Service); 2] = [("secretsmanager", Service::SecretsManager), ("ssmparameter", Service::Parameters)];

pub(super) fn parse(
    parameters: &BTreeMap<String, String>,
    catalogue: &dyn Catalogue,
    limits: ClassLimits,
    steps: &Steps,
) -> Result<Plan, ClassFaults> {
    let mut class = Class::new(FORMAT, catalogue, limits, steps);
    class.check_keys(parameters);
    let entry = Entry::read(parameters, catalogue, &mut class);
    let objects = class.objects(parameters, path_for_messages, |class, label, reader, faults| {
        ObjectReader { class, entry: &entry, label }.read(reader, faults)
    });
    class.finish(objects).map(|plan| Plan { version_ids: VersionIds::Paths, ..plan })
}

const FORMAT: Format = Format {
    class_keys: parameters::KEYS,
    object_keys: Keys {
        known: OBJECT_KEYS,
        shown: OBJECT_KEYS,
        later: &[],
        foreign: &[
            ("field", "here it is `path` in the list `jmesPath`"),
            ("mode", "here it is `filePermission`"),
            ("objectPath", "here it is `objectAlias`"),
            ("path", "here it is `objectAlias`"),
            ("secret", "here it is `objectName`"),
            ("secretPath", "here it is `objectName`"),
            ("version", "here it is `objectVersion`"),
        ],
        of_others: |_| None,
    },
    document: document::parse,
    path: "objectAlias",
    request: OWN_REQUEST,
    blank: OBJECT_KEYS,
    sample: "{objectName: shop/db, objectType: secretsmanager}",
    without_objects: "add it: a list of objects, each with `objectName` and `objectType`",
    may_be_empty: true,
};

const OWN_REQUEST: RequestKeys = request_keys("objectName", "objectVersion");
const OWN_REQUEST_BY_LABEL: RequestKeys = request_keys("objectName", "objectVersionLabel");
const FAILOVER_REQUEST: RequestKeys = request_keys("failoverObject.objectName", "failoverObject.objectVersion");
const FAILOVER_REQUEST_BY_LABEL: RequestKeys = request_keys("failoverObject.objectName", "failoverObject.objectVersionLabel");

/// Its requests have no method, arguments or lease.
const fn request_keys(name: &'static str, version: &'static str) -> RequestKeys {
    RequestKeys { name, version, method: name, args: name, lease: name }
}

/// Reads one object.
struct ObjectReader<'r, 'c> {
    class: &'r mut Class<'c>,
    entry: &'r Entry,
    label: &'r Label,
}

/// What an object says of its secret.
struct Said {
    name: String,
    service: Option<Service>,
    alias: Option<String>,
    version: Option<String>,
    label: Option<String>,
}

/// What `failoverObject` says.
#[derive(Default)]
struct SaidInstead {
    name: Option<String>,
    version: Option<String>,
    label: Option<String>,
}

// === impl ObjectReader ===

impl ObjectReader<'_, '_> {
    fn read(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Object> {
        document::refuse_doubles(reader, faults);
        let said = self.read_said(reader, faults);
        let instead = self.read_instead(reader, faults);
        let path = said.as_ref().and_then(|said| self.read_path(said, reader, faults));
        let mode = self.read_mode("filePermission", reader, faults);
        let searches = self.read_searches(reader, faults);
        let said = said?;
        refuse_same_file(path.as_ref(), &searches, reader, faults);
        let target = Target::of(&said.name, said.service, self.entry.region.as_deref());
        let target = target.map_err(|fault| fault.note(reader, faults)).ok();
        self.check_instead(&said, &instead, reader, faults);
        let service = target.as_ref().map(|target| target.service).or(said.service)?;
        let secret = self.ask(target.as_ref(), service, &said, reader, faults);
        let other = self.ask_instead(secret.is_some(), service, &said, &instead, reader, faults);
        let secret = self.class.place(secret?, other);
        let path = path?;
        let select = if searches.is_empty() { Select::Response { path } } else { Select::Searched { path, searches } };
        Some(Object { mode, ..Object::of_secret(self.label.index, secret, select) })
    }

    /// `None`: there is no name.
    fn read_said(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Said> {
        let name = self.text("objectName", reader, faults);
        let service = self.text("objectType", reader, faults).map(|text| service(&text));
        let [alias, version, label] = ["objectAlias", "objectVersion", "objectVersionLabel"].map(|key| self.text(key, reader, faults));
        let service = match service {
            Some(Err(problem)) => {
                faults.add(position(reader, "objectType"), "objectType", problem);
                return None;
            }
            Some(Ok(service)) => Some(service),
            None => None,
        };
        match name {
            Some(name) => Some(Said { name, service, alias, version, label }),
            None if reader.get("objectName").is_some() => None,
            None => {
                reader.missing("objectName", "write the secret's name or its ARN, such as `objectName: shop/db`", faults);
                None
            }
        }
    }

    fn read_instead(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> SaidInstead {
        let Some(mut inner) = reader.reader("failoverObject", faults) else { return SaidInstead::default() };
        document::refuse_doubles(&inner, faults);
        let [name, version, label] = ["objectName", "objectVersion", "objectVersionLabel"].map(|key| self.text(key, &mut inner, faults));
        inner.finish(faults);
        SaidInstead { name, version, label }
    }

    /// The file's path. The class claims it here.
    fn read_path(&mut self, said: &Said, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<FilePath> {
        let (key, text) = said.alias.as_ref().map_or(("objectName", &said.name), |alias| ("objectAlias", alias));
        self.warn_of_quotes(key, text);
        let at = position(reader, key);
        let path = self.entry.translation.apply(text).parse::<FilePath>();
        let path = path.map_err(|cause| faults.add(at, key, path_problem(text, &cause))).ok()?;
        self.class.claim_file(self.label, at, &path);
        Some(path)
    }

    fn read_mode(&mut self, key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<FileMode> {
        let node = reader.get(key).filter(|node| node.text() != Some(""))?;
        // The peer ignores such a text as a mode. As a number it would be another mode.
        if let Some(text) = quoted_digits(node).filter(|text| text.len() != 4) {
            let problem = format!("{} does not have four digits (write for example \"0644\")", quoted(text));
            faults.add(position(reader, key), key, problem);
            return None;
        }
        let (mode, is_cut) = reader.parsed(key, faults, mode)?;
        if is_cut {
            let problem = format!("its first digit is not used: the driver does not set these bits (write {mode})");
            self.class.warn(Some(self.label), key, problem);
        }
        Some(mode)
    }

    fn read_searches(&mut self, reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<Search> {
        let Some(node) = reader.get("jmesPath") else { return Vec::new() };
        let Value::Sequence(items) = &node.value else {
            let problem = format!("is {}, but must be a list (write for example `- {{path: username, objectAlias: user}}`)", node.kind());
            faults.add(node.at, "jmesPath", problem);
            return Vec::new();
        };
        items.iter().filter_map(|item| self.read_search(item, faults)).collect()
    }

    fn read_search(&mut self, item: &Node, faults: &mut Faults) -> Option<Search> {
        let mut reader = Reader::of(item, "jmesPath", faults)?;
        document::refuse_doubles(&reader, faults);
        let [query, alias] = JMES_TEXTS.map(|(key, remedy)| {
            let text = self.text(key, &mut reader, faults);
            if text.is_none() && reader.get(key).is_none_or(|node| node.text() == Some("")) {
                reader.missing(key, remedy, faults);
            }
            text
        });
        let mode = self.read_mode("filePermission", &mut reader, faults);
        let query = query.and_then(|text| {
            let refused = |cause| faults.add(position(&mut reader, "path"), "jmesPath.path", query_problem(&text, &cause));
            Query::expression(&text).map_err(refused).ok()
        });
        let path = alias.and_then(|alias| {
            let at = position(&mut reader, "objectAlias");
            self.warn_of_quotes("jmesPath.objectAlias", &alias);
            let path = self.entry.translation.apply(&alias).parse::<FilePath>();
            let path = path.map_err(|cause| faults.add(at, "jmesPath.objectAlias", path_problem(&alias, &cause))).ok()?;
            self.class.claim_file(self.label, at, &path);
            Some(path)
        });
        reader.finish(faults);
        Some(Search { query: query?, path: path?, mode })
    }

    /// The provider's README puts an alias in quotes twice, like an expression. Then the file's name has the quotes too.
    fn warn_of_quotes(&mut self, key: &str, text: &str) {
        let inner = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote)).filter(|inner| !inner.is_empty());
        if let Some(inner) = inner {
            let problem = format!(
                "{} has quotes, and so the file's name has them too (write {} for a name without quotes)",
                quoted(text),
                clean(inner)
            );
            self.class.warn(Some(self.label), key, problem);
        }
    }

    /// A key's text as the provider reads it: a number or a boolean becomes a text. An empty text counts as left out.
    fn text(&mut self, key: &'static str, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<String> {
        let node = reader.get(key)?;
        let Value::Scalar { text, kind } = &node.value else {
            faults.add(node.at, reader.path(key), not_text(node));
            return None;
        };
        let read = kind.to_text(text);
        if read != *text {
            let problem = format!("is read as {} (put {} in quotes if you mean the text)", quoted(&read), quoted(text));
            self.class.warn(Some(self.label), &reader.path(key), problem);
        }
        Some(read).filter(|read| !read.is_empty())
    }

    // === the failover region ===

    /// Checks the failover as a whole, and what the object says of it.
    fn check_instead(&mut self, said: &Said, instead: &SaidInstead, reader: &mut Reader<'_>, faults: &mut Faults) {
        let at = position(reader, "failoverObject");
        let is_there = instead.name.is_some() || instead.version.is_some() || instead.label.is_some();
        if is_there && !self.entry.has_failover {
            faults.add(at, "failoverObject", "needs `failoverRegion` in the class, which is missing (add that, or remove this key)");
        }
        if instead.name.is_some() && said.alias.is_none() {
            faults.add(at, "objectAlias", "is missing: with `failoverObject` Keyferry needs it for the name of the file (add it)");
        }
        if (instead.name.is_some() || instead.version.is_some()) && instead.version != said.version {
            let problem =
                "is different from the object's `objectVersion`: a secret and its replica have the same versions (write the same in both)";
            faults.add(at, "failoverObject.objectVersion", problem);
        }
        if self.entry.has_failover && instead.name.is_none() && said.name.starts_with(ARN) {
            let problem = "is an ARN of one region, but the class has a `failoverRegion` (add `failoverObject` with the ARN or the name \
                           there, or write only the name)";
            faults.add(position(reader, "objectName"), "objectName", problem);
        }
    }

    fn ask(
        &mut self,
        target: Option<&Target>,
        service: Service,
        said: &Said,
        reader: &mut Reader<'_>,
        faults: &mut Faults,
    ) -> Option<SecretRef> {
        let version = name::version(service, said.version.as_deref(), said.label.as_deref());
        let version = version.map_err(|fault| fault.note(reader, faults)).ok();
        self.class.format.request = if said.label.is_some() { OWN_REQUEST_BY_LABEL } else { OWN_REQUEST };
        let backend = self.entry.backend.as_ref()?;
        let ask = backend.asking(&target?.ask, version.as_ref()?.as_deref());
        self.class.judge(ask, false, reader, faults)
    }

    /// What Keyferry asks for if the region is out: the same, with the changes from `failoverObject`. `is_sound`: the object's own secret
    /// has no fault.
    fn ask_instead(
        &mut self,
        is_sound: bool,
        service: Service,
        said: &Said,
        instead: &SaidInstead,
        reader: &mut Reader<'_>,
        faults: &mut Faults,
    ) -> Option<SecretRef> {
        let failover = self.entry.failover.as_ref()?;
        // A fault in a name is reported once.
        if instead.name.is_none() && (!is_sound || said.name.starts_with(ARN)) {
            return None;
        }
        let at = position(reader, "failoverObject");
        let name = instead.name.as_ref().unwrap_or(&said.name);
        let label = instead.label.as_ref().or(said.label.as_ref()).map(String::as_str);
        let noted = |fault: Fault, faults: &mut Faults| fault.note_at(at, "failoverObject.", faults);
        let target = Target::of(name, Some(service), Some(&failover.region)).map_err(|fault| noted(fault, faults)).ok()?;
        let version = name::version(service, said.version.as_deref(), label).map_err(|fault| noted(fault, faults)).ok()?;
        self.class.format.request = if label.is_some() { FAILOVER_REQUEST_BY_LABEL } else { FAILOVER_REQUEST };
        self.class.judge(failover.backend.asking(&target.ask, version.as_deref()), false, reader, faults)
    }
}

/// What each entry of `jmesPath` must say.
const JMES_TEXTS: [(&str, &str); 2] =
    [(JMES_KEYS[0], "a JMESPath expression, such as `path: username`"), (JMES_KEYS[1], "the file's name, such as `objectAlias: user`")];

fn service(text: &str) -> Result<Service, String> {
    if text == "ssm" {
        return Err("there is no type \"ssm\" (write ssmparameter)".to_owned());
    }
    one_of("type", &SERVICES, text)
}

/// Four octal digits, in quotes or not; other spellings of such a mode work too. The boolean says whether bits were left out that the
/// driver does not set.
fn mode(text: &str) -> Result<(FileMode, bool), String> {
    let is_octal = text.len() == 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match FileMode::from_bits(u64::from_str_radix(text, 8).unwrap_or_default() & 0o777).filter(|_| is_octal) {
        Some(mode) => Ok((mode, !text.starts_with('0'))),
        None if text.len() > 4 && text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit()) => {
            Err(format!("{} has more than four digits (write for example \"0644\")", quoted(text)))
        }
        None => values::mode(text).map(|mode| (mode, false)),
    }
}

fn quoted_digits(node: &Node) -> Option<&str> {
    let Value::Scalar { text, kind: Kind::Text } = &node.value else { return None };
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
}

fn path_problem(text: &str, cause: &InvalidPath) -> String {
    let remedy = match cause {
        InvalidPath::Absolute | InvalidPath::ControlCharacter => "remove it",
        InvalidPath::DotElement(_) | InvalidPath::EmptyElement | InvalidPath::Reserved => "choose another name with `objectAlias`",
        InvalidPath::Empty => "name the file with `objectAlias`",
        InvalidPath::LongElement(_) | InvalidPath::TooLong(_) => "choose a shorter name with `objectAlias`",
    };
    format!("{} cannot name a file: it {cause} ({remedy})", quoted(text))
}

fn query_problem(text: &str, cause: &InvalidQuery) -> String {
    let remedy = match cause {
        InvalidQuery::Growth | InvalidQuery::Operators(_) | InvalidQuery::Slice | InvalidQuery::TooLong(_) => "write a simpler expression",
        InvalidQuery::OpenJoin => "write the separator itself, in quotes: join(', ', hosts)",
        InvalidQuery::Call(_) | InvalidQuery::Empty | InvalidQuery::StrayReference | InvalidQuery::Syntax(_) => {
            if text.contains(['-', '/', ':']) && !text.contains('"') {
                "write a member whose name has such characters in quotes: '\"a-b\"'"
            } else {
                "see https://jmespath.org"
            }
        }
    };
    format!("{} {cause} ({remedy})", quoted(text))
}

/// Finds two files of one object. Clashes with other objects are found later.
fn refuse_same_file(path: Option<&FilePath>, searches: &[Search], reader: &mut Reader<'_>, faults: &mut Faults) {
    for (at, search) in searches.iter().enumerate() {
        let is_taken = path == Some(&search.path) || searches[..at].iter().any(|earlier| earlier.path == search.path);
        if is_taken {
            let problem = format!("{} is the name of two files of this object (give each a different name)", quoted(search.path.as_str()));
            faults.add(position(reader, "jmesPath"), "jmesPath.objectAlias", problem);
        }
    }
}

/// The path that names an object in messages. Nothing of it has been checked yet.
fn path_for_messages(node: &Node) -> String {
    let Value::Mapping(entries) = &node.value else {
        return String::new();
    };
    let text = |key: &str| entries.iter().find(|(k, _)| k.text == key).and_then(|(_, node)| node.text()).filter(|text| !text.is_empty());
    text("objectAlias").or_else(|| text("objectName")).unwrap_or_default().chars().take(256).collect()
}

impl parameters::Chosen {
    fn asking<'a>(&'a self, name: &'a str, version: Option<&'a str>) -> Ask<'a> {
        let (method, args, lease) = (Method::Get, Args::default(), LeaseFor::Pod);
        Ask { backend: Some(self.name.as_str()), name, below: false, version, method, args, lease, keep: None, login: self.login.clone() }
    }
}
