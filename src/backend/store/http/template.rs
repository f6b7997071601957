//! A text with places for the values of a request: a part of the address, or a body. It is parsed once. Values are always escaped when they
//! are filled in. So a value stays one element of a path, one value of a query, or the inside of one JSON text.

use std::fmt;

use crate::nearest::nearest;

/// What may be in braces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Slot {
    Name,
    /// The whole name as one element of a path: its slashes are escaped too.
    NameEscaped,
    Namespace,
    ServiceAccount,
    Version,
}

/// Texts and places, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Slot(Slot),
    Text(String),
}

/// What to do with a brace that does not begin a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Braces {
    /// An address has no such braces.
    Refused,
    /// JSON has many such braces.
    Text,
}

/// The values to fill in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'v> {
    pub(super) name: &'v str,
    pub(super) namespace: &'v str,
    pub(super) service_account: &'v str,
    pub(super) version: &'v str,
}

// === impl Template ===

impl Template {
    /// # Errors
    /// There is no such place, or a brace where none is allowed.
    pub(super) fn parse(text: &str, braces: Braces) -> Result<Self, String> {
        match Slot::misspelt(text, braces) {
            Some((written, Some(slot))) => return Err(format!("has {written}, which is not a placeholder (write {slot})")),
            Some((written, None)) => return Err(format!("has {written}, which is not a placeholder (there are {})", Slot::all())),
            None => {}
        }
        let (mut parts, mut rest, mut literal) = (Vec::new(), text, String::new());
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            literal.push_str(before);
            rest = match (word(from), braces) {
                (Some(word), _) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Slot(Slot::find(word)?));
                    &from[word.len() + 2..]
                }
                (None, Braces::Text) => {
                    literal.push_str(&from[..1]);
                    &from[1..]
                }
                (None, Braces::Refused) => return Err("has a brace that is not part of a placeholder (write %7B or %7D)".to_owned()),
            };
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.0.contains(&Part::Slot(slot))
    }

    /// The text, with each value as `escape` writes it.
    pub(super) fn fill(&self, values: Values<'_>, escape: impl Fn(Slot, &str) -> String) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Slot(slot) => escape(*slot, values.of(*slot)),
            Part::Text(text) => text.clone(),
        });
        parts.collect()
    }
}

/// The word of a place that begins here.
fn word(text: &str) -> Option<&str> {
    let (word, _) = text.strip_prefix('{')?.split_once('}')?;
    (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(word)
}

/// The inside of a JSON text.
pub(super) fn escape_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

// === impl Slot ===

impl Slot {
    const ALL: [Self; 5] = [Self::Name, Self::NameEscaped, Self::Namespace, Self::ServiceAccount, Self::Version];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NameEscaped => "nameEscaped",
            Self::Namespace => "namespace",
            Self::ServiceAccount => "serviceAccount",
            Self::Version => "version",
        }
    }

    /// A place as other programs write it, and the place of ours that is meant. In JSON, a word that is not one of ours may be meant
    /// literally.
    fn misspelt(text: &str, braces: Braces) -> Option<(&str, Option<Self>)> {
        const FORMS: [(&str, &str); 7] = [("${", "}"), ("$(", ")"), ("%{", "}"), ("#{", "}"), ("{{", "}}"), ("{", "}"), ("$", "")];
        let mut found = text.match_indices(['$', '%', '#', '{']).filter_map(|(at, _)| {
            let (open, close) = FORMS.into_iter().find(|(open, _)| text[at..].starts_with(open))?;
            let inner = &text[at + open.len()..];
            let is_word = |c: char| c.is_ascii_alphanumeric();
            let length = if close.is_empty() { inner.find(|c| !is_word(c)).unwrap_or(inner.len()) } else { inner.find(close)? };
            let word = inner[..length].trim().trim_start_matches('.');
            let slot = Self::ALL.into_iter().find(|slot| slot.as_str().eq_ignore_ascii_case(word));
            let is_ours = open == "{" && inner[..length].chars().all(is_word);
            let counts = slot.is_some() || braces == Braces::Refused && open.len() > 1 && !word.is_empty();
            (counts && !is_ours).then_some((&text[at..at + open.len() + length + close.len()], slot))
        });
        found.next()
    }

    fn all() -> String {
        Self::ALL.map(|slot| slot.to_string()).join(", ")
    }

    fn find(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|slot| slot.as_str() == word).ok_or_else(|| {
            let near = nearest(word, Self::ALL.map(Self::as_str));
            let remedy = near.map_or_else(|| format!("there are {}", Self::all()), |near| format!("did you mean {{{near}}}?"));
            format!("{{{word}}} is not a placeholder ({remedy})")
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Slot(slot) => slot.fmt(f),
            Part::Text(text) => f.write_str(text),
        })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.as_str())
    }
}

// === impl Values ===

impl<'v> Values<'v> {
    /// Sample values, which show whether a template makes sense.
    pub(super) const SAMPLE: Values<'static> = Values { name: "a/\"b", namespace: "n", service_account: "s", version: "1" };

    fn of(self, slot: Slot) -> &'v str {
        match slot {
            Slot::Name | Slot::NameEscaped => self.name,
            Slot::Namespace => self.namespace,
            Slot::ServiceAccount => self.service_account,
            Slot::Version => self.version,
        }
    }
}
