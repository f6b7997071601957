//! Compiles `proto/provider.proto` with protox, a compiler in Rust: no system protoc is needed.

use std::error::Error;

/// Messages that carry secrets or tokens; `server/proto.rs` writes their `Debug` by hand.
const REDACTED: [&str; 3] = ["v1alpha1.MountRequest", "v1alpha1.MountResponse", "v1alpha1.File"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/provider.proto");
    let descriptors = protox::compile(["proto/provider.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".v1alpha1.File.contents").skip_debug(REDACTED).compile_fds(descriptors)?;
    Ok(())
}
