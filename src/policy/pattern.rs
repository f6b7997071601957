//! One `<backend>/<name>` pattern of a rule: as the configuration writes it, and with one Pod's names in it.

use super::placeholder::{borrows, fill_in};
use crate::glob;
use crate::model::PodIdentity;

/// A pattern for one Pod.
#[derive(Debug)]
pub(super) struct Pattern {
    /// As in the configuration.
    source: String,
    text: String,
    /// For each element: whether the configuration spells it, so it has no star and no name of the Pod.
    spelled: Vec<bool>,
}

impl Pattern {
    /// `None`: with the Pod's names it matches nothing.
    pub(super) fn of(pattern: &str, pod: &PodIdentity) -> Option<Self> {
        let is_spelled = |element: &str| !element.contains('*') && !borrows(element);
        // A Pod's names have no `/`: the number of elements stays the same.
        let (source, text) = (pattern.to_owned(), fill_in(pattern, pod)?);
        Some(Self { source, text, spelled: pattern.split('/').map(is_spelled).collect() })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        glob::matches_path(&self.text, subject)
    }

    /// The same, if these elements of the name (counted from 0, without the backend) must be spelled.
    pub(super) fn matches_spelling(&self, subject: &str, elements: &[usize]) -> bool {
        // Most patterns match no name at all, and most names have nothing that must be spelled: the slower check is only for the others.
        if !self.matches(subject) || elements.is_empty() {
            return self.matches(subject);
        }
        // In a subject, the backend is the first element.
        let may = |p: usize, n: usize| !n.checked_sub(1).is_some_and(|n| elements.contains(&n)) || self.spelled.get(p) == Some(&true);
        glob::matches_path_where(&self.text, subject, may)
    }
}
