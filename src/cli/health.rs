//! `keyferry health`: whether a provider answers at its socket. Made for exec probes: one line, exit code 0 or 1.

use std::io::{self, Write};
use std::path::PathBuf;

use thiserror::Error;
use tokio::time::{Duration, timeout};

use super::client::{CallError, ConnectError, DEFAULT_SOCKET, connect, version};
use crate::server::CONTRACT;

/// The driver's own health check gives a provider as long.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask the provider at a socket whether it is well.
///
/// Calls Version, as the driver's own health check does, and gives it 5 seconds. Exit code 0: it answered; 1: it did not.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    /// The provider's socket.
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
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

pub async fn run(args: &HealthArgs, out: &mut impl Write) -> Result<(), HealthError> {
    let answer = async {
        let mut client = connect(&args.socket).await?;
        Ok::<_, HealthError>(version(&mut client, LIMIT).await?)
    };
    // Around both: a socket whose listener accepts nothing is no better than a silent one.
    let answer = timeout(LIMIT, answer).await.unwrap_or(Err(CallError::TimedOut(LIMIT).into()))?;
    if answer.version != CONTRACT {
        return Err(HealthError::Contract { socket: args.socket.clone(), answered: answer.version });
    }
    writeln!(out, "ok: {} {} answers at {}", answer.runtime_name, answer.runtime_version, args.socket.display())?;
    Ok(())
}
