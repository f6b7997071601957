//! Checks one class: with the parser of a mount, with the policy, and with what the driver needs in `secretObjects`.

use std::iter::once;
use std::sync::Arc;

use super::finding::{Finding, Report, Warned};
use super::place::Places;
use super::rules::Rules;
use crate::cli::manifest::{ClassManifest, field};
use crate::dialect::{self, ClassLimits, NATIVE, PEERS};
use crate::model::{
    Catalogue, ClassFault, ClassFaults, Code, Delivers, FileMode, Label, LoginKey, Object, Plan, PodClaims, PodIdentity, SecretRef,
    Template,
};
use crate::nearest::nearest;
use crate::policy::{Because, Denial, Policy};
use crate::steps::Steps;
use crate::yaml::{self, Key, Node, Position, Value};

/// The key of an object's template.
const TEMPLATE: &str = "template";

/// Judges classes, and gathers the findings.
pub struct Judge<'a> {
    pub catalogue: &'a dyn Catalogue,
    pub limits: ClassLimits,
    pub policy: Option<&'a Policy>,
    /// The providers that the node answers for, if there is a configuration.
    pub providers: Option<&'a [String]>,
    pub pod: Option<&'a Arc<PodIdentity>>,
    /// Whether the rules that classes need are gathered.
    pub suggest: bool,
    pub rules: Rules,
    pub report: &'a mut Report,
}

/// A class in its file.
struct Subject<'a> {
    file: &'a str,
    name: &'a str,
    /// Where the class starts, for what has no other place.
    start: Position,
    namespace: Option<&'a str>,
    parameters: &'a [(Key, Node)],
    /// Of the text under `objects`.
    places: Places,
    /// That text.
    inner: &'a str,
    /// Its entries.
    objects: Vec<Node>,
    words: Words,
}

/// A dialect's keys for the things that are checked here.
struct Words {
    secret: &'static str,
    mode: &'static str,
    /// Whether keys of objects may have upper and lower case.
    any_case: bool,
}

