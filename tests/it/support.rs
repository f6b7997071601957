//! A provider with the real binary in a temporary folder, with a vault, an issuer of tokens and a client: most tests start from it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{mem, thread};

use hyper_util::rt::TokioIo;
use keyferry::backend::store::file::Vault;
use keyferry::clock::{Clock, SystemClock};
use keyferry::identity::Issuer;
use keyferry::model::{Field, PodClaims, SecretBytes};
use keyferry::server::proto::csi_driver_provider_client::CsiDriverProviderClient;
use keyferry::server::proto::{MountRequest, MountResponse};
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub type Client = CsiDriverProviderClient<Channel>;

pub const ISSUER: &str = "https://oidc.example";

/// The place of a provider: everything is in one folder that goes with it.
pub struct House {
    pub folder: tempfile::TempDir,
    pub issuer: Issuer,
}

/// A running provider. Dropping it kills it.
pub struct Provider {
    child: Child,
    pub socket: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
}

impl House {
    /// An initialised vault with `shop/db` (username, password), a JWKS file, and a configuration with `extra` keys added.
    pub fn new(extra: &str) -> Self {
        let house = Self::bare();
        house.vault(&["init"]);
        house.vault(&["set", "shop/db", "username=app", "password=correct horse"]);
        house.configure("pods: { namespace: shop }\n    read: [\"files/shop/**\"]", extra);
        house
    }

    pub fn bare() -> Self {
        let house = Self { folder: crate::folder::new(), issuer: Issuer::new(ISSUER).unwrap() };
        fs::write(house.path("jwks.json"), house.issuer.jwks()).unwrap();
        house
    }

