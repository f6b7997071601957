//! The configured backends by name. They are built once from the configuration, and the pipeline asks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use tokio::time::Instant;

use super::failover::order::{FIRST, Side};
use super::failover::{Denials, Failover};
use super::stack::breaker::Breaker;
use super::stack::cache::archive::Archive;
use super::stack::cache::{Cached, Judge, Refusals, Rule, Standby, Table};
use super::stack::circuits::Circuits;
use super::stack::coalesce::Coalesced;
use super::stack::lease::{Leased, Leases};
use super::stack::limit::Limited;
use super::{Backend, BackendConfig, BackendError, CacheConfig, Configured, Fault, StoreLimits, Terms, instead};
use crate::budget::Ceilings;
use crate::clock::Clock;
use crate::files::Located;
use crate::model::{BackendName, Fetched, PodIdentity, SecretRef};
use crate::policy::Permits;
use crate::telemetry::Metrics;

/// What each backend is built with besides its own entry: from `limits` and `cache`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BackendSettings {
    /// Calls to one backend at once.
    pub per_backend: usize,
    /// The largest secret in bytes.
    pub secret_bytes: usize,
    /// For backends that are reached over a network, as far as their own entry does not set it.
    pub cache: CacheConfig,
}

/// What backends share with the rest of the process, and with the backends of another configuration.
#[derive(Clone, Copy, Debug)]
pub struct BackendParts<'p> {
    pub clock: &'p Arc<dyn Clock>,
    pub metrics: &'p Arc<Metrics>,
    pub leases: &'p Arc<Leases>,
    /// How many bytes all backends may keep.
    pub kept: Ceilings,
    /// Where answers are kept over restarts; `None`: in memory only.
    pub archive: Option<&'p Arc<Archive>>,
}

/// Every backend, each behind its decorators.
#[derive(Debug)]
pub struct Backends {
    configured: Arc<Configured>,
    stacks: BTreeMap<BackendName, Stack>,
    archive: Option<Arc<Archive>>,
    /// Each is above two of the stacks.
    failovers: BTreeMap<BackendName, Arc<Failover>>,
}

/// A backend behind its decorators, with everything that it has learnt: opened secrets, answers, logins.
#[derive(Clone, Debug)]
struct Stack {
    top: Arc<dyn Backend>,
    /// The answers that it keeps; `None`: it keeps none.
    answers: Option<Arc<Table>>,
    /// `None`: the store is on this node.
    circuits: Option<Arc<Circuits>>,
    /// `None`: it was built elsewhere.
    plan: Option<StackPlan>,
}

/// What a stack is built from. Equal plans give equal stacks, so Keyferry keeps a stack whose plan is the same.
#[derive(Clone, Debug, Eq, PartialEq)]
struct StackPlan {
    config: BackendConfig,
    calls: usize,
    secret_bytes: usize,
    /// `None`: the store is on this node, so it is always current.
    cache: Option<CacheConfig>,
    /// How many bytes of secrets it may keep: its share of what all backends may keep.
    kept: usize,
    /// The same for clients.
    clients: usize,
    /// The same for what is known about failed requests.
    held: usize,
}

// === impl StackPlan ===

impl StackPlan {
    /// `of_its_kind`: how many backends keep secrets as this one does, by themselves or in a cache. `failovers`: how many failovers also need room
    /// for what is known about requests.
    fn new(config: &BackendConfig, settings: BackendSettings, kept: Ceilings, of_its_kind: usize, failovers: usize) -> Self {
        let BackendSettings { per_backend: calls, secret_bytes, cache } = settings;
        let cache = config.kind().facts().cache.map(|own| own.or(cache));
        let all = if cache.is_some() { kept.answers } else { kept.opened };
        let part = |all: usize| all / of_its_kind.max(1);
        let held = kept.held / (of_its_kind + failovers).max(1);
        Self { config: config.clone(), calls, secret_bytes, cache, kept: part(all), clients: part(kept.clients), held }
    }

    /// Builds the stack in place of a `former` one. It takes over what the former one keeps, if that is of the same store with the same login.
    fn build(self, name: &BackendName, parts: BackendParts<'_>, former: Option<&Stack>) -> Result<Stack, BackendError> {
        let limits = StoreLimits { secret_bytes: self.secret_bytes, remembered: self.kept, clients: self.clients, calls: self.calls };
        let store = self.config.kind().open(name, limits, parts.clock)?;
        let answers = self.answers(name, parts, former);
        let circuits = self.circuits(name, parts, former);
        let top = self.decorate(store, name, parts, answers.as_ref(), circuits.as_ref());
        Ok(Stack { top, answers, circuits, plan: Some(self) })
    }

