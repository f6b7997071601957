//! The daemon's configuration: one YAML file. It is read strictly; all faults are reported together, with line, key and remedy.
//!
//! Each module reads its own part (`FileConfig::parse`, `Policy::parse` ...): the meaning of a key is documented where the key is used.
//! This file has the top level, and the limits that several modules share.

mod audiences;
mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::time::Duration;

use crate::audit::AuditConfig;
use crate::backend::stack::sealed::SealedConfig;
use crate::backend::{BackendConfig, BackendSettings, Beside, CacheConfig, CacheTimes, Configured, LeasesConfig};
use crate::budget::Budget;
use crate::delivery::DeliveryMode;
use crate::files::absolute;
use crate::identity::{IdentityConfig, Verify};
use crate::model::{BackendName, LoginKey};
use crate::policy::{Named, Policy, Store};
use crate::server::SocketConfig;
use crate::telemetry::logs::LogConfig;
use crate::text::{self, NotText};
use crate::units::{parse_duration, parse_size};
use crate::yaml::{self, Fault, Faults, Node, Position, Reader};

mod dialects;

/// The provider names that are allowed: Keyferry's own, and those of the other providers whose classes it understands.
const PROVIDERS: [&str; 6] = ["keyferry", "vault", "openbao", "aws", "azure", "gcp"];

/// The largest configuration file in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The configuration, without faults. The files that it names are opened later, by the modules that use them.
#[derive(Clone, Debug)]
pub struct Config {
    pub sockets: SocketConfig,
    /// The node's state, mode 0700. Default `/var/lib/keyferry`.
    pub state_dir: PathBuf,
    /// Default `/var/lib/kubelet`.
    pub kubelet_dir: PathBuf,
    /// `None`: Keyferry makes one in the state folder.
    pub version_key: Option<PathBuf>,
    pub identity: IdentityConfig,
    pub backends: BTreeMap<BackendName, BackendConfig>,
    /// The backend for classes that name none. `None`: the only backend, if there is only one.
    pub default_backend: Option<BackendName>,
    pub policy: Policy,
    /// The backend for the classes of another provider, where this is not clear: `dialects.<name>.backend`.
    pub dialects: BTreeMap<String, BackendName>,
    pub limits: Limits,
    /// For backends on a network.
    pub cache: CacheConfig,
    /// Where leases are kept over a restart. `None`: nowhere.
    pub sealed: Option<SealedConfig>,
    pub leases: LeasesConfig,
    /// Who writes the volumes. Default: the driver.
    pub delivery: DeliveryMode,
    pub audit: AuditConfig,
    /// Where `/metrics` and the probes are served. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whether Keyferry sends Kubernetes Events for Pods. Default: no.
    pub events: bool,
    pub log: LogConfig,
}

/// The mapping under `limits`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The most objects in a class. Default 512.
    pub objects: usize,
    /// The most bytes of a class: keys and values of its parameters and of the volume's attributes. Default 256 KiB.
    pub class_bytes: usize,
    /// The most files of a volume. Default 4096.
    pub files: usize,
    /// The most bytes of one secret, and of one file. Default 1 MiB.
    pub secret_bytes: usize,
    /// The most bytes of one answer. Default 3.5 MiB: the driver accepts 4 MiB.
    pub mount_bytes: usize,
    /// The bytes of memory that the daemon may use; `None`: the limit of its cgroup, else 256 MiB.
    pub memory: Option<usize>,
    /// The bytes of this memory for volumes that the daemon writes itself; `None`: a quarter.
    pub volume_bytes: Option<usize>,
    /// The most mounts under way at once; the others wait. Default 512.
    pub mounts: usize,
    /// The most calls to one backend at once. Default 64.
    pub per_backend: usize,
    /// The longest a mount may take. Default 90 s; kubelet gives up after 2 minutes.
    pub timeout: Duration,
}

/// Why a configuration cannot be used. `Display` gives a line for each fault.
#[derive(Debug)]
pub enum ConfigError {
    Faults { file: PathBuf, faults: Vec<Fault> },
    Unreadable { file: PathBuf, cause: io::Error },
}

