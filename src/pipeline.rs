//! A mount, from request to answer, in one sequence of steps:
//!
//! plan -> identify the Pod -> authorise -> fetch -> render -> deliver, and audit.
//!
//! Each step collects everything that is wrong before it fails; the first step that fails gives the answer. Nothing is delivered in part.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use jiff::Timestamp;
use tokio::time::{Duration, Instant, timeout_at};

use crate::audit::{AuditSink, AuditUnavailable, Event, Gist};
use crate::backend::{BackendError, Backends, Fault, Terms};
use crate::budget::{Budget, Payer, Purse, Spent, Unpaid, Unread};
use crate::clock::Clock;
use crate::delivery::{DeliveredFile, Deliverer, Delivery, DeliveryMode, Handed, Reservation, VersionKey, Volumes};
use crate::dialect::{self, ClassLimits};
use crate::events::{Board, Teller};
use crate::files::Located;
use crate::gathered::Prehashed;
use crate::identity::{Attest, Attested};
use crate::memo::Memo;
use crate::model::{
    FaultList, Fetched, FileMode, MountCall, Object, Parameters, Plan, PodClaims, PodIdentity, RawTokens, Request, RequestId, SecretRef,
    Tenant, Verb, Version,
};
use crate::policy::{Granted, Permits, Policy};
use crate::render::{self, RenderFault, RenderLimits, Rendered};
use crate::shelf::Kept;
use crate::steps::{self, Steps};
use crate::telemetry::{Metrics, VolumeCounts};
use crate::turns::Turns;
use crate::work::{Unfinished, Workroom};

mod below;
mod change;
mod ended;
mod error;
mod live;
mod notices;
mod record;
mod told;
mod troubles;
mod watch;

pub use error::{FetchFailure, MountError};
pub use live::{Counts, Live, Volume};
pub use watch::{Due, Look, Watch};

use below::Expanded;
use ended::Ended;
use live::Whose;
use record::{Facts, Record};
use told::Told;
use watch::{Delivered, Former, Subject};

/// What a parsed class costs in bytes besides its parameters: this, and this many times the bytes of its text.
const PLAN: usize = 1024;
const PARSED: usize = 5;

/// Work on up to this many bytes is done at once: some 200,000 steps.
const INLINE: usize = 64 * 1024;

/// A byte of a class with templates needs this many times the work of another byte: templates are compiled.
const COMPILED: usize = 16;

/// How much more work a class is than a value of the same length. A class that the policy denies is not kept, and is read at each try.
const READ: usize = 4;

/// The most secrets of one mount that are fetched at once. Each fetch that waits needs memory, and no mount has more calls to a backend
/// than half of them.
const AT_ONCE: usize = 32;

/// The bytes that are kept free for the answer to a request that creates something.
const MADE: usize = 128 * 1024;

/// The bytes that a template may make in addition to its own text and its secrets, as long as its mount has no whole purse.
const TEMPLATE: usize = 12 * 1024;

/// What a file costs in bytes, without its content and path.
const FILE: usize = 160;

/// The most warnings about secrets that Keyferry remembers as reported.
const MAX_WARNED: usize = 1024;

/// How often the log reports who holds most, when mounts are refused.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// How long after a mount's deadline Keyferry answers a call that is stuck; less if the caller gives less time.
const GRACE: Duration = Duration::from_secs(2);

/// The provider whose classes are in Keyferry's own format; the other names choose a dialect.
const OWN_PROVIDER: &str = "keyferry";

/// All stages, built for one configuration. A reload builds another pipeline; a mount under way ends in the one in which it began.
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
    pub commons: Arc<Commons>,
    pub plans: Arc<Plans>,
    /// Sends Events; `None`: there are none.
    pub teller: Option<Teller>,
}

/// The limits for one mount, from `limits`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MountLimits {
    pub objects: usize,
    pub class_bytes: usize,
    pub files: usize,
    pub secret_bytes: usize,
    pub mount_bytes: usize,
}

/// Parsed classes, by their parameters. The tenant that mounted a class first pays for it. They belong to one pipeline: the backends' names
/// are resolved in them, and its policy has decided on them.
#[derive(Debug)]
pub struct Plans {
    /// By the hash of the parameters, with a key of these plans alone: the author of a class cannot find two with the same hash.
    parsed: Kept<u64, Parsed, Prehashed>,
    hasher: RandomState,
    /// The policy's decisions on them.
    granted: Kept<Decided, Arc<Granted>>,
}

/// A plan, and what it was parsed from.
#[derive(Clone, Debug)]
struct Parsed {
    from: Arc<Parameters<'static>>,
    plan: Arc<Plan>,
    /// Everything that an audit line says about the class.
    gist: Gist,
    /// In bytes.
    weight: usize,
}

/// A plan's address (no other plan has it while this decision is kept), with the namespace and name of a ServiceAccount.
type Decided = (usize, Arc<str>, Arc<str>);

/// The parts of a request that are not its class's objects.
struct Asked {
    claims: Arc<PodClaims>,
    class: Option<Arc<str>>,
    tokens: RawTokens,
    permission: FileMode,
    target_path: Arc<str>,
}

