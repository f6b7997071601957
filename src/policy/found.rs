//! Prefixes: permits to list a folder, and what is reported about the secrets in it.
//!
//! A caller that lists a folder learns which names are in it. So a rule must allow everything that can be below it: a rule that allows a
//! part is not enough. After that the policy decides on each found secret separately.

use std::collections::BTreeMap;

use super::pattern::Pattern;
use super::{Because, Denial, PodRules, Stores};
use crate::glob;
use crate::model::{SecretName, SecretRef};

impl PodRules<'_> {
    /// Decides on a listing, as [`PodRules::decide`] does on a secret.
    pub(super) fn decide_below(&self, folder: &SecretRef) -> Result<usize, Denial> {
        let refused = self.denied_below(folder).or_else(|| self.stores.never_below(folder)).or_else(|| self.refused_login(folder));
        if let Some(because) = refused {
            return Err(self.denial(folder, because));
        }
        match self.covering(folder) {
            Some((rule, _)) => Ok(rule),
            None => Err(self.denial(folder, Because::NoRule)),
        }
    }

    /// The first pattern that allows everything below, with its rule's number.
    pub(super) fn covering(&self, folder: &SecretRef) -> Option<(usize, &Pattern)> {
        let samples = glob::samples_below(folder.name.without_slash()).enumerate().map(|(above, sample)| {
            let spelled = self.stores.reserve(&sample_of(folder, above)).spelled;
            (format!("{}/{sample}", folder.backend), spelled)
        });
        let samples: Vec<(String, Vec<usize>)> = samples.collect();
        let covers = |pattern: &Pattern| samples.iter().all(|(subject, spelled)| pattern.matches_spelling(subject, spelled));
        self.find(|rule| rule.allowing(folder.verb()), covers)
    }

    /// A deny that leaves nothing below. A deny for a part is checked with the secrets.
    fn denied_below(&self, folder: &SecretRef) -> Option<Because> {
        let members = self.stores.members(&folder.backend).iter().map(Some);
        [None].into_iter().chain(members).find_map(|member| {
            let subject = format!("{}/{}", member.unwrap_or(&folder.backend), folder.name.without_slash());
            let covers = |pattern: &Pattern| glob::covers(pattern.as_str(), &subject);
            let (number, pattern) = self.find(|rule| &rule.deny, covers)?;
            Some(Because::Rule { number, pattern: pattern.as_str().to_owned(), member: member.cloned() })
        })
    }
}

impl Stores {
    pub(super) fn never_below(&self, folder: &SecretRef) -> Option<Because> {
        let sample = sample_of(folder, 0);
        let elements = folder.name.without_slash().split('/').count();
        let is_own = || self.reserve(&sample).spelled.iter().any(|at| *at >= elements);
        let why = "what is below it belongs to the store itself, and a rule has to spell each name there";
        self.never(&sample).or_else(|| is_own().then_some(Because::Never { why }))
    }
}

impl Denial {
    /// What is reported about the denied secrets below a prefix: how many, by which rule, and none of their names.
    pub fn of_found(folder: &SecretRef, denied: &[&Self]) -> Vec<Self> {
        let mut counts: BTreeMap<Option<usize>, (usize, &Self)> = BTreeMap::new();
        for denial in denied {
            counts.entry(denial.rule()).or_insert((0, denial)).0 += 1;
        }
        let told = counts.into_iter().map(|(rule, (count, first))| Self {
            secret: folder.clone(),
            account: first.account.clone(),
            because: Because::Found { count, rule },
            parameter: None,
        });
        told.collect()
    }
}

