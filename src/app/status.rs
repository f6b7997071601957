//! What `keyferry status` shows: the daemon's present state. It is served at a socket in the state folder, to which root and the daemon's
//! own user can connect.
//!
//! It names namespaces, classes and Pods. So it is not on the metrics' port, which anybody on the network may reach. It has no secret's
//! name and no value. Every list and every text has a limit.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use jiff::Timestamp;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, timeout};

use super::Health;
use crate::backend::BackendError;
use crate::backend::stack::lease::LeaseSummary;
use crate::delivery::unmounted::Unmounted;
use crate::model::{BackendName, Code, PodClaims, clean, visible};
use crate::pipeline::Volume;
use crate::server::{BoundSocket, SocketError};
use crate::telemetry::endpoint::{Page, Pages};

/// The socket's name in the state folder.
pub const STATUS_SOCKET: &str = "status.sock";

/// The path of the report, for the client.
pub const STATUS_PAGE: &str = "/status";

/// The form of the report. A form that an older `keyferry status` would read wrongly has another number.
pub const FORM: u32 = 1;

/// The user id of a process of another user namespace.
const OVERFLOW_UID: u32 = 65534;

/// How long the stores' health checks may take, and after them the looks at keys and sockets. Each has its own, shorter limit.
const LOOKS: Duration = Duration::from_secs(6);

/// The most groups of volumes, Pods and problems in a list. The report says how many more there are.
const MAX_LISTED: usize = 100;

/// The most Pods that one group names.
const MAX_NAMES: usize = 3;

/// The longest text in characters.
const MAX_TEXT: usize = 600;