// === impl Config ===

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read; or everything that is wrong with it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Self::text(file)?).map_err(|faults| ConfigError::Faults { file: file.to_owned(), faults })
    }

    /// Reads a file's text, up to the largest size.
    ///
    /// # Errors
    /// The file cannot be read, or is not text.
    pub fn text(file: &Path) -> Result<String, ConfigError> {
        let bytes = read(file).map_err(|cause| ConfigError::Unreadable { file: file.to_owned(), cause })?;
        let not_text = |fault: NotText| vec![Fault { at: Position { line: 1, column: 1 }, key: String::new(), problem: fault.to_string() }];
        let text = text::read(&bytes).map(str::to_owned).map_err(not_text);
        text.map_err(|faults| ConfigError::Faults { file: file.to_owned(), faults })
    }

    /// Reads only `stateDir`, even if other keys have faults: a user who asks a running daemon what is wrong may have a faulty file.
    /// `None`: the key is absent.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or this key has a fault.
    pub fn state_dir(file: &Path) -> Result<Option<PathBuf>, ConfigError> {
        let refused = |faults| ConfigError::Faults { file: file.to_owned(), faults };
        let node = yaml::parse(&Self::text(file)?).map_err(|fault| refused(vec![fault]))?;
        let mut faults = Faults::default();
        let reader = Reader::of(&node, "", &mut faults);
        let dir = reader.and_then(|mut reader| path(&mut reader, "stateDir", &mut faults));
        if faults.is_empty() { Ok(dir) } else { Err(refused(faults.into_sorted())) }
    }

    /// Reads only `cache.sealed`, even if other keys have faults: a user who wipes it may be in a hurry. `None`: the key is absent.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or this key has a fault.
    pub fn sealed(file: &Path) -> Result<Option<SealedConfig>, ConfigError> {
        let refused = |faults| ConfigError::Faults { file: file.to_owned(), faults };
        let node = yaml::parse(&Self::text(file)?).map_err(|fault| refused(vec![fault]))?;
        let mut faults = Faults::default();
        let reader = Reader::of(&node, "", &mut faults);
        let sealed = reader.and_then(|mut reader| reader.reader("cache", &mut faults)).and_then(|mut cache| {
            let is_there = cache.get("sealed").is_some_and(|node| !node.is_null());
            if is_there { section(&mut cache, "sealed", &mut faults, SealedConfig::parse).flatten() } else { None }
        });
        if faults.is_empty() { Ok(sealed) } else { Err(refused(faults.into_sorted())) }
    }

    pub fn of_backends(&self) -> BackendSettings {
        BackendSettings { per_backend: self.limits.per_backend, secret_bytes: self.limits.secret_bytes, cache: self.cache }
    }

    /// Checks a text.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let node = yaml::parse(text).map_err(|fault| vec![fault])?;
        let mut faults = Faults::default();
        match Self::of(&node, &mut faults) {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(faults.into_sorted()),
        }
    }

    fn of(node: &Node, faults: &mut Faults) -> Option<Self> {
        let mut reader = Reader::of(node, "", faults)?;
        let sockets = SocketConfig {
            providers: providers(&mut reader, faults),
            dir: path(&mut reader, "socketDir", faults).unwrap_or_else(|| "/var/run/secrets-store-csi-providers".into()),
            mode: reader.parsed("socketMode", faults, socket_mode).unwrap_or(0o600),
            allowed_peers: allowed_peers(&mut reader, faults),
        };
        check_sockets(&mut reader, &sockets, faults);
        let state_dir = path(&mut reader, "stateDir", faults).unwrap_or_else(|| "/var/lib/keyferry".into());
        let kubelet_dir = path(&mut reader, "kubeletDir", faults).unwrap_or_else(|| "/var/lib/kubelet".into());
        let version_key = path(&mut reader, "versionKey", faults);
        let identity = identity(&mut reader, faults);
        let (names, backends) = backends(&mut reader, faults);
        let default_backend = default_backend(&mut reader, &names, faults);
        let bounds = backends.iter().map(|(name, backend)| (name.clone(), backend.kind().facts().bounds)).collect();
        let own_audience = identity.as_ref().map(|identity| identity.audience.as_str()).unwrap_or_default();
        audiences::check(&mut reader, &backends, own_audience, faults);
        if identity.as_ref().is_some_and(|identity| identity.verify == Verify::Driver) {
            audiences::check_verified(&mut reader, &backends, faults);
        }
        let policy = policy(&mut reader, &named(&names, &backends), faults).within(bounds, own_audience);
        let dialects = dialects::parse(&mut reader, &backends, faults);
        let limits = section(&mut reader, "limits", faults, Limits::parse).unwrap_or_default();
        let (cache, sealed) = section(&mut reader, "cache", faults, cache).unwrap_or_default();
        let leases = section(&mut reader, "leases", faults, LeasesConfig::parse).unwrap_or_default();
        let delivery = reader.parsed("delivery", faults, delivery).unwrap_or_default();
        check_memory(&mut reader, limits, delivery, faults);
        let audit = section(&mut reader, "audit", faults, AuditConfig::parse).unwrap_or_default();
        let metrics = section(&mut reader, "metrics", faults, metrics).flatten();
        let events = section(&mut reader, "events", faults, |events, faults| events.boolean("enabled", faults)).flatten();
        if events == Some(true) && identity.as_ref().is_some_and(|identity| identity.verify == Verify::Driver) {
            check_events(&mut reader, faults);
        }
        let log = section(&mut reader, "log", faults, LogConfig::parse).unwrap_or_default();
        reader.finish(faults);
        let identity = identity?;
        Some(Self {
            sockets,
            state_dir,
            kubelet_dir,
            version_key,
            identity,
            backends,
            default_backend,
            policy,
            dialects,
            limits,
            cache,
            sealed,
            leases,
            delivery,
            audit,
            metrics,
            events: events.unwrap_or_default(),
            log,
        })
    }

    /// The limits for classes.
    pub fn configured(&self) -> Configured {
        Configured::new(self.backends.clone(), &self.dialects).with_default(self.default_backend.clone())
    }
}

