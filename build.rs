//! Says which commit is built, and how a static program is linked. What `proto/` generates is kept in `proto/generated`: tests/it/proto.rs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    // The build depends on no other file, unless it is named below.
    println!("cargo:rerun-if-changed=build.rs");
    say_what_is_built();
    pack();
}

/// Makes a static program smaller. Such a program relocates itself. When they are packed, its 20,000 relocations take a tenth of the room. glibc can
/// read packed ones since 2.36, and here its version is known, because it is linked in. Also, functions that are equal, byte by byte, are there only
/// once. That is an option of LLD, which comes with rustc and links for x86_64 since Rust 1.90.
fn pack() {
    let is = |key, value: &str| env::var(key).is_ok_and(|all| all.split(',').any(|one| one == value));
    if is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        if is("CARGO_CFG_TARGET_ARCH", "x86_64") {
            println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
}

/// For `keyferry version -o json`. Only the commit and the target: the same checkout gives the same binary. `KEYFERRY_COMMIT` names the commit
/// where there is no `.git`, as in an image's build. Otherwise it is unknown.
fn say_what_is_built() {
    println!("cargo:rustc-env=KEYFERRY_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rerun-if-env-changed=KEYFERRY_COMMIT");
    let commit = env::var("KEYFERRY_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(head);
    if let Some(commit) = commit {
        println!("cargo:rustc-env=KEYFERRY_COMMIT={commit}");
    }
}

/// The commit that is checked out. It reads git's files (gitrepository-layout(5)), so it needs no `git`. Only this folder's own repository counts,
/// not one around it that has Keyferry's source in it.
fn head() -> Option<String> {
    let folder = git_folder(Path::new(".git"))?;
    // Branches belong to all worktrees.
    let common = read(&folder.join("commondir")).map_or_else(|| folder.clone(), |common| folder.join(common));
    let head = watched(&folder.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref: ") else { return is_commit(&head).then_some(head) };
    let packed = watched(&common.join("packed-refs")).unwrap_or_default();
    let packed = packed.lines().find_map(|line| Some(line.strip_suffix(branch)?.trim_end().to_owned()));
    let loose = common.join(branch);
    if !loose.exists() {
        // The next commit makes this file. Cargo cannot watch a file that is not there, but it can watch its folder.
        let parent = loose.ancestors().skip(1).find(|above| above.is_dir());
        parent.into_iter().for_each(watch);
    }
    watched(&loose).or(packed).filter(|commit| is_commit(commit))
}

/// A worktree and a submodule have a file in place of this folder. It says where the folder is.
fn git_folder(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let file = watched(path)?;
    Some(PathBuf::from(file.strip_prefix("gitdir: ")?))
}

fn watched(path: &Path) -> Option<String> {
    let text = read(path)?;
    watch(path);
    Some(text)
}

fn watch(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// SHA-1 or SHA-256.
fn is_commit(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
