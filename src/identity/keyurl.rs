//! The address from which the issuer's keys are fetched: the API server's, or any issuer's. The keys are fetched in the background, kept
//! over restarts, and fetched again for an unknown key. The last fetched keys stay in force while no newer ones can be fetched: a network
//! that is down must not stop all mounts. An answer with an empty list removes all keys.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::attest::IdentityError;
use super::keys::KeySet;
use super::keystate::{KeptKeys, KeyState};
use crate::clock::Clock;
use crate::kube::{CALL, KubeClient};

/// Where the API server has the keys of its tokens (Kubernetes: "ServiceAccount issuer discovery").
pub(super) const API_SERVER_KEYS: &str = "/openid/v1/jwks";

/// How often keys are fetched, more or less by a quarter: so new keys are known before they sign, and withdrawn ones are forgotten.
const REFRESH: Duration = Duration::from_hours(1);

/// The least time between the starts of two fetches, whatever tokens come.
const LEAST: Duration = Duration::from_secs(10);

/// The longest time between two tries while they fail.
const MOST: Duration = Duration::from_mins(5);

/// Readiness reports keys that are older than this. They stay in force.
const OLD: SignedDuration = SignedDuration::from_hours(6);

/// How long a mount waits for a fetch: no longer than a call takes.
const PATIENCE: Duration = CALL.saturating_add(Duration::from_secs(1));

/// What the daemon needs after a 403 of an API server.
const ROLE: &str = "bind the ClusterRole system:service-account-issuer-discovery to the daemon's ServiceAccount";

/// What the daemon needs after a 403 of another server.
const LEAVE: &str = "let the daemon read it, or name a file with another token in identity.jwks.tokenFile";

/// The keys at an address. Dropping it ends the fetching.
#[derive(Debug)]
pub(super) struct KeyUrl {
    shared: Arc<Shared>,
    fetching: JoinHandle<()>,
}

struct Shared {
    url: String,
    /// The path that is fetched, below the client's base.
    path: String,
    client: KubeClient,
    clock: Arc<dyn Clock>,
    kept: KeyState,
    keys: ArcSwapOption<KeySet>,
    state: Mutex<State>,
    /// Asks for an early fetch.
    wake: Notify,
    /// Counts the finished fetches.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    running: bool,
    started: Option<Instant>,
    fetched: Option<Timestamp>,
    /// The text the keys come from.
    text: String,
    problem: Option<Problem>,
}

/// Why the last fetch gave no keys.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) remedy: String,
}

// === impl KeyUrl ===

impl KeyUrl {
    /// Starts to fetch, from inside a runtime. Keys of an earlier run are in force until then.
    pub(super) fn start(client: KubeClient, path: &str, kept: KeyState, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            url: format!("{}{path}", client.config().base),
            path: path.to_owned(),
            client,
            clock,
            kept,
            keys: ArcSwapOption::empty(),
            state: Mutex::default(),
            wake: Notify::new(),
            ended: watch::Sender::new(0),
        });
        shared.restore();
        let fetching = tokio::spawn(Arc::clone(&shared).keep_fetching());
        Self { shared, fetching }
    }

    pub(super) fn url(&self) -> &str {
        &self.shared.url
    }

    pub(super) fn recent(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    /// The keys, with this one among them if the issuer has it. For an unknown key they are fetched again, at most every 10 s for all
    /// tokens together.
    ///
    /// # Errors
    /// No keys have ever been fetched.
    pub(super) async fn for_key(&self, id: Option<&str>) -> Result<Arc<KeySet>, IdentityError> {
        let known = self.recent().filter(|keys| id.is_none() || keys.iter().any(|key| key.id() == id));
        if let Some(keys) = known {
            return Ok(keys);
        }
        self.shared.ask_again().await;
        self.recent().ok_or_else(|| self.shared.no_keys())
    }

    pub(super) fn health(&self) -> Result<(), String> {
        self.shared.health()
    }

    pub(super) fn fetched(&self) -> Option<Timestamp> {
        self.shared.state().fetched
    }
}

impl Drop for KeyUrl {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn restore(&self) {
        let Some(KeptKeys { fetched, jwks }) = self.kept.read() else { return };
        match KeySet::parse(jwks.as_bytes()) {
            Ok(keys) => {
                tracing::info!(url = self.url, %fetched, "the issuer's keys of an earlier run are in force until they are fetched again");
                self.keys.store(Some(Arc::new(keys)));
                let mut state = self.state();
                (state.fetched, state.text) = (Some(fetched), jwks);
            }
            Err(problem) => tracing::warn!(file = %self.kept.path().display(), "keys of an earlier run cannot be used: {problem}"),
        }
    }

