//! `keyferry serve`: the daemon.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::manifest::field;
use super::streams::errors;
use super::{Failure, daemon, to_the_end};
use crate::app::App;
use crate::app::hardening::harden;
use crate::config::{Config, ConfigError};
use crate::telemetry::logs::{self, LogConfig, LogFormat};
use crate::telemetry::{Metrics, Outlet};
use crate::yaml;

/// How long the daemon waits at its end for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  keyferry serve --config /etc/keyferry/keyferry.yaml
  keyferry check --config /etc/keyferry/keyferry.yaml   # would it start?

Exit code 0: it stopped, and no mount was cut off; 1: mounts were cut off when it stopped; 2: it refused to start. With \
`log.format: json` in the configuration, each reason for exit code 2 is one JSON line, like the lines of the log.";

/// Run the provider: answer the Secrets Store CSI driver on its sockets until SIGTERM.
///
/// Logs go to standard error. Audit lines go to standard output, or to the file that audit.file names. The log line "ready" means that the
/// sockets accept connections. SIGHUP, or a change of the file, reloads policy, backends and keys. If the configuration has faults, Keyferry
/// reports all of them and ends with exit code 2.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ServeArgs {
    /// The configuration, a YAML file.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    config: PathBuf,
}

/// Runs the daemon to its end. Messages go to standard error through the log, so that the daemon does not wait for a reader.
pub fn run(args: ServeArgs) -> ExitCode {
    let outlet = match Outlet::stderr() {
        Ok(outlet) => outlet,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot start a thread for the log: {error} (raise the container's limits)");
            return ExitCode::FAILURE;
        }
    };
    let _last = LastLines(outlet.clone());
    match daemon().and_then(|runtime| to_the_end(runtime, serve(args, outlet.clone()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            outlet.push(errors(&failure.to_string()).into_bytes());
            ExitCode::from(failure.code())
        }
    }
}

/// Waits for the last lines, also those of a panic.
struct LastLines(Outlet);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Starts the daemon on another thread: if a file system hangs there, the daemon still gets the signal to stop. Otherwise only SIGKILL would end
/// it, because it is the first process of a container.
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
        // The panic's message is already written.
        started = starting => started.map_err(|_| Failure::silent(1))??,
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
    if drained {
        Ok(())
    } else {
        tracing::error!("mounts were still running after 10 s and were cut off");
        Err(Failure::silent(1))
    }
}

async fn start(args: ServeArgs, outlet: Outlet) -> Result<App, Failure> {
    let text = Config::text(&args.config).map_err(Failure::usage)?;
    let json = wants_json(&text);
    let config = Config::parse(&text).map_err(|faults| {
        let faults = ConfigError::Faults { file: args.config.clone(), faults }.lines();
        if json {
            logs::start(LogConfig { format: LogFormat::Json, level: LevelFilter::ERROR }, &outlet);
        }
        refused(&faults, json)
    })?;
    logs::start(config.log, &outlet);
    harden();
    let metrics = Arc::new(Metrics::with_log(outlet.lost()));
    App::start(config, Some(args.config), metrics).await.map_err(|error| refused(error.reasons(), json))
}

/// Whether the configuration says so, also if other parts of it have faults.
fn wants_json(text: &str) -> bool {
    let Ok(node) = yaml::parse(text) else { return false };
    field(&node, "log").and_then(|log| field(log, "format")?.text()) == Some("json")
}

/// A program that collects JSON lines gets only those: one line per fault.
fn refused(faults: &[String], json: bool) -> Failure {
    if !json {
        return Failure::usage(faults.join("\n"));
    }
    for fault in faults {
        tracing::error!("{fault}");
    }
    Failure::silent(2)
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
