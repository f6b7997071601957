//! What a class may set for a backend's login: `classMay` of that backend.
//!
//! A role or an address in a class is a request of the class's author. The backend's configuration says which are granted; all others are
//! refused, like a secret without a rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::foreign::check_seen;
use super::placeholder::{check as check_placeholders, fill_in, samples};
use crate::glob;
use crate::model::{LoginKey, PodIdentity};
use crate::yaml::{Faults, Reader};

/// The keys that are lists of patterns; `tls` is yes or no, and `tlsDir` a folder.
const LISTS: [LoginKey; 5] = [LoginKey::Address, LoginKey::Audience, LoginKey::Mount, LoginKey::Namespace, LoginKey::Role];

/// What the address of a Unix socket begins with.
const SOCKET: &str = "unix://";

/// Globs by key: `*` within one element, `**` across; `${namespace}` and `${serviceAccount}` are the Pod's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassMay {
    patterns: BTreeMap<LoginKey, Vec<String>>,
    tls: bool,
    tls_dir: Option<PathBuf>,
}

/// Any role, and nothing else: the store itself decides which role a Pod's token may have.
impl Default for ClassMay {
    fn default() -> Self {
        Self { patterns: BTreeMap::from([(LoginKey::Role, vec!["*".to_owned()])]), tls: false, tls_dir: None }
    }
}

impl ClassMay {
    /// Reads the mapping; a key that is absent keeps its default. It is a fault if a pattern grants nothing: `spelled` gives the normal
    /// spelling of a class's text under a key, or why it is not possible.
    pub fn parse(reader: &mut Reader<'_>, spelled: impl Fn(LoginKey, &str) -> Result<String, String>, faults: &mut Faults) -> Self {
        let mut may = Self::default();
        for key in LISTS {
            let Some(texts) = reader.texts(key.as_str(), faults) else { continue };
            let path = reader.path(key.as_str());
            let sound = texts.into_iter().filter_map(|(at, text)| {
                check(text, |value| spelled(key, value)).map_err(|problem| faults.add(at, path.clone(), problem)).ok()
            });
            may.patterns.insert(key, sound.collect());
        }
        may.tls = reader.boolean(LoginKey::Tls.as_str(), faults).unwrap_or(false);
        may.tls_dir = reader.parsed(LoginKey::TlsDir.as_str(), faults, folder);
        if let (Some(node), false) = (reader.get(LoginKey::TlsDir.as_str()), may.tls) {
            faults.add(node.at, reader.path(LoginKey::TlsDir.as_str()), "needs tls: true (set that, or remove it)");
        }
        may
    }

    /// The folder that must contain every file of a class. `None`: a class may name no file.
    pub fn tls_dir(&self) -> Option<&Path> {
        self.tls_dir.as_deref()
    }

    /// Grants these too, under a key.
    pub fn and(mut self, key: LoginKey, patterns: &[&str]) -> Self {
        self.patterns.entry(key).or_default().extend(patterns.iter().map(|pattern| (*pattern).to_owned()));
        self
    }

    /// Whether any class could set anything under this key.
    pub fn grants(&self, key: LoginKey) -> bool {
        match key {
            LoginKey::Tls => self.tls,
            LoginKey::TlsDir => self.tls_dir.is_some(),
            LoginKey::Address | LoginKey::Audience | LoginKey::Mount | LoginKey::Namespace | LoginKey::Role => {
                !self.patterns(key).is_empty()
            }
        }
    }

    /// What it grants under a key, as in the configuration.
    pub fn patterns(&self, key: LoginKey) -> &[String] {
        self.patterns.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn allows(&self, key: LoginKey, value: &str, pod: &PodIdentity) -> bool {
        // Only the opening of a file shows whether it is below the folder: here only its name is known.
        if matches!(key, LoginKey::Tls | LoginKey::TlsDir) {
            return self.grants(key);
        }
        // A socket is a path on the node: a pattern for servers (`**`) does not match it.
        let reaches = |pattern: &&String| pattern.starts_with(SOCKET) || !value.starts_with(SOCKET);
        let patterns = self.patterns(key).iter().filter(reaches).filter_map(|pattern| fill_in(pattern, pod));
        patterns.into_iter().any(|pattern| glob::matches_path(&pattern, value))
    }
}

/// Whether a class could write a text that the pattern matches.
fn check(pattern: &str, spelled: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    check_placeholders(pattern)?;
    check_seen(pattern)?;
    let fits = |sample: &String| spelled(sample).is_ok_and(|one| one == *sample);
    if samples(pattern, &["x", "/x", "https://x", "unix:///x"]).iter().any(fits) {
        return Ok(pattern.to_owned());
    }
    let remedy = match spelled(pattern) {
        Ok(one) if !pattern.contains(['*', '$']) => format!("did you mean {one:?}?"),
        Err(problem) if !pattern.contains(['*', '$']) => problem,
        // `*` matches within one element, and an address has several.
        _ if pattern == "*" => "`**` is any; name what classes may say, such as https://bao.example:8200".to_owned(),
        _ => "write it as the configuration does, with `*` for any run of characters".to_owned(),
    };
    Err(format!("{pattern:?} is not something that a class can say ({remedy})"))
}

fn folder(text: &str) -> Result<PathBuf, String> {
    match text {
        text if !text.starts_with('/') => Err(format!("{text:?} is not an absolute path (start it with /)")),
        text if text.contains("${") => Err(format!("{text:?} has a placeholder: the folder is the same for every class (write it out)")),
        text => Ok(PathBuf::from(text)),
    }
}
