//! The victim: a process of its own, which mounts one small class again and again and reports the longest time.
//!
//! It is this test binary once more. So the cost of the hostile calls to this process, which makes them, does not count as the daemon's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use keyferry::server::proto::{MountRequest, MountResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::flood::patiently;
use super::node::{Node, SMALL, SMALL_VALUE};
use crate::support::{apart, connect};

/// Between two mounts of the victim: it must not be a load itself.
const PAUSE: Duration = Duration::from_millis(5);

/// How long it still waits for the mount under way when the trial is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Set in the victim's process: the file with what it asks for.
const INSIDE: &str = "KEYFERRY_TEST_VICTIM";

/// The running process.
pub struct Victim {
    child: Child,
    orders: ChildStdin,
    tales: Lines<BufReader<ChildStdout>>,
}

/// What happened to the victim.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Tale {
    pub served: usize,
    /// In milliseconds.
    pub longest: f64,
    /// Every mount that failed, or gave something else than the secret.
    pub failures: Vec<String>,
    /// Whether a mount was under way for longer than the victim waits.
    pub stuck: bool,
}

impl Victim {
    /// Starts one that asks for these in turn. Each gets one file of [`SMALL_VALUE`], or none if the daemon writes the volumes itself.
    pub async fn start(node: &Node, requests: &[MountRequest], answered: bool) -> Self {
        let asks = requests.iter().map(|one| json!([one.attributes, one.secrets, one.target_path, one.permission]));
        let told = json!({ "socket": node.house.path("sockets/keyferry.sock"), "asks": asks.collect::<Vec<_>>(), "answered": answered });
        let file = node.house.path("victim.json");
        fs::write(&file, told.to_string()).unwrap();
        let mut command = apart(std::env::current_exe().unwrap());
        command.args(["--exact", "tenants::victim::a_victim_that_nobody_hurts_is_always_served", "--nocapture", "--test-threads=1"]);
        command.env(INSIDE, &file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let (orders, tales) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut victim = Self { child, orders, tales };
        victim.told("ready").await;
        victim
    }

    pub async fn begin(&mut self) {
        self.order("begin").await;
    }

    pub async fn end(&mut self) -> Tale {
        self.order("end").await;
        serde_json::from_str(&self.told("tale ").await).unwrap()
    }

    async fn order(&mut self, word: &str) {
        self.orders.write_all(format!("{word}\n").as_bytes()).await.unwrap();
    }

    /// The rest of the next line that begins so.
    async fn told(&mut self, beginning: &str) -> String {
        while let Some(line) = self.tales.next_line().await.unwrap() {
            // libtest writes "test ... " before it without a line's end.
            if let Some((_, rest)) = line.split_once(&format!("victim: {beginning}")) {
                return rest.to_owned();
            }
        }
        panic!("the victim has ended by itself: {:?}", self.child.wait().await);
    }
}

#[test]
fn a_victim_that_nobody_hurts_is_always_served() {
    if let Some(file) = std::env::var_os(INSIDE) {
        return play(Path::new(&file));
    }
    alone();
}

#[tokio::main]
async fn alone() {
    let node = Node::new(SMALL);
    let _provider = node.house.serve();
    let mut victim = Victim::start(&node, &node.small("victim", 2, "files", "db"), true).await;
    for _ in 0..2 {
        victim.begin().await;
        sleep(Duration::from_millis(300)).await;
        let tale = victim.end().await;
        assert!(tale.served > 1 && tale.failures.is_empty() && !tale.stuck && tale.longest > 0.0, "{tale:?}");
    }
    // It also says so if it does not get what is its own.
    let mut victim = Victim::start(&node, &node.small("hostile", 1, "files", "db"), true).await;
    victim.begin().await;
    assert_eq!(victim.end().await.failures, [""; 0]);
    let mut victim = Victim::start(&node, &node.pods("victim", 1, "files", "- { secret: hostile/db, path: password }\n"), true).await;
    victim.begin().await;
    let tale = victim.end().await;
    assert!(tale.served == 0 && tale.failures[0].starts_with("PermissionDenied: PolicyDenied: "), "{tale:?}");
}

// === In the victim's process ===

#[allow(clippy::print_stdout)] // that is how it answers
#[tokio::main(flavor = "current_thread")]
async fn play(file: &Path) {
    let told: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let requests: Vec<MountRequest> = told["asks"].as_array().unwrap().iter().map(request).collect();
    let (socket, answered) = (PathBuf::from(told["socket"].as_str().unwrap()), told["answered"].as_bool().unwrap());
    let mut orders = orders();
    println!("victim: ready");
    while orders.recv().await.is_some() {
        let course = Arc::new(Mutex::new(Course::default()));
        let mounting = tokio::spawn(mount_on(socket.clone(), requests.clone(), answered, Arc::clone(&course)));
        if orders.recv().await.is_none() {
            return;
        }
        course.lock().unwrap().over = true;
        let ended = timeout(PATIENCE, mounting).await;
        let mut course = course.lock().unwrap();
        if let (Err(_), Some(began)) = (ended, course.under_way) {
            course.tale.stuck = true;
            course.tale.took(began.elapsed());
        }
        println!("victim: tale {}", serde_json::to_string(&course.tale).unwrap());
    }
}

/// How it goes.
#[derive(Default)]
struct Course {
    tale: Tale,
    under_way: Option<Instant>,
    over: bool,
}

async fn mount_on(socket: PathBuf, requests: Vec<MountRequest>, answered: bool, course: Arc<Mutex<Course>>) {
    let mut client = connect(&socket).await.unwrap();
    for request in requests.iter().cycle() {
        let began = Instant::now();
        course.lock().unwrap().under_way = Some(began);
        let answer = client.mount(patiently(request.clone())).await.map(tonic::Response::into_inner);
        {
            let mut course = course.lock().unwrap();
            course.under_way = None;
            course.tale.took(began.elapsed());
            match failure(&answer, answered) {
                None => course.tale.served += 1,
                Some(failure) => course.tale.failures.push(failure),
            }
            // It has seen that the daemon is gone. More of the same says nothing.
            if course.over || course.tale.failures.len() > 20 {
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

/// What is wrong with an answer.
fn failure(answer: &Result<MountResponse, tonic::Status>, answered: bool) -> Option<String> {
    match answer {
        Err(status) => Some(format!("{:?}: {}", status.code(), status.message())),
        Ok(answer) => match answer.files.as_slice() {
            [] if !answered && answer.object_version.len() == 1 => None,
            [file] if answered && file.contents == SMALL_VALUE.as_bytes() => None,
            files => Some(format!("other files than its own: {}", files.len())),
        },
    }
}

impl Tale {
    fn took(&mut self, time: Duration) {
        self.longest = self.longest.max(time.as_secs_f64() * 1e3);
    }
}

fn request(told: &Value) -> MountRequest {
    let text = |at: usize| told[at].as_str().unwrap().to_owned();
    MountRequest { attributes: text(0), secrets: text(1), target_path: text(2), permission: text(3), current_object_version: Vec::new() }
}

/// The lines of the standard input, by a thread: it ends with the process.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (told, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| told.send(line).ok()));
    orders
}

/// For the story of a trial.
impl std::fmt::Display for Tale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { served, longest, failures, stuck } = self;
        let stuck = if *stuck { " and still under way" } else { "" };
        write!(f, "{served} served, {} not, longest {:.2} s{stuck}", failures.len(), longest / 1e3)
    }
}