impl Judge<'_> {
    /// `text` is the whole file's, `node` the class in it.
    pub fn judge(&mut self, file: &str, text: &str, node: &Node, class: &ClassManifest) {
        let mut parameters = class.parameters.clone();
        // The daemon does the same for mounts at a peer's socket.
        if class.provider != NATIVE && parameters.get("dialect").is_none_or(String::is_empty) {
            parameters.insert("dialect".to_owned(), class.provider.clone());
        }
        let words = Words::of(parameters.get("dialect").map(String::as_str));
        let subject = Subject::of(file, text, node, class, words);
        self.judge_provider(&subject, node, &class.provider);
        match dialect::parse(&parameters, self.catalogue, self.limits, &Steps::unbounded()) {
            Ok(plan) => {
                self.report.objects += plan.objects.len();
                self.pass_on_warnings(&subject, &plan);
                self.judge_modes(&subject, &plan);
                self.note_owner(&subject, &plan);
                self.judge_secret_objects(&subject, node, &plan);
                self.ask_policy(&subject, &plan);
                self.gather_rules(&subject, &plan);
            }
            Err(ClassFaults(faults)) => {
                self.report.objects += subject.objects.len();
                let more = faults.more();
                for fault in faults {
                    self.report.add(subject.fault(fault));
                }
                if more > 0 {
                    let message = format!("... and {more} more faults of this class");
                    self.report.add(subject.about(Finding::error(subject.file, subject.start, message)));
                }
            }
        }
    }

    /// If nobody answers for the class's provider, the driver itself fails the mount.
    fn judge_provider(&mut self, subject: &Subject<'_>, node: &Node, provider: &str) {
        let at = field(node, "spec").and_then(|spec| field(spec, "provider")).map_or(subject.start, |node| node.at);
        if self.providers.is_some_and(|providers| providers.iter().all(|known| known != provider)) {
            let message =
                format!("this node does not answer for the provider {provider} (the cluster's admin can add {provider} to `providers`)");
            let key = "provider".to_owned();
            self.report.add(subject.about(Finding { key, ..Finding::warning(Warned::UnansweredProvider, subject.file, at, message) }));
        }
    }

    fn pass_on_warnings(&mut self, subject: &Subject<'_>, plan: &Plan) {
        if plan.objects.is_empty() {
            let (key, at) = ("objects".to_owned(), subject.parameter("objects"));
            let message = "objects: asks for nothing, and the volume stays empty (list what Pods need; was a template's value left out?)";
            self.report.add(subject.about(Finding { key, ..Finding::warning(Warned::NoObjects, subject.file, at, message) }));
        }
        for warning in &plan.warnings {
            let object = warning.object.as_ref().map(|label| label.index);
            let place = || object.map_or_else(|| subject.parameter(&warning.key), |index| subject.place_in(index, &warning.key));
            let at = subject.in_template(warning.object.as_ref(), &warning.key).unwrap_or_else(place);
            let id = if warning.key == TEMPLATE { Warned::TemplateUnquoted } else { Warned::UnusedParameter };
            let finding = Finding { object, key: warning.key.clone(), ..Finding::warning(id, subject.file, at, warning.to_string()) };
            self.report.add(subject.about(finding));
        }
        if plan.warnings.more() > 0 {
            let message = format!("... and {} more warnings of this class", plan.warnings.more());
            self.report.add(subject.about(Finding::warning(Warned::UnusedParameter, subject.file, subject.start, message)));
        }
    }

    fn ask_policy(&mut self, subject: &Subject<'_>, plan: &Plan) {
        let Some(policy) = self.policy else { return };
        let Some(pod) = self.pod else { return self.find_impossible(policy, subject, plan) };
        if let Some(namespace) = subject.namespace.filter(|namespace| **namespace != *pod.namespace) {
            let message = format!("Pods of {} cannot mount this class: it is in the namespace {namespace}", pod.namespace);
            return self.report.add(subject.about(Finding::note(subject.file, subject.start, message)));
        }
        let rules = policy.of(pod);
        for (object, secret) in asked(plan) {
            let (label, at) = (object.label(), subject.place(object, subject.words.secret));
            let finding = match rules.decide(secret).map_err(|denial| denial.in_words_of(&plan.parameters)) {
                Ok(rule) => {
                    let may = format!("ServiceAccount {}/{} may {} {secret}", pod.namespace, pod.service_account, secret.verb());
                    Finding::note(subject.file, at, format!("{label}: {may}, by policy rule {rule}"))
                }
                Err(denial) => {
                    if matches!(denial.because, Because::NoRule | Because::Unspelled { .. }) {
                        self.report.missing_rules.add(&pod.namespace, Some(&pod.service_account), secret);
                    }
                    denied(subject.file, at, &label, &denial)
                }
            };
            self.report.add(Finding { object: Some(object.index), ..subject.about(finding) });
        }
    }

    /// If no Pod could get a secret, that is a fault of the class. It does not matter who mounts it.
    fn find_impossible(&mut self, policy: &Policy, subject: &Subject<'_>, plan: &Plan) {
        for (object, secret) in asked(plan) {
            let Some(denial) = policy.never(secret).map(|denial| denial.in_words_of(&plan.parameters)) else { continue };
            let finding = denied(subject.file, subject.place(object, subject.words.secret), &object.label(), &denial);
            self.report.add(Finding { object: Some(object.index), ..subject.about(finding) });
        }
    }

    fn gather_rules(&mut self, subject: &Subject<'_>, plan: &Plan) {
        let (namespace, account) = match self.pod {
            Some(pod) => (Some(&*pod.namespace), Some(&*pod.service_account)),
            None => (subject.namespace, None),
        };
        match namespace {
            _ if !self.suggest => {}
            Some(namespace) => {
                // No rule is suggested for a secret that no rule can allow.
                let policy = self.policy;
                let possible = |secret: &&SecretRef| policy.is_none_or(|policy| policy.never(secret).is_none());
                for secret in asked(plan).map(|(_, secret)| secret).filter(possible) {
                    self.rules.add(namespace, account, secret);
                    self.gather_logins(namespace, account, secret);
                }
            }
            None => {
                let message = "the class names no namespace, so Keyferry does not know for which Pods its rules are (add metadata.namespace, \
                               or use --as)";
                self.report.add(subject.about(Finding::error(subject.file, subject.start, message)));
            }
        }
    }

    fn gather_logins(&mut self, namespace: &str, account: Option<&str>, secret: &SecretRef) {
        let (namespace, service_account) = (namespace.to_owned(), account.unwrap_or_default().to_owned());
        let pod = PodIdentity::believed(&PodClaims { namespace, name: String::new(), uid: String::new(), service_account });
        let pod = Arc::new(pod);
        let ungranted = match self.policy {
            Some(policy) => policy.of(&pod).ungranted(secret),
            // Backends grant any role, unless their configuration says something else.
            None => secret.login.said().into_iter().chain(secret.login.files()).filter(|(key, _)| *key != LoginKey::Role).collect(),
        };
        for (key, value) in ungranted {
            self.rules.add_login(&secret.backend, key, value);
        }
    }

    /// Files that the driver writes belong to root, and `fsGroup` does not change them. A provider that writes the volume itself sets owners.
    fn judge_modes(&mut self, subject: &Subject<'_>, plan: &Plan) {
        let of_class = subject.parameters.iter().find(|(key, _)| key.text == "mode");
        if let Some((text, node)) = of_class.and_then(|(_, node)| Some((node.text()?, node))) {
            let inherits = |object: &&Object| subject.entry(object, "mode").is_none();
            let mode = plan.objects.iter().find(inherits).and_then(|object| object.mode);
            for (id, message) in mode.into_iter().flat_map(|mode| concerns(text.trim(), mode)) {
                let finding = Finding::warning(id, subject.file, node.at, format!("mode: {message}"));
                self.report.add(subject.about(Finding { key: "mode".to_owned(), ..finding }));
            }
        }
        for object in plan.objects.iter().filter(|object| object.owner.is_none()) {
            let key = subject.words.mode;
            let own = (key.to_owned(), subject.entry(object, key), object.mode);
            let searched = object.searches().iter().zip(subject.entry(object, "jmesPath").map(items).unwrap_or_default());
            let searched = searched.map(|(search, node)| (format!("jmesPath.{key}"), subject.words.find(node, key), search.mode));
            for (key, node, mode) in once(own).chain(searched) {
                let (Some(node), Some(mode)) = (node, mode) else { continue };
                for (id, message) in node.text().into_iter().flat_map(|text| concerns(text, mode)) {
                    let message = format!("{}: {key}: {message}", object.label());
                    let at = subject.places.place(node.at.line, node.at.column);
                    let finding = Finding::warning(id, subject.file, at, message);
                    self.report.add(subject.about(Finding { object: Some(object.index), key: key.clone(), ..finding }));
                }
            }
        }
    }

    /// One note for each class: without a configuration nobody knows whether the node can set owners.
    fn note_owner(&mut self, subject: &Subject<'_>, plan: &Plan) {
        let Some(object) = plan.objects.iter().find(|object| object.owner.is_some()).filter(|_| self.policy.is_none()) else { return };
        let message = format!(
            "{}: owner: works only with `delivery: provider` in the node's configuration (add --config FILE to check that)",
            object.label()
        );
        let (index, at) = (Some(object.index), subject.place(object, "owner"));
        let finding = Finding { object: index, key: "owner".to_owned(), ..Finding::note(subject.file, at, message) };
        self.report.add(subject.about(finding));
    }

    /// Each `objectName` must be the path of a delivered file: the driver syncs no Secret otherwise.
    fn judge_secret_objects(&mut self, subject: &Subject<'_>, node: &Node, plan: &Plan) {
        let secrets = field(node, "spec").and_then(|spec| field(spec, "secretObjects")).map(items).unwrap_or_default();
        for (place, secret) in (1..).zip(secrets) {
            for (entry, data) in (1..).zip(field(secret, "data").map(items).unwrap_or_default()) {
                // The driver removes blanks at both ends.
                let named = field(data, "objectName").and_then(|node| Some((node.text()?.trim(), node.at)));
                let Some((name, at)) = named.filter(|(name, _)| !name.is_empty()) else { continue };
                if !plan.objects.iter().any(|object| delivers(object, name)) {
                    let message = format!("secretObjects {place}: data {entry}: objectName: {}", undelivered(name, plan));
                    let key = "objectName".to_owned();
                    self.report.add(subject.about(Finding { key, ..Finding::error(subject.file, at, message) }));
                }
            }
        }
    }
}

