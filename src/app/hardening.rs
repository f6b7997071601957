//! What the daemon gives up before it has a secret: core dumps, access by other processes, files that others can read, and swap where
//! possible. It also asks for as many file descriptors as its own limits allow.

use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// For connections at the sockets (some that wait, some that leave, some that say nothing), at the metrics and stores, and for files.
const DESCRIPTORS: u64 = 8192;

/// Hardens this process until it ends. What the system does not allow is logged and does not stop the start: Pods must start on a less
/// strict node too.
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

/// Some systems start a process with 1,024 (setrlimit(2), the soft limit): fewer than the connections that the server allows.
fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Keeps pages out of swap. Only where the limit is infinite (as with `CAP_IPC_LOCK`): with a finite limit, later allocations could fail.
/// Pages are locked when they are first used, so this takes no additional memory.
fn lock_memory() {
    if getrlimit(Resource::Memlock).current.is_some() {
        tracing::debug!("memory is not locked: RLIMIT_MEMLOCK is finite (kubelet's nodes run without swap, or with encrypted swap)");
        return;
    }
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        tracing::debug!(%error, "memory is not locked");
    }
}