/// Reads a mapping to its end. Unknown keys are faults.
fn section<'n, T>(
    reader: &mut Reader<'n>,
    key: &'static str,
    faults: &mut Faults,
    parse: impl FnOnce(&mut Reader<'n>, &mut Faults) -> T,
) -> Option<T> {
    let mut inner = reader.reader(key, faults)?;
    let parsed = parse(&mut inner, faults);
    inner.finish(faults);
    Some(parsed)
}

fn providers(reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<String> {
    let Some(texts) = reader.texts("providers", faults) else { return vec![PROVIDERS[0].to_owned()] };
    let mut names: Vec<String> = Vec::new();
    for (at, text) in texts {
        if !PROVIDERS.contains(&text) {
            faults.add(at, "providers", format!("{text:?} is not a provider name (known: {})", PROVIDERS.join(", ")));
        } else if names.iter().any(|name| name == text) {
            faults.add(at, "providers", format!("{text:?} is there twice (remove one)"));
        } else {
            names.push(text.to_owned());
        }
    }
    if names.is_empty() && faults.is_empty() {
        reader.missing("providers", "at least one name, such as keyferry; or leave the key out", faults);
    }
    names
}

fn socket_mode(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a mode for a socket (\"0600\", or \"0660\" where the driver runs in the socket's group)");
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ (0o600 | 0o660)) => Ok(mode),
        Ok(mode) if mode & 0o007 != 0 => Err(format!("{text:?} would let every user of the node ask for any Pod's secrets (use \"0600\")")),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

fn allowed_peers(reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<u32> {
    let Some(texts) = reader.texts("allowedPeers", faults) else { return vec![0] };
    let mut uids = Vec::new();
    for (at, text) in texts {
        match text.parse() {
            Ok(65534) => {
                faults.add(at, "allowedPeers", "65534 is the id of every user of another user namespace: it cannot be allowed (remove it)");
            }
            Ok(uid) => uids.push(uid),
            Err(_) => faults.add(at, "allowedPeers", format!("{text:?} is not a user id (write a number, such as 0 for root)")),
        }
    }
    if let Some(node) = reader.get("allowedPeers").filter(|_| uids.is_empty() && faults.is_empty()) {
        faults.add(node.at, "allowedPeers", "is empty: nobody could connect (leave it out for root, which the driver runs as)");
    }
    uids
}

fn path(reader: &mut Reader<'_>, key: &'static str, faults: &mut Faults) -> Option<PathBuf> {
    reader.parsed(key, faults, absolute)
}

/// If the mapping is absent, its defaults are in force, and the faults name the keys that it needs.
fn identity(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<IdentityConfig> {
    let absent = Node { at: reader.at(), value: yaml::Value::Null };
    let node = reader.get("identity").unwrap_or(&absent);
    let mut inner = Reader::of(node, "identity", faults)?;
    let identity = IdentityConfig::parse(&mut inner, faults);
    inner.finish(faults);
    identity
}

/// The names of all entries, and the entries without faults.
fn backends<'n>(reader: &mut Reader<'n>, faults: &mut Faults) -> (Vec<&'n str>, BTreeMap<BackendName, BackendConfig>) {
    let mut backends = BTreeMap::new();
    let Some(all) = reader.reader("backends", faults) else {
        if reader.get("backends").is_none() {
            reader.missing("backends", "at least one store, such as files: { kind: file, vault: ..., identity: ... }", faults);
        }
        return (Vec::new(), backends);
    };
    let kinds: Vec<_> = all.entries().iter().map(|(key, node)| (key.text.as_str(), BackendConfig::kind_in(node))).collect();
    let (failovers, stores): (Vec<_>, Vec<_>) = all.entries().iter().partition(|(_, node)| BackendConfig::is_failover(node));
    for (key, node) in stores.into_iter().chain(failovers) {
        let path = all.path(&key.text);
        match key.text.parse::<BackendName>() {
            Err(error) => faults.add(key.at, path, error.to_string()),
            Ok(name) => {
                let beside = Beside { sound: &backends, kinds: &kinds };
                let config = Reader::of(node, path, faults).and_then(|entry| BackendConfig::parse(entry, beside, faults));
                backends.extend(config.map(|config| (name, config)));
            }
        }
    }
    if all.entries().is_empty() {
        faults.add(all.at(), "backends", "is empty (name at least one store)");
    }
    (all.entries().iter().map(|(key, _)| key.text.as_str()).collect(), backends)
}

/// `names` are those of all backends, with or without faults.
fn default_backend(reader: &mut Reader<'_>, names: &[&str], faults: &mut Faults) -> Option<BackendName> {
    reader.parsed("defaultBackend", faults, |text| {
        if names.contains(&text) {
            return text.parse::<BackendName>().map_err(|error| error.to_string());
        }
        Err(dialects::no_backend(text, names.iter().copied()))
    })
}

/// The backends and names that patterns can match.
fn named<'b>(names: &[&'b str], backends: &'b BTreeMap<BackendName, BackendConfig>) -> Vec<Named<'b>> {
    let store = |backend: &'b BackendConfig| {
        let (kind, facts) = (backend.kind(), backend.kind().facts());
        let chosen = facts.bounds.class_may.is_some_and(|may| may.grants(LoginKey::Namespace));
        let namespace = facts.bounds.own.filter(|_| !chosen).map(|own| own.namespace).unwrap_or_default();
        Store {
            canonical: Box::new(|name| kind.canonical(name)),
            ending: facts.ending,
            firsts: facts.firsts,
            version: facts.version,
            namespace,
            updates: facts.updates,
        }
    };
    let found = |name: &str| backends.iter().find(|(known, _)| known.as_str() == name).map(|(_, backend)| backend);
    names.iter().map(|name| Named { name, store: found(name).map(store) }).collect()
}

