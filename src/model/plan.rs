//! A plan: what a class asks for, parsed and checked, with every name resolved to a configured backend.

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
    /// What is asked for, each distinct secret once, in the order of the objects. Those that are only in [`Plan::instead`] come last.
    pub secrets: Vec<SecretRef>,
    /// Of a secret, by its place, another one that is asked for if the store of the first is out. Policy decides both.
    pub instead: BTreeMap<usize, usize>,
    pub objects: Vec<Object>,
    /// The places of the objects, counted from 0, that ask for all below a prefix. Each mount finds for itself what that is.
    pub prefixes: Vec<usize>,
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
#[derive(Clone, Debug)]
pub struct Object {
    /// Its place in the class, counted from 1.
    pub index: usize,
    /// Its place in [`Plan::secrets`], counted from 0; of several secrets, that of the first; of a prefix, that of the folder.
    pub secret: usize,
    /// What it is made of, where that is several secrets: the first too. Empty: it is made of `secret` alone. Of a prefix: what was found,
    /// by its name from the prefix on.
    pub parts: Vec<Part>,
    /// `None`: it names its secrets.
    pub below: Option<Box<Below>>,
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

/// One file of what an expression finds.
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
    /// What a template calls it; empty where there is none.
    pub name: String,
    /// Its place in [`Plan::secrets`], counted from 0.
    pub secret: usize,
    /// It may be absent, whatever the object says.
    pub optional: bool,
    pub parse: Option<Parse>,
}

/// Which field of a secret is read before anything is selected, and as what: what it holds becomes the fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parse {
    /// The members of a JSON text.
    Field(FieldName),
    /// The same, of the only field.
    Lone,
    /// Key and certificates of a PKCS#12 file. Without a password it has none.
    Pkcs12 { field: FieldName, password: Option<PasswordOf> },
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
#[derive(Clone, Debug)]
pub enum Select {
    /// Of each secret below a prefix a file; with patterns a folder, with a file for each field that one of them matches.
    Each { patterns: Option<Vec<FieldPattern>>, folder: FolderPath },
    /// A field of exactly this name, else what the JMESPath expression yields.
    Field { query: Query, path: FilePath },
    /// A field of exactly this name, as the peers' `secretKey` finds it: within a map called `data` first.
    Key { key: FieldName, path: FilePath },
    /// A file for each field that one of the patterns matches.
    Fields { patterns: Vec<FieldPattern>, folder: FolderPath },
    /// Fields of all its secrets together, in a form that an application reads.
    Formatted { format: Format, patterns: Vec<FieldPattern>, path: FilePath },
    /// A PKCS#12 file.
    Keystore { keystore: Box<Keystore>, path: FilePath },
    /// The store's whole answer, as its backend gives it.
    Response { path: FilePath },
    /// The same; and beside it files of what expressions find in it, read as one JSON document.
    Searched { path: FilePath, searches: Vec<Search> },
    /// What a template makes of all its secrets.
    Template { template: Arc<Template>, path: FilePath },
    /// The lone field's bytes, else JSON of all fields.
    Whole { path: FilePath },
}

