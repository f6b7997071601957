//! `keyferry doctor`: looks at everything that a mount on this node depends on, and reports the state of each, why, and what to do.
//!
//! It changes nothing on the node, and each look has a time limit. The modules `identity` and `backend` look at their own parts, with an
//! `examine` each. This module looks at the node: files, sockets, the driver, its tokens, the state folder, the process.

mod audiences;
mod backends;
mod driver;
mod files;
mod metrics;
mod plugin;
mod pods;
mod process;
mod report;
mod rotation;
mod sockets;
mod state;
#[cfg(test)]
mod tests;
mod tokens;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::time::{Duration, timeout};

use self::report::Report;
use self::tokens::Given;
use super::mount::pair;
use super::streams::write;
use super::{Failure, Shown};
use crate::backend::BackendConfig;
use crate::clock::Clock;
use crate::config::Config;
use crate::identity;
use crate::model::Diagnosis;

/// The most time for one look. The calls in it have their own limits, which are shorter and say more.
const LIMIT: Duration = Duration::from_secs(8);

const EXAMPLES: &str = "\
Examples:
  In the daemon's Pod, which sees its own files and stores:
    kubectl exec -n keyferry ds/keyferry -- /keyferry doctor

  On the node itself, which also sees kubelet's folders and the driver:
    keyferry doctor --config /etc/keyferry/keyferry.yaml

  With tokens of a running Pod: the doctor verifies them, logs in to the stores with them, and logs out again.
    kubectl create token web -n shop --audience bao \\
      --bound-object-kind Pod --bound-object-name web-0 --bound-object-uid UID > bao.jwt
    keyferry doctor --config /etc/keyferry/keyferry.yaml --token bao=bao.jwt

Exit code 0: nothing fails, but there may be warnings; 1: something fails; 2: the doctor could not look (the configuration has faults, \
or a file of a token cannot be read).";

/// Find what is wrong on this node.
///
/// The doctor looks at everything that mounts depend on: files and their modes, sockets and folders, the driver, the tokens that it asks kubelet
/// for, the issuer's keys, each store and its clock, the state folder. For each it reports ok, warn or fail, why, and what to do. It changes
/// nothing.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The daemon's configuration.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    pub config: PathBuf,

    /// An audience, and a file with a Pod's ServiceAccount token for it. The doctor shows the token only to the stores that need this audience.
    /// May be repeated.
    #[arg(long = "token", value_name = "AUDIENCE=FILE", value_parser = pair)]
    pub tokens: Vec<(String, String)>,

    #[command(flatten)]
    pub shown: Shown,
}

/// Runs the command. The report goes to `out`, with colours if `colours` is true.
///
/// # Errors
/// Something fails (exit code 1); the configuration has faults, or a token's file cannot be read (2).
pub async fn run(args: DoctorArgs, clock: Arc<dyn Clock>, out: &mut dyn Write, colours: bool) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let given = Given::read(&args.tokens).map_err(Failure::usage)?;
    let loaded = Diagnosis::ok("configuration", format!("{}: has no faults", args.config.display()));
    let mut report = Report::of(vec![loaded]);
    report.extend(Box::pin(examine(&config, given, &clock)).await);
    let text = report.show(args.shown, colours);
    write(out, &text)?;
    if report.fails() { Err(Failure::fault(report.summary())) } else { Ok(()) }
}

/// Does all looks at the same time. The results have the order of the list.
async fn examine(config: &Config, given: Given, clock: &Arc<dyn Clock>) -> Vec<Diagnosis> {
    let named = config.files();
    let state_dir = config.state_dir.clone();
    // A file vault counts its versions itself, and needs no key.
    let own_key = config.version_key.is_none() && !config.backends.values().all(|backend| matches!(backend, BackendConfig::File(_)));
    let metrics = metrics::examine(config.metrics, std::env::var(metrics::PORT).ok().as_deref());
    let (files, sockets, driver, pods, audiences, identity, tokens, state, process) = tokio::join!(
        on_a_thread("files", move || files::examine(&named)),
        bounded("sockets", sockets::examine(&config.sockets)),
        bounded("driver", driver::examine(&config.kubelet_dir, config.delivery)),
        bounded("Pods without their volume", pods::examine(&config.kubelet_dir)),
        bounded("token audiences", audiences::examine(config)),
        bounded("identity", identity::examine(&config.identity)),
        bounded("tokens", tokens::examine(&given, &config.identity, clock)),
        on_a_thread("state folder", move || state::examine(&state_dir, own_key)),
        bounded("process", process::examine(&config.sockets)),
    );
    let backends = backends::examine(config, &given, clock).await;
    [files, sockets, driver, pods, audiences, identity, tokens, backends, state, metrics, process].concat()
}

async fn bounded(what: &str, look: impl Future<Output = Vec<Diagnosis>>) -> Vec<Diagnosis> {
    timeout(LIMIT, look).await.unwrap_or_else(|_| vec![hangs(what)])
}

/// For calls that wait in the kernel: a network file system may keep them for hours.
async fn on_a_thread(what: &str, look: impl FnOnce() -> Vec<Diagnosis> + Send + 'static) -> Vec<Diagnosis> {
    match timeout(LIMIT, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => vec![hangs(what)],
    }
}

fn hangs(what: &str) -> Diagnosis {
    Diagnosis::fail(
        what,
        format!("no answer within {} s", LIMIT.as_secs()),
        "is a file system of this node out of reach, such as a network file system?",
    )
}
