//! `keyferry serve`: the daemon.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Duration;

use super::{Failure, daemon, to_the_end};
use crate::app::App;
use crate::app::hardening::harden;
use crate::config::Config;
use crate::telemetry::{Metrics, Outlet, logs};

/// How long the last lines may take to be read, when the daemon ends.
const LAST_LINES: Duration = Duration::from_secs(1);

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

/// Runs the daemon to its end. What there is to say goes to standard error by the log's own way, so that nothing waits for a reader.
pub fn run(args: ServeArgs) -> ExitCode {
    let outlet = match Outlet::stderr() {
        Ok(outlet) => outlet,
        Err(error) => {
            let _ = writeln!(io::stderr(), "no thread for the log can be had: {error} (raise the container's limits)");
            return ExitCode::FAILURE;
        }
    };
    let _last = LastLines(outlet.clone());
    match daemon().and_then(|runtime| to_the_end(runtime, serve(args, outlet.clone()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            outlet.push(format!("{failure}\n").into_bytes());
            ExitCode::from(failure.code())
        }
    }
}

/// Lets the last lines be read, also those of a panic.
struct LastLines(Outlet);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Starts on a thread of its own: while a file system hangs there, the signal to stop is still heard. As the first process of a container
/// the daemon would otherwise end by SIGKILL alone.
///
/// # Errors
/// The configuration has faults, or the daemon cannot start (exit code 2); mounts were cut off when it stopped (1).
async fn serve(args: ServeArgs, outlet: Outlet) -> Result<(), Failure> {
    let mut stop = Box::pin(stop_signal().map_err(Failure::usage)?);
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Handle::current();
    let starting = tokio::task::spawn_blocking(move || runtime.block_on(start(args, outlet)));
    let app = tokio::select! {
        biased;
        started = starting => started.map_err(|_| Failure::fault("a bug: the code panicked at the start"))??,
        () = &mut stop => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
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

async fn start(args: ServeArgs, outlet: Outlet) -> Result<App, Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    logs::start(config.log, &outlet);
    harden();
    let metrics = Arc::new(Metrics::with_log(outlet.lost()));
    App::start(config, Some(args.config), metrics).await.map_err(Failure::usage)
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