/// The faults of a class that a mount would not parse: one line per fault, with its place in the file.
pub fn placed(file: &str, text: &str, node: &Node, class: &ClassManifest, ClassFaults(faults): ClassFaults) -> String {
    let dialect = class.parameters.get("dialect").map_or(class.provider.as_str(), String::as_str);
    let subject = Subject::of(file, text, node, class, Words::of(Some(dialect)));
    let more = faults.more();
    let line = |fault| {
        let Finding { at, message, .. } = subject.fault(fault);
        format!("{file}:{}:{}: {message}\n", at.line, at.column)
    };
    let mut lines: String = faults.into_iter().map(line).collect();
    if more > 0 {
        lines.push_str(&format!("... and {more} more faults of this class\n"));
    }
    lines
}

fn denied(file: &str, at: Position, label: &Label, denial: &Denial) -> Finding {
    Finding { code: Some(Code::PolicyDenied), ..Finding::error(file, at, format!("{label}: {denial}")) }
}

// === impl Subject ===

impl<'a> Subject<'a> {
    fn of(file: &'a str, text: &str, node: &'a Node, class: &'a ClassManifest, words: Words) -> Self {
        let parameters = field(node, "spec").and_then(|spec| field(spec, "parameters"));
        let entries = match parameters.map(|node| &node.value) {
            Some(Value::Mapping(entries)) => entries.as_slice(),
            Some(Value::Null | Value::Scalar { .. } | Value::Sequence(_)) | None => &[],
        };
        let objects = entries.iter().find(|(key, _)| key.text == "objects");
        let objects = objects.and_then(|(key, node)| Some((key, node.at, node.text()?)));
        let places = objects.map_or(Places::Key(node.at), |(key, at, inner)| Places::of(text, key.at, at, inner));
        let inner = objects.map_or("", |(_, _, text)| text);
        let objects = match yaml::parse(inner).ok().map(|document| document.value) {
            Some(Value::Sequence(objects)) => objects,
            Some(Value::Mapping(_) | Value::Null | Value::Scalar { .. }) | None => Vec::new(),
        };
        let start = parameters.map_or(node.at, |node| node.at);
        let namespace = class.namespace.as_deref();
        Self { file, name: &class.name, start, namespace, parameters: entries, places, inner, objects, words }
    }

