//! `keyferry check`: judges classes and the configuration without a cluster, a daemon or a key.
//!
//! It uses the same parser of classes and the same policy as a mount. It adds the place of each fault in the file, and warnings about what a mount
//! would accept but is probably a mistake.

mod catalogue;
mod class;
mod finding;
mod meant;
mod origin;
mod place;
mod rules;
mod secret_objects;
mod settings;
mod sources;
mod succession;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

pub(super) use self::catalogue::{Anything, UNNAMED};
use self::class::Judge;
pub(super) use self::class::placed;
use self::finding::{Finding, Output, Report, Severity, Warned};
use self::meant::{Foreign, Meant};
use self::origin::Origins;
pub(super) use self::rules::Rules;
pub(super) use self::settings::Settings;
use self::sources::Folder;
use super::Failure;
use super::manifest::{ClassManifest, field, name_of, others, resources, string};
use super::streams::{note, write};
use crate::config::{Config, Limits};
use crate::delivery::DeliveryMode;
use crate::dialect::ClassLimits;
use crate::model::{Catalogue, PodClaims, PodIdentity, quoted};
use crate::text;
use crate::yaml::{Faults, Node, Position, parse_all};

/// The longest file in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

pub(super) const SCHEMA_OF_CLASS: &str = include_str!("../../schemas/class.json");
const SCHEMA_OF_AUDIT: &str = include_str!("../../schemas/audit.json");
pub(super) const SCHEMA_OF_CONFIG: &str = include_str!("../../schemas/config.json");

const EXAMPLES: &str = "\
Examples:
  Every fault of a class, in the words of a failed mount, with its place in the file:
    keyferry check shop.yaml

  All YAML and JSON files of a folder; a warning fails the check too, except those that you allow:
    keyferry check --strict --allow root-only-mode deploy/

  What a chart renders, for a pull request:
    helm template ./chart | keyferry check -o github -

  The node's configuration, and whether its policy lets Pods of ServiceAccount web have what these classes ask for:
    keyferry check --config keyferry.yaml --as shop/web classes/

  The rules that would allow it:
    keyferry check --suggest-policy --as shop/web classes/

  Whether classes still work after a change of the configuration:
    keyferry check --config new.yaml --former old.yaml classes/

Exit code 0: no fault, perhaps warnings; 1: faults, no class at all, or with --strict warnings; 2: a file cannot be read, or an argument is wrong.";

/// Find what is wrong with classes and with the configuration.
///
/// The command reads SecretProviderClasses of the providers keyferry, vault, openbao and aws from YAML files (several documents, lists, what Helm
/// renders). It ignores other kinds. It reports every fault with file, line and column, in the words of a failed mount. It needs no cluster, no
/// daemon, no vault and no key.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools)] // each is an option of its own
pub struct CheckArgs {
    /// YAML files with classes, or folders of them (*.yaml, *.yml, *.json; links are not followed). `-` is the standard input.
    #[arg(value_name = "FILE|DIR", required_unless_present_any = ["config", "schema", "file"])]
    pub files: Vec<PathBuf>,

    /// One more file or folder, like `-f` of kubectl. May be repeated.
    #[arg(short, long, value_name = "FILE|DIR")]
    pub file: Vec<PathBuf>,

    /// The daemon's configuration, or a manifest of the ConfigMap that has it. `check` checks the configuration too, and checks the classes
    /// with its backends and limits. Without it, every name of a backend is accepted.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    pub config: Option<PathBuf>,

    /// The configuration before a change. `check` then reports what the new one (--config) would break.
    #[arg(long, value_name = "FILE", requires = "config")]
    pub former: Option<PathBuf>,

    /// Ask the policy for each object: may Pods of this ServiceAccount have it?
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = account)]
    pub account: Option<Account>,

    /// Print only the policy rules that the classes need: for the ServiceAccount of --as. Without --as: for all Pods of each class's namespace.
    #[arg(long, conflicts_with = "output")]
    pub suggest_policy: bool,

    /// End with exit code 1 also if there are only warnings.
    #[arg(long)]
    pub strict: bool,

    /// Ignore warnings with this id. May be repeated.
    #[arg(long = "allow", value_name = "ID", value_enum, hide_possible_values = true)]
    pub allow: Vec<Warned>,

    /// Do not fail if the files have no class at all.
    #[arg(long)]
    pub allow_none: bool,

    /// The name for the standard input in findings.
    #[arg(long, value_name = "NAME", default_value = "<stdin>")]
    pub stdin_name: String,

    /// The format of the findings.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,

    /// Print only faults. If there are none, print nothing.
    #[arg(short, long)]
    pub quiet: bool,

    /// Print the JSON Schema of the configuration, of a class or of an audit line, and nothing else.
    #[arg(long, value_enum, conflicts_with_all = ["files", "file", "suggest_policy"])]
    pub schema: Option<Schema>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Schema {
    Audit,
    Class,
    Config,
}

