//! What a local user could block, remove or replace: the lock with which daemons start, the sockets and their folder.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::time::{Duration, Instant, sleep};

use crate::hang::SLOW;
use crate::support::{House, Provider, connect, eventually, http, keyferry, run, shown, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";
const DB_SHOWN: [&str; 1] = ["password 0644 correct horse"];
const METRICS: &str = "metrics: { listen: \"127.0.0.1:0\" }";

/// A daemon that may never be ready.
struct Start {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Start {
    fn of(house: &House) -> Self {
        Self::by(house.serve_command())
    }

    fn by(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        Self { child, log }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    async fn says(&self, words: &str) {
        eventually(words, async || self.log().contains(words)).await;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    async fn ends_within(&mut self, limit: Duration) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The log's last lines are still on their way through the thread.
                sleep(Duration::from_millis(50)).await;
                return status.code();
            }
            assert!(began.elapsed() < limit, "it still runs after {limit:?}:\n{}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn assert_serves(house: &House, provider: &Provider) {
    assert_eq!(shown(&provider.mount(house.request(&web(), DB)).await.unwrap()), DB_SHOWN);
}

// === The lock ===

#[tokio::test]
async fn locks_on_what_any_user_can_open_keep_nobody_from_starting() {
    let house = House::new("");
    for folder in ["sockets", "state"] {
        fs::create_dir(house.path(folder)).unwrap();
    }
    for kind in [FlockOperation::LockShared, FlockOperation::LockExclusive] {
        let held: Vec<File> =
            ["sockets", "state", ".", "keyferry.yaml", "vault"].iter().map(|name| File::open(house.path(name)).unwrap()).collect();
        for file in &held {
            flock(file, kind).unwrap();
        }
        let began = Instant::now();
        let provider = house.serve();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_serves(&house, &provider).await;
        assert!(provider.end().await.success());
    }
}

/// A process that can open the lock's file: root, or a daemon that hangs.
fn held(house: &House) -> File {
    fs::create_dir_all(house.path("state")).unwrap();
    let file = File::create(house.path("state/start.lock")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

#[tokio::test]
async fn who_waits_for_the_lock_says_so_hears_signals_and_goes_on_when_it_is_free() {
    let house = House::new("");
    let lock = held(&house);
    for signal in [Signal::TERM, Signal::INT] {
        let mut start = Start::of(&house);
        start.says("waiting for another process").await;
        start.signal(signal);
        assert_eq!(start.ends_within(Duration::from_secs(2)).await, Some(0), "{}", start.log());
        assert!(start.log().contains("stopped before it was ready"), "{}", start.log());
    }
    let start = Start::of(&house);
    start.says("waiting for another process").await;
    // As long as a former daemon may need for the mounts under way.
    sleep(Duration::from_secs(12)).await;
    drop(lock);
    start.says("\"message\":\"ready\"").await;
    assert_eq!(start.log().matches("waiting for").count(), 1, "{}", start.log());
}

#[tokio::test]
async fn a_lock_that_is_never_given_up_ends_the_start_with_the_holders_name() {
    let house = House::new("");
    let _lock = held(&house);
    let mut start = Start::of(&house);
    assert_eq!(start.ends_within(Duration::from_secs(30)).await, Some(2), "{}", start.log());
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let last = start.log().lines().last().unwrap().to_owned();
    let steady = last
        .replace(house.folder.path().to_str().unwrap(), "ROOT")
        .replace(&std::process::id().to_string(), "PID")
        .replace(name.trim_end(), "NAME");
    insta::assert_snapshot!(steady, @"error: stateDir: ROOT/state/start.lock: process PID (NAME) has held the lock for 20 s (end it, unless it is a Keyferry that is about to start)");
}

/// A file system that never answers, at the start. The daemon is the first process of a container, so only a signal that it handles ends it in time.
#[tokio::test]
async fn a_start_that_hangs_hears_signals() {
    let house = House::new("");
    house.reconfigure(
        &format!("identity: {}/age.key", house.folder.path().display()),
        &format!("identity: {}/vault/{SLOW}/age.key", house.folder.path().display()),
    );
    let place = house.path("vault").join(SLOW);
    fs::create_dir_all(&place).unwrap();
    let mut command = house.hanging_command();
    command.arg("serve").arg("--config").arg(house.path("keyferry.yaml"));
    let mut start = Start::by(command);
    sleep(Duration::from_millis(1500)).await;
    assert!(start.child.try_wait().unwrap().is_none(), "{}", start.log());
    start.signal(Signal::TERM);
    assert_eq!(start.ends_within(Duration::from_secs(3)).await, Some(0), "{}", start.log());
}

#[tokio::test]
async fn of_many_daemons_with_one_socket_folder_one_serves() {
    let house = House::new("");
    let config = fs::read_to_string(house.path("keyferry.yaml")).unwrap();
    let starts: Vec<Start> = (0..6)
        .map(|number| {
            let file = house.path(&format!("{number}.yaml"));
            fs::write(&file, config.replace("/state", &format!("/state-{number}"))).unwrap();
            let mut command = keyferry();
            command.arg("serve").arg("--config").arg(file);
            Start::by(command)
        })
        .collect();
    let settled = |start: &Start| start.log().contains("\"message\":\"ready\"") || start.log().contains("socketDir: ");
    eventually("all have settled", async || starts.iter().all(settled)).await;
    let ready: Vec<&Start> = starts.iter().filter(|start| start.log().contains("\"message\":\"ready\"")).collect();
    assert_eq!(ready.len(), 1, "{}", starts.iter().map(Start::log).collect::<Vec<_>>().join("\n"));
    for start in starts.iter().filter(|start| !start.log().contains("\"message\":\"ready\"")) {
        assert!(start.log().contains("another provider is listening there"), "{}", start.log());
    }
    let mut client = connect(&house.path("sockets/keyferry.sock")).await.unwrap();
    assert_eq!(shown(client.mount(house.request(&web(), DB)).await.unwrap().get_ref()), DB_SHOWN);
    assert_eq!(fs::read_dir(house.path("sockets")).unwrap().count(), 1, "nothing else is left there");
}

// === The folder ===

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a refused start says, without what differs from run to run.
fn refused(house: &House) -> String {
    let (code, _, said) = run(&mut house.serve_command(), "");
    let gid = rustix::process::getegid().as_raw();
    let said = said.replace(house.folder.path().to_str().unwrap(), "ROOT").replace(&format!("group {gid} "), "group GID ");
    format!("{code}: {}\n", said.trim_end().replace(&format!("chown -h {} ", geteuid().as_raw()), "chown -h US "))
}

#[tokio::test]
async fn a_socket_folder_that_others_can_change_is_refused() {
    let house = House::new("");
    let at = |name: &str| house.path(name);
    fs::create_dir_all(at("above/sockets")).unwrap();
    for name in ["above", "above/sockets"] {
        mode(&at(name), 0o755);
    }
    house.reconfigure("/sockets", "/above/sockets");
    let mut all = String::new();
    for (name, bits) in [("above/sockets", 0o1777), ("above/sockets", 0o775), ("above", 0o777), ("above", 0o775), (".", 0o777)] {
        mode(&at(name), bits);
        all += &refused(&house);
        mode(&at(name), if name == "." { 0o700 } else { 0o755 });
    }
    // A link in place of the folder, even if nobody else could have made it.
    fs::rename(at("above/sockets"), at("above/real")).unwrap();
    symlink("real", at("above/sockets")).unwrap();
    all += &refused(&house);
    fs::remove_file(at("above/sockets")).unwrap();
    fs::write(at("above/sockets"), "").unwrap();
    all += &refused(&house);
    fs::remove_file(at("above/sockets")).unwrap();
    // The state folder too: a user who can write it has the lock and the keys.
    mode(&at("state"), 0o777);
    all += &refused(&house);
    insta::assert_snapshot!(all, @"
    2: error: socketDir: ROOT/above/sockets: every user can write this folder (mode 1777), so any of them can replace what Keyferry puts there (chmod o-w ROOT/above/sockets)
    2: error: socketDir: ROOT/above/sockets: group GID can write this folder (mode 0775), so its users can replace what Keyferry puts there (chmod g-w ROOT/above/sockets)
    2: error: socketDir: ROOT/above: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w ROOT/above)
    2: error: socketDir: ROOT/above: group GID can write this folder (mode 0775), so its users can replace what Keyferry puts there (chmod g-w ROOT/above)
    2: error: stateDir: ROOT: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w ROOT)
    2: error: socketDir: ROOT/above/sockets: is a link to real (name the folder itself)
    2: error: socketDir: ROOT/above/sockets: is not a folder (remove it, or name another)
    2: error: stateDir: ROOT/state: every user can write this folder (mode 0777), so any of them can replace what Keyferry puts there (chmod o-w ROOT/state)
    ");
    mode(&at("state"), 0o700);
    // On the way, links of our own are allowed, as /var/run is one; and so is a folder that everyone can write, if its sticky bit is set.
    mode(&at("above"), 0o1777);
    symlink("above", at("run")).unwrap();
    house.reconfigure("/above/sockets", "/run/sockets");
    let provider = house.serve();
    assert!(at("above/sockets/keyferry.sock").exists());
    let mut client = connect(&at("run/sockets/keyferry.sock")).await.unwrap();
    assert_eq!(shown(client.mount(house.request(&web(), DB)).await.unwrap().get_ref()), DB_SHOWN);
    drop(provider);
}

#[test]
fn a_socket_folder_of_another_user_is_refused() {
    if !geteuid().is_root() {
        // Here nobody can give a file to another user. But root's own folders are always there, and nobody can make what is below them.
        return;
    }
    let house = House::new("");
    let at = |name: &str| house.path(name);
    fs::create_dir_all(at("above/sockets")).unwrap();
    house.reconfigure("/sockets", "/above/sockets");
    let give = |name: &str, uid| std::os::unix::fs::lchown(at(name), Some(uid), None).unwrap();
    let mut all = String::new();
    for name in ["above/sockets", "above", "."] {
        give(name, 12345);
        all += &refused(&house);
        give(name, 0);
    }
    symlink("above", at("link")).unwrap();
    give("link", 12345);
    house.reconfigure("/above/sockets", "/link/sockets");
    all += &refused(&house);
    insta::assert_snapshot!(all, @"
    2: error: socketDir: ROOT/above/sockets: belongs to user 12345, who can replace what Keyferry puts there (chown -h US ROOT/above/sockets)
    2: error: socketDir: ROOT/above: belongs to user 12345, who can replace what Keyferry puts there (chown -h US ROOT/above)
    2: error: stateDir: ROOT: belongs to user 12345, who can replace what Keyferry puts there (chown -h US ROOT)
    2: error: socketDir: ROOT/link: belongs to user 12345, who can replace what Keyferry puts there (chown -h US ROOT/link)
    ");
}

// === The sockets ===

#[tokio::test]
async fn a_socket_that_is_replaced_or_taken_away_is_noticed() {
    let house = House::new(METRICS);
    let provider = house.serve();
    let address = provider.metrics_address();
    let ready = async || {
        let answer = http(&address, "GET", "/readyz").await;
        format!("{} {}", answer.status, answer.body.replace(house.folder.path().to_str().unwrap(), "ROOT"))
    };
    let displaced = async |count| {
        eventually("the metric follows", async || provider.metric("keyferry_sockets_displaced").await == count).await;
    };
    assert_eq!(ready().await, "200 ok\n");
    displaced(0).await;
    let aside = house.path("sockets/aside");
    fs::rename(&provider.socket, &aside).unwrap();
    let gone = ready().await;
    displaced(1).await;
    let other = std::os::unix::net::UnixListener::bind(&provider.socket).unwrap();
    let replaced = ready().await;
    eventually("the log says so", async || provider.log().contains("was replaced")).await;
    displaced(1).await;
    fs::rename(&aside, &provider.socket).unwrap();
    assert_eq!(ready().await, "200 ok\n");
    displaced(0).await;
    insta::assert_snapshot!(gone + &replaced, @"
    503 socket ROOT/sockets/keyferry.sock: is gone (restart the provider)
    503 socket ROOT/sockets/keyferry.sock: was replaced: clients that connect there do not reach this provider (find out what replaced it, then restart the provider)
    ");
    drop(other);
    // Each change is said once, however often somebody asks.
    sleep(Duration::from_secs(6)).await;
    let log = provider.log();
    for (words, times) in [("the socket is gone", 1), ("the socket was replaced", 1), ("in its place again", 1)] {
        assert_eq!(log.matches(words).count(), times, "{words}:\n{log}");
    }
    // The daemon's own end is not a loss.
    assert_serves(&house, &provider).await;
}

#[tokio::test]
async fn a_group_with_users_that_may_not_ask_is_warned_of() {
    let house = House::new("socketMode: \"0660\"");
    let mut command = keyferry();
    if geteuid().is_root() {
        // Where its own group has users, such as `daemon` (passwd(5)).
        command.gid(1);
    } else {
        let uid = geteuid().as_raw();
        house.reconfigure(&format!("allowedPeers: [{uid}]"), "allowedPeers: [0]");
    }
    let provider = house.serve_by(command);
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let gid = if geteuid().is_root() { "1".to_owned() } else { rustix::process::getegid().as_raw().to_string() };
    let expected = users.lines().filter(|line| line.split(':').nth(3) == Some(&gid)).count();
    assert_eq!(provider.log().matches("socketMode 0660 lets the group").count(), expected.min(1), "{}", provider.log());
    let closed = House::new("");
    assert!(!closed.serve().log().contains("socketMode"));
}
