//! The code that `proto/` generates is in `proto/generated`, so that a build needs no protoc, nor a replacement for it.

use std::fs;
use std::path::Path;

/// Messages that carry secrets or tokens; `server/proto.rs` writes their `Debug` by hand.
const REDACTED: [&str; 3] = ["v1alpha1.MountRequest", "v1alpha1.MountResponse", "v1alpha1.File"];

/// The driver's contract with providers, and how it says who it is.
const FILES: [&str; 2] = ["provider.proto", "csi/identity.proto"];

/// To write what has changed: `GOLDEN=write cargo nextest run --test it proto::`.
#[test]
fn the_generated_code_is_that_of_the_contract() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let made = crate::folder::new();
    let descriptors = protox::compile(FILES, [&folder]).unwrap();
    let build = tonic_prost_build::configure().bytes(".v1alpha1.File.contents").skip_debug(REDACTED).out_dir(made.path());
    build.codec_path("crate::server::codec::SmallBuffers").compile_fds(descriptors).unwrap();
    let mut files: Vec<_> = fs::read_dir(made.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["csi.v1.rs", "v1alpha1.rs"]);
    for file in files {
        let (now, kept) = (fs::read_to_string(made.path().join(&file)).unwrap(), folder.join("generated").join(&file));
        if std::env::var("GOLDEN").is_ok_and(|golden| golden == "write") {
            fs::write(&kept, &now).unwrap();
        }
        let kept = fs::read_to_string(kept).unwrap_or_default();
        assert!(kept == now, "{}: is not what proto/ generates (GOLDEN=write writes it)", file.display());
    }
}