    async fn keep_fetching(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            failures = if self.fetch().await { 0 } else { failures + 1 };
            self.pause(wait_after(failures)).await;
        }
    }

    /// Until the time has passed, or a token asks for an unknown key.
    async fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.wake.notified() => if self.state().may_start() { return },
            }
        }
    }

    async fn fetch(&self) -> bool {
        {
            let mut state = self.state();
            (state.running, state.started) = (true, Some(Instant::now()));
        }
        let fetched = download(&self.client, &self.path).await;
        let fine = match fetched {
            Ok((text, keys)) => self.succeeded(text, keys),
            Err(problem) => self.failed(problem),
        };
        self.state().running = false;
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
        fine
    }

    fn succeeded(&self, text: String, keys: KeySet) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        if state.problem.take().is_some() {
            tracing::info!(url = self.url, "the issuer's keys can be fetched again");
        }
        if self.keys.load().is_none() || state.text != text {
            tracing::info!(url = self.url, keys = keys.iter().count(), "the issuer's keys have been fetched, and are new");
            if keys.emptiness().is_some() {
                tracing::warn!(url = self.url, "the issuer's list has no usable key, tokens are refused");
            }
            if let Some(why) = keys.left_out() {
                tracing::warn!(url = self.url, "Keyferry does not use some keys of the issuer: {why}");
            }
            self.keys.store(Some(Arc::new(keys)));
        }
        state.fetched = Some(now);
        if let Err(problem) = self.kept.write(now, &text) {
            tracing::warn!(file = %self.kept.path().display(), "the issuer's keys cannot be kept for the next start: {problem}");
        }
        state.text = text;
        true
    }

    fn failed(&self, problem: Problem) -> bool {
        let mut state = self.state();
        if state.problem.as_ref() != Some(&problem) {
            let then = if self.keys.load().is_some() { "the former ones stay in force" } else { "mounts fail until they are there" };
            tracing::warn!("the issuer's keys cannot be fetched, {then}: {} ({})", problem.what, problem.remedy);
        }
        state.problem = Some(problem);
        false
    }

    /// Fetches the keys now, or waits for the running fetch: many callers make one call.
    async fn ask_again(&self) {
        // From here on, the end of a fetch cannot be missed.
        let mut ended = self.ended.subscribe();
        let (running, may_start) = {
            let state = self.state();
            (state.running, state.may_start())
        };
        if may_start {
            self.wake.notify_one();
        }
        if running || may_start {
            let _ = timeout(PATIENCE, ended.changed()).await;
        }
    }

    fn no_keys(&self) -> IdentityError {
        let problem = self.problem();
        IdentityError::new(
            "key",
            format!("the issuer's keys could not be fetched yet: {}", problem.what),
            format!("{}; kubelet tries again by itself", problem.remedy),
        )
    }

    fn health(&self) -> Result<(), String> {
        let problem = self.problem();
        let Some(fetched) = self.state().fetched else {
            return Err(format!("the issuer's keys could not be fetched yet: {} ({})", problem.what, problem.remedy));
        };
        if let Some(why) = self.keys.load().as_ref().and_then(|keys| keys.emptiness()) {
            return Err(format!("{}: {why}; no key is in force (see what the issuer lists there)", self.url));
        }
        let age = self.clock.now().duration_since(fetched);
        if age <= OLD {
            return Ok(());
        }
        Err(format!("the issuer's keys are {} h old, and stay in force: {} ({})", age.as_hours(), problem.what, problem.remedy))
    }

    fn problem(&self) -> Problem {
        let waiting = || Problem { what: format!("GET {}: no answer yet", self.url), remedy: "Keyferry waits for it".to_owned() };
        self.state().problem.clone().unwrap_or_else(waiting)
    }

    /// A panic elsewhere leaves at worst a state that the next fetch replaces.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_start(&self) -> bool {
        !self.running && self.started.is_none_or(|started| started.elapsed() >= LEAST)
    }
}

/// Fetches the keys once. `path` is below the client's base.
pub(super) async fn download(client: &KubeClient, path: &str) -> Result<(String, KeySet), Problem> {
    let right = if path == API_SERVER_KEYS { ROLE } else { LEAVE };
    let answer = client.get(path, right).await.map_err(|error| Problem { what: error.what(), remedy: error.remedy })?;
    let faulty = |what: String| Problem {
        what: format!("GET {}{path}: it answered with something other than keys: {what}", client.config().base),
        remedy: "check that the address is that of a JWKS".to_owned(),
    };
    let text = str::from_utf8(answer.expose()).map_err(|_| faulty("it is not text".to_owned()))?;
    let keys = KeySet::parse(text.as_bytes()).and_then(KeySet::listed).map_err(faulty)?;
    Ok((text.to_owned(), keys))
}

/// An hour; after failures 10 s, then longer and longer. More or less by a quarter, so that the nodes of a cluster do not call at the same
/// time.
fn wait_after(failures: u32) -> Duration {
    let wait = if failures == 0 { REFRESH } else { LEAST.saturating_mul(1 << (failures - 1).min(8)).min(MOST) };
    let mut random = [0; 1];
    // Without randomness all wait for the same time.
    let _ = aws_lc_rs::rand::fill(&mut random);
    wait.mul_f64(0.75 + f64::from(random[0]) / 512.0)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyUrl").field("url", &self.url).field("keys", &self.keys.load()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
