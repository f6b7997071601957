//! `keyferry exec`: runs a command with environment variables from mounted files, in this process.
//!
//! The kernel replaces the program (execve(2)). The process id, signals and the exit code are then those of the command, and nothing of Keyferry
//! remains.

mod install;
mod loads;
mod variables;

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::{ArgGroup, Args};

use self::loads::loads_code;
use self::variables::{Source, Variable};
use super::Failure;
use crate::nearest::nearest;

/// As shells have it: the command is not there, or it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

const EXAMPLES: &str = "\
Examples:
  Variables from a file of `format: dotenv`, then the application:
    keyferry exec --env-file /secrets/.env -- /app/server --port 8080

  One variable per file of a folder, with exactly the bytes of the file:
    keyferry exec --dir /secrets/env --only DB_USER,DB_PASSWORD -- /app/server

  Copy this program into a volume, for a container whose image does not have it:
    keyferry exec --install /keyferry

Variables that are already set keep their values, unless you add --override. The environment does not change when a secret changes, and other \
processes can see it. If an application can read files, give it files.
Exit code: that of the command; 127: there is no such command; 126: it cannot be run; 1: a file's content is wrong; 2: wrong arguments, or a file \
cannot be read.";

/// Run a command with environment variables from mounted files.
///
/// It reads a file that `format: dotenv` has written, or a folder with one file per variable. Then the command replaces `keyferry exec` in the same
/// process: process id, signals and exit code are those of the command.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
#[command(group = ArgGroup::new("what").args(["env_file", "dir", "install"]).required(true))]
pub struct ExecArgs {
    /// A file in the form that `format: dotenv` and the filter `dotenv` write. Comments and other spellings are refused.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// A folder. Each file is one variable: its name is the file's name, its value is all bytes of the file.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Use only these variables. All of them must be there. A name that loads code, such as LD_PRELOAD or PATH, is refused unless you name it
    /// here. May be repeated.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "install")]
    only: Vec<String>,

    /// Replace variables that are already set.
    #[arg(long = "override", conflicts_with = "install")]
    overrides: bool,

    /// Copy this program into a folder as `keyferry`, with mode 0755, and run nothing.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    install: Option<PathBuf>,

    /// The command and its arguments.
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "install")]
    command: Vec<OsString>,
}

/// # Errors
/// A file cannot be read or has wrong content, or the command cannot be started. If all is well, this does not return.
pub fn run(args: &ExecArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    let source = match (&args.env_file, &args.dir, &args.install) {
        (_, _, Some(dir)) => return install::run(dir, out, err),
        (Some(file), _, None) => Source::File(file),
        (None, Some(dir), None) => Source::Folder(dir),
        // clap does not let this happen.
        (None, None, None) => return Err(Failure::usage("name the variables with --env-file FILE or --dir DIR")),
    };
    let variables = source.read(&args.only)?;
    check(args, source, &variables)?;
    let is_ours = |variable: &Variable| args.overrides || env::var_os(&variable.name).is_none();
    Err(replaced(&args.command, variables.into_iter().filter(is_ours).collect()))
}

/// Checks that each name of `--only` is there, and that no other variable makes a program load code.
fn check(args: &ExecArgs, source: Source<'_>, variables: &[Variable]) -> Result<(), Failure> {
    let shown = source.path().display();
    let mut faults = Vec::new();
    for name in args.only.iter().filter(|name| variables.iter().all(|variable| variable.name != **name)) {
        let remedy = match nearest(name, variables.iter().map(|variable| variable.name.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => "correct --only, or the class".to_owned(),
        };
        faults.push(format!("{shown}: there is no variable {name} ({remedy})"));
    }
    for Variable { name, .. } in variables.iter().filter(|variable| !args.only.contains(&variable.name)) {
        if let Some(pattern) = loads_code(name) {
            faults.push(format!(
                "{shown}: {name}: a variable of this name can make a program run other code ({pattern}), so it is refused (to allow it, name all variables that you need: --only {name},...)"
            ));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::fault(faults.join("\n"))) }
}

/// Replaces this process. It returns only if that failed, with the reason.
fn replaced(command: &[OsString], variables: Vec<Variable>) -> Failure {
    let Some((program, arguments)) = command.split_first() else { return Failure::usage("name a command after `--`") };
    let largest = variables.iter().max_by_key(|variable| variable.value.len()).map(|largest| (largest.name.clone(), largest.value.len()));
    let variables = variables.into_iter().map(|Variable { name, value }| (name, value));
    let error = Command::new(program).args(arguments).envs(variables).exec();
    let (code, remedy) = remedy(&error, largest);
    Failure { code, message: format!("{}: cannot be run: {error}{remedy}", program.to_string_lossy()) }
}

#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn remedy(error: &io::Error, largest: Option<(String, usize)>) -> (u8, String) {
    match error.kind() {
        ErrorKind::NotFound => {
            (NOT_FOUND, " (is it in the image and in PATH? if it is a script, is the program of its first line there too?)".to_owned())
        }
        ErrorKind::ArgumentListTooLong => {
            let largest = largest.map_or_else(String::new, |(name, bytes)| format!("; the largest variable is {name}, with {bytes} bytes"));
            (NOT_RUN, format!(" (Linux takes at most 128 KiB per variable{largest}: let the application read the file)"))
        }
        ErrorKind::PermissionDenied => (NOT_RUN, " (is it a file, and executable for this user?)".to_owned()),
        _ => (NOT_RUN, String::new()),
    }
}
