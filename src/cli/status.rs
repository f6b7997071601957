//! `keyferry status`: what this node's daemon does now, from the socket in its state folder.

mod ask;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::time::{Duration, sleep};

use self::ask::{Answer, AskError, ask};
use super::streams::{note, write};
use super::{Failure, Format, Shown};
use crate::app::status::{FORM, STATUS_SOCKET};
use crate::config::Config;

pub(super) use text::span;

/// The default state folder.
const STATE_DIR: &str = "/var/lib/keyferry";

/// The time between two notes, and before the first one.
const NOTES: Duration = Duration::from_secs(10);
const FIRST_NOTE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  In the daemon's Pod on a node:
    kubectl get pods -n keyferry -o wide         # which Pod is on the node
    kubectl exec -n keyferry POD -- /keyferry status

  On the node itself, as root:
    keyferry status --config /etc/keyferry/keyferry.yaml
    keyferry status --state-dir /var/lib/keyferry -o json

Exit code 0: the daemon answered, also if it reports problems; 1: no answer; 2: wrong arguments, or the configuration cannot be read.";

/// Show what this node's daemon does now.
///
/// Problems come first: what is not ready, Pods that run without their volume, volumes whose mounts fail. Then come backends with their leases, and
/// memory. The output has the names of namespaces, classes and Pods, but never a secret. The command asks the daemon at `status.sock` in the state
/// folder. Run it as root or as the daemon's user.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct StatusArgs {
    /// The daemon's configuration: its `stateDir` says where the daemon answers. Other keys may have faults.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_CONFIG")]
    pub config: Option<PathBuf>,

    /// The daemon's state folder, instead of the one that the configuration names.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    #[command(flatten)]
    pub shown: Shown,
}

/// The answer goes to `out`, and notes go to `err`.
///
/// # Errors
/// The configuration cannot be read (2); the daemon does not answer (1).
pub async fn run(args: &StatusArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failure> {
    let socket = state_dir(args)?.join(STATUS_SOCKET);
    let (answer, json) = (answer(&socket, err).await, args.shown.output == Format::Json);
    match answer {
        Ok(answer) if json => write(out, &format!("{:#}\n", answer.document)),
        Ok(answer) => write(out, &text::show(&answer.report, width())),
        Err(error) => {
            if json {
                write(out, &format!("{:#}\n", json!({ "v": FORM, "error": error.to_string() })))?;
            }
            Err(Failure::fault(error))
        }
    }
}

async fn answer(socket: &Path, err: &mut dyn Write) -> Result<Answer, AskError> {
    let mut asking = std::pin::pin!(ask(socket));
    let mut pause = FIRST_NOTE;
    loop {
        tokio::select! {
            answer = &mut asking => return answer,
            () = sleep(pause) => {
                note(err, &format!("waiting for the daemon's answer at {}", socket.display()));
                pause = NOTES;
            }
        }
    }
}

fn state_dir(args: &StatusArgs) -> Result<PathBuf, Failure> {
    match (&args.state_dir, &args.config) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(file)) => {
            let named =
                Config::state_dir(file).map_err(|error| Failure::usage(format!("{error} (or name the state folder: --state-dir DIR)")))?;
            Ok(named.unwrap_or_else(|| Path::new(STATE_DIR).to_owned()))
        }
        (None, None) => Ok(Path::new(STATE_DIR).to_owned()),
    }
}

/// The width of the terminal. If the output is not a terminal, the lines have the width of a page.
fn width() -> usize {
    const PAGE: usize = 100;
    const NARROW: usize = 60;
    if !io::stdout().is_terminal() {
        return PAGE;
    }
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(PAGE, |size| usize::from(size.ws_col));
    if columns == 0 { PAGE } else { columns.clamp(NARROW, PAGE) }
}
