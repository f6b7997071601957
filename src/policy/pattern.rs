//! One `<backend>/<name>` pattern of a rule: as the configuration writes it, and with one Pod's names in it.

use super::placeholder::{borrows, fill_in};
use crate::glob;
use crate::model::PodIdentity;

/// A pattern for one Pod.
#[derive(Debug)]
pub(super) struct Pattern {
    /// As the configuration has it.
    source: String,
    text: String,
    /// Of each element, whether the configuration spells it: no star is in it, and no name of the Pod.
    spelled: Vec<bool>,
}

impl Pattern {
    /// `None`: the Pod's names make it match nothing.
    pub(super) fn of(pattern: &str, pod: &PodIdentity) -> Option<Self> {
        let is_spelled = |element: &str| !element.contains('*') && !borrows(element);
        // A name of a Pod has no `/`: the elements are the same before and after.
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

    /// The same, where these elements of the name (counted from 0, the backend not among them) have to be spelled.
    pub(super) fn matches_spelling(&self, subject: &str, elements: &[usize]) -> bool {
        // Most patterns match no name at all, and most names have nothing to be spelled: the dearer walk is for the others.
        if !self.matches(subject) || elements.is_empty() {
            return self.matches(subject);
        }
        // In a subject the backend comes first.
        let may = |p: usize, n: usize| !n.checked_sub(1).is_some_and(|n| elements.contains(&n)) || self.spelled.get(p) == Some(&true);
        glob::matches_path_where(&self.text, subject, may)
    }
}
