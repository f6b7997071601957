//! Processes that end with the test, ports to listen at, and threads in addition to the test's own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Duration;

/// A running program. Dropping it kills it, and waits for its end.
pub struct Daemon {
    child: Child,
    /// Keeps the thread that is the child's parent.
    _parent: mpsc::Sender<()>,
}

/// The command of a program that gets this signal when its parent dies, in any way. It sees nothing of the environment.
pub fn outliving(program: &Path, signal: Signal) -> Command {
    outliving_as(program, signal, &[])
}

/// The same with further options of `setpriv`.
pub fn outliving_as(program: &Path, signal: Signal, options: &[&str]) -> Command {
    let signal = if signal == Signal::KILL { "KILL" } else { "QUIT" };
    let mut command = Command::new("setpriv");
    command.args(options).args(["--pdeathsig", signal]).arg(program);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

impl Daemon {
    /// The signal comes when the parent's *thread* dies (prctl(2), `PR_SET_PDEATHSIG`). So the child gets a thread of its own as its parent: it
    /// outlives the test's function if several tests share it.
    pub fn spawn(mut command: Command) -> Self {
        let (give, take) = mpsc::channel();
        let (parent, until_dropped) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let _ = give.send(command.spawn());
            let _ = until_dropped.recv();
        });
        let child = take.recv().unwrap().expect("this test needs `setpriv` (apt-get install util-linux)");
        Self { child, _parent: parent }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        // It may have ended.
        let _ = kill_process(pid, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends the signal and waits for the end.
    pub fn end(mut self, signal: Signal) {
        self.signal(signal);
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 that is free now. It is below those that the kernel gives to clients (`ip_local_port_range`), so a server that is stopped for
/// a while finds it free again.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        let random = RandomState::new().hash_one(std::process::id());
        let port = 15_000 + u16::try_from(random % 16_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A thread with a runtime: what is spawned there goes on while the test blocks its own.
pub struct Elsewhere(Option<Runtime>);

impl Elsewhere {
    pub fn new() -> Self {
        Self(Some(Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().unwrap().handle()
    }

    /// Runs it there, and waits for its value.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (give, take) = mpsc::channel();
        self.handle().spawn(async move {
            let _ = give.send(future.await);
        });
        take.recv().unwrap()
    }
}

/// Cancels all that runs there. A runtime may not wait for that inside another, so this does not wait for the end.
impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// Waits until the condition is true, at most 20 s.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polled).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
}
