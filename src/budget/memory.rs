//! How much memory the daemon's cgroup allows.

use std::path::{Component, Path};

use crate::files::WholeFile;

/// The longest file that is read, in bytes. `/proc/self/cgroup` has a line for each hierarchy, and the others hold one number.
const MAX_FILE: usize = 16 * 1024;

/// The most cgroups above the process's own that Keyferry looks at.
const MAX_DEPTH: usize = 64;

/// The value of a cgroup without a limit in version 1: the largest number of pages. No machine has half of that.
const UNLIMITED: u64 = 1 << 62;

/// The lowest limit in bytes among the process's cgroup and those above it, in version 2 (`memory.max`) and version 1
/// (`memory.limit_in_bytes`) (Linux: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst). `None`: there is no limit, or it
/// cannot be read.
///
/// In a container, the path of the cgroup may be the node's path (version 1), but the mounted folder is the cgroup itself. So Keyferry
/// leaves out the part of the path that does not exist, and always looks at the mounted folder. All files are below `root`: `/`, except in
/// a test.
pub fn memory_of_cgroup(root: &Path) -> Option<u64> {
    let own = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let (mut v1, mut v2) = ("", "");
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next(), parts.next()) {
            (Some(""), Some(path)) => v2 = path,
            (Some(controllers), Some(path)) if controllers.split(',').any(|one| one == "memory") => v1 = path,
            _ => {}
        }
    }
    let mounted = root.join("sys/fs/cgroup");
    let v2 = least(&mounted, v2, "memory.max");
    let v1 = least(&mounted.join("memory"), v1, "memory.limit_in_bytes");
    [v1, v2].into_iter().flatten().min()
}

/// The lowest number in the files of this name, from a cgroup up to the mounted folder.
fn least(mounted: &Path, cgroup: &str, file: &str) -> Option<u64> {
    let cgroup = Path::new(cgroup.trim_start_matches('/'));
    // A cgroup outside of the namespace has a path such as `/../other`.
    let within = cgroup.components().all(|part| matches!(part, Component::Normal(_)));
    let cgroup = if within { cgroup } else { Path::new("") };
    let limits = cgroup.ancestors().take(MAX_DEPTH).chain([Path::new("")]).filter_map(|dir| read(&mounted.join(dir).join(file)));
    limits.filter_map(|text| text.trim().parse().ok()).filter(|limit| *limit < UNLIMITED).min()
}

fn read(path: &Path) -> Option<String> {
    let file = WholeFile::read(path, MAX_FILE).ok()?;
    String::from_utf8(file.bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The limit that is found with these files.
    fn found(files: &[(&str, &str)]) -> Option<u64> {
        let root = crate::folder::new();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        memory_of_cgroup(root.path())
    }

    #[test]
    fn the_least_of_version_2_counts() {
        let own = ("proc/self/cgroup", "0::/kubepods.slice/pod1.slice/keyferry.scope\n");
        let at = "sys/fs/cgroup/kubepods.slice/pod1.slice/keyferry.scope/memory.max";
        let above = "sys/fs/cgroup/kubepods.slice/pod1.slice/memory.max";
        assert_eq!(found(&[own, (at, "268435456\n"), (above, "max\n")]), Some(268_435_456));
        assert_eq!(found(&[own, (at, "max\n"), (above, "134217728\n")]), Some(134_217_728));
        assert_eq!(found(&[own, (at, "268435456\n"), (above, "134217728\n")]), Some(134_217_728));
        assert_eq!(found(&[own, (at, "max\n"), (above, "max\n")]), None);
        // In its own namespace.
        assert_eq!(found(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "67108864\n")]), Some(67_108_864));
    }

    #[test]
    fn version_1_counts_where_memory_is_in_it() {
        let own = ("proc/self/cgroup", "12:cpu,cpuacct:/a\n4:hugetlb,memory:/kubepods/pod1/c1\n0::/elsewhere\n");
        let limit = "memory.limit_in_bytes";
        let at = |dir: &str| format!("sys/fs/cgroup/memory/{dir}{limit}");
        assert_eq!(found(&[own, (&at("kubepods/pod1/c1/"), "104857600\n"), (&at(""), "9223372036854771712\n")]), Some(104_857_600));
        assert_eq!(found(&[own, (&at("kubepods/"), "104857600\n"), (&at(""), "9223372036854771712\n")]), Some(104_857_600));
        assert_eq!(found(&[own, (&at(""), "9223372036854771712\n")]), None, "no limit");
        // The path is the node's, and the container's own cgroup is mounted.
        assert_eq!(found(&[own, (&at(""), "52428800\n")]), Some(52_428_800));
    }

    #[test]
    fn strange_files_say_nothing() {
        let long = "x".repeat(MAX_FILE + 1);
        for (own, limit) in [
            ("", ""),
            ("nonsense\n::\n", "much\n"),
            ("0::/\n", "-1\n"),
            ("0::/\n", "99999999999999999999999\n"),
            ("0::/\n", long.as_str()),
            (long.as_str(), ""),
        ] {
            assert_eq!(found(&[("proc/self/cgroup", own), ("sys/fs/cgroup/memory.max", limit)]), None);
        }
        assert_eq!(found(&[]), None);
        // Nothing outside of the mounted folder is read.
        let outside = [("proc/self/cgroup", "0::/../../../proc\n"), ("proc/memory.max", "7\n"), ("sys/fs/cgroup/memory.max", "9\n")];
        assert_eq!(found(&outside), Some(9));
        // At any depth.
        let deep = format!("0::{}\n", "/a".repeat(2_000));
        assert_eq!(found(&[("proc/self/cgroup", &deep), ("sys/fs/cgroup/memory.max", "9\n")]), Some(9));
    }

    #[test]
    fn the_real_ones_can_be_read() {
        // Any machine must give a number.
        assert!(memory_of_cgroup(Path::new("/")).is_none_or(|limit| limit > 0 && limit < UNLIMITED));
        assert!(super::super::memory(None) > 0);
        assert_eq!(super::super::memory(Some(7)), 7);
    }
}
