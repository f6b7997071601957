//! The commands, one file each. This file has the top level of the arguments, the runtime and the exit codes.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::clock::SystemClock;
use crate::telemetry::logs::shows_colours;

mod answer;
mod cache;
mod can;
mod check;
mod client;
mod demo;
mod doctor;
mod example;
mod exec;
mod explain;
mod health;
mod manifest;
mod mount;
mod render;
mod report;
mod serve;
mod shell;
mod status;
mod streams;
mod vault;

/// The most worker threads of the daemon. A mount is microseconds of work, so more threads would only cost memory.
const MAX_WORKERS: usize = 4;

/// How long the daemon's threads for blocking work stay when they have none. They keep freed memory for their next work
/// (docs/adr/0010-jemalloc.md).
const IDLE: Duration = Duration::from_secs(2);

/// Keyferry carries secrets from any store to the Pods that may have them, as files: a provider for the Kubernetes Secrets Store
/// CSI driver.
#[derive(Debug, Parser)]
#[command(name = "keyferry", version, max_term_width = 120)]
#[command(
    after_help = "New here? `keyferry demo` shows the whole job on this machine, with no cluster.\n`keyferry explain CODE` explains an error, `keyferry COMMAND --help` has examples.\n\nExit codes: 0 done; 1 it failed; 2 wrong arguments or configuration."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Mount(Box<mount::MountArgs>),
    Check(check::CheckArgs),
    Render(render::RenderArgs),
    Can(can::CanArgs),
    /// List and remove the answers that this node keeps for the time when a store is out.
    #[command(subcommand, after_help = CACHE)]
    Cache(cache::CacheCommand),
    /// Keep secrets in a file vault: a folder with one age file per secret.
    #[command(subcommand, after_help = VAULT)]
    Vault(vault::VaultCommand),
    Exec(exec::ExecArgs),
    Doctor(doctor::DoctorArgs),
    Status(status::StatusArgs),
    Health(health::HealthArgs),
    Explain(explain::ExplainArgs),
    Example(example::ExampleArgs),
    Completion(shell::CompletionArgs),
    Man(shell::ManArgs),
    Version(VersionArgs),
}

const CACHE: &str = "\
Examples:
  keyferry cache list --config /etc/keyferry/keyferry.yaml
  keyferry cache wipe bao/kv/data/shop/ --config /etc/keyferry/keyferry.yaml

`keyferry cache COMMAND --help` has examples of each.";

const VAULT: &str = "\
Examples:
  export KEYFERRY_VAULT=./vault KEYFERRY_IDENTITY=./age.key
  keyferry vault init
  keyferry vault set shop/db username=app password=-     # asks for the password
  keyferry vault patch shop/db password=-
  keyferry vault history shop/db

`keyferry vault COMMAND --help` has examples of each.";

/// Print the version.
#[derive(Args, Debug)]
#[command(after_long_help = "Example:\n  keyferry version -o json    # version, commit (or null) and target")]
struct VersionArgs {
    #[command(flatten)]
    shown: Shown,
}

/// The arguments of every command that prints a result.
#[derive(Args, Clone, Copy, Debug)]
pub struct Shown {
    /// Text for a person, or one JSON document.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub output: Format,

    /// Print only errors: the exit code is the answer.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    Json,
    Text,
}

impl Shown {
    #[cfg(test)]
    const TEXT: Self = Self { output: Format::Text, quiet: false };
}

