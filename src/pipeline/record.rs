//! The content of the audit line, gathered step by step: after an early failure the rest stays as it was.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Duration;

use super::ended::Stale;
use super::live::Whose;
use super::watch::Subject;
use super::{MountContext, MountError};
use crate::audit::{Age, Event, Files, Gist, ObjectEvent, OtherEvent, Outcome};
use crate::model::{BackendName, Delivers, Fetched, Label, Object, Plan, Request, SecretRef, Select, Source, Tenant, Version};
use crate::policy::{Denial, Permits};
use crate::render::Rendered;

#[derive(Debug)]
pub(super) struct Record {
    event: Event,
    tenant: Option<Tenant>,
    /// The answers that were given because a store is out.
    stale: Option<Stale>,
    /// What the line says about the class, however the mount ends; `None`: there is no mount.
    class: Option<Gist>,
    told: Told,
}

/// The facts about the objects. They are written one by one only for a line that is written: a repeated mount is counted.
#[derive(Debug)]
enum Told {
    /// The class is not known.
    Nothing,
    Objects(Vec<ObjectEvent>),
    Withheld(Arc<Plan>),
    Delivered(Box<Facts>),
}

/// What a mount delivers. `secrets` and `versions` are in the order of the plan's secrets.
#[derive(Debug)]
pub(super) struct Facts {
    pub permits: Permits,
    pub secrets: Vec<Option<Fetched>>,
    pub versions: Vec<Option<Version>>,
    pub rendered: Rendered,
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
            gist: None,
            more: 0,
        };
        Self { event, tenant: None, stale: None, class: None, told: Told::Nothing }
    }

    /// For a volume that no mount has asked for.
    pub(super) fn of_change(cx: &MountContext, now: Timestamp, subject: &Subject) -> Self {
        let Subject { pod, claims, class, target, plan, .. } = subject;
        let mut record = Self::new(cx, now);
        record.tenant = Some(Tenant::from(Arc::clone(&pod.namespace)));
        record.event.event = "change";
        record.event.pod = Some(Arc::clone(claims));
        record.event.class.clone_from(class);
        record.event.target = Some(Arc::clone(target));
        record.told = Told::Withheld(Arc::clone(plan));
        record.identified(pod.verified);
        record
    }

    pub(super) fn requested(&mut self, request: &Request<'_>, tenant: &Tenant) {
        self.tenant = Some(tenant.clone());
        self.event.pod = Some(Arc::clone(&request.claims));
        self.event.class.clone_from(&request.class);
        self.event.target = Some(Arc::clone(&request.target_path));
    }

    /// The mount's tenant, as far as it is known; otherwise no tenant.
    pub(super) fn tenant(&self) -> Tenant {
        self.tenant.clone().unwrap_or_else(|| Tenant::from(""))
    }

    /// The volume of the mount; `None`: the call could not be read.
    pub(super) fn whose(&self) -> Option<Whose> {
        let Event { pod, class, target, .. } = &self.event;
        Some(Whose { pod: pod.clone()?, class: class.clone(), target: target.clone()? })
    }

    /// The answers that were given because a store is out.
    pub(super) fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// Whether a token has proven the mount's Pod.
    pub(super) fn is_proven(&self) -> bool {
        self.event.verified
    }

    /// From here on a failure names every object; until one is delivered, all are withheld.
    pub(super) fn planned(&mut self, plan: &Arc<Plan>, class: Gist) {
        self.class = Some(class);
        self.told = Told::Withheld(Arc::clone(plan));
    }

    /// The class's plan for this mount.
    pub(super) fn expanded(&mut self, plan: &Arc<Plan>) {
        self.told = Told::Withheld(Arc::clone(plan));
    }

    pub(super) fn identified(&mut self, verified: bool) {
        self.event.verified = verified;
    }

    pub(super) fn denied(&mut self, denials: &[(Label, Denial)]) {
        let mut objects = self.told.objects();
        let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, object) in objects.iter().enumerate() {
            places.entry(object.object).or_default().push(place);
        }
        for (label, denial) in denials {
            for place in places.get(&label.index).into_iter().flatten() {
                let object = &mut objects[*place];
                object.outcome = Outcome::Denied;
                match object.others.iter_mut().find(|other| other.secret == denial.secret) {
                    Some(other) => other.rule = denial.rule(),
                    None => object.rule = denial.rule(),
                }
            }
        }
        self.told = Told::Objects(objects);
    }

    pub(super) fn delivered(&mut self, facts: Facts) {
        for (age, bound) in facts.secrets.iter().flatten().filter_map(|fetched| fetched.source.stale()) {
            self.stale = Some(Stale::with(self.stale, age, bound));
        }
        self.event.gist = self.class.map(|class| Gist::of((class, &facts)));
        self.event.outcome = Outcome::Delivered;
        self.told = Told::Delivered(Box::new(facts));
    }

    pub(super) fn took(&mut self, time: Duration) {
        self.event.milliseconds = (time.as_secs_f64() * 1e6).round() / 1e3;
    }

    /// What is needed to see whether this mount says the same as the volume's last one: without the objects.
    pub(super) fn in_brief(&self) -> &Event {
        &self.event
    }

    /// Everything, for a mount that ended like this.
    pub(super) fn event(&self, error: Option<&MountError>) -> Event {
        let mut event = Event { objects: self.told.objects(), ..self.event.clone() };
        if let Some(error) = error {
            let denied = matches!(error, MountError::Policy(_));
            event.outcome = if denied { Outcome::Denied } else { Outcome::Failed };
            event.code = Some(error.code());
            event.error = Some(error.to_string());
            event.gist = None;
            mark_failed(&mut event.objects, error);
        }
        event
    }
}

