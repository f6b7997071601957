//! A trial: the victim beside honest mounts, then beside hostile ones, then the daemon alone; and the verdict.

use std::fmt;
use std::path::{Path, PathBuf};

use keyferry::server::proto::MountRequest;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::flood::{Answers, Flood, Told, in_turn};
use super::kind::{Kind, together};
use super::meter::{Memory, Meter};
use super::node::{Limits, MIB, Node};
use super::victim::{Tale, Victim};
use crate::support::Provider;

/// One at a time. If the tests are threads of one process, this does it. If they are processes, nextest's configuration does it.
static ALONE: Mutex<()> = Mutex::const_new(());

pub async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// How long the honest take.
const HONEST: Duration = Duration::from_secs(1);

/// A mount of the victim's may take this long at most, or [`TIMES`] what it takes beside honest mounts.
const LONGEST: Duration = Duration::from_secs(1);
const TIMES: f64 = 5.0;

/// How soon it is back.
const SOON: Duration = Duration::from_secs(10);

/// Codes with which Keyferry may refuse every kind: they are the defence.
const REFUSALS: [&str; 3] = ["BackendTimeout", "Overloaded", "TooLarge"];

/// What a trial is made of.
pub struct Trial {
    pub node: Node,
    /// What the victim asks for: one file, of [`super::node::SMALL_VALUE`].
    pub victim: Vec<MountRequest>,
    /// What as many honest callers ask for.
    pub honest: Vec<MountRequest>,
    /// How long the hostile go on; and then until the victim's last mount has ended.
    pub time: Duration,
    /// Volumes that the daemon writes itself: their pages count as its own. Empty: the driver writes.
    pub volumes: Vec<PathBuf>,
}

/// What was seen.
pub struct Verdict {
    kind: &'static str,
    limits: Limits,
    idle: Memory,
    honest: (Answers, Tale),
    pub hostile: (Answers, Tale),
    /// Codes the hostile calls may have besides [`REFUSALS`].
    may: &'static [&'static str],
    /// As [`Meter::peak`].
    peak: u64,
    killed: Option<Duration>,
    /// `None`: the daemon has ended.
    after: Option<Memory>,
    back_after: Option<Duration>,
    /// What work under way still uses of the pots, in words.
    drawn: Vec<String>,
    /// The daemon's.
    pub log: String,
}

impl Trial {
    /// With a small secret of that backend for the victim and for the honest.
    pub fn new(node: Node, backend: &str) -> Self {
        let (victim, honest) = (node.small("victim", 4, backend, "db"), node.small("honest", 64, backend, "db"));
        Self { node, victim, honest, time: Duration::from_secs(2), volumes: Vec::new() }
    }

    /// The attack goes on until it is dropped; one that ends by itself ends the trial. `at_once`: how many honest callers it is compared with.
    /// `may`: the Codes that its calls may be answered with, besides those of the defence.
    pub async fn run(
        self,
        kind: &'static str,
        at_once: usize,
        may: &'static [&'static str],
        attack: impl AsyncFnOnce(&Path, &Told),
    ) -> Verdict {
        let provider = self.node.house.serve();
        self.run_on(provider, kind, at_once, may, attack).await
    }

    /// On a daemon that runs already, such as one started in another way.
    pub async fn run_on(
        self,
        provider: Provider,
        kind: &'static str,
        at_once: usize,
        may: &'static [&'static str],
        attack: impl AsyncFnOnce(&Path, &Told),
    ) -> Verdict {
        let _alone = alone().await;
        let mut victim = Victim::start(&self.node, &self.victim, self.volumes.is_empty()).await;
        provider.mount(self.victim[0].clone()).await.unwrap();
        let idle = Memory::of(provider.pid()).unwrap();
        let meter = Meter::start(provider.pid(), self.node.limits.memory, self.volumes);

        let honest = Flood::new(at_once, in_turn(self.honest));
        let honest = beside(&mut victim, HONEST, async |told| honest.run(&provider.socket, told).await).await;
        let began = Instant::now();
        let hostile = beside(&mut victim, self.time, async |told| attack(&provider.socket, told).await).await;
        let back_after = back(&meter, idle, self.node.limits.left()).await;
        let drawn = if meter.now().is_some() { drawn(&provider).await } else { Vec::new() };
        Verdict {
            kind,
            limits: self.node.limits,
            idle,
            honest,
            hostile,
            may,
            peak: meter.peak(),
            killed: meter.killed().map(|at| at.saturating_duration_since(began)),
            after: meter.now(),
            back_after,
            drawn,
            log: provider.log(),
        }
    }
}

/// The victim beside others, who go on until its last mount has ended.
async fn beside(victim: &mut Victim, time: Duration, others: impl AsyncFnOnce(&Told)) -> (Answers, Tale) {
    let told = Told::default();
    victim.begin().await;
    let mut others = Box::pin(others(&told));
    let tale = if timeout(time, &mut others).await.is_ok() {
        victim.end().await
    } else {
        tokio::select! {
            tale = victim.end() => tale,
            () = async { others.await; std::future::pending().await } => unreachable!("it pends"),
        }
    };
    let answers = told.lock().unwrap().clone();
    (answers, tale)
}

