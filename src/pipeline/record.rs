//! What the audit line will say, gathered along the walk: an early failure leaves the rest as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Duration;

use super::{MountContext, MountError};
use crate::audit::{Event, Files, ObjectEvent, Outcome};
use crate::model::{Fetched, FieldName, Label, Object, Plan, PodClaims, Request, Select, Tenant, Version};
use crate::policy::{Denial, Permit};
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
            more: 0,
        };
        Self { event }
    }

    pub(super) fn requested(&mut self, request: &Request) {
        self.event.pod = Some(PodClaims::clone(&request.claims));
        self.event.class.clone_from(&request.class);
        self.event.target = Some(request.target_path.clone());
    }

    /// Whose mount it is, as far as it is known; otherwise nobody's.
    pub(super) fn tenant(&self) -> Tenant {
        Tenant::from(self.event.pod.as_ref().map_or("", |pod| pod.namespace.as_str()))
    }

    /// From here on a failure names every object; until one is delivered, all are withheld.
    pub(super) fn planned(&mut self, plan: &Plan) {
        self.event.objects = plan.objects.iter().map(|object| of_object(plan, object, Outcome::Withheld)).collect();
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

    /// `permits`, `found` and `versions` stand beside the plan's secrets.
    pub(super) fn delivered(
        &mut self,
        plan: &Plan,
        permits: &[Permit],
        found: &[Option<Fetched>],
        versions: &[Option<Version>],
        rendered: &Rendered,
    ) {
        let (mut made, mut absent) = (BTreeMap::new(), BTreeMap::new());
        for file in &rendered.files {
            let Some(object) = plan.object(file.object) else { continue };
            let event: &mut ObjectEvent = made.entry(file.object).or_insert_with(|| ObjectEvent {
                rule: Some(permits[object.secret].rule()),
                source: found[object.secret].as_ref().map(|fetched| fetched.source.as_str()),
                version: versions[object.secret].clone(),
                ..of_object(plan, object, Outcome::Delivered)
            });
            event.add_file(&file.path, file.field.as_ref());
        }
        for skipped in &rendered.skipped {
            let Some(object) = plan.object(skipped.object) else { continue };
            let event: &mut ObjectEvent = absent.entry(object.index).or_insert_with(|| of_object(plan, object, Outcome::Absent));
            event.add_absent(skipped.field.as_deref());
        }
        let mut objects: Vec<ObjectEvent> = made.into_values().chain(absent.into_values()).collect();
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
            | MountError::NoRoom
            | MountError::Overloaded { .. }
            | MountError::Oversize(_)
            | MountError::Policy(_)
            | MountError::Request(_)
            | MountError::TimedOut { .. }
            | MountError::TooMuch { .. } => Vec::new(),
        };
        for object in &mut self.event.objects {
            // What was ready to be delivered, and then was not.
            if failed.contains(&object.object) || object.outcome == Outcome::Delivered {
                object.outcome = Outcome::Failed;
            }
        }
    }
}

fn of_object(plan: &Plan, object: &Object, outcome: Outcome) -> ObjectEvent {
    let (field, file) = match &object.select {
        Select::Field { query, path } => (Some(FieldName::new(query.as_str())), Some(path.clone())),
        Select::Key { key, path } => (Some(key.clone()), Some(path.clone())),
        Select::Fields { .. } => (None, None),
        Select::Response { path } | Select::Whole { path } => (None, Some(path.clone())),
    };
    let (secret, files) = (plan.secret(object).clone(), Files::default());
    ObjectEvent { object: object.index, secret, field, file, files, version: None, outcome, rule: None, source: None }
}
