//! Pods of this node that run without their volume, where kubelet's folder can be seen.

use std::path::Path;

use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep};

use crate::delivery::unmounted::{self, Blind, Found, STEPS, Unmounted};
use crate::model::{Diagnosis, Level, clean};
use crate::steps::Steps;

const WHAT: &str = "Pods without their volume";

/// The time between two looks: a Pod that ends may look like one without a volume for a moment.
const AGAIN: Duration = Duration::from_secs(2);

/// The most time for one look.
const LONGEST: Duration = Duration::from_secs(3);

/// The most Pods that the report names.
const MAX_NAMED: usize = 5;

/// If the folder cannot be seen, this reports nothing: the line about kubelet's folder already does.
pub async fn examine(kubelet_dir: &Path) -> Vec<Diagnosis> {
    let first = look(kubelet_dir).await;
    let Ok(Found { volumes, unmounted, .. }) = first else { return first.err().as_ref().and_then(blind).into_iter().collect() };
    if unmounted.is_empty() {
        return vec![Diagnosis::ok(WHAT, format!("none (volumes of the driver on this node: {volumes})"))];
    }
    sleep(AGAIN).await;
    match look(kubelet_dir).await {
        Ok(again) => vec![told(&unmounted.iter().filter(|one| again.unmounted.contains(one)).collect::<Vec<_>>())],
        Err(error) => blind(&error).into_iter().collect(),
    }
}

async fn look(kubelet_dir: &Path) -> Result<Found, Blind> {
    let folder = kubelet_dir.to_owned();
    let looking = spawn_blocking(move || unmounted::look(&folder, &Steps::new(STEPS, Instant::now() + LONGEST)));
    looking.await.unwrap_or_else(|_| Err(Blind::TooMuch("a bug: the look panicked".to_owned())))
}

fn blind(error: &Blind) -> Option<Diagnosis> {
    match error {
        Blind::Folder { .. } => None,
        Blind::List(_) | Blind::Private { .. } | Blind::TooMuch(_) => {
            Some(Diagnosis::of_error(Level::Warn, WHAT, &format!("not known: {error}")))
        }
    }
}

fn told(found: &[&Unmounted]) -> Diagnosis {
    if found.is_empty() {
        return Diagnosis::ok(WHAT, "none: the Pods that seemed to have none have ended");
    }
    let named: Vec<_> =
        found.iter().take(MAX_NAMED).map(|one| format!("uid {} (volume {})", clean(&one.pod_uid), clean(&one.volume))).collect();
    let more = if found.len() > MAX_NAMED { format!(" and {} more", found.len() - MAX_NAMED) } else { String::new() };
    let why = format!("{} run with an empty folder, because their first mount got no answer: {}{more}", found.len(), named.join(", "));
    Diagnosis::fail(
        WHAT,
        why,
        "delete each Pod, and the next one has its volume; keyferry status names them; docs/errors.md says why it happens",
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_named_with_what_to_do() {
        let folder = crate::folder::new();
        assert_eq!(examine(folder.path()).await, []);
        let pods = folder.path().join("pods");
        fs::create_dir(&pods).unwrap();
        let why = |found: Vec<Diagnosis>| {
            found.into_iter().map(|one| format!("{:?}: {} ({})", one.level, one.why, one.remedy)).collect::<String>()
        };
        assert_eq!(why(examine(folder.path()).await), "Ok: none (volumes of the driver on this node: 0) ()");
        for n in 0..7 {
            let volume = pods.join(format!("uid-{n}/volumes/kubernetes.io~csi/secrets"));
            fs::create_dir_all(&volume).unwrap();
            fs::write(volume.join("vol_data.json"), r#"{"driverName":"secrets-store.csi.k8s.io"}"#).unwrap();
            fs::create_dir_all(pods.join(format!("uid-{n}/containers/app"))).unwrap();
            fs::write(pods.join(format!("uid-{n}/containers/app/0123")), "").unwrap();
        }
        insta::assert_snapshot!(why(examine(folder.path()).await), @"Fail: 7 run with an empty folder, because their first mount got no answer: uid uid-0 (volume secrets), uid uid-1 (volume secrets), uid uid-2 (volume secrets), uid uid-3 (volume secrets), uid uid-4 (volume secrets) and 2 more (delete each Pod, and the next one has its volume; keyferry status names them; docs/errors.md says why it happens)");
    }
}