/// An example of a secret below the folder, for checks that look at names. `above`: how many more folders it is in.
fn sample_of(folder: &SecretRef, above: usize) -> SecretRef {
    let name = format!("{}{}x", folder.name, "x/".repeat(above));
    // A name that is too long does not become shorter with another end.
    SecretName::escapable(&name).map_or_else(|_| folder.clone(), |name| folder.with(|parts| parts.name = name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::{Method, PodClaims, PodIdentity, RefParts};
    use crate::policy::{Bounds, Own, Policy, Reserve};
    use crate::yaml::{self, Faults};

    /// Everything below `sys` must be spelled up to the second element.
    fn judge(secret: &SecretRef, _: &str) -> Reserve {
        let elements: Vec<&str> = secret.name.as_str().split('/').collect();
        Reserve { spelled: if elements[0] == "sys" { vec![0, 1] } else { Vec::new() }, never: None }
    }

    fn decided(rules: &str, folder: &str) -> String {
        let mut faults = Faults::default();
        let policy = Policy::parse(&yaml::parse(rules).unwrap(), &[], &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let own = Some(Own { namespace: String::new(), judge });
        let policy = policy.within(BTreeMap::from([("bao".parse().unwrap(), Bounds { own, ..Bounds::default() })]), "");
        let claims = PodClaims { namespace: "shop".into(), name: "p".into(), uid: "u".into(), service_account: "web".into() };
        let (backend, name) = folder.split_once('/').unwrap();
        let name = SecretName::escapable_or_folder(name).unwrap();
        let folder = RefParts { method: Method::List, ..RefParts::read(backend.parse().unwrap(), name) }.into();
        let pod = Arc::new(PodIdentity::believed(&claims));
        let rules = policy.of(&pod);
        rules.decide(&folder).map_or_else(|denial| denial.to_string(), |rule| format!("rule {rule}"))
    }

    #[test]
    fn a_rule_allows_a_folder_that_allows_all_below_it() {
        let rule =
            |pattern: &str| decided(&format!("[{{ pods: {{ namespace: shop }}, read: [\"{pattern}\"] }}]"), "bao/kv/data/shop/certs/");
        for pattern in ["bao/kv/data/shop/certs/**", "bao/**", "*/kv/*/shop/**", "bao/kv/data/${namespace}/**", "**/certs/**"] {
            assert_eq!(rule(pattern), "rule 1", "{pattern}");
        }
        for pattern in [
            "bao/kv/data/shop/certs",
            "bao/kv/data/shop/certs/*",
            "bao/kv/data/shop/certs/web",
            "bao/kv/data/shop/certs/w*/**",
            "bao/kv/metadata/shop/**",
            "files/**",
        ] {
            assert!(rule(pattern).contains("to read everything below it"), "{pattern}: {}", rule(pattern));
        }
        let two = "[{ pods: { namespace: shop }, read: [\"bao/kv/*\", \"bao/kv/*/*\"] }]";
        assert!(decided(two, "bao/kv/").contains("no rule"), "patterns are not put together");
        let update = "[{ pods: { namespace: shop }, update: [\"bao/kv/**\"] }]";
        assert!(decided(update, "bao/kv/").contains("no rule"));
    }

    #[test]
    fn a_deny_closes_a_folder_if_nothing_below_is_left() {
        let deny = |pattern: &str| {
            let rules = format!(
                "[{{ pods: {{ namespace: shop }}, read: [\"bao/**\"] }}, {{ pods: {{ namespace: \"*\" }}, deny: [\"{pattern}\"] }}]"
            );
            decided(&rules, "bao/kv/root/")
        };
        assert!(deny("*/**/root/**").starts_with("bao/kv/root/: policy rule 2 denies everything below it"), "{}", deny("*/**/root/**"));
        for pattern in ["bao/kv/root", "bao/kv/root/*", "bao/kv/root/**/key", "bao/**/key"] {
            assert_eq!(deny(pattern), "rule 1", "{pattern}");
        }
    }

    #[test]
    fn no_wildcard_reaches_what_is_the_stores_own() {
        let rules = "[{ pods: { namespace: shop }, read: [\"bao/**\", \"bao/sys/policies/**\"] }]";
        assert_eq!(decided(rules, "bao/sys/policies/"), "rule 1", "it is spelled");
        assert!(decided(rules, "bao/sys/tools/").contains("no rule"));
        assert!(decided(rules, "bao/sys/").contains("belongs to the store itself"), "{}", decided(rules, "bao/sys/"));
    }
}