fn mark_failed(objects: &mut [ObjectEvent], error: &MountError) {
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
    for object in objects {
        // It was ready to be delivered, but then was not.
        if failed.contains(&object.object) || object.outcome == Outcome::Delivered {
            object.outcome = Outcome::Failed;
        }
    }
}

// === impl Told ===

impl Told {
    fn objects(&self) -> Vec<ObjectEvent> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Objects(objects) => objects.clone(),
            Self::Withheld(plan) => plan.objects.iter().map(|object| of_object(plan, object, Outcome::Withheld)).collect(),
            Self::Delivered(facts) => facts.objects(),
        }
    }
}

// === impl Facts ===

impl Facts {
    /// Files and plan have the same order: an object's files are in a row.
    fn objects(&self) -> Vec<ObjectEvent> {
        let Self { permits, rendered, .. } = self;
        let plan = permits.plan();
        let mut objects: Vec<ObjectEvent> = Vec::with_capacity(plan.objects.len());
        for file in &rendered.files {
            let Some(object) = plan.object(file.object) else { continue };
            if objects.last().is_none_or(|last| last.object != object.index) {
                objects.push(self.delivered(object));
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
        objects
    }

    /// The facts about an object, without its files. If another secret replaced it, it has no version; a secret that was not requested is
    /// not in the line.
    fn delivered(&self, object: &Object) -> ObjectEvent {
        let Self { permits, secrets, versions, .. } = self;
        let plan = permits.plan();
        let fetched = secrets[object.secret].as_ref();
        let source = fetched.map(|fetched| &fetched.source);
        let mut event = ObjectEvent {
            rule: Some(permits.rule(object.secret)),
            source: source.map(Source::as_str),
            by: fetched.and_then(|fetched| by_another(fetched, plan.secret(object))).cloned(),
            age: Age::of(source.and_then(Source::stale).map(|(age, _)| age)),
            version: versions[object.secret].clone(),
            others: Vec::new(),
            ..of_object(plan, object, Outcome::Delivered)
        };
        let asked = |place: &usize| *place < plan.needed() || secrets[*place].is_some();
        for place in others(plan, object).filter(asked) {
            let mut other = OtherEvent::of(&plan.secrets[place]);
            other.found(permits.rule(place), secrets[place].as_ref(), versions[place].as_ref());
            event.others.push(other);
        }
        event
    }
}

/// All of [`Facts::objects`] that does not follow from the class.
impl Hash for Facts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { permits, secrets, versions, rendered } = self;
        let plan = permits.plan();
        permits.rules().hash(state);
        if !plan.prefixes.is_empty() {
            // The class does not say what is below the prefixes.
            plan.secrets.hash(state);
        }
        for ((secret, fetched), version) in plan.secrets.iter().zip(secrets).zip(versions) {
            let by = fetched.as_ref().and_then(|fetched| by_another(fetched, secret));
            // A letter marks each value that follows, so two different secrets never give the same input.
            state.write_u8(match fetched.as_ref().map(|fetched| &fetched.source) {
                None => b'-',
                Some(Source::Fresh { .. }) => b'f',
                Some(Source::Stale { .. }) => b's',
                Some(Source::Store) => b'o',
            });
            for text in [version.as_ref().map(Version::as_str), by.map(BackendName::as_str)] {
                text.unwrap_or_default().hash(state);
            }
        }
        state.write_usize(rendered.files.len());
        for file in &rendered.files {
            // The files of all other objects are those that the class names.
            if let Some(object) = plan.object(file.object).filter(|object| object.path().is_none()) {
                (object.index, &file.path, &file.field).hash(state);
            }
        }
        for skipped in &rendered.skipped {
            (skipped.object, &skipped.field).hash(state);
        }
    }
}

/// The backend that answered, if it is another than the one that was asked.
fn by_another<'f>(fetched: &'f Fetched, secret: &SecretRef) -> Option<&'f BackendName> {
    Some(&fetched.by).filter(|by| **by != secret.backend)
}

fn of_object(plan: &Plan, object: &Object, outcome: Outcome) -> ObjectEvent {
    let field = match &object.select {
        Select::Field { query, .. } => Some(query.name()),
        Select::Key { key, .. } => Some(key),
        Select::Each { .. }
        | Select::Fields { .. }
        | Select::Formatted { .. }
        | Select::Keystore { .. }
        | Select::Response { .. }
        | Select::Searched { .. }
        | Select::Template { .. }
        | Select::Whole { .. } => None,
    };
    let file = match object.delivers() {
        Delivers::File(path) | Delivers::Searched(path, _) => Some(path),
        Delivers::Each(_) | Delivers::Fields(..) => None,
    };
    let (field, file) = (field.cloned(), file.cloned());
    let (secret, files) = (plan.secret(object).clone(), Files::default());
    let others = others(plan, object).map(|place| OtherEvent::of(&plan.secrets[place])).collect();
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

/// The places of all secrets of an object except the first, and of those that would be requested in their place.
fn others<'p>(plan: &'p Plan, object: &'p Object) -> impl Iterator<Item = usize> + 'p {
    object.secrets().skip(1).chain(object.secrets().filter_map(|place| plan.instead.get(&place).copied()))
}

#[cfg(test)]
mod tests;
