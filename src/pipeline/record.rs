//! What the audit line will say, gathered along the walk: an early failure leaves the rest as it was.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Duration;

use super::ended::Stale;
use super::live::Whose;
use super::watch::Subject;
use super::{MountContext, MountError};
use crate::audit::{Age, Event, Files, ObjectEvent, OtherEvent, Outcome};
use crate::model::{Fetched, Label, Object, Plan, Request, Select, Source, Tenant, Version};
use crate::policy::{Denial, Permits};
use crate::render::Rendered;

#[derive(Clone, Debug)]
pub(super) struct Record {
    event: Event,
    tenant: Option<Tenant>,
    /// What was given because a store is out.
    stale: Option<Stale>,
    /// The plan, until its objects are told one by one.
    withheld: Option<Arc<Plan>>,
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
        Self { event, tenant: None, stale: None, withheld: None }
    }

    /// Of a volume that no mount has asked for.
    pub(super) fn of_change(cx: &MountContext, now: Timestamp, subject: &Subject) -> Self {
        let Subject { pod, claims, class, target, plan, .. } = subject;
        let mut record = Self::new(cx, now);
        record.tenant = Some(Tenant::from(Arc::clone(&pod.namespace)));
        record.event.event = "change";
        record.event.pod = Some(Arc::clone(claims));
        record.event.class.clone_from(class);
        record.event.target = Some(Arc::clone(target));
        record.planned(plan);
        record.identified(pod.verified);
        record
    }

    pub(super) fn requested(&mut self, request: &Request<'_>, tenant: &Tenant) {
        self.tenant = Some(tenant.clone());
        self.event.pod = Some(Arc::clone(&request.claims));
        self.event.class.clone_from(&request.class);
        self.event.target = Some(Arc::clone(&request.target_path));
    }

    /// Whose mount it is, as far as it is known; otherwise nobody's.
    pub(super) fn tenant(&self) -> Tenant {
        self.tenant.clone().unwrap_or_else(|| Tenant::from(""))
    }

    /// Which volume it is for; `None`: the call could not be read.
    pub(super) fn whose(&self) -> Option<Whose> {
        let Event { pod, class, target, .. } = &self.event;
        Some(Whose { pod: pod.clone()?, class: class.clone(), target: target.clone()? })
    }

    /// What was given because a store is out.
    pub(super) fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// Whether a token has proven whose mount it is.
    pub(super) fn is_proven(&self) -> bool {
        self.event.verified
    }

    /// From here on a failure names every object; until one is delivered, all are withheld.
    pub(super) fn planned(&mut self, plan: &Arc<Plan>) {
        self.withheld = Some(Arc::clone(plan));
    }

    pub(super) fn identified(&mut self, verified: bool) {
        self.event.verified = verified;
    }

    pub(super) fn denied(&mut self, denials: &[(Label, Denial)]) {
        self.tell_withheld();
        for (label, denial) in denials {
            for object in self.event.objects.iter_mut().filter(|object| object.object == label.index) {
                object.outcome = Outcome::Denied;
                match object.others.iter_mut().find(|other| other.secret == denial.secret) {
                    Some(other) => other.rule = denial.rule(),
                    None => object.rule = denial.rule(),
                }
            }
        }
    }

    /// `permits`, `found` and `versions` stand beside the plan's secrets.
    pub(super) fn delivered(
        &mut self,
        plan: &Plan,
        permits: &Permits,
        found: &[Option<Fetched>],
        versions: &[Option<Version>],
        rendered: &Rendered,
    ) {
        // Both are in the plan's order: what an object has is in a row.
        let mut objects: Vec<ObjectEvent> = Vec::with_capacity(plan.objects.len());
        for file in &rendered.files {
            let Some(object) = plan.object(file.object) else { continue };
            if objects.last().is_none_or(|last| last.object != object.index) {
                let fetched = found[object.secret].as_ref();
                let source = fetched.map(|fetched| &fetched.source);
                let stale = source.and_then(Source::stale);
                for (age, bound) in object.secrets().filter_map(|place| found[place].as_ref()?.source.stale()) {
                    self.stale = Some(Stale::with(self.stale, age, bound));
                }
                let mut event = ObjectEvent {
                    rule: Some(permits.rule(object.secret)),
                    source: source.map(Source::as_str),
                    by: fetched.map(|fetched| &fetched.by).filter(|by| **by != plan.secret(object).backend).cloned(),
                    age: Age::of(stale.map(|(age, _)| age)),
                    version: versions[object.secret].clone(),
                    ..of_object(plan, object, Outcome::Delivered)
                };
                for (other, place) in event.others.iter_mut().zip(object.secrets().skip(1)) {
                    other.found(permits.rule(place), found[place].as_ref(), versions[place].as_ref());
                }
                objects.push(event);
            }
            if let Some(event) = objects.last_mut() {
                event.add_file(&file.path, file.field.as_ref());
            }
        }
        let made = objects.len();
        for skipped in &rendered.skipped {
            let Some(object) = plan.object(skipped.object) else { continue };
            if objects[made..].last().is_none_or(|last| last.object != object.index) {
                objects.push(of_object(plan, object, Outcome::Absent));
            }
            if let Some(event) = objects.last_mut() {
                event.add_absent(skipped.field.as_deref());
            }
        }
        objects.sort_by_key(|object| object.object);
        self.event.objects = objects;
        self.withheld = None;
        self.event.outcome = Outcome::Delivered;
    }

    pub(super) fn into_event(mut self, error: Option<&MountError>, took: Duration) -> Event {
        self.tell_withheld();
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

    fn tell_withheld(&mut self) {
        if let Some(plan) = self.withheld.take() {
            self.event.objects = plan.objects.iter().map(|object| of_object(&plan, object, Outcome::Withheld)).collect();
        }
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
        Select::Field { query, path } => (Some(query.name().clone()), Some(path.clone())),
        Select::Key { key, path } => (Some(key.clone()), Some(path.clone())),
        Select::Fields { .. } => (None, None),
        Select::Formatted { path, .. } | Select::Response { path } | Select::Whole { path } => (None, Some(path.clone())),
    };
    let (secret, files) = (plan.secret(object).clone(), Files::default());
    let others = plan.secrets_of(object).skip(1).map(OtherEvent::of).collect();
    ObjectEvent {
        object: object.index,
        secret,
        others,
        field,
        file,
        files,
        version: None,
        outcome,
        rule: None,
        source: None,
        by: None,
        age: Age::default(),
    }
}
