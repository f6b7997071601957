//! Which Pod may have which secret. This code only computes: rules, an identity and a reference go in; a permit or a denial comes out.
//!
//! Without a rule, everything is denied; a `deny` beats every allow, wherever it is in the list. Only this module makes permits, and
//! nothing is fetched without one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::glob;
use crate::model::{BackendName, LoginKey, Plan, PodIdentity, SecretRef, Verb, clean, is_seen};
use crate::yaml::{Faults, Node, Reader, Value};

mod account;
mod bounds;
mod class_may;
mod foreign;
mod found;
mod pattern;
mod permits;
mod placeholder;
mod subject;

pub use bounds::{Bounds, Own, Reserve};
pub use class_may::ClassMay;
pub use permits::{Granted, Permits};
pub use placeholder::literal;
pub use subject::{Named, Store};

use account::Whose;
use pattern::Pattern;

/// All rules, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    stores: Arc<Stores>,
}

/// The limits from the rest of the configuration that apply to every rule.
#[derive(Debug, Default)]
struct Stores {
    bounds: BTreeMap<BackendName, Bounds>,
    /// The audience of the Pods' tokens for the daemon itself: no store ever gets such a token.
    own_audience: String,
}

/// One rule: for which Pods it is, and what they may or must not have.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its place in the configuration, counted from 1.
    number: usize,
    /// Globs; `None` matches every Pod. At least one is set.
    namespace: Option<String>,
    service_account: Option<String>,
    /// `<backend>/<name>` globs.
    read: Vec<String>,
    update: Vec<String>,
    deny: Vec<String>,
}

/// The rules for one Pod, with its names filled in.
#[derive(Debug)]
pub struct PodRules<'p> {
    pod: &'p Arc<PodIdentity>,
    rules: Vec<PodRule>,
    stores: Arc<Stores>,
}

#[derive(Debug)]
struct PodRule {
    number: usize,
    read: Vec<Pattern>,
    update: Vec<Pattern>,
    deny: Vec<Pattern>,
}

/// A denial, with the rule that denied, or the fact that no rule allows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    pub secret: SecretRef,
    /// `<namespace>/<ServiceAccount>`; empty if it is the same for all.
    account: String,
    pub because: Because,
    /// The name of the parameter in the class's dialect; `None`: the native name.
    parameter: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Because {
    /// The class sets the audience of the Pods' tokens for the daemon itself.
    Audience { value: String },
    /// The class sets something for the backend's login that `classMay` does not grant.
    Login {
        key: LoginKey,
        value: String,
        /// The backends with this `classMay`: for a failover, its members.
        of: Vec<BackendName>,
    },
    /// This number of the secrets below a prefix is denied.
    Found {
        count: usize,
        /// The rule with this `deny`; `None`: no rule allows them.
        rule: Option<usize>,
    },
    /// The name belongs to the store itself or to its login, whatever the rules say.
    Never { why: &'static str },
    /// No rule allows it.
    NoRule,
    /// A rule's `deny` pattern.
    Rule {
        number: usize,
        pattern: String,
        /// It denies the secret in this backend, which is a member of the requested one.
        member: Option<BackendName>,
    },
    /// A rule's pattern (as in the configuration) would allow it, but has a wildcard where the name must be spelled.
    Unspelled { number: usize, pattern: String, element: String },
}

// === impl Policy ===

impl Policy {
    /// Reads the list under `policy`. It is a fault if no secret of the `backends`, or no Pod, can match a pattern.
    pub fn parse(node: &Node, backends: &[Named<'_>], faults: &mut Faults) -> Self {
        let Value::Sequence(items) = &node.value else {
            faults.add(
                node.at,
                "policy",
                format!("is {}, but must be a list of rules (start each with `- `; `[]` denies everything)", node.kind()),
            );
            return Self::default();
        };
        let rules = items.iter().enumerate().filter_map(|(at, item)| Rule::parse(item, at + 1, backends, faults)).collect();
        Self { rules, stores: Arc::default() }
    }

    /// Adds the backends' own limits, and the audience of the Pods' tokens for the daemon itself (`identity.audience`).
    pub fn within(self, bounds: BTreeMap<BackendName, Bounds>, own_audience: &str) -> Self {
        Self { stores: Arc::new(Stores { bounds, own_audience: own_audience.to_owned() }), ..self }
    }

    /// Why no Pod may ever have it, whatever the rules say.
    pub fn never(&self, secret: &SecretRef) -> Option<Denial> {
        let because = if secret.name.is_folder() { self.stores.never_below(secret) } else { self.stores.never(secret) }?;
        Some(Denial { secret: secret.clone(), account: String::new(), because, parameter: None })
    }

    /// The rules for this Pod.
    pub fn of<'p>(&self, pod: &'p Arc<PodIdentity>) -> PodRules<'p> {
        let rules = self.rules.iter().filter(|rule| rule.speaks_of(pod)).map(|rule| rule.fill_in(pod)).collect();
        PodRules { pod, rules, stores: Arc::clone(&self.stores) }
    }
}

