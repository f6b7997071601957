//! Which Pod may have which secret. Pure: rules, an identity and a reference go in; a permit or a denial comes out.
//!
//! Deny by default; a `deny` beats every allow, wherever it stands. Permits are made here alone, and nothing is fetched without one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::glob;
use crate::model::{BackendName, LoginKey, PodIdentity, SecretRef, Verb, clean};
use crate::yaml::{Faults, Node, Position, Reader, Value};

mod class_may;

pub use class_may::ClassMay;

/// What a pattern may borrow from the Pod.
const PLACEHOLDERS: [&str; 2] = ["${namespace}", "${serviceAccount}"];

/// All rules, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// What classes may say of a login, by backend; absent: nothing.
    class_may: Arc<BTreeMap<BackendName, ClassMay>>,
}

/// One rule: which Pods, and what they may or must not have.
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

/// The rules that speak of one Pod, with its own names filled in.
#[derive(Debug)]
pub struct PodRules<'p> {
    pod: &'p Arc<PodIdentity>,
    rules: Vec<PodRule>,
    class_may: Arc<BTreeMap<BackendName, ClassMay>>,
}

#[derive(Debug)]
struct PodRule {
    number: usize,
    read: Vec<String>,
    update: Vec<String>,
    deny: Vec<String>,
}

/// Leave to fetch one secret for one Pod. Only [`PodRules::decide`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    pod: Arc<PodIdentity>,
    secret: Arc<SecretRef>,
    rule: usize,
}

/// A refusal, with the rule that refused or the word that none allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    pub secret: Arc<SecretRef>,
    namespace: String,
    service_account: String,
    pub because: Because,
    /// The class's own word for what it may not say; `None`: the native one.
    parameter: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Because {
    /// The class enters the backend in a way that `classMay` does not grant.
    Login { key: LoginKey, value: String },
    /// No rule allows it.
    NoRule,
    /// A rule's `deny` pattern.
    Rule { number: usize, pattern: String },
}

// === impl Policy ===

impl Policy {
    /// Reads the list under `policy`.
    pub fn parse(node: &Node, faults: &mut Faults) -> Self {
        let Value::Sequence(items) = &node.value else {
            faults.add(
                node.at,
                "policy",
                format!("is {}, but must be a list of rules (start each with `- `; `[]` denies everything)", node.kind()),
            );
            return Self::default();
        };
        let rules = items.iter().enumerate().filter_map(|(at, item)| Rule::parse(item, at + 1, faults)).collect();
        Self { rules, class_may: Arc::default() }
    }

    /// Adds what the backends' configurations grant to classes.
    pub fn with_class_may(self, class_may: BTreeMap<BackendName, ClassMay>) -> Self {
        Self { class_may: Arc::new(class_may), ..self }
    }

    /// The rules that speak of this Pod.
    pub fn of<'p>(&self, pod: &'p Arc<PodIdentity>) -> PodRules<'p> {
        let rules = self.rules.iter().filter(|rule| rule.speaks_of(pod)).map(|rule| rule.fill_in(pod)).collect();
        PodRules { pod, rules, class_may: Arc::clone(&self.class_may) }
    }
}

// === impl Rule ===

impl Rule {
    fn parse(node: &Node, number: usize, faults: &mut Faults) -> Option<Self> {
        let mut reader = Reader::of(node, format!("policy rule {number}"), faults)?;
        let (mut namespace, mut service_account) = (None, None);
        if let Some(mut pods) = reader.reader("pods", faults) {
            namespace = pods.text("namespace", faults).map(str::to_owned);
            service_account = pods.text("serviceAccount", faults).map(str::to_owned);
            if pods.entries().iter().all(|(_, value)| value.is_null()) {
                pods.missing("namespace", "a rule names the Pods it is for: namespace, serviceAccount or both; \"*\" is all", faults);
            }
            pods.finish(faults);
        } else if reader.get("pods").is_none() {
            reader.missing("pods", "say which Pods the rule is for, such as pods: { namespace: shop }", faults);
        }
        let (read, update, deny) =
            (patterns(&mut reader, "read", faults), patterns(&mut reader, "update", faults), patterns(&mut reader, "deny", faults));
        let grants_nothing = reader.get("read").or(reader.get("update")).or(reader.get("deny")).is_none();
        if grants_nothing {
            reader.missing("read", "a rule has at least one of read, update and deny", faults);
        }
        reader.finish(faults);
        Some(Self { number, namespace, service_account, read, update, deny })
    }

    fn speaks_of(&self, pod: &PodIdentity) -> bool {
        let fits = |glob: &Option<String>, name: &str| glob.as_deref().is_none_or(|glob| glob::matches(glob, name));
        fits(&self.namespace, &pod.namespace) && fits(&self.service_account, &pod.service_account)
    }

