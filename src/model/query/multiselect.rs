//! A member of `{a: x, b: y}` or `[x, y]` that finds nothing. JMESPath makes it `null`, so that a misspelt name would become a value.
//!
//! Only a plain path counts, such as `db.users[0]`. An author who accepts that it is absent writes ``x || `""` ``.

use std::collections::HashMap;

use jmespath::Rcvar;
use jmespath::ast::Ast;
use serde_json::value::RawValue;

use super::is_identifier;
use crate::nearest::nearest;
use crate::steps::Steps;

/// How many names are compared with a missing one, and the longest such name.
const COMPARED: usize = 200;
const COMPARED_LENGTH: usize = 64;

/// The steps to compare two names, besides their letters.
const LOOK: u64 = 32;

/// A plain path that finds nothing.
#[derive(Debug)]
pub struct Missing {
    /// As it is written: `db.users[0].name`.
    pub path: String,
    /// The missing name in it, and the object that should have it.
    at: Option<(String, Rcvar)>,
}

/// The first one of an expression's members.
#[allow(clippy::wildcard_enum_match_arm)] // every other node is not a multiselect
pub(super) fn missing(ast: &Ast, document: &Rcvar) -> Option<Missing> {
    match ast {
        Ast::MultiHash { elements, .. } => elements.iter().find_map(|pair| Missing::of(&pair.value, document)),
        Ast::MultiList { elements, .. } => elements.iter().find_map(|element| Missing::of(element, document)),
        _ => None,
    }
}

/// A step of a plain path.
enum Step<'a> {
    Index(i32),
    Name(&'a str),
}

/// `None`: the expression is not a plain path.
#[allow(clippy::wildcard_enum_match_arm)] // neither is any other node
fn plain(ast: &Ast) -> Option<Vec<Step<'_>>> {
    match ast {
        Ast::Identity { .. } => Some(Vec::new()),
        Ast::Field { name, .. } => Some(vec![Step::Name(name)]),
        Ast::Index { idx, .. } => Some(vec![Step::Index(*idx)]),
        Ast::Subexpr { lhs, rhs, .. } => {
            let mut steps = plain(lhs)?;
            steps.extend(plain(rhs)?);
            Some(steps)
        }
        _ => None,
    }
}

/// What a plain path finds, as the document writes it.
pub(super) fn written<'d>(ast: &Ast, document: &'d RawValue) -> Option<&'d RawValue> {
    plain(ast)?.into_iter().try_fold(document, |found, step| match step {
        Step::Index(index) => {
            let items: Vec<&RawValue> = serde_json::from_str(found.get()).ok()?;
            let place = usize::try_from(index.unsigned_abs()).ok()?;
            let place = if index >= 0 { place } else { items.len().checked_sub(place)? };
            items.get(place).copied()
        }
        // If a name is there twice, the last one counts.
        Step::Name(name) => serde_json::from_str::<HashMap<String, &RawValue>>(found.get()).ok()?.remove(name),
    })
}

// === impl Missing ===

impl Missing {
    fn of(member: &Ast, document: &Rcvar) -> Option<Self> {
        let steps = plain(member)?;
        let (mut found, mut at) = (document.clone(), None);
        for step in &steps {
            if found.is_null() {
                break;
            }
            let next = match step {
                Step::Name(name) => found.get_field(name),
                Step::Index(index) => element(&found, *index),
            };
            at = match step {
                Step::Name(name) if next.is_null() => Some(((*name).to_owned(), found)),
                Step::Index(_) | Step::Name(_) => None,
            };
            found = next;
        }
        found.is_null().then(|| Self { path: shown(&steps), at })
    }

    /// The name that the author probably meant, as long as there are steps to look for it.
    pub fn near(&self, steps: &Steps) -> Option<String> {
        let (name, object) = self.at.as_ref()?;
        let names = || object.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let comparable = || names().take(COMPARED).filter(|other| (1..=COMPARED_LENGTH).contains(&other.len()));
        if name.len() > COMPARED_LENGTH || names().any(|other| other == name) {
            return None;
        }
        steps.charge(comparable().map(|other| (other.len() * name.len()) as u64 + LOOK).sum()).ok()?;
        nearest(name, comparable()).map(str::to_owned)
    }
}

/// As JMESPath counts: a negative number counts from the end.
fn element(list: &Rcvar, index: i32) -> Rcvar {
    let place = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
    if index >= 0 { list.get_index(place) } else { list.get_negative_index(place) }
}

fn shown(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Name(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                if is_identifier(name) { path.push_str(name) } else { path.push_str(&format!("{name:?}")) }
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use jmespath::Variable;

    use crate::model::Query;
    use crate::steps::Steps;

    use super::*;

    const DOCUMENT: &str = r#"{"user": "u", "pass-word": "p", "none": null, "false": false, "db": {"hosts": ["a"], "name": "n"}}"#;

    /// What is missing, and what the author may have meant.
    fn told(query: &str) -> Option<String> {
        let document = Rcvar::new(Variable::from_json(DOCUMENT).unwrap());
        let missing = query.parse::<Query>().unwrap().missing(&document)?;
        Some(format!("{} {:?}", missing.path, missing.near(&Steps::unbounded())))
    }

    #[test]
    fn a_plain_path_that_finds_nothing_is_missing() {
        assert_eq!(told("{u: usr}").unwrap(), r#"usr Some("user")"#);
        assert_eq!(told("[user, usr]").unwrap(), r#"usr Some("user")"#);
        assert_eq!(told("{a: db.naem, b: user}").unwrap(), r#"db.naem Some("name")"#);
        assert_eq!(told(r#"{a: "pass-wrod"}"#).unwrap(), r#""pass-wrod" Some("pass-word")"#);
        assert_eq!(told("{a: db.hosts[0], b: db.hosts[1]}").unwrap(), "db.hosts[1] None");
        assert_eq!(told("{a: @.usr}").unwrap(), r#"usr Some("user")"#);
        assert_eq!(told("{a: none}").unwrap(), "none None");
        assert_eq!(told("{a: user.name}").unwrap(), "user.name None");
        assert_eq!(told("{a: db.hosts[-2].x}").unwrap(), "db.hosts[-2].x None");
    }

    #[test]
    fn what_may_be_absent_is_written_so_and_all_else_is_not_looked_at() {
        for query in [
            "{u: user, h: db.hosts[0], last: db.hosts[-1], no: false}",
            "{u: usr || `\"\"`}",
            "{u: usr || user}",
            "[length(db.hosts), usr && user]",
            "{all: db.hosts[*].x}",
            "usr",
            "db.{a: x}",
            "{u: `null`}",
            "{all: @}",
            "{n: {u: usr}}",
        ] {
            assert_eq!(told(query), None, "{query}");
        }
    }
}
