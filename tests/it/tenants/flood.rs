//! Calls at full rate: as many in flight as the test asks for, one after the other without a pause, as a driver with many Pods makes them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyferry::server::proto::{MountRequest, MountResponse};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tonic::{Code, Status};

use crate::support::{Client, connect};

/// Kubelet's patience with one mount.
pub const KUBELETS: Duration = Duration::from_mins(2);

/// How calls were answered: by the Code of the message (`OK`, `TooLarge` ...), how often.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub codes: BTreeMap<String, usize>,
    /// The first message of each.
    pub words: BTreeMap<String, String>,
    /// Those with a code of the trap.
    pub trapped: Vec<String>,
    pub longest: Duration,
}

/// Collects answers.
pub type Told = Arc<Mutex<Answers>>;

/// What one tenant asks for: the call of each number, made when it is its turn.
pub type Calls = Arc<dyn Fn(usize) -> MountRequest + Send + Sync>;

/// What a crowd asks for: the calls in turn, over one connection, this many at once.
#[derive(Clone)]
pub struct Flood {
    pub at_once: usize,
    pub calls: Calls,
}

/// These calls, round and round.
pub fn in_turn(calls: Vec<MountRequest>) -> Calls {
    Arc::new(move |number| calls[number % calls.len()].clone())
}

impl Flood {
    pub fn new(at_once: usize, calls: Calls) -> Self {
        Self { at_once, calls }
    }

    /// Goes on until it is dropped, which gives up what is in flight, or until the daemon has ended.
    pub async fn run(&self, socket: &Path, told: &Told) {
        let Ok(client) = connect(socket).await else { return };
        let next = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..self.at_once {
            callers.spawn(call_on(client.clone(), Arc::clone(&self.calls), Arc::clone(&next), Arc::clone(told)));
        }
        while callers.join_next().await.is_some() {}
    }
}

async fn call_on(mut client: Client, calls: Calls, next: Arc<AtomicUsize>, told: Told) {
    loop {
        let call = calls(next.fetch_add(1, Ordering::Relaxed));
        let began = Instant::now();
        let answer = client.mount(patiently(call)).await.map(tonic::Response::into_inner);
        told.lock().unwrap().add(began.elapsed(), &answer);
        // A daemon that has ended answers nothing else.
        if answer.is_err_and(|status| status.code() == Code::Unavailable) {
            return;
        }
    }
}

/// With the deadline that kubelet gives.
pub fn patiently(request: MountRequest) -> tonic::Request<MountRequest> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(KUBELETS);
    request
}

impl Answers {
    pub fn add(&mut self, took: Duration, answer: &Result<MountResponse, Status>) {
        self.longest = self.longest.max(took);
        let (code, words) = match answer {
            Ok(_) => ("OK".to_owned(), String::new()),
            Err(status) => (named(status), status.message().chars().take(200).collect()),
        };
        *self.codes.entry(code.clone()).or_default() += 1;
        self.words.entry(code).or_insert(words);
        if let Err(status) = answer
            && is_trap(status.code())
        {
            self.trapped.push(format!("{:?}: {}", status.code(), status.message()));
        }
    }

    pub fn of(&self, code: &str) -> usize {
        self.codes.get(code).copied().unwrap_or_default()
    }

    pub fn all(&self) -> usize {
        self.codes.values().sum()
    }
}

/// What kubelet takes for "may still be going on" (`docs/errors.md`: The trap).
fn is_trap(code: Code) -> bool {
    [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled].contains(&code)
}

/// The Code in front of the message, otherwise gRPC's own.
fn named(status: &Status) -> String {
    let word: String = status.message().chars().take_while(char::is_ascii_alphabetic).collect();
    let is_ours = status.message()[word.len()..].starts_with(": ") && !is_trap(status.code());
    if is_ours { word } else { format!("{:?}", status.code()) }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes: Vec<_> = self.codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let codes = if codes.is_empty() { "no answer".to_owned() } else { codes.join(", ") };
        write!(f, "{codes}, longest {:.2} s", self.longest.as_secs_f64())
    }
}
