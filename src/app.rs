//! The composition root: builds every stage from a configuration, serves, and ends in order.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout};
use zeroize::Zeroizing;

use crate::audit::AuditLog;
use crate::backend::stack::cache::archive::{Archive, Opening};
use crate::backend::stack::lease::Leases;
use crate::backend::stack::sealed::Sealed;
use crate::backend::{BackendError, BackendParts, Backends};
use crate::budget::{self, Ceilings};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Limits};
use crate::delivery::{Deliverer, DeliveryMode, VersionKey, Volumes};
use crate::events::Teller;
use crate::files::{Unreadable, WholeFile, write_draft};
use crate::identity::{self, Attest, Verify};
use crate::model::Code;
use crate::pipeline::{Commons, MountLimits, Pipeline, Plans, Pot};
use crate::server::{BoundSocket, LockError, Mark, Server, SocketConfig, StartLock, group, socket};
use crate::telemetry::Metrics;
use crate::telemetry::endpoint::{Endpoint, Probes, Status};

/// How long mounts under way may go on after the signal to stop. kubelet's own grace period is 30 s by default.
const DRAIN: Duration = Duration::from_secs(10);

/// How long Keyferry may take to revoke leases at the end, when mounts have used the rest of [`DRAIN`].
const CLOSE: Duration = Duration::from_secs(2);

/// How long Keyferry waits at the start for the files that the configuration names.
const START: Duration = Duration::from_secs(30);

/// How long Keyferry may take at the end to write the last answers for the next process.
const FLUSH: Duration = Duration::from_secs(2);

/// How long Keyferry may take to write the last audit lines. A pipe that nobody reads takes none.
const AUDIT_FLUSH: Duration = Duration::from_secs(2);

/// What to do where there is no API server to send Events to.
const NO_EVENTS: &str = "Keyferry sends Events with its own token to the API server of its cluster: outside of a cluster, remove \
                         `events`; in a cluster, add components/events to your overlay";

/// The version key's file in the state folder.
pub const VERSION_KEY: &str = "version.key";

mod changes;
mod events;
pub mod hardening;
mod pods;
mod reload;
pub mod status;

use pods::PodWatch;
use reload::Reloader;
use status::StatusPages;

/// The daemon, built and bound: from now on it serves mounts.
#[derive(Debug)]
pub struct App {
    server: Server,
    sockets: Vec<BoundSocket>,
    /// `None`: the socket cannot be bound. The log has said so.
    status: Option<BoundSocket>,
    endpoint: Option<Endpoint>,
    health: Arc<Health>,
    audit: Arc<AuditLog>,
    leases: Arc<Leases>,
    archive: Option<Arc<Archive>>,
    reloader: Option<Arc<Reloader>>,
}

/// Asks a running daemon to read its configuration again, and to open its audit file again.
#[derive(Clone, Debug)]
pub struct ReloadHandle {
    reloader: Option<Arc<Reloader>>,
    audit: Arc<AuditLog>,
}

/// What a reload keeps.
#[derive(Clone, Debug)]
struct Parts {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    audit: Arc<AuditLog>,
    leases: Arc<Leases>,
    archive: Option<Arc<Archive>>,
    commons: Arc<Commons>,
}

/// The pipeline in force before a reload, and the configuration that it was built from.
#[derive(Clone, Copy, Debug)]
struct Former<'f> {
    config: &'f Config,
    pipeline: &'f Pipeline,
}

/// Why the daemon cannot start: a line for each reason.
#[derive(Debug)]
pub struct StartError(Vec<String>);

/// The daemon's state, for probes.
#[derive(Debug)]
struct Health {
    pipeline: Arc<ArcSwap<Pipeline>>,
    leases: Arc<Leases>,
    providers: Vec<String>,
    marks: Arc<[Mark]>,
    reloader: Option<Arc<Reloader>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    pods: Arc<PodWatch>,
}

// === impl App ===