/// The ServiceAccount whose Pods are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

/// Runs the command. Findings go to `out`. With `--suggest-policy` the rules go to `out`, and findings go to `err`. `colours`: as on a terminal.
pub fn run(mut args: CheckArgs, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write, colours: bool) -> Result<(), Failure> {
    if let Some(schema) = args.schema {
        return write(out, schema.text());
    }
    args.files.append(&mut args.file);
    let args = &args;
    let config = args.config.as_deref().filter(|path| !path.as_os_str().is_empty());
    usage(args, config)?;
    let mut report = Report::new(args.allow.clone(), args.quiet, colours);
    let settings = config.map(|path| Settings::read(path, input)).transpose()?;
    if let Some(settings) = &settings {
        report.judged_settings(settings);
    }
    if let (Some(former), Some(settings)) = (&args.former, &settings) {
        let former = Settings::read(former, input)?;
        former.faults.iter().for_each(|fault| report.add(fault.clone()));
        report.extend(succession::judge(&former, settings));
    }
    let rules = judge(args, settings.as_ref().and_then(|settings| settings.config.as_ref()), input, &mut report);
    report.sort();
    if args.suggest_policy {
        write(out, &rules.to_yaml())?;
        note(err, &report.severity_first());
    } else {
        write(out, &report.show(args.output))?;
    }
    let faults = report.count(Severity::Error) > 0 || args.strict && report.count(Severity::Warning) > 0;
    match (report.unreadable.is_empty(), faults) {
        (true, false) => Ok(()),
        (true, true) => Err(Failure::silent(1)),
        (false, _) => Err(Failure::silent(2)),
    }
}

fn usage(args: &CheckArgs, config: Option<&Path>) -> Result<(), Failure> {
    if args.account.is_some() && config.is_none() && !args.suggest_policy {
        return Err(Failure::usage("--as asks the policy, which is in the configuration (add --config FILE)"));
    }
    if args.files.is_empty() && config.is_none() {
        return Err(Failure::usage(
            "there is nothing to check (name files or folders with classes, or a configuration with --config FILE)",
        ));
    }
    let inputs = args.files.iter().map(PathBuf::as_path).chain(config).chain(args.former.as_deref());
    if inputs.filter(|file| is_standard_input(file)).count() > 1 {
        return Err(Failure::usage("the standard input can be read only once (write `-` once)"));
    }
    Ok(())
}

fn judge(args: &CheckArgs, config: Option<&Config>, input: &mut dyn Read, report: &mut Report) -> Rules {
    let configured = config.map(Config::configured);
    let catalogue: &dyn Catalogue = configured.as_ref().map_or(&Anything, |configured| configured);
    let Limits { objects, class_bytes, files, .. } = config.map_or_else(Limits::default, |config| config.limits);
    // Without a configuration nobody knows who writes the files: `Judge::note_owner` says so.
    let owners = config.is_none_or(|config| config.delivery == DeliveryMode::Provider);
    let limits = ClassLimits { objects, files, bytes: class_bytes, owners };
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
        if !is_standard_input(path) && path.is_dir() {
            judge_folder(&mut judge, path, input);
        } else {
            let file = if is_standard_input(path) { args.stdin_name.clone() } else { path.display().to_string() };
            let without = judge_path(&mut judge, path, &file, input);
            judge.report.without.extend(without);
        }
    }
    let rules = judge.rules;
    report.end(args.allow_none);
    rules
}

/// One note for a folder without a class: a note for each of its files would hide the rest.
fn judge_folder(judge: &mut Judge<'_>, dir: &Path, input: &mut dyn Read) {
    let folder = Folder::walk(dir);
    let (shown, start) = (dir.display().to_string(), Position { line: 1, column: 1 });
    for (path, cause) in &folder.unreadable {
        judge.report.cannot_read(&path.display().to_string(), cause);
    }
    for templates in &folder.templates {
        let message = "the templates of a chart are not read (render them: helm template CHART | keyferry check -)";
        judge.report.add(Finding::note(&templates.display().to_string(), start, message));
    }
    let before = judge.report.found;
    for path in &folder.files {
        judge_path(judge, path, &path.display().to_string(), input);
    }
    if judge.report.found == before {
        let message = match folder.files.len() {
            0 => "no *.yaml, *.yml or *.json file is in this folder".to_owned(),
            1 => "no SecretProviderClass is in the 1 file of this folder".to_owned(),
            files => format!("no SecretProviderClass is in the {files} files of this folder"),
        };
        judge.report.without.push(Finding::note(&shown, start, message));
    }
}