/// A class for this mount: already known, or parsed now and not kept yet.
struct Class {
    plan: Arc<Plan>,
    gist: Gist,
    /// In bytes.
    weight: usize,
    parsed_from: Option<Arc<Parameters<'static>>>,
}

/// The result of reading a class.
enum Read {
    Before(Parsed),
    Now(Plan),
}

/// One call: its name in logs, its socket, and its time.
#[derive(Clone, Debug)]
pub struct MountContext {
    pub request: RequestId,
    /// The provider name of the socket.
    pub provider: Arc<str>,
    pub arrived: Instant,
    /// A mount that has no place by then is refused.
    pub queue_until: Instant,
    /// The mount has ended by then.
    pub deadline: Instant,
    /// A call that is still stuck (its request has not fully arrived, its audit line cannot be written) is answered by then.
    pub last: Instant,
}

/// What all mounts of the process share, with any configuration: it is built once, so a reload does not change it.
#[derive(Debug)]
pub struct Commons {
    pub budget: Budget,
    /// The mounts under way at once.
    pub places: Turns,
    /// The threads for work that would block one of the runtime's threads for long.
    pub work: Workroom,
    /// The volumes that the daemon writes itself.
    pub volumes: Arc<Volumes>,
    /// The volumes that Pods have.
    pub live: Live,
    /// The volumes that are written again when a secret changes.
    pub watch: Arc<Watch>,
    /// The Events that are still to be sent to Pods.
    pub board: Board,
    said: Mutex<Option<Instant>>,
    told: Told,
    /// Warnings that are already in the log: each mount would repeat them.
    warned: Memo<String, ()>,
}

/// Bytes in use for one kind of memory, and the most that are allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pot {
    pub pot: &'static str,
    pub used: usize,
    pub limit: usize,
}

/// An answer, and what it has cost.
#[derive(Debug)]
pub struct Mounted {
    pub delivery: Delivery,
    pub paid: Paid,
}

/// What a mount holds until its answer is sent: its place, and the bytes of its answer.
#[derive(Debug)]
pub struct Paid {
    /// The secrets and their files: until the answer is encoded.
    contents: Vec<Spent>,
    /// The encoded answer: until the last byte is read or dropped.
    _answer: Option<Spent>,
    _purse: Arc<Purse>,
}

/// A mount that only has to be delivered, with what it holds until then.
struct Ready {
    mounted: Mounted,
    volume: Reservation,
    /// `None`: nothing of it is kept.
    delivered: Option<Box<Delivered>>,
}

/// A delivered mount that still has its volume's turn.
struct Done {
    mounted: Mounted,
    delivered: Option<Box<Delivered>>,
    turn: Handed,
}

/// The answers for the plan's secrets, in the plan's order, and what they have cost. `None`: absent, and optional wherever an object asks
/// for it.
#[derive(Default)]
struct Found {
    secrets: Vec<Option<Fetched>>,
    /// The weight of all of them together, in bytes.
    weight: usize,
    paid: Vec<Spent>,
    /// For the files made from them, in a mount that must not fetch twice.
    kept_back: Option<Spent>,
}

/// What a mount may use: bytes and work.
struct Means {
    purse: Arc<Purse>,
    steps: Arc<Steps>,
}

/// Why nothing was found.
enum Missed {
    Failed(MountError),
    /// There is not enough memory while other mounts hold theirs.
    Short,
}

// === impl Pipeline ===

impl Pipeline {
    /// Answers a mount: by its deadline, and with an error instead of a panic. `room` is the room for the call's bytes.
    ///
    /// # Errors
    /// The first step that failed, with everything that is wrong in that step.
    pub async fn mount(&self, call: MountCall, room: Option<Unread>, cx: &MountContext) -> Result<Mounted, MountError> {
        let _in_flight = self.metrics.in_flight();
        let mut record = Record::new(cx, self.clock.now());
        // Boxed: the mount has given its room back when the answer is sent.
        let ready = in_time(self.queue_and_walk(call, room, cx, &mut record), cx).boxed().await;
        let (tenant, whose, stale, proven) = (record.tenant(), record.whose(), record.stale(), record.is_proven());
        let handed = self.hand_over(ready, &mut record, cx).await;
        let answer = self.watch(handed, whose.as_ref());
        let now = self.clock.now();
        self.count(&answer, cx.arrived.elapsed(), now);
        if let Some(whose) = whose {
            let ended = Ended { code: answer.as_ref().err().map(MountError::code), stale, proven };
            let mut tell = |change| self.notice(&whose, change, answer.as_ref().err(), now);
            let untracked = self.commons.live.note(&whose, ended, (cx.arrived, now), &mut tell);
            self.metrics.volumes_untracked(untracked);
        }
        if let Err(error) = &answer {
            self.commons.told.tell(error, &tenant, cx);
        }
        answer
    }

