//! A model of answers that are given while a store is out: tenants, policies, revocations, refused logins, outages, reloads, restarts and wipes, at
//! random and on paused time. Each mount's answer must follow the rules of docs/cache.md: what they allow, and what they promise. Then each rule is
//! switched off, and the model must notice.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::backend::stack::cache::Rule;
use crate::backend::stack::cache::archive::{Archive, Target, wipe};
use crate::backend::stack::sealed::{Sealed, SealedConfig};
use crate::backend::testing::conformance;
use crate::backend::{FetchContext, Scope};
use crate::model::{Lease, Plan, PodClaims, PodIdentity, PodTokens, Secret, SecretName, SecretPrefix, SecretRef};
use crate::policy::Policy;
use crate::yaml::{self, Faults};

const FRESH: Duration = Duration::from_mins(2);
const STALE: Duration = Duration::from_hours(6);

/// Two tenants; the first has two ServiceAccounts.
const ACCOUNTS: [(&str, &str); 3] = [("shop", "web"), ("shop", "api"), ("bank", "web")];

/// Names under `own/` are for one Pod each.
const NAMES: [&str; 4] = ["kv/a", "kv/b", "own/a", "kv/c"];

/// The current policy: who is denied `kv/b`.
const POLICIES: [&str; 2] = [
    "- { pods: { namespace: \"*\" }, read: [\"bao/**\"] }",
    "- { pods: { namespace: \"*\" }, read: [\"bao/**\"] }\n- { pods: { namespace: shop, serviceAccount: web }, deny: [\"bao/kv/**\"] }",
];

/// The state of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weather {
    Good,
    /// It fails, and that is an outage.
    Out(Fault),
    /// It fails, and that is not an outage.
    Odd(Fault),
}

/// Whether the store was out when it was last asked, and when it first answered after that. Until then, and for a while longer, the store need not
/// be asked for everything.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    On,
    Over(Instant),
}

/// The store. Its answer names the version, the Pod that it was made for, and the secret.
#[derive(Debug)]
struct World(Mutex<State>);

