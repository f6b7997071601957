use clap::Parser;
use keyferry::cli::vault::{self, VaultCommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make and change a file vault: a folder of age files, one a secret.
    #[command(subcommand)]
    Vault(VaultCommand),
}

fn main() -> std::process::ExitCode {
    let Command::Vault(command) = Arguments::parse().command;
    match vault::run(command, &mut std::io::stdin(), &mut std::io::stdout(), &mut std::io::stderr()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "error: {error}");
            error.exit_code().into()
        }
    }
}
