//! Compiles what is in `proto/` with protox, a compiler in Rust: no system protoc is needed.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Messages that carry secrets or tokens; `server/proto.rs` writes their `Debug` by hand.
const REDACTED: [&str; 3] = ["v1alpha1.MountRequest", "v1alpha1.MountResponse", "v1alpha1.File"];

/// The driver's contract with providers, and its own word of who it is.
const FILES: [&str; 2] = ["proto/provider.proto", "proto/csi/identity.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let build = tonic_prost_build::configure().bytes(".v1alpha1.File.contents").skip_debug(REDACTED);
    build.codec_path("crate::server::codec::SmallBuffers").compile_fds(descriptors)?;
    say_what_is_built();
    Ok(())
}

/// For `keyferry version -o json`. The commit is known in release builds from a git clone, or where `KEYFERRY_COMMIT` is set: a development
/// build would have to be repeated after each commit.
fn say_what_is_built() {
    println!("cargo:rustc-env=KEYFERRY_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rerun-if-env-changed=KEYFERRY_COMMIT");
    let log = Path::new(".git/logs/HEAD");
    if env::var_os("KEYFERRY_COMMIT").is_some() || env::var("PROFILE").as_deref() != Ok("release") || !log.exists() {
        return;
    }
    println!("cargo:rerun-if-changed={}", log.display());
    let found = Command::new("git").args(["rev-parse", "HEAD"]).output().ok().filter(|output| output.status.success());
    if let Some(commit) = found.and_then(|output| String::from_utf8(output.stdout).ok()) {
        println!("cargo:rustc-env=KEYFERRY_COMMIT={}", commit.trim());
    }
}