/// The report. Times are by the daemon's clock.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The form: [`FORM`].
    pub v: u32,
    pub version: String,
    pub now: Timestamp,
    pub started: Timestamp,
    /// `None`: the daemon was started without a file.
    pub configuration: Option<ConfigurationReport>,
    /// Why this node is not ready, as in `/readyz`.
    pub problems: Vec<String>,
    pub backends: Vec<BackendReport>,
    pub volumes: VolumesReport,
    pub pods_without_volume: PodsReport,
    pub memory: Vec<PotReport>,
    pub waiting: Vec<WaitReport>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationReport {
    pub file: String,
    /// The digest of the file's bytes, as `sha256sum` prints it; `None`: the file could not be read again.
    pub sha256: Option<String>,
    /// Since when this configuration is in force.
    pub since: Timestamp,
    /// Why the newest file is not in force; `None`: it is in force.
    pub fault: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendReport {
    pub name: String,
    /// Whether the backend could serve a mount now.
    pub healthy: bool,
    pub error: Option<String>,
    /// The last call since the daemon's start that failed because of the store.
    pub last_fault: Option<FaultReport>,
    /// `None`: the store has given no answer.
    pub leases: Option<LeasesReport>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// As in `keyferry_backend_calls_total`.
    pub fault: String,
    pub operation: String,
    pub text: String,
    pub seconds_ago: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeasesReport {
    pub kept: usize,
    /// The leases whose last renewal or replacement failed.
    pub failing: usize,
    /// When the next of these leases expires, unless it is renewed.
    pub next_end: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumesReport {
    pub current: usize,
    pub failing: usize,
    /// The volumes whose last mount got an earlier answer, because a store is out.
    #[serde(default)]
    pub stale: usize,
    /// First the failing groups, then the stale ones, and among these the largest first.
    pub groups: Vec<GroupReport>,
    /// How many groups are not in the list.
    pub more: usize,
}

/// The volumes of one class whose last mounts ended alike.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupReport {
    pub namespace: String,
    pub class: String,
    /// `current`, `failing` or `stale`.
    pub state: String,
    /// Why these mounts fail.
    pub code: Option<String>,
    pub volumes: usize,
    /// These volumes have earlier answers because the store is out: when the store gave the oldest of them.
    #[serde(default)]
    pub stale: Option<Timestamp>,
    /// When this began for the first of these volumes.
    pub since: Timestamp,
    /// The oldest of the last deliveries; `None`: none of these volumes was delivered, as far as this process knows.
    pub delivered: Option<Timestamp>,
    /// Some of the Pods, if their volumes fail.
    pub pods: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsReport {
    /// When Keyferry looked at kubelet's folder; `None`: not yet.
    pub looked: Option<Timestamp>,
    /// Why Keyferry cannot know, if that is so.
    pub unknown: Option<String>,
    pub pods: Vec<PodReport>,
    /// How many Pods are not in the list.
    pub more: usize,
}

/// A running Pod that does not have its volume.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    pub uid: String,
    /// The volume's name in the Pod.
    pub volume: String,
    /// `None`: no mount has given them to this process.
    pub namespace: Option<String>,
    pub name: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PotReport {
    pub pot: String,
    pub used: u64,
    pub limit: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReport {
    pub what: String,
    pub mounts: usize,
}

/// Gives the report to the users who may have it.
#[derive(Debug)]
pub(super) struct StatusPages(pub Arc<Health>);

/// Binds the socket. The state folder has been checked and locked before.
///
/// # Errors
/// It cannot be bound, or another daemon listens there.
pub(super) async fn bind(state_dir: &Path) -> Result<BoundSocket, SocketError> {
    BoundSocket::bind(state_dir.join(STATUS_SOCKET), "stateDir", 0o600).await
}

#[async_trait]
impl Pages for StatusPages {
    async fn page(&self, path: &str) -> Page {
        if path != STATUS_PAGE {
            return Page::text(StatusCode::NOT_FOUND, format!("not found (there is {STATUS_PAGE})\n"));
        }
        match serde_json::to_value(self.0.report().await) {
            Ok(report) => Page::json(&report),
            Err(error) => Page::text(StatusCode::INTERNAL_SERVER_ERROR, format!("a bug: the report cannot be written: {error}\n")),
        }
    }

    /// The mode 0600 already keeps others out; but the mode may be changed, or a descriptor may be handed on.
    fn refusal(&self, uid: u32) -> Option<String> {
        let own = geteuid().as_raw();
        let may = uid != OVERFLOW_UID && (uid == 0 || uid == own);
        (!may).then(|| format!("user id {uid} may not ask: only root and the daemon's own user ({own}) may (run the command as root)"))
    }
}

impl Health {
    pub(super) async fn report(&self) -> Report {
        let now = self.clock.now();
        let pipeline = self.pipeline.load_full();
        // `None`: not known.
        let failing = timeout(LOOKS, pipeline.backends.check()).await.ok();
        let late = || vec![format!("the checks of keys and sockets took longer than {} s", LOOKS.as_secs())];
        let reasons = timeout(LOOKS, self.reasons(failing.as_deref().unwrap_or_default())).await.unwrap_or_else(|_| late());
        let leases = self.leases.summary();
        let pots = pipeline.pots().into_iter().chain([self.lease_pot()]);
        let volumes = pipeline.commons.live.all();
        Report {
            v: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            started: self.started,
            configuration: self
                .reloader
                .as_ref()
                .map(|reloader| reloader.report())
                .map(|report| ConfigurationReport { fault: report.fault.as_deref().map(short), ..report }),
            problems: reasons.iter().take(MAX_LISTED).map(|reason| short(reason)).collect(),
            backends: pipeline.backends.names().map(|name| self.backend(name, failing.as_deref(), leases.get(name))).collect(),
            pods_without_volume: self.pods.report(&volumes),
            volumes: grouped(&volumes),
            memory: pots.map(|pot| PotReport { pot: pot.pot.to_owned(), used: pot.used as u64, limit: pot.limit as u64 }).collect(),
            waiting: pipeline.waiting().map(|(what, mounts)| WaitReport { what: what.to_owned(), mounts }).into(),
        }
    }

    fn backend(&self, name: &BackendName, failing: Option<&[BackendError]>, leases: Option<&LeaseSummary>) -> BackendReport {
        let error = match failing {
            // The message begins with the backend's name. Here the name is in a field beside it.
            Some(failing) => failing.iter().find(|error| error.backend == *name).map(|error| short(&error.in_full().reason)),
            None => Some(format!("not known: a store's check took longer than {} s", LOOKS.as_secs())),
        };
        BackendReport {
            name: name.to_string(),
            healthy: error.is_none(),
            error,
            last_fault: self.metrics.last_fault(name.as_str()).map(|last| FaultReport {
                fault: last.fault.to_owned(),
                operation: last.operation.to_owned(),
                text: told(last.fault).to_owned(),
                seconds_ago: last.at.elapsed().as_secs(),
            }),
            leases: leases.map(|leases| LeasesReport { kept: leases.kept, failing: leases.failing, next_end: leases.next_end }),
        }
    }
}

/// A store's trouble in Keyferry's own words: the store's words may quote a secret.
fn told(fault: &str) -> &'static str {
    match fault {
        "corrupt" => "an answer could not be decrypted or read",
        "throttled" => "the store had too many requests",
        "timed_out" => "there was no answer in time",
        "unauthenticated" => "the store refused the login",
        _ => "the store could not be reached, or could not serve",
    }
}

/// By class, and by how the last mounts ended. A group takes the same space in the list, however many volumes it has.
fn grouped(volumes: &[Volume]) -> VolumesReport {
    let mut groups: BTreeMap<(Option<Code>, bool, &str, &str), Vec<&Volume>> = BTreeMap::new();
    for volume in volumes {
        let class = volume.class.as_deref().unwrap_or_default();
        groups.entry((volume.code, is_stale(volume), &volume.pod.namespace, class)).or_default().push(volume);
    }
    let failing = volumes.iter().filter(|volume| volume.code.is_some()).count();
    let stale = volumes.iter().filter(|volume| is_stale(volume)).count();
    let mut groups: Vec<_> =
        groups.into_iter().map(|((code, _, namespace, class), volumes)| group(code, namespace, class, &volumes)).collect();
    // Failing groups first, then stale ones, then the largest; equal groups stay in the order of their names.
    groups.sort_by_key(|group| (group.code.is_none(), group.stale.is_none(), usize::MAX - group.volumes));
    let more = groups.len().saturating_sub(MAX_LISTED);
    groups.truncate(MAX_LISTED);
    VolumesReport { current: volumes.len() - failing - stale, failing, stale, groups, more }
}

fn is_stale(volume: &Volume) -> bool {
    volume.code.is_none() && volume.stale.is_some()
}

fn group(code: Option<Code>, namespace: &str, class: &str, volumes: &[&Volume]) -> GroupReport {
    let mut pods: Vec<&str> = if code.is_some() { volumes.iter().map(|volume| volume.pod.name.as_str()).collect() } else { Vec::new() };
    pods.sort_unstable();
    pods.dedup();
    let stale = volumes.iter().filter(|volume| is_stale(volume)).filter_map(|volume| volume.stale).min();
    GroupReport {
        namespace: clean(namespace),
        class: clean(class),
        state: if code.is_some() { "failing" } else { stale.map_or("current", |_| "stale") }.to_owned(),
        code: code.map(|code| code.to_string()),
        volumes: volumes.len(),
        stale,
        since: volumes.iter().map(|volume| volume.since).min().unwrap_or_default(),
        delivered: volumes.iter().filter_map(|volume| volume.delivered).min(),
        pods: pods.into_iter().take(MAX_NAMES).map(clean).collect(),
    }
}

impl PodsReport {
    /// Names the Pods that mounts have named.
    pub(super) fn of(looked: Timestamp, found: &[Unmounted], volumes: &[Volume]) -> Self {
        let by_uid: HashMap<&str, &PodClaims> = volumes.iter().map(|volume| (volume.pod.uid.as_str(), &*volume.pod)).collect();
        let pod = |one: &Unmounted| {
            let known = by_uid.get(one.pod_uid.as_str());
            PodReport {
                uid: clean(&one.pod_uid),
                volume: clean(&one.volume),
                namespace: known.map(|pod| clean(&pod.namespace)),
                name: known.map(|pod| clean(&pod.name)),
            }
        };
        let more = found.len().saturating_sub(MAX_LISTED);
        Self { looked: Some(looked), unknown: None, pods: found.iter().take(MAX_LISTED).map(pod).collect(), more }
    }

    pub(super) fn unknown(looked: Timestamp, why: &str) -> Self {
        Self { looked: Some(looked), unknown: Some(short(why)), ..Self::default() }
    }
}

/// One line with a limited length, without invisible characters.
fn short(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => visible(&line[..end]) + "...",
        None => visible(&line),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn volume(namespace: &str, pod: &str, class: &str, code: Option<Code>, second: i64) -> Volume {
        let pod = PodClaims { namespace: namespace.into(), name: pod.into(), uid: format!("uid-{pod}"), service_account: "web".into() };
        let since = Timestamp::from_second(second).unwrap();
        Volume {
            pod: Arc::new(pod),
            class: Some(class.into()),
            code,
            since,
            delivered: code.is_none().then_some(since),
            stale: None,
            half: None,
            asked: Instant::now(),
        }
    }

    fn shown(report: &VolumesReport) -> Vec<String> {
        let group =
            |group: &GroupReport| format!("{} {} {}/{} {}", group.state, group.volumes, group.namespace, group.class, group.pods.join(","));
        report.groups.iter().map(group).collect()
    }

    #[tokio::test]
    async fn what_fails_comes_first_and_most_of_it_before_the_rest() {
        let denied = Some(Code::PolicyDenied);
        let mut volumes =
            vec![volume("shop", "web-0", "db", None, 7), volume("shop", "web-1", "db", None, 3), volume("bank", "a", "x", denied, 1)];
        volumes.extend((0..5).map(|n| volume("shop", &format!("job-{n}"), "db", denied, 10 - n)));
        let report = grouped(&volumes);
        assert_eq!((report.current, report.failing, report.more), (2, 6, 0));
        assert_eq!(shown(&report), ["failing 5 shop/db job-0,job-1,job-2", "failing 1 bank/x a", "current 2 shop/db "]);
        assert_eq!(report.groups[0].since.as_second(), 6);
        assert_eq!((report.groups[2].delivered.unwrap().as_second(), report.groups[0].delivered), (3, None));
        volumes[0].stale = Some(Timestamp::UNIX_EPOCH);
        let report = grouped(&volumes);
        assert_eq!((report.current, report.failing, report.stale), (1, 6, 1));
        assert_eq!(shown(&report)[2..], ["stale 1 shop/db ", "current 1 shop/db "]);
    }

    /// However many classes there are, and whatever their names are.
    #[tokio::test]
    async fn a_report_is_bounded_and_has_no_control_characters() {
        let volumes: Vec<_> = (0..5_000).map(|n| volume("evil\u{1b}[2J", &"x".repeat(300), &format!("class-{n}\n"), None, 0)).collect();
        let report = grouped(&volumes);
        assert_eq!((report.current, report.groups.len(), report.more), (5_000, MAX_LISTED, 5_000 - MAX_LISTED));
        assert!(report.groups.iter().all(|group| !format!("{}{}", group.namespace, group.class).contains(char::is_control)));
        let found: Vec<_> = (0..300).map(|n| Unmounted { pod_uid: format!("uid-{n}"), volume: "v\u{202e}".into() }).collect();
        let pods = PodsReport::of(Timestamp::UNIX_EPOCH, &found, &volumes);
        assert_eq!((pods.pods.len(), pods.more, pods.pods[0].volume.as_str()), (MAX_LISTED, 200, r"v\u{202e}"));
        assert_eq!(short(&"ü\n".repeat(5_000)).chars().count(), MAX_TEXT + 3);
    }

    #[tokio::test]
    async fn a_pod_is_named_if_a_mount_has_told_its_name() {
        let found = ["uid-web-0", "uid-other"].map(|uid| Unmounted { pod_uid: uid.into(), volume: "secrets".into() });
        let pods = PodsReport::of(Timestamp::UNIX_EPOCH, &found, &[volume("shop", "web-0", "db", None, 0)]).pods;
        assert_eq!((pods[0].namespace.as_deref(), pods[0].name.as_deref()), (Some("shop"), Some("web-0")));
        assert_eq!((pods[1].namespace.as_deref(), pods[1].name.as_deref()), (None, None));
    }
}