impl App {
    /// Builds every stage, then binds the sockets: nobody connects before Keyferry can serve a mount. With `file`, a later change of it is
    /// used.
    ///
    /// # Errors
    /// Everything that keeps the daemon from starting, as far as Keyferry can find it at once.
    pub async fn start(config: Config, file: Option<PathBuf>, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let (config, parts, pipeline) = prepared(config, Arc::clone(&metrics)).await?;
        let (leases, archive, clock) = (Arc::clone(&parts.leases), parts.archive.clone(), Arc::clone(&parts.clock));
        let pipeline = Arc::new(ArcSwap::from_pointee(pipeline));
        warn_of_doubts(&pipeline.load_full()).await;
        let (sockets, timeout, listen, audit) = (config.sockets.clone(), config.limits.timeout, config.metrics, Arc::clone(&parts.audit));
        let state_dir = config.state_dir.clone();
        let pods = PodWatch::new(config.kubelet_dir.clone(), Arc::clone(&pipeline), Arc::clone(&metrics), Arc::clone(&clock));
        let reloader = file.map(|file| Arc::new(Reloader::new(file, config, parts, Arc::clone(&pipeline))));
        let endpoint =
            match listen {
                Some(address) => Some(Endpoint::bind(address).await.map_err(|error| {
                    one("metrics.listen", &format!("{address}: {error} (choose another address, or leave `metrics` out)"))
                })?),
                None => None,
            };
        let lock = lock(&state_dir).await?;
        let bound = sockets.bind().await.map_err(|error| one("socketDir", &error))?;
        let status =
            status::bind(&state_dir).await.map_err(|error| tracing::warn!("`keyferry status` gets no answer on this node: {error}")).ok();
        drop(lock);
        warn_of_group(&sockets, &bound);
        let marks = bound.iter().map(|socket| socket.mark().clone()).collect();
        let health = Health {
            pipeline: Arc::clone(&pipeline),
            leases: Arc::clone(&leases),
            providers: sockets.providers,
            marks,
            reloader: reloader.clone(),
            metrics: Arc::clone(&metrics),
            started: clock.now(),
            clock,
            pods: Arc::new(pods),
        };
        let server = Server { pipeline, metrics, allowed_peers: sockets.allowed_peers.as_slice().into(), timeout };
        Ok(Self { server, sockets: bound, status, endpoint, health: Arc::new(health), audit, leases, archive, reloader })
    }

    /// For the code that receives the signal.
    pub fn reload_handle(&self) -> ReloadHandle {
        ReloadHandle { reloader: self.reloader.clone(), audit: Arc::clone(&self.audit) }
    }

    /// Where metrics are served. With port 0, this is the port that the kernel chose.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().and_then(Endpoint::address)
    }

    /// Serves until `stop` resolves, then lets running work finish. Returns whether all of it finished.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> bool {
        let paths: Vec<_> = self.sockets.iter().map(|socket| socket.path().display().to_string()).collect();
        let metrics = self.metrics_address().map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(sockets = paths.join(" "), metrics, version = env!("CARGO_PKG_VERSION"), "ready");
        let watching = tokio::spawn(socket::watch(Arc::clone(&self.health.marks), Arc::clone(&self.server.metrics)));
        let probes = Probes { metrics: Arc::clone(&self.server.metrics), status: Arc::clone(&self.health) as Arc<_> };
        let endpoint = self.endpoint.map(|endpoint| tokio::spawn(endpoint.serve(Arc::new(probes))));
        let looking = tokio::spawn({
            let pods = Arc::clone(&self.health.pods);
            async move { pods.run().await }
        });
        let pipeline = Arc::clone(&self.health.pipeline);
        let changing = tokio::spawn(changes::run(Arc::clone(&pipeline)));
        let telling = tokio::spawn(events::run(Arc::clone(&pipeline), Arc::clone(&self.health.pods)));
        let status = self.status.map(|socket| tokio::spawn(serve_status(socket, StatusPages(self.health))));
        let reloading = self.reloader.map(|reloader| tokio::spawn(async move { reloader.run().await }));
        let keeping = tokio::spawn({
            let leases = Arc::clone(&self.leases);
            async move { leases.run().await }
        });
        let reviewing = self.archive.clone().map(|archive| tokio::spawn(review_once_read(archive, pipeline)));
        let stopping = OnceLock::new();
        let stop = async {
            stop.await;
            let _ = stopping.set(Instant::now());
            watching.abort();
            looking.abort();
            changing.abort();
            telling.abort();
            if let Some(reviewing) = reviewing {
                reviewing.abort();
            }
            // The path is now free for a daemon that starts while this one ends.
            if let Some(status) = status {
                status.abort();
            }
            tracing::info!("stopping: no new connections, mounts under way may finish");
        };
        let drained = self.server.serve(self.sockets, stop, DRAIN).await;
        keeping.abort();
        let now = Instant::now();
        if let Some(archive) = &self.archive {
            archive.flush(now + FLUSH).await;
        }
        self.leases.close((*stopping.get().unwrap_or(&now) + DRAIN).max(now + CLOSE)).await;
        self.audit.flush(AUDIT_FLUSH).await;
        if let Some(endpoint) = endpoint {
            endpoint.abort();
        }
        if let Some(reloading) = reloading {
            reloading.abort();
        }
        tracing::info!(drained, "stopped");
        drained
    }
}

