//! What the audit line will say, gathered along the walk: an early failure leaves the rest as it was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Duration;

use super::{Found, MountContext, MountError};
use crate::audit::{Event, ObjectEvent, Outcome};
use crate::delivery::Delivery;
use crate::model::{Label, Object, Plan, PodClaims, Request, SecretRef, Select, Version, VersionIds};
use crate::policy::Denial;
use crate::render::Rendered;

#[derive(Clone, Debug)]
pub(super) struct Record {
    event: Event,
}

impl Record {
    pub(super) fn new(cx: &MountContext, now: Timestamp) -> Self {
        let event = Event {
            time: now,
            event: "mount",
            request: cx.request,
            outcome: Outcome::Failed,
            code: None,
            error: None,
            provider: Arc::clone(&cx.provider),
            pod: None,
            verified: false,
            class: None,
            target: None,
            milliseconds: 0.0,
            objects: Vec::new(),
            repeats: 0,
        };
        Self { event }
    }

    pub(super) fn requested(&mut self, request: &Request) {
        self.event.pod = Some(PodClaims::clone(&request.claims));
        self.event.class.clone_from(&request.class);
        self.event.target = Some(request.target_path.clone());
    }

    /// From here on a failure names every object; until one is delivered, all are withheld.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.event.objects = plan.objects.iter().map(|object| of_object(object, Outcome::Withheld)).collect();
    }

    pub(super) fn identified(&mut self, verified: bool) {
        self.event.verified = verified;
    }

    pub(super) fn denied(&mut self, denials: &[(Label, Denial)]) {
        for (label, denial) in denials {
            for object in self.event.objects.iter_mut().filter(|object| object.object == label.index) {
                object.outcome = Outcome::Denied;
                object.rule = denial.rule();
            }
        }
    }

    pub(super) fn delivered(&mut self, plan: &Plan, found: &Found, rendered: &Rendered, delivery: &Delivery) {
        let by_secret: HashMap<_, _> = found.iter().map(|(permit, fetched)| (permit.secret(), (permit.rule(), fetched))).collect();
        let versions = versions(plan, found, delivery);
        let by_index: HashMap<usize, &Object> = plan.objects.iter().map(|object| (object.index, object)).collect();
        let mut objects = Vec::with_capacity(rendered.files.len());
        for file in &rendered.files {
            let Some(object) = by_index.get(&file.object) else { continue };
            let mut event = of_object(object, Outcome::Delivered);
            event.file = Some(file.path.clone());
            event.field = file.field.clone().or(event.field);
            if let Some((rule, fetched)) = by_secret.get(&object.secret) {
                (event.rule, event.source) = (Some(*rule), Some(fetched.source.as_str()));
                event.version = versions.get(&object.secret).map(|version| Version::clone(version));
            }
            objects.push(event);
        }
        objects.extend(
            rendered.skipped.iter().filter_map(|skipped| by_index.get(&skipped.object)).map(|object| of_object(object, Outcome::Absent)),
        );
        objects.sort_by_key(|object| object.object);
        self.event.objects = objects;
        self.event.outcome = Outcome::Delivered;
    }

    pub(super) fn into_event(mut self, error: Option<&MountError>, took: Duration) -> Event {
        self.event.milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        if let Some(error) = error {
            let denied = matches!(error, MountError::Policy(_));
            self.event.outcome = if denied { Outcome::Denied } else { Outcome::Failed };
            self.event.code = Some(error.code());
            self.event.error = Some(error.to_string());
            self.mark_failed(error);
        }
        self.event
    }

    fn mark_failed(&mut self, error: &MountError) {
        let failed: Vec<usize> = match error {
            MountError::Fetch(failures) => failures.iter().map(|failure| failure.label.index).collect(),
            MountError::Render(faults) => faults.iter().map(|fault| fault.object.index).collect(),
            MountError::Audit(_)
            | MountError::Class(_)
            | MountError::Delivery(_)
            | MountError::Identity(_)
            | MountError::Internal
            | MountError::Overloaded { .. }
            | MountError::Oversize(_)
            | MountError::Policy(_)
            | MountError::Request(_)
            | MountError::TimedOut { .. } => Vec::new(),
        };
        for object in &mut self.event.objects {
            // What was ready to be delivered, and then was not.
            if failed.contains(&object.object) || object.outcome == Outcome::Delivered {
                object.outcome = Outcome::Failed;
            }
        }
    }
}

/// The version that each secret was delivered with: the answer has them in the order of what they are named by.
fn versions<'a>(plan: &'a Plan, found: &'a Found, delivery: &'a Delivery) -> HashMap<&'a Arc<SecretRef>, &'a Version> {
    let answered = delivery.versions.iter().map(|entry| &entry.version);
    match plan.version_ids {
        VersionIds::Secrets => found.iter().map(|(permit, _)| permit.secret()).zip(answered).collect(),
        VersionIds::Paths => {
            let found: HashSet<_> = found.iter().map(|(permit, _)| permit.secret()).collect();
            plan.objects.iter().map(|object| &object.secret).filter(|secret| found.contains(secret)).zip(answered).collect()
        }
    }
}

fn of_object(object: &Object, outcome: Outcome) -> ObjectEvent {
    let (field, file) = match &object.select {
        Select::Field { query, path } => (query.as_str().parse().ok(), Some(path.clone())),
        Select::Fields { .. } => (None, None),
        Select::Response { path } | Select::Whole { path } => (None, Some(path.clone())),
    };
    ObjectEvent { object: object.index, secret: Arc::clone(&object.secret), field, file, version: None, outcome, rule: None, source: None }
}