    /// What was known about another store does not apply to this one.
    fn circuits(&self, name: &BackendName, parts: BackendParts<'_>, former: Option<&Stack>) -> Option<Arc<Circuits>> {
        let same = former.filter(|former| former.plan.as_ref().is_some_and(|plan| plan.config == self.config));
        let known = same.and_then(|former| former.circuits.clone());
        let new = || Circuits::new(name, self.config.kind().facts().servers, self.held, parts.clock);
        self.cache.map(|_| known.unwrap_or_else(new))
    }

    fn answers(&self, name: &BackendName, parts: BackendParts<'_>, former: Option<&Stack>) -> Option<Arc<Table>> {
        let CacheConfig { fresh, stale } = self.cache?;
        let same = |table: &Table, plan: &Self| plan.config == self.config || !table.holds(Rule::Origin);
        let inherited =
            former.and_then(|former| former.answers.as_ref().filter(|table| former.plan.as_ref().is_some_and(|plan| same(table, plan))));
        let drawer = || parts.archive.map(|archive| archive.drawer(name, &self.origin()));
        let refusals = if self.config.kind().logs_in() { Refusals::OfLogin } else { Refusals::OfRequest };
        let counters = || parts.metrics.cache(name.as_str());
        let new = || Table::with(self.kept, CacheConfig { fresh, stale }, counters(), Arc::clone(parts.clock), (drawer(), refusals));
        (!fresh.is_zero() || !stale.is_zero()).then(|| inherited.map_or_else(new, Arc::clone))
    }

    /// Names the address, the login and everything else that an answer depends on. Answers of another origin are not used, also after a restart. It
    /// is short, because each file contains it.
    fn origin(&self) -> String {
        HEXLOWER.encode(digest(&SHA256, self.config.kind().hangs_on().to_text().as_bytes()).as_ref())
    }

    /// Adds the decorators from the store outwards. An outer one sees only the answers of the inner ones.
    fn decorate(
        &self,
        store: Arc<dyn Backend>,
        name: &BackendName,
        parts: BackendParts<'_>,
        answers: Option<&Arc<Table>>,
        circuits: Option<&Arc<Circuits>>,
    ) -> Arc<dyn Backend> {
        let limited = Limited::new(store, name.clone(), self.calls * self.config.kind().facts().batch.max(1), Arc::clone(parts.metrics));
        let (Some(times), Some(circuits)) = (self.cache, circuits) else { return Arc::new(limited) };
        let guarded: Arc<dyn Backend> = Arc::new(Breaker::new(Arc::new(limited), Arc::clone(circuits)));
        let cached: Arc<dyn Backend> = match answers {
            Some(table) => Arc::new(Cached::new(guarded, Arc::clone(table), times)),
            None => guarded,
        };
        let coalesced: Arc<dyn Backend> = Arc::new(Coalesced::new(cached, name.clone(), parts.metrics));
        let outlasting: Arc<dyn Backend> = match answers {
            Some(table) if !times.stale.is_zero() => Arc::new(Standby::new(coalesced, Arc::clone(table), times, Arc::clone(circuits))),
            Some(_) | None => coalesced,
        };
        Arc::new(Leased::new(outlasting, name, self.config.kind().facts().origin, Arc::clone(parts.leases)))
    }
}

// === impl Backends ===