/// Once the configuration is known, it decides what happens to the files that a former process left on the disk.
async fn review_once_read(archive: Arc<Archive>, pipeline: Arc<ArcSwap<Pipeline>>) {
    archive.complete().await;
    let _ = spawn_blocking(move || pipeline.load().review_answers()).await;
}

/// Runs until the future is dropped, which removes the socket.
async fn serve_status(socket: BoundSocket, pages: StatusPages) {
    let (listener, _place) = socket.into_parts();
    Endpoint::at(listener).serve(Arc::new(pages)).await;
}

/// Runs on a thread that may block: it opens every file that the configuration names, and a file system may hang.
async fn prepared(config: Config, metrics: Arc<Metrics>) -> Result<(Config, Parts, Pipeline), StartError> {
    let preparing = spawn_blocking(move || prepare(&config, metrics).map(|(parts, pipeline)| (config, parts, pipeline)));
    match timeout(START, preparing).await {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Ok(Err(_)) | Err(_) => {
            let seconds = START.as_secs();
            Err(StartError(vec![format!(
                "a file that the configuration names is on a file system that did not answer within {seconds} s (is a network volume down?)"
            )]))
        }
    }
}

fn prepare(config: &Config, metrics: Arc<Metrics>) -> Result<(Parts, Pipeline), StartError> {
    let audit = AuditLog::open(&config.audit, Arc::clone(&metrics)).map_err(|error| {
        let file = config.audit.file.as_deref().unwrap_or(Path::new("stdout")).display();
        one("audit.file", &format!("{file}: {error}"))
    })?;
    metrics.expect_codes(Code::ALL.map(Code::as_str));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let commons = Arc::new(commons(&config.limits, config.delivery).map_err(|problem| StartError(vec![problem]))?);
    let kept = commons.budget.kept();
    let (sealed, mut problems) = open_sealed(config);
    let (leases, problem) = open_leases(config, sealed.as_ref(), &clock, &metrics, kept);
    problems.extend(problem);
    let archive =
        sealed.as_ref().and_then(|sealed| open_archive(config, sealed, &clock, kept).map_err(|problem| problems.push(problem)).ok());
    let parts = Parts { clock, metrics, audit: Arc::new(audit), leases, archive, commons };
    let pipeline = build(config, &parts, None).map_err(|StartError(more)| StartError([problems.clone(), more].concat()))?;
    if problems.is_empty() { Ok((parts, pipeline)) } else { Err(StartError(problems)) }
}

/// Held while sockets are bound. Where the state folder cannot be written, only the sockets keep daemons apart that start at the same time.
async fn lock(state_dir: &Path) -> Result<Option<StartLock>, StartError> {
    match StartLock::take(state_dir).await {
        Ok(lock) => Ok(Some(lock)),
        Err(error @ LockError::Write { .. }) => {
            tracing::warn!("stateDir: {error}");
            Ok(None)
        }
        Err(error @ (LockError::Held { .. } | LockError::NotOurs { .. } | LockError::Unsafe(_))) => Err(one("stateDir", &error)),
    }
}

