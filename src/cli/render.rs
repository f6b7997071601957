//! `keyferry render`: makes the files of a class with made-up values, with the daemon's own parser and renderer. It asks no daemon, store or policy.

mod shown;
mod values;

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;

use self::values::{Values, named};
use super::answer::{Answer, AnswerFile};
use super::check::{Anything, is_standard_input, placed, read};
use super::manifest::{ClassManifest, ManifestFaults};
use super::mount::{open_folder, tree};
use super::streams::{note, warn, write};
use super::{Failure, Format, Shown};
use crate::clock::Clock;
use crate::config::Limits;
use crate::dialect::{self, ClassLimits, NATIVE};
use crate::formats::pkcs12::SaltKey;
use crate::model::{FileMode, Plan};
use crate::render::{self, RenderFault, RenderLimits, RenderWarning, Rendered, Unrendered};
use crate::steps::{OF_A_MOUNT, Steps};
use crate::yaml::parse_all;

const EXAMPLES: &str = "\
Examples:
  Each file of the class, with its contents:
    keyferry render -f shop.yaml --values values.yaml

  The same as files in a folder, to let the application read them:
    keyferry render -f shop.yaml --values values.yaml --to /tmp/shop

values.yaml has a mapping of fields for each secret. The key is the secret's name in the store, with or without the backend before it. A field \
that is not a text is JSON, as in Vault. A null means that the store does not have the secret. The output of `keyferry vault export` works \
too. An example of values.yaml:

    shop/db: { username: app, password: \"made up: 'x' $y\" }
    bao/kv/data/shop/api: { token: abc, limits: { rate: 5 } }
    shop/mail: null

Exit code 1: the class has faults, or its files cannot be made from these values; 2: wrong arguments, or a file cannot be read.";

/// Render a class's files with made-up values.
///
/// The command parses the class and makes its files as the daemon does, with the daemon's default limits. It does not ask the policy, the
/// identity or a store. So it needs no configuration and no real secret.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct RenderArgs {
    /// A YAML file with a SecretProviderClass. Other kinds in it are ignored. `-` is the standard input.
    #[arg(short = 'f', long, visible_alias = "file", value_name = "FILE")]
    class: PathBuf,

    /// The class's name, if the file has several classes.
    #[arg(long, value_name = "NAME")]
    class_name: Option<String>,

    /// A YAML or JSON file with the values of each secret. `-` is the standard input.
    #[arg(long, value_name = "FILE")]
    values: PathBuf,

    /// Write the files into this folder, as a volume has them, instead of printing them. The folder is created if it is missing.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,

    #[command(flatten)]
    pub(super) shown: Shown,
}

/// # Errors
/// The class or the values have faults, or no file can be made from them (exit code 1); a file cannot be read (2).
pub fn run(args: &RenderArgs, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    if is_standard_input(&args.class) && is_standard_input(&args.values) {
        return Err(Failure::usage("the standard input can be read only once (write `-` once)"));
    }
    let mut plan = plan(args)?;
    let values = Values::read(&shown(&args.values), &text(&args.values)?)?;
    values.put_below(&mut plan, &Steps::of(OF_A_MOUNT))?;
    for unused in values.unused(&plan) {
        warn(err, &unused);
    }
    for warning in &plan.warnings {
        warn(err, &warning.to_string());
    }
    let rendered = rendered(&plan, &values)?;
    for RenderWarning { object, secret, problem } in &rendered.warnings {
        warn(err, &format!("{object}: {}: {problem}", named(secret)));
    }
    for skipped in &rendered.skipped {
        let object = plan.object(skipped.object).map(|object| object.label().to_string()).unwrap_or_default();
        let field = skipped.field.as_ref().map(|field| format!(": {field}")).unwrap_or_default();
        note(err, &format!("{object}: {}{field}: is absent, but it is optional", named(&skipped.secret)));
    }
    show(args, clock, &rendered, out)
}

