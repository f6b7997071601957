//! A model of a failover above complete stacks: two stores that fail, deny and change at random, two tenants, and reloads, on paused time. Whatever
//! happens, the second store's answers are given only while the first is out, and never after the first one's denial.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::backend::Scope;
use crate::backend::testing::conformance;
use crate::model::{Lease, PodClaims, PodIdentity, PodTokens, Secret, SecretName, SecretPrefix};

const ACCOUNTS: [(&str, &str); 3] = [("shop", "web"), ("shop", "api"), ("bank", "web")];
/// Names under `own/` are for one Pod each; names under `all/` are the same for all tenants.
const NAMES: [&str; 4] = ["kv/a", "kv/b", "own/a", "all/a"];

/// How long a store may not be asked after it is back: until the next probe, or until a request is no longer held back.
const LEFT_ALONE: Duration = Duration::from_secs(31);

/// What a store does with every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weather {
    Good,
    Out(Fault),
}

#[derive(Debug)]
struct World {
    name: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// When it was last out.
    out: Option<Instant>,
    version: u64,
    /// By scope and name.
    denied: HashMap<(Scope, String), Fault>,
    calls: u64,
}

struct Model {
    worlds: [Arc<World>; 2],
    backends: Backends,
    metrics: Arc<Metrics>,
    leases: Arc<Leases>,
    /// Requests that the first store has denied and not answered since.
    told: HashSet<(Scope, &'static str)>,
    /// What each store last answered, and when it was asked.
    good: HashMap<(usize, Scope, &'static str), (String, Instant)>,
    dice: u64,
}

fn scope_of(name: &str, pod: &PodIdentity) -> Scope {
    match name.split('/').next() {
        Some("own") => Scope::Pod(Arc::clone(&pod.uid)),
        Some("all") => Scope::Node,
        _ => Scope::Account(pod.account()),
    }
}

impl World {
    fn new(name: &'static str) -> Arc<Self> {
        let state = State { weather: Weather::Good, out: None, version: 0, denied: HashMap::new(), calls: 0 };
        Arc::new(Self { name, state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_good(&self) -> bool {
        self.state().weather == Weather::Good
    }

    /// Whether the store need not be asked.
    fn is_out(&self) -> bool {
        !self.is_good() || self.state().out.is_some_and(|out| out.elapsed() <= LEFT_ALONE)
    }

    fn set(&self, weather: Weather) {
        let mut state = self.state();
        if state.weather != Weather::Good {
            state.out = Some(Instant::now());
        }
        state.weather = weather;
    }

    fn denies(&self, scope: &Scope, name: &str) -> Option<Fault> {
        self.state().denied.get(&(scope.clone(), name.to_owned())).copied()
    }

    fn error(&self, fault: Fault) -> BackendError {
        let (backend, reason) = (self.name.parse().unwrap(), "as it is".to_owned());
        BackendError { fault, backend, secret: None, reason, retry_after: None, source: None }
    }
}

#[async_trait]
impl Backend for World {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        assert_eq!(secret.backend.as_str(), self.name, "each member is sent its own");
        let (name, scope) = (secret.name.as_str(), self.scope(secret, &cx.pod));
        self.state().calls += 1;
        if let Weather::Out(fault) = self.state().weather {
            return Err(self.error(fault));
        }
        if let Some(fault) = self.denies(&scope, name) {
            return Err(self.error(fault));
        }
        let text = format!("{} {name} {scope:?} {}", self.name, self.state().version);
        let fields = conformance::fields(&[("v", text.as_bytes())]);
        let secret = Arc::new(Secret { fields, response: None, version: None, lease: None });
        Ok(Fetched { secret, source: Source::Store, by: self.name.parse().unwrap() })
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Err(self.error(Fault::Unsupported))
    }

    async fn renew(&self, lease: Lease, _: Instant) -> Result<Lease, BackendError> {
        Ok(lease)
    }

    async fn revoke(&self, _: Lease, _: Instant) -> Result<(), BackendError> {
        Ok(())
    }

    fn adopt(&self, _: &Lease) {}

    async fn forget(&self, _: &str, _: Instant) {}

    async fn check(&self) -> Result<(), BackendError> {
        match self.state().weather {
            Weather::Out(fault) if fault != Fault::Throttled => Err(self.error(fault)),
            Weather::Good | Weather::Out(_) => Ok(()),
        }
    }

    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        scope_of(secret.name.as_str(), pod)
    }
}

impl Model {
    fn new(seed: u64, off: bool) -> Self {
        let (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>) = (Arc::new(SystemClock), Arc::default());
        let (leases, worlds) = (leases(&clock, &metrics), ["bao", "bao-dr"].map(World::new));
        let backends = stacked(worlds.each_ref().map(|world| Arc::clone(world) as Arc<dyn Backend>), (&metrics, &leases), None);
        backends.failovers[&name("both")].denials().switch_off(off);
        Self { worlds, backends, metrics, leases, told: HashSet::new(), good: HashMap::new(), dice: seed }
    }

    /// A number below `n`.
    fn roll(&mut self, n: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.dice >> 33).unwrap() % n
    }

    fn pod(&mut self) -> Arc<PodIdentity> {
        let ((namespace, account), number) = (ACCOUNTS[self.roll(ACCOUNTS.len())], self.roll(2));
        let uid = format!("{namespace}-{account}-{number}");
        let claims = PodClaims { namespace: namespace.into(), name: uid.clone(), uid, service_account: account.into() };
        Arc::new(PodIdentity::believed(&claims))
    }

    /// A mount from the failover.
    async fn mount(&mut self) -> Result<(), String> {
        let (pod, which) = (self.pod(), NAMES[self.roll(NAMES.len())]);
        let fresh = [None, Some(Duration::ZERO)][self.roll(2)];
        let (secret, scope) = (bench::both(which), scope_of(which, &pod));
        let cx = FetchContext { pod: Arc::clone(&pod), tokens: Arc::new(PodTokens::default()), fresh, ..context("p", "a", FRESH) };
        let before = self.worlds.each_ref().map(|world| world.state().calls);
        let failover = &self.backends.failovers[&name("both")];
        let answer = match failover.recall(&secret, &cx, Instant::now()) {
            Some(known) => Ok(known),
            None => failover.fetch(&secret, &cx).await,
        };
        let called = [0, 1].map(|at| self.worlds[at].state().calls > before[at]);
        let [first, second] = &self.worlds;
        let (request, is_told) = ((scope.clone(), which), self.told.contains(&(scope.clone(), which)));
        if called[1] && (!first.is_out() || is_told) {
            return Err(format!("{request:?}: the second was asked, told {is_told}"));
        }
        match answer {
            Ok(fetched) => {
                let (at, value) = (usize::from(fetched.by.as_str() == "bao-dr"), text(&fetched));
                let shown = format!("{value} by {} {:?}, told {is_told}", fetched.by, fetched.source);
                let world = &self.worlds[at];
                if !value.starts_with(&format!("{} {which} {scope:?} ", world.name)) {
                    return Err(format!("another's: {shown}"));
                }
                if at == 1 && (is_told || !first.is_out()) {
                    return Err(format!("of the second: {shown}"));
                }
                let place = (at, scope.clone(), which);
                let known = self.good.get(&place).filter(|(known, _)| *known == value).map(|(_, since)| since.elapsed());
                match fetched.source {
                    Source::Store if !called[at] || world.denies(&scope, which).is_some() || !world.is_good() => {
                        return Err(format!("nobody said so: {shown}"));
                    }
                    Source::Store => {
                        if at == 0 {
                            self.told.remove(&request);
                        }
                        self.good.insert(place, (value, Instant::now()));
                    }
                    Source::Fresh { age } if age >= FRESH || fresh.is_some() || known != Some(age) => {
                        return Err(format!("not fresh: {shown} {known:?}"));
                    }
                    Source::Stale { age, .. } if age >= STALE || !first.is_out() || known != Some(age) => {
                        return Err(format!("stale: {shown} {known:?}"));
                    }
                    Source::Fresh { .. } | Source::Stale { .. } => {}
                }
                Ok(())
            }
            Err(error) if error.fault.is_outage() => {
                let could = !is_told && second.denies(&scope, which).is_none() && !second.is_out();
                if could || !first.is_out() { Err(format!("{which} {error}: it could have been given")) } else { Ok(()) }
            }
            Err(error) => {
                if first.denies(&scope, which) != Some(error.fault) || !called[0] || !first.is_good() {
                    return Err(format!("not the first's word: {error} {:?}", error.fault));
                }
                self.told.insert(request);
                Ok(())
            }
        }
    }

    async fn step(&mut self) -> Result<(), String> {
        let at = self.roll(2);
        match self.roll(40) {
            0 => self.worlds[at].state().version += 1,
            1..=4 => self.worlds[at].set(Weather::Good),
            5 | 6 => {
                let fault = [Fault::Unavailable, Fault::TimedOut, Fault::Throttled, Fault::Down][self.roll(4)];
                self.worlds[at].set(Weather::Out(fault));
            }
            7..=9 => {
                let (pod, which) = (self.pod(), NAMES[self.roll(NAMES.len())]);
                let fault = [Fault::Denied, Fault::NotFound, Fault::Unauthenticated][self.roll(3)];
                self.worlds[at].state().denied.insert((scope_of(which, &pod), which.to_owned()), fault);
            }
            10 => self.worlds[at].state().denied.clear(),
            11 => {
                let worlds = self.worlds.each_ref().map(|world| Arc::clone(world) as Arc<dyn Backend>);
                self.backends = stacked(worlds, (&self.metrics, &self.leases), Some(&self.backends));
                self.backends.review(&|_, secrets| vec![true; secrets.len()]);
            }
            12 | 13 => advance(Duration::from_secs([1, 40, 1_000, 20_000][self.roll(4)])).await,
            _ => return self.mount().await,
        }
        Ok(())
    }

    async fn run(mut self, steps: usize) -> Result<(), (usize, String)> {
        for step in 0..steps {
            self.step().await.map_err(|wrong| (step, wrong))?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_answers_only_while_the_first_is_out_and_never_after_its_denial() {
    for seed in 0..6 {
        assert_eq!(Model::new(seed, false).run(2_500).await, Ok(()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_forgets_denials_is_noticed() {
    let mut noticed = false;
    for seed in 0..6 {
        noticed = noticed || Model::new(seed, true).run(2_500).await.is_err();
    }
    assert!(noticed);
}
