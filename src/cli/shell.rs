//! `keyferry completion` and `keyferry man`: made from the same definitions as `--help`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::generate;

use super::streams::write;
use super::{Cli, Failure};

const COMPLETION: &str = "\
Examples:
  source <(keyferry completion bash)      # in ~/.bashrc
  source <(keyferry completion zsh)       # in ~/.zshrc, after compinit
  keyferry completion fish > ~/.config/fish/completions/keyferry.fish";

/// Print a script that completes commands and options in a shell.
#[derive(Args, Debug)]
#[command(after_long_help = COMPLETION)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

const MAN: &str = "\
Examples:
  keyferry man | man -l -
  keyferry man --to ~/.local/share/man/man1      # one page for each command";

/// Print the manual page.
#[derive(Args, Debug)]
#[command(after_long_help = MAN)]
pub struct ManArgs {
    /// Write one page for each command into this folder instead. The folder is created if it is missing.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// # Errors
/// Standard output cannot be written (exit code 1).
pub fn completion(args: &CompletionArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "keyferry", &mut script);
    write(out, &String::from_utf8_lossy(&script))
}

/// # Errors
/// A page cannot be written (exit code 1).
pub fn man(args: &ManArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(dir) = &args.to {
        let failed = |error| Failure::fault(format!("{}: {error}", dir.display()));
        return write_pages(dir).map_err(failed);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::fault)?;
    write(out, &String::from_utf8_lossy(&page))
}

fn write_pages(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