/// If the file has no class, returns a note that says so.
fn judge_path(judge: &mut Judge<'_>, path: &Path, file: &str, input: &mut dyn Read) -> Option<Finding> {
    match read(path, input) {
        Ok(text) => {
            let (before, origins) = (judge.report.mark(), Origins::of(&text));
            let without = judge_file(judge, file, &text, &origins);
            judge.report.relocate(before, &origins);
            without
        }
        Err(cause) => {
            judge.report.cannot_read(file, &cause);
            None
        }
    }
}

fn judge_file(judge: &mut Judge<'_>, file: &str, text: &str, origins: &Origins<'_>) -> Option<Finding> {
    judge.report.files += 1;
    let documents = match parse_all(text) {
        Ok(documents) => documents,
        Err(fault) => {
            judge.report.add(Finding::error(file, fault.at, fault.to_string()));
            if text.contains("{{") {
                let message = "looks like a template (render it first: helm template CHART | keyferry check -)";
                judge.report.add(Finding::note(file, fault.at, message));
            }
            return None;
        }
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
            warn_of_namesake(judge, file, node, &mut names, origins);
            judge_resource(judge, file, text, node);
        }
    }
    judge.report.found += found;
    (found == 0).then(|| {
        let message = format!("no SecretProviderClass is in here ({})", others(&resources));
        Finding::note(file, Position { line: 1, column: 1 }, message)
    })
}

/// The API server keeps the last of several classes with one name.
fn warn_of_namesake<'n>(
    judge: &mut Judge<'_>,
    file: &str,
    node: &'n Node,
    names: &mut BTreeMap<(&'n str, &'n str), Position>,
    origins: &Origins<'_>,
) {
    let name = name_of(node);
    let namespace = field(node, "metadata").and_then(|metadata| field(metadata, "namespace")?.text()).unwrap_or_default();
    if let Some(before) = names.insert((namespace, name), node.at).filter(|_| !name.is_empty()) {
        let before = match origins.place(before) {
            Some((file, at)) => format!("{file}, line {}", at.line),
            None => format!("line {}", before.line),
        };
        let message = format!("metadata.name: overwrites the class {} of {before} (keep one, or rename it)", quoted(name));
        let finding = Finding::warning(Warned::SameName, file, node.at, message);
        judge.report.add(Finding { class: name.to_owned(), key: "metadata.name".to_owned(), ..finding });
    }
}

fn judge_resource(judge: &mut Judge<'_>, file: &str, text: &str, node: &Node) {
    let provider = field(node, "spec").and_then(|spec| field(spec, "provider"));
    let about = |finding| Finding { class: name_of(node).to_owned(), ..finding };
    match provider.and_then(|node| Some((node, Foreign::of(string(node).ok()?)?))) {
        Some((provider, Foreign::Passed(why))) => {
            return judge.report.add(about(Finding::note(file, provider.at, format!("the class is not checked: {why}"))));
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
        judge.report.add(about(Finding { severity: doubt.severity, id: doubt.id, key: doubt.key.to_owned(), ..finding }));
    }
    let mut faults = Faults::default();
    let class = ClassManifest::of(node, &mut faults);
    let faults = faults.into_sorted();
    // If `objects` is not a text, there are no objects to check.
    let has_objects = faults.iter().all(|fault| fault.key != "spec.parameters.objects");
    for fault in faults {
        let (class, key) = (name_of(node).to_owned(), fault.key.clone());
        judge.report.add(Finding { class, key, ..Finding::error(file, fault.at, fault.to_string()) });
    }
    if let Some(class) = class.filter(|_| has_objects) {
        judge.judge(file, text, node, &class);
    }
}

pub(super) fn read(path: &Path, input: &mut dyn Read) -> std::io::Result<String> {
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

pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

pub(super) fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Account { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("write a namespace and the name of a ServiceAccount in it, such as shop/web".to_owned()),
    }
}

impl Account {
    /// A Pod of this ServiceAccount. The policy does not look at its name or uid.
    pub(super) fn pod(&self) -> PodIdentity {
        let (namespace, service_account) = (self.namespace.clone(), self.name.clone());
        PodIdentity::believed(&PodClaims { namespace, name: String::new(), uid: String::new(), service_account })
    }
}

impl Schema {
    fn text(self) -> &'static str {
        match self {
            Self::Audit => SCHEMA_OF_AUDIT,
            Self::Class => SCHEMA_OF_CLASS,
            Self::Config => SCHEMA_OF_CONFIG,
        }
    }
}