fn policy(reader: &mut Reader<'_>, backends: &[Named<'_>], faults: &mut Faults) -> Policy {
    if let Some(node) = reader.get("policy") {
        return Policy::parse(node, backends, faults);
    }
    reader.missing("policy", "nothing is allowed without rules; an empty list [] denies everything", faults);
    Policy::default()
}

fn check_sockets(reader: &mut Reader<'_>, sockets: &SocketConfig, faults: &mut Faults) {
    if let Err(problem) = sockets.check() {
        let at = reader.get("socketDir").map_or(reader.at(), |node| node.at);
        faults.add(at, "socketDir", problem.to_string());
    }
}

/// Where this key is absent, the machine decides, and the limit is checked at the start.
fn check_memory(reader: &mut Reader<'_>, limits: Limits, delivery: DeliveryMode, faults: &mut Faults) {
    let Some(Err(problem)) = limits.memory.map(|memory| limits.divide(memory, delivery)) else { return };
    let Some(mut limits) = reader.reader("limits", faults) else { return };
    let at = limits.get("memory").map_or(limits.at(), |node| node.at);
    faults.add(at, limits.path("memory"), problem.strip_prefix("limits.memory: ").unwrap_or(&problem));
}

fn delivery(text: &str) -> Result<DeliveryMode, String> {
    match text {
        "driver" => Ok(DeliveryMode::Driver),
        "provider" => Ok(DeliveryMode::Provider),
        other => Err(format!("{other:?} is not a way to deliver (write driver or provider)")),
    }
}