/// About the sockets' group, where the group may connect.
fn warn_of_group(sockets: &SocketConfig, bound: &[BoundSocket]) {
    if sockets.mode & 0o060 == 0 {
        return;
    }
    let gid = bound.first().and_then(|socket| fs::metadata(socket.path()).ok()).map(|found| found.gid());
    if let Some(doubts) = gid.and_then(|gid| group::doubts(gid, &sockets.allowed_peers)) {
        tracing::warn!("{doubts}");
    }
}

/// Logs what works but an admin should know.
async fn warn_of_doubts(pipeline: &Pipeline) {
    if let Some(doubt) = pipeline.commons.budget.doubt() {
        tracing::warn!("{doubt}");
    }
    if let Err(problem) = pipeline.deliverer.check() {
        tracing::warn!(problem, "no volume can be written now; mounts fail until this is fixed");
    }
    for error in pipeline.backends.check().await {
        tracing::warn!(error = %error.in_full(), "a backend cannot serve now; its mounts will fail until it can");
    }
}

/// Builds the pipeline. A reload replaces all of it; but parts that would be the same are taken over from the `former` one, with all that
/// they remember.
fn build(config: &Config, parts: &Parts, former: Option<Former<'_>>) -> Result<Pipeline, StartError> {
    let Parts { clock, metrics, audit, leases, archive, commons } = parts;
    if config.identity.verify == Verify::Driver {
        tracing::warn!(
            "identity.verify is driver: Keyferry believes what the driver says about a Pod, without proof (set verify: \
             jwks if kubelet can send tokens)"
        );
    }
    let mut problems = Vec::new();
    let mut keep = |problem: String| problems.push(problem);
    let version_key = version_key(config).map_err(&mut keep).ok();
    let kept = former.and_then(|former| former.identity(config));
    let identity = kept.map_or_else(|| identity::build(&config.identity, &config.state_dir, Arc::clone(clock)), Ok);
    let identity = identity.map_err(|error| keep(format!("identity: {error}"))).ok();
    let teller = config.events.then(|| Teller::in_cluster(Arc::clone(metrics))).transpose();
    let teller = teller.map_err(|problem| keep(format!("events.enabled: {problem} ({NO_EVENTS})"))).ok();
    let former = former.map(|former| &former.pipeline.backends);
    let backends = Backends::build(
        config.configured(),
        config.of_backends(),
        BackendParts { clock, metrics, leases, kept: *commons.budget.kept(), archive: archive.as_ref() },
        former,
    )
    .map_err(|faults| faults.into_iter().for_each(&mut keep))
    .ok();
    let (Some(version_key), Some(identity), Some(teller), Some(backends)) = (version_key, identity, teller, backends) else {
        return Err(StartError(problems));
    };
    let limits = MountLimits {
        objects: config.limits.objects,
        class_bytes: config.limits.class_bytes,
        files: config.limits.files,
        secret_bytes: config.limits.secret_bytes,
        mount_bytes: config.limits.mount_bytes,
    };
    Ok(Pipeline {
        identity,
        policy: config.policy.clone(),
        backends,
        version_key,
        limits,
        deliverer: Deliverer::new(config.delivery, &config.kubelet_dir, Arc::clone(clock), Arc::clone(&commons.volumes)),
        audit: Arc::clone(audit) as Arc<_>,
        metrics: Arc::clone(metrics),
        clock: Arc::clone(clock),
        commons: Arc::clone(commons),
        plans: Arc::new(Plans::new(commons.budget.kept().plans)),
        teller,
    })
}

/// What all mounts of the process share, by the limits at its start.
pub fn commons(limits: &Limits, delivery: DeliveryMode) -> Result<Commons, String> {
    let (budget, volumes) = limits.divide(budget::memory(limits.memory), delivery)?;
    Ok(Commons::new(budget, limits.mounts, Volumes::new(volumes)))
}