impl Backends {
    /// Builds every backend with its decorators. `former` backends that would become the same are kept, so that a reload forgets nothing that it
    /// does not change.
    ///
    /// # Errors
    /// One line for each backend that cannot be built. The line names it.
    pub fn build(
        configured: Configured,
        settings: BackendSettings,
        parts: BackendParts<'_>,
        former: Option<&Self>,
    ) -> Result<Self, Vec<String>> {
        let (mut stacks, mut faults) = (BTreeMap::new(), Vec::new());
        // The other half is for what is known about the answers on the disk.
        let answers = if parts.archive.is_some() { parts.kept.answers / 2 } else { parts.kept.answers };
        let kept = Ceilings { answers, ..parts.kept };
        let is_cached = |config: &BackendConfig| config.kind().facts().cache.is_some();
        let is_store = |config: &BackendConfig| !matches!(config, BackendConfig::Failover(_));
        let stores: Vec<_> = configured.stores().iter().filter(|(_, config)| is_store(config)).collect();
        for (name, config) in &stores {
            let of_its_kind = stores.iter().filter(|(_, other)| is_cached(other) == is_cached(config)).count();
            let plan = StackPlan::new(config, settings, kept, of_its_kind, configured.stores().len() - stores.len());
            let former = former.and_then(|former| former.stacks.get(*name));
            let kept = former.filter(|stack| stack.plan.as_ref() == Some(&plan));
            match kept.map_or_else(|| plan.build(name, parts, former), |stack| Ok(stack.clone())) {
                Ok(stack) => _ = stacks.insert((*name).clone(), stack),
                Err(error) => faults.push(format!("backends.{}", error.in_full())),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let archive = parts.archive.cloned();
        let failovers = failovers(&configured, &stacks, parts, former);
        Ok(Self { configured: Arc::new(configured), stacks, failovers, archive })
    }

    /// Backends that were built elsewhere.
    pub fn new(configured: Configured, backends: BTreeMap<BackendName, Arc<dyn Backend>>) -> Self {
        let stacks = backends.into_iter().map(|(name, top)| (name, Stack { top, answers: None, circuits: None, plan: None })).collect();
        Self { configured: Arc::new(configured), stacks, failovers: BTreeMap::new(), archive: None }
    }

    fn top(&self, name: &BackendName) -> Option<&dyn Backend> {
        let stack = self.stacks.get(name).map(|stack| &*stack.top);
        stack.or_else(|| self.failovers.get(name).map(|failover| &**failover as &dyn Backend))
    }

    /// The stores that classes are judged by.
    pub fn catalogue(&self) -> Arc<Configured> {
        Arc::clone(&self.configured)
    }

    /// What is here and fresh enough, for all secrets of a mount, in the plan's order. The pipeline calls this first. It neither waits nor asks a
    /// store.
    pub fn recall(&self, permits: &Permits, terms: &Terms) -> Vec<Option<Fetched>> {
        let (cx, now) = (terms.of(permits.pod()), Instant::now());
        let needed = permits.plan().needed();
        let recall = |(place, secret): (usize, &SecretRef)| {
            // What a class has for an outage is only asked for in an outage.
            if place < needed { self.top(&secret.backend)?.recall(secret, &cx, now) } else { None }
        };
        permits.secrets().iter().enumerate().map(recall).collect()
    }

    /// Fetches the secret at this place of the plan. Without a permit nobody reaches a store.
    pub async fn fetch(&self, permits: &Permits, place: usize, terms: &Terms) -> Result<Fetched, BackendError> {
        let secret = permits.secret(place);
        let Some(top) = self.top(&secret.backend) else {
            let reason = "the backend is not configured any more (try again)".to_owned();
            let (backend, secret) = (secret.backend.clone(), Some(secret.name.clone()));
            return Err(BackendError { fault: Fault::Invalid, backend, secret, reason, retry_after: None, source: None });
        };
        top.fetch(secret, &terms.of(permits.pod())).await
    }

    /// The same. If the store is out, it fetches the secret that the plan has instead. It also returns the place of the secret that it gives.
    pub async fn fetch_or_instead(&self, permits: &Permits, place: usize, terms: &Terms) -> Result<(usize, Fetched), BackendError> {
        let sides = permits.plan().instead.get(&place).and_then(|instead| {
            let side = |place: usize| {
                let secret = permits.secret(place);
                Some(Side { backend: self.top(&secret.backend)?, secret })
            };
            Some((*instead, [side(place)?, side(*instead)?]))
        });
        match sides {
            None => self.fetch(permits, place, terms).await.map(|fetched| (place, fetched)),
            Some((instead, sides)) => {
                let (at, fetched) = instead::fetch(sides, &terms.of(permits.pod())).await?;
                Ok((if at == FIRST { place } else { instead }, fetched))
            }
        }
    }

    /// These backends apply from now on, in place of the former ones. What the former ones keep is removed, and what `allows` no longer allows;
    /// also from the disk. It may block for a while.
    pub fn review(&self, allows: &Judge<'_>) {
        let (mut ticket, mut drawers) = (0, Vec::new());
        let held = self.stacks.values().filter_map(|stack| stack.plan.as_ref()).filter(|plan| plan.cache.is_some()).map(|plan| plan.held);
        if let Some(held) = held.min() {
            self.failovers.values().for_each(|failover| failover.denials().resize(held));
        }
        for (name, Stack { answers, circuits, plan, .. }) in &self.stacks {
            let allows = |pod: &Arc<PodIdentity>, secrets: &[&SecretRef]| self.allowed(name, allows, pod, secrets);
            if let (Some(circuits), Some(plan)) = (circuits, plan) {
                circuits.resize(plan.held);
            }
            if let (Some(answers), Some(StackPlan { kept, cache: Some(times), .. })) = (answers, plan) {
                ticket = answers.review(*kept, *times, &allows).max(ticket);
                drawers.extend(answers.drawer().filter(|_| !times.stale.is_zero()).cloned());
            }
        }
        if let Some(archive) = &self.archive {
            let failovers: Vec<_> = self.failovers.keys().collect();
            archive.wait(archive.retain(&drawers).max(archive.retain_denials(&failovers)).max(ticket));
        }
    }

    /// Why Keyferry gives no answers from the disk, if the reason is that the disk cannot be written.
    pub fn unwritable(&self) -> Option<String> {
        let serves = |stack: &Stack| stack.plan.as_ref().and_then(|plan| plan.cache).is_some_and(|times| !times.stale.is_zero());
        self.archive.as_ref().filter(|_| !self.failovers.is_empty() || self.stacks.values().any(serves))?.fault()
    }

    /// As [`Backend::file`].
    pub fn file(&self, secret: &SecretRef) -> Option<Located> {
        self.top(&secret.backend)?.file(secret)
    }

    /// Asks each backend whether it could serve a mount now, and returns the errors of those that could not.
    pub async fn check(&self) -> Vec<BackendError> {
        let checks = self.stacks.values().map(|stack| stack.top.check());
        let mut failing: Vec<_> = futures_util::future::join_all(checks).await.into_iter().filter_map(Result::err).collect();
        // Their members were asked just now.
        failing.extend(self.failovers.values().filter_map(|failover| failover.failing(&failing)).collect::<Vec<_>>());
        failing
    }

    /// `check` has found that a backend could not serve a mount; `failing` has all such backends. This says whether mounts get their secrets all
    /// the same: from old answers, or from another member of a failover.
    pub fn is_bridged(&self, error: &BackendError, failing: &[BackendError]) -> bool {
        let can_serve = |name: &BackendName| {
            let answers = self.stacks.get(name).and_then(|stack| stack.answers.as_ref());
            answers.is_some_and(|answers| answers.can_serve())
        };
        if let Some(failover) = self.failovers.get(&error.backend) {
            return error.fault.is_outage() && failover.members().into_iter().any(can_serve);
        }
        let stands_in = |failover: &Arc<Failover>| failover.has(&error.backend) && failover.failing(failing).is_none();
        self.failovers.values().any(stands_in) || error.fault.is_outage() && can_serve(&error.backend)
    }

    /// For each store over a network: whether it is out, and since when.
    pub fn outages(&self) -> impl Iterator<Item = (&str, bool, Timestamp)> {
        self.stacks.iter().filter_map(|(name, stack)| {
            let (is_out, changed) = stack.circuits.as_ref()?.state();
            Some((name.as_str(), is_out, changed))
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &BackendName> {
        self.stacks.keys().chain(self.failovers.keys())
    }

    /// What is kept of a store may have been asked for under the name of a failover. It stays if policy allows one of the two.
    fn allowed(&self, name: &BackendName, allows: &Judge<'_>, pod: &Arc<PodIdentity>, secrets: &[&SecretRef]) -> Vec<bool> {
        let mut allowed = allows(pod, secrets);
        for (failover, _) in self.failovers.iter().filter(|(_, failover)| failover.has(name)) {
            let secrets: Vec<_> = secrets.iter().map(|secret| secret.with(|parts| parts.backend = failover.clone())).collect();
            let also = allows(pod, &secrets.iter().collect::<Vec<_>>());
            allowed.iter_mut().zip(also).for_each(|(allowed, also)| *allowed |= also);
        }
        allowed
    }
}

/// The failovers above the stacks of their members. Each one knows what was denied before it was built.
fn failovers(
    configured: &Configured,
    stacks: &BTreeMap<BackendName, Stack>,
    parts: BackendParts<'_>,
    former: Option<&Backends>,
) -> BTreeMap<BackendName, Arc<Failover>> {
    let failover = |(name, config): (&BackendName, &BackendConfig)| {
        let BackendConfig::Failover(config) = config else { return None };
        let [first, second] = config.members.each_ref().map(|member| stacks.get(&member.name));
        let (first, second) = (first?, second?);
        let held = first.plan.as_ref().map_or(0, |plan| plan.held);
        let known = former.and_then(|former| former.failovers.get(name)).map(|former| Arc::clone(former.denials()));
        let answered = config.members.each_ref().map(|member| parts.metrics.failover(name.as_str(), member.name.as_str()));
        let members = [Arc::clone(&first.top), Arc::clone(&second.top)];
        let built =
            Failover::new(name, (**config).clone(), members, known.unwrap_or_else(|| Denials::new(name, held, parts.archive)), answered);
        Some((name.clone(), Arc::new(built)))
    };
    configured.stores().iter().filter_map(failover).collect()
}

#[cfg(test)]
mod tests;
