//! A changed configuration is used while the daemon runs: at SIGHUP, and when the file's content changes. (A ConfigMap's links are
//! replaced, so Keyferry looks at the file through them.)
//!
//! A mount under way ends in the pipeline in which it began. If the new file has a fault, the old configuration stays in force. The log,
//! the metric `keyferry_config_current` and `/readyz` say so until the file is fixed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::status::ConfigurationReport;
use super::{Former, Parts, build};
use crate::config::Config;
use crate::files::WholeFile;
use crate::pipeline::Pipeline;

/// How often Keyferry looks at the file. kubelet itself takes about a minute to bring a changed ConfigMap to a node.
const LOOK: Duration = Duration::from_secs(5);

/// How long a look may take: far less than a person waits for a change. A file system that takes longer is taken as hanging.
const PATIENCE: Duration = Duration::from_secs(10);

const HANGS: &str = "the configuration, or a file that it names, is on a file system that does not answer: what Keyferry read before stays \
                     in force (is a network volume down?)";

/// The most bytes of a file that are compared for a change: no configuration is larger.
const MAX_CONTENT: usize = 4 * 1024 * 1024;

/// Puts changes of one configuration file in force.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    /// The keys that are read only at the start have the values of this configuration.
    started: Config,
    parts: Parts,
    pipeline: Arc<ArcSwap<Pipeline>>,
    /// Held while the files are read, however long that takes.
    state: Mutex<State>,
    /// What the file was when it was put in force. It can be reported while the files are read, too.
    in_force: Mutex<InForce>,
    /// Why the newest content is not in force.
    fault: Mutex<Option<String>>,
    /// Whether the files take too long.
    hangs: AtomicBool,
    asked: Notify,
}

#[derive(Debug)]
struct State {
    /// What is in force.
    config: Config,
    /// The content of the last look, with or without faults: the same file is reported once.
    seen: Option<Content>,
}

#[derive(Clone, Debug)]
struct InForce {
    digest: Option<Vec<u8>>,
    since: Timestamp,
}

/// A digest of the configuration file and of the version key that it names; `None` where one cannot be read.
type Content = [Option<Vec<u8>>; 2];

impl Reloader {
    pub(super) fn new(file: PathBuf, config: Config, parts: Parts, pipeline: Arc<ArcSwap<Pipeline>>) -> Self {
        let seen = content(&file, &config);
        let in_force = InForce { digest: seen[0].clone(), since: parts.clock.now() };
        Self {
            file,
            started: config.clone(),
            parts,
            pipeline,
            state: Mutex::new(State { config, seen: Some(seen) }),
            in_force: Mutex::new(in_force),
            fault: Mutex::default(),
            hangs: AtomicBool::new(false),
            asked: Notify::new(),
        }
    }

