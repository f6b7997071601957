//! Events on Pods (`events.enabled`): what becomes of news about a volume until it is seen at the Pod.
//!
//! A mount leaves a [`Notice`] on the [`Board`] and goes on; one task of the daemon takes them off and tells them to the API server through a
//! [`Teller`]. Apart from the mounts, so that an API server that hangs costs them nothing; and from `kube`, which knows what an Event is.
//!
//! **How many.** At most [`A_MINUTE`] Events in any minute, shared by namespace ([`crate::shares`]): each has its place for a minute, or until
//! it was told where that takes longer. So no more of them ever wait. What finds no place is dropped and counted, and the volume's next mount
//! tries again. One Event is up to three calls, and six where the API server fails once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep};

use crate::kube::{EventError, KubeClient, KubeConfig, KubeError, PodEvent};
use crate::model::{PodClaims, Tenant};
use crate::shares::{Held, Shares};
use crate::telemetry::{EventOutcome, Metrics};

/// Events in any minute, of all namespaces together.
pub const A_MINUTE: usize = 30;

/// Of those, for namespaces that have none: the last ones of them.
const FIRSTS: usize = 6;

const MINUTE: Duration = Duration::from_mins(1);

/// How long after a failure that may pass an Event is tried once more.
const AGAIN: Duration = Duration::from_secs(2);

/// How often the log says that Events are not told.
const SAY_AGAIN: Duration = Duration::from_hours(1);

/// Notices that are still to be told, for one task. Outlives reloads.
#[derive(Debug)]
pub struct Board {
    shares: Shares,
    state: Mutex<State>,
    stirred: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Notice>,
    /// The places of those that were told within the last minute.
    told: Vec<Place>,
}

/// What is to be known of a Pod's volume.
#[derive(Debug)]
pub struct Notice {
    pub pod: Arc<PodClaims>,
    pub reason: Reason,
    /// No secret is in it, and no path of the node: whoever may look at the Pod reads it.
    pub note: String,
    pub at: Timestamp,
    /// Set once it is told.
    said: Said,
    place: Place,
}

/// Whether a notice was told. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Said(Arc<AtomicBool>);

/// One of [`A_MINUTE`].
#[derive(Debug)]
struct Place {
    /// For other notices from then on.
    until: Instant,
    _held: Held,
}

/// Why a Pod has an Event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Its mounts fail no more.
    RotationRecovered,
    /// Its volume was delivered before, and all mounts of the last minutes failed.
    RotationFailing,
    /// It started while a store was out, with what the store said before.
    StartedStale,
    /// It has what the store says now.
    StaleReplaced,
}

/// Tells Events to the cluster's API server.
#[derive(Debug)]
pub struct Teller {
    client: KubeClient,
    instance: String,
    metrics: Arc<Metrics>,
    /// When the log last said so, for each outcome.
    complained: Mutex<BTreeMap<EventOutcome, Instant>>,
}

// === impl Board ===

impl Board {
    /// Puts a notice up, if its namespace has a place left for it. The note is made only then.
    pub fn put(&self, pod: &Arc<PodClaims>, reason: Reason, at: Timestamp, note: impl FnOnce() -> String) -> Option<Said> {
        let now = Instant::now();
        self.lock().told.retain(|place| place.until > now);
        let held = self.shares.take(&Tenant::from(pod.namespace.as_str()), 1)?;
        let (said, place) = (Said::default(), Place { until: now + MINUTE, _held: held });
        let notice = Notice { pod: Arc::clone(pod), reason, note: note(), at, said: said.clone(), place };
        self.lock().waiting.push_back(notice);
        self.stirred.notify_one();
        Some(said)
    }

    /// Waits for the one that waits longest. For one caller.
    pub async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.lock().waiting.pop_front() {
                return notice;
            }
            self.stirred.notified().await;
        }
    }

    /// Keeps the place of a notice that is done with for the rest of its minute.
    pub fn done(&self, notice: Notice) {
        let Notice { place, .. } = notice;
        if place.until > Instant::now() {
            self.lock().told.push(place);
        }
    }

    /// Nothing that is done under the lock panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Board {
    fn default() -> Self {
        let shares = Shares::with_firsts(A_MINUTE - FIRSTS, FIRSTS);
        Self { shares, state: Mutex::default(), stirred: Notify::new() }
    }
}

// === impl Said ===

impl Said {
    pub fn is_said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Release);
    }
}

// === impl Reason ===

impl Reason {
    /// As `kubectl` shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RotationFailing => "SecretRotationFailing",
            Self::RotationRecovered => "SecretRotationRecovered",
            Self::StaleReplaced => "StaleSecretReplaced",
            Self::StartedStale => "StartedFromStaleSecret",
        }
    }

    /// What was being done.
    const fn action(self) -> &'static str {
        match self {
            Self::RotationFailing | Self::RotationRecovered | Self::StaleReplaced => "RotateSecret",
            Self::StartedStale => "MountSecret",
        }
    }

    const fn is_warning(self) -> bool {
        match self {
            Self::RotationFailing | Self::StartedStale => true,
            Self::RotationRecovered | Self::StaleReplaced => false,
        }
    }

    /// The name of the Event: one per Pod and reason, so that it is told again and not beside itself.
    fn name_for(self, pod: &PodClaims) -> String {
        let hash = digest(&SHA256, format!("{}\n{}", pod.uid, self.as_str()).as_bytes());
        format!("keyferry-{}", HEXLOWER.encode(&hash.as_ref()[..16]))
    }
}

// === impl Teller ===

impl Teller {
    /// To the API server of the cluster that this process runs in, with the daemon's own token.
    ///
    /// # Errors
    /// This process runs in no cluster, or the cluster's CA cannot be used.
    pub fn in_cluster(metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = KubeClient::new(KubeConfig::in_cluster()?).map_err(|error| error.to_string())?;
        Ok(Self::to(client, metrics))
    }

    fn to(client: KubeClient, metrics: Arc<Metrics>) -> Self {
        // Inside a Pod that is the Pod's name.
        let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { client, instance, metrics, complained: Mutex::default() }
    }

    /// Tells a notice, and once more if the API server cannot be asked the first time. Ends within some 30 seconds.
    pub async fn tell(&self, notice: &Notice) {
        let Notice { pod, reason, note, at, said, .. } = notice;
        let (name, instance) = (reason.name_for(pod), &self.instance);
        let (action, is_warning, reason) = (reason.action(), reason.is_warning(), reason.as_str());
        let event = PodEvent { name: &name, pod, reason, action, is_warning, note, at: *at, instance };
        let mut told = self.client.tell(&event).await;
        if matches!(told, Err(EventError::Passing(_))) {
            sleep(AGAIN).await;
            told = self.client.tell(&event).await;
        }
        let outcome = match told {
            Ok(()) => EventOutcome::Sent,
            Err(EventError::Gone) => EventOutcome::Dropped,
            Err(EventError::Passing(error) | EventError::Wrong(error)) => self.complain(&error, EventOutcome::Dropped),
            Err(EventError::Refused(error)) => self.complain(&error, EventOutcome::Refused),
        };
        if outcome == EventOutcome::Sent {
            said.say();
        }
        self.metrics.event(outcome);
    }

    /// In the log now and then; the metric counts all of them.
    fn complain(&self, error: &KubeError, outcome: EventOutcome) -> EventOutcome {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.get(&outcome).is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            complained.insert(outcome, Instant::now());
            tracing::warn!("Events on Pods are not sent (events.enabled): {error}");
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
