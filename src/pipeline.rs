//! A mount, from request to answer, as one walk:
//!
//! identify the Pod -> plan -> authorise -> fetch -> render -> deliver, and audit.
//!
//! Each step collects everything that is wrong before it fails; the first step that fails answers. Nothing is delivered in part.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant, timeout_at};

use crate::audit::{AuditSink, AuditUnavailable, Event};
use crate::backend::{Backends, Fault};
use crate::clock::Clock;
use crate::delivery::{DeliveredFile, Deliverer, Delivery, DeliveryMode, Reservation, VersionKey};
use crate::dialect::{self, ClassLimits};
use crate::identity::Attest;
use crate::memo::Memo;
use crate::model::{Fetched, MountCall, Object, Plan, PodIdentity, PodTokens, Request, RequestId, Secret, SecretRef, VersionIds};
use crate::policy::{Permit, Policy};
use crate::render::{self, RenderLimits, Rendered};
use crate::steps::{self, Steps};
use crate::telemetry::Metrics;

mod error;
mod record;

pub use error::{FetchFailure, MountError};

use record::Record;

/// Parsed classes that are remembered.
const PLANS: usize = 1024;

/// How long after a mount's deadline a call that is stuck is answered in its place; less where the caller gives it less.
const GRACE: Duration = Duration::from_secs(2);

/// The provider whose classes are in our own format; the others' names choose a dialect.
const OWN_PROVIDER: &str = "keyferry";

/// Every stage, built for one configuration. A reload builds another; a mount under way ends in the one it began in.
#[derive(Debug)]
pub struct Pipeline {
    pub identity: Arc<dyn Attest>,
    pub policy: Policy,
    pub backends: Backends,
    pub version_key: VersionKey,
    pub limits: MountLimits,
    pub deliverer: Deliverer,
    pub audit: Arc<dyn AuditSink>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    /// Mounts worked on at once; shared by all pipelines of the process.
    pub places: Arc<Semaphore>,
    pub plans: Plans,
}

/// What bounds one mount, from `limits`.
#[derive(Clone, Copy, Debug)]
pub struct MountLimits {
    pub objects: usize,
    pub class_bytes: usize,
    pub files: usize,
    pub secret_bytes: usize,
    pub mount_bytes: usize,
}

/// Classes parsed before, by their parameters. They belong to one pipeline: the backends' names are resolved in them.
#[derive(Debug)]
pub struct Plans(Memo<Arc<BTreeMap<String, String>>, Arc<Plan>>);

/// One call: its name in logs, the socket it came by, and its time.
#[derive(Clone, Debug)]
pub struct MountContext {
    pub request: RequestId,
    /// The provider name of the socket.
    pub provider: Arc<str>,
    pub arrived: Instant,
    /// A mount that has no place by then is refused.
    pub queue_until: Instant,
    /// The mount is done by then.
    pub deadline: Instant,
    /// A call that is stuck all the same (its request has not wholly arrived, its audit line cannot be written) is answered by then.
    pub last: Instant,
}

/// A mount that has only to be handed over, with what it holds until then.
struct Ready<'p> {
    delivery: Delivery,
    volume: Reservation,
    _place: SemaphorePermit<'p>,
}

/// Secrets that were found, in plan order, with how they came.
type Found = Vec<(Permit, Fetched)>;

// === impl Pipeline ===

impl Pipeline {
    /// Answers a mount: by its deadline, and with an error rather than a panic.
    ///
    /// # Errors
    /// The first step that failed, with everything that step found wrong.
    pub async fn mount(&self, call: MountCall, cx: &MountContext) -> Result<Delivery, MountError> {
        let _in_flight = self.metrics.in_flight();
        let mut record = Record::new(cx, self.clock.now());
        let ready = in_time(self.queue_and_walk(call, cx, &mut record), cx).await;
        let answer = self.hand_over(ready, record, cx).await;
        self.count(&answer, cx.arrived.elapsed());
        answer
    }