fn metrics(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<SocketAddr> {
    reader.parsed("listen", faults, |text| {
        text.parse()
            .map_err(|_| format!("{text:?} is not an address to listen at (write for example 127.0.0.1:8095; port 0 takes a free one)"))
    })
}

/// If nobody proves which Pod a volume belongs to, Keyferry sends no Events.
fn check_events(reader: &mut Reader<'_>, faults: &mut Faults) {
    let Some(mut events) = reader.reader("events", faults) else { return };
    let at = events.get("enabled").map_or(events.at(), |node| node.at);
    let problem = "Keyferry sends Events only for Pods that a token has proven, but with identity.verify: driver it checks no token (set \
                   identity.verify to jwks or token-review, or remove `events`)";
    faults.add(at, events.path("enabled"), problem);
}

fn cache(reader: &mut Reader<'_>, faults: &mut Faults) -> (CacheConfig, Option<SealedConfig>) {
    let times = CacheTimes::parse(reader, faults);
    let sealed = reader.get("sealed").is_some_and(|node| !node.is_null());
    let sealed = if sealed { section(reader, "sealed", faults, SealedConfig::parse).flatten() } else { None };
    (times.or(CacheConfig::default()), sealed)
}

/// The command line names this file, and a shell may give it as a pipe: so it need not be a regular file, but it has the same limit.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

// === impl Limits ===

impl Limits {
    /// Divides this much memory: the budget of mounts, and the bytes of volumes. If the daemon writes volumes, the kernel charges them to
    /// it like all its other memory: so volumes get their part first, and the rest is divided.
    ///
    /// # Errors
    /// There is not enough memory for these limits: the text names the limits that are wrong.
    pub fn divide(&self, memory: usize, delivery: DeliveryMode) -> Result<(Budget, usize), String> {
        let volumes = self.volume_bytes.unwrap_or(memory / 4);
        let apart = if delivery == DeliveryMode::Provider { volumes } else { 0 };
        let budget = self.budget(memory.saturating_sub(apart)).map_err(|problem| {
            let why = format!(
                "; with `delivery: provider`, limits.volumeBytes = {apart} bytes are for volumes and not in these figures: add them"
            );
            if apart > 0 { problem + &why } else { problem }
        })?;
        Ok((budget, volumes))
    }

    /// The same, for memory without volumes.
    ///
    /// # Errors
    /// As [`Limits::divide`].
    pub fn budget(&self, memory: usize) -> Result<Budget, String> {
        // JSON makes text longer, and an answer has more than its fields: this is the most that a backend reads.
        let body = self.secret_bytes.saturating_mul(4).saturating_add(64 * 1024);
        Budget::new(memory, self.mount_bytes, body, self.mounts)
    }

    fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let default = Self::default();
        let mut count = |key, default, faults: &mut Faults| {
            let within = |text: &str| match text.parse() {
                Ok(number @ 1..=100_000) => Ok(number),
                _ => Err(format!("{text:?} is not a count (write a whole number from 1 to 100000)")),
            };
            reader.parsed(key, faults, within).unwrap_or(default)
        };
        let objects = count("objects", default.objects, faults);
        let files = count("files", default.files, faults);
        let mounts = count("mounts", default.mounts, faults);
        let per_backend = count("perBackend", default.per_backend, faults);
        let size = |text: &str| match parse_size(text)? {
            0 => Err(format!("{text:?} is zero: no secret could be delivered")),
            size => Ok(size),
        };
        let class_bytes = reader.parsed("classBytes", faults, size).unwrap_or(default.class_bytes);
        let secret_bytes = reader.parsed("secretBytes", faults, size).unwrap_or(default.secret_bytes);
        let mount_bytes = reader.parsed("mountBytes", faults, size).unwrap_or(default.mount_bytes);
        let memory = reader.parsed("memory", faults, size);
        let volume_bytes = reader.parsed("volumeBytes", faults, size);
        let timeout = reader.parsed("timeout", faults, |text| match parse_duration(text)? {
            short if short < Duration::from_secs(1) => Err(format!("{text:?} is under 1s: no mount could be served")),
            duration => Ok(duration),
        });
        let timeout = timeout.unwrap_or(default.timeout);
        Self { objects, class_bytes, files, secret_bytes, mount_bytes, memory, volume_bytes, mounts, per_backend, timeout }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            objects: 512,
            class_bytes: 256 * 1024,
            files: 4096,
            secret_bytes: 1024 * 1024,
            mount_bytes: 3584 * 1024,
            memory: None,
            volume_bytes: None,
            mounts: 512,
            per_backend: 64,
            timeout: Duration::from_secs(90),
        }
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// One line for each fault.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Faults { file, faults } => {
                let line = |fault: &Fault| format!("{}:{}:{}: {fault}", file.display(), fault.at.line, fault.at.column);
                faults.iter().map(line).collect()
            }
            Self::Unreadable { file, cause } => {
                let remedy = "name the configuration with --config FILE or the environment's KEYFERRY_CONFIG";
                vec![format!("{}: {cause} ({remedy})", file.display())]
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