    /// Writes `keyferry.yaml`, with one policy rule.
    pub fn configure(&self, rule: &str, extra: &str) {
        let (root, uid) = (self.folder.path().display(), rustix::process::geteuid().as_raw());
        let identity = if extra.contains("identity:") {
            String::new()
        } else {
            format!("identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n")
        };
        let peers = if extra.contains("allowedPeers:") { String::new() } else { format!("allowedPeers: [{uid}]\n") };
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\n{peers}{identity}\
             backends: {{ files: {{ kind: file, vault: {root}/vault, identity: {root}/age.key }} }}\n\
             policy:\n  - {rule}\n{extra}\n"
        );
        fs::write(self.path("keyferry.yaml"), config).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `keyferry vault` on the house's vault.
    pub fn vault(&self, arguments: &[&str]) -> String {
        let output = keyferry()
            .arg("vault")
            .args(arguments)
            .env("KEYFERRY_VAULT", self.path("vault"))
            .env("KEYFERRY_IDENTITY", self.path("age.key"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "vault {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the daemon and waits until its socket accepts.
    pub fn serve(&self) -> Provider {
        self.serve_by(keyferry())
    }

    /// Starts the daemon as another user, who owns the whole house; where only root can do that, as the test's own user.
    pub fn serve_as(&self, uid: u32) -> Provider {
        if !rustix::process::geteuid().is_root() {
            return self.serve();
        }
        // The binary's own folder may be closed to others.
        let program = self.path("keyferry");
        fs::copy(env!("CARGO_BIN_EXE_keyferry"), &program).unwrap();
        let given = apart("chown").arg("-R").arg(uid.to_string()).arg(self.folder.path()).status().unwrap();
        assert!(given.success());
        let mut command = apart(program);
        command.uid(uid).gid(uid);
        self.serve_by(command)
    }

    /// Starts the daemon by another command, to which the daemon's arguments are added.
    pub fn serve_by(&self, mut command: Command) -> Provider {
        let mut child = command
            .arg("serve")
            .arg("--config")
            .arg(self.path("keyferry.yaml"))
            .stdout(self.audit_file())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let ready = follow(child.stderr.take().unwrap(), Arc::clone(&log));
        if ready.recv_timeout(std::time::Duration::from_secs(20)).is_err() {
            let _ = child.kill();
            panic!("the provider never was ready:\n{}", log.lock().unwrap().join("\n"));
        }
        Provider { child, socket: self.path("sockets/keyferry.sock"), log }
    }

    fn audit_file(&self) -> fs::File {
        fs::OpenOptions::new().append(true).create(true).open(self.path("audit.jsonl")).unwrap()
    }

    /// The audit lines so far. A thread of its own writes them, maybe a moment after the answer is out. So this waits until there is at least one,
    /// and nothing has come for a while.
    #[allow(clippy::disallowed_methods)] // another process is waited for
    pub fn audit(&self) -> Vec<Value> {
        let began = Instant::now();
        let read = || fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        let mut text = read();
        loop {
            thread::sleep(Duration::from_millis(50));
            let before = mem::replace(&mut text, read());
            if (!text.is_empty() && before == text) || began.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn token(&self, pod: &PodClaims, audience: &str) -> String {
        self.issuer.token(pod, audience, Duration::from_hours(1), &SystemClock).unwrap()
    }

    /// What the driver would send for a class of these objects, with a good token.
    pub fn request(&self, pod: &PodClaims, objects: &str) -> MountRequest {
        let tokens = json!({ "keyferry": { "token": self.token(pod, "keyferry"), "expirationTimestamp": (SystemClock.now() + jiff::SignedDuration::from_secs(3600)).to_string() } });
        request(pod, json!({ "objects": objects, "csi.storage.k8s.io/serviceAccount.tokens": tokens.to_string() }))
    }
}

impl House {
    /// Sets a secret without a process of its own: quick, and with any bytes.
    pub fn set(&self, name: &str, fields: &[(&str, &[u8])]) {
        let field = |(name, bytes): &(&str, &[u8])| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new(bytes.to_vec())));
        let vault = Vault::open_for_writing(self.path("vault")).unwrap();
        vault.set(&name.parse().unwrap(), &fields.iter().map(field).collect()).unwrap();
    }

    /// The age recipient of the house's identity.
    pub fn recipient(&self) -> String {
        let identity = fs::read_to_string(self.path("age.key")).unwrap();
        identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
    }

    /// What the driver would send for these parameters, with a good token; a null removes an attribute.
    pub fn asking(&self, pod: &PodClaims, parameters: Value) -> MountRequest {
        let mut attributes = json!({ TOKENS: tokens(&[("keyferry", &self.token(pod, "keyferry"))]) });
        let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
        attributes.as_object_mut().unwrap().extend(parameters);
        request(pod, attributes)
    }

    /// Replaces a part of `keyferry.yaml`.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("keyferry.yaml")).unwrap();
        assert!(config.contains(from), "{from:?} is not in\n{config}");
        fs::write(self.path("keyferry.yaml"), config.replace(from, to)).unwrap();
    }
}

/// The key under which kubelet sends tokens.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The text kubelet sends there, for pairs of audience and token.
pub fn tokens(pairs: &[(&str, &str)]) -> String {
    let entry = |(audience, token): &(&str, &str)| {
        ((*audience).to_owned(), json!({ "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" }))
    };
    Value::Object(pairs.iter().map(entry).collect()).to_string()
}

/// The Pod `web-0` of ServiceAccount `web` in namespace `shop`.
pub fn web() -> PodClaims {
    pod("shop", "web-0", "web")
}

pub fn pod(namespace: &str, name: &str, service_account: &str) -> PodClaims {
    PodClaims {
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("uid-{namespace}-{name}"),
        service_account: service_account.into(),
    }
}

/// A request with these attributes in addition to those of kubelet; a null removes one.
pub fn request(pod: &PodClaims, attributes: Value) -> MountRequest {
    let mut all: Map<String, Value> = serde_json::from_value(json!({
        "secretProviderClass": "shop",
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": pod.name,
        "csi.storage.k8s.io/pod.namespace": pod.namespace,
        "csi.storage.k8s.io/pod.uid": pod.uid,
        "csi.storage.k8s.io/serviceAccount.name": pod.service_account,
    }))
    .unwrap();
    let Value::Object(more) = attributes else { panic!("attributes are an object") };
    all.extend(more);
    all.retain(|_, value| !value.is_null());
    MountRequest {
        attributes: Value::Object(all).to_string(),
        secrets: "null".to_owned(),
        target_path: format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/secrets/mount", pod.uid),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    }
}

impl Provider {
    pub async fn client(&self) -> Client {
        connect(&self.socket).await.unwrap()
    }

    /// One mount on a connection of its own.
    pub async fn mount(&self, request: MountRequest) -> Result<MountResponse, Status> {
        self.client().await.mount(request).await.map(tonic::Response::into_inner)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM, and the exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// A GET on the metrics endpoint, whose address is in the ready line: status line, headers and body.
    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let log = self.log();
        let ready = log.lines().find(|line| is_ready(line)).unwrap();
        let address: String = ready[ready.find("127.0.0.1:").unwrap()..].chars().take_while(|c| !matches!(c, '"' | ' ')).collect();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{error}: {ready}"));
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Every refusal is in the log, word for word: so this looks at all that any test has provoked.
        if !std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let debug: Vec<_> = log.iter().filter(|line| debug_text(line).is_some()).collect();
            assert!(debug.is_empty(), "a message shows how something looks in memory: {debug:?}");
            if let Some(root) = self.socket.parent().and_then(Path::parent) {
                crate::audit::schema::hold(&root.join("audit.jsonl"));
            }
        }
    }
}

/// What Rust's `Debug` looks like, and no sentence does.
pub fn debug_text(text: &str) -> Option<&'static str> {
    const SIGNS: [&str; 10] = ["Other(", "Some(", "Err(", "Ok(", "Os {", "Custom {", "Error(", "Error {", "Kind(", "kind: Other"];
    SIGNS.into_iter().find(|sign| text.contains(sign))
}

pub async fn connect(socket: &Path) -> Result<Client, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(CsiDriverProviderClient::new(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?))
}