    async fn queue_and_walk(
        &self,
        call: MountCall,
        room: Option<Unread>,
        cx: &MountContext,
        record: &mut Record,
    ) -> Result<Ready, MountError> {
        let request = Request::parse(&call, self.limits.class_bytes).map_err(MountError::Request)?;
        let tenant = Tenant::from(request.claims.namespace.as_str());
        record.requested(&request, &tenant);
        // Only now the tenant is known.
        let room = match room {
            Some(room) => Some(room.of(&tenant).ok_or_else(|| self.refuse("call", MountError::NoRoom))?),
            None => None,
        };
        let overloaded = || self.refuse("place", MountError::Overloaded { waited: cx.arrived.elapsed() });
        let place = self.commons.places.take(&tenant, cx.queue_until).await.ok_or_else(overloaded)?;
        let steps = Arc::new(Steps::new(steps::OF_A_MOUNT, cx.deadline));
        let means = Means { purse: Purse::new(&self.commons.budget, place), steps };
        let Request { claims, class, parameters, tokens, permission, target_path, .. } = request;
        let found = self.class(parameters, &means, cx).await?;
        // The call's text is kept no longer than its room.
        drop((call, room));
        let asked = Asked { claims, class, tokens, permission, target_path };
        self.walk(asked, found, &means, cx, record).await
    }

    async fn walk(&self, asked: Asked, found: Class, means: &Means, cx: &MountContext, record: &mut Record) -> Result<Ready, MountError> {
        let Asked { claims, class, tokens, permission, target_path } = asked;
        let purse = &means.purse;
        record.planned(&found.plan, found.gist);
        let Attested { pod, tokens, proof } = self.identity.attest(&claims, &tokens).await.map_err(MountError::Identity)?;
        record.identified(pod.verified);
        let permits = self.authorise(&pod, &found.plan, record)?;
        let plan_weight = found.weight;
        let plan = self.keep(found, purse.tenant(), class.as_deref());
        let volume = self.deliverer.reserve(purse.tenant(), &pod, &target_path, cx.deadline).await.map_err(MountError::Delivery)?;
        // From here on, this mount uses the class.
        let former = if volume.writes() { self.commons.watch.forget(&target_path) } else { Former::default() };
        let fetched = Instant::now();
        let terms = Terms {
            tokens: Arc::new(tokens),
            fresh: plan.fresh,
            max_stale: plan.max_stale,
            payer: Some(Payer::new(purse)),
            deadline: cx.deadline,
        };
        let (found, rendered, expanded) = self.fetch_and_render(&plan, &permits, &terms, permission, (means, cx), record).await?;
        self.commons.warn(purse.tenant(), class.as_deref().unwrap_or_default(), &rendered);
        let Found { secrets, paid, kept_back, .. } = found;
        let (permits, folders) = expanded.map_or((permits, Vec::new()), |expanded| (expanded.permits, expanded.folders));
        let (delivery, versions) = self.put_together(permits.plan(), &secrets, &rendered)?;
        let files = volume.writes().then(|| self.files_of(permits.plan(), &folders)).flatten();
        record.delivered(Facts { permits, secrets, versions, rendered });
        let paid = Paid { contents: paid, _answer: kept_back, _purse: Arc::clone(purse) };
        let delivered = files.map(|files| {
            let (target, provider, configured) = (target_path, Arc::clone(&cx.provider), self.backends.catalogue());
            let subject = Subject { pod, claims, class, target, provider, permission, plan, configured, limits: self.limits, proof };
            Box::new(Delivered { subject, files, former, plan_weight, fetched, asked: cx.arrived })
        });
        Ok(Ready { mounted: Mounted { delivery, paid }, volume, delivered })
    }

    /// A file for each of the plan's secrets and for each listed folder; `None`: one of them has none, or there are no secrets.
    fn files_of(&self, plan: &Plan, folders: &[SecretRef]) -> Option<Vec<Located>> {
        let files = plan.secrets.iter().chain(folders).map(|secret| self.backends.file(secret));
        files.collect::<Option<Vec<_>>>().filter(|files| !files.is_empty())
    }

    /// Keeps what a change of the volume needs, before another mount has the volume's turn. After a failed mount, nothing is kept.
    fn watch(&self, handed: Result<Done, MountError>, whose: Option<&Whose>) -> Result<Mounted, MountError> {
        match handed {
            Ok(Done { mounted, delivered, turn }) => {
                if let Some(delivered) = delivered {
                    self.commons.watch.keep(*delivered);
                }
                drop(turn);
                Ok(mounted)
            }
            Err(error) => {
                if let Some(whose) = whose {
                    drop(self.commons.watch.forget(&whose.target));
                }
                Err(error)
            }
        }
    }

