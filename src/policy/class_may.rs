//! What a class may say about how a backend is entered: `classMay` of that backend.
//!
//! A role or an address in a class is a request of whoever wrote it. The backend's configuration says which are granted; all else is
//! refused, as a secret without a rule is.

use std::collections::BTreeMap;

use super::fill_in;
use crate::glob;
use crate::model::{LoginKey, PodIdentity};
use crate::yaml::{Faults, Reader};

/// The keys that are lists of patterns; `tls` is yes or no.
const LISTS: [LoginKey; 5] = [LoginKey::Address, LoginKey::Audience, LoginKey::Mount, LoginKey::Namespace, LoginKey::Role];

/// Globs by key: `*` within one element, `**` across; `${namespace}` and `${serviceAccount}` are the Pod's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassMay {
    patterns: BTreeMap<LoginKey, Vec<String>>,
    tls: bool,
}

/// Any role, and nothing else: the store itself says which role a Pod's token may have.
impl Default for ClassMay {
    fn default() -> Self {
        Self { patterns: BTreeMap::from([(LoginKey::Role, vec!["*".to_owned()])]), tls: false }
    }
}

impl ClassMay {
    /// Reads the mapping; a key that it does not have keeps its default.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let mut may = Self::default();
        for key in LISTS {
            let Some(texts) = reader.texts(key.as_str(), faults) else { continue };
            let path = reader.path(key.as_str());
            let known = texts.into_iter().filter_map(|(at, text)| super::check_placeholders(text, at, &path, faults));
            may.patterns.insert(key, known.collect());
        }
        may.tls = reader.boolean(LoginKey::Tls.as_str(), faults).unwrap_or(false);
        may
    }

    /// Grants these under a key as well.
    pub fn and(mut self, key: LoginKey, patterns: &[&str]) -> Self {
        self.patterns.entry(key).or_default().extend(patterns.iter().map(|pattern| (*pattern).to_owned()));
        self
    }

    /// Whether any class could say anything under this key.
    pub fn grants(&self, key: LoginKey) -> bool {
        match key {
            LoginKey::Tls => self.tls,
            LoginKey::Address | LoginKey::Audience | LoginKey::Mount | LoginKey::Namespace | LoginKey::Role => {
                !self.patterns(key).is_empty()
            }
        }
    }

    /// What it grants under a key, as the configuration writes it.
    pub fn patterns(&self, key: LoginKey) -> &[String] {
        self.patterns.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn allows(&self, key: LoginKey, value: &str, pod: &PodIdentity) -> bool {
        if key == LoginKey::Tls {
            return self.tls;
        }
        self.patterns(key).iter().filter_map(|pattern| fill_in(pattern, pod)).any(|pattern| glob::matches_path(&pattern, value))
    }
}