/// The class's plan, as a mount would parse it. Every backend name is accepted, and a file may have an owner.
fn plan(args: &RenderArgs) -> Result<Plan, Failure> {
    let (file, text) = (shown(&args.class), text(&args.class)?);
    let documents = parse_all(&text).map_err(|fault| Failure::fault(ManifestFaults { file: file.clone(), faults: vec![fault] }))?;
    let (node, class) = ClassManifest::among(&file, &documents, args.class_name.as_deref()).map_err(Failure::fault)?;
    let mut parameters = class.parameters.clone();
    if class.provider != NATIVE && parameters.get("dialect").is_none_or(String::is_empty) {
        parameters.insert("dialect".to_owned(), class.provider.clone());
    }
    let Limits { objects, class_bytes, files, .. } = Limits::default();
    let limits = ClassLimits { objects, files, bytes: class_bytes, owners: true };
    let parsed = dialect::parse(&parameters, &Anything, limits, &Steps::of(OF_A_MOUNT));
    parsed.map_err(|faults| Failure::fault(placed(&file, &text, node, &class, faults)))
}

fn rendered(plan: &Plan, values: &Values) -> Result<Rendered, Failure> {
    let secrets = values.of(plan)?;
    let secrets: Vec<_> = secrets.iter().map(Option::as_deref).collect();
    let Limits { files, secret_bytes, mount_bytes, .. } = Limits::default();
    let limits = RenderLimits { files, secret_bytes, memory: mount_bytes, is_all_memory: true, mount_bytes };
    // A node has its own key, so its keystores have other bytes.
    let salts = SaltKey::new(b"keyferry render");
    render::render(plan, &secrets, FileMode::DEFAULT, limits, &salts, &Steps::of(OF_A_MOUNT)).map_err(|unrendered| match unrendered {
        Unrendered::Faults(faults) => {
            let more = if faults.more() > 0 { format!("... and {} more", faults.more()) } else { String::new() };
            let line = |RenderFault { object, secret, problem, code }: &RenderFault| {
                // A problem may name another secret of the class.
                let problem = plan.secrets.iter().fold(problem.clone(), |text, secret| text.replace(&secret.to_string(), &named(secret)));
                format!("{code}: {object}: {}: {problem}\n", named(secret))
            };
            Failure::fault(faults.iter().map(line).chain([more]).collect::<String>())
        }
        // This limit is all the memory that a mount may have.
        Unrendered::Short => Failure::fault("TooLarge: the files need more memory than a mount may use"),
    })
}

fn show(args: &RenderArgs, clock: &dyn Clock, rendered: &Rendered, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(dir) = &args.to else {
        return write(
            out,
            &match args.shown.output {
                Format::Json => shown::json(rendered, None),
                Format::Text => shown::text(rendered),
            },
        );
    };
    let failed = |cause: &dyn std::fmt::Display| Failure::fault(format!("--to {}: {cause}", dir.display()));
    let files = rendered.files.iter().map(|file| AnswerFile {
        path: file.path.clone(),
        mode: file.mode,
        contents: Bytes::copy_from_slice(file.contents.expose()),
    });
    let answer = Answer { files: files.collect(), objects: Vec::new(), warnings: Vec::new() };
    let folder = open_folder(dir).map_err(|cause| failed(&cause))?;
    answer.write(&folder, clock.now()).map_err(|cause| failed(&cause))?;
    write(
        out,
        &match args.shown.output {
            Format::Json => shown::json(rendered, Some(dir)),
            Format::Text => tree(dir, &answer.files).map_err(|cause| failed(&cause))?,
        },
    )
}

/// A file's text, up to a bound.
fn text(file: &Path) -> Result<String, Failure> {
    read(file, &mut std::io::stdin().lock()).map_err(|cause| Failure::usage(format!("{}: cannot be read: {cause}", shown(file))))
}

fn shown(file: &Path) -> String {
    if is_standard_input(file) { "(standard input)".to_owned() } else { file.display().to_string() }
}
