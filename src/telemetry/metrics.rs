//! The daemon's metrics, in one struct that is passed on: there is no global registry.
//! Labels have a limited number of values: codes, backends and operations, never a Pod's or a secret's name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::{Duration, Instant};

use super::known::Known;
use super::process::Process;

/// Upper bounds in seconds: from a mount with a remembered answer to the caller's deadline.
const SECONDS: [f64; 14] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct MountLabels {
    outcome: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BackendLabels {
    backend: String,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct LookupLabels {
    backend: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FailoverLabels {
    backend: String,
    by: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct EvictionLabels {
    backend: String,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReloadLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BackendName {
    backend: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PotLabels {
    pot: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WaitLabels {
    what: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RefusalLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AlertLabels {
    rule: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VolumeLabels {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct EventLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct LeaseLabels {
    backend: String,
    event: &'static str,
}

/// What can happen with a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeaseEvent {
    /// The store does not know it any more, or refuses to renew it.
    Dropped,
    /// It has expired.
    Ended,
    Issued,
    RenewFailed,
    Renewed,
    ReplaceFailed,
    Replaced,
    /// A former process had it.
    Resumed,
    RevokeFailed,
    Revoked,
}

/// What happened to an Event on a Pod.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum EventOutcome {
    /// Its namespace has used its share of this minute, the API server could not be asked or does not accept such an Event, or nobody can
    /// see it.
    Dropped,
    /// The daemon may not send Events.
    Refused,
    Sent,
}

/// A backend's last call that failed because of the store. Problems of one secret or one Pod do not count.
#[derive(Clone, Copy, Debug)]
pub struct LastFault {
    pub fault: &'static str,
    pub operation: &'static str,
    pub at: Instant,
}

/// Every metric of the daemon.
pub struct Metrics {
    registry: Registry,
    mounts: Family<MountLabels, Counter>,
    mount_seconds: Histogram,
    backend_calls: Family<BackendLabels, Counter>,
    backend_seconds: Family<BackendName, Histogram, fn() -> Histogram>,
    backend_coalesced: Family<BackendName, Counter>,
    breaker_open: Family<BackendName, Gauge>,
    breaker_changed: Family<BackendName, Gauge>,
    cache_lookups: Family<LookupLabels, Counter>,
    cache_evictions: Family<EvictionLabels, Counter>,
    failover_answers: Family<FailoverLabels, Counter>,
    files: Counter,
    bytes: Counter,
    in_flight: Gauge,
    memory: Family<PotLabels, Gauge>,
    memory_limit: Family<PotLabels, Gauge>,
    waiting: Family<WaitLabels, Gauge>,
    refused: Family<RefusalLabels, Counter>,
    audit_lost: Counter,
    audit_alerts: Family<AlertLabels, Counter>,
    log_lost: Counter,
    reloads: Family<ReloadLabels, Counter>,
    config_current: Gauge,
    refused_peers: Counter,
    displaced_sockets: Gauge,
    last_mount: Gauge<f64, AtomicU64>,
    leases: Family<BackendName, Gauge>,
    lease_events: Family<LeaseLabels, Counter>,
    volumes: Family<VolumeLabels, Gauge>,
    volumes_untracked: Counter,
    volumes_watched: Gauge,
    changes: Family<MountLabels, Counter>,
    events: Family<EventLabels, Counter>,
    known: Arc<Known>,
    /// For the configured backends and those of former configurations: so there are few.
    faults: Mutex<BTreeMap<String, LastFault>>,
}

/// The facts about all volumes. Times are in Unix time.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolumeCounts {
    pub current: usize,
    pub failing: usize,
    /// Delivered, with an earlier answer.
    pub stale: usize,
    /// The oldest of the volumes' last successes.
    pub oldest_success: Option<f64>,
    /// When the store gave the oldest answer that a volume has because the store is out.
    pub oldest_stale: Option<f64>,
    /// When the first such answer passed half of its time.
    pub stale_half: Option<f64>,
}

/// The counters of one backend's cache: looked up once, not at each use.
#[derive(Clone, Debug)]
pub struct CacheCounters {
    pub hits: Counter,
    pub misses: Counter,
    /// Answers that were given because the store was out.
    pub stales: Counter,
    evictions: Family<EvictionLabels, Counter>,
    backend: String,
}

/// The counters of one kind of a backend's successful calls: looked up once, not at each call.
#[derive(Clone, Debug)]
pub struct CallCounters {
    calls: Counter,
    seconds: Histogram,
}

/// Counts one thing in a gauge while it exists.
#[derive(Debug)]
pub struct Counted(Gauge);

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        Self::with_log(Counter::default())
    }

    /// With the counter of the log's lost lines, which is older than the metrics.
    pub fn with_log(log_lost: Counter) -> Self {
        let mut metrics = Self {
            mounts: Family::default(),
            mount_seconds: histogram(),
            backend_calls: Family::default(),
            backend_seconds: Family::new_with_constructor(histogram),
            backend_coalesced: Family::default(),
            breaker_open: Family::default(),
            breaker_changed: Family::default(),
            cache_lookups: Family::default(),
            cache_evictions: Family::default(),
            failover_answers: Family::default(),
            files: Counter::default(),
            bytes: Counter::default(),
            in_flight: Gauge::default(),
            memory: Family::default(),
            memory_limit: Family::default(),
            waiting: Family::default(),
            refused: Family::default(),
            audit_lost: Counter::default(),
            audit_alerts: Family::default(),
            log_lost,
            reloads: Family::default(),
            config_current: Gauge::default(),
            refused_peers: Counter::default(),
            displaced_sockets: Gauge::default(),
            last_mount: Gauge::default(),
            leases: Family::default(),
            lease_events: Family::default(),
            volumes: Family::default(),
            volumes_untracked: Counter::default(),
            volumes_watched: Gauge::default(),
            changes: Family::default(),
            events: Family::default(),
            known: Arc::default(),
            faults: Mutex::default(),
            registry: Registry::default(),
        };
        metrics.config_current.set(1);
        metrics.register();
        metrics.begin();
        metrics
    }

    /// If a counter appears only with its first event, `increase()` does not see that event: so counters with few known labels exist from
    /// the start.
    fn begin(&self) {
        for outcome in ["ok", "failed"] {
            drop(self.reloads.get_or_create(&ReloadLabels { outcome }));
        }
        for reason in ["call", "memory", "place"] {
            drop(self.refused.get_or_create(&RefusalLabels { reason }));
        }
        for outcome in EventOutcome::ALL {
            drop(self.events.get_or_create(&EventLabels { outcome: outcome.as_str() }));
        }
        drop(self.mounts.get_or_create(&MountLabels { outcome: "ok", code: "OK" }));
        drop(self.changes.get_or_create(&MountLabels { outcome: "ok", code: "OK" }));
        self.volumes(VolumeCounts::default());
    }

    /// The codes of failed mounts: each has its counter from now on.
    pub fn expect_codes(&self, codes: impl IntoIterator<Item = &'static str>) {
        for code in codes {
            drop(self.mounts.get_or_create(&MountLabels { outcome: "failed", code }));
            drop(self.changes.get_or_create(&MountLabels { outcome: "failed", code }));
        }
    }

    /// A backend whose answers may have leases: each event has its counter from now on.
    pub fn expect_leases(&self, backend: &str) {
        drop(self.leases.get_or_create(&BackendName { backend: backend.to_owned() }));
        for event in LeaseEvent::ALL {
            drop(self.lease_events.get_or_create(&LeaseLabels { backend: backend.to_owned(), event: event.as_str() }));
        }
    }

    fn register_backends(&mut self) {
        let metrics = self;
        let registry = metrics.registry.sub_registry_with_prefix("keyferry");
        registry.register(
            "backend_calls",
            "Calls to a backend, by operation and outcome (ok, or the fault)",
            metrics.backend_calls.clone(),
        );
        registry.register_with_unit(
            "backend_call_duration",
            "Time of a fetch from a backend, with the wait for a free place",
            Unit::Seconds,
            metrics.backend_seconds.clone(),
        );
        registry.register(
            "backend_requests_coalesced",
            "Requests that got the answer of an equal request, which was already on its way to the backend",
            metrics.backend_coalesced.clone(),
        );
        registry.register(
            "breaker_open",
            "Whether the store is out, so that Keyferry sends it no requests: 1 or 0",
            metrics.breaker_open.clone(),
        );
        registry.register_with_unit(
            "breaker_changed_timestamp",
            "When keyferry_breaker_open last changed, in Unix time; at first, when the backend was opened",
            Unit::Seconds,
            metrics.breaker_changed.clone(),
        );
        registry.register(
            "cache_lookups", "Looks into a backend's cache, by outcome (hit; miss: the store was asked; stale: it was out, and the last good answer was given)", metrics.cache_lookups.clone());
        registry.register(
            "cache_evictions",
            "Answers dropped from a backend's cache, by reason (denied, expired, full, not_found, pod_gone, policy, unauthenticated)",
            metrics.cache_evictions.clone(),
        );
        registry.register("failover_answers", "Answers of a failover, by the member that answered (by)", metrics.failover_answers.clone());
    }

    fn register(&mut self) {
        let metrics = self;
        metrics.registry.register_collector(Box::new(Process::new()));
        let registry = metrics.registry.sub_registry_with_prefix("keyferry");
        registry.register("mounts", "Mounts answered, by outcome (ok, failed) and error code", metrics.mounts.clone());
        registry.register_with_unit(
            "mount_duration",
            "Time from a mount's arrival to its answer",
            Unit::Seconds,
            metrics.mount_seconds.clone(),
        );
        metrics.register_backends();
        let registry = metrics.registry.sub_registry_with_prefix("keyferry");
        registry.register("files_delivered", "Files delivered", metrics.files.clone());
        registry.register_with_unit("delivered", "File contents delivered", Unit::Bytes, metrics.bytes.clone());
        registry.register("mounts_in_flight", "Mounts being worked on or queued", metrics.in_flight.clone());
        registry.register_with_unit(
            "memory_used",
            "Memory in use, by what it is for: calls (that wait), mounts (under way, beyond the 32 KiB of each place), plans (parsed classes)",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        registry.register_with_unit(
            "memory_limit",
            "The most memory of this kind that may be in use",
            Unit::Bytes,
            metrics.memory_limit.clone(),
        );
        registry.register("waiting", "Mounts that wait, by what they wait for: place, memory, work", metrics.waiting.clone());
        registry.register(
            "refused",
            "Mounts refused as Overloaded, by reason: call (no memory for the call), place, memory (for what it would hold)",
            metrics.refused.clone(),
        );
        registry.register(
            "audit_lines_lost",
            "Audit lines that could not be written (with audit.failClosed none is lost: the mount fails)",
            metrics.audit_lost.clone(),
        );
        registry.register(
            "audit_alerts",
            "Alerts that were raised, by rule of audit.alerts (denials, manySecrets)",
            metrics.audit_alerts.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that could not be written, because nobody read standard error",
            metrics.log_lost.clone(),
        );
        registry.register_with_unit(
            "last_mount_timestamp",
            "When the last mount was answered, in Unix time",
            Unit::Seconds,
            metrics.last_mount.clone(),
        );
        registry.register("config_reloads", "Reloads of the configuration, by outcome (ok, failed)", metrics.reloads.clone());
        registry.register(
            "config_current",
            "1 while the newest configuration is in force, 0 while it is faulty",
            metrics.config_current.clone(),
        );
        registry.register("peers_refused", "Connections of users that allowedPeers does not name", metrics.refused_peers.clone());
        registry.register(
            "sockets_displaced",
            "Sockets of this daemon whose path is gone, or leads to another's socket",
            metrics.displaced_sockets.clone(),
        );
        registry.register("leases", "Leased credentials that Keyferry keeps and gives to Pods", metrics.leases.clone());
        registry.register(
            "lease_events",
            "What happened to leases: issued, resumed (from a former process), renewed, replaced, revoked, ended, dropped (the store would not renew it), or failed and tried again",
            metrics.lease_events.clone(),
        );
        registry.register_collector(Box::new(Arc::clone(&metrics.known)));
        registry.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        metrics.register_volumes();
    }

    fn register_volumes(&mut self) {
        let metrics = self;
        let registry = metrics.registry.sub_registry_with_prefix("keyferry");
        registry.register(
            "volumes",
            "Volumes of running and starting Pods, by state (current; failing: the last mount failed; stale: delivered from the cache because a store is out); without those that no mount has asked for in 10 minutes",
            metrics.volumes.clone(),
        );
        registry.register(
            "volumes_untracked",
            "Volumes that keyferry_volumes does not count, because their namespace has used its share of the table",
            metrics.volumes_untracked.clone(),
        );
        registry.register(
            "volumes_watched",
            "Volumes that Keyferry writes again within seconds when a secret of a file vault changes (with delivery: provider)",
            metrics.volumes_watched.clone(),
        );
        registry.register(
            "changes",
            "Volumes that had to be written without a mount because a secret changed, by outcome (ok, failed) and error code",
            metrics.changes.clone(),
        );
        registry.register(
            "events",
            "Events on Pods (events.enabled), by outcome (sent; dropped: over the node's 30 per minute, or the API server could not be asked; refused: the daemon may not)",
            metrics.events.clone(),
        );
    }

    /// A mount was answered. `code` is `None` if it succeeded.
    pub fn mount(&self, code: Option<&'static str>, took: Duration, at_unix_seconds: f64) {
        let outcome = if code.is_none() { "ok" } else { "failed" };
        self.mounts.get_or_create(&MountLabels { outcome, code: code.unwrap_or("OK") }).inc();
        self.mount_seconds.observe(took.as_secs_f64());
        self.last_mount.set(at_unix_seconds);
    }

    pub fn delivered(&self, files: usize, bytes: usize) {
        self.files.inc_by(files as u64);
        self.bytes.inc_by(bytes as u64);
    }

    /// A backend answered. `fault` is `None` if it succeeded.
    pub fn backend_call(&self, backend: &str, operation: &'static str, fault: Option<&'static str>, took: Duration) {
        let labels = BackendLabels { backend: backend.to_owned(), operation, outcome: fault.unwrap_or("ok") };
        self.backend_calls.get_or_create(&labels).inc();
        self.backend_seconds.get_or_create(&BackendName { backend: backend.to_owned() }).observe(took.as_secs_f64());
        if let Some(fault @ ("corrupt" | "throttled" | "timed_out" | "unauthenticated" | "unavailable")) = fault {
            let last = LastFault { fault, operation, at: Instant::now() };
            self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(backend.to_owned(), last);
        }
    }

    /// A backend exists: the metrics that alerts look at exist from now on.
    pub fn backend_begins(&self, backend: &str) {
        for outcome in ["ok", "throttled", "timed_out", "unavailable"] {
            let labels = BackendLabels { backend: backend.to_owned(), operation: "fetch", outcome };
            drop(self.backend_calls.get_or_create(&labels));
        }
    }

    /// The last trouble of a store since the process began.
    pub fn last_fault(&self, backend: &str) -> Option<LastFault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).get(backend).copied()
    }

    /// As [`Metrics::backend_call`] for successful calls, for code that makes many.
    pub fn backend_calls(&self, backend: &str, operation: &'static str) -> CallCounters {
        let labels = BackendLabels { backend: backend.to_owned(), operation, outcome: "ok" };
        let calls = self.backend_calls.get_or_create_owned(&labels);
        CallCounters { calls, seconds: self.backend_seconds.get_or_create_owned(&BackendName { backend: backend.to_owned() }) }
    }

    /// Counts the requests to a backend that an equal request made unnecessary.
    pub fn coalesced(&self, backend: &str) -> Counter {
        self.backend_coalesced.get_or_create_owned(&BackendName { backend: backend.to_owned() })
    }

    pub fn cache(&self, backend: &str) -> CacheCounters {
        let lookups = |outcome| self.cache_lookups.get_or_create_owned(&LookupLabels { backend: backend.to_owned(), outcome });
        let (hits, misses, stales) = (lookups("hit"), lookups("miss"), lookups("stale"));
        CacheCounters { hits, misses, stales, evictions: self.cache_evictions.clone(), backend: backend.to_owned() }
    }

    /// Counts a failover's answers that come from one of its members.
    pub fn failover(&self, backend: &str, by: &str) -> Counter {
        self.failover_answers.get_or_create_owned(&FailoverLabels { backend: backend.to_owned(), by: by.to_owned() })
    }

    /// For each backend in force: whether its store is out, and since when.
    pub fn breakers<'b>(&self, backends: impl Iterator<Item = (&'b str, bool, jiff::Timestamp)>) {
        self.breaker_open.clear();
        self.breaker_changed.clear();
        for (backend, is_open, changed) in backends {
            let of = |family: &Family<BackendName, Gauge>| family.get_or_create_owned(&BackendName { backend: backend.to_owned() });
            of(&self.breaker_open).set(is_open.into());
            of(&self.breaker_changed).set(changed.as_second());
        }
    }

    pub fn audit_lines_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }

    /// Counts the alerts of one rule.
    pub fn alerts(&self, rule: &'static str) -> Counter {
        self.audit_alerts.get_or_create_owned(&AlertLabels { rule })
    }

    /// The configuration was read again.
    pub fn reloaded(&self, ok: bool) {
        self.reloads.get_or_create(&ReloadLabels { outcome: if ok { "ok" } else { "failed" } }).inc();
        self.config_current.set(ok.into());
    }

    pub fn peer_refused(&self) {
        self.refused_peers.inc();
    }

    pub fn sockets_displaced(&self, count: usize) {
        self.displaced_sockets.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn lease(&self, backend: &str, event: LeaseEvent) {
        self.lease_events.get_or_create(&LeaseLabels { backend: backend.to_owned(), event: event.as_str() }).inc();
    }

    /// A lease that Keyferry keeps and gives to Pods.
    pub fn lease_kept(&self, backend: &str) -> Counted {
        Counted::by(self.leases.get_or_create_owned(&BackendName { backend: backend.to_owned() }))
    }

    /// Memory in use in one part, and the most that is allowed.
    pub fn pot(&self, pot: &'static str, used: usize, limit: usize) {
        let set = |family: &Family<PotLabels, Gauge>, bytes| {
            family.get_or_create(&PotLabels { pot }).set(i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        set(&self.memory, used);
        set(&self.memory_limit, limit);
    }

    pub fn volumes(&self, counts: VolumeCounts) {
        let VolumeCounts { current, failing, stale, oldest_success, oldest_stale, stale_half } = counts;
        for (state, count) in [("current", current), ("failing", failing), ("stale", stale)] {
            self.volumes.get_or_create(&VolumeLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.known.oldest_success(oldest_success);
        self.known.oldest_stale(oldest_stale);
        self.known.stale_half(stale_half);
    }

    /// This many volumes have no place in the table, or lost theirs.
    pub fn volumes_untracked(&self, count: usize) {
        self.volumes_untracked.inc_by(count as u64);
    }

    /// How many volumes are written again when a secret changes.
    pub fn volumes_watched(&self, count: usize) {
        self.volumes_watched.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A volume was written because a secret changed, or should have been. `code` is `None` if it succeeded.
    pub fn change(&self, code: Option<&'static str>) {
        let outcome = if code.is_none() { "ok" } else { "failed" };
        self.changes.get_or_create(&MountLabels { outcome, code: code.unwrap_or("OK") }).inc();
    }

    /// An Event on a Pod, sent or not.
    pub fn event(&self, outcome: EventOutcome) {
        self.events.get_or_create(&EventLabels { outcome: outcome.as_str() }).inc();
    }

    /// Running Pods whose volume is not mounted; `None`: not known on this node.
    pub fn pods_without_volume(&self, count: Option<usize>) {
        self.known.pods_without_volume(count);
    }

    /// When the issuer's keys were fetched, in Unix time; `None`: they are not fetched, or not yet.
    pub fn keys_fetched(&self, at: Option<f64>) {
        self.known.keys_fetched(at);
    }

    /// How many wait for something that tenants share.
    pub fn waiting(&self, what: &'static str, many: usize) {
        self.waiting.get_or_create(&WaitLabels { what }).set(i64::try_from(many).unwrap_or(i64::MAX));
    }

    /// A mount was refused because tenants have used what they share.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// A mount under way.
    pub fn in_flight(&self) -> Counted {
        Counted::by(self.in_flight.clone())
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

// === impl CallCounters ===

impl CallCounters {
    pub fn count(&self, took: Duration) {
        self.calls.inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

// === impl CacheCounters ===

impl CacheCounters {
    /// This many answers were dropped, for one of a few reasons.
    pub fn evicted(&self, reason: &'static str, count: usize) {
        if count > 0 {
            self.evictions.get_or_create(&EvictionLabels { backend: self.backend.clone(), reason }).inc_by(count as u64);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Counted {
    fn by(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl LeaseEvent {
    pub const ALL: [Self; 10] = [
        Self::Dropped,
        Self::Ended,
        Self::Issued,
        Self::RenewFailed,
        Self::Renewed,
        Self::ReplaceFailed,
        Self::Replaced,
        Self::Resumed,
        Self::RevokeFailed,
        Self::Revoked,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Ended => "ended",
            Self::Issued => "issued",
            Self::RenewFailed => "renew_failed",
            Self::Renewed => "renewed",
            Self::ReplaceFailed => "replace_failed",
            Self::Replaced => "replaced",
            Self::Resumed => "resumed",
            Self::RevokeFailed => "revoke_failed",
            Self::Revoked => "revoked",
        }
    }
}

impl EventOutcome {
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Refused, Self::Sent];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::Sent => "sent",
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_family() {
        let metrics = Metrics::new();
        metrics.mount(None, Duration::from_millis(2), 1.0);
        metrics.mount(Some("PolicyDenied"), Duration::from_millis(1), 2.0);
        metrics.backend_call("files", "fetch", None, Duration::from_millis(1));
        metrics.delivered(3, 700);
        metrics.coalesced("bao").inc();
        let cache = metrics.cache("bao");
        cache.hits.inc();
        cache.evicted("expired", 2);
        cache.evicted("full", 0);
        let held = metrics.in_flight();
        let text = metrics.encode();
        for line in [
            "keyferry_mounts_total{outcome=\"ok\",code=\"OK\"} 1",
            "keyferry_mounts_total{outcome=\"failed\",code=\"PolicyDenied\"} 1",
            "keyferry_mount_duration_seconds_count 2",
            "keyferry_backend_calls_total{backend=\"files\",operation=\"fetch\",outcome=\"ok\"} 1",
            "keyferry_backend_call_duration_seconds_count{backend=\"files\"} 1",
            "keyferry_backend_requests_coalesced_total{backend=\"bao\"} 1",
            "keyferry_cache_lookups_total{backend=\"bao\",outcome=\"hit\"} 1",
            "keyferry_cache_lookups_total{backend=\"bao\",outcome=\"miss\"} 0",
            "keyferry_cache_lookups_total{backend=\"bao\",outcome=\"stale\"} 0",
            "keyferry_cache_evictions_total{backend=\"bao\",reason=\"expired\"} 2",
            "keyferry_files_delivered_total 3",
            "keyferry_delivered_bytes_total 700",
            "keyferry_mounts_in_flight 1",
            "keyferry_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(held);
        assert!(metrics.encode().contains("keyferry_mounts_in_flight 0"));
    }

    #[test]
    fn what_is_bounded_is_there_before_its_first_event() {
        let metrics = Metrics::new();
        metrics.expect_codes(["PolicyDenied"]);
        metrics.expect_leases("bao");
        let text = metrics.encode();
        for line in [
            "keyferry_mounts_total{outcome=\"ok\",code=\"OK\"} 0",
            "keyferry_mounts_total{outcome=\"failed\",code=\"PolicyDenied\"} 0",
            "keyferry_refused_total{reason=\"place\"} 0",
            "keyferry_config_reloads_total{outcome=\"failed\"} 0",
            "keyferry_lease_events_total{backend=\"bao\",event=\"renew_failed\"} 0",
            "keyferry_volumes{state=\"failing\"} 0",
            "keyferry_volumes{state=\"stale\"} 0",
            "keyferry_volumes_untracked_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes ") && !text.contains("keyferry_process"), "{text}");
    }

    #[test]
    fn what_nobody_knows_is_not_told_as_nothing() {
        let metrics = Metrics::new();
        let names = [
            "keyferry_volume_oldest_success_timestamp_seconds",
            "keyferry_volume_oldest_stale_timestamp_seconds",
            "keyferry_volume_stale_half_timestamp_seconds",
            "keyferry_pods_without_volume",
            "keyferry_issuer_keys_timestamp_seconds",
        ];
        let told =
            || names.map(|name| metrics.encode().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)));
        assert_eq!(told(), [None, None, None, None, None]);
        let (oldest_success, oldest_stale, stale_half) = (Some(1.5), Some(1.25), Some(2.25));
        metrics.volumes(VolumeCounts { current: 2, failing: 1, stale: 0, oldest_success, oldest_stale, stale_half });
        metrics.pods_without_volume(Some(0));
        metrics.keys_fetched(Some(7.0));
        assert_eq!(told().map(Option::unwrap), ["1.5", "1.25", "2.25", "0", "7.0"]);
        metrics.volumes(VolumeCounts::default());
        metrics.pods_without_volume(None);
        assert_eq!(told(), [None, None, None, None, Some("7.0".to_owned())]);
    }

    #[tokio::test]
    async fn the_last_fault_is_the_stores_own() {
        let metrics = Metrics::new();
        let call = |fault| metrics.backend_call("bao", "fetch", fault, Duration::from_millis(1));
        let last = || metrics.last_fault("bao").map(|last| (last.fault, last.operation));
        for of_one_secret in [None, Some("not_found"), Some("denied"), Some("invalid"), Some("too_large"), Some("short")] {
            call(of_one_secret);
            assert_eq!(last(), None, "{of_one_secret:?}");
        }
        call(Some("unavailable"));
        call(None);
        assert_eq!(last(), Some(("unavailable", "fetch")));
        assert!(metrics.last_fault("files").is_none());
    }
}