    /// The mount pays for everything that it holds at the time when it gets it. If there is not enough, the mount gives all of it back,
    /// waits in its tenant's line for a whole purse, and starts again: with a whole purse there is always enough.
    async fn fetch_and_render(
        &self,
        plan: &Arc<Plan>,
        permits: &Permits,
        terms: &Terms,
        permission: FileMode,
        (means, cx): (&Means, &MountContext),
        record: &mut Record,
    ) -> Result<(Found, Rendered, Option<Box<Expanded>>), MountError> {
        let purse = &means.purse;
        let overloaded = || self.refuse("memory", MountError::Overloaded { waited: cx.arrived.elapsed() });
        loop {
            let fetched = if plan.prefixes.is_empty() {
                self.fetch(plan, permits, terms).await.map(|found| (found, None))
            } else {
                // Boxed: most classes have no prefix, and their mounts need no room for this.
                let fetched = self.fetch_below(plan, permits, terms, (means, cx), record).boxed().await;
                fetched.map(|(found, expanded)| (found, Some(expanded)))
            };
            let missed = match fetched {
                Ok((mut found, expanded)) => {
                    let plan = expanded.as_ref().map_or(plan, |expanded| &expanded.plan);
                    match self.render(plan, &found, permission, means, cx).await {
                        Ok(rendered) => match found.pay_for(&rendered, self.deliverer.mode(), purse) {
                            Ok(()) => return Ok((found, rendered, expanded)),
                            Err(missed) => missed,
                        },
                        Err(missed) => missed,
                    }
                }
                Err(missed) => missed,
            };
            match missed {
                Missed::Failed(error) => return Err(error),
                // This cannot happen with a whole: a whole is the most that a mount may hold.
                Missed::Short if purse.has_whole() => return Err(overloaded()),
                Missed::Short => {
                    // Tasks that fetch for this mount give back what they have.
                    timeout_at(cx.queue_until, purse.emptied()).await.map_err(|_| overloaded())?;
                    purse.whole(cx.queue_until).await.map_err(|_| overloaded())?;
                }
            }
        }
    }

    /// The class, parsed; the same parameters are parsed once. At the socket of another provider, classes are in its dialect.
    async fn class(&self, mut parameters: Parameters<'_>, means: &Means, cx: &MountContext) -> Result<Class, MountError> {
        if *cx.provider != *OWN_PROVIDER && parameters.get("dialect").is_none_or(str::is_empty) {
            parameters.replace("dialect", &cx.provider);
        }
        if let Some(known) = self.plans.find(&parameters) {
            return Ok(known.into());
        }
        let MountLimits { objects, class_bytes, files, .. } = self.limits;
        let limits = ClassLimits { objects, files, bytes: class_bytes, owners: self.deliverer.mode() == DeliveryMode::Provider };
        let (catalogue, steps, plans) = (self.backends.catalogue(), Arc::clone(&means.steps), Arc::clone(&self.plans));
        let texts = Arc::new(parameters.to_map().map_err(|fault| MountError::Request(FaultList::from_iter([fault])))?);
        let parameters = Arc::new(parameters.into_owned());
        let (from, read) = (Arc::clone(&parameters), Arc::clone(&texts));
        let bytes: usize = texts.iter().map(|(key, value)| key.len() + value.len()).sum();
        let parse = move || match plans.find(&from) {
            // Another Pod's mount parsed the class while this one waited for its turn.
            Some(known) => Ok(Read::Before(known)),
            None => dialect::parse(&read, &*catalogue, limits, &steps).map(Read::Now),
        };
        // In YAML, an escape may hide the word.
        let may_compile = texts.values().any(|text| text.contains("template") || text.contains('\\'));
        let work = bytes * if may_compile { COMPILED } else { READ };
        let plan = match self.work(work, means.purse.tenant(), cx, parse).await?.map_err(MountError::Class)? {
            Read::Before(known) => return Ok(known.into()),
            Read::Now(plan) => plan,
        };
        let gist = Gist::of((&*texts, &plan.secrets));
        let weight = PLAN + parameters.bytes() + bytes * PARSED + plan.compiled();
        Ok(Class { plan: Arc::new(plan), gist, weight, parsed_from: Some(parameters) })
    }

    /// Counts a mount that is refused because of something that tenants share, and reports at long intervals who holds most of it.
    fn refuse(&self, reason: &'static str, error: MountError) -> MountError {
        self.metrics.refused(reason);
        self.commons.say_who_holds_most(reason);
        error
    }

    /// Removes from the caches what this policy does not allow any more: after another pipeline was in force.
    pub fn review_answers(&self) {
        self.backends.review(&|pod, secrets| {
            let rules = self.policy.of(pod);
            secrets.iter().map(|secret| rules.decide(secret).is_ok()).collect()
        });
    }

    /// Sets the gauges of what tenants share, and of volumes and keys.
    pub fn measure(&self) {
        for Pot { pot, used, limit } in self.pots() {
            self.metrics.pot(pot, used, limit);
        }
        for (what, many) in self.waiting() {
            self.metrics.waiting(what, many);
        }
        let Counts { current, failing, stale, oldest, oldest_stale, half } = self.commons.live.count();
        let [oldest_success, oldest_stale, stale_half] = [oldest, oldest_stale, half].map(|at| at.map(unix_seconds));
        self.metrics.volumes(VolumeCounts { current, failing, stale, oldest_success, oldest_stale, stale_half });
        self.metrics.volumes_watched(self.commons.watch.count());
        self.metrics.breakers(self.backends.outages());
        self.metrics.keys_fetched(self.identity.keys_fetched().map(unix_seconds));
    }