// === impl Stores ===

impl Stores {
    fn reserve(&self, secret: &SecretRef) -> Reserve {
        let own = self.bounds.get(&secret.backend).and_then(|bounds| bounds.own.as_ref());
        own.map(|own| own.judge(secret)).unwrap_or_default()
    }

    /// For a failover its members; otherwise empty.
    fn members(&self, backend: &BackendName) -> &[BackendName] {
        self.bounds.get(backend).map(|bounds| bounds.members.as_slice()).unwrap_or_default()
    }

    /// What is the same for every Pod.
    fn never(&self, secret: &SecretRef) -> Option<Because> {
        let own = secret.login.audience.as_ref().filter(|audience| **audience == self.own_audience);
        let audience = own.map(|value| Because::Audience { value: value.clone() });
        self.reserve(secret).never.map(|why| Because::Never { why }).or(audience)
    }
}

// === impl Rule ===

impl Rule {
    fn parse(node: &Node, number: usize, backends: &[Named<'_>], faults: &mut Faults) -> Option<Self> {
        let mut reader = Reader::of(node, format!("policy rule {number}"), faults)?;
        let (mut namespace, mut service_account) = (None, None);
        if let Some(mut pods) = reader.reader("pods", faults) {
            namespace = pods.parsed("namespace", faults, |text| Whose::Namespace.check(text));
            service_account = pods.parsed("serviceAccount", faults, |text| Whose::ServiceAccount.check(text));
            if pods.entries().is_empty() {
                pods.missing("namespace", "a rule names the Pods it is for: namespace, serviceAccount or both; \"*\" is all", faults);
            }
            for (key, _) in pods.entries().iter().filter(|(_, value)| value.is_null()) {
                faults.add(key.at, pods.path(&key.text), "is empty, which would mean any name (write \"*\" for that, or remove the key)");
            }
            pods.finish(faults);
        } else if reader.get("pods").is_none() {
            reader.missing("pods", "say which Pods the rule is for, such as pods: { namespace: shop }", faults);
        }
        let mut list = |key| patterns(&mut reader, key, backends, faults);
        let (read, update, deny) = (list("read"), list("update"), list("deny"));
        match [&read, &update, &deny].map(Option::as_deref) {
            [None, None, None] => reader.missing("read", "a rule has at least one of read, update and deny", faults),
            lists if lists.iter().flatten().all(|list| list.is_empty()) => {
                let key = ["read", "update", "deny"].into_iter().zip(lists).find(|(_, list)| list.is_some()).map_or("read", |(key, _)| key);
                let at = reader.get(key).map_or(reader.at(), |node| node.at);
                faults.add(
                    at,
                    reader.path(key),
                    "is empty, and the rule has no other pattern: it says nothing (add one, or remove the rule)",
                );
            }
            _ => {}
        }
        reader.finish(faults);
        let sound = |list: Option<Vec<Option<String>>>| list.into_iter().flatten().flatten().collect();
        Some(Self { number, namespace, service_account, read: sound(read), update: sound(update), deny: sound(deny) })
    }

    fn speaks_of(&self, pod: &PodIdentity) -> bool {
        let fits = |glob: &Option<String>, name: &str| glob.as_deref().is_none_or(|glob| glob::matches(glob, name));
        fits(&self.namespace, &pod.namespace) && fits(&self.service_account, &pod.service_account)
    }

    fn fill_in(&self, pod: &PodIdentity) -> PodRule {
        let fill = |patterns: &[String]| patterns.iter().filter_map(|pattern| Pattern::of(pattern, pod)).collect();
        PodRule { number: self.number, read: fill(&self.read), update: fill(&self.update), deny: fill(&self.deny) }
    }
}

/// `None`: there is no such list. If a text is not a pattern, its fault is noted.
fn patterns(reader: &mut Reader<'_>, key: &'static str, backends: &[Named<'_>], faults: &mut Faults) -> Option<Vec<Option<String>>> {
    let (before, texts) = (faults.len(), reader.texts(key, faults)?);
    let path = reader.path(key);
    let mut list: Vec<_> = vec![None; faults.len() - before];
    list.extend(texts.into_iter().map(|(at, text)| {
        let checked = subject::check(text, key == "update", backends);
        checked.map_err(|problem| faults.add(at, path.clone(), problem)).ok()
    }));
    Some(list)
}

// === impl PodRules ===

impl PodRules<'_> {
    /// Decides every secret of a plan.
    ///
    /// # Errors
    /// All denials, each with its secret's place in the plan.
    pub fn grant(&self, plan: &Arc<Plan>) -> Result<Arc<Granted>, HashMap<usize, Denial>> {
        let (mut rules, mut denied) = (Vec::with_capacity(plan.secrets.len()), HashMap::new());
        for (place, secret) in plan.secrets.iter().enumerate() {
            match self.decide(secret) {
                Ok(rule) => rules.push(rule),
                Err(denial) => drop(denied.insert(place, denial.in_words_of(&plan.parameters))),
            }
        }
        if denied.is_empty() { Ok(Granted::new(self.pod, plan, rules)) } else { Err(denied) }
    }

    /// Decides on one secret: the number of the rule that allows it. All denies are checked before any allow.
    ///
    /// # Errors
    /// A deny pattern matches, no rule allows it, or the class sets more for the login than it may.
    pub fn decide(&self, secret: &SecretRef) -> Result<usize, Denial> {
        if secret.name.is_folder() {
            return self.decide_below(secret);
        }
        let subject = format!("{}/{}", secret.backend, secret.name);
        let refused = || self.denied(secret).or_else(|| self.stores.never(secret)).or_else(|| self.refused_login(secret));
        if let Some(because) = refused() {
            return Err(self.denial(secret, because));
        }
        let (verb, spelled) = (secret.verb(), self.stores.reserve(secret).spelled);
        match self.find(|rule| rule.allowing(verb), |pattern| pattern.matches_spelling(&subject, &spelled)) {
            Some((rule, _)) => Ok(rule),
            None => Err(self.denial(secret, self.unspelled(secret, &subject, &spelled).unwrap_or(Because::NoRule))),
        }
    }

    /// The pattern that allows it, as in the configuration.
    pub fn allowing(&self, secret: &SecretRef) -> Option<&str> {
        if secret.name.is_folder() {
            return self.covering(secret).map(|(_, pattern)| pattern.source());
        }
        let (subject, spelled) = (format!("{}/{}", secret.backend, secret.name), self.stores.reserve(secret).spelled);
        let found = self.find(|rule| rule.allowing(secret.verb()), |pattern| pattern.matches_spelling(&subject, &spelled));
        found.map(|(_, pattern)| pattern.source())
    }

    /// A deny has no bounds: its wildcards match everything. A second name of a denied secret is denied too.
    fn denied(&self, secret: &SecretRef) -> Option<Because> {
        let members = self.stores.members(&secret.backend).iter().map(Some);
        [None].into_iter().chain(members).find_map(|member| {
            let subject = format!("{}/{}", member.unwrap_or(&secret.backend), secret.name);
            let (number, pattern) = self.find(|rule| &rule.deny, |pattern| pattern.matches(&subject))?;
            Some(Because::Rule { number, pattern: pattern.as_str().to_owned(), member: member.cloned() })
        })
    }

    /// The rule that would allow it, if its wildcards could match that much.
    fn unspelled(&self, secret: &SecretRef, subject: &str, spelled: &[usize]) -> Option<Because> {
        let (number, pattern) = self.find(|rule| rule.allowing(secret.verb()), |pattern| pattern.matches(subject))?;
        let elements: Vec<&str> = secret.name.as_str().split('/').collect();
        let element = spelled.iter().filter_map(|at| elements.get(*at).copied()).collect::<Vec<_>>().join("/");
        Some(Because::Unspelled { number, pattern: pattern.source().to_owned(), element })
    }

    /// The first pattern of this kind that fulfils the condition, with its rule's number.
    fn find<'r>(&'r self, kind: impl Fn(&'r PodRule) -> &'r [Pattern], is: impl Fn(&Pattern) -> bool) -> Option<(usize, &'r Pattern)> {
        self.rules.iter().find_map(|rule| Some((rule.number, kind(rule).iter().find(|pattern| is(pattern))?)))
    }

    fn refused_login(&self, secret: &SecretRef) -> Option<Because> {
        let (key, value) = self.ungranted(secret).into_iter().next()?;
        let members = self.stores.members(&secret.backend);
        let of = if members.is_empty() { std::slice::from_ref(&secret.backend) } else { members };
        Some(Because::Login { key, value: value.to_owned(), of: of.to_vec() })
    }

    /// What the class sets for the login and its backend's `classMay` does not grant to this Pod.
    pub fn ungranted<'s>(&self, secret: &'s SecretRef) -> Vec<(LoginKey, &'s str)> {
        let may = self.stores.bounds.get(&secret.backend).and_then(|bounds| bounds.class_may.as_ref());
        let refused = |key, value: &str| !may.is_some_and(|may| may.allows(key, value, self.pod));
        let said = secret.login.said().into_iter().chain(secret.login.files());
        said.filter(|(key, value)| refused(*key, value)).collect()
    }

