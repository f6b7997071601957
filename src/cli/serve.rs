//! `keyferry serve`: the daemon.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use crate::app::App;
use crate::app::hardening::harden;
use crate::config::Config;
use crate::telemetry::logs;

/// Run the provider: answer the Secrets Store CSI driver on its sockets until SIGTERM.
///
/// Logs go to standard error, audit lines to standard output (or where audit.file says). The log line "ready" means that the
/// sockets accept. SIGHUP, or a change of the file, reloads policy, backends and keys. Faults of the configuration are all reported at once, with exit code 2.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration, a YAML file.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    config: PathBuf,
}

/// # Errors
/// The configuration has faults, or the daemon cannot start (exit code 2); mounts were cut off when it stopped (1).
pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    logs::start(config.log);
    harden();
    let stop = stop_signal().map_err(Failure::usage)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::usage)?;
    let app = App::start(config, Some(args.config)).await.map_err(Failure::usage)?;
    let reload = app.reload_handle();
    let reloading = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.reload();
        }
    });
    let drained = app.serve(stop).await;
    reloading.abort();
    if drained { Ok(()) } else { Err(Failure::fault("mounts under way were cut off after 10 s")) }
}

/// Resolves at SIGTERM (kubelet) or SIGINT (a terminal).
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
