//! A plan: what a class asks for, parsed and checked. Every name belongs to a configured backend.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::iter::once;
use std::sync::{Arc, OnceLock};

use thiserror::Error;
use tokio::time::Duration;

use super::{
    Ask, BackendName, Below, Code, FaultList, FieldName, FileMode, FilePath, FolderPath, InvalidName, Keystore, LoginKey, Owner,
    PasswordOf, Query, SecretRef, Template, clean,
};
use crate::formats::Format;
use crate::steps::{Spent, Steps};

/// A parsed class.
#[derive(Debug, Default)]
pub struct Plan {
    /// What Keyferry asks for: each distinct secret once, in the order of the objects. Secrets that are only in [`Plan::instead`] come
    /// last.
    pub secrets: Vec<SecretRef>,
    /// For a secret, by its place: another secret that Keyferry asks for if the first one's store is out. The policy must allow both.
    pub instead: BTreeMap<usize, usize>,
    pub objects: Vec<Object>,
    /// The places of the objects, counted from 0, that ask for all secrets below a prefix. Each mount finds these secrets again.
    pub prefixes: Vec<usize>,
    /// The oldest answer that may come from a cache, if the class says so: it can be less than the configuration's, never more.
    pub fresh: Option<Duration>,
    /// The same for an answer that is used because the store is out.
    pub max_stale: Option<Duration>,
    /// The class's own words for the parts of a login, if its dialect has others.
    pub parameters: BTreeMap<LoginKey, String>,
    pub version_ids: VersionIds,
    /// Made at the first mount.
    pub versioned: OnceLock<Vec<(Arc<str>, usize)>>,
    /// Values of the class that are not used, or that the author may have meant in another way. They do not stop a mount.
    pub warnings: FaultList<ClassWarning>,
}

/// How the versions in an answer are named.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VersionIds {
    /// For each object, the path of its file: so the peers named them.
    Paths,
    /// For each distinct secret, `<backend>/<name>`.
    #[default]
    Secrets,
}

/// One entry of a class.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its place in the class, counted from 1.
    pub index: usize,
    /// Its place in [`Plan::secrets`], counted from 0. With several secrets: the place of the first. With a prefix: the place of the
    /// folder.
    pub secret: usize,
    /// The secrets that it is made of, if there are several: the first too. Empty: it is made of `secret` alone. With a prefix: the secrets
    /// that were found, with their names after the prefix.
    pub parts: Vec<Part>,
    /// `None`: it names its secrets.
    pub below: Option<Box<Below>>,
    pub select: Select,
    /// From the object or the class; `None`: the driver's `permission`.
    pub mode: Option<FileMode>,
    /// `None`: root, or the writer of the volume.
    pub owner: Option<Owner>,
    /// How its fields are parsed before use; `None`: they stay as the store has them. Of several secrets, each has its own.
    pub parse: Option<Parse>,
    pub encoding: Encoding,
    pub newline: Newline,
    /// It is not a failure if a secret or field is absent.
    pub optional: bool,
}

/// One file with the result of an expression.
#[derive(Clone, Debug)]
pub struct Search {
    pub query: Query,
    pub path: FilePath,
    /// `None`: the object's.
    pub mode: Option<FileMode>,
}

/// One of several secrets that an object is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its name in a template; empty without a template.
    pub name: String,
    /// Its place in [`Plan::secrets`], counted from 0.
    pub secret: usize,
    /// It may be absent, even if the object is not optional.
    pub optional: bool,
    pub parse: Option<Parse>,
}

/// Which field of a secret is parsed before anything is selected, and how: its content becomes the fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parse {
    /// The members of a JSON text.
    Field(FieldName),
    /// The same, for the only field.
    Lone,
    /// Key and certificates of a PKCS#12 file. `None`: the file has no password.
    Pkcs12 { field: FieldName, password: Option<PasswordOf> },
}

/// What happens to the line ends at the end of a text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Newline {
    /// The text ends in at least one.
    Ensure,
    #[default]
    Keep,
    Strip,
}

/// Which part of the secret goes where.
#[derive(Clone, Debug)]
pub enum Select {
    /// One file for each secret below a prefix. With patterns: one folder for each secret, with a file for each field that a pattern
    /// matches.
    Each { patterns: Option<Vec<FieldPattern>>, folder: FolderPath },
    /// A field with exactly this name, or else what the JMESPath expression finds.
    Field { query: Query, path: FilePath },
    /// A field with exactly this name, as the peers' `secretKey` finds it: first in a map called `data`.
    Key { key: FieldName, path: FilePath },
    /// A file for each field that a pattern matches.
    Fields { patterns: Vec<FieldPattern>, folder: FolderPath },
    /// Fields of all its secrets together, in a format that an application reads.
    Formatted { format: Format, patterns: Vec<FieldPattern>, path: FilePath },
    /// A PKCS#12 file.
    Keystore { keystore: Box<Keystore>, path: FilePath },
    /// The store's whole answer, as its backend gives it.
    Response { path: FilePath },
    /// The same, and files with what expressions find in it, read as one JSON document.
    Searched { path: FilePath, searches: Vec<Search> },
    /// The result of a template with all its secrets.
    Template { template: Arc<Template>, path: FilePath },
    /// The bytes of the only field, or else JSON of all fields.
    Whole { path: FilePath },
}

