//! A plan: what a class asks for, parsed and checked, with every name resolved to a configured backend.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::iter::once;
use std::sync::OnceLock;

use thiserror::Error;
use tokio::time::Duration;

use super::{
    Ask, BackendName, Code, FaultList, FieldName, FileMode, FilePath, FolderPath, InvalidName, LoginKey, Owner, Query, SecretRef, clean,
};
use crate::formats::Format;

/// A parsed class.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is asked for, each distinct secret once, in the order of the objects.
    pub secrets: Vec<SecretRef>,
    pub objects: Vec<Object>,
    /// The oldest answer that may come from a cache, where the class says so: less than the configuration's, never more.
    pub fresh: Option<Duration>,
    /// The same for one that is given because the store is out.
    pub max_stale: Option<Duration>,
    /// The class's own words for the parts of a login, where its dialect has others.
    pub parameters: BTreeMap<LoginKey, String>,
    pub version_ids: VersionIds,
    /// Made at the first mount.
    pub versioned: OnceLock<Vec<(String, usize)>>,
    /// What the class says and is not heeded, or could be meant otherwise. A mount goes on all the same.
    pub warnings: FaultList<ClassWarning>,
}

/// What the versions in an answer are named by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VersionIds {
    /// Its file's path, for each object: what a peer's classes had.
    Paths,
    /// `<backend>/<name>`, for each distinct secret.
    #[default]
    Secrets,
}

/// One entry of a class.
#[derive(Debug)]
pub struct Object {
    /// Its place in the class, counted from 1.
    pub index: usize,
    /// Its place in [`Plan::secrets`], counted from 0; of several secrets, that of the first.
    pub secret: usize,
    /// What it is made of, where that is several secrets: the first too. Empty: it is made of `secret` alone.
    pub parts: Vec<Part>,
    pub select: Select,
    /// Its own or the class's; `None`: the driver's `permission`.
    pub mode: Option<FileMode>,
    /// `None`: root, or whoever writes the volume.
    pub owner: Option<Owner>,
    /// How its fields are read first; `None`: as the store has them. Of several secrets, each has its own.
    pub parse: Option<Parse>,
    pub encoding: Encoding,
    pub newline: Newline,
    /// An absent secret or field is no failure.
    pub optional: bool,
}

/// One of several secrets that an object is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its place in [`Plan::secrets`], counted from 0.
    pub secret: usize,
    /// It may be absent, whatever the object says.
    pub optional: bool,
    pub parse: Option<Parse>,
}

/// Which text of a secret is JSON whose members become the fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parse {
    Field(FieldName),
    /// That of the only field.
    Lone,
}

/// What becomes of the line ends at the end of a text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Newline {
    /// There is one at least.
    Ensure,
    #[default]
    Keep,
    Strip,
}

/// Which part of the secret goes where.
#[derive(Debug)]
pub enum Select {
    /// A field of exactly this name, else what the JMESPath expression yields.
    Field { query: Query, path: FilePath },
    /// A field of exactly this name, as the peers' `secretKey` finds it: within a map called `data` first.
    Key { key: FieldName, path: FilePath },
    /// A file for each field that one of the patterns matches.
    Fields { patterns: Vec<FieldPattern>, folder: FolderPath },
    /// Fields of all its secrets together, in a form that an application reads.
    Formatted { format: Format, patterns: Vec<FieldPattern>, path: FilePath },
    /// The store's whole answer, as its backend gives it.
    Response { path: FilePath },
    /// The lone field's bytes, else JSON of all fields.
    Whole { path: FilePath },
}

/// An expression is searched in a copy of the secret, as a tree.
const EXPRESSION: usize = 16;

/// A file in a format is written twice, and what is nested in it is read each time.
const FORMATTED: usize = 8;

/// What is parsed is copied.
const PARSED: usize = 4;

/// A glob over field names: `*` stands for any run of characters, everything else for itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldPattern(String);

/// How the stored text is encoded; the file gets the decoded bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Encoding {
    Base64,
    Base64Url,
    Hex,
    /// As it is.
    #[default]
    Utf8,
}

/// Names an object in messages: `object 2 (db/password)`. The path is as the class writes it; shown, it is cut and escaped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    pub index: usize,
    pub path: String,
}

/// What the configured backends know, as far as parsing a class needs it.
pub trait Catalogue: Send + Sync {
    /// What a class asks for, in the one spelling that policy sees and the store is sent; or what of it means nothing there.
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved>;

    /// The backend that serves the classes of a peer's dialect: the one of this very address, else the one the node has for them.
    fn serving(&self, dialect: &str, address: Option<&str>) -> Result<Serving, Unresolved> {
        let _ = address;
        Err(Unresolved::Backend(format!("this node has no backend for the dialect `{dialect}`")))
    }
}

