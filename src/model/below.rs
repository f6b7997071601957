//! What an object asks for below a prefix: which of the secrets there, and the names of their files.

use std::sync::Arc;

use super::{Secret, SecretBytes, Template};
use crate::glob;
use crate::steps::{Spent, Steps};

/// Which secrets below a folder an object needs. Patterns describe the name after the folder: `*` stays within an element, `**` crosses.
#[derive(Clone, Debug)]
pub struct Below {
    /// Empty: all.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// The name of a file; `None`: the same as its secret's.
    pub rename: Option<Arc<Template>>,
}

/// The names that [`Below::rename`] can use: the one of the secret, and the one of its field.
pub const RENAMED: [&str; 2] = ["name", "field"];

/// The steps that one pattern takes besides its text.
const LOOK: u64 = 32;

/// A byte of a pattern may be looked at once for each element of a name. A name has at most this many elements.
const LEVELS: u64 = glob::LEVELS as u64 + 1;

/// The names in a folder, as its store lists them. They are not secret values: everyone who may list may see them.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'s>(&'s SecretBytes);

// === impl Listing ===

impl<'s> Listing<'s> {
    /// The field in which the names are.
    pub const KEYS: &'static str = "keys";

    /// `None`: the secret is not a listing.
    pub fn of(secret: &'s Secret) -> Option<Self> {
        secret.fields.get(Self::KEYS).map(|field| Self(&field.bytes))
    }

    /// Of its text.
    pub fn bytes(self) -> usize {
        self.0.len()
    }

    /// At least as many as it has names.
    pub fn most(self) -> usize {
        self.0.expose().split(|byte| *byte == b',').count()
    }

    /// `None`: it is not a list of texts.
    pub fn names(self) -> Option<Vec<String>> {
        serde_json::from_slice(self.0.expose()).ok()
    }
}

// === impl Below ===

impl Below {
    /// Whether the object needs the secret of this name.
    ///
    /// # Errors
    /// The steps are used up.
    pub fn takes(&self, name: &str, steps: &Steps) -> Result<bool, Spent> {
        let fits = |pattern: &String| {
            charge(pattern, name, steps)?;
            Ok(glob::matches_path(pattern, name))
        };
        Ok((self.include.is_empty() || any(&self.include, fits)?) && !any(&self.exclude, fits)?)
    }

    /// Whether this folder may have a secret that the object needs. `folder` has no `/` at its end.
    ///
    /// # Errors
    /// The steps are used up.
    pub fn goes_into(&self, folder: &str, steps: &Steps) -> Result<bool, Spent> {
        let reaches = |pattern: &String| {
            charge(pattern, folder, steps)?;
            Ok(glob::reaches(pattern, folder))
        };
        let covers = |pattern: &String| {
            for _ in 0..=LEVELS {
                charge(pattern, folder, steps)?;
            }
            Ok(glob::covers(pattern, folder))
        };
        Ok((self.include.is_empty() || any(&self.include, reaches)?) && !any(&self.exclude, covers)?)
    }

    /// About how much memory it takes besides its template, in bytes.
    pub fn weight(&self) -> usize {
        self.include.iter().chain(&self.exclude).map(|pattern| pattern.len() + size_of::<String>()).sum::<usize>() + size_of::<Self>()
    }
}

/// Elements of the pattern are compared with elements of the name, of which there are few.
fn charge(pattern: &str, name: &str, steps: &Steps) -> Result<(), Spent> {
    steps.charge(LOOK + LEVELS * pattern.len() as u64 + name.len() as u64)
}

fn any(patterns: &[String], fits: impl Fn(&String) -> Result<bool, Spent>) -> Result<bool, Spent> {
    for pattern in patterns {
        if fits(pattern)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(include: &[&str], exclude: &[&str]) -> Below {
        let texts = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Below { include: texts(include), exclude: texts(exclude), rename: None }
    }

    fn takes(below: &Below, names: &[&str]) -> String {
        let taken = names.iter().filter(|name| below.takes(name, &Steps::unbounded()).unwrap());
        taken.copied().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_are_wanted_by_patterns() {
        let names = ["web", "api", "old/web", "old/deep/api"];
        assert_eq!(takes(&below(&[], &[]), &names), "web api old/web old/deep/api");
        assert_eq!(takes(&below(&["*"], &[]), &names), "web api");
        assert_eq!(takes(&below(&["**/web"], &[]), &names), "web old/web");
        assert_eq!(takes(&below(&[], &["old/**"]), &names), "web api");
        assert_eq!(takes(&below(&["*", "old/*"], &["api"]), &names), "web old/web");
        assert_eq!(takes(&below(&["nothing"], &[]), &names), "");
    }

    #[test]
    fn folders_without_anything_wanted_are_left_alone() {
        let goes = |below: &Below, folder: &str| below.goes_into(folder, &Steps::unbounded()).unwrap();
        assert!(goes(&below(&[], &[]), "old") && goes(&below(&["old/*"], &[]), "old") && goes(&below(&[], &["old/*"]), "old"));
        assert!(!goes(&below(&["*"], &[]), "old") && !goes(&below(&[], &["old/**"]), "old") && !goes(&below(&["new/**"], &[]), "old"));
    }

    #[test]
    fn patterns_are_paid_for() {
        let all = below(&["**/a/".repeat(200).as_str(), "x"], &[]);
        let steps = Steps::of(2_000);
        assert!(all.takes("a/a/a/a/a/a/a/a", &steps).is_err());
    }
}