    fn about(&self, finding: Finding) -> Finding {
        Finding { class: self.name.to_owned(), ..finding }
    }

    fn fault(&self, fault: ClassFault) -> Finding {
        let at = match fault.at {
            Some((line, column)) => self.in_template(fault.object.as_ref(), &fault.key).unwrap_or_else(|| self.places.place(line, column)),
            None => self.parameter(&fault.key),
        };
        let (object, key, code) = (fault.object.as_ref().map(|label| label.index), fault.key.clone(), Some(fault.code));
        // Two line numbers would confuse: the message has only the line of the file.
        let message = ClassFault { at: None, ..fault }.to_string();
        self.about(Finding { object, key, code, ..Finding::error(self.file, at, message) })
    }

    /// The line of a template's fault or warning, if the file has the template line by line. The template is compiled once more, because the message
    /// has only the line in the template.
    fn in_template(&self, object: Option<&Label>, key: &str) -> Option<Position> {
        let Value::Mapping(entries) = &self.objects.get(object.filter(|_| key == TEMPLATE)?.index.checked_sub(1)?)?.value else {
            return None;
        };
        let (key, node) = entries.iter().find(|(key, _)| key.text == TEMPLATE)?;
        let text = node.text()?;
        let names: Vec<&str> = match entries.iter().find(|(key, _)| key.text == "secrets").map(|(_, node)| &node.value) {
            Some(Value::Mapping(secrets)) => secrets.iter().map(|(key, _)| key.text.as_str()).collect(),
            Some(Value::Null | Value::Scalar { .. } | Value::Sequence(_)) | None => Vec::new(),
        };
        let line = match Template::parse(text, &names, &Steps::unbounded()).ok()? {
            Ok(template) => template.bare()?,
            Err(fault) => fault.line?,
        };
        let Position { line, column } = match Places::of(self.inner, key.at, node.at, text) {
            Places::Key(_) => return None,
            places @ (Places::Block { .. } | Places::Line(_)) => places.place(line, 1),
        };
        Some(self.places.place(line, column))
    }

    /// The place of a key of the class itself. Without such a key: where its parameters start.
    fn parameter(&self, key: &str) -> Position {
        self.parameters.iter().find(|(found, _)| found.text == key).map_or(self.start, |(key, _)| key.at)
    }

    /// An object's value of a key.
    fn entry(&self, object: &Object, key: &str) -> Option<&Node> {
        self.entry_of(object.index, key)
    }

    fn entry_of(&self, index: usize, key: &str) -> Option<&Node> {
        self.objects.get(index - 1).and_then(|node| self.words.find(node, key)).filter(|node| !node.is_null())
    }

    /// The place of an object's key. Without such a key: the place of the object.
    fn place(&self, object: &Object, key: &str) -> Position {
        self.place_in(object.index, key)
    }

