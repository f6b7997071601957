//! Looks at kubelet's folder every few minutes, where Keyferry can see it: for Pods that run without their volume, and for Pods that are
//! gone.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep};

use super::status::PodsReport;
use crate::clock::Clock;
use crate::delivery::unmounted::{self, Found, STEPS, Unmounted};
use crate::pipeline::{Pipeline, Volume};
use crate::steps::Steps;
use crate::telemetry::Metrics;

/// The time from one look to the next.
const LOOK: Duration = Duration::from_mins(2);

/// After this time Keyferry looks once more at what it found: a Pod that ends may look so for a moment.
const AGAIN: Duration = Duration::from_secs(10);

/// How long one look may go on. kubelet's folder is on a disk of the node.
const LONGEST: Duration = Duration::from_mins(1);

/// The most Pods that one log line names.
const MAX_NAMED: usize = 10;

#[derive(Debug)]
pub(super) struct PodWatch {
    kubelet_dir: PathBuf,
    pipeline: Arc<ArcSwap<Pipeline>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Looked>>,
}

/// What the last look found, or why Keyferry cannot know.
#[derive(Clone, Debug)]
struct Looked {
    at: Timestamp,
    found: Result<Vec<Unmounted>, String>,
}

impl PodWatch {
    pub(super) fn new(kubelet_dir: PathBuf, pipeline: Arc<ArcSwap<Pipeline>>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { kubelet_dir, pipeline, metrics, clock, last: Mutex::default() }
    }

    /// Looks until the future is dropped: on a thread that may block, and one look at a time.
    pub(super) async fn run(&self) -> Infallible {
        loop {
            let mut found = self.look().await;
            if found.as_ref().is_ok_and(|found| !found.is_empty()) {
                sleep(AGAIN).await;
                let again = self.look().await;
                found = found.and_then(|before| Ok(both(before, again?)));
            }
            self.take_up(found);
            sleep(LOOK).await;
        }
    }

    /// Whether the Pod had a container before then, as far as can be seen on this node.
    pub(super) async fn has_run(&self, uid: &str, before: Timestamp) -> bool {
        let (folder, uid) = (self.kubelet_dir.clone(), uid.to_owned());
        let steps = Steps::new(STEPS, Instant::now() + LONGEST);
        // The panic hook has logged it.
        spawn_blocking(move || unmounted::has_run(&folder, &uid, before, &steps)).await.unwrap_or(false)
    }

    async fn look(&self) -> Result<Vec<Unmounted>, String> {
        let folder = self.kubelet_dir.clone();
        let looking = spawn_blocking(move || unmounted::look(&folder, &Steps::new(STEPS, Instant::now() + LONGEST)));
        match looking.await {
            Ok(Ok(Found { pods, unmounted, .. })) => {
                self.pipeline.load().commons.live.looked(pods);
                Ok(unmounted)
            }
            Ok(Err(blind)) => Err(blind.to_string()),
            // The panic hook has logged it; the next look may succeed.
            Err(_) => Err("the look ended early".to_owned()),
        }
    }

    fn take_up(&self, found: Result<Vec<Unmounted>, String>) {
        let pods = |found: &[Unmounted]| found.iter().map(|one| one.pod_uid.clone()).collect::<BTreeSet<String>>();
        let now = found.as_deref().ok().map(pods);
        self.metrics.pods_without_volume(now.as_ref().map(BTreeSet::len));
        let looked = Looked { at: self.clock.now(), found };
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(looked);
        let known = before.and_then(|before| before.found.ok()).map(|found| pods(&found)).unwrap_or_default();
        let new: Vec<_> = now.unwrap_or_default().difference(&known).cloned().collect();
        if !new.is_empty() {
            let named = new.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                pods = new.len(),
                uids = named,
                "Pods run without their volume, because their first mount got no answer (delete them; `keyferry status` names them)"
            );
        }
    }

    pub(super) fn report(&self, volumes: &[Volume]) -> PodsReport {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            None => PodsReport::default(),
            Some(Looked { at, found: Ok(found) }) => PodsReport::of(*at, found, volumes),
            Some(Looked { at, found: Err(why) }) => PodsReport::unknown(*at, why),
        }
    }
}

/// The Pods that two looks found.
fn both(before: Vec<Unmounted>, again: Vec<Unmounted>) -> Vec<Unmounted> {
    let again: HashSet<Unmounted> = again.into_iter().collect();
    before.into_iter().filter(|one| again.contains(one)).collect()
}
