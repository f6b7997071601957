//! Reports what is unusual: within a time, many different secrets delivered to one ServiceAccount, or many of its mounts denied.
//!
//! The time is a sliding window on a clock that nobody sets: what happened within it before now is counted. A mount that only repeats its
//! volume's last mount delivers nothing new and is not counted, so the driver's regular mounts cost nothing here. A mount that is denied
//! again is counted again. An alert is raised once. Its ServiceAccount is counted from zero again when the rule's time has ended.
//!
//! Keyferry keeps no secret's name here, only a hash with a key of this process.

use std::hash::{BuildHasher, RandomState};
use std::iter::once;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Duration, Instant};

use super::event::{self, Event, ObjectEvent, Outcome};
use crate::model::{Code, PodClaims, RequestId, Tenant};
use crate::nearest::nearest;
use crate::telemetry::Metrics;
use crate::units::parse_duration;
use crate::yaml::{Faults, Node, Reader, Value};

mod tally;

use tally::{MOST, Tally};

/// The longest time that a rule may have.
const LONGEST: Duration = Duration::from_hours(24);

/// One entry of `audit.alerts`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AlertRule {
    pub watched: Watched,
    /// This number within the time raises an alert; 1 to 4096.
    pub number: usize,
    /// Whole seconds, 1 s to 24 h.
    pub within: Duration,
}

/// What is counted for each ServiceAccount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Watched {
    /// Mounts that policy or the store denied.
    Denials,
    /// Different secrets that were delivered.
    ManySecrets,
}

/// The rules in force, and the counts for them.
#[derive(Debug)]
pub(super) struct Alarms {
    /// With a key of this process: nobody can find two secrets with the same hash, and no part of a name is kept.
    hasher: RandomState,
    metrics: Arc<Metrics>,
    watches: Mutex<Vec<Watch>>,
}

#[derive(Debug)]
struct Watch {
    rule: AlertRule,
    tally: Tally,
}

/// What a mount is counted for.
#[derive(Debug)]
pub(super) struct Noted {
    watched: Watched,
    pod: Arc<PodClaims>,
    time: Timestamp,
    request: RequestId,
    /// Hashes of the secrets that were delivered; empty: one denial.
    secrets: Vec<u64>,
}

/// The line of an alert.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alert {
    /// When the mount arrived that raised the alert.
    time: Timestamp,
    event: &'static str,
    rule: &'static str,
    namespace: String,
    service_account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    seconds: u64,
    /// The namespace has used its whole share of the counters: there may have been more.
    #[serde(skip_serializing_if = "is_false")]
    uncounted: bool,
    #[serde(serialize_with = "event::display")]
    request: RequestId,
}

// === impl AlertRule ===

impl AlertRule {
    /// The list under `alerts`.
    pub(super) fn parse_all(reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<Self> {
        let Some(node) = reader.get("alerts") else { return Vec::new() };
        let Value::Sequence(items) = &node.value else {
            let problem = format!("is {}, but must be a list of rules (start each with `- `)", node.kind());
            faults.add(node.at, reader.path("alerts"), problem);
            return Vec::new();
        };
        let mut rules: Vec<Self> = Vec::new();
        for (number, item) in (1..).zip(items) {
            let path = format!("{} rule {number}", reader.path("alerts"));
            let Some(rule) = Self::parse(item, path.clone(), faults) else { continue };
            match rules.iter().position(|known| known.watched == rule.watched) {
                Some(former) => {
                    let name = rule.watched.as_str();
                    faults.add(item.at, path, format!("{name:?} is already rule {} (remove one: each rule can be there once)", former + 1));
                }
                None => rules.push(rule),
            }
        }
        rules
    }

    fn parse(item: &Node, path: String, faults: &mut Faults) -> Option<Self> {
        let mut reader = Reader::of(item, path, faults)?;
        let watched = reader.parsed("rule", faults, Watched::parse);
        if reader.get("rule").is_none() {
            reader.missing("rule", "write for example rule: manySecrets, or rule: denials", faults);
        }
        let within = reader.parsed("within", faults, within);
        let number = if let Some(watched) = watched {
            reader.parsed(watched.key(), faults, number)
        } else {
            // Without a valid `rule`, Keyferry cannot know which number belongs to it: so it reports none of these keys as unknown.
            for watched in Watched::ALL {
                reader.get(watched.key());
            }
            None
        };
        reader.finish(faults);
        let watched = watched?;
        let default = watched.default_rule();
        Some(Self { watched, number: number.unwrap_or(default.number), within: within.unwrap_or(default.within) })
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err(format!("0 would raise an alert without a reason (write a whole number from 1 to {MOST})")),
        Ok(number) if number <= MOST => Ok(number),
        Ok(_) => Err(format!("{text:?} is more than Keyferry counts for one ServiceAccount (write a whole number from 1 to {MOST})")),
        Err(_) => Err(format!("{text:?} is not a whole number from 1 to {MOST}")),
    }
}

fn within(text: &str) -> Result<Duration, String> {
    let within = parse_duration(text)?;
    if within > LONGEST {
        return Err(format!("{text:?} is longer than Keyferry counts (write at most 24h)"));
    }
    if within.is_zero() || within.subsec_nanos() > 0 {
        return Err(format!("{text:?} is not a number of whole seconds (write at least 1s, for example 10m)"));
    }
    Ok(within)
}

impl Watched {
    const ALL: [Self; 2] = [Self::Denials, Self::ManySecrets];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denials => "denials",
            Self::ManySecrets => "manySecrets",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|watched| watched.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str);
            match nearest(text, known) {
                Some(near) => format!("{text:?} is not a rule (did you mean {near}?)"),
                None => format!("{text:?} is not a rule (write {})", known.join(" or ")),
            }
        })
    }

    /// The place of the rule's number.
    const fn key(self) -> &'static str {
        match self {
            Self::Denials => "count",
            Self::ManySecrets => "secrets",
        }
    }

    const fn default_rule(self) -> AlertRule {
        let (number, minutes) = match self {
            Self::Denials => (20, 5),
            Self::ManySecrets => (50, 10),
        };
        AlertRule { watched: self, number, within: Duration::from_mins(minutes) }
    }
}

