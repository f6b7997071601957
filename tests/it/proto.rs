//! The code that `proto/` generates is in `proto/generated`, so that a build needs no protoc, nor a replacement for it.

use std::fs;
use std::path::Path;

/// Messages that carry secrets or tokens; `server/proto.rs` writes their `Debug` by hand.
const REDACTED: [&str; 3] = ["v1alpha1.MountRequest", "v1alpha1.MountResponse", "v1alpha1.File"];

/// The driver's contract with providers, and how it says who it is.
const FILES: [&str; 2] = ["provider.proto", "csi/identity.proto"];

/// What the daemon answers with: the service again, with messages of its own (`server/wire.rs`).
const OWN: [&str; 2] = ["File", "ObjectVersion"];
const OTHERS: [&str; 4] = ["Error", "MountRequest", "VersionRequest", "VersionResponse"];

/// To write what has changed: `GOLDEN=write cargo nextest run --test it proto::`.
#[test]
fn the_generated_code_is_that_of_the_contract() {
    let build = tonic_prost_build::configure().bytes(".v1alpha1.File.contents").skip_debug(REDACTED);
    check(build, &FILES, "generated", &["csi.v1.rs", "v1alpha1.rs"]);
    let build = tonic_prost_build::configure().build_client(false);
    let build = OWN.iter().fold(build, |build, own| build.extern_path(format!(".v1alpha1.{own}"), format!("crate::server::wire::{own}")));
    let build =
        OTHERS.iter().fold(build, |build, other| build.extern_path(format!(".v1alpha1.{other}"), format!("crate::server::proto::{other}")));
    check(build, &FILES[..1], "generated/server", &["v1alpha1.rs"]);
}

fn check(build: tonic_prost_build::Builder, protos: &[&str], into: &str, expected: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let made = crate::folder::new();
    let descriptors = protox::compile(protos, [&folder]).unwrap();
    build.out_dir(made.path()).codec_path("crate::server::codec::SmallBuffers").compile_fds(descriptors).unwrap();
    let mut files: Vec<_> = fs::read_dir(made.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, expected);
    for file in files {
        let (now, kept) = (fs::read_to_string(made.path().join(&file)).unwrap(), folder.join(into).join(&file));
        if std::env::var("GOLDEN").is_ok_and(|golden| golden == "write") {
            fs::write(&kept, &now).unwrap();
        }
        let kept = fs::read_to_string(kept).unwrap_or_default();
        assert!(kept == now, "{}: is not what proto/ generates (GOLDEN=write writes it)", file.display());
    }
}