/// The files of an object.
#[derive(Clone, Copy, Debug)]
pub enum Delivers<'o> {
    /// For each secret below a prefix: only the store knows how many there are.
    Each(&'o FolderPath),
    /// For each field that a pattern matches.
    Fields(&'o FolderPath, &'o [FieldPattern]),
    File(&'o FilePath),
    /// The secret's own file, and one for each search.
    Searched(&'o FilePath, &'o [Search]),
}

/// An expression searches a copy of the secret, which is a tree.
const EXPRESSION: usize = 16;

/// A file in a format is written twice, and its nested values are read each time.
const FORMATTED: usize = 8;

/// The values of a template are copied. The template pays for its further work itself.
const TEMPLATE: usize = 16;

/// A keystore needs derived keys, which always cost much.
const KEYSTORE: usize = 1 << 16;

/// A parsed text is copied.
const PARSED: usize = 4;

/// The memory for a compiled search, in bytes: most searches are a few names.
const SEARCH: usize = 512;

/// A glob for field names: `*` matches any run of characters, every other character matches itself.
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

/// The name of an object in messages: `object 2 (db/password)`. The path is as the class writes it. A message shows it cut and escaped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    pub index: usize,
    pub path: String,
}

/// What parsing a class needs to know about the configured backends.
pub trait Catalogue: Send + Sync {
    /// What a class asks for, in the one spelling that the policy sees and the store gets; or the part that has no meaning there.
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved>;

    /// The backend that serves the classes of a peer's dialect: the one with exactly this address, else the node's backend for these
    /// classes. If there are several and the dialect has several ways to log in, the one with this way.
    fn serving(&self, dialect: &str, address: Option<&str>, way: Option<&str>) -> Result<Serving, Unresolved> {
        let _ = (address, way);
        Err(Unresolved::Backend(format!("this node has no backend for the dialect `{dialect}`")))
    }
}

/// Which backend serves a peer's class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serving {
    pub backend: BackendName,
    /// The class's address is this backend's own: nothing else that the class says about the connection is needed.
    pub by_address: bool,
    /// The backend's configuration gives the audience of a Pod's token. If it does not, the peer's usual audience is used.
    pub names_audience: bool,
}

/// Why a class cannot ask for something here.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Unresolved {
    #[error("{0}")]
    Backend(String),
    #[error("{problem}")]
    Login { key: LoginKey, problem: String },
    #[error("the name {name:?} {cause}")]
    Name { name: String, cause: InvalidName },
    /// The store has no logins, or no logins as the Pod: the class may mean its other stores.
    #[error("{problem}")]
    NoLogin { key: LoginKey, problem: String },
    /// The method, its arguments, or who shares the answer's lease: named by the native format's key.
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
    /// The faulty key, as the class writes it.
    pub key: String,
    /// What is wrong, and what to do: `"9999" is over 0777 (write an octal mode ...)`.
    pub problem: String,
    pub code: Code,
    /// Line and column within the key's text, both from 1, where the fault has a place.
    pub at: Option<(usize, usize)>,
}