    fn fill_in(&self, pod: &PodIdentity) -> PodRule {
        let fill = |patterns: &[String]| patterns.iter().filter_map(|pattern| fill_in(pattern, pod)).collect();
        PodRule { number: self.number, read: fill(&self.read), update: fill(&self.update), deny: fill(&self.deny) }
    }
}

fn patterns(reader: &mut Reader<'_>, key: &'static str, faults: &mut Faults) -> Vec<String> {
    let texts = reader.texts(key, faults).unwrap_or_default();
    let path = reader.path(key);
    texts.into_iter().filter_map(|(at, text)| check_pattern(text, at, &path, faults)).collect()
}

fn check_pattern(pattern: &str, at: Position, path: &str, faults: &mut Faults) -> Option<String> {
    let bare = bare(&check_placeholders(pattern, at, path, faults)?);
    if !bare.contains('/') || bare.split('/').any(str::is_empty) {
        faults.add(at, path, format!("{pattern:?} is no <backend>/<name> pattern (such as files/shop/* or files/${{namespace}}/**)"));
        return None;
    }
    if bare.split('/').any(|element| element != "**" && element.contains("**")) {
        faults.add(at, path, format!("{pattern:?}: `**` stands alone between slashes (such as files/**/db); within an element write `*`"));
        return None;
    }
    Some(pattern.to_owned())
}

fn check_placeholders(pattern: &str, at: Position, path: &str, faults: &mut Faults) -> Option<String> {
    if bare(pattern).contains("${") {
        faults.add(at, path, format!("{pattern:?} has a placeholder that is not known (known: {})", PLACEHOLDERS.join(", ")));
        return None;
    }
    Some(pattern.to_owned())
}

/// A pattern with something harmless in its placeholders' stead.
fn bare(pattern: &str) -> String {
    PLACEHOLDERS.iter().fold(pattern.to_owned(), |text, placeholder| text.replace(placeholder, "x"))
}

/// The pattern with the Pod's names in it, taken literally: a name that could be read as a pattern makes the pattern match nothing.
fn fill_in(pattern: &str, pod: &PodIdentity) -> Option<String> {
    let mut filled = pattern.to_owned();
    for (placeholder, value) in PLACEHOLDERS.iter().zip([&pod.namespace, &pod.service_account]) {
        if filled.contains(placeholder) {
            if value.is_empty() || value.contains(['*', '/', '$', '{']) {
                return None;
            }
            filled = filled.replace(placeholder, value);
        }
    }
    Some(filled)
}

// === impl PodRules ===

impl PodRules<'_> {
    /// Decides one secret. Every deny is heard before any allow.
    ///
    /// # Errors
    /// A deny pattern matches, no rule allows, or the class says more of the login than it may.
    pub fn decide(&self, secret: &Arc<SecretRef>) -> Result<Permit, Denial> {
        let subject = format!("{}/{}", secret.backend, secret.name);
        let hit = |patterns: &[String]| patterns.iter().find(|pattern| glob::matches_path(pattern, &subject)).cloned();
        let denied = self.rules.iter().find_map(|rule| hit(&rule.deny).map(|pattern| Because::Rule { number: rule.number, pattern }));
        if let Some(because) = denied {
            return Err(self.denial(secret, because));
        }
        let allow = |rule: &&PodRule| match secret.verb() {
            Verb::Read => hit(&rule.read).is_some(),
            Verb::Update => hit(&rule.update).is_some(),
        };
        if let Some(because) = self.refused_login(secret) {
            return Err(self.denial(secret, because));
        }
        match self.rules.iter().find(allow) {
            Some(rule) => Ok(Permit { pod: Arc::clone(self.pod), secret: Arc::clone(secret), rule: rule.number }),
            None => Err(self.denial(secret, Because::NoRule)),
        }
    }

    fn refused_login(&self, secret: &SecretRef) -> Option<Because> {
        let (key, value) = self.ungranted(secret).into_iter().next()?;
        Some(Because::Login { key, value: value.to_owned() })
    }

    /// What the class says of the login and its backend's `classMay` does not grant to this Pod.
    pub fn ungranted<'s>(&self, secret: &'s SecretRef) -> Vec<(LoginKey, &'s str)> {
        let may = self.class_may.get(&secret.backend);
        let refused = |key, value: &str| !may.is_some_and(|may| may.allows(key, value, self.pod));
        let said = secret.login.said().into_iter().chain(secret.login.files());
        said.filter(|(key, value)| refused(*key, value)).collect()
    }

    fn denial(&self, secret: &Arc<SecretRef>, because: Because) -> Denial {
        let (namespace, service_account) = (self.pod.namespace.clone(), self.pod.service_account.clone());
        Denial { secret: Arc::clone(secret), namespace, service_account, because, parameter: None }
    }
}

// === impl Permit ===

impl Permit {
    pub fn pod(&self) -> &Arc<PodIdentity> {
        &self.pod
    }