    /// Memory in use, by purpose.
    pub fn pots(&self) -> [Pot; 4] {
        let Commons { budget, volumes, .. } = &*self.commons;
        let [small, large] = budget.calls();
        let moving = budget.moving().slots();
        let (used, limit) = volumes.bytes();
        [
            Pot { pot: "calls", used: small.used() + large.used(), limit: small.capacity() + large.capacity() },
            Pot { pot: "mounts", used: moving.used(), limit: moving.capacity() },
            Pot { pot: "plans", used: self.plans.weight(), limit: budget.kept().plans },
            Pot { pot: "volumes", used, limit },
        ]
    }

    /// How many mounts wait, and for what.
    pub fn waiting(&self) -> [(&'static str, usize); 3] {
        let Commons { budget, places, work, .. } = &*self.commons;
        [("place", places.waiting()), ("memory", budget.moving().waiting()), ("work", work.turns().waiting())]
    }

    /// Keeps a class that the policy allows, and reports its warnings once.
    fn keep(&self, class: Class, tenant: &Tenant, name: Option<&str>) -> Arc<Plan> {
        let Class { plan, gist, weight, parsed_from: Some(parameters) } = class else { return class.plan };
        let name = name.unwrap_or_default();
        for warning in &plan.warnings {
            self.commons.told.warn_of_class(tenant, name, warning);
        }
        self.plans.keep(tenant, Parsed { from: parameters, plan: Arc::clone(&plan), gist, weight });
        plan
    }

    /// Does little work at once, and more in the workroom. `bytes`: the least that is looked at.
    async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        tenant: &Tenant,
        cx: &MountContext,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MountError> {
        if bytes <= INLINE {
            return Ok(work());
        }
        // Boxed: a mount with little work needs no room for this.
        self.commons.work.run(tenant, cx.deadline, work).boxed().await.map_err(|unfinished| match unfinished {
            Unfinished::Late => MountError::TimedOut { after: cx.arrived.elapsed() },
            Unfinished::Panicked => MountError::Internal,
        })
    }

    /// Permits for the plan's secrets; or every denial. A decision for one Pod is valid for all Pods of its ServiceAccount.
    fn authorise(&self, pod: &Arc<PodIdentity>, plan: &Arc<Plan>, record: &mut Record) -> Result<Permits, MountError> {
        if let Some(permits) = self.plans.granted(plan, pod).and_then(|granted| granted.permits(pod, plan)) {
            return Ok(permits);
        }
        let denied = match self.policy.of(pod).grant(plan) {
            Ok(granted) => {
                self.plans.keep_granted(plan, pod, &granted);
                return granted.permits(pod, plan).ok_or(MountError::Internal);
            }
            Err(denied) => denied,
        };
        let denials: Vec<_> = plan.asked().filter_map(|(object, place)| Some((object.label(), denied.get(&place)?.clone()))).collect();
        record.denied(&denials);
        Err(MountError::Policy(denials))
    }

    /// Every secret, in the plan's order: known ones at once, the others all together; but a request that creates something comes last,
    /// when there is room for its answer.
    async fn fetch(&self, plan: &Plan, permits: &Permits, terms: &Terms) -> Result<Found, Missed> {
        let (found, failures) = self.fetch_each(plan, permits, terms, Vec::new()).await?;
        let fatal = plan.asked().filter_map(|(object, place)| {
            let error = failures.get(&place)?;
            let excused = error.fault == Fault::NotFound && object.may_lack(place);
            (!excused).then(|| FetchFailure { label: object.label(), error: Arc::clone(error) })
        });
        let fatal: Vec<_> = fatal.collect();
        if fatal.is_empty() { Ok(found) } else { Err(Missed::Failed(MountError::of_fetch(fatal))) }
    }

    /// `known`: secrets that need no fetch, by their place in the plan; `None`: the secret is absent.
    async fn fetch_each(
        &self,
        plan: &Plan,
        permits: &Permits,
        terms: &Terms,
        known: Vec<(usize, Option<Fetched>)>,
    ) -> Result<(Found, HashMap<usize, Arc<BackendError>>), Missed> {
        let mut found = Found { secrets: self.backends.recall(permits, terms), ..Found::default() };
        let absent: Vec<usize> = known.iter().filter(|(_, fetched)| fetched.is_none()).map(|(place, _)| *place).collect();
        for (place, fetched) in known {
            found.secrets[place] = fetched;
        }
        found.weight = found.secrets.iter().flatten().map(|fetched| fetched.secret.weight()).sum();
        found.paid.extend(pay(terms, found.weight)?);
        let missing = (0..plan.needed()).filter(|place| found.secrets[*place].is_none() && !absent.contains(place));
        let (reads, makes): (Vec<usize>, Vec<usize>) = missing.partition(|place| permits.secret(*place).verb() == Verb::Read);
        let mut failures = HashMap::new();
        self.fetch_these(&reads, permits, terms, &mut found, &mut failures).await?;
        if !makes.is_empty() {
            // The answers, and twice the same amount again: as files, and encoded.
            found.kept_back = pay(terms, makes.len() * MADE + 2 * (found.weight + makes.len() * MADE).min(self.limits.mount_bytes))?;
            self.fetch_these(&makes, permits, terms, &mut found, &mut failures).await?;
        }
        Ok((found, failures))
    }

    /// The first fetch without enough bytes ends the others: there is no room for them either.
    async fn fetch_these(
        &self,
        places: &[usize],
        permits: &Permits,
        terms: &Terms,
        found: &mut Found,
        failures: &mut HashMap<usize, Arc<BackendError>>,
    ) -> Result<(), Missed> {
        if places.is_empty() {
            return Ok(());
        }
        let fetch = |place: usize| async move { (place, self.backends.fetch_or_instead(permits, place, terms).await) };
        let mut waiting = places.iter().copied();
        let mut fetches: FuturesUnordered<_> = waiting.by_ref().take(AT_ONCE).map(fetch).collect();
        while let Some((place, answer)) = fetches.next().await {
            fetches.extend(waiting.next().map(fetch));
            match answer {
                Ok((place, answer)) => {
                    let weight = answer.secret.weight();
                    found.weight += weight;
                    if found.kept_back.is_none() {
                        found.paid.extend(pay(terms, weight)?);
                    }
                    found.secrets[place] = Some(answer);
                }
                Err(error) if error.fault == Fault::Short => return Err(Missed::Short),
                Err(error) => {
                    // A class may have hundreds of secrets that a store denies at length.
                    if found.kept_back.is_none() {
                        found.paid.extend(pay(terms, error.weight())?);
                    }
                    failures.insert(place, Arc::new(error));
                }
            }
        }
        Ok(())
    }

    async fn render(
        &self,
        plan: &Arc<Plan>,
        found: &Found,
        permission: FileMode,
        means: &Means,
        cx: &MountContext,
    ) -> Result<Rendered, Missed> {
        let answer = |place: usize| found.secrets[plan.answering(place, |place| found.secrets[place].is_some())].as_ref();
        let secrets: Vec<_> = (0..plan.secrets.len()).map(|place| answer(place).map(|fetched| Arc::clone(&fetched.secret))).collect();
        let MountLimits { files, secret_bytes, mount_bytes, .. } = self.limits;
        // An object searches its secret at most once for each of its patterns.
        let weights =
            |object: &Object| object.secrets().filter_map(|place| secrets[place].as_ref()).map(|secret| secret.weight()).sum::<usize>();
        let looks = |object: &Object| object.looks() * weights(object);
        // Usually this is little, even if each object searches all secrets.
        let most = found.weight.saturating_mul(plan.objects.iter().map(Object::looks).sum());
        let bytes = if most <= INLINE { most } else { plan.objects.iter().map(looks).sum() };
        let (memory, is_all_memory) = self.memory_of_templates(plan, weights, &means.purse)?;
        // A template's use of memory is work as well.
        let bytes = bytes + memory.as_ref().map_or(0, Spent::n) + if plan.prefixes.is_empty() { 0 } else { below::renamed(plan) };
        let limits = RenderLimits { files, secret_bytes, memory: memory.as_ref().map_or(0, Spent::n), is_all_memory, mount_bytes };
        let (rendering, salts, steps) = (Arc::clone(plan), Arc::clone(self.version_key.salts()), Arc::clone(&means.steps));
        let render = move || {
            let secrets: Vec<_> = secrets.iter().map(Option::as_deref).collect();
            render::render(&rendering, &secrets, permission, limits, &salts, &steps)
        };
        // The output of templates is paid for as long as they run.
        let rendered = self.work(bytes, means.purse.tenant(), cx, render).await.map_err(Missed::Failed)?;
        drop(memory);
        rendered.map_err(|unrendered| match unrendered {
            render::Unrendered::Faults(faults) => Missed::Failed(MountError::Render(of_answers(faults, plan, &found.secrets))),
            render::Unrendered::Short => Missed::Short,
        })
    }

    /// What a plan's templates may make, and whether this is the most. Without a whole it is little, and most need only little: a template
    /// that needs more waits for a whole. `weight`: of an object's secrets.
    fn memory_of_templates(
        &self,
        plan: &Plan,
        weight: impl Fn(&Object) -> usize,
        purse: &Arc<Purse>,
    ) -> Result<(Option<Spent>, bool), Missed> {
        let each = plan.templates().map(|(object, template)| TEMPLATE + 2 * template.bytes() + 4 * weight(object));
        let (is_all, most) = (purse.has_whole(), self.limits.mount_bytes);
        let Some(needed) = each.max() else { return Ok((None, is_all)) };
        let bytes = if is_all { most } else { needed.min(most) };
        Ok((Some(purse.spend(bytes)?), is_all))
    }

    /// The answer; and for each of the plan's secrets, in order, the delivered version.
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
        let versioned = plan.versioned();
        let (mut versions, prefixes) =
            if plan.prefixes.is_empty() { (vec![None; found.len()], None) } else { below::versions(plan, found, &self.version_key) };
        let of_prefix = |place: &usize| prefixes.as_ref().and_then(|prefixes| prefixes.get(place));
        let (mut places, mut secrets) = (Vec::with_capacity(versioned.len()), Vec::with_capacity(versioned.len()));
        for (id, place) in versioned {
            let place = plan.answering(*place, |place| found[place].is_some());
            if let Some(fetched) = &found[place] {
                places.push(place);
                secrets.push((id, of_prefix(&place).unwrap_or(&fetched.secret)));
            }
        }
        let delivery =
            Delivery::new(files.collect(), &secrets, &self.version_key, self.limits.mount_bytes).map_err(MountError::Oversize)?;
        for (place, told) in places.into_iter().zip(&delivery.versions) {
            versions[place] = Some(told.version.clone());
        }
        Ok((delivery, versions))
    }