/// Which backend serves a peer's class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serving {
    pub backend: BackendName,
    /// The class's address is this backend's own: what else the class says of how to reach it is not needed.
    pub by_address: bool,
    /// Its configuration says which audience a Pod's token has; else it is the one that the peer is used to.
    pub names_audience: bool,
}

/// Why what a class asks for means nothing here.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Unresolved {
    #[error("{0}")]
    Backend(String),
    #[error("{problem}")]
    Login { key: LoginKey, problem: String },
    #[error("the name {name:?} {cause}")]
    Name { name: String, cause: InvalidName },
    /// The store has no logins at all, or none as the Pod: the class may mean its other stores.
    #[error("{problem}")]
    NoLogin { key: LoginKey, problem: String },
    /// The method, its arguments, or whom the answer's lease is for: named by the native format's key.
    #[error("{problem}")]
    Request { key: &'static str, problem: String },
    #[error("{0}")]
    Version(String),
}

/// One thing that is wrong with a class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassFault {
    /// `None`: the class as a whole.
    pub object: Option<Label>,
    /// The key at fault, as the class writes it.
    pub key: String,
    /// What is wrong, and what to do: `"9999" is over 0777 (write an octal mode ...)`.
    pub problem: String,
    pub code: Code,
    /// Line and column within the key's text, both from 1, where the fault has a place.
    pub at: Option<(usize, usize)>,
}

/// Something to know about a class that can be mounted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassWarning {
    /// `None`: the class as a whole.
    pub object: Option<Label>,
    /// The key it is about, as the class writes it.
    pub key: String,
    pub problem: String,
}

/// Everything that is wrong with a class: never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassFaults(pub FaultList<ClassFault>);

// === impl Plan ===

impl Plan {
    /// What an object asks for; of several secrets, the first.
    pub fn secret(&self, object: &Object) -> &SecretRef {
        &self.secrets[object.secret]
    }

    /// Everything that an object asks for, each secret once.
    pub fn secrets_of(&self, object: &Object) -> impl Iterator<Item = &SecretRef> {
        object.secrets().map(move |place| &self.secrets[place])
    }

    /// Each object with the place of each of its secrets.
    pub fn asked(&self) -> impl Iterator<Item = (&Object, usize)> {
        self.objects.iter().flat_map(|object| object.secrets().map(move |place| (object, place)))
    }

    /// The object at this place in the class, counted from 1.
    pub fn object(&self, index: usize) -> Option<&Object> {
        self.objects.get(index.checked_sub(1)?)
    }

    /// Whether the class is in the native format: remedies may name its words. The peers' formats have others, and fewer.
    pub fn is_native(&self) -> bool {
        match self.version_ids {
            VersionIds::Paths => false,
            VersionIds::Secrets => true,
        }
    }

    /// What the versions in an answer are of, each with its id: places in [`Plan::secrets`]. Ids are unique: one that stands there again
    /// gets `#2`, `#3` ... at its end.
    pub fn versioned(&self) -> &[(String, usize)] {
        self.versioned.get_or_init(|| match self.version_ids {
            VersionIds::Paths => unique(self.objects.iter().map(|object| (object.label().path, object.secret))),
            VersionIds::Secrets => unique((0..).zip(&self.secrets).map(|(place, secret)| (secret.id(), place))),
        })
    }
}

fn unique(named: impl Iterator<Item = (String, usize)>) -> Vec<(String, usize)> {
    // How often each was wanted.
    let mut taken: HashMap<String, usize> = HashMap::new();
    let each = named.map(|(id, place)| {
        let mut free = id.clone();
        while taken.contains_key(&free) {
            let times = taken.entry(id.clone()).or_insert(1);
            *times += 1;
            free = format!("{id}#{times}");
        }
        taken.insert(free.clone(), 1);
        (free, place)
    });
    each.collect()
}

// === impl Object ===

impl Object {
    /// Made of one secret, with nothing else said of it.
    pub fn of_secret(index: usize, secret: usize, select: Select) -> Self {
        Self {
            index,
            secret,
            parts: Vec::new(),
            select,
            mode: None,
            owner: None,
            parse: None,
            encoding: Encoding::Utf8,
            newline: Newline::Keep,
            optional: false,
        }
    }

    /// The places of its secrets in [`Plan::secrets`], the first first, each once.
    pub fn secrets(&self) -> impl Iterator<Item = usize> {
        let repeats = |at: usize, place: usize| place == self.secret || self.parts[..at].iter().any(|part| part.secret == place);
        let others = self.parts.iter().enumerate().filter(move |(at, part)| !repeats(*at, part.secret));
        once(self.secret).chain(others.map(|(_, part)| part.secret))
    }

