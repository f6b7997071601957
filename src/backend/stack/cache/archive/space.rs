//! How much of the disk is free: kubelet evicts Pods from a node whose disk is full, and old answers are not worth that.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// No file is written while the disk has less free space than this,
const LEAST: u64 = 256 << 20;

/// or while it has less than this part of its space free.
const PART: u64 = 20;

/// Reads how many bytes of a folder's file system are free, and how many it has in all.
pub(super) type Space = Arc<dyn Fn(&Path) -> io::Result<(u64, u64)> + Send + Sync>;

/// The values of the real disk.
pub(super) fn of_disk() -> Space {
    Arc::new(|folder| {
        let found = rustix::fs::statvfs(folder)?;
        Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
    })
}

/// Whether there is room for answers.
pub(super) fn is_enough((free, all): (u64, u64)) -> bool {
    free >= LEAST && free >= all / PART
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_has_two_bounds() {
        const GIB: u64 = 1 << 30;
        assert!(is_enough((GIB, 10 * GIB)) && is_enough((LEAST, GIB)));
        assert!(!is_enough((LEAST - 1, GIB)) && !is_enough((GIB, 21 * GIB)) && !is_enough((0, 0)));
        let (free, all) = of_disk()(Path::new("/")).unwrap();
        assert!(free <= all && all > 0);
    }
}
