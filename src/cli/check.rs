//! `keyferry check`: judges classes and the configuration without a cluster, a daemon or a key.
//!
//! The judges are those of a mount: the same parser of classes, the same policy. What is added here is where in the file each fault
//! stands, and what a mount would let pass and somebody will regret.

mod catalogue;
mod class;
mod finding;
mod meant;
mod place;
mod rules;
mod secret_objects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use self::catalogue::Anything;
use self::class::Judge;
use self::finding::{Finding, Output, Report, Severity};
use self::meant::{Foreign, Meant};
use self::rules::Rules;
use super::Failure;
use super::manifest::{ClassManifest, field, name_of, others, resources, string};
use crate::config::{Config, ConfigError, Limits};
use crate::delivery::DeliveryMode;
use crate::dialect::ClassLimits;
use crate::model::{Catalogue, PodClaims, PodIdentity, quoted};
use crate::text;
use crate::yaml::{Faults, Node, Position, parse_all};

/// The longest file in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

const SCHEMA_OF_CLASS: &str = include_str!("../../schemas/class.json");
const SCHEMA_OF_CONFIG: &str = include_str!("../../schemas/config.json");

const EXAMPLES: &str = "\
Examples:
  Every fault of a class, as a mount would tell it, with its place in the file:
    keyferry check shop.yaml

  What a chart renders, for a pull request:
    helm template ./chart | keyferry check --output github -

  The node's configuration, and whether it lets the Pods of ServiceAccount web have what these classes ask for:
    keyferry check --config keyferry.yaml --as shop/web classes/*.yaml

  The rules that would let them:
    keyferry check --suggest-policy --as shop/web classes/*.yaml

Exit code 0: fine, perhaps with warnings; 1: there are faults; 2: it could not be judged (a file is missing, an argument is wrong).";

/// Find what is wrong with classes and with the configuration.
///
/// Reads SecretProviderClasses of the providers keyferry, vault and openbao from YAML files (several documents, lists, what Helm renders; other
/// kinds are passed over) and tells every fault with file, line and column, in the words a mount would fail with. Needs no cluster, no daemon, no vault and no key.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct CheckArgs {
    /// YAML files with classes; `-` is the standard input.
    #[arg(value_name = "FILE", required_unless_present_any = ["config", "schema"])]
    pub files: Vec<PathBuf>,

    /// The daemon's configuration: judged too, and the classes are held against its backends and limits. Without it any backend's name will do.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Whether the policy lets Pods of this ServiceAccount have each object.
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = account)]
    pub account: Option<Account>,

    /// Print the policy's rules that the classes need, and no more: for the ServiceAccount of --as, else for all Pods of each class's namespace.
    #[arg(long)]
    pub suggest_policy: bool,

    /// Do not fail if the files together contain no class.
    #[arg(long)]
    pub allow_none: bool,

    /// How findings are written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Print the JSON Schema of the configuration or of a class, and nothing else.
    #[arg(long, value_enum, exclusive = true)]
    pub schema: Option<Schema>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Schema {
    Class,
    Config,
}

/// Whose Pods are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

/// Runs the command: findings go to `out`, with `--suggest-policy` the rules do and findings go to `err`.
pub fn run(args: &CheckArgs, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    if let Some(schema) = args.schema {
        return write(out, schema.text());
    }
    usage(args)?;
    let mut report = Report::default();
    let config = args.config.as_deref().map(|path| read_config(path, &mut report)).transpose()?.flatten();
    let rules = judge(args, config.as_ref(), input, &mut report);
    report.sort();
    if args.suggest_policy {
        write(out, &rules.to_yaml())?;
        write(err, &report.show(args.output))?;
    } else {
        write(out, &report.show(args.output))?;
    }
    match (report.unreadable.as_slice(), report.count(Severity::Error)) {
        ([], 0) => Ok(()),
        ([], _) => Err(Failure::fault(report.summary())),
        (unreadable, _) => Err(Failure::usage(unreadable.join("\n"))),
    }
}

fn usage(args: &CheckArgs) -> Result<(), Failure> {
    if args.account.is_some() && args.config.is_none() && !args.suggest_policy {
        return Err(Failure::usage("--as asks the policy, and that stands in the configuration (add --config FILE)"));
    }
    if args.files.iter().filter(|file| is_standard_input(file)).count() > 1 {
        return Err(Failure::usage("the standard input can be read only once (give `-` once)"));
    }
    Ok(())
}

/// The configuration if it is sound; its faults are findings.
fn read_config(path: &Path, report: &mut Report) -> Result<Option<Config>, Failure> {
    match Config::load(path) {
        Ok(config) => Ok(Some(config)),
        Err(ConfigError::Faults { file, faults }) => {
            let file = file.display().to_string();
            for fault in faults {
                let key = fault.key.clone();
                report.add(Finding { key, ..Finding::error(&file, fault.at, fault.to_string()) });
            }
            Ok(None)
        }
        Err(error @ ConfigError::Unreadable { .. }) => Err(Failure::usage(error)),
    }
}

fn judge(args: &CheckArgs, config: Option<&Config>, input: &mut dyn Read, report: &mut Report) -> Rules {
    let configured = config.map(Config::configured);
    let catalogue: &dyn Catalogue = configured.as_ref().map_or(&Anything, |configured| configured);
    let Limits { objects, class_bytes, files, .. } = config.map_or_else(Limits::default, |config| config.limits);
    let limits =
        ClassLimits { objects, files, bytes: class_bytes, owners: config.is_some_and(|config| config.delivery == DeliveryMode::Provider) };
    let pod = args.account.as_ref().map(|account| Arc::new(account.pod()));
    let mut judge = Judge {
        catalogue,
        limits,
        policy: config.map(|config| &config.policy),
        providers: config.map(|config| config.sockets.providers.as_slice()),
        pod: pod.as_ref(),
        suggest: args.suggest_policy,
        rules: Rules::default(),
        report,
    };
    for path in &args.files {
        let file = if is_standard_input(path) { "<stdin>".to_owned() } else { path.display().to_string() };
        match read(path, input) {
            Ok(text) => judge_file(&mut judge, &file, &text),
            Err(cause) => judge.report.unreadable.push(format!("{file}: {cause}")),
        }
    }
    let rules = judge.rules;
    report.end(args.allow_none);
    rules
}

fn judge_file(judge: &mut Judge<'_>, file: &str, text: &str) {
    judge.report.files += 1;
    let documents = match parse_all(text) {
        Ok(documents) => documents,
        Err(fault) => return judge.report.add(Finding::error(file, fault.at, fault.to_string())),
    };
    let resources = resources(&documents);
    let mut found = 0;
    let mut names = BTreeMap::new();
    for node in &resources {
        let (fault, is_class) = match Meant::of(node) {
            Meant::Class => (None, true),
            Meant::ClassBut(fault) => (Some(fault), true),
            Meant::Nearly(fault) => (Some(fault), false),
            Meant::Other => continue,
        };
        found += 1;
        if let Some(meant::Fault { at, key, problem }) = fault {
            let (class, key, message) = (name_of(node).to_owned(), key.to_owned(), format!("{key}: {problem}"));
            judge.report.add(Finding { class, key, ..Finding::error(file, at, message) });
        }
        if is_class {
            warn_of_namesake(judge, file, node, &mut names);
            judge_resource(judge, file, text, node);
        }
    }
    judge.report.found += found;
    if found == 0 {
        let message = format!("no SecretProviderClass is in here ({})", others(&resources));
        judge.report.without.push(Finding::note(file, Position { line: 1, column: 1 }, message));
    }
}

/// The API server keeps the last of several classes with one name.
fn warn_of_namesake<'n>(judge: &mut Judge<'_>, file: &str, node: &'n Node, names: &mut BTreeMap<(&'n str, &'n str), Position>) {
    let name = name_of(node);
    let namespace = field(node, "metadata").and_then(|metadata| field(metadata, "namespace")?.text()).unwrap_or_default();
    if let Some(before) = names.insert((namespace, name), node.at).filter(|_| !name.is_empty()) {
        let message = format!("metadata.name: overwrites the class {} of line {} (keep one, or rename it)", quoted(name), before.line);
        judge.report.add(Finding { class: name.to_owned(), key: "metadata.name".to_owned(), ..Finding::warning(file, node.at, message) });
    }
}

fn judge_resource(judge: &mut Judge<'_>, file: &str, text: &str, node: &Node) {
    let provider = field(node, "spec").and_then(|spec| field(spec, "provider"));
    let about = |finding| Finding { class: name_of(node).to_owned(), ..finding };
    match provider.and_then(|node| Some((node, Foreign::of(string(node).ok()?)?))) {
        Some((provider, Foreign::Passed(why))) => {
            return judge.report.add(about(Finding::note(file, provider.at, format!("the class is passed over: {why}"))));
        }
        Some((provider, Foreign::Wrong(why))) => {
            judge.report.classes += 1;
            let finding = Finding::error(file, provider.at, format!("spec.provider: {why}"));
            return judge.report.add(about(Finding { key: "spec.provider".to_owned(), ..finding }));
        }
        None => {}
    }
    judge.report.classes += 1;
    let secrets = field(node, "spec").and_then(|spec| field(spec, "secretObjects"));
    for doubt in secrets.map(secret_objects::judge).unwrap_or_default() {
        let finding = Finding::error(file, doubt.at, doubt.message);
        judge.report.add(about(Finding { severity: doubt.severity, key: doubt.key.to_owned(), ..finding }));
    }
    let mut faults = Faults::default();
    let class = ClassManifest::of(node, &mut faults);
    let faults = faults.into_sorted();
    // What is not a text has no objects to be judged.
    let has_objects = faults.iter().all(|fault| fault.key != "spec.parameters.objects");
    for fault in faults {
        let (class, key) = (name_of(node).to_owned(), fault.key.clone());
        judge.report.add(Finding { class, key, ..Finding::error(file, fault.at, fault.to_string()) });
    }
    if let Some(class) = class.filter(|_| has_objects) {
        judge.judge(file, text, node, &class);
    }
}

fn read(path: &Path, input: &mut dyn Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if is_standard_input(path) {
        input.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(text::read_manifest(&bytes)?.to_string())
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

fn write(to: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        // Whoever reads may stop reading (`| head`): that is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::usage(format!("cannot write the output: {error}"))),
        _ => Ok(()),
    }
}

fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Account { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("write a namespace and the name of a ServiceAccount in it, such as shop/web".to_owned()),
    }
}

impl Account {
    /// A Pod of this ServiceAccount: policy looks at no more.
    fn pod(&self) -> PodIdentity {
        let (namespace, service_account) = (self.namespace.clone(), self.name.clone());
        PodIdentity::believed(&PodClaims { namespace, name: String::new(), uid: String::new(), service_account })
    }
}

impl Schema {
    fn text(self) -> &'static str {
        match self {
            Self::Class => SCHEMA_OF_CLASS,
            Self::Config => SCHEMA_OF_CONFIG,
        }
    }
}