pub fn keyferry() -> Command {
    apart(env!("CARGO_BIN_EXE_keyferry"))
}

/// The daemon's command on a node without a driver and outside of a Pod, whatever this machine is. It runs in a mount namespace of its own, which
/// hides the files of kubelet and of a driver. The script runs there first.
pub fn on_a_bare_node(script: &str) -> Command {
    let folders = "/etc/kubernetes /var/run/secrets /var/run/secrets-store-csi-providers";
    let hide = format!("for folder in {folders}; do [ ! -d $folder ] || mount -t tmpfs tmpfs $folder || exit 3; done");
    let mut command = apart("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["sh", "-c", &format!("{hide}\n{script}\nexec \"$0\" \"$@\"")]).arg(env!("CARGO_BIN_EXE_keyferry"));
    command
}

/// A command without the environment of the machine that runs the tests: proxies, `KEYFERRY_*`, what kubelet gives a Pod, locale. `PATH` and
/// `TMPDIR` stay, and also the variable that says where coverage is written to.
pub fn apart(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(["PATH", "TMPDIR", "LLVM_PROFILE_FILE"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// The files of an answer as `path mode contents`.
pub fn shown(answer: &MountResponse) -> Vec<String> {
    answer.files.iter().map(|file| format!("{} {:04o} {}", file.path, file.mode, String::from_utf8_lossy(&file.contents))).collect()
}

/// Whether it is the line "ready", in JSON or as text. Other lines of JSON may have this word in their message.
fn is_ready(line: &str) -> bool {
    line.contains("\"message\":\"ready\"") || !line.starts_with('{') && line.contains(" ready ")
}

/// Gathers the log, and reports when the line "ready" came.
fn follow(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>) -> std::sync::mpsc::Receiver<()> {
    let (ready, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let was_ready = is_ready(&line);
            log.lock().unwrap().push(line);
            if was_ready {
                let _ = ready.send(());
            }
        }
    });
    received
}

/// Runs a command with input; its exit code, output and errors.
pub fn run(command: &mut Command, input: &str) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input breaks the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

// === Other ways to start, and to ask ===

impl House {
    /// The daemon's command line, for a test in which it must end by itself.
    pub fn serve_command(&self) -> Command {
        let mut command = keyferry();
        command.arg("serve").arg("--config").arg(self.path("keyferry.yaml"));
        command
    }
}

impl Provider {
    /// One mount on a connection of its own, with the caller's deadline sent along.
    pub async fn mount_within(&self, request: MountRequest, limit: Duration) -> Result<MountResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(limit);
        self.client().await.mount(request).await.map(tonic::Response::into_inner)
    }

    /// Where the metrics are served; the configuration has to say `metrics: { listen: "127.0.0.1:0" }`.
    pub fn metrics_address(&self) -> String {
        let log = self.log();
        let ready = log.lines().find(|line| line.contains("\"message\":\"ready\"")).unwrap();
        serde_json::from_str::<Value>(ready).unwrap()["metrics"].as_str().unwrap().to_owned()
    }

    /// The count on a metric's line, by the line's beginning; 0 where it is not there (yet).
    pub async fn metric(&self, name: &str) -> u64 {
        let text = http(&self.metrics_address(), "GET", "/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// A line of `/proc/PID/status`, in its own unit.
    pub fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// SIGTERM, and the exit status. Unlike [`Provider::stop`], it lets this test's own connections close in order meanwhile.
    pub async fn end(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_within(Duration::from_secs(20)).await
    }

    /// The exit status, waited for at most this long.
    pub async fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let ended = tokio::time::timeout(limit, async {
            loop {
                match self.child.try_wait().unwrap() {
                    Some(status) => return status,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        ended.await.unwrap_or_else(|_| panic!("the provider still runs after {limit:?}:\n{}", self.log()))
    }
}

/// An answer of the metrics endpoint.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// One request over HTTP/1.1, on a connection of its own.
pub async fn http(address: &str, method: &str, path: &str) -> HttpAnswer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    HttpAnswer { status, content_type: content_type.to_owned(), body: body.to_owned() }
}

/// Waits until the condition is true, at most 10 s.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), polled).await.unwrap_or_else(|_| panic!("not within 10 s: {what}"));
}

/// A program of `.venv/bin`.
pub fn tool(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join(".venv/bin").join(name);
    assert!(program.exists(), "no .venv/bin/{name}: run `make tools` in {}", root.display());
    apart(program)
}

/// None of the codes that make kubelet keep the folder (`docs/errors.md`: The trap).
pub fn assert_no_trap(status: &Status) {
    use tonic::Code;
    let trap = [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled];
    assert!(!trap.contains(&status.code()), "{status:?}");
}

/// Set in the child that has a mount namespace of its own: the folder it may mount in.
const INSIDE: &str = "KEYFERRY_TEST_MOUNTS_IN";

/// Runs a test's body where it may mount: the test runs itself again inside a mount namespace of its own, so that no mount is seen
/// outside or left behind. Without root it takes a user namespace too. `test` is the test's own full name.
pub fn with_mounts(test: &str, body: fn(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return body(Path::new(&dir));
    }
    let dir = crate::folder::new();
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let child = apart("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(user)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, dir.path())
        .output()
        .expect("this test needs `unshare` (apt install util-linux)");
    let shown = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && shown.contains("1 passed"), "inside a mount namespace ({}): {shown}", child.status);
}

/// Mounts a tmpfs. It is gone with the namespace.
pub fn tmpfs(at: &Path, options: &str) -> PathBuf {
    fs::create_dir_all(at).unwrap();
    mount(&["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]);
    at.to_owned()
}

pub fn mount(args: &[&str]) {
    let mounted = apart("mount").args(args).output().unwrap();
    assert!(mounted.status.success(), "mount {args:?}: {mounted:?}");
}

/// Every file below a folder whose name ends in `.<kind>`, sorted.
pub fn files_below(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == kind) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
