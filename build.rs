//! Compiles what is in `proto/` with protox, a compiler in Rust: no system protoc is needed.

use std::error::Error;

/// Messages that carry secrets or tokens; `server/proto.rs` writes their `Debug` by hand.
const REDACTED: [&str; 3] = ["v1alpha1.MountRequest", "v1alpha1.MountResponse", "v1alpha1.File"];

/// The driver's contract with providers, and its own word of who it is.
const FILES: [&str; 2] = ["proto/provider.proto", "proto/csi/identity.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().bytes(".v1alpha1.File.contents").skip_debug(REDACTED).compile_fds(descriptors)?;
    Ok(())
}
