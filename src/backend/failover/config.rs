//! The configuration of a failover: its two members. It is apart from the other kinds of stores, because it is judged after these are read.

use std::collections::BTreeMap;

use crate::backend::BackendConfig;
use crate::backend::config::FAILOVER;
use crate::model::{BackendName, RefParts, SecretRef};
use crate::nearest::nearest;
use crate::yaml::{Faults, Position, Reader};

/// One entry of `kind: failover`. Equal entries have equal members: if a member changes, it is another failover.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailoverConfig {
    /// Keyferry asks the first one, and the second one while the first is out.
    pub members: [Member; 2],
}

/// A configured backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    pub name: BackendName,
    pub config: BackendConfig,
}

/// The other entries under `backends`.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'b> {
    /// The entries without a fault.
    pub sound: &'b BTreeMap<BackendName, BackendConfig>,
    /// The names of all entries, and the kind of each, if that is a text.
    pub kinds: &'b [(&'b str, Option<&'b str>)],
}

/// Keys of stores, so they belong to the members.
const OF_MEMBERS: [&str; 15] = [
    "account",
    "address",
    "auth",
    "ca",
    "cache",
    "classMay",
    "dualStack",
    "endpoints",
    "fips",
    "namespace",
    "region",
    "share",
    "storeWords",
    "url",
    "vault",
];

/// The kinds of stores that can be out while another one answers.
const KINDS: &str = "name a backend of the kind aws, http or vault";

// === impl FailoverConfig ===

impl FailoverConfig {
    /// Reads the mapping; the caller ends the reading. `None` if a fault was noted, or if a member has faults in its own entry.
    pub fn parse(reader: &mut Reader<'_>, beside: Beside<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let written: Vec<&str> = reader.entries().iter().map(|(key, _)| key.text.as_str()).collect();
        for key in OF_MEMBERS.into_iter().filter(|key| written.contains(key)) {
            let at = reader.get(key).map_or(reader.at(), |node| node.at);
            faults.add(at, reader.path(key), "belongs to the backends that `of` names, not to the failover (write it there)");
        }
        let Some(at) = reader.get("of").map(|node| node.at) else {
            reader.missing("of", "two backends of one kind: the one to ask first, then the other, such as of: [bao, bao-dr]", faults);
            return None;
        };
        let (path, texts) = (reader.path("of"), reader.texts("of", faults)?);
        for (place, (at, text)) in texts.iter().enumerate() {
            if let Some(problem) = beside.refusal(text) {
                faults.add(*at, path.clone(), problem);
            } else if texts.iter().take(place).any(|(_, other)| other == text) {
                faults.add(*at, path.clone(), format!("names {text:?} twice (name another backend that has the same secrets)"));
            }
        }
        let [(_, first), (second_at, second)] = texts.as_slice() else {
            let many = texts.len();
            if faults.len() > before && many < 2 {
                return None;
            }
            faults.add(
                at,
                path,
                format!("must name two backends, not {many} (Keyferry asks the first, and the second while the first is out)"),
            );
            return None;
        };
        if let Some(problem) = beside.difference(first, second) {
            faults.add(*second_at, path.clone(), problem);
        }
        let [first, second] = [first, second].map(|name| beside.member(name));
        let members = [first?, second?];
        if faults.len() == before {
            check(&members, at, &path, faults);
        }
        (faults.len() == before).then_some(Self { members })
    }

    /// The failover's request as each member gets it: with the member's name, and without the parts of the login that the member's own
    /// configuration sets.
    pub(in crate::backend) fn of_members(&self, secret: &SecretRef) -> [SecretRef; 2] {
        self.members.each_ref().map(|member| secret.with(|parts| member.take(parts)))
    }
}

/// Checks that one request can be for both.
fn check(members: &[Member; 2], at: Position, path: &str, faults: &mut Faults) {
    let [first, second] = members.each_ref().map(|member| member.config.kind().facts().bounds);
    let names = members.each_ref().map(|member| &member.name);
    let [one, other] = [&first, &second].map(|bounds| bounds.own.as_ref().map(|own| own.namespace.as_str()).unwrap_or_default());
    if one != other {
        let ([first, second], shown) =
            (names, |namespace: &str| if namespace.is_empty() { "root".to_owned() } else { format!("{namespace:?}") });
        let problem = format!(
            "{first} is in the namespace {} and {second} in {}: a secret would have two names (set the same `namespace` for both)",
            shown(one),
            shown(other)
        );
        faults.add(at, path, problem);
    }
    if first.class_may != second.class_may {
        let [first, second] = names;
        let problem = format!(
            "classes may set other parts of the login at {first} than at {second}, but one class is for both (write the same classMay for \
             both, and auth.audience for both or for neither)"
        );
        faults.add(at, path, problem);
    }
}

// === impl Member ===

impl Member {
    fn take(&self, parts: &mut RefParts) {
        parts.backend = self.name.clone();
        if !parts.login.is_empty() {
            parts.login = self.config.kind().own_login(&parts.login);
        }
    }
}

// === impl Beside ===

impl Beside<'_> {
    fn kind(&self, name: &str) -> Option<&str> {
        self.kinds.iter().find(|(known, _)| *known == name).and_then(|(_, kind)| *kind)
    }

    fn member(&self, name: &str) -> Option<Member> {
        let (name, config) = self.sound.iter().find(|(known, _)| known.as_str() == name)?;
        Some(Member { name: name.clone(), config: config.clone() })
    }

    /// Why it cannot be a member at all. Faults in its own entry are reported there.
    fn refusal(&self, name: &str) -> Option<String> {
        let names = || self.kinds.iter().map(|(name, _)| *name);
        if !names().any(|known| known == name) {
            return Some(match nearest(name, names()) {
                Some(near) => format!("there is no backend {name:?} (did you mean {near:?}?)"),
                None => format!("there is no backend {name:?} (there are: {})", names().collect::<Vec<_>>().join(", ")),
            });
        }
        match self.kind(name) {
            Some(FAILOVER) => Some(format!("{name:?} is a failover itself ({KINDS})")),
            Some("file") => Some(format!("{name:?} is a file vault, which is on this node and cannot be out of reach ({KINDS})")),
            Some(_) | None => None,
        }
    }

    /// Why these two cannot be members of one failover.
    fn difference(&self, first: &str, second: &str) -> Option<String> {
        let (one, other) = (self.kind(first)?, self.kind(second)?);
        let sound = self.refusal(first).is_none() && self.refusal(second).is_none();
        (one != other && sound).then(|| {
            format!("{second:?} is of the kind {other}, and {first:?} of the kind {one} (name two backends of one kind: each request is for both)")
        })
    }
}
