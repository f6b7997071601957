//! A real PostgreSQL of a test's own, for the server's `database` engine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::daemon::{Daemon, free_port, outliving_as};
use super::eventually;

/// The database server. It is gone when dropped.
pub struct Postgres {
    /// Of [`Postgres::ADMIN`].
    pub password: String,
    port: u16,
    folder: TempDir,
    programs: Programs,
    daemon: Mutex<Option<Daemon>>,
}

/// The programs, and the user who runs them.
struct Programs {
    folder: PathBuf,
    /// The folders of libraries that this machine has not installed.
    libraries: Option<PathBuf>,
    /// If root runs the tests: the user of the server, because the server refuses to be root.
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// The superuser.
    pub const ADMIN: &str = "postgres";

    /// Starts one at a free port of 127.0.0.1, and waits until it takes queries. It asks for passwords over TCP.
    pub async fn start() -> Self {
        let folder = crate::folder::new();
        let mut postgres = Self { password: "admin".to_owned(), port: 0, folder, programs: Programs::found(), daemon: Mutex::default() };
        postgres.initialise();
        for _ in 0..10 {
            postgres.port = free_port();
            if postgres.run().await {
                return postgres;
            }
        }
        panic!("PostgreSQL does not start:\n{}", postgres.log());
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Of the process that runs.
    pub fn pid(&self) -> u32 {
        self.daemon.lock().unwrap().as_ref().unwrap().pid()
    }

    /// Ends it at once: it cuts connections, then refuses them. Its data stays.
    pub fn stop(&self) {
        if let Some(daemon) = self.daemon.lock().unwrap().take() {
            end(daemon);
        }
    }

    /// Starts it again at the same address.
    pub async fn start_again(&self) {
        assert!(self.run().await, "PostgreSQL does not start again:\n{}", self.log());
    }

    /// Runs SQL as the superuser. Returns what it prints, without decoration.
    pub fn sql(&self, query: &str) -> String {
        let output = self.psql(&self.folder.path().display().to_string(), Self::ADMIN, "", query);
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Whether a login works. It asks the server as any client would. A server that is down fails the test.
    pub fn lets_in(&self, user: &str, password: &str) -> bool {
        let output = self.psql("127.0.0.1", user, password, "select 1");
        let refusal = String::from_utf8_lossy(&output.stderr);
        let refused = refusal.contains("password authentication failed") || refusal.contains("does not exist");
        assert!(output.status.success() || refused, "psql fails otherwise: {refusal}");
        output.status.success()
    }

    fn psql(&self, host: &str, user: &str, password: &str, query: &str) -> Output {
        let mut psql = Command::new(self.programs.folder.join("psql"));
        psql.env_clear().envs(self.programs.environment()).env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
        psql.args(["-X", "-q", "-A", "-t", "-w", "-h", host, "-U", user, "-d", "postgres", "-c", query])
            .arg("-p")
            .arg(self.port.to_string());
        psql.output().unwrap()
    }

    fn initialise(&self) {
        let secret = self.path("password");
        fs::write(&secret, &self.password).unwrap();
        if let Some((uid, gid)) = self.programs.user {
            for path in [self.folder.path(), &secret] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.path("data")).arg("--pwfile").arg(secret).args(["-U", Self::ADMIN, "--auth-local=trust"]);
        command.args(["--auth-host=scram-sha-256", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]);
        let made = command.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    }

    async fn run(&self) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path("data")).arg("-k").arg(self.folder.path()).arg("-p").arg(self.port.to_string());
        // Nothing here must survive a power cut. The shared memory is in files of the folder, and goes with it.
        for setting in ["fsync=off", "dynamic_shared_memory_type=mmap", "shared_buffers=16MB", "autovacuum=off", "max_wal_size=64MB"] {
            command.arg("-c").arg(setting);
        }
        command.arg("-c").arg("listen_addresses=127.0.0.1").stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = Daemon::spawn(command);
        let mut ended = false;
        let socket = self.folder.path().display().to_string();
        eventually("PostgreSQL takes queries or ends", async || {
            ended = daemon.has_ended();
            ended || self.is_ready() && self.psql(&socket, Self::ADMIN, "", "select 1").status.success()
        })
        .await;
        *self.daemon.lock().unwrap() = (!ended).then_some(daemon);
        !ended
    }

    /// Whether the server itself says that it takes connections (the last line of its lock file). This is cheaper than psql.
    fn is_ready(&self) -> bool {
        fs::read_to_string(self.path("data/postmaster.pid")).is_ok_and(|text| text.trim_end().ends_with("ready"))
    }

    fn command(&self, program: &str) -> Command {
        let options = self.programs.as_user();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut command = outliving_as(&self.programs.folder.join(program), Signal::QUIT, &options);
        command.envs(self.programs.environment()).current_dir(self.folder.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// SIGQUIT: the immediate shutdown, which leaves no process and no shared memory (PostgreSQL, "Shutting Down the Server").
fn end(daemon: Daemon) {
    daemon.end(Signal::QUIT);
}

impl Programs {
    /// What `tests/install-postgresql.sh` found or fetched, otherwise what is in `PATH`.
    fn found() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let recorded = fs::read_to_string(root.join(".tools/postgresql/where")).unwrap_or_default();
        let mut lines = recorded.lines().filter(|line| !line.is_empty()).map(|line| root.join(line));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folder = lines.next().into_iter().chain(std::env::split_paths(&path)).find(|folder| folder.join("initdb").exists());
        let folder = folder.unwrap_or_else(|| panic!("this test needs PostgreSQL: run `make tools` in {}", root.display()));
        Self { folder, libraries: lines.next(), user: geteuid().is_root().then(unprivileged) }
    }

    fn environment(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.libraries.iter().map(|folder| ("LD_LIBRARY_PATH", folder.as_path()))
    }

    /// Options of `setpriv`. What was fetched may be below a folder that only root can open, such as /root. One capability opens it, and the
    /// securebit makes access(2) use the capability too.
    fn as_user(&self) -> Vec<String> {
        let Some((uid, gid)) = self.user else { return Vec::new() };
        let mut options = vec![format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
        if self.libraries.is_some() {
            let led = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"];
            options.extend(led.map(str::to_owned));
        }
        options
    }
}

/// The uid and gid of `postgres`, or of `nobody` where that user does not exist: the server needs one that has a name.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = |name: &str| {
        let mut fields = users.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?.skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    user("postgres").or_else(|| user("nobody")).expect("neither a user `postgres` nor `nobody` is in /etc/passwd: make one")
}