    fn place_in(&self, index: usize, key: &str) -> Position {
        let node = self.entry_of(index, key).or_else(|| self.objects.get(index - 1));
        node.map_or(self.start, |node| self.places.place(node.at.line, node.at.column))
    }
}

// === impl Words ===

impl Words {
    fn of(dialect: Option<&str>) -> Self {
        match dialect {
            Some("aws") => Self { secret: "objectName", mode: "filePermission", any_case: true },
            Some(peer) if PEERS.contains(&peer) => Self { secret: "secretPath", mode: "filePermission", any_case: false },
            _ => Self { secret: "secret", mode: "mode", any_case: false },
        }
    }

    /// The value of a key in a mapping.
    fn find<'n>(&self, node: &'n Node, key: &str) -> Option<&'n Node> {
        let Value::Mapping(entries) = &node.value else { return None };
        let is_it = |found: &Key| if self.any_case { found.text.eq_ignore_ascii_case(key) } else { found.text == key };
        entries.iter().find(|(found, _)| is_it(found)).map(|(_, node)| node)
    }
}

// === modes ===

/// Modes that a mount accepts, but that the author of the class may not have meant.
fn concerns(text: &str, mode: FileMode) -> Vec<(Warned, String)> {
    let mut concerns = Vec::new();
    if looks_octal(text) {
        let message = format!("{text} is decimal without a 0 before it, and means {mode} (did you mean 0{text}?)");
        concerns.push((Warned::DecimalMode, message));
    } else if mode.bits() & 0o004 == 0 {
        let message = format!(
            "{mode} lets only root read the file: the driver's files belong to root and fsGroup does not reach them (0444 for a container \
             that runs as another user)"
        );
        concerns.push((Warned::RootOnlyMode, message));
    }
    concerns
}

/// Three digits as people write modes: each is 0, 4, 5, 6 or 7, and none is larger than the one before it.
fn looks_octal(text: &str) -> bool {
    let digits = text.as_bytes();
    digits.len() == 3
        && digits[0] != b'0'
        && digits.iter().all(|digit| matches!(digit, b'0' | b'4'..=b'7'))
        && digits.is_sorted_by(|left, right| left >= right)
}

// === secrets ===

/// Each object with each of its secrets.
fn asked(plan: &Plan) -> impl Iterator<Item = (&Object, &SecretRef)> {
    plan.asked().map(|(object, place)| (object, &plan.secrets[place]))
}

// === paths ===

fn delivers(object: &Object, name: &str) -> bool {
    match object.delivers() {
        // Without the store, `check` does not know which secrets there are.
        Delivers::Each(folder) => folder.as_path().is_none_or(|folder| name.starts_with(&format!("{folder}/"))),
        Delivers::Fields(folder, patterns) => {
            let base = folder.as_path().map_or(Some(name), |folder| name.strip_prefix(folder.as_str())?.strip_prefix('/'));
            base.is_some_and(|field| patterns.iter().any(|pattern| pattern.matches(field)))
        }
        Delivers::File(path) => path.as_str() == name,
        Delivers::Searched(path, searches) => {
            once(path).chain(searches.iter().map(|search| &search.path)).any(|path| path.as_str() == name)
        }
    }
}

fn undelivered(name: &str, plan: &Plan) -> String {
    let mut paths = Vec::new();
    for object in &plan.objects {
        match object.delivers() {
            Delivers::Each(_) => {}
            Delivers::Fields(folder, patterns) => {
                let literal = patterns.iter().filter(|pattern| pattern.is_literal());
                paths.extend(literal.filter_map(|pattern| Some(folder.join(pattern.as_str()).ok()?.to_string())));
            }
            Delivers::File(path) => paths.push(path.to_string()),
            Delivers::Searched(path, searches) => {
                paths.extend(once(path).chain(searches.iter().map(|search| &search.path)).map(ToString::to_string));
            }
        }
    }
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let near =
        nearest(name, paths.iter().map(String::as_str)).or_else(|| paths.iter().map(String::as_str).find(|path| last(path) == last(name)));
    let remedy = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None if paths.is_empty() => "objectName is the path of a file".to_owned(),
        None => format!("it delivers: {}", paths.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    format!("{name:?} is not a file of this class, so the driver could not sync the Secret ({remedy})")
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::Sequence(items) => items,
        Value::Mapping(_) | Value::Null | Value::Scalar { .. } => &[],
    }
}