#[derive(Debug)]
struct State {
    weather: Weather,
    versions: u64,
    removed: Vec<&'static str>,
    /// By ServiceAccount and name.
    denied: Vec<(usize, &'static str)>,
    /// ServiceAccounts whose login is refused.
    refused: Vec<usize>,
    /// How long the next answer takes.
    slow: Duration,
    calls: u64,
    /// When it was last asked.
    asked: Option<Instant>,
    trouble: Trouble,
}

/// Pods of a ServiceAccount, each with a number.
type Pod = (usize, usize);

/// The key of a kept answer.
type Place = (Scope, &'static str);

/// The last good answer.
#[derive(Clone, Debug, PartialEq)]
struct Good {
    text: String,
    since: Instant,
    /// How much older its reported age may be: after a restart, its time is the one on the disk.
    slack: Duration,
}

/// The wall clock: it runs with the paused time, unless it is set.
#[derive(Debug)]
struct Wall {
    began: Instant,
    set_back: AtomicU64,
}

#[derive(Debug)]
struct Model {
    world: Arc<World>,
    backends: Backends,
    policies: Vec<Policy>,
    policy: usize,
    config: usize,
    folder: tempfile::TempDir,
    clock: Arc<Wall>,
    archive: Option<Arc<Archive>>,
    good: HashMap<Place, (Pod, Good)>,
    /// Scopes whose login was refused when the store last checked it.
    shut: HashMap<Scope, bool>,
    dice: u64,
    mounts: usize,
    metrics: Arc<Metrics>,
    leases: Arc<Leases>,
    off: Option<Rule>,
}

fn pod_of((account, number): Pod) -> Arc<PodIdentity> {
    let (namespace, service_account) = ACCOUNTS[account];
    let uid = format!("{namespace}-{service_account}-{number}");
    let claims = PodClaims { namespace: namespace.into(), name: uid.clone(), uid, service_account: service_account.into() };
    Arc::new(PodIdentity::believed(&claims))
}

fn account_of(pod: &PodIdentity) -> usize {
    ACCOUNTS.iter().position(|(namespace, account)| (*namespace, *account) == (&*pod.namespace, &*pod.service_account)).unwrap()
}

fn error(fault: Fault) -> BackendError {
    BackendError { fault, backend: "bao".parse().unwrap(), secret: None, reason: "as it is".to_owned(), retry_after: None, source: None }
}

#[async_trait]
impl Backend for World {
    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        let (answer, slow) = {
            let mut state = self.0.lock().unwrap();
            state.calls += 1;
            state.asked = Some(Instant::now());
            let account = account_of(&cx.pod);
            let name = NAMES.into_iter().find(|name| *name == secret.name.as_str()).unwrap();
            state.trouble = match (state.weather, state.trouble) {
                (Weather::Out(_), _) => Trouble::On,
                (Weather::Good | Weather::Odd(_), Trouble::On) => Trouble::Over(Instant::now()),
                (Weather::Good | Weather::Odd(_), trouble @ (Trouble::None | Trouble::Over(_))) => trouble,
            };
            let answer = match state.weather {
                Weather::Out(fault) | Weather::Odd(fault) => Err(fault),
                Weather::Good if state.refused.contains(&account) => Err(Fault::Unauthenticated),
                Weather::Good if state.denied.contains(&(account, name)) => Err(Fault::Denied),
                Weather::Good if state.removed.contains(&name) => Err(Fault::NotFound),
                Weather::Good => Ok(format!("{name} {} {:?}", state.versions, self.scope(secret, &cx.pod))),
            };
            (answer, std::mem::take(&mut state.slow))
        };
        sleep(slow).await;
        let text = answer.map_err(error)?;
        let fields = conformance::fields(&[("v", text.as_bytes())]);
        let secret = Arc::new(Secret { fields, response: None, version: None, lease: None });
        Ok(Fetched { secret, source: Source::Store, by: "bao".parse().unwrap() })
    }

    async fn list(&self, _: &SecretPrefix, _: &FetchContext) -> Result<Vec<SecretName>, BackendError> {
        Err(error(Fault::Unsupported))
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
        let mut state = self.0.lock().unwrap();
        match state.weather {
            Weather::Out(fault) if fault != Fault::Throttled => Err(error(fault)),
            Weather::Good | Weather::Odd(_) | Weather::Out(_) => {
                // A good probe may be new information: not every odd answer to a mount shows that the store is back.
                if !matches!(state.trouble, Trouble::None) {
                    state.trouble = Trouble::Over(Instant::now());
                }
                Ok(())
            }
        }
    }

    fn scope(&self, secret: &SecretRef, pod: &PodIdentity) -> Scope {
        if secret.name.as_str().starts_with("own/") { Scope::Pod(Arc::clone(&pod.uid)) } else { Scope::Account(pod.account()) }
    }
}

impl Clock for Wall {
    fn now(&self) -> jiff::Timestamp {
        let (ran, back) = (self.began.elapsed(), Duration::from_secs(self.set_back.load(Ordering::SeqCst)));
        let later = jiff::Timestamp::from_second(10_000_000).unwrap() + ran;
        later - back
    }
}

impl Good {
    /// Whether an answer with this text and age is this one.
    fn is(&self, text: &str, age: Duration) -> bool {
        let elapsed = self.since.elapsed();
        self.text == text && elapsed <= age && age <= elapsed + self.slack
    }
}

impl Model {
    fn new(seed: u64, off: Option<Rule>) -> Self {
        let (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>) = (Arc::new(SystemClock), Arc::default());
        let leases = leases(&clock, &metrics);
        let state = State {
            weather: Weather::Good,
            versions: 0,
            removed: Vec::new(),
            denied: Vec::new(),
            refused: Vec::new(),
            slow: Duration::ZERO,
            calls: 0,
            asked: None,
            trouble: Trouble::None,
        };
        let policies = POLICIES.map(|text| Policy::parse(&yaml::parse(text).unwrap(), &[], &mut Faults::default()));
        let backends = empty();
        let world = Arc::new(World(Mutex::new(state)));
        let (policies, good, shut) = (policies.into(), HashMap::new(), HashMap::new());
        let clock = Arc::new(Wall { began: Instant::now(), set_back: AtomicU64::new(0) });
        let folder = crate::backend::testing::folder();
        std::fs::write(folder.path().join("key"), [7; 32]).unwrap();
        let archive = None;
        let mut model = Self {
            world,
            backends,
            policies,
            policy: 0,
            config: 0,
            folder,
            clock,
            archive,
            good,
            shut,
            dice: seed,
            mounts: 0,
            metrics,
            leases,
            off,
        };
        model.start();
        model
    }