    async fn queue_and_walk(&self, call: MountCall, cx: &MountContext, record: &mut Record) -> Result<Ready<'_>, MountError> {
        let overloaded = || MountError::Overloaded { waited: cx.arrived.elapsed() };
        // The semaphore is never closed: an error would mean the same as no place.
        let place = timeout_at(cx.queue_until, self.places.acquire()).await.map_err(|_| overloaded())?.map_err(|_| overloaded())?;
        let (delivery, volume) = self.walk(call, cx, record).await?;
        Ok(Ready { delivery, volume, _place: place })
    }

    async fn walk(&self, call: MountCall, cx: &MountContext, record: &mut Record) -> Result<(Delivery, Reservation), MountError> {
        let request = Request::parse(call, self.limits.class_bytes).map_err(MountError::Request)?;
        record.requested(&request);
        let steps = Steps::new(steps::OF_A_MOUNT, cx.deadline);
        let plan = self.plan(&request, &cx.provider, &steps)?;
        record.planned(&plan);
        let attested = self.identity.attest(&request.claims, &request.tokens).await.map_err(MountError::Identity)?;
        record.identified(attested.pod.verified);
        let pod = Arc::new(attested.pod);
        let permits = self.authorise(&pod, &plan, record)?;
        let volume = self.deliverer.reserve(&pod, &request.target_path).await.map_err(MountError::Delivery)?;
        let found = self.fetch(&plan, permits, Arc::new(attested.tokens), cx.deadline).await?;
        let (rendered, delivery) = self.render(&plan, &found, &request, &steps)?;
        record.delivered(&plan, &found, &rendered, &delivery);
        Ok((delivery, volume))
    }

    /// The class, parsed; the same parameters are parsed once. A peer's socket speaks the peer's dialect.
    fn plan(&self, request: &Request, provider: &str, steps: &Steps) -> Result<Arc<Plan>, MountError> {
        let mut parameters = Cow::Borrowed(&request.parameters);
        if provider != OWN_PROVIDER && !parameters.contains_key("dialect") {
            parameters.to_mut().insert("dialect".to_owned(), provider.to_owned());
        }
        if let Some(plan) = self.plans.0.find(&*parameters) {
            return Ok(plan);
        }
        let MountLimits { objects, class_bytes, files, .. } = self.limits;
        let limits = ClassLimits { objects, files, bytes: class_bytes, owners: self.deliverer.mode() == DeliveryMode::Provider };
        let plan = Arc::new(dialect::parse(&parameters, &self.backends, limits, steps).map_err(MountError::Class)?);
        let (namespace, class) = (&request.claims.namespace, request.class.as_deref().unwrap_or_default());
        for warning in &plan.warnings {
            tracing::warn!(namespace, class, %warning, "a class says what is not heeded");
        }
        self.plans.0.insert(Arc::new(parameters.into_owned()), Arc::clone(&plan));
        Ok(plan)
    }

    /// A permit for every distinct secret of the plan, in plan order; or every denial.
    fn authorise(&self, pod: &Arc<PodIdentity>, plan: &Plan, record: &mut Record) -> Result<Vec<Permit>, MountError> {
        let rules = self.policy.of(pod);
        let mut asked = HashSet::with_capacity(plan.objects.len());
        let (mut permits, mut denials) = (Vec::with_capacity(plan.objects.len()), Vec::new());
        for object in &plan.objects {
            if !asked.insert(&object.secret) && denials.is_empty() {
                continue;
            }
            match rules.decide(&object.secret) {
                Ok(permit) => permits.push(permit),
                Err(denial) => denials.push((object.label(), denial.in_words_of(&plan.parameters))),
            }
        }
        if denials.is_empty() {
            return Ok(permits);
        }
        record.denied(&denials);
        Err(MountError::Policy(denials))
    }

    /// Every secret at once, each distinct one once. What is absent and optional everywhere it is asked for is left out.
    async fn fetch(&self, plan: &Plan, permits: Vec<Permit>, tokens: Arc<PodTokens>, deadline: Instant) -> Result<Found, MountError> {
        let fetches = permits.iter().map(|permit| self.backends.fetch(permit, Arc::clone(&tokens), plan.fresh, deadline));
        let answers = join_all(fetches).await;
        let (mut found, mut failures) = (Vec::with_capacity(permits.len()), HashMap::new());
        for (permit, answer) in permits.into_iter().zip(answers) {
            match answer {
                Ok(answer) => found.push((permit, answer)),
                Err(error) => drop(failures.insert(Arc::clone(permit.secret()), error)),
            }
        }
        if failures.is_empty() {
            return Ok(found);
        }
        let fatal = plan.objects.iter().filter_map(|object| {
            let error = failures.get(&object.secret)?;
            let excused = object.optional && error.fault == Fault::NotFound;
            (!excused).then(|| FetchFailure { label: object.label(), error: error.clone() })
        });
        let fatal: Vec<_> = fatal.collect();
        if fatal.is_empty() { Ok(found) } else { Err(MountError::Fetch(fatal)) }
    }

    fn render(&self, plan: &Plan, found: &Found, request: &Request, steps: &Steps) -> Result<(Rendered, Delivery), MountError> {
        let found: Vec<_> = found.iter().map(|(permit, fetched)| (Arc::clone(permit.secret()), Arc::clone(&fetched.secret))).collect();
        let secrets = found.iter().cloned().collect();
        let MountLimits { files, secret_bytes, mount_bytes, .. } = self.limits;
        let limits = RenderLimits { files, secret_bytes, mount_bytes };
        let rendered = render::render(plan, &secrets, request.permission, limits, steps).map_err(MountError::Render)?;
        let files = rendered.files.iter().map(|file| DeliveredFile {
            path: file.path.clone(),
            mode: file.mode,
            owner: file.owner,
            contents: Arc::clone(&file.contents),
        });
        let delivery = Delivery::new(files.collect(), &versioned(plan, &found), &self.version_key, mount_bytes);
        Ok((rendered, delivery.map_err(MountError::Oversize)?))
    }

    /// The audit line comes before anybody can see a file: with `failClosed`, nothing is delivered without a line. Where the delivery
    /// then fails, a second line says so.
    async fn hand_over(&self, ready: Result<Ready<'_>, MountError>, record: Record, cx: &MountContext) -> Result<Delivery, MountError> {
        let second = ready.as_ref().is_ok_and(|ready| ready.volume.writes()).then(|| record.clone());
        let event = record.into_event(ready.as_ref().err(), cx.arrived.elapsed());
        self.audit_in_time(event, cx).await.map_err(MountError::Audit)?;
        let Ready { delivery, volume, _place } = ready?;
        let delivered = in_time(volume.deliver(delivery, cx.deadline).map_err(MountError::Delivery), cx).await;
        if let (Err(error), Some(record)) = (&delivered, second) {
            // Nothing was delivered: what matters is why, even if this line is lost. The sink counts that.
            let _ = self.audit_in_time(record.into_event(Some(error), cx.arrived.elapsed()), cx).await;
        }
        delivered
    }

    /// An audit that hangs (a full pipe, say) costs a mount its answer, not the caller's patience.
    async fn audit_in_time(&self, event: Event, cx: &MountContext) -> Result<(), AuditUnavailable> {
        let until = cx.deadline + (cx.last - cx.deadline) / 2;
        timeout_at(until, self.audit.record(event)).await.unwrap_or_else(|_| Err(AuditUnavailable::late()))
    }

    fn count(&self, answer: &Result<Delivery, MountError>, took: Duration) {
        let code = answer.as_ref().err().map(|error| error.code().as_str());
        #[allow(clippy::cast_precision_loss)] // a metric's timestamp
        self.metrics.mount(code, took, self.clock.now().as_millisecond() as f64 / 1000.0);
        if let Ok(delivery) = answer {
            self.metrics.delivered(delivery.files.len(), delivery.files.iter().map(|file| file.contents.len()).sum());
        }
    }
}

