//! Events on Pods (`events.enabled`): the way of a notice about a volume until it is seen at the Pod.
//!
//! A mount leaves a [`Notice`] on the [`Board`] and goes on. One task of the daemon takes the notices and sends them to the API server
//! through a [`Teller`]. This is separate from the mounts, so an API server that hangs costs them nothing; and from `kube`, which knows
//! what an Event is.
//!
//! **How many.** At most [`A_MINUTE`] Events in any minute, shared by namespace ([`crate::shares`]): each holds its place for one minute,
//! or until it is sent if that takes longer. So at most this many wait. A notice without a place is dropped and counted, and the volume's
//! next mount tries again. One Event needs up to three calls, and six if the API server fails once.

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

/// The most Events in any minute, for all namespaces together.
pub const A_MINUTE: usize = 30;

/// How many of these are only for namespaces that have none.
const FIRSTS: usize = 6;

const MINUTE: Duration = Duration::from_mins(1);

/// When an Event failed but may succeed later, Keyferry tries once more after this time.
const AGAIN: Duration = Duration::from_secs(2);

/// How often the log reports that Events are not sent.
const SAY_AGAIN: Duration = Duration::from_hours(1);

/// Notices that are not sent yet, for one task. A reload keeps them.
#[derive(Debug)]
pub struct Board {
    shares: Shares,
    state: Mutex<State>,
    stirred: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Notice>,
    /// The places of the notices that were sent within the last minute.
    told: Vec<Place>,
}

/// News about a Pod's volume.
#[derive(Debug)]
pub struct Notice {
    pub pod: Arc<PodClaims>,
    pub reason: Reason,
    /// It has no secret and no path of the node: every user who may look at the Pod can read it.
    pub note: String,
    pub at: Timestamp,
    /// Set when it is sent.
    said: Said,
    place: Place,
}

/// Whether a notice was sent. Clones share this.
#[derive(Clone, Debug, Default)]
pub struct Said(Arc<AtomicBool>);

/// One of [`A_MINUTE`].
#[derive(Debug)]
struct Place {
    /// When other notices may have this place.
    until: Instant,
    _held: Held,
}

/// Why a Pod has an Event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Its mounts succeed again.
    RotationRecovered,
    /// Its volume was delivered before, and all mounts of the last minutes failed.
    RotationFailing,
    /// It started while a store was out, with earlier secrets of the store.
    StartedStale,
    /// It now has the store's present secrets.
    StaleReplaced,
}

/// Sends Events to the cluster's API server.
#[derive(Debug)]
pub struct Teller {
    client: KubeClient,
    instance: String,
    metrics: Arc<Metrics>,
    /// When the log last reported this, for each outcome.
    complained: Mutex<BTreeMap<EventOutcome, Instant>>,
}

// === impl Board ===

impl Board {
    /// Puts a notice on the board, if its namespace has a place left for it. Only then the note is written.
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

    /// Waits for the oldest notice. For one caller.
    pub async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.lock().waiting.pop_front() {
                return notice;
            }
            self.stirred.notified().await;
        }
    }

    /// Keeps the place of a finished notice for the rest of its minute.
    pub fn done(&self, notice: Notice) {
        let Notice { place, .. } = notice;
        if place.until > Instant::now() {
            self.lock().told.push(place);
        }
    }

    /// No code panics while it holds the lock.
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

    /// The name of the Event: one per Pod and reason. So a repeated Event changes the first one, and there is no second.
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
    /// This process does not run in a cluster, or the cluster's CA cannot be used.
    pub fn in_cluster(metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = KubeClient::new(KubeConfig::in_cluster()?).map_err(|error| error.to_string())?;
        Ok(Self::to(client, metrics))
    }

    fn to(client: KubeClient, metrics: Arc<Metrics>) -> Self {
        // Inside a Pod this is the Pod's name.
        let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { client, instance, metrics, complained: Mutex::default() }
    }

    /// Sends a notice, and tries once more if the API server could not be asked the first time. Ends within some 30 seconds.
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

    /// In the log at long intervals; the metric counts all of them.
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
