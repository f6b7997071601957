//! Readers of a tree: they note every fault instead of stopping at the first.

use std::fmt;

use super::{Key, Node, Position, Value};
use crate::nearest::nearest;

/// One fault, its place, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    pub at: Position,
    /// The full key, such as `backends.files.vault` or `mode`.
    pub key: String,
    pub problem: String,
}

/// Faults in the order in which they are found: all of them, or only the first ones and the number of the others.
#[derive(Debug)]
pub struct Faults {
    kept: Vec<Fault>,
    most: usize,
    more: usize,
}

/// A mapping that is being read. It knows which keys were asked for, so that it can report the others.
#[derive(Debug)]
pub struct Reader<'n> {
    /// The key of the mapping itself, empty for the whole document.
    path: String,
    at: Position,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
    /// Keys that count as left out if they are `""`.
    blanks: &'static [&'static str],
}

// === impl Faults ===

impl Faults {
    /// For texts that a tenant writes: it keeps as many faults as a message has room for.
    pub fn at_most(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    pub fn add(&mut self, at: Position, key: impl Into<String>, problem: impl Into<String>) {
        self.add_with(at, || (key.into(), problem.into()));
    }

    /// Key and problem are made only if they are kept.
    pub fn add_with(&mut self, at: Position, words: impl FnOnce() -> (String, String)) {
        if self.kept.len() < self.most {
            let (key, problem) = words();
            self.kept.push(Fault { at, key, problem });
        } else {
            self.more += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many were found, kept or not.
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// How many were not kept.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Those that were kept, in the order of the text.
    pub fn into_sorted(mut self) -> Vec<Fault> {
        self.kept.sort_by_key(|fault| fault.at);
        self.kept
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self { kept: Vec::new(), most: usize::MAX, more: 0 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.key, self.problem) }
    }
}

// === impl Reader ===

impl<'n> Reader<'n> {
    /// Starts to read a mapping. Null is an empty mapping; anything else is a fault.
    pub fn of(node: &'n Node, path: impl Into<String>, faults: &mut Faults) -> Option<Self> {
        let path = path.into();
        let entries: &[(Key, Node)] = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            Value::Scalar { .. } | Value::Sequence(_) => {
                faults.add(node.at, path, format!("is {}, but must be a mapping (write a line `key: value` for each key)", node.kind()));
                return None;
            }
        };
        Some(Self { path, at: node.at, entries, known: Vec::new(), blanks: &[] })
    }

    /// For these keys an empty text counts as left out.
    pub fn with_blanks(self, blanks: &'static [&'static str]) -> Self {
        Self { blanks, ..self }
    }

    /// Where the mapping is.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The full name of one of its keys.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key; null counts as absent. From now on the key is known.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let is_blank = |node: &Node| node.is_null() || self.blanks.contains(&key) && node.text() == Some("");
        self.entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node).filter(|node| !is_blank(node))
    }

    /// Every entry, for a mapping whose keys are names.
    pub fn entries(&self) -> &'n [(Key, Node)] {
        self.entries
    }

    /// The scalar text of a key; a list or mapping is a fault.
    pub fn text(&mut self, key: &'static str, faults: &mut Faults) -> Option<&'n str> {
        let node = self.get(key)?;
        if node.text().is_none() {
            faults.add(node.at, self.path(key), not_text(node));
        }
        node.text()
    }

    /// Parses a key's text; the parser's error becomes the fault.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key, faults)?;
        let at = self.get(key)?.at;
        parse(text).map_err(|error| faults.add(at, self.path(key), error.to_string())).ok()
    }

    /// A plain `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        let node = self.get(key)?;
        let value = node.boolean();
        if value.is_none() {
            faults.add(node.at, self.path(key), "must be true or false (write one of them, without quotes)");
        }
        value
    }

    /// A list of texts; a single text counts as a list with one item.
    pub fn texts(&mut self, key: &'static str, faults: &mut Faults) -> Option<Vec<(Position, &'n str)>> {
        let node = self.get(key)?;
        let items = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } => std::slice::from_ref(node),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.text() {
                Some(text) => texts.push((item.at, text)),
                None => faults.add(
                    item.at,
                    self.path(key),
                    format!("holds {}, but must be a list of texts (write each on a separate line, after `- `)", item.kind()),
                ),
            }
        }
        Some(texts)
    }

    /// The mapping under a key.
    pub fn reader(&mut self, key: &'static str, faults: &mut Faults) -> Option<Reader<'n>> {
        let node = self.get(key)?;
        Reader::of(node, self.path(key), faults)
    }

    /// Notes a required key that is missing.
    pub fn missing(&self, key: &str, remedy: &str, faults: &mut Faults) {
        faults.add(self.at, self.path(key), format!("is missing ({remedy})"));
    }

    /// Ends the reading: every key that no code asked for is a fault that names the most similar known key.
    pub fn finish(self, faults: &mut Faults) {
        for (key, _) in self.entries {
            if !self.known.contains(&key.text.as_str()) {
                faults.add(key.at, self.path(&key.text), unknown_key(&key.text, &self.known));
            }
        }
    }
}

/// The message about a value that is not a text.
pub fn not_text(node: &Node) -> String {
    format!("is {}, but must be a text (write one value; one that starts with `[` or `{{` needs quotes)", node.kind())
}

/// `is not a known key (did you mean `path`?)`, or, if no key is similar, the list of keys.
pub fn unknown_key(key: &str, known: &[&'static str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("is not a known key (did you mean `{near}`?)"),
        None => format!("is not a known key (known here: {})", known.join(", ")),
    }
}
