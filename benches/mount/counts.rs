//! What a process does for each mount, counted and not timed. callgrind counts user instructions and allocations, strace system calls.
//! The machine's other work does not change these figures.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyferry::server::proto::MountRequest;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Duration, Instant, sleep};

use crate::measure::{Client, Outcome, Process, connect_when_ready};

/// Mounts of the shorter and of the longer run. The difference is the cost of the mounts between, without start and end.
const SHORT: usize = 200;
const LONG: usize = 1_200;

/// The names of a request for memory: in jemalloc, and in the C library.
const ALLOCATIONS: [&str; 8] =
    ["_rjem_malloc", "_rjem_mallocx", "_rjem_calloc", "malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"];

/// The programs that count.
pub const TOOLS: [&str; 2] = ["valgrind", "strace"];

/// A server that is counted: how it is started, and where it answers.
pub struct Counted<'c> {
    pub what: &'c str,
    /// The words before the server's command line. They start a program that then becomes the server.
    pub before: Vec<String>,
    pub server: Vec<String>,
    pub socket: PathBuf,
    pub request: MountRequest,
}

pub fn heading() {
    println!("{:<54} {:>12} {:>10} {:>12} {:>8}", "each warm mount", "instructions", "mallocs", "futex calls", "stats");
}

impl Counted<'_> {
    /// Counts, and prints a row.
    #[allow(clippy::cast_precision_loss)] // figures for a person
    pub async fn count(&self, folder: &Path) -> Outcome<()> {
        let profiles = match self.instructions(folder, SHORT).await {
            Ok(short) => Ok((short, self.instructions(folder, LONG).await?)),
            Err(error) => Err(error),
        };
        let (calls, stats) = self.system_calls(folder).await?;
        let [instructions, mallocs] = match &profiles {
            Ok((short, long)) => {
                let each = |of: fn(&Profile) -> u64| format!("{:.0}", (of(long) - of(short)) as f64 / (LONG - SHORT) as f64);
                [each(|profile| profile.instructions), each(|profile| profile.allocations)]
            }
            Err(_) => ["-"; 2].map(str::to_owned),
        };
        println!("{:<54} {instructions:>12} {mallocs:>10} {calls:>12.2} {stats:>8.1}", self.what);
        if let Err(error) = profiles {
            println!("(valgrind cannot run it: {error})");
        }
        Ok(())
    }

    async fn instructions(&self, folder: &Path, mounts: usize) -> Outcome<Profile> {
        let out = profile(folder, self.what, mounts)?;
        let callgrind = ["valgrind", "--tool=callgrind", "--quiet"].map(str::to_owned);
        let out_option = format!("--callgrind-out-file={}", out.display());
        let server = self.start(callgrind.into_iter().chain([out_option]).collect())?;
        self.mount(&mut connect_when_ready(&self.socket).await?, mounts).await?;
        end(server).await?;
        Profile::read(&out)
    }

    /// futex and stat calls of each mount.
    #[allow(clippy::cast_precision_loss)] // figures for a person
    async fn system_calls(&self, folder: &Path) -> Outcome<(f64, f64)> {
        let out = folder.join("strace");
        let _ = fs::remove_file(&out);
        let wrap = ["strace", "-D", "-f", "-q", "-e", "trace=futex,statx,stat,newfstatat", "-o"].map(str::to_owned);
        let server = self.start(wrap.into_iter().chain([out.display().to_string()]).collect())?;
        let mut client = connect_when_ready(&self.socket).await?;
        let count = async || {
            sleep(Duration::from_millis(300)).await;
            let lines = fs::read_to_string(&out)?;
            let of = |call: &str| lines.lines().filter(|line| line.contains(call)).count();
            Ok::<_, std::io::Error>((of("futex("), of("stat")))
        };
        self.mount(&mut client, SHORT).await?;
        let before = count().await?;
        self.mount(&mut client, LONG).await?;
        let after = count().await?;
        end(server).await?;
        Ok(((after.0 - before.0) as f64 / LONG as f64, (after.1 - before.1) as f64 / LONG as f64))
    }

    fn start(&self, wrap: Vec<String>) -> Outcome<Process> {
        let _ = fs::remove_file(&self.socket);
        let line: Vec<String> = self.before.iter().cloned().chain(wrap).chain(self.server.iter().cloned()).collect();
        Ok(Process(Command::new(&line[0]).args(&line[1..]).stdout(Stdio::null()).spawn()?))
    }

    async fn mount(&self, client: &mut Client, mounts: usize) -> Outcome<()> {
        for _ in 0..mounts {
            client.mount(self.request.clone()).await?;
        }
        Ok(())
    }
}

/// The path of a profile. It stays in the folder that `PROFILES` names, which is made, for callgrind_annotate.
fn profile(folder: &Path, what: &str, mounts: usize) -> Outcome<PathBuf> {
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = std::env::var_os("PROFILES").map_or_else(|| folder.to_owned(), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("callgrind.{name}.{mounts}")))
}

/// Asks it to end, and waits until it has: then it has written what it counted.
async fn end(mut process: Process) -> Outcome<()> {
    kill_process(Pid::from_child(&process.0), Signal::TERM)?;
    let until = Instant::now() + Duration::from_secs(30);
    while process.0.try_wait()?.is_none() {
        if Instant::now() > until {
            return Err("the counted process does not end".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What callgrind counted from start to end.
struct Profile {
    instructions: u64,
    allocations: u64,
}

impl Profile {
    /// Reads a file of callgrind (its manual, "Callgrind Format Specification"): `cfn=(id) name` says what the next `calls=` line counts, and
    /// a name is written out only the first time.
    fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path)?;
        let (mut instructions, mut allocations) = (None, 0);
        let (mut names, mut called): (HashMap<&str, &str>, &str) = (HashMap::new(), "");
        for line in text.lines() {
            if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
                let (id, name) = function.split_once(' ').unwrap_or((function, ""));
                if !name.is_empty() {
                    names.insert(id, name.split('\'').next().unwrap_or(name));
                }
                if line.starts_with('c') {
                    called = names.get(id).copied().unwrap_or_default();
                }
            } else if let Some(calls) = line.strip_prefix("calls=") {
                if ALLOCATIONS.contains(&called) {
                    allocations += calls.split(' ').next().unwrap_or_default().parse::<u64>()?;
                }
            } else if let Some(total) = line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")) {
                instructions = Some(total.trim().parse()?);
            }
        }
        Ok(Self { instructions: instructions.ok_or("callgrind wrote no totals")?, allocations })
    }
}

/// The tool that is missing.
pub fn missing() -> Option<&'static str> {
    TOOLS.into_iter().find(|tool| Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err())
}