    pub fn secret(&self) -> &Arc<SecretRef> {
        &self.secret
    }

    /// The number of the rule that allowed it.
    pub fn rule(&self) -> usize {
        self.rule
    }
}

// === impl Denial ===

impl Denial {
    /// The number of the rule that denied it, if one did.
    pub fn rule(&self) -> Option<usize> {
        match &self.because {
            Because::Login { .. } | Because::NoRule => None,
            Because::Rule { number, .. } => Some(*number),
        }
    }

    /// Tells it in the words of the class's dialect.
    pub fn in_words_of(mut self, parameters: &BTreeMap<LoginKey, String>) -> Self {
        if let Because::Login { key, .. } = &self.because {
            self.parameter = parameters.get(key).cloned();
        }
        self
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, namespace, service_account, because, parameter } = self;
        let verb = secret.verb();
        match because {
            Because::Login { key, value } => {
                let (parameter, value, backend) = (parameter.as_deref().unwrap_or(key.as_str()), clean(value), &secret.backend);
                write!(
                    f,
                    "{secret}: the class sets {parameter} to {value:?}, and backends.{backend}.classMay.{key} does not grant that to \
                     ServiceAccount {namespace}/{service_account} (leave {parameter} out; or the cluster's admin can add it there)"
                )
            }
            Because::NoRule => write!(
                f,
                "{secret}: no rule of the policy allows ServiceAccount {namespace}/{service_account} to {verb} it \
                 (the cluster's admin can add a rule with {verb}: [\"{}/{}\"])",
                secret.backend, secret.name
            ),
            Because::Rule { number, pattern } => write!(
                f,
                "{secret}: policy rule {number} denies it to ServiceAccount {namespace}/{service_account} by its pattern {pattern:?} \
                 (a deny beats every allow; only the cluster's admin can change the rule)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Login, Method};
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
        let policy = Policy::parse(&yaml::parse(text).unwrap(), &mut faults);
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

    fn secret(backend: &str, name: &str, verb: Verb) -> Arc<SecretRef> {
        let method = if verb == Verb::Read { Method::Get } else { Method::Post };
        Arc::new(SecretRef { method, ..SecretRef::read(backend.parse().unwrap(), name.parse().unwrap()) })
    }

    fn allows(pod: &Arc<PodIdentity>, backend: &str, name: &str, verb: Verb) -> Result<usize, String> {
        policy(RULES).of(pod).decide(&secret(backend, name, verb)).map(|permit| permit.rule()).map_err(|denial| denial.to_string())
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
    fn a_deny_beats_every_allow_also_an_earlier_one() {
        insta::assert_snapshot!(allows(&pod("shop", "web"), "files", "shop/root/key", Verb::Read).unwrap_err(), @r#"files/shop/root/key: policy rule 3 denies it to ServiceAccount shop/web by its pattern "*/**/root/**" (a deny beats every allow; only the cluster's admin can change the rule)"#);
        insta::assert_snapshot!(allows(&pod("shop", "web"), "files", "bank/db", Verb::Read).unwrap_err(), @r#"files/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["files/bank/db"])"#);
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
        let may = ClassMay::parse(&mut Reader::of(&node, "classMay", &mut faults).unwrap(), &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        let policy = policy(RULES).with_class_may([("bao".parse().unwrap(), may)].into());
        let decide = |backend: &str, login: Login| {
            let secret = SecretRef { login, ..(*secret(backend, "kv/data/shop/db", Verb::Read)).clone() };
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
"#;
        let mut faults = Faults::default();
        Policy::parse(&yaml::parse(text).unwrap(), &mut faults);
        let shown: Vec<_> = faults.into_sorted().iter().map(|fault| format!("line {}: {fault}", fault.at.line)).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        line 2: policy rule 1.pods.namespace: is missing (a rule names the Pods it is for: namespace, serviceAccount or both; "*" is all)
        line 4: policy rule 2.pods: is missing (say which Pods the rule is for, such as pods: { namespace: shop })
        line 4: policy rule 2.read: "files" is no <backend>/<name> pattern (such as files/shop/* or files/${namespace}/**)
        line 5: policy rule 3.read: is missing (a rule has at least one of read, update and deny)
        line 5: policy rule 3.pods.label: is no known key (known here: namespace, serviceAccount)
        line 6: policy rule 3.reads: is no known key (did you mean `read`?)
        line 8: policy rule 4.read: "files/${pod}/x" has a placeholder that is not known (known: ${namespace}, ${serviceAccount})
        line 8: policy rule 4.read: "files/a**/b": `**` stands alone between slashes (such as files/**/db); within an element write `*`
        line 8: policy rule 4.read: "/files/x" is no <backend>/<name> pattern (such as files/shop/* or files/${namespace}/**)
        line 9: policy rule 5: is a text, but must be a mapping (write a line `key: value` for each key)
        "#);
    }
}
