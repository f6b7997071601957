//! `keyferry cache`: the answers that the sealed folder keeps for outages. It reads and removes files. The daemon may run at the same time; the
//! command does not ask it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::report::columns;
use super::status::span;
use super::streams::{note, write};
use super::{Failure, Format, Shown};
use crate::backend::stack::cache::archive::{Listed, Target, list, wipe};
use crate::backend::stack::sealed::Sealed;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::BackendName;

const LIST: &str = "\
Examples:
  In the daemon's Pod on a node:
    kubectl exec -n keyferry POD -- /keyferry cache list

  On the node itself, as root:
    keyferry cache list --config /etc/keyferry/keyferry.yaml -o json

Exit code 0: done; 1: the folder or its key cannot be read; 2: wrong arguments, or the configuration has no `cache.sealed`.";

const WIPE: &str = "\
Examples:
  All answers, those of one backend, and those of names that begin with this:
    kubectl exec -n keyferry POD -- /keyferry cache wipe
    kubectl exec -n keyferry POD -- /keyferry cache wipe bao
    kubectl exec -n keyferry POD -- /keyferry cache wipe bao/kv/data/shop/

It works on one node: run it in the daemon's Pod on each node.
Exit code 0: done; 1: the folder cannot be written; 2: wrong arguments, or the configuration has no `cache.sealed`.";

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    List(ListArgs),
    Wipe(WipeArgs),
}

/// List the answers that this node keeps on its disk: names, ages and sizes, never a value.
///
/// While a store is out, the daemon gives such an answer until it is as old as `cache.stale`. The age counts from the time when the daemon asked
/// the store.
#[derive(Args, Debug)]
#[command(after_long_help = LIST)]
pub struct ListArgs {
    /// The daemon's configuration: `cache.sealed` says where the answers are. Other keys may have faults.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    config: PathBuf,

    #[command(flatten)]
    pub(super) shown: Shown,
}

/// Remove the answers that this node keeps: all, those of a backend, or those of names with a prefix.
///
/// The command also leaves a mark. The running daemon then gives none of these answers while a store is out, also not from its memory.
#[derive(Args, Debug)]
#[command(after_long_help = WIPE)]
pub struct WipeArgs {
    /// Which answers. Without it: all.
    #[arg(value_name = "BACKEND[/PREFIX]", value_parser = target)]
    target: Option<Target>,

    /// The daemon's configuration: `cache.sealed` says where the answers are. Other keys may have faults.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    config: PathBuf,

    #[command(flatten)]
    pub(super) shown: Shown,
}

// === impl CacheCommand ===

impl CacheCommand {
    pub(super) fn shown(&self) -> Shown {
        match self {
            Self::List(args) => args.shown,
            Self::Wipe(args) => args.shown,
        }
    }
}

/// # Errors
/// The configuration names no folder (2), or the folder cannot be read or written (1).
pub fn run(command: &CacheCommand, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    match command {
        CacheCommand::List(args) => show(args, clock.now(), out, err),
        CacheCommand::Wipe(args) => remove(args, clock.now(), out, err),
    }
}

fn show(args: &ListArgs, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    let (dir, sealed) = sealed(&args.config)?;
    let (mut answers, unopened) = list(&sealed).map_err(|error| fault(&dir, &error))?;
    answers.sort_by(|one, other| key(one).cmp(&key(other)));
    if unopened > 0 {
        note(err, &format!("{}: {unopened} files do not open with the keys of cache.sealed.key, or are not Keyferry's", dir.display()));
    }
    match args.shown.output {
        Format::Json => {
            let all: Vec<_> = answers.iter().map(|answer| document(answer, now)).collect();
            write(out, &format!("{:#}\n", json!({ "dir": dir.display().to_string(), "answers": all, "unopened": unopened })))
        }
        Format::Text if answers.is_empty() => write(out, &format!("no answers are kept in {}\n", dir.display())),
        Format::Text => write(out, &table(&answers, now)),
    }
}

fn remove(args: &WipeArgs, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    let (dir, sealed) = sealed(&args.config)?;
    let target = args.target.clone().unwrap_or(Target::All);
    let removed = wipe(&sealed, &target, now).map_err(|error| fault(&dir, &error))?;
    let what = match &target {
        Target::All => None,
        Target::Backend(backend, prefix) if prefix.is_empty() => Some(backend.to_string()),
        Target::Backend(backend, prefix) => Some(format!("{backend}/{prefix}")),
    };
    match args.shown.output {
        Format::Json => {
            let report = json!({ "dir": dir.display().to_string(), "wiped": what, "removed": removed, "until": now.to_string() });
            write(out, &format!("{report:#}\n"))?;
        }
        Format::Text => {
            let of = what.as_ref().map(|what| format!(" of {what}")).unwrap_or_default();
            let answers = if removed == 1 { "answer" } else { "answers" };
            write(out, &format!("removed {removed} {answers}{of}: Pods on this node do not get these earlier answers any more\n"))?;
        }
    }
    if let Some(what) = what.filter(|_| removed == 0) {
        note(err, &format!("{what}: no answer on this node's disk has a name that begins with this (`keyferry cache list` shows all)"));
    }
    Ok(())
}

/// The folder with its keys.
fn sealed(config: &Path) -> Result<(PathBuf, Arc<Sealed>), Failure> {
    let found = Config::sealed(config).map_err(Failure::usage)?;
    let Some(found) = found else {
        let file = config.display();
        return Err(Failure::usage(format!(
            "{file}: has no `cache.sealed`, so no answers are on this node's disk (a restart of the daemon removes those in memory)"
        )));
    };
    let sealed = Sealed::open(&found).map_err(|problems| Failure::fault(problems.join("\n")))?;
    Ok((found.dir, sealed))
}

fn fault(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::fault(format!("{}: {error} (run it as the daemon's user)", dir.display()))
}

fn target(text: &str) -> Result<Target, String> {
    let (backend, prefix) = text.split_once('/').unwrap_or((text, ""));
    let backend: BackendName = backend.parse().map_err(|problem| format!("{problem}"))?;
    Ok(Target::Backend(backend, prefix.to_owned()))
}

fn key(listed: &Listed) -> (&str, &str, &str, &str, Timestamp) {
    (listed.secret.backend.as_str(), listed.secret.name.as_str(), &listed.namespace, &listed.account, listed.at)
}

fn table(answers: &[Listed], now: Timestamp) -> String {
    let mut rows = vec![["BACKEND", "SECRET", "NAMESPACE/SERVICEACCOUNT", "AGE", "BYTES"].map(str::to_owned)];
    rows.extend(answers.iter().map(|answer| {
        let version = answer.secret.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
        [
            answer.secret.backend.to_string(),
            format!("{}{version}", answer.secret.name),
            format!("{}/{}", answer.namespace, answer.account),
            span(now, answer.at),
            answer.bytes.to_string(),
        ]
    }));
    columns(&rows)
}

fn document(answer: &Listed, now: Timestamp) -> Value {
    json!({
        "backend": answer.secret.backend.as_str(),
        "secret": answer.secret.name.as_str(),
        "version": answer.secret.version.as_ref().map(ToString::to_string),
        "namespace": answer.namespace,
        "serviceAccount": answer.account,
        "pod": answer.pod,
        "asked": answer.at.to_string(),
        "age": now.duration_since(answer.at).as_secs().max(0),
        "bytes": answer.bytes,
    })
}
