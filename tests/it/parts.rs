//! The picture of the parts is the one that its script draws of its text.

use std::fs;
use std::path::Path;

use crate::support::{run, tool};

/// To write what has changed: `GOLDEN=write cargo nextest run --test it parts::`.
#[test]
fn the_picture_is_what_its_text_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let (code, drawn, errors) = run(tool("python3").arg(docs.join("parts.py")), "");
    assert_eq!((code, errors.as_str()), (0, ""));
    let picture = docs.join("parts.svg");
    if std::env::var_os("GOLDEN").is_some_and(|what| what == "write") {
        fs::write(&picture, &drawn).unwrap();
    }
    assert!(fs::read_to_string(picture).unwrap() == drawn, "docs/parts.svg is not what docs/parts.txt says (GOLDEN=write writes it)");
    // A page shows it as an image, and an image loads nothing.
    let references = drawn.matches("href").count() + drawn.matches("@import").count() + drawn.matches("url(").count();
    assert_eq!(references, drawn.matches("url(#head)").count());
}