    /// Whether the secret of this place may be absent: nothing of the object needs it.
    pub fn may_lack(&self, place: usize) -> bool {
        let mut asking = self.parts.iter().filter(|part| part.secret == place).peekable();
        self.optional || asking.peek().is_some() && asking.all(|part| part.optional)
    }

    /// How often its secret may have to be looked through.
    pub fn looks(&self) -> usize {
        let is_parsed = self.parse.is_some() || self.parts.iter().any(|part| part.parse.is_some());
        let parsed = if is_parsed { PARSED } else { 0 };
        let selected = match &self.select {
            Select::Fields { patterns, .. } => patterns.iter().filter(|pattern| !pattern.is_literal()).count().max(1),
            Select::Field { query, .. } if query.is_expression() => EXPRESSION,
            Select::Formatted { patterns, .. } => FORMATTED + patterns.iter().filter(|pattern| !pattern.is_literal()).count(),
            Select::Field { .. } | Select::Key { .. } | Select::Response { .. } | Select::Whole { .. } => 1,
        };
        selected + parsed
    }

    pub fn label(&self) -> Label {
        let path = match &self.select {
            Select::Fields { folder, .. } => folder.to_string(),
            Select::Field { .. } | Select::Formatted { .. } | Select::Key { .. } | Select::Response { .. } | Select::Whole { .. } => {
                self.path().map(ToString::to_string).unwrap_or_default()
            }
        };
        Label { index: self.index, path }
    }

    /// Its file, where it is one; `None`: it is a file for each field.
    pub fn path(&self) -> Option<&FilePath> {
        match &self.select {
            Select::Field { path, .. }
            | Select::Formatted { path, .. }
            | Select::Key { path, .. }
            | Select::Response { path }
            | Select::Whole { path } => Some(path),
            Select::Fields { .. } => None,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { write!(f, "object {}", self.index) } else { write!(f, "object {} ({})", self.index, clean(&self.path)) }
    }
}

// === impl FieldPattern ===

impl FieldPattern {
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A pattern without `*` names one field, and that field must exist.
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    pub fn matches(&self, name: &str) -> bool {
        crate::glob::matches(&self.0, name)
    }
}

// === impl ClassFault ===

impl fmt::Display for ClassWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, key, problem } = self;
        match object {
            Some(label) => write!(f, "{label}: {key}: {problem}"),
            None => write!(f, "{key}: {problem}"),
        }
    }
}

/// A fault of no object tells its line: nothing else says where it stands.
impl fmt::Display for ClassFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.object, self.at) {
            (Some(label), _) => write!(f, "{label}: {}: {}", self.key, self.problem),
            (None, Some((line, _))) => write!(f, "{}: line {line}: {}", self.key, self.problem),
            (None, None) => write!(f, "{}: {}", self.key, self.problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(usize, bool)]) -> Object {
        let parts: Vec<_> = parts.iter().map(|(secret, optional)| Part { secret: *secret, optional: *optional, parse: None }).collect();
        let (secret, select) = (parts.first().map_or(7, |part| part.secret), Select::Whole { path: "f".parse().unwrap() });
        Object { parts, ..Object::of_secret(1, secret, select) }
    }

    #[test]
    fn an_object_names_each_of_its_secrets_once() {
        let places = |object: &Object| object.secrets().collect::<Vec<_>>();
        assert_eq!(places(&of(&[])), [7]);
        assert_eq!(places(&of(&[(3, false), (1, false), (3, true), (1, false), (0, false)])), [3, 1, 0]);
    }

    #[test]
    fn a_secret_may_be_absent_only_where_nothing_needs_it() {
        let object = of(&[(3, true), (1, false), (3, false), (2, true)]);
        assert_eq!([3, 1, 2].map(|place| object.may_lack(place)), [false, false, true]);
        assert!(!of(&[]).may_lack(7) && Object { optional: true, ..of(&[]) }.may_lack(7));
    }

    #[test]
    fn ids_are_unique() {
        let ids = |wanted: &[&str]| {
            let ids = unique(wanted.iter().map(|id| (*id).to_owned()).zip(0..));
            assert!(ids.iter().map(|(_, place)| *place).eq(0..wanted.len()));
            ids.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(&["files/db", "files/db@3", "files/db"]), "files/db files/db@3 files/db#2");
        assert_eq!(ids(&["a", "a#2", "a", "a"]), "a a#2 a#3 a#4");
        assert_eq!(ids(&["a", "a", "a#2", "a#2"]), "a a#2 a#2#2 a#2#3");
    }
}