/// A folder that is removed when its owner is dropped.
#[derive(Debug)]
struct TempFolder(Option<PathBuf>);

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Cli {
    /// Reads the arguments and runs the command. A failure goes to standard error, without a backtrace and without `Debug` output.
    pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let outcome = match streams::parse::<Self>(&arguments).map(|cli| cli.command) {
            // The daemon's audit and log write both streams from their own threads.
            Ok(Command::Serve(args)) => return serve::run(args),
            Ok(command) => command.run(),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // If the message is empty, the command has already printed everything. If standard error is closed, the exit code is still there.
                let _ = io::stderr().write_all(streams::errors(&failure.message).as_bytes());
                ExitCode::from(failure.code)
            }
        }
    }
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        // Not locked: a thread that panics while a command waits for it writes to standard error too.
        let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
        let (mut nothing, mut unsaid) = (io::sink(), io::sink());
        let (out, err): (&mut dyn Write, &mut dyn Write) =
            if self.is_quiet() { (&mut nothing, &mut unsaid) } else { (&mut stdout, &mut stderr) };
        match self {
            Self::Serve(_) => Ok(()),
            Self::Demo(args) => daemon().and_then(|runtime| to_the_end(runtime, demo::run(args, out))),
            Self::Mount(args) => tool()?.block_on(mount::run(&args, &SystemClock, out, err)).or_else(mount::failure),
            Self::Check(args) => check::run(args, &mut io::stdin().lock(), out, err, shows_colours(&io::stdout())),
            Self::Vault(command) => {
                let (terminal, shows_progress) = (io::stdin().is_terminal(), io::stderr().is_terminal());
                let input = &mut vault::Input { stream: &mut io::stdin().lock(), terminal, shows_progress };
                let outcome = vault::run(command, input, out, err);
                outcome.map_err(|error| Failure { code: error.exit_code(), message: error.to_string() })
            }
            Self::Doctor(args) => {
                tool().and_then(|runtime| to_the_end(runtime, doctor::run(args, Arc::new(SystemClock), out, shows_colours(&io::stdout()))))
            }
            Self::Health(args) => tool()?.block_on(health::run(&args, out, err)),
            Self::Status(args) => tool()?.block_on(status::run(&args, out, err)),
            Self::Cache(command) => cache::run(&command, &SystemClock, out, err),
            Self::Can(args) => can::run(&args, &mut io::stdin().lock(), out),
            Self::Render(args) => render::run(&args, &SystemClock, out, err),
            Self::Exec(args) => exec::run(&args, out, err),
            Self::Explain(args) => explain::run(&args, out),
            Self::Example(args) => example::run(&args, out),
            Self::Completion(args) => shell::completion(&args, out),
            Self::Man(args) => shell::man(&args, out),
            Self::Version(args) => streams::write(out, &version(&args)),
        }
    }

    /// Whether only errors are printed. `check` and `doctor` print their findings anyway, and `vault` may have to ask.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Cache(command) => command.shown().quiet,
            Self::Can(args) => args.shown.quiet,
            Self::Demo(args) => args.quiet,
            Self::Example(args) => args.shown.quiet,
            Self::Explain(args) => args.shown.quiet,
            Self::Health(args) => args.shown.quiet,
            Self::Mount(args) => args.shown.quiet,
            Self::Render(args) => args.shown.quiet,
            Self::Status(args) => args.shown.quiet,
            Self::Version(args) => args.shown.quiet,
            Self::Check(_) | Self::Completion(_) | Self::Doctor(_) | Self::Exec(_) | Self::Man(_) | Self::Serve(_) | Self::Vault(_) => {
                false
            }
        }
    }
}

fn version(args: &VersionArgs) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match args.shown.output {
        Format::Json => {
            let about = serde_json::json!({ "version": version, "commit": option_env!("KEYFERRY_COMMIT").filter(|commit| !commit.is_empty()), "target": env!("KEYFERRY_TARGET") });
            format!("{about:#}\n")
        }
        Format::Text => format!("keyferry {version}\n"),
    }
}

fn daemon() -> Result<tokio::runtime::Runtime, Failure> {
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_WORKERS));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).thread_keep_alive(IDLE).enable_all().build().map_err(Failure::fault)
}

/// Runs to the end, but does not wait for threads that are stuck in a file system that hangs. Dropping the runtime would wait for them.
fn to_the_end<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

fn tool() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::fault)
}

impl Failure {
    /// The command tried and failed: exit code 1.
    pub fn fault(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// The arguments or the configuration are wrong: exit code 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// Somebody stopped the command: exit code 130, as shells have it for SIGINT.
    pub fn interrupted() -> Self {
        Self { code: 130, message: "interrupted, and nothing is left behind (run `keyferry demo` again)".to_owned() }
    }

    /// The message is already printed.
    pub fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }

    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl TempFolder {
    /// A new folder, mode 0700, under the system's folder for temporary files.
    fn new(name: &str) -> io::Result<Self> {
        Self::within(&std::env::temp_dir(), name)
    }

    /// The same, in another folder.
    fn within(folder: &Path, name: &str) -> io::Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let path = folder.join(format!("{name}-{}", data_encoding::HEXLOWER.encode(&random)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(Some(path)))
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Does not remove the folder.
    fn keep(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // If it cannot be removed: it is in a folder for temporary files.
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Reads a command line as `P` does, but without the environment: that would be the environment of the machine that runs the tests.
#[cfg(test)]
fn parsed<P: Parser>(words: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>) -> Result<P, clap::Error> {
    fn apart(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| arg.env(None::<&str>)).mut_subcommands(apart)
    }
    let mut command = apart(P::command());
    let matches = command.try_get_matches_from_mut(words)?;
    P::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}
