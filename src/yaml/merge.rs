//! The merge key `<<`: it adds the members of other mappings, unless the mapping has them itself.

use std::collections::HashMap;

use granit_parser::{Event, ScalarStyle};

use super::{Fault, Key, Kind, Node, Position, Schema, Unparsed, Value, fault};

pub(super) const MERGE: &str = "<<";

/// What a mapping merges, and where the text says so.
pub(super) struct Merge {
    pub at: Position,
    /// How many entries of the mapping come before it.
    pub after: usize,
    /// A mapping, or a list of them; the first that has a key wins.
    pub from: Node,
}

/// Whether a key is `<<` without quotes, with YAML's tag for it or without a tag.
pub(super) fn is_merge(event: &Event<'_>) -> bool {
    let Event::Scalar(text, style, _, tag) = event else { return false };
    let tag = tag.as_deref().map(super::name_of);
    let is_tagged = tag == Some(Some("merge".to_owned()));
    text == MERGE && (is_tagged || tag.is_none() && *style == ScalarStyle::Plain)
}

impl Merge {
    /// Adds the members that the mapping does not have. The values were counted when they were read: here they are moved, not copied.
    pub(super) fn into_entries(self, entries: &mut Vec<(Key, Node)>, schema: Schema) -> Result<(), Unparsed> {
        let Self { at, after, from } = self;
        let mut known: HashMap<String, usize> = HashMap::with_capacity(entries.len());
        for (index, (key, _)) in entries.iter().enumerate() {
            check_key(key)?;
            known.insert(key.text.clone(), index);
        }
        let own = entries.len();
        for mapping in mappings(at, from)? {
            for (key, node) in mapping {
                check_key(&key)?;
                match known.get(&key.text) {
                    Some(index) if *index < after && schema == Schema::Kubernetes => {
                        let at = entries[*index].0.at;
                        let problem = "is also merged by `<<`, which is below it, and so kubectl takes the merged value (move `<<` to the \
                                       top of its mapping: then what the mapping says itself wins)";
                        return Err(Fault { at, key: key.text, problem: problem.to_owned() }.into());
                    }
                    Some(_) => {}
                    None => {
                        known.insert(key.text.clone(), own);
                        entries.push((key, node));
                    }
                }
            }
        }
        Ok(())
    }
}

fn mappings(at: Position, from: Node) -> Result<Vec<Vec<(Key, Node)>>, Unparsed> {
    let wrong = || fault(at, "`<<` can merge only mappings (write a mapping, an alias of one, or a list of these)".to_owned());
    match from.value {
        Value::Mapping(entries) => Ok(vec![entries]),
        Value::Sequence(items) => items
            .into_iter()
            .map(|item| match item.value {
                Value::Mapping(entries) => Ok(entries),
                Value::Null | Value::Scalar { .. } | Value::Sequence(_) => Err(wrong()),
            })
            .collect(),
        Value::Null | Value::Scalar { .. } => Err(wrong()),
    }
}

/// Some readers merge numbers and booleans as keys, others turn them into texts.
fn check_key(key: &Key) -> Result<(), Unparsed> {
    match key.kind {
        Kind::Text => Ok(()),
        Kind::Boolean(_) | Kind::Float(_) | Kind::Integer(_) | Kind::Time => {
            Err(fault(key.at, "a key is not a text, in a mapping with `<<` (put the key in quotes)".to_owned()))
        }
    }
}