/// A remark about a class that can be mounted.
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
    /// What an object asks for; with several secrets, the first.
    pub fn secret(&self, object: &Object) -> &SecretRef {
        &self.secrets[object.secret]
    }

    /// Everything that an object asks for, each secret once.
    pub fn secrets_of(&self, object: &Object) -> impl Iterator<Item = &SecretRef> {
        object.secrets().map(move |place| &self.secrets[place])
    }

    /// The memory for its compiled templates and searches, in bytes.
    pub fn compiled(&self) -> usize {
        let searches: usize = self.objects.iter().map(|object| object.searches().len()).sum();
        let renames = self.prefixes.iter().filter_map(|place| self.objects.get(*place)?.below.as_ref()?.rename.as_ref());
        self.templates().map(|(_, template)| template.weight()).chain(renames.map(|rename| rename.weight())).sum::<usize>()
            + searches * SEARCH
    }

    /// The objects that ask for all secrets below a prefix.
    pub fn bulk(&self) -> impl Iterator<Item = &Object> {
        self.prefixes.iter().filter_map(|place| self.objects.get(*place))
    }

    /// The objects with a template, and their templates.
    pub fn templates(&self) -> impl Iterator<Item = (&Object, &Template)> {
        self.objects.iter().filter_map(|object| {
            let Select::Template { template, .. } = &object.select else { return None };
            Some((object, &**template))
        })
    }

    /// Each object with the place of each of its secrets, and of the secret that replaces it if its store is out.
    pub fn asked(&self) -> impl Iterator<Item = (&Object, usize)> {
        let both = |place: usize| once(place).chain(self.instead.get(&place).copied());
        self.objects.iter().flat_map(move |object| object.secrets().flat_map(both).map(move |place| (object, place)))
    }

    /// How many of its secrets Keyferry always asks for: the first ones. It asks for the others only if the store of one of these is out.
    pub fn needed(&self) -> usize {
        self.instead.values().min().copied().unwrap_or(self.secrets.len())
    }

    /// The place of the secret that is delivered for the one at this place: the replacement counts if only it was found.
    pub fn answering(&self, place: usize, is_found: impl Fn(usize) -> bool) -> usize {
        let instead = || self.instead.get(&place).copied().filter(|instead| is_found(*instead));
        if is_found(place) { place } else { instead().unwrap_or(place) }
    }

    /// The object at this place in the class, counted from 1.
    pub fn object(&self, index: usize) -> Option<&Object> {
        self.objects.get(index.checked_sub(1)?)
    }

    /// Whether the class is in the native format: remedies may use its words. The peers' formats have other words, and fewer.
    pub fn is_native(&self) -> bool {
        match self.version_ids {
            VersionIds::Paths => false,
            VersionIds::Secrets => true,
        }
    }

    /// The ids for the versions in an answer, each with its place in [`Plan::secrets`]. Ids are unique: one that is there already gets
    /// `#2`, `#3` ... at its end.
    pub fn versioned(&self) -> &[(Arc<str>, usize)] {
        self.versioned.get_or_init(|| match self.version_ids {
            VersionIds::Paths => unique(self.objects.iter().flat_map(|object| {
                let searched = object.searches().iter().map(|search| search.path.to_string());
                once(object.label().path).chain(searched).map(move |path| (path, object.secret))
            })),
            VersionIds::Secrets => unique((0..).zip(&self.secrets).map(|(place, secret)| (secret.id(), place))),
        })
    }
}

fn unique(named: impl Iterator<Item = (String, usize)>) -> Vec<(Arc<str>, usize)> {
    // How often each id was used.
    let mut taken: HashMap<String, usize> = HashMap::new();
    let each = named.map(|(id, place)| {
        let mut free = id.clone();
        while taken.contains_key(&free) {
            let times = taken.entry(id.clone()).or_insert(1);
            *times += 1;
            free = format!("{id}#{times}");
        }
        let named = (free.as_str().into(), place);
        taken.insert(free, 1);
        named
    });
    each.collect()
}

// === impl Object ===

impl Object {
    /// An object of one secret, with defaults for everything else.
    pub fn of_secret(index: usize, secret: usize, select: Select) -> Self {
        Self {
            index,
            secret,
            parts: Vec::new(),
            below: None,
            select,
            mode: None,
            owner: None,
            parse: None,
            encoding: Encoding::Utf8,
            newline: Newline::Keep,
            optional: false,
        }
    }

    /// The places of its secrets in [`Plan::secrets`], each once, the first secret first.
    pub fn secrets(&self) -> impl Iterator<Item = usize> {
        let others = move || self.parts.iter().flat_map(Part::secrets).chain(self.parse.iter().filter_map(Parse::password));
        let repeats = move |at: usize, place: usize| place == self.secret || others().take(at).any(|earlier| earlier == place);
        once(self.secret).chain(others().enumerate().filter(move |(at, place)| !repeats(*at, *place)).map(|(_, place)| place))
    }

    /// The keystores that it reads: each with the place of its secret.
    pub fn opened(&self) -> impl Iterator<Item = (usize, &Parse)> {
        let own = self.parse.iter().map(|parse| (self.secret, parse));
        let of_parts = self.parts.iter().filter_map(|part| Some((part.secret, part.parse.as_ref()?)));
        own.chain(of_parts).filter(|(_, parse)| matches!(parse, Parse::Pkcs12 { .. }))
    }

    /// Each place in [`Plan::secrets`], so that it can be changed.
    pub fn places_mut(&mut self) -> impl Iterator<Item = &mut usize> {
        let of_parts = self.parts.iter_mut().flat_map(|part| once(&mut part.secret).chain(password_of(&mut part.parse)));
        once(&mut self.secret).chain(of_parts).chain(password_of(&mut self.parse))
    }