    /// Reloads at the next turn of [`Reloader::run`], even if the file has not changed.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Looks at the file until the future is dropped: on a thread that may block, and one look at a time.
    pub(super) async fn run(self: Arc<Self>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                _ = looks.tick() => false,
            };
            let reloader = Arc::clone(&self);
            let mut look = spawn_blocking(move || reloader.reload(asked));
            if timeout(PATIENCE, &mut look).await.is_err() {
                self.hangs.store(true, Ordering::Release);
                tracing::warn!(file = %self.file.display(), "{HANGS}");
                // The panic hook logs a panic; the configuration in force stays.
                let _ = look.await;
                self.hangs.store(false, Ordering::Release);
            }
        }
    }

    /// Why the newest configuration is not in force, if it is not.
    pub(super) fn fault(&self) -> Option<String> {
        if self.hangs.load(Ordering::Acquire) {
            return Some(HANGS.to_owned());
        }
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is in force, and since when.
    pub(super) fn report(&self) -> ConfigurationReport {
        let InForce { digest, since } = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sha256 = digest.map(|digest| data_encoding::HEXLOWER.encode(&digest));
        ConfigurationReport { file: self.file.display().to_string(), sha256, since, fault: self.fault() }
    }

    fn reload(&self, asked: bool) {
        let mut state = self.lock();
        let now = content(&self.file, &state.config);
        if !asked && state.seen.as_ref() == Some(&now) {
            return;
        }
        state.seen = Some(now);
        match self.take_up(&state.config) {
            Ok(config) => {
                tracing::info!(file = %self.file.display(), "the configuration is reloaded");
                // A version key that the new configuration names is watched from now on.
                let seen = content(&self.file, &config);
                self.set_in_force(seen[0].clone());
                (state.seen, state.config) = (Some(seen), config);
                self.set_fault(None);
            }
            Err(fault) => {
                tracing::error!(file = %self.file.display(), fault, "the new configuration is faulty; the former one stays in force");
                self.set_fault(Some(fault));
            }
        }
    }

    fn set_in_force(&self, digest: Option<Vec<u8>>) {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if in_force.digest != digest {
            *in_force = InForce { digest, since: self.parts.clock.now() };
        }
    }

    fn set_fault(&self, fault: Option<String>) {
        self.parts.metrics.reloaded(fault.is_none());
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn take_up(&self, old: &Config) -> Result<Config, String> {
        let config = Config::load(&self.file).map_err(|error| error.to_string())?;
        let former = self.pipeline.load_full();
        let pipeline = build(&config, &self.parts, Some(Former { config: old, pipeline: &former })).map_err(|error| error.to_string())?;
        for key in needs_restart(&self.started, &config) {
            tracing::warn!(key, "has changed; it takes effect at the next restart");
        }
        let pipeline = Arc::new(pipeline);
        self.pipeline.store(Arc::clone(&pipeline));
        pipeline.review_answers();
        self.parts.leases.configure(config.leases);
        self.parts.audit.configure(&config.audit.alerts);
        Ok(config)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys that have changed but are read only at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("providers, socketDir, socketMode or allowedPeers", old.sockets != new.sockets),
        ("stateDir", old.state_dir != new.state_dir),
        ("audit.file, audit.rotate or audit.failClosed", old.audit.needs_restart(&new.audit)),
        ("metrics", old.metrics != new.metrics),
        ("log", old.log != new.log),
        ("cache.sealed", old.sealed != new.sealed),
        ("kubeletDir, as far as leases use it", old.kubelet_dir != new.kubelet_dir),
        ("limits.memory or limits.mounts", (old.limits.memory, old.limits.mounts) != (new.limits.memory, new.limits.mounts)),
        ("limits.volumeBytes", old.limits.volume_bytes != new.limits.volume_bytes),
        ("delivery, as far as volumes have a part of the memory", old.delivery != new.delivery),
        ("limits.timeout", old.limits.timeout != new.limits.timeout),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

fn content(file: &Path, config: &Config) -> Content {
    let of = |path: &Path| WholeFile::read(path, MAX_CONTENT).ok().map(|file| digest(&SHA256, &file.bytes).as_ref().to_vec());
    [of(file), config.version_key.as_deref().and_then(of)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditLog;
    use crate::backend::store::file::generate_identity;
    use crate::clock::{Clock, SystemClock};
    use crate::identity::Issuer;
    use crate::telemetry::Metrics;

    /// Whether the former verifier, with all that it has verified, can be used again.
    #[tokio::test]
    async fn who_is_known_stays_known_while_identity_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (root, file) = (folder.path(), folder.path().join("keyferry.yaml"));
        generate_identity(&root.join("age.key"), SystemClock.now()).unwrap();
        std::fs::write(root.join("jwks.json"), Issuer::new("https://oidc.example").unwrap().jwks()).unwrap();
        let write = |audience: &str, extra: &str| {
            let at = root.display();
            let identity =
                format!("identity: {{ audience: {audience}, issuer: \"https://oidc.example\", jwks: {{ file: {at}/jwks.json }} }}");
            let backends = format!("backends: {{ files: {{ kind: file, vault: {at}/vault, identity: {at}/age.key }} }}");
            std::fs::write(&file, format!("stateDir: {at}/state\n{identity}\n{backends}\npolicy: []\n{extra}")).unwrap();
        };
        write("keyferry", "");
        let config = Config::load(&file).unwrap();
        let metrics = Arc::new(Metrics::new());
        let audit = Arc::new(AuditLog::start(Box::new(Vec::new()), false, Arc::clone(&metrics)).unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let commons = Arc::new(super::super::commons(&config.limits, config.delivery).unwrap());
        let (leases, _) = super::super::open_leases(&config, None, &clock, &metrics, commons.budget.kept());
        let parts = Parts { clock, metrics, audit, leases, archive: None, commons };
        let pipeline = Arc::new(ArcSwap::from_pointee(build(&config, &parts, None).unwrap()));
        let reloader = Reloader::new(file.clone(), config, parts, Arc::clone(&pipeline));
        let verifier = || Arc::clone(&pipeline.load().identity);
        let first = verifier();
        write("keyferry", "limits: { objects: 7, perBackend: 7 }");
        reloader.reload(false);
        assert_eq!((pipeline.load().limits.objects, Arc::ptr_eq(&first, &verifier())), (7, true));
        write("other", "");
        reloader.reload(false);
        assert_eq!((pipeline.load().limits.objects, Arc::ptr_eq(&first, &verifier())), (512, false));
    }
}
