//! The sockets at which the driver finds Keyferry: their folder, who answers, and whether an old socket of another provider comes before ours.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::process::geteuid;
use tokio::time::{Duration, timeout};

use super::super::client::{CallError, connect, version};
use crate::model::{Diagnosis, Level};
use crate::server::place::{LastLink, Unsafe, judge};
use crate::server::{SocketConfig, group};

/// Where the driver looks for providers, in this order (its flags `--additional-provider-volume-paths` and `--provider-volume`).
const LOOKED_IN: [&str; 2] = ["/etc/kubernetes/secrets-store-csi-providers", "/var/run/secrets-store-csi-providers"];

/// A provider that is well answers at once.
const ANSWER: Duration = Duration::from_secs(3);

/// The name that our daemon gives at its socket.
const NAME: &str = "keyferry";

/// Looks at the folder, and at each provider's socket.
pub async fn examine(config: &SocketConfig) -> Vec<Diagnosis> {
    look(config, &LOOKED_IN.map(Path::new)).await
}

pub(super) async fn look(config: &SocketConfig, looked_in: &[&Path]) -> Vec<Diagnosis> {
    let mut found = vec![folder(&config.dir)];
    found.extend(place(&config.dir, looked_in));
    for provider in &config.providers {
        found.push(answers(config, provider).await);
        found.extend(members(config, &config.path(provider)));
        found.extend(shadow(config, provider, looked_in));
    }
    found
}

fn folder(dir: &Path) -> Diagnosis {
    let what = format!("socket folder {}", dir.display());
    match (judge(dir, LastLink::Refused), fs::metadata(dir)) {
        (Ok(()), Ok(found)) => Diagnosis::ok(what, format!("mode {:04o}, owner {}", found.mode() & 0o7777, found.uid())),
        (Err(error), _) if error.is_absent() => Diagnosis::fail(what, "is not there", "keyferry serve makes it: does it run?"),
        (Err(Unsafe::Unknown { path, cause }), _) => {
            Diagnosis::fail(what, format!("{}: {cause}", path.display()), "run the doctor as the daemon's user")
        }
        (Err(error), _) => Diagnosis::of_error(Level::Fail, what, &error.to_string()),
        (Ok(()), Err(error)) => Diagnosis::fail(what, error.to_string(), "run the doctor as the daemon's user"),
    }
}

/// Users that the socket's group lets in, but that may not ask.
fn members(config: &SocketConfig, path: &Path) -> Option<Diagnosis> {
    let found = fs::symlink_metadata(path).ok().filter(|found| found.mode() & 0o060 != 0)?;
    let doubts = group::doubts(found.gid(), &config.allowed_peers)?;
    Some(Diagnosis::of_error(Level::Warn, format!("socket {}: group", path.display()), &doubts))
}

/// Whether a driver with its default flags would look there.
fn place(dir: &Path, looked_in: &[&Path]) -> Option<Diagnosis> {
    if looked_in.iter().any(|folder| is_same(folder, dir)) {
        return None;
    }
    let (what, usual) = (format!("socket folder {}", dir.display()), looked_in.iter().map(|folder| folder.display().to_string()));
    let why =
        format!("a driver looks for providers in {}, and here only if its flag says so", usual.collect::<Vec<_>>().join(", then in "));
    Some(Diagnosis::warn(what, why, "check that --provider-volume of the driver leads to this folder, or leave socketDir out"))
}

async fn answers(config: &SocketConfig, provider: &str) -> Diagnosis {
    let path = config.path(provider);
    let what = format!("socket {}", path.display());
    let start = "start keyferry serve; its log says why it ended";
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Diagnosis::fail(what, "is not a socket", "remove it: the daemon does not replace it");
        }
        Ok(found) if found.mode() & 0o007 != 0 => {
            let why = format!("mode {:04o}: any user of the node can ask for any Pod's secrets", found.mode() & 0o7777);
            return Diagnosis::fail(what, why, format!("chmod 0600 {}", path.display()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Diagnosis::fail(what, "is not there: no provider runs under this name", start);
        }
        Err(error) => return Diagnosis::fail(what, error.to_string(), "run the doctor as the daemon's user"),
    }
    let uid = geteuid().as_raw();
    if !config.allowed_peers.contains(&uid) {
        let why = format!("not known: the daemon does not answer uid {uid} (allowedPeers)");
        return Diagnosis::warn(what, why, "run the doctor as a user that may connect, such as root");
    }
    ask(what, &path, start).await
}

async fn ask(what: String, path: &Path, start: &str) -> Diagnosis {
    let answer = async {
        let mut client = connect(path).await.map_err(|error| format!("nobody answers: {} ({start})", error.cause))?;
        version(&mut client, ANSWER).await.map_err(|error: CallError| error.to_string())
    };
    // The limit is around both steps: the listener may also accept no connection at all.
    let answer = timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(CallError::TimedOut(ANSWER).to_string()));
    match answer {
        Ok(answer) if answer.runtime_name != NAME => {
            let why = format!("{:?} answers there, not {NAME}", answer.runtime_name);
            Diagnosis::fail(what, why, "two providers of one name cannot share a node: stop the other one")
        }
        Ok(answer) if answer.runtime_version != env!("CARGO_PKG_VERSION") => {
            let why = format!("{NAME} {} answers, but this doctor has version {}", answer.runtime_version, env!("CARGO_PKG_VERSION"));
            Diagnosis::warn(what, why, "use the doctor of the daemon's version")
        }
        Ok(answer) => Diagnosis::ok(what, format!("{NAME} {} answers", answer.runtime_version)),
        Err(problem) => Diagnosis::of_error(Level::Fail, what, &problem),
    }
}

/// A socket of the same name in another folder where the driver looks.
fn shadow(config: &SocketConfig, provider: &str, looked_in: &[&Path]) -> Option<Diagnosis> {
    let ours = looked_in.iter().position(|folder| is_same(folder, &config.dir));
    let (at, path) = looked_in.iter().enumerate().find_map(|(at, folder)| {
        let path = folder.join(format!("{provider}.sock"));
        (!is_same(folder, &config.dir) && fs::symlink_metadata(&path).is_ok()).then_some((at, path))
    })?;
    let (what, own) = (format!("socket {}", path.display()), config.path(provider));
    let remedy = format!("rm {}, then delete the driver's Pod on this node: it keeps the path it found until it restarts", path.display());
    Some(if ours.is_none_or(|ours| at < ours) {
        Diagnosis::fail(
            what,
            format!("comes before Keyferry's socket: the driver looks there first, and never gets to {}", own.display()),
            remedy,
        )
    } else {
        Diagnosis::warn(what, format!("has the same name as {}: a driver that found it earlier still calls it", own.display()), remedy)
    })
}

/// Whether two paths lead to one folder, as /run and /var/run do.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found: Metadata| (found.dev(), found.ino()));
    one == other || matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}
