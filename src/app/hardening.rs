//! What the daemon gives up before it holds a secret: core dumps, other processes' eyes, files for others, and swap where it can. And what
//! it takes: as many descriptors as its own bounds allow for.

use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// For connections at the sockets (some that wait, some that leave, some that say nothing) and at the metrics, stores and files.
const DESCRIPTORS: u64 = 8192;

/// Hardens this process for as long as it lives. What the system does not allow is logged and does not stop the start: a node that is
/// less strict is no reason for Pods not to start.
pub fn harden() {
    umask(Mode::from_raw_mode(0o077));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    // Also hides /proc/<pid>/mem and environ from other processes of the same user (prctl(2), PR_SET_DUMPABLE).
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process could not be made undumpable");
    }
    lock_memory();
    allow_descriptors();
}

/// Some systems start a process with 1,024 (setrlimit(2), the soft limit): fewer than the connections that the server is ready for.
fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Keeps pages out of swap. Only where the limit is infinite (as with `CAP_IPC_LOCK`): under a finite one, locking what is still to come
/// would make allocations fail later. Pages are locked as they are first touched, so that nothing is made resident for it.
fn lock_memory() {
    if getrlimit(Resource::Memlock).current.is_some() {
        tracing::debug!("memory is not locked: RLIMIT_MEMLOCK is finite (kubelet's nodes run without swap, or with encrypted swap)");
        return;
    }
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        tracing::debug!(%error, "memory is not locked");
    }
}