    fn denial(&self, secret: &SecretRef, because: Because) -> Denial {
        let account = format!("{}/{}", self.pod.namespace, self.pod.service_account);
        Denial { secret: secret.clone(), account, because, parameter: None }
    }
}

// === impl PodRule ===

impl PodRule {
    fn allowing(&self, verb: Verb) -> &[Pattern] {
        match verb {
            Verb::Read => &self.read,
            Verb::Update => &self.update,
        }
    }
}

// === impl Denial ===

impl Denial {
    /// The number of the rule that denied it, if one did.
    pub fn rule(&self) -> Option<usize> {
        match &self.because {
            Because::Audience { .. } | Because::Login { .. } | Because::Never { .. } | Because::NoRule | Because::Unspelled { .. } => None,
            Because::Found { rule, .. } => *rule,
            Because::Rule { number, .. } => Some(*number),
        }
    }

    /// Names the parameter as the class's dialect does.
    pub fn in_words_of(mut self, parameters: &BTreeMap<LoginKey, String>) -> Self {
        let key = match &self.because {
            Because::Audience { .. } => Some(LoginKey::Audience),
            Because::Login { key, .. } => Some(*key),
            Because::Found { .. } | Because::Never { .. } | Because::NoRule | Because::Rule { .. } | Because::Unspelled { .. } => None,
        };
        self.parameter = key.and_then(|key| parameters.get(&key).cloned());
        self
    }
}

