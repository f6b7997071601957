//! The keys of a format: those that work, those that will work later, and the words of other formats that people may write here.

use crate::model::quoted;
use crate::nearest::nearest;
use crate::yaml::unknown_key;

/// Keys of a class, or of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub known: &'static [&'static str],
    /// The keys that a message lists if none is similar.
    pub shown: &'static [&'static str],
    /// Keyferry refuses these until they work; each has a text that says what to do until then.
    pub later: &'static [(&'static str, &'static str)],
    /// Words of other formats, each with what to write here.
    pub foreign: &'static [(&'static str, &'static str)],
    /// The same for words that follow a pattern.
    pub of_others: fn(&str) -> Option<String>,
}

impl Keys {
    /// What is wrong with a key that is not known.
    pub(super) fn problem(&self, key: &str) -> String {
        let find =
            |table: &'static [(&'static str, &'static str)]| table.iter().find(|(known, _)| *known == key).map(|(_, remedy)| *remedy);
        match (find(self.later), find(self.foreign)) {
            (Some(remedy), _) => format!("is not yet supported ({remedy})"),
            (None, Some(remedy)) => format!("is not a known key ({remedy})"),
            (None, None) => (self.of_others)(key).map_or_else(|| self.unknown(key), |remedy| format!("is not a known key ({remedy})")),
        }
    }

    /// Names the most similar of all keys, those of later versions too.
    fn unknown(&self, key: &str) -> String {
        let all: Vec<&'static str> = self.known.iter().copied().chain(self.later.iter().map(|(key, _)| *key)).collect();
        unknown_key(key, if nearest(key, all.iter().copied()).is_some() { &all } else { self.shown })
    }
}

/// Finds the word that a text is, or lists the words.
pub(super) fn one_of<T: Copy>(what: &str, words: &[(&'static str, T)], text: &str) -> Result<T, String> {
    let names = || words.iter().map(|(name, _)| *name);
    words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| match nearest(text, names()) {
        Some(near) => format!("there is no {what} {} (did you mean `{near}`?)", quoted(text)),
        None => format!("there is no {what} {} (there are: {})", quoted(text), names().collect::<Vec<_>>().join(", ")),
    })
}

/// A boolean as Go's `strconv.ParseBool` reads it, which the peers use.
pub(super) fn go_boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{} is neither true nor false (write \"true\" or \"false\")", quoted(text))),
    }
}