/// Waits until the daemon has no more than when it was idle; how long that took.
async fn back(meter: &Meter, idle: Memory, left: u64) -> Option<Duration> {
    let began = Instant::now();
    loop {
        if meter.now()?.own <= idle.own + left {
            return Some(began.elapsed());
        }
        if began.elapsed() > SOON {
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until work under way uses nothing of the pots, as long as for the memory. Returns what it still uses then.
async fn drawn(provider: &Provider) -> Vec<String> {
    let began = Instant::now();
    loop {
        let Ok(answer) = timeout(SOON, provider.get("/metrics")).await else { return vec!["the metrics do not answer".to_owned()] };
        let of_what_runs = |line: &&str| {
            let running = ["calls", "mounts"].iter().any(|pot| line.starts_with(&format!("keyferry_memory_used_bytes{{pot=\"{pot}\"}}")));
            running || line.starts_with("keyferry_mounts_in_flight")
        };
        let drawn: Vec<_> = answer.lines().filter(of_what_runs).filter(|line| !line.ends_with(" 0")).map(ToOwned::to_owned).collect();
        if drawn.is_empty() || began.elapsed() > SOON {
            return drawn;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let cut = |line: &&str| line.chars().take(300).collect::<String>();
    lines[lines.len().saturating_sub(5)..].iter().map(cut).collect::<Vec<_>>().join("\n")
}

// === impl Verdict ===

impl Verdict {
    /// Prints what was seen, for a person who runs the tests with `--no-capture`.
    #[allow(clippy::print_stdout)]
    pub fn assert(&self) {
        println!("{self}");
        let faults = self.faults();
        assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), tail(&self.log));
    }

    /// What does not hold.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let (beside_honest, beside_hostile) = (&self.honest.1, &self.hostile.1);
        let (answered, answers) = (&self.honest.0, &self.hostile.0);
        if answered.of("OK") == 0 || answered.of("OK") != answered.all() || beside_honest.served == 0 {
            faults.push(format!("this trial is worth nothing: honest mounts were not served: {:?}", answered.words));
        }
        match (self.killed, self.after) {
            (Some(after), _) => faults.push(format!("the daemon was killed for its memory after {:.2} s", after.as_secs_f64())),
            (None, None) => faults.push("the daemon has ended".to_owned()),
            (None, Some(_)) => {}
        }
        let longest = (TIMES * beside_honest.longest).max(LONGEST.as_secs_f64() * 1e3);
        if beside_hostile.longest >= longest {
            faults.push(format!("a mount of the victim took {:.2} s of at most {:.2} s", beside_hostile.longest / 1e3, longest / 1e3));
        }
        if beside_hostile.stuck || beside_hostile.served == 0 || !beside_hostile.failures.is_empty() {
            faults.push(format!("the victim was not served: {:?}", &beside_hostile.failures[..beside_hostile.failures.len().min(3)]));
        }
        let unexpected: Vec<_> =
            answers.words.iter().filter(|(code, _)| !self.may.contains(&code.as_str()) && !REFUSALS.contains(&code.as_str())).collect();
        if self.killed.is_none() && !unexpected.is_empty() {
            faults.push(format!("hostile calls were answered otherwise than they should be: {unexpected:?}"));
        }
        if self.killed.is_none() && !answers.trapped.is_empty() {
            faults.push(format!("hostile calls were answered with a code of the trap: {:?}", answers.trapped[0]));
        }
        if self.peak >= self.limits.most() {
            faults.push(format!("the daemon had {} of at most {}", shown(self.peak), shown(self.limits.most())));
        }
        if self.after.is_some() && self.back_after.is_none() {
            faults.push(format!("the daemon kept {} more than when it was idle", shown(self.kept())));
        }
        if !self.drawn.is_empty() {
            faults.push(format!("nothing runs, and something is drawn: {}", self.drawn.join(", ")));
        }
        faults
    }

    fn kept(&self) -> u64 {
        self.after.map_or(0, |after| after.own.saturating_sub(self.idle.own))
    }
}

fn shown(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // to one digit
    let mib = bytes as f64 / MIB as f64;
    format!("{mib:.1} MiB")
}

/// The story, in four lines.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kind)?;
        writeln!(f, "  honest: {}; the victim: {}", self.honest.0, self.honest.1)?;
        writeln!(f, "  hostile: {}; the victim: {}", self.hostile.0, self.hostile.1)?;
        let killed = self.killed.map_or(String::new(), |after| format!(", killed after {:.2} s", after.as_secs_f64()));
        let back = self.back_after.map_or("never".to_owned(), |after| format!("after {:.1} s", after.as_secs_f64()));
        let (idle, file, most, kept) = (shown(self.idle.own), shown(self.idle.file), shown(self.peak), shown(self.kept()));
        write!(f, "  memory: idle {idle} and {file} of the file, most {most}{killed}, {kept} kept, back {back}")
    }
}

/// Honest callers can pass what the trial judges.
#[tokio::test(flavor = "multi_thread")]
async fn honest_mounts_pass_for_hostile_ones() {
    let kind = |backend| Kind {
        name: "honest",
        at_once: 64,
        may: &["OK"],
        victims: backend,
        calls: |node, namespace| {
            node.set_small(namespace, "db");
            together(["files", "bao"].map(|backend| in_turn(node.small(namespace, 8, backend, "db"))).into())
        },
    };
    for backend in ["files", "bao"] {
        kind(backend).try_out().await;
    }
}