/// Where it cannot be opened, Keyferry still checks the rest of the configuration.
fn open_sealed(config: &Config) -> (Option<Arc<Sealed>>, Vec<String>) {
    match config.sealed.as_ref().map(Sealed::open).transpose() {
        Ok(sealed) => (sealed, Vec::new()),
        Err(problems) => (None, problems),
    }
}

/// The table of leases.
fn open_leases(
    config: &Config,
    sealed: Option<&Arc<Sealed>>,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    kept: &Ceilings,
) -> (Arc<Leases>, Option<String>) {
    let (leases, problem) = Leases::open(&config.kubelet_dir, sealed, Arc::clone(clock), Arc::clone(metrics), kept);
    leases.configure(config.leases);
    (leases, problem.map(|problem| format!("cache.sealed.dir: {problem}")))
}

fn open_archive(config: &Config, sealed: &Arc<Sealed>, clock: &Arc<dyn Clock>, kept: &Ceilings) -> Result<Arc<Archive>, String> {
    let bytes = config.sealed.as_ref().map_or(0, |sealed| sealed.bytes);
    // One half is memory for answers, the other half is for what is known about the answers on the disk.
    let opening = Opening { sealed, bytes, memory: kept.answers / 2, pods: config.kubelet_dir.join("pods"), clock };
    Archive::open(&opening).map_err(|problem| format!("cache.sealed.dir: {problem}"))
}

impl Former<'_> {
    /// The verifier, with the keys that it has fetched and the tokens that it has verified.
    fn identity(&self, config: &Config) -> Option<Arc<dyn Attest>> {
        let same = self.config.identity == config.identity && self.config.state_dir == config.state_dir;
        same.then(|| Arc::clone(&self.pipeline.identity))
    }
}

fn version_key(config: &Config) -> Result<VersionKey, String> {
    if let Some(path) = &config.version_key {
        return read_version_key(path).map_err(|problem| format!("versionKey: {}: {problem}", path.display()));
    }
    let path = config.state_dir.join(VERSION_KEY);
    own_version_key(&config.state_dir, &path)
        .map_err(|error| format!("stateDir: {}: {error} (let the daemon write there, or name a versionKey)", path.display()))
}

fn read_version_key(path: &Path) -> Result<VersionKey, String> {
    const REMEDY: &str = "make one: head -c 32 /dev/urandom";
    let wrong = |held: u64| format!("has {held} bytes; a version key has exactly {} ({REMEDY})", VersionKey::LENGTH);
    match WholeFile::read(path, VersionKey::LENGTH) {
        Ok(file) if file.bytes.len() == VersionKey::LENGTH => Ok(VersionKey::new(&file.bytes)),
        Ok(file) => Err(wrong(file.bytes.len() as u64)),
        Err(Unreadable::TooLarge { size, .. }) => Err(wrong(size)),
        // In the system's own words.
        Err(Unreadable::Absent) => Err(format!("No such file or directory (os error 2) ({REMEDY})")),
        Err(Unreadable::Io(error)) => Err(format!("{error} ({REMEDY})")),
        Err(error @ (Unreadable::NotAFile | Unreadable::TooMany(_) | Unreadable::Unstable)) => Err(format!("{error} ({REMEDY})")),
    }
}

/// The key in the state folder, made at the first start. It is linked into place as a whole file: a crash leaves all of it or nothing.
fn own_version_key(dir: &Path, path: &Path) -> io::Result<VersionKey> {
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut bytes = Zeroizing::new(vec![0; VersionKey::LENGTH]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        let draft = dir.join(format!("{VERSION_KEY}.{}", std::process::id()));
        write_draft(&draft, &bytes)?;
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        if let Err(error) = linked
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
    }
    read_version_key(path).map_err(io::Error::other)
}

fn one(key: &str, error: &dyn fmt::Display) -> StartError {
    StartError(vec![format!("{key}: {error}")])
}

