//! A mount, from request to answer, as one walk:
//!
//! identify the Pod -> plan -> authorise -> fetch -> render -> deliver, and audit.
//!
//! Each step collects everything that is wrong before it fails; the first step that fails answers. Nothing is delivered in part.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant, timeout_at};

use crate::audit::{AuditSink, AuditUnavailable, Event};
use crate::backend::{Backends, Fault, Terms};
use crate::clock::Clock;
use crate::delivery::{DeliveredFile, Deliverer, Delivery, DeliveryMode, Reservation, VersionKey};
use crate::dialect::{self, ClassLimits};
use crate::identity::Attest;
use crate::memo::Memo;
use crate::model::{Fetched, FileMode, MountCall, Plan, PodIdentity, Request, RequestId, Version};
use crate::policy::{Permit, Policy};
use crate::render::{self, RenderLimits, Rendered};
use crate::telemetry::Metrics;

mod error;
mod record;

pub use error::{FetchFailure, MountError};

use record::Record;

/// The largest attributes in bytes. A SecretProviderClass is at most about 1.5 MiB (etcd's limit on a request); half of that
/// is more than any class that fits `limits.objects`.
const MAX_ATTRIBUTES: usize = 768 * 1024;

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
        let request = Request::parse(call, MAX_ATTRIBUTES).map_err(MountError::Request)?;
        record.requested(&request);
        let plan = self.plan(&request, &cx.provider)?;
        record.planned(&plan);
        let attested = self.identity.attest(&request.claims, &request.tokens).await.map_err(MountError::Identity)?;
        record.identified(attested.pod.verified);
        let pod = Arc::new(attested.pod);
        let permits = self.authorise(&pod, &plan, record)?;
        let volume = self.deliverer.reserve(&pod, &request.target_path).await.map_err(MountError::Delivery)?;
        let terms = Terms { tokens: Arc::new(attested.tokens), fresh: plan.fresh, deadline: cx.deadline };
        let found = self.fetch(&plan, &permits, &terms).await?;
        let rendered = self.render(&plan, &found, request.permission)?;
        let (delivery, versions) = self.put_together(&plan, &found, &rendered)?;
        record.delivered(&plan, &permits, &found, &versions, &rendered);
        Ok((delivery, volume))
    }

    /// The class, parsed; the same parameters are parsed once. A peer's socket speaks the peer's dialect.
    fn plan(&self, request: &Request, provider: &str) -> Result<Arc<Plan>, MountError> {
        let mut parameters = Cow::Borrowed(&request.parameters);
        if provider != OWN_PROVIDER && !parameters.contains_key("dialect") {
            parameters.to_mut().insert("dialect".to_owned(), provider.to_owned());
        }
        if let Some(plan) = self.plans.0.find(&*parameters) {
            return Ok(plan);
        }
        let limits = ClassLimits { objects: self.limits.objects, owners: self.deliverer.mode() == DeliveryMode::Provider };
        let plan = Arc::new(dialect::parse(&parameters, self.backends.catalogue(), limits).map_err(MountError::Class)?);
        let (namespace, class) = (&request.claims.namespace, request.class.as_deref().unwrap_or_default());
        for warning in &plan.warnings {
            tracing::warn!(namespace, class, %warning, "a class says what is not heeded");
        }
        self.plans.0.insert(Arc::new(parameters.into_owned()), Arc::clone(&plan));
        Ok(plan)
    }

    /// A permit for each of the plan's secrets; or every denial.
    fn authorise(&self, pod: &Arc<PodIdentity>, plan: &Plan, record: &mut Record) -> Result<Vec<Permit>, MountError> {
        let rules = self.policy.of(pod);
        let (mut permits, mut denied) = (Vec::with_capacity(plan.secrets.len()), HashMap::new());
        for (place, secret) in plan.secrets.iter().enumerate() {
            match rules.decide(secret) {
                Ok(permit) => permits.push(permit),
                Err(denial) => drop(denied.insert(place, denial.in_words_of(&plan.parameters))),
            }
        }
        if denied.is_empty() {
            return Ok(permits);
        }
        let denials = plan.objects.iter().filter_map(|object| Some((object.label(), denied.get(&object.secret)?.clone())));
        let denials: Vec<_> = denials.collect();
        record.denied(&denials);
        Err(MountError::Policy(denials))
    }

    /// Every secret, in plan order: what is at hand on the spot, the others all at once. `None`: absent, and optional wherever it is
    /// asked for.
    async fn fetch(&self, plan: &Plan, permits: &[Permit], terms: &Terms) -> Result<Vec<Option<Fetched>>, MountError> {
        let mut found = self.backends.recall(permits, terms);
        let missing: Vec<usize> = (0..found.len()).filter(|place| found[*place].is_none()).collect();
        let answers = join_all(missing.iter().map(|place| self.backends.fetch(&permits[*place], terms))).await;
        let mut failures = HashMap::new();
        for (place, answer) in missing.into_iter().zip(answers) {
            match answer {
                Ok(answer) => found[place] = Some(answer),
                Err(error) => drop(failures.insert(place, error)),
            }
        }
        let fatal = plan.objects.iter().filter_map(|object| {
            let error = failures.get(&object.secret)?;
            let excused = object.optional && error.fault == Fault::NotFound;
            (!excused).then(|| FetchFailure { label: object.label(), error: error.clone() })
        });
        let fatal: Vec<_> = fatal.collect();
        if fatal.is_empty() { Ok(found) } else { Err(MountError::Fetch(fatal)) }
    }

    fn render(&self, plan: &Plan, found: &[Option<Fetched>], permission: FileMode) -> Result<Rendered, MountError> {
        let secrets: Vec<_> = found.iter().map(|fetched| fetched.as_ref().map(|fetched| &*fetched.secret)).collect();
        let MountLimits { secret_bytes, mount_bytes, objects: _ } = self.limits;
        render::render(plan, &secrets, permission, RenderLimits { secret_bytes, mount_bytes }).map_err(MountError::Render)
    }

    /// The answer; and beside the plan's secrets, the version that each was delivered with.
    fn put_together(
        &self,
        plan: &Plan,
        found: &[Option<Fetched>],
        rendered: &Rendered,
    ) -> Result<(Delivery, Vec<Option<Version>>), MountError> {
        let files = rendered.files.iter().map(|file| DeliveredFile {
            path: file.path.clone(),
            mode: file.mode,
            owner: file.owner,
            contents: Arc::clone(&file.contents),
        });
        let versioned = plan.versioned().into_iter();
        let versioned = versioned.filter_map(|(id, place)| Some((place, (id, Arc::clone(&found[place].as_ref()?.secret)))));
        let (places, secrets): (Vec<usize>, Vec<_>) = versioned.unzip();
        let delivery =
            Delivery::new(files.collect(), &secrets, &self.version_key, self.limits.mount_bytes).map_err(MountError::Oversize)?;
        let mut versions = vec![None; found.len()];
        for (place, told) in places.into_iter().zip(&delivery.versions) {
            versions[place] = Some(told.version.clone());
        }
        Ok((delivery, versions))
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