    /// The audit line comes before anybody can see a file: with `failClosed`, nothing is delivered without a line. If the delivery then
    /// fails, a second line says so.
    async fn hand_over(&self, ready: Result<Ready, MountError>, record: &mut Record, cx: &MountContext) -> Result<Done, MountError> {
        record.took(cx.arrived.elapsed());
        if ready.is_err() || !self.audit.count(record.in_brief()) {
            self.audit_in_time(record.event(ready.as_ref().err()), cx).await.map_err(MountError::Audit)?;
        }
        let Ready { mounted: Mounted { delivery, paid }, volume, delivered: kept } = ready?;
        let is_long = volume.writes();
        let deliver = volume.deliver(delivery, cx.deadline).map_err(MountError::Delivery);
        // Boxed: where the driver writes, there is nothing to wait for.
        let delivered = if is_long { in_time(deliver, cx).boxed().await } else { deliver.await };
        if let Err(error) = &delivered {
            record.took(cx.arrived.elapsed());
            // Nothing was delivered: the reason is what matters, even if this line is lost. The sink counts lost lines.
            let _ = self.audit_in_time(record.event(Some(error)), cx).await;
        }
        delivered.map(|(delivery, turn)| Done { mounted: Mounted { delivery, paid }, delivered: kept, turn })
    }

