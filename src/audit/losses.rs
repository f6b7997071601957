//! Lines that were not written: counted at once, and reported once per minute in the log and in the audit itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::line::LeftOut;
use crate::model::Tenant;
use crate::telemetry::Metrics;

/// The least time between two reports.
pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// The most namespaces that are counted separately. Further ones are counted together.
const TENANTS: usize = 1024;

/// The most namespaces that one report names; the others follow a minute later.
const NAMED: usize = 16;

/// Why a line was not written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    /// The file did not take the line, or took the lines before it too slowly.
    File,
    /// The namespace has used its share.
    Share,
}

#[derive(Debug)]
pub(super) struct Losses {
    metrics: Arc<Metrics>,
    unsaid: Mutex<Unsaid>,
}

#[derive(Debug, Default)]
struct Unsaid {
    by: HashMap<Tenant, Missing>,
    said: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Missing {
    newest: Timestamp,
    file: u64,
    share: u64,
    delivered: u64,
}

// === impl Losses ===

impl Losses {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, unsaid: Mutex::default() }
    }

    /// A line is lost. `delivered`: whether its mount is delivered all the same.
    pub(super) fn lost(&self, tenant: &Tenant, cause: Cause, delivered: bool, time: Timestamp) {
        self.metrics.audit_lines_lost(1);
        self.note(tenant, cause, delivered, time);
    }

    /// A line is not written, and its mount fails for that.
    pub(super) fn refused(&self, tenant: &Tenant, cause: Cause, time: Timestamp) {
        self.note(tenant, cause, false, time);
    }

    fn note(&self, tenant: &Tenant, cause: Cause, delivered: bool, time: Timestamp) {
        let mut unsaid = self.unsaid();
        let is_told_apart = unsaid.by.len() < TENANTS || unsaid.by.contains_key(tenant);
        let missing = unsaid.by.entry(if is_told_apart { tenant.clone() } else { Tenant::from("") }).or_default();
        missing.newest = time;
        missing.delivered += u64::from(delivered);
        match cause {
            Cause::File => missing.file += 1,
            Cause::Share => missing.share += 1,
        }
    }

    /// The time until the next report is due; `None`: there is nothing to report.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let unsaid = self.unsaid();
        let due = unsaid.said.map_or(now, |said| said + MINUTE);
        (!unsaid.by.is_empty()).then(|| due.saturating_duration_since(now))
    }

    /// Reports the losses, one `write` for each line, until one fails; the rest waits for the next time.
    pub(super) fn say(&self, now: Instant, mut write: impl FnMut(&LeftOut) -> bool) {
        let mut most: Vec<(Tenant, Missing)> = {
            let mut unsaid = self.unsaid();
            unsaid.said = Some(now);
            unsaid.by.iter().map(|(tenant, missing)| (tenant.clone(), *missing)).collect()
        };
        most.sort_by(|(tenant, missing), (other, others)| others.lines().cmp(&missing.lines()).then_with(|| tenant.cmp(other)));
        let mut said = Vec::new();
        for (tenant, missing) in most.into_iter().take(NAMED) {
            if !write(&missing.left_out(&tenant)) {
                break;
            }
            self.unsaid().take(&tenant, missing);
            said.push((tenant, missing));
        }
        log(&said, Cause::File);
        log(&said, Cause::Share);
    }

    /// A panic elsewhere leaves at worst a count that is too low.
    fn unsaid(&self) -> MutexGuard<'_, Unsaid> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the three namespaces that lost most lines.
fn log(said: &[(Tenant, Missing)], cause: Cause) {
    let missing = || said.iter().map(|(tenant, missing)| (tenant, missing.by(cause))).filter(|(_, lines)| *lines > 0);
    let lines: u64 = missing().map(|(_, lines)| lines).sum();
    if lines == 0 {
        return;
    }
    let namespaces = missing().take(3).map(|(tenant, _)| tenant.as_str()).collect::<Vec<_>>().join(", ");
    match cause {
        Cause::File => {
            let what = "audit lines were lost: the audit file (or standard output) did not take them in time, or refused them";
            tracing::error!(lines, namespaces, "{what}");
        }
        Cause::Share => {
            tracing::warn!(lines, namespaces, "audit lines were left out: their namespaces have used up their share of the audit");
        }
    }
}

impl Unsaid {
    fn take(&mut self, tenant: &Tenant, said: Missing) {
        let Some(missing) = self.by.get_mut(tenant) else { return };
        missing.file -= said.file;
        missing.share -= said.share;
        missing.delivered -= said.delivered;
        if missing.lines() == 0 {
            self.by.remove(tenant);
        }
    }
}

impl Missing {
    fn by(&self, cause: Cause) -> u64 {
        match cause {
            Cause::File => self.file,
            Cause::Share => self.share,
        }
    }

    fn lines(&self) -> u64 {
        self.file + self.share
    }

    fn left_out(&self, tenant: &Tenant) -> LeftOut {
        LeftOut { time: self.newest, event: "leftOut", namespace: tenant.clone(), lines: self.lines(), delivered: self.delivered }
    }
}