    /// Whether the secret at this place may be absent: no part of the object needs it.
    pub fn may_lack(&self, place: usize) -> bool {
        let mut asking = self.parts.iter().filter(|part| part.secrets().any(|one| one == place)).peekable();
        self.optional || asking.peek().is_some() && asking.all(|part| part.optional)
    }

    /// How often its secret may be read through.
    pub fn looks(&self) -> usize {
        let is_parsed = self.parse.is_some() || self.parts.iter().any(|part| part.parse.is_some());
        let parsed = match is_parsed {
            true if self.opened().next().is_some() => KEYSTORE,
            true => PARSED,
            false => 0,
        };
        let selected = match &self.select {
            Select::Each { patterns: Some(patterns), .. } | Select::Fields { patterns, .. } => {
                patterns.iter().filter(|pattern| !pattern.is_literal()).count().max(1)
            }
            Select::Field { query, .. } if query.is_expression() => EXPRESSION,
            Select::Formatted { patterns, .. } => FORMATTED + patterns.iter().filter(|pattern| !pattern.is_literal()).count(),
            Select::Keystore { .. } => KEYSTORE,
            Select::Searched { searches, .. } => EXPRESSION * (1 + searches.len()),
            Select::Template { .. } => TEMPLATE,
            Select::Each { patterns: None, .. }
            | Select::Field { .. }
            | Select::Key { .. }
            | Select::Response { .. }
            | Select::Whole { .. } => 1,
        };
        selected + parsed
    }

    /// Whether the object needs the secret of this name below its prefix.
    ///
    /// # Errors
    /// Finding that out takes more work than allowed.
    pub fn takes(&self, name: &str, steps: &Steps) -> Result<bool, Spent> {
        self.below.as_ref().map_or(Ok(false), |below| below.takes(name, steps))
    }

    /// A secret that was found below its prefix. If it is gone meanwhile and the object is optional, it is left out.
    pub fn part_below(&self, name: String, secret: usize) -> Part {
        Part { name, secret, optional: self.optional, parse: self.parse.clone() }
    }

    pub fn label(&self) -> Label {
        let path = match self.delivers() {
            Delivers::File(path) | Delivers::Searched(path, _) => path.to_string(),
            Delivers::Each(folder) | Delivers::Fields(folder, _) => folder.to_string(),
        };
        Label { index: self.index, path }
    }

    /// The searches in its secret.
    pub fn searches(&self) -> &[Search] {
        match self.delivers() {
            Delivers::Searched(_, searches) => searches,
            Delivers::Each(_) | Delivers::Fields(..) | Delivers::File(_) => &[],
        }
    }

    /// Its file, if it has only one; `None`: it has a file for each field, for each secret, or for each search.
    pub fn path(&self) -> Option<&FilePath> {
        match self.delivers() {
            Delivers::File(path) => Some(path),
            Delivers::Each(_) | Delivers::Fields(..) | Delivers::Searched(..) => None,
        }
    }

    /// Where its bytes go.
    pub fn delivers(&self) -> Delivers<'_> {
        match &self.select {
            Select::Field { path, .. }
            | Select::Formatted { path, .. }
            | Select::Key { path, .. }
            | Select::Keystore { path, .. }
            | Select::Response { path }
            | Select::Template { path, .. }
            | Select::Whole { path } => Delivers::File(path),
            Select::Each { folder, .. } => Delivers::Each(folder),
            Select::Fields { patterns, folder } => Delivers::Fields(folder, patterns),
            Select::Searched { path, searches } => Delivers::Searched(path, searches),
        }
    }
}

// === impl Part ===

impl Part {
    /// The places of the secrets that it is made of: its secret, and the one with a password for it.
    fn secrets(&self) -> impl Iterator<Item = usize> {
        once(self.secret).chain(self.parse.as_ref().and_then(Parse::password))
    }
}

// === impl Parse ===

impl Parse {
    /// The place of the secret that has the password.
    fn password(&self) -> Option<usize> {
        match self {
            Self::Pkcs12 { password, .. } => password.as_ref().map(|password| password.secret),
            Self::Field(_) | Self::Lone => None,
        }
    }
}

fn password_of(parse: &mut Option<Parse>) -> Option<&mut usize> {
    match parse {
        Some(Parse::Pkcs12 { password, .. }) => password.as_mut().map(|password| &mut password.secret),
        Some(Parse::Field(_) | Parse::Lone) | None => None,
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

/// A fault without an object shows its line: nothing else says where it is.
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
        let parts: Vec<_> = parts
            .iter()
            .map(|(secret, optional)| Part { name: String::new(), secret: *secret, optional: *optional, parse: None })
            .collect();
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
