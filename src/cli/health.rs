//! `keyferry health`: whether a provider answers at its socket. Made for exec probes: one line, exit code 0 or 1.

use std::io::{self, Write};
use std::path::PathBuf;

use thiserror::Error;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::client::{CallError, ConnectError, DEFAULT_SOCKET, connect, version};
use super::mount::duration;
use crate::server::CONTRACT;

/// The driver's own health check gives a provider as long.
const LIMIT: Duration = Duration::from_secs(5);

/// Between two questions while it waits.
const PAUSE: Duration = Duration::from_millis(200);

/// Between two notes of what it waits for, and before the first.
const NOTES: Duration = Duration::from_secs(10);
const FIRST_NOTE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  keyferry health
  keyferry health --wait 30s && kubectl apply -f shop.yaml      # until the daemon answers

Exit code 0: it answered; 1: it did not.";

/// Ask the provider at a socket whether it is well.
///
/// Calls Version, as the driver's own health check does, and gives it 5 seconds.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct HealthArgs {
    /// The provider's socket.
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET, env = "KEYFERRY_SOCKET")]
    pub socket: PathBuf,

    /// Ask again until it answers, for at most this time.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,

    /// Print only errors.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Why a provider is not well.
#[derive(Debug, Error)]
pub enum HealthError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{socket} answers in the contract {answered:?}, not in {CONTRACT} (is it a provider of the Secrets Store CSI driver?)", socket = socket.display())]
    Contract { socket: PathBuf, answered: String },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// The answer goes to `out`, what it waits for to `err`.
pub async fn run(args: &HealthArgs, out: &mut impl Write, err: &mut impl Write) -> Result<(), HealthError> {
    let start = Instant::now();
    let mut next_note = start + FIRST_NOTE;
    let line = loop {
        match ask(args).await {
            Ok(line) => break line,
            Err(error) if args.wait.is_none_or(|wait| start.elapsed() + PAUSE >= wait) => return Err(error),
            Err(error) if !args.quiet && Instant::now() >= next_note => {
                writeln!(err, "note: waiting for {} to answer: {error}", args.socket.display())?;
                next_note = Instant::now() + NOTES;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    };
    if !args.quiet {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

async fn ask(args: &HealthArgs) -> Result<String, HealthError> {
    let answer = async {
        let mut client = connect(&args.socket).await?;
        Ok::<_, HealthError>(version(&mut client, LIMIT).await?)
    };
    // Around both: a socket whose listener accepts nothing is no better than a silent one.
    let answer = timeout(LIMIT, answer).await.unwrap_or(Err(CallError::TimedOut(LIMIT).into()))?;
    if answer.version != CONTRACT {
        return Err(HealthError::Contract { socket: args.socket.clone(), answered: answer.version });
    }
    Ok(format!("ok: {} {} answers at {}", answer.runtime_name, answer.runtime_version, args.socket.display()))
}