    fn sealed(&self) -> Arc<Sealed> {
        let keys = vec![self.folder.path().join("key")];
        Sealed::open(&SealedConfig { dir: self.folder.path().join("cache"), keys, bytes: 1 << 20 }).unwrap()
    }

    /// A process begins: all it has from the former one is on the disk.
    fn start(&mut self) {
        self.backends.stacks.clear();
        (self.archive, self.backends.archive) = (None, None);
        let archive = Archive::at_once(&self.sealed(), &(Arc::clone(&self.clock) as Arc<dyn Clock>));
        archive.switch_off(self.off);
        (self.archive, self.backends.archive) = (Some(Arc::clone(&archive)), Some(archive));
        for (_, good) in self.good.values_mut() {
            good.slack = STALE / 8;
        }
        self.build(self.config, 64);
        self.review();
    }

    /// What is on the disk must not be given now.
    async fn nothing_serves(&mut self, why: &str) -> Result<(), String> {
        let weather = std::mem::replace(&mut self.world().weather, Weather::Out(Fault::Unavailable));
        for (account, name) in (0..ACCOUNTS.len()).flat_map(|account| NAMES.map(|name| (account, name))) {
            let deadline = Instant::now() + Duration::from_mins(1);
            let terms = Terms { tokens: Arc::new(PodTokens::default()), fresh: None, max_stale: None, payer: None, deadline };
            if let Some(Ok(fetched)) = self.ask(&pod_of((account, 0)), name, &terms).await {
                return Err(format!("{why}: {:?}", fetched.source));
            }
        }
        self.world().weather = weather;
        self.world().trouble = Trouble::On;
        Ok(())
    }

    /// The daemon starts while the clock is wrong, or with a disk that it cannot write. Later all is well again.
    async fn odd_start(&mut self) -> Result<(), String> {
        let is_clock = self.roll(2) == 0;
        if is_clock {
            self.clock.set_back.store(48 * 3600, Ordering::SeqCst);
        }
        self.start();
        if !is_clock {
            self.archive.as_ref().unwrap().fails();
        }
        self.nothing_serves(if is_clock { "the clock is behind" } else { "the disk cannot be written" }).await?;
        self.clock.set_back.store(0, Ordering::SeqCst);
        self.start();
        Ok(())
    }

    /// The admin wipes everything with this prefix.
    async fn wipe(&mut self) {
        let prefix = ["", "kv/", "own/", "kv/b"][self.roll(4)];
        let target = if prefix.is_empty() { Target::All } else { Target::Backend("bao".parse().unwrap(), prefix.to_owned()) };
        wipe(&self.sealed(), &target, self.clock.now()).unwrap();
        advance(Duration::from_millis(1)).await;
        // Fresh answers are not affected: they are the store's latest, and end within `fresh`.
        self.good.retain(|(_, name), _| !name.starts_with(prefix));
        advance(FRESH).await;
    }

    /// A number below `n`.
    fn roll(&mut self, n: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.dice >> 33).unwrap() % n
    }