/// A pattern that allows a secret, in a form for YAML's quotes. `*` replaces invisible characters.
fn allowing(secret: &SecretRef) -> String {
    let below = if secret.name.is_folder() { "**" } else { "" };
    let name: String = secret.name.as_str().chars().map(|c| if is_seen(c) { c } else { '*' }).collect();
    format!("{:?}", format!("{}/{}{below}", secret.backend, literal(&name)))
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, account, because, parameter } = self;
        let verb = secret.verb();
        let it = if secret.name.is_folder() { "everything below it" } else { "it" };
        match because {
            Because::Audience { value } => {
                let (parameter, value) = (parameter.as_deref().unwrap_or(LoginKey::Audience.as_str()), clean(value));
                write!(
                    f,
                    "{secret}: the class sets {parameter} to {value:?}, which is Keyferry's own audience (identity.audience): Keyferry \
                     gives no store a token for it (leave {parameter} out, or name the store's audience)"
                )
            }
            Because::Login { key, value, of } => {
                let (parameter, value) = (parameter.as_deref().unwrap_or(key.as_str()), clean(value));
                let keys: Vec<String> = of.iter().map(|backend| format!("backends.{backend}.classMay.{key}")).collect();
                let (keys, verb) = (keys.join(" and "), if of.len() == 1 { "does" } else { "do" });
                write!(
                    f,
                    "{secret}: the class sets {parameter} to {value:?}, and {keys} {verb} not grant that to ServiceAccount {account} \
                     (leave {parameter} out; or the cluster's admin can add it there)"
                )
            }
            Because::Found { count, rule: Some(rule) } => write!(
                f,
                "{secret}: policy rule {rule} denies {count} of the secrets below it to ServiceAccount {account} \
                 (leave them out with `exclude`; only the cluster's admin can change the rule)"
            ),
            Because::Found { count, rule: None } => write!(
                f,
                "{secret}: no rule of the policy allows ServiceAccount {account} to {verb} {count} of the secrets below it \
                 (leave them out with `exclude`; or the cluster's admin can add rules that spell them)"
            ),
            Because::Never { why } => write!(f, "{secret}: no rule can allow it: {why} (remove the object from the class)"),
            Because::NoRule => write!(
                f,
                "{secret}: no rule of the policy allows ServiceAccount {account} to {verb} {it} \
                 (the cluster's admin can add a rule with {verb}: [{}])",
                allowing(secret)
            ),
            Because::Rule { number, pattern, member } => {
                let backend = &secret.backend;
                let also = member.as_ref().map(|member| format!(", which is for {member} and so for {backend} too")).unwrap_or_default();
                write!(
                    f,
                    "{secret}: policy rule {number} denies {it} to ServiceAccount {account} by its pattern {pattern:?}{also} \
                     (a deny beats every allow; only the cluster's admin can change the rule)"
                )
            }
            Because::Unspelled { number, pattern, element } => write!(
                f,
                "{secret}: policy rule {number} would allow it to ServiceAccount {account} by {pattern:?}, but no \
                 wildcard or placeholder reaches {element:?}, which belongs to the store itself \
                 (the cluster's admin can add a rule that spells it, with {verb}: [{}])",
                allowing(secret)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Login, Method, RefParts};
    use crate::yaml;

    const RULES: &str = r#"
- pods: { namespace: "*" }
  read: ["files/${namespace}/**"]
- pods: { namespace: shop, serviceAccount: web }
  read: ["bao/kv/data/shop/*"]
  update: ["bao/pki/issue/web"]
- pods: { namespace: "*" }
  deny: ["*/**/root/**"]
"#;

    fn policy(text: &str) -> Policy {
        let mut faults = Faults::default();
        let policy = Policy::parse(&yaml::parse(text).unwrap(), &[], &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        policy
    }

    fn pod(namespace: &str, service_account: &str) -> Arc<PodIdentity> {
        Arc::new(PodIdentity {
            namespace: namespace.into(),
            name: "p".into(),
            uid: "u".into(),
            service_account: service_account.into(),
            service_account_uid: None,
            verified: true,
        })
    }

    fn secret(backend: &str, name: &str, verb: Verb) -> SecretRef {
        let method = if verb == Verb::Read { Method::Get } else { Method::Post };
        RefParts { method, ..RefParts::read(backend.parse().unwrap(), name.parse().unwrap()) }.into()
    }

    fn allows(pod: &Arc<PodIdentity>, backend: &str, name: &str, verb: Verb) -> Result<usize, String> {
        policy(RULES).of(pod).decide(&secret(backend, name, verb)).map_err(|denial| denial.to_string())
    }

    #[test]
    fn a_pod_has_what_a_rule_allows_and_nothing_else() {
        let web = pod("shop", "web");
        assert_eq!(allows(&web, "files", "shop/db", Verb::Read), Ok(1));
        assert_eq!(allows(&web, "bao", "kv/data/shop/db", Verb::Read), Ok(2));
        assert_eq!(allows(&web, "bao", "pki/issue/web", Verb::Update), Ok(2));
        assert!(allows(&web, "bao", "pki/issue/web", Verb::Read).is_err());
        assert!(allows(&web, "bao", "kv/data/shop/db", Verb::Update).is_err());
        assert!(allows(&web, "files", "bank/db", Verb::Read).is_err());
        assert!(allows(&pod("shop", "batch"), "bao", "kv/data/shop/db", Verb::Read).is_err());
        assert!(Policy::default().of(&web).decide(&secret("files", "shop/db", Verb::Read)).is_err());
    }

    #[test]
    fn a_grant_is_for_one_plan_and_one_service_account() {
        let plan = || Arc::new(Plan { secrets: vec![secret("files", "shop/db", Verb::Read)], ..Plan::default() });
        let (policy, web, one, other) = (policy(RULES), pod("shop", "web"), plan(), plan());
        let granted = policy.of(&web).grant(&one).unwrap();
        let permits = Arc::clone(&granted).permits(&web, &one).unwrap();
        assert_eq!((permits.secrets(), permits.rule(0)), (&*one.secrets, 1));
        let another = Arc::new(PodIdentity { uid: "v".into(), ..PodIdentity::clone(&web) });
        assert!(Arc::clone(&granted).permits(&another, &one).is_some_and(|permits| Arc::ptr_eq(permits.pod(), &another)));
        for (pod, plan) in [(&web, &other), (&pod("shop", "batch"), &one), (&pod("bank", "web"), &one)] {
            assert!(Arc::clone(&granted).permits(pod, plan).is_none());
        }
        let denied = policy.of(&pod("bank", "web")).grant(&one).unwrap_err();
        assert_eq!(denied.keys().collect::<Vec<_>>(), [&0]);
    }

    #[test]
    fn a_deny_beats_every_allow_also_an_earlier_one() {
        insta::assert_snapshot!(allows(&pod("shop", "web"), "files", "shop/root/key", Verb::Read).unwrap_err(), @r#"files/shop/root/key: policy rule 3 denies it to ServiceAccount shop/web by its pattern "*/**/root/**" (a deny beats every allow; only the cluster's admin can change the rule)"#);
        let told = allows(&pod("shop", "web"), "files", "bank/d\u{200b}b\u{a0}", Verb::Read).unwrap_err();
        assert!(told.starts_with(r#""files/bank/d\u{200b}b\u{a0}": no rule"#) && told.contains(r#"read: ["files/bank/d*b*"])"#), "{told}");
        insta::assert_snapshot!(allows(&pod("shop", "web"), "files", "bank/db", Verb::Read).unwrap_err(), @r#"files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])"#);
    }

    /// A second name must not pass the policy; and a right at a member is not a right at the failover.
    #[test]
    fn a_deny_of_a_members_name_is_one_of_the_failovers() {
        let rules = r#"
- pods: { namespace: "*" }
  read: ["both/kv/**", "bao/kv/**", "bao-dr/own/**"]
- pods: { namespace: shop }
  deny: ["bao/kv/first", "bao-dr/kv/second", "both/kv/third", "*/kv/*/${namespace}"]
"#;
        let members = ["bao", "bao-dr"].map(|name| name.parse().unwrap()).to_vec();
        let both = Bounds { class_may: Some(ClassMay::default()), members, own: None };
        let policy = policy(rules).within([("both".parse().unwrap(), both)].into(), "keyferry");
        let decide = |namespace: &str, backend: &str, name: &str| {
            policy.of(&pod(namespace, "web")).decide(&secret(backend, name, Verb::Read)).map_err(|denial| denial.to_string())
        };
        for name in ["kv/first", "kv/second", "kv/third", "kv/x/shop"] {
            assert!(decide("shop", "both", name).is_err() && decide("bank", "both", name) == Ok(1), "{name}");
        }
        assert_eq!((decide("shop", "bao", "kv/second"), decide("shop", "bao", "kv/third")), (Ok(1), Ok(1)), "each is its own");
        assert!(decide("shop", "both", "own/x").is_err() && decide("shop", "bao-dr", "own/x") == Ok(1));
        let denial = policy.of(&pod("shop", "web")).decide(&secret("both", "kv/second", Verb::Read)).unwrap_err();
        assert_eq!(denial.rule(), Some(2));
        insta::assert_snapshot!(denial, @r#"both/kv/second: policy rule 2 denies it to ServiceAccount shop/web by its pattern "bao-dr/kv/second", which is for bao-dr and so for both too (a deny beats every allow; only the cluster's admin can change the rule)"#);
        let login = secret("both", "kv/x", Verb::Read).with(|asked| asked.login.mount = Some("other".to_owned()));
        insta::assert_snapshot!(policy.of(&pod("shop", "web")).decide(&login).unwrap_err(), @r#"both/kv/x: the class sets mount to "other", and backends.bao.classMay.mount and backends.bao-dr.classMay.mount do not grant that to ServiceAccount shop/web (leave mount out; or the cluster's admin can add it there)"#);
    }

    #[test]
    fn the_pods_own_names_are_never_patterns() {
        for namespace in ["*", "**", "shop/../bank", "", "${serviceAccount}"] {
            assert!(allows(&pod(namespace, "web"), "files", "bank/db", Verb::Read).is_err(), "{namespace}");
        }
        assert!(allows(&pod("${serviceAccount}", "bank"), "files", "bank/db", Verb::Read).is_err());
    }

    #[test]
    fn a_class_says_no_more_of_a_login_than_it_may() {
        let text = "{ namespace: [\"team-${namespace}\", \"shared/*\"], address: [] }";
        let (node, mut faults) = (yaml::parse(text).unwrap(), Faults::default());
        let may = ClassMay::parse(&mut Reader::of(&node, "classMay", &mut faults).unwrap(), |_, text| Ok(text.to_owned()), &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let bounds = Bounds { class_may: Some(may), ..Bounds::default() };
        let policy = policy(RULES).within([("bao".parse().unwrap(), bounds)].into(), "keyferry");
        let decide = |backend: &str, login: Login| {
            let secret = secret(backend, "kv/data/shop/db", Verb::Read).with(|asked| asked.login = login);
            policy.of(&pod("shop", "web")).decide(&Arc::new(secret)).map(drop).map_err(|denial| denial.to_string())
        };
        let namespace = |text: &str| Login { namespace: Some(text.to_owned()), ..Login::default() };
        let role = |text: &str| Login { role: Some(text.to_owned()), ..Login::default() };
        let address = Login { address: Some("https://evil.example".to_owned()), ..Login::default() };
        let tls = Login { tls: Some(Box::default()), ..Login::default() };
        assert_eq!(decide("bao", role("any")), Ok(()), "the default");
        assert_eq!(decide("bao", namespace("team-shop")), Ok(()));
        assert_eq!(decide("bao", namespace("shared/a")), Ok(()));
        assert!(decide("bao", namespace("shared/a/b")).is_err() && decide("bao", namespace("team-bank")).is_err());
        assert!(decide("bao", tls).is_err());
        insta::assert_snapshot!(decide("bao", address).unwrap_err(), @r#"bao/kv/data/shop/db: the class sets address to "https://evil.example", and backends.bao.classMay.address does not grant that to ServiceAccount shop/web (leave address out; or the cluster's admin can add it there)"#);
        assert!(decide("other", role("any")).is_err(), "a backend that grants nothing");
    }

    /// A store that keeps the names below `sys` for itself, and gives those below `sys/raw` to nobody.
    fn with_own(rules: &str) -> Policy {
        let judge = |secret: &SecretRef, _: &str| match secret.name.as_str() {
            name if name.starts_with("sys/raw") => Reserve { spelled: vec![0, 1], never: Some("it is raw") },
            name if name.starts_with("sys/") => Reserve { spelled: vec![0, 1], never: None },
            _ => Reserve::default(),
        };
        let bounds = Bounds { own: Some(Own { namespace: String::new(), judge }), ..Bounds::default() };
        policy(rules).within([("bao".parse().unwrap(), bounds)].into(), "keyferry")
    }

    #[test]
    fn no_wildcard_and_no_placeholder_stands_for_what_is_the_stores_own() {
        let decide = |pattern: &str, pod: &Arc<PodIdentity>, name: &str| {
            let policy = with_own(&format!("- pods: {{ namespace: \"*\" }}\n  read: [{pattern:?}]\n"));
            policy.of(pod).decide(&secret("bao", name, Verb::Read)).map(drop).map_err(|denial| denial.to_string())
        };
        let web = pod("shop", "web");
        for pattern in
            ["bao/**", "*/**", "**/mounts", "bao/*/*", "bao/sys/*", "bao/sys/**", "bao/s*/mounts", "bao/*/mounts", "bao/sys/mount*"]
        {
            assert!(decide(pattern, &web, "sys/mounts").is_err(), "{pattern}");
        }
        for pattern in ["bao/sys/mounts", "*/sys/mounts", "bao/sys/mounts/**"] {
            assert_eq!(decide(pattern, &web, "sys/mounts"), Ok(()), "{pattern}");
        }
        assert_eq!(decide("bao/sys/tools/*", &web, "sys/tools/random"), Ok(()), "further on they stand for anything");
        assert_eq!(decide("bao/**", &web, "system/mounts"), Ok(()));
        // A namespace with this name does not spell it.
        for pattern in ["bao/${namespace}/**", "bao/${namespace}/mounts", "bao/sys/${serviceAccount}"] {
            assert!(decide(pattern, &pod("sys", "mounts"), "sys/mounts").is_err(), "{pattern}");
        }
        assert_eq!(decide("bao/sys/mounts/${namespace}", &pod("kv", "x"), "sys/mounts/kv"), Ok(()));
        insta::assert_snapshot!(decide("bao/${namespace}/**", &pod("sys", "x"), "sys/mounts").unwrap_err(), @r#"bao/sys/mounts: policy rule 1 would allow it to ServiceAccount sys/x by "bao/${namespace}/**", but no wildcard or placeholder reaches "sys/mounts", which belongs to the store itself (the cluster's admin can add a rule that spells it, with read: ["bao/sys/mounts"])"#);
        insta::assert_snapshot!(decide("bao/kv/*", &web, "sys/mounts").unwrap_err(), @r#"bao/sys/mounts: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["bao/sys/mounts"])"#);
    }

    #[test]
    fn what_is_nobodys_no_rule_allows_and_a_deny_still_reaches_all() {
        let policy = with_own(
            "- pods: { namespace: \"*\" }\n  read: [\"bao/sys/raw/x\", \"bao/sys/mounts\", \"bao/sys/tools/random\"]\n  deny: [\"bao/**/random\"]\n",
        );
        let web = pod("shop", "web");
        let decide = |name| policy.of(&web).decide(&secret("bao", name, Verb::Read)).map(drop).map_err(|denial| denial.to_string());
        assert_eq!(decide("sys/mounts"), Ok(()));
        insta::assert_snapshot!(decide("sys/raw/x").unwrap_err(), @"bao/sys/raw/x: no rule can allow it: it is raw (remove the object from the class)");
        assert_eq!(policy.never(&secret("bao", "sys/raw/x", Verb::Read)).unwrap().to_string(), decide("sys/raw/x").unwrap_err());
        assert!(policy.never(&secret("bao", "sys/mounts", Verb::Read)).is_none());
        insta::assert_snapshot!(decide("sys/tools/random").unwrap_err(), @r#"bao/sys/tools/random: policy rule 1 denies it to ServiceAccount shop/web by its pattern "bao/**/random" (a deny beats every allow; only the cluster's admin can change the rule)"#);
    }

    #[test]
    fn the_daemons_own_audience_is_no_stores_whatever_is_granted() {
        let text = "{ audience: [\"*\"] }";
        let (node, mut faults) = (yaml::parse(text).unwrap(), Faults::default());
        let may = ClassMay::parse(&mut Reader::of(&node, "classMay", &mut faults).unwrap(), |_, text| Ok(text.to_owned()), &mut faults);
        let policy =
            policy(RULES).within([("bao".parse().unwrap(), Bounds { class_may: Some(may), ..Bounds::default() })].into(), "keyferry");
        let web = pod("shop", "web");
        let decide = |audience: &str| {
            let login = Login { audience: Some(audience.to_owned()), ..Login::default() };
            let secret = secret("bao", "kv/data/shop/db", Verb::Read).with(|asked| asked.login = login);
            policy.of(&web).decide(&Arc::new(secret))
        };
        assert!(decide("vault").is_ok());
        let denial = decide("keyferry").unwrap_err();
        insta::assert_snapshot!(denial, @r#"bao/kv/data/shop/db: the class sets audience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave audience out, or name the store's audience)"#);
        insta::assert_snapshot!(denial.in_words_of(&[(LoginKey::Audience, "objectAudience".to_owned())].into()), @r#"bao/kv/data/shop/db: the class sets objectAudience to "keyferry", which is Keyferry's own audience (identity.audience): Keyferry gives no store a token for it (leave objectAudience out, or name the store's audience)"#);
    }

    #[test]
    fn faults_name_rule_key_and_remedy() {
        let text = r#"
- pods: {}
  read: ["files/**"]
- read: ["files"]
- pods: { namespace: a, label: b }
  reads: ["files/x"]
- pods: { namespace: a }
  read: ["files/${pod}/x", "files/a**/b", "/files/x"]
- nonsense
- pods: { namespace: "" }
  deny: ["files/x"]
- pods: { namespace: Shop, serviceAccount: }
  read: ["files/x"]
- pods: { serviceAccount: shop/web }
  deny: []
- pods: { namespace: a }
  read: []
  update: []
- pods: { namespace: a }
  read: ["files/$namespace/x"]
  deny: []
- pods: { namespace: a }
  read: [[x]]
"#;
        let mut faults = Faults::default();
        Policy::parse(&yaml::parse(text).unwrap(), &[], &mut faults);
        let shown: Vec<_> = faults.into_sorted().iter().map(|fault| format!("line {}: {fault}", fault.at.line)).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        line 2: policy rule 1.pods.namespace: is missing (a rule names the Pods it is for: namespace, serviceAccount or both; "*" is all)
        line 4: policy rule 2.pods: is missing (say which Pods the rule is for, such as pods: { namespace: shop })
        line 4: policy rule 2.read: "files" is not a <backend>/<name> pattern (such as files/shop/* or files/${namespace}/**)
        line 5: policy rule 3.read: is missing (a rule has at least one of read, update and deny)
        line 5: policy rule 3.pods.label: is not a known key (known here: namespace, serviceAccount)
        line 6: policy rule 3.reads: is not a known key (did you mean `read`?)
        line 8: policy rule 4.read: "files/${pod}/x": "${pod}" is not a placeholder (there are ${namespace}, ${serviceAccount})
        line 8: policy rule 4.read: "files/a**/b": `**` must be alone between slashes (such as files/**/db); within an element write `*`
        line 8: policy rule 4.read: "/files/x" is not a <backend>/<name> pattern (did you mean "files/x"?)
        line 9: policy rule 5: is a text, but must be a mapping (write a line `key: value` for each key)
        line 10: policy rule 6.pods.namespace: "" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        line 12: policy rule 7.pods.namespace: "Shop" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop"?)
        line 12: policy rule 7.pods.serviceAccount: is empty, which would mean any name (write "*" for that, or remove the key)
        line 14: policy rule 8.pods.serviceAccount: "shop/web" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; did you mean { namespace: shop, serviceAccount: web }?)
        line 15: policy rule 8.deny: is empty, and the rule has no other pattern: it says nothing (add one, or remove the rule)
        line 17: policy rule 9.read: is empty, and the rule has no other pattern: it says nothing (add one, or remove the rule)
        line 20: policy rule 10.read: "files/$namespace/x": "$namespace" is not a placeholder (did you mean "files/${namespace}/x"?)
        line 23: policy rule 11.read: holds a list, but must be a list of texts (write each on a separate line, after `- `)
        "#);
    }
}