    /// If the audit hangs (for example, a full pipe), the mount gets an error, and its caller does not wait for longer.
    async fn audit_in_time(&self, event: Event, cx: &MountContext) -> Result<(), AuditUnavailable> {
        let until = cx.deadline + (cx.last - cx.deadline) / 2;
        timeout_at(until, self.audit.record(event)).await.unwrap_or_else(|_| Err(AuditUnavailable::late()))
    }

    fn count(&self, answer: &Result<Mounted, MountError>, took: Duration, now: Timestamp) {
        let code = answer.as_ref().err().map(|error| error.code().as_str());
        self.metrics.mount(code, took, unix_seconds(now));
        if let Ok(Mounted { delivery, .. }) = answer {
            self.metrics.delivered(delivery.files.len(), delivery.files.iter().map(|file| file.contents.len()).sum());
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a metric's timestamp
fn unix_seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// Pays for this many bytes, for as long as the returned value is kept.
fn pay(terms: &Terms, bytes: usize) -> Result<Option<Spent>, Missed> {
    terms.payer.as_ref().map(|payer| payer.purse().spend(bytes)).transpose().map_err(Missed::from)
}

// === impl Found ===

impl Found {
    /// Pays for the files, and for the encoded answer if they are in it.
    fn pay_for(&mut self, rendered: &Rendered, mode: DeliveryMode, purse: &Arc<Purse>) -> Result<(), Missed> {
        let files: usize = rendered.files.iter().map(|file| file.contents.len() + file.path.as_str().len() + FILE).sum();
        let answered = if mode == DeliveryMode::Driver { 2 * files } else { files };
        match &mut self.kept_back {
            Some(spent) if spent.n() >= answered => {}
            Some(spent) => spent.more(answered - spent.n())?,
            none => *none = Some(purse.spend(answered)?),
        }
        Ok(())
    }
}

// === impl Commons ===

impl Commons {
    /// For this many mounts at once.
    pub fn new(budget: Budget, mounts: usize, volumes: Volumes) -> Self {
        let (live, watch) = (Live::of_bytes(budget.kept().repeats / 8), Watch::of_bytes(budget.kept().repeats / 8 * 5));
        Self {
            budget,
            places: Turns::new(mounts),
            work: Workroom::new(),
            volumes: Arc::new(volumes),
            live,
            watch: Arc::new(watch),
            board: Board::default(),
            said: Mutex::default(),
            told: Told::default(),
            warned: Memo::with_capacity(MAX_WARNED),
        }
    }

    /// Reports once what an admin should know about secrets that were delivered all the same.
    fn warn(&self, tenant: &Tenant, class: &str, rendered: &Rendered) {
        for warning in &rendered.warnings {
            let said = format!("{tenant} {class} {warning}");
            if self.warned.find(&said).is_none() {
                self.told.warn_of_secret(tenant, class, warning);
                self.warned.insert(said, ());
            }
        }
    }

    /// Once per minute, and only in the log: only the node's admin may know who holds most.
    fn say_who_holds_most(&self, of: &'static str) {
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_some_and(|at| at.elapsed() < SAY_AGAIN) {
                return;
            }
            *said = Some(Instant::now());
        }
        let [_, large] = self.budget.calls();
        let shares = match of {
            "call" => large,
            "place" => self.places.slots(),
            _ => self.budget.moving().slots(),
        };
        let most: Vec<_> = shares.most(3).into_iter().map(|(tenant, held)| format!("{tenant} ({held})")).collect();
        tracing::warn!(
            of,
            used = shares.used(),
            all = shares.capacity(),
            most = most.join(", "),
            "mounts are refused: what they need is taken (who holds most of it: namespaces, with bytes or places)"
        );
    }
}

impl From<Unpaid> for Missed {
    fn from(unpaid: Unpaid) -> Self {
        match unpaid {
            Unpaid::Short => Self::Short,
            Unpaid::TooLarge { most } => Self::Failed(MountError::TooMuch { most }),
        }
    }
}

impl Paid {
    /// The answer is encoded: its sources are not needed any more.
    pub fn encoded(&mut self) {
        self.contents.clear();
    }
}

/// By the deadline, and with an error instead of a panic. It is not an `async fn`: that would have room for the step twice, and a step is
/// large.
fn in_time<T>(step: impl Future<Output = Result<T, MountError>>, cx: &MountContext) -> impl Future<Output = Result<T, MountError>> {
    timeout_at(cx.deadline, AssertUnwindSafe(step).catch_unwind()).map(|done| match done {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(MountError::Internal),
        Err(_) => Err(MountError::TimedOut { after: cx.arrived.elapsed() }),
    })
}

impl From<Parsed> for Class {
    fn from(Parsed { plan, gist, weight, .. }: Parsed) -> Self {
        Self { plan, gist, weight, parsed_from: None }
    }
}

impl Plans {
    /// For classes that weigh this many bytes together.
    pub fn new(bytes: usize) -> Self {
        let granted = bytes / 8;
        Self { parsed: Kept::of_bytes(bytes - granted), hasher: RandomState::new(), granted: Kept::of_bytes(granted) }
    }

    fn find(&self, parameters: &Parameters<'_>) -> Option<Parsed> {
        let known = self.parsed.find(&self.hasher.hash_one(parameters))?;
        (*parameters == *known.from).then_some(known)
    }

    fn keep(&self, tenant: &Tenant, parsed: Parsed) {
        let (hash, weight) = (self.hasher.hash_one(&*parsed.from), parsed.weight);
        self.parsed.keep(tenant.as_str(), hash, parsed, weight);
    }

    fn granted(&self, plan: &Arc<Plan>, pod: &PodIdentity) -> Option<Arc<Granted>> {
        self.granted.find(&decided(plan, pod))
    }

    fn keep_granted(&self, plan: &Arc<Plan>, pod: &PodIdentity, granted: &Arc<Granted>) {
        self.granted.keep(&pod.namespace, decided(plan, pod), Arc::clone(granted), granted.weight());
    }

    /// Bytes that are kept now.
    fn weight(&self) -> usize {
        self.parsed.weight() + self.granted.weight()
    }
}

/// The same faults, about the secrets that answered: another one may have been asked because a store was out.
fn of_answers(faults: FaultList<RenderFault>, plan: &Plan, found: &[Option<Fetched>]) -> FaultList<RenderFault> {
    let more = faults.more();
    let answer = |fault: &RenderFault| {
        let place = plan.object(fault.object.index)?.secrets().find(|place| plan.secrets[*place] == fault.secret)?;
        Some(plan.secrets[plan.answering(place, |place| found[place].is_some())].clone())
    };
    let about = |fault: RenderFault| RenderFault { secret: answer(&fault).unwrap_or_else(|| fault.secret.clone()), ..fault };
    let mut faults: FaultList<_> = faults.into_iter().map(about).collect();
    faults.count(more);
    faults
}

fn decided(plan: &Arc<Plan>, pod: &PodIdentity) -> Decided {
    (Arc::as_ptr(plan).addr(), Arc::clone(&pod.namespace), Arc::clone(&pod.service_account))
}

impl MountContext {
    /// Divides the caller's time for a call: the answer 5 s before the caller's deadline, the refusal of a mount without a place 10 s
    /// before; each at half the time if that is later. `longest` limits the answer, and the refusal still comes a little before that.
    pub fn new(request: RequestId, provider: Arc<str>, arrived: Instant, caller: Option<Duration>, longest: Duration) -> Self {
        let before = |margin: Duration| caller.map_or(longest, |given| given.saturating_sub(margin).max(given / 2).min(longest));
        let deadline = before(Duration::from_secs(5));
        let queue = before(Duration::from_secs(10)).min(deadline.saturating_sub(Duration::from_secs(5).min(deadline / 10)));
        let grace = caller.map_or(GRACE, |given| GRACE.min(given.saturating_sub(deadline) / 2));
        Self { request, provider, arrived, queue_until: arrived + queue, deadline: arrived + deadline, last: arrived + deadline + grace }
    }
}

#[cfg(test)]
mod tests;