    fn world(&self) -> std::sync::MutexGuard<'_, State> {
        self.world.0.lock().unwrap()
    }

    /// The stack of a configuration: `config` says which store it is, and with which login.
    fn build(&mut self, config: usize, calls: usize) {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let parts = BackendParts {
            clock: &clock,
            metrics: &self.metrics,
            leases: &self.leases,
            kept: Ceilings::of(64 << 20),
            archive: self.archive.as_ref(),
        };
        let store = BackendConfig::File(FileConfig { vault: format!("/{config}").into(), identity: Vec::new() });
        let cache = Some(CacheConfig { fresh: FRESH, stale: STALE });
        let plan = StackPlan { config: store, calls, secret_bytes: 1 << 20, cache, kept: 8 << 20, clients: 0, held: 1 << 20 };
        let name: BackendName = "bao".parse().unwrap();
        let answers = plan.answers(&name, parts, self.backends.stacks.get(&name));
        let circuits = plan.circuits(&name, parts, self.backends.stacks.get(&name));
        let top = plan.decorate(Arc::clone(&self.world) as Arc<dyn Backend>, &name, parts, answers.as_ref(), circuits.as_ref());
        answers.as_ref().unwrap().switch_off(self.off);
        self.backends.stacks.insert(name, Stack { top, answers, circuits, plan: Some(plan) });
        self.config = config;
    }

    fn allows(&self, pod: &Arc<PodIdentity>, name: &str) -> bool {
        self.policies[self.policy].of(pod).decide(&secret(name)).is_ok()
    }

    /// Another configuration applies: another policy, another store, or both the same.
    fn reload(&mut self, policy: usize, config: usize, calls: usize) {
        self.policy = policy;
        if config != self.config {
            self.good.clear();
            self.shut.clear();
        }
        self.build(config, calls);
        self.review();
    }

    /// The current policy applies.
    fn review(&mut self) {
        let policies = &self.policies[self.policy];
        self.backends.review(&|pod, secrets| {
            let rules = policies.of(pod);
            secrets.iter().map(|secret| rules.decide(secret).is_ok()).collect()
        });
        let denied: Vec<Place> =
            self.good.iter().filter(|((_, name), (pod, _))| !self.allows(&pod_of(*pod), name)).map(|(place, _)| place.clone()).collect();
        for place in denied {
            self.good.remove(&place);
        }
    }

    /// Asks like a mount: policy first. `None`: policy denies it.
    async fn ask(&self, pod: &Arc<PodIdentity>, name: &str, cx: &Terms) -> Option<Result<Fetched, BackendError>> {
        let plan = Arc::new(Plan { secrets: vec![secret(name)], ..Plan::default() });
        let permits = self.policies[self.policy].of(pod).grant(&plan).ok()?.permits(pod, &plan)?;
        match self.backends.recall(&permits, cx).pop().flatten() {
            Some(known) => Some(Ok(known)),
            None => Some(self.backends.fetch(&permits, 0, cx).await),
        }
    }

    /// One mount; returns what is wrong with its answer.
    async fn mount(&mut self) -> Result<(), String> {
        self.mounts += 1;
        let (pod, name) = ((self.roll(ACCOUNTS.len()), self.roll(2)), NAMES[self.roll(NAMES.len())]);
        let fresh = [None, Some(Duration::ZERO)][self.roll(2)];
        let max_stale = [None, None, Some(Duration::from_mins(30)), Some(Duration::from_hours(48))][self.roll(4)];
        let deadline = Instant::now() + Duration::from_mins(1);
        let terms = Terms { tokens: Arc::new(PodTokens::default()), fresh, max_stale, payer: None, deadline };
        let slow = if self.roll(8) == 0 { Duration::from_millis(800) } else { Duration::ZERO };
        self.world().slow = slow;
        let (identity, before) = (pod_of(pod), self.world().calls);
        let scope = self.world.scope(&secret(name), &identity);
        // Something may happen while the store works on its answer.
        let meanwhile = self.roll(4);
        let mut was_slow = false;
        let answer = {
            let mut asking = std::pin::pin!(self.ask(&identity, name, &terms));
            if let Ok(answer) = timeout(Duration::from_millis(100), &mut asking).await {
                answer
            } else {
                was_slow = self.world().calls > before;
                match meanwhile {
                    _ if !was_slow => {}
                    0 => self.backends.stacks.values().next().unwrap().top.forget(&identity.uid, deadline).await,
                    1 => self.backends.review(&|_, secrets| vec![true; secrets.len()]),
                    _ => {}
                }
                asking.await
            }
        };
        self.world().slow = Duration::ZERO;
        let (called, weather, asked) = {
            let state = self.world();
            (state.calls > before, state.weather, state.asked)
        };
        if was_slow && meanwhile == 0 {
            self.good.retain(|(kept, _), _| *kept != Scope::Pod(Arc::clone(&identity.uid)));
        }
        let Some(answer) = answer else {
            return if called || self.allows(&identity, name) { Err("a Pod without a permit".to_owned()) } else { Ok(()) };
        };
        let place = (scope.clone(), name);
        let good = self.good.get(&place).map(|(_, good)| good.clone());
        match answer {
            Ok(fetched) => {
                let value = fetched.secret.fields.values().next().unwrap().bytes.expose().to_vec();
                let text = String::from_utf8(value).unwrap();
                match &fetched.source {
                    Source::Store => {
                        if !called || weather != Weather::Good {
                            return Err(format!("{text}: nobody was asked"));
                        }
                        self.shut.insert(scope.clone(), false);
                        let gone = was_slow && (meanwhile == 1 || meanwhile == 0 && matches!(scope, Scope::Pod(_)));
                        if !gone {
                            self.good.insert(place, (pod, Good { text, since: asked.unwrap_or(deadline), slack: Duration::ZERO }));
                        }
                        Ok(())
                    }
                    Source::Fresh { age } => {
                        let is_same = good.as_ref().is_some_and(|good| good.text == text && good.since.elapsed() == *age);
                        if is_same && *age < FRESH && fresh.is_none() {
                            Ok(())
                        } else {
                            Err(format!("fresh: {text} of {age:?} and {good:?}"))
                        }
                    }
                    Source::Stale { age, .. } => {
                        let trouble = self.world().trouble;
                        let told =
                            format!("stale: {text} of {age:?} in {weather:?}, {max_stale:?}, {good:?}, {trouble:?}, called: {called}");
                        let bound = max_stale.unwrap_or(STALE).min(STALE);
                        let is_same = good.is_some_and(|good| good.is(&text, *age));
                        let is_out = if called { matches!(weather, Weather::Out(_)) } else { self.is_spared() };
                        let is_shut = self.shut.get(&scope).is_some_and(|shut| *shut);
                        if is_same && is_out && *age < bound && !is_shut { Ok(()) } else { Err(told) }
                    }
                }
            }
            Err(error) => {
                let bound = max_stale.unwrap_or(STALE).min(STALE);
                let could = good.filter(|good| good.since.elapsed() + good.slack < bound);
                self.refused(&error, &place, could).map_err(|wrong| format!("{wrong} in {weather:?}"))
            }
        }
    }

    /// A mount failed with this error. `could` is the answer that is young enough to be given instead.
    fn refused(&mut self, error: &BackendError, place: &Place, could: Option<Good>) -> Result<(), String> {
        let (scope, name) = place;
        match error.fault {
            Fault::Unauthenticated => _ = self.shut.insert(scope.clone(), true),
            Fault::Denied | Fault::NotFound => {
                self.shut.insert(scope.clone(), false);
                self.good.remove(place);
            }
            Fault::Down | Fault::NoLogin | Fault::Throttled | Fault::TimedOut | Fault::Unavailable => {
                if let Some(good) = could.filter(|_| self.shut.get(scope) != Some(&true)) {
                    return Err(format!("{name}: {good:?} could have been given"));
                }
            }
            Fault::Corrupt | Fault::Invalid | Fault::NoTurn | Fault::Short | Fault::TooLarge | Fault::Unhelpful | Fault::Unsupported => {}
        }
        Ok(())
    }

    /// Whether the store need not be asked: it was out when it was last asked, or an outage has just ended.
    fn is_spared(&self) -> bool {
        match self.world().trouble {
            Trouble::None => false,
            Trouble::On => true,
            Trouble::Over(at) => at.elapsed() < FRESH + Duration::from_secs(15),
        }
    }

    /// One step: most are mounts.
    async fn step(&mut self) -> Result<(), String> {
        match self.roll(44) {
            0 => self.world().versions += 1,
            1..=3 => self.world().weather = Weather::Good,
            4 => self.world().weather = Weather::Out([Fault::Unavailable, Fault::TimedOut, Fault::Throttled, Fault::Down][self.roll(4)]),
            5 => self.world().weather = Weather::Odd([Fault::Corrupt, Fault::Invalid, Fault::Unhelpful, Fault::TooLarge][self.roll(4)]),
            6 => {
                let name = NAMES[self.roll(NAMES.len())];
                self.world().removed.push(name);
            }
            7 => self.world().removed.clear(),
            8 => {
                let denied = (self.roll(ACCOUNTS.len()), NAMES[self.roll(NAMES.len())]);
                self.world().denied.push(denied);
            }
            9 => self.world().denied.clear(),
            10 => {
                let account = self.roll(ACCOUNTS.len());
                self.world().refused.push(account);
            }
            11 => self.world().refused.clear(),
            12 => {
                let (policy, calls) = (self.roll(POLICIES.len()), 60 + self.roll(4));
                let config = if self.roll(4) == 0 { self.roll(2) } else { self.config };
                self.reload(policy, config, calls);
            }
            13 => {
                let pod = pod_of((self.roll(ACCOUNTS.len()), self.roll(2)));
                self.backends.stacks.values().next().unwrap().top.forget(&pod.uid, Instant::now() + FRESH).await;
                self.good.retain(|(scope, _), _| *scope != Scope::Pod(Arc::clone(&pod.uid)));
            }
            14 | 15 => {
                let before = self.world().calls;
                let time = [1, 60, 1_000, 20_000][self.roll(4)];
                advance(Duration::from_secs(time)).await;
                if self.world().calls != before {
                    return Err("a store was asked without a mount".to_owned());
                }
            }
            16 => self.start(),
            17 => return self.odd_start().await,
            18 => self.wipe().await,
            _ => return self.mount().await,
        }
        Ok(())
    }

    /// The first wrong answer, and after how many mounts it came.
    async fn run(mut self, mounts: usize) -> Result<(), (usize, String)> {
        while self.mounts < mounts {
            self.step().await.map_err(|wrong| (self.mounts, wrong))?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_serves_an_outage_is_what_the_rules_allow() {
    for seed in 0..4 {
        let ran = Model::new(seed, None).run(5_000).await;
        assert_eq!(ran, Ok(()), "seed {seed}");
    }
}

/// The same for a million mounts: `make soak`.
#[tokio::test(start_paused = true)]
#[ignore = "takes minutes"]
async fn what_serves_an_outage_is_what_the_rules_allow_a_million_times() {
    for seed in 100..150 {
        let ran = Model::new(seed, None).run(20_000).await;
        assert_eq!(ran, Ok(()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_rule_that_is_switched_off_is_noticed() {
    for rule in Rule::ALL {
        let mut noticed = None;
        for seed in 0..20 {
            noticed = noticed.or(Model::new(seed, Some(rule)).run(1_200).await.err());
            if let Some((mounts, wrong)) = &noticed {
                println!("{rule:?}: seed {seed}, mount {mounts}: {wrong}");
                break;
            }
        }
        assert!(noticed.is_some(), "{rule:?}");
    }
}
