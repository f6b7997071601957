//! `keyferry can`: asks whether the node's policy allows a secret, and by which rule.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::check::{Account, Settings, account};
use super::streams::write;
use super::{Failure, Format, Shown};
use crate::config::Config;
use crate::model::{BackendName, Method, RefParts, SecretRef};
use crate::nearest::nearest;
use crate::policy::Because;

const EXAMPLES: &str = "\
Examples:
  keyferry can read files/shop/db --as shop/web --config keyferry.yaml
  keyferry can read files/shop/certs/ --as shop/web     # everything below it
  keyferry can update bao/pki/issue/web --as shop/web -o json

The command asks only this node's policy: the store may still refuse. Write the name as the policy does. If the store has namespaces, the \
namespace comes first.
Exit code 0: yes; 1: no; 2: wrong arguments or configuration.";

/// Ask the policy: may the Pods of a ServiceAccount have this secret, and by which rule?
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct CanArgs {
    /// `read`: get what the store has. `update`: ask the store to create something, such as a certificate.
    #[arg(value_enum)]
    verb: Verb,

    /// The backend and the secret's name in it. A name with `/` at its end means everything below that folder, like a class's `prefix`.
    #[arg(value_name = "BACKEND/NAME")]
    secret: String,

    /// The ServiceAccount whose Pods ask.
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = account)]
    account: Account,

    /// The daemon's configuration, or a manifest of the ConfigMap that has it.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    config: PathBuf,

    #[command(flatten)]
    pub(super) shown: Shown,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Verb {
    Read,
    Update,
}

/// # Errors
/// Not allowed (exit code 1), or unknown (2).
pub fn run(args: &CanArgs, input: &mut dyn Read, out: &mut dyn Write) -> Result<(), Failure> {
    let settings = Settings::read(&args.config, input)?;
    let config = settings.config.as_ref().ok_or_else(|| Failure::usage(settings.faults_text()))?;
    let secret = secret(args, config)?;
    let pod = Arc::new(args.account.pod());
    let rules = config.policy.of(&pod);
    let (allowed, number, why) = match rules.decide(&secret) {
        Ok(number) => {
            let pattern = rules.allowing(&secret).unwrap_or_default();
            let verb = secret.verb();
            (true, Some(number), format!("{} {verb}s {pattern:?}", settings.rule(number)))
        }
        Err(denial) => {
            let place = match denial.rule() {
                Some(number) => format!("{}: ", settings.rule(number)),
                None => String::new(),
            };
            let remedy = match denial.because {
                Because::NoRule | Because::Unspelled { .. } => {
                    format!("\nThis rule would allow it (under `policy`):\n{}", rule(args, &secret))
                }
                Because::Audience { .. } | Because::Found { .. } | Because::Login { .. } | Because::Never { .. } | Because::Rule { .. } => {
                    String::new()
                }
            };
            (false, denial.rule(), format!("{place}{denial}{remedy}"))
        }
    };
    let answer = match args.shown.output {
        Format::Json => format!("{:#}\n", json!({ "allowed": allowed, "rule": number, "why": why })),
        Format::Text => format!("{}: {why}\n", if allowed { "yes" } else { "no" }),
    };
    write(out, &answer)?;
    if allowed { Ok(()) } else { Err(Failure::silent(1)) }
}

fn secret(args: &CanArgs, config: &Config) -> Result<SecretRef, Failure> {
    let Some((backend, name)) = args.secret.split_once('/') else {
        return Err(Failure::usage(format!("{:?}: has no `/` (write BACKEND/NAME, such as files/shop/db)", args.secret)));
    };
    let names = || config.backends.keys().map(BackendName::as_str);
    let Some((found, settings)) = config.backends.iter().find(|(known, _)| known.as_str() == backend) else {
        let remedy = match nearest(backend, names()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
        };
        return Err(Failure::usage(format!("{:?}: there is no backend {backend:?} ({remedy})", args.secret)));
    };
    let folder = name.strip_suffix('/');
    let canonical = |name: &str| settings.kind().canonical(name).map_err(|cause| Failure::usage(format!("{:?}: {cause}", args.secret)));
    let name = match folder {
        // Everything below a folder, like a class's `prefix`.
        Some(folder) => canonical(&format!("{folder}/x"))?.folder(),
        None => Some(canonical(name)?),
    };
    let method = match (args.verb, folder) {
        (Verb::Read, Some(_)) => Method::List,
        (Verb::Read, None) => Method::Get,
        (Verb::Update, Some(_)) => {
            let problem = "ends with `/`: only `read` can ask for everything below a folder (name one secret)";
            return Err(Failure::usage(format!("{:?}: {problem}", args.secret)));
        }
        (Verb::Update, None) if !settings.kind().facts().updates => {
            let problem = format!("{backend} only reads, and nothing is updated there (ask for `read`)");
            return Err(Failure::usage(format!("{:?}: {problem}", args.secret)));
        }
        (Verb::Update, None) => Method::Post,
    };
    let Some(name) = name else { return Err(Failure::usage(format!("{:?}: names no folder", args.secret))) };
    Ok(RefParts { method, ..RefParts::read(found.clone(), name) }.into())
}

fn rule(args: &CanArgs, secret: &SecretRef) -> String {
    let mut rules = super::check::Rules::default();
    rules.add(&args.account.namespace, Some(&args.account.name), secret);
    rules.list().trim_end().to_owned()
}