/// What was found, each with the id of its version: `<backend>/<name>` of each secret, or in a peer's class each object's path.
fn versioned(plan: &Plan, found: &[(Arc<SecretRef>, Arc<Secret>)]) -> Vec<(String, Arc<Secret>)> {
    match plan.version_ids {
        VersionIds::Secrets => found.iter().map(|(reference, secret)| (reference.to_string(), Arc::clone(secret))).collect(),
        VersionIds::Paths => {
            let of_secret: HashMap<_, _> = found.iter().map(|(reference, secret)| (reference, secret)).collect();
            let of_object = |object: &Object| Some((object.label().path, Arc::clone(of_secret.get(&object.secret)?)));
            plan.objects.iter().filter_map(of_object).collect()
        }
    }
}

/// By the deadline, and with an error rather than a panic.
async fn in_time<T>(step: impl Future<Output = Result<T, MountError>>, cx: &MountContext) -> Result<T, MountError> {
    match timeout_at(cx.deadline, AssertUnwindSafe(step).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(MountError::Internal),
        Err(_) => Err(MountError::TimedOut { after: cx.arrived.elapsed() }),
    }
}

impl Default for Plans {
    fn default() -> Self {
        Self(Memo::with_capacity(PLANS))
    }
}

impl MountContext {
    /// Times a call by what its caller gives it: an answer 5 s before the caller's deadline, a refusal for want of a place 10 s before;
    /// each at half the time where that is more. `longest` bounds the answer, and the refusal still comes a little before that.
    pub fn new(request: RequestId, provider: Arc<str>, arrived: Instant, caller: Option<Duration>, longest: Duration) -> Self {
        let before = |margin: Duration| caller.map_or(longest, |given| given.saturating_sub(margin).max(given / 2).min(longest));
        let deadline = before(Duration::from_secs(5));
        let queue = before(Duration::from_secs(10)).min(deadline.saturating_sub(Duration::from_secs(5).min(deadline / 10)));
        let grace = caller.map_or(GRACE, |given| GRACE.min(given.saturating_sub(deadline) / 2));
        Self { request, provider, arrived, queue_until: arrived + queue, deadline: arrived + deadline, last: arrived + deadline + grace }
    }
}