#[async_trait]
impl Status for Health {
    async fn ready(&self) -> Result<(), Vec<String>> {
        let failing = self.pipeline.load_full().backends.check().await;
        let reasons = self.reasons(&failing).await;
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn measure(&self) {
        self.pipeline.load().measure();
        let Pot { pot, used, limit } = self.lease_pot();
        self.metrics.pot(pot, used, limit);
    }

    async fn status(&self) -> serde_json::Value {
        let pipeline = self.pipeline.load_full();
        let failing: Vec<String> = pipeline.backends.check().await.iter().map(|error| error.in_full().to_string()).collect();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "providers": self.providers,
            "backends": pipeline.backends.names().map(ToString::to_string).collect::<Vec<_>>(),
            "failing": failing,
            "placesFree": pipeline.commons.places.slots().free(),
        })
    }
}

impl Health {
    fn lease_pot(&self) -> Pot {
        let (used, limit) = self.leases.bytes();
        Pot { pot: "leases", used, limit }
    }

    /// Why Keyferry could not serve mounts now: one line for each reason. `failing`: the backends that cannot serve.
    async fn reasons(&self, failing: &[BackendError]) -> Vec<String> {
        let pipeline = self.pipeline.load_full();
        // While a store is out and its earlier answers are used, Pods still start.
        let unserved = failing.iter().filter(|error| !pipeline.backends.is_bridged(error, failing));
        let mut reasons: Vec<String> = unserved.map(|error| format!("backend {}", error.in_full())).collect();
        reasons.extend(pipeline.identity.health().await.err().map(|reason| format!("identity: {reason}")));
        reasons.extend(pipeline.deliverer.check().err().map(|problem| format!("delivery: {problem}")));
        let unwritable = pipeline.backends.unwritable();
        reasons.extend(unwritable.map(|fault| format!("cache.sealed.dir: {fault}: Keyferry gives no answer from there")));
        let fault = self.reloader.as_ref().and_then(|reloader| reloader.fault());
        reasons.extend(fault.map(|fault| format!("the new configuration is faulty, the former one is in force: {fault}")));
        for mark in &*self.marks {
            reasons.extend(mark.look().await.err().map(|displaced| format!("socket {}: {displaced}", mark.path.display())));
        }
        reasons
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// One line for each fault.
    pub fn reasons(&self) -> &[String] {
        &self.0
    }
}

impl ReloadHandle {
    pub fn reload(&self) {
        self.audit.reopen();
        if let Some(reloader) = &self.reloader {
            reloader.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn own_volumes_have_their_part_of_the_memory_first() {
        const MIB: usize = 1 << 20;
        let limits = |volumes: Option<usize>| Limits { memory: Some(180 * MIB), volume_bytes: volumes, ..Limits::default() };
        let driver = commons(&limits(None), DeliveryMode::Driver).unwrap();
        let provider = commons(&limits(Some(36 * MIB)), DeliveryMode::Provider).unwrap();
        assert_eq!((driver.volumes.memory().capacity(), provider.volumes.memory().capacity()), (45 * 256, 36 * 256));
        let moving = |commons: &Commons| commons.budget.moving().slots().capacity();
        assert_eq!(moving(&driver) - moving(&provider), 36 * MIB * 3 / 8);
        // A quarter leaves 135 MiB, which is not enough for the other limits.
        let problem = commons(&limits(None), DeliveryMode::Provider).unwrap_err();
        assert!(problem.contains("limits.volumeBytes = 47185920 bytes are for volumes"), "{problem}");
    }

    /// A link in place of the draft is not written through, and the key is made all the same.
    #[test]
    fn the_version_key_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        symlink(at("precious"), at(&format!("{VERSION_KEY}.{}", std::process::id()))).unwrap();
        own_version_key(folder.path(), &at(VERSION_KEY)).unwrap();
        assert_eq!(fs::read(at("precious")).unwrap(), b"precious");
        assert_eq!(fs::read(at(VERSION_KEY)).unwrap().len(), VersionKey::LENGTH);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn a_version_key_is_a_regular_file_of_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero"), Path::new("/proc/self/status"), Path::new("/no/such")] {
            assert!(read_version_key(path).is_err(), "{}", path.display());
        }
    }
}