// === impl Alarms ===

impl Alarms {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { hasher: RandomState::new(), metrics, watches: Mutex::default() }
    }

    /// Puts rules in force. The counts of a rule that stays the same are kept.
    pub(super) fn configure(&self, rules: &[AlertRule]) {
        let mut watches = self.lock();
        let mut former = std::mem::take(&mut *watches);
        for rule in rules {
            self.metrics.alerts(rule.watched.as_str());
            let same = former.iter().position(|watch| watch.rule == *rule);
            watches
                .push(same.map_or_else(|| Watch { rule: *rule, tally: Tally::new(rule.number, rule.within) }, |at| former.swap_remove(at)));
        }
    }

    /// What a mount is counted for, if a rule is in force for it.
    pub(super) fn note<'e>(&self, event: &'e Event) -> Option<Noted> {
        let watched = if is_denial(event) {
            Watched::Denials
        } else if event.outcome == Outcome::Delivered {
            Watched::ManySecrets
        } else {
            return None;
        };
        if !self.lock().iter().any(|watch| watch.rule.watched == watched) {
            return None;
        }
        let pod = event.pod.clone()?;
        let delivered = event.objects.iter().filter(|object| watched == Watched::ManySecrets && object.outcome == Outcome::Delivered);
        let key = |backend: &str, name: &str| self.hasher.hash_one((&pod.namespace, &pod.service_account, backend, name));
        // An object may be made of several secrets. One that is absent has no source.
        let others = |object: &'e ObjectEvent| object.others.iter().filter(|other| other.source.is_some()).map(|other| &other.secret);
        let first = |object: &'e ObjectEvent| Some(&object.secret).filter(|_| object.others.is_empty() || object.source.is_some());
        let secrets = delivered.flat_map(|object| first(object).into_iter().chain(others(object)));
        let secrets: Vec<u64> = secrets.map(|secret| key(secret.backend.as_str(), secret.name.as_str())).collect();
        let is_anything = watched == Watched::Denials || !secrets.is_empty();
        is_anything.then_some(Noted { watched, pod, time: event.time, request: event.request, secrets })
    }

    /// Counts it. If that raises an alert, the alert is now in the log and the metrics; the caller writes its line.
    pub(super) fn count(&self, noted: &Noted, now: Instant) -> Option<Alert> {
        let Noted { watched, pod, time, request, secrets } = noted;
        let account = self.hasher.hash_one((&pod.namespace, &pod.service_account));
        let tenant = Tenant::from(pod.namespace.as_str());
        let (rule, reached) = {
            let mut watches = self.lock();
            let Watch { rule, tally } = watches.iter_mut().find(|watch| watch.rule.watched == *watched)?;
            let reached = match watched {
                Watched::Denials => {
                    let denial = self.hasher.hash_one((account, request, time));
                    tally.count(&tenant, account, once(denial), now)
                }
                Watched::ManySecrets => tally.count(&tenant, account, secrets.iter().copied(), now),
            };
            (*rule, reached?)
        };
        let (name, uncounted) = (watched.as_str(), reached == tally::Reached::Share);
        let number = |of| (*watched == of).then_some(rule.number);
        let (secrets, count, seconds) = (number(Watched::ManySecrets), number(Watched::Denials), rule.within.as_secs());
        self.metrics.alerts(name).inc();
        let PodClaims { namespace, service_account, .. } = &**pod;
        tracing::warn!(rule = name, namespace, service_account, secrets, count, seconds, uncounted, %request, "an audit alert: {}", said(*watched));
        let (namespace, service_account) = (namespace.clone(), service_account.clone());
        Some(Alert {
            time: *time,
            event: "alert",
            rule: name,
            namespace,
            service_account,
            secrets,
            count,
            seconds,
            uncounted,
            request: *request,
        })
    }

    /// Accounts, things, and places in the order, for each rule.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(usize, usize, usize)> {
        self.lock().iter().map(|watch| watch.tally.kept()).collect()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the policy or by the store.
pub(super) fn is_denial(event: &Event) -> bool {
    event.outcome == Outcome::Denied || event.code == Some(Code::BackendDenied)
}

fn said(watched: Watched) -> &'static str {
    match watched {
        Watched::Denials => "policy or a store denied many mounts of one ServiceAccount",
        Watched::ManySecrets => "one ServiceAccount received many different secrets",
    }
}

// === impl Noted ===

impl Noted {
    /// A denial counts, whether its line is written or not. A delivery without a line may not have happened.
    pub(super) fn is_certain(&self) -> bool {
        self.watched == Watched::Denials
    }
}

// === impl Alert ===

impl Alert {
    pub(super) fn tenant(&self) -> Tenant {
        Tenant::from(self.namespace.as_str())
    }

    pub(super) fn time(&self) -> Timestamp {
        self.time
    }

    /// About how many bytes of memory it takes while it waits.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.namespace.len() + self.service_account.len()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !value
}