/// The files of an object.
#[derive(Clone, Copy, Debug)]
pub enum Delivers<'o> {
    /// For each secret below a prefix: which those are, the store knows.
    Each(&'o FolderPath),
    /// For each field that one of the patterns matches.
    Fields(&'o FolderPath, &'o [FieldPattern]),
    File(&'o FilePath),
    /// The secret's own, and one for each search.
    Searched(&'o FilePath, &'o [Search]),
}

/// An expression is searched in a copy of the secret, as a tree.
const EXPRESSION: usize = 16;

/// A file in a format is written twice, and what is nested in it is read each time.
const FORMATTED: usize = 8;

/// What a template sees is copied, and what it does with it is its own.
const TEMPLATE: usize = 16;

/// A keystore takes keys that are derived, which is never little.
const KEYSTORE: usize = 1 << 16;

/// What is parsed is copied.
const PARSED: usize = 4;

/// What a search weighs, compiled, in bytes: most are a few names.
const SEARCH: usize = 512;

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

    /// The backend that serves the classes of a peer's dialect: the one of this very address, else the one the node has for them; of several
    /// one that logs in this way, where the dialect knows several.
    fn serving(&self, dialect: &str, address: Option<&str>, way: Option<&str>) -> Result<Serving, Unresolved> {
        let _ = (address, way);
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

    /// What its templates and searches weigh, compiled, in bytes.
    pub fn compiled(&self) -> usize {
        let searches: usize = self.objects.iter().map(|object| object.searches().len()).sum();
        let renames = self.prefixes.iter().filter_map(|place| self.objects.get(*place)?.below.as_ref()?.rename.as_ref());
        self.templates().map(|(_, template)| template.weight()).chain(renames.map(|rename| rename.weight())).sum::<usize>()
            + searches * SEARCH
    }

    /// The objects that ask for all below a prefix.
    pub fn bulk(&self) -> impl Iterator<Item = &Object> {
        self.prefixes.iter().filter_map(|place| self.objects.get(*place))
    }

    /// The objects that are made by a template, each with it.
    pub fn templates(&self) -> impl Iterator<Item = (&Object, &Template)> {
        self.objects.iter().filter_map(|object| {
            let Select::Template { template, .. } = &object.select else { return None };
            Some((object, &**template))
        })
    }

    /// Each object with the place of each of its secrets, and of what would be asked for instead.
    pub fn asked(&self) -> impl Iterator<Item = (&Object, usize)> {
        let both = |place: usize| once(place).chain(self.instead.get(&place).copied());
        self.objects.iter().flat_map(move |object| object.secrets().flat_map(both).map(move |place| (object, place)))
    }

    /// How many of its secrets are asked for in any case: the first ones. The others are asked for if one of these is out.
    pub fn needed(&self) -> usize {
        self.instead.values().min().copied().unwrap_or(self.secrets.len())
    }

    /// The place of the secret that is delivered for the one of this place, by which of them were found.
    pub fn answering(&self, place: usize, is_found: impl Fn(usize) -> bool) -> usize {
        let instead = || self.instead.get(&place).copied().filter(|instead| is_found(*instead));
        if is_found(place) { place } else { instead().unwrap_or(place) }
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
            VersionIds::Paths => unique(self.objects.iter().flat_map(|object| {
                let searched = object.searches().iter().map(|search| search.path.to_string());
                once(object.label().path).chain(searched).map(move |path| (path, object.secret))
            })),
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

    /// The places of its secrets in [`Plan::secrets`], the first first, each once.
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

    /// Each place in [`Plan::secrets`], to be changed.
    pub fn places_mut(&mut self) -> impl Iterator<Item = &mut usize> {
        let of_parts = self.parts.iter_mut().flat_map(|part| once(&mut part.secret).chain(password_of(&mut part.parse)));
        once(&mut self.secret).chain(of_parts).chain(password_of(&mut self.parse))
    }

    /// Whether the secret of this place may be absent: nothing of the object needs it.
    pub fn may_lack(&self, place: usize) -> bool {
        let mut asking = self.parts.iter().filter(|part| part.secrets().any(|one| one == place)).peekable();
        self.optional || asking.peek().is_some() && asking.all(|part| part.optional)
    }

    /// How often its secret may have to be looked through.
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

    /// Whether it wants the secret of this name below its prefix.
    ///
    /// # Errors
    /// To tell that takes more work than may be done.
    pub fn takes(&self, name: &str, steps: &Steps) -> Result<bool, Spent> {
        self.below.as_ref().map_or(Ok(false), |below| below.takes(name, steps))
    }

    /// A secret that was found below its prefix. One that is gone meanwhile is left out, where all may be absent.
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

    /// What is searched for in its secret.
    pub fn searches(&self) -> &[Search] {
        match self.delivers() {
            Delivers::Searched(_, searches) => searches,
            Delivers::Each(_) | Delivers::Fields(..) | Delivers::File(_) => &[],
        }
    }

    /// Its file, where it is one; `None`: it is a file for each field, for each secret, or for each search.
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
    /// The places of what it is made of: its secret, and that of a password for it.
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
