//! `keyferry health`: asks whether a provider answers at its socket. It is made for exec probes: one line, exit code 0 or 1.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use thiserror::Error;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::client::{CallError, ConnectError, DEFAULT_SOCKET, connect, version};
use super::mount::duration;
use super::streams::{note, write};
use super::{Failure, Format, Shown};
use crate::server::CONTRACT;
use crate::server::proto::VersionResponse;

/// The driver's own health check waits as long.
const LIMIT: Duration = Duration::from_secs(5);

/// The pause between two calls while the command waits.
const PAUSE: Duration = Duration::from_millis(200);

/// The time between two notes, and before the first one.
const NOTES: Duration = Duration::from_secs(10);
const FIRST_NOTE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  keyferry health
  keyferry health --wait 30s      # waits until the daemon answers

Exit code 0: it answered; 1: it did not.";

/// Ask the provider at a socket whether it is well.
///
/// The command calls Version, as the driver's own health check does, and waits 5 seconds for the answer.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct HealthArgs {
    /// The provider's socket.
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET, env = "KEYFERRY_SOCKET")]
    pub socket: PathBuf,

    /// Ask again until the provider answers, but not longer than this.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,

    #[command(flatten)]
    pub shown: Shown,
}

/// Why a provider is not well.
#[derive(Debug, Error)]
pub enum HealthError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{socket} answers with the contract {answered:?}, not with {CONTRACT} (is it a provider of the Secrets Store CSI driver?)", socket = socket.display())]
    Contract { socket: PathBuf, answered: String },
}

/// The answer goes to `out`, and notes go to `err`.
///
/// # Errors
/// The provider does not answer (exit code 1).
pub async fn run(args: &HealthArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    let start = Instant::now();
    let mut next_note = start + FIRST_NOTE;
    let answer = loop {
        match ask(args).await {
            Ok(answer) => break answer,
            Err(error) if args.wait.is_none_or(|wait| start.elapsed() + PAUSE >= wait) => return Err(Failure::fault(error)),
            Err(error) if Instant::now() >= next_note => {
                note(err, &format!("waiting for {} to answer: {error}", args.socket.display()));
                next_note = Instant::now() + NOTES;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    };
    let (name, version, socket) = (answer.runtime_name, answer.runtime_version, args.socket.display());
    let shown = match args.shown.output {
        Format::Json => format!("{:#}\n", json!({ "name": name, "version": version, "socket": socket.to_string() })),
        Format::Text => format!("ok: {name} {version} answers at {socket}\n"),
    };
    write(out, &shown)
}

async fn ask(args: &HealthArgs) -> Result<VersionResponse, HealthError> {
    let answer = async {
        let mut client = connect(&args.socket).await?;
        Ok::<_, HealthError>(version(&mut client, LIMIT).await?)
    };
    // The limit is around both steps: the listener may also accept no connection at all.
    let answer = timeout(LIMIT, answer).await.unwrap_or(Err(CallError::TimedOut(LIMIT).into()))?;
    if answer.version != CONTRACT {
        return Err(HealthError::Contract { socket: args.socket.clone(), answered: answer.version });
    }
    Ok(answer)
}
