//! Words that stop a reader who learned English at school. Nothing of ours uses them: sources, tests, pages, manifests, schemas.

use std::fs;
use std::path::Path;

use crate::support::files_below;

/// Each with what to write instead.
const WORDS: [(&str, &str); 25] = [
    ("anew", "again"),
    ("are no", "are not"),
    ("are told", "say who tells them, and what"),
    ("as good as", "almost"),
    ("goes wrong", "is wrong"),
    ("he", "they"),
    ("heeded", "used"),
    ("held against", "compared with"),
    ("hence", "so"),
    ("his", "their"),
    ("is entered", "say who logs in to it"),
    ("is no", "is not a"),
    ("is told", "say who tells it, and what"),
    ("lately", "a short time ago"),
    ("lease is over", "the lease has ended"),
    ("lies", "is"),
    ("mend", "correct"),
    ("mended", "corrected"),
    ("minded", "used"),
    ("passed over", "skipped"),
    ("speaks of", "is about"),
    ("stands", "is"),
    ("token is over", "the token expired"),
    ("wants", "needs"),
    ("whoever", "who"),
];

/// They have a word of the list, and are plain.
const PLAIN: [&str; 4] = ["are no longer", "is no longer", "there are no", "there is no"];

/// What is written by others, or has the words because it looks for them.
const OTHERS: [&str; 3] = ["tests/it/words.rs", "tests/golden", "proto/generated"];

/// What has words of ours in a folder, by the ends of its names.
const KINDS: [&str; 12] = ["json", "md", "proto", "py", "rs", "sh", "toml", "tpl", "txt", "yaml", "yml", "java"];

const PLACES: [&str; 19] = [
    ".ci/run",
    ".config",
    ".github",
    "benches",
    "build.rs",
    "Cargo.toml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "deploy",
    "deploy/Dockerfile",
    "docs",
    "fuzz/fuzz_targets",
    "Makefile",
    "proto",
    "README.md",
    "schemas",
    "SECURITY.md",
    "src",
    "tests",
];

/// The words of a line as a reader sees them, with one space before, between and behind.
fn plain(line: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    let words: Vec<_> = line.split(|c: char| !word(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    format!(" {} ", words.join(" "))
}

/// The words of the list in a line.
fn found(line: &str) -> Vec<(&'static str, &'static str)> {
    let mut text = plain(line);
    for plain in PLAIN {
        text = text.replace(&format!(" {plain} "), " ");
    }
    WORDS.into_iter().filter(|(word, _)| text.contains(&format!(" {word} "))).collect()
}

#[test]
fn no_text_has_words_that_stop_a_reader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut said = Vec::new();
    for place in PLACES.map(|place| root.join(place)) {
        let files = if place.is_dir() { KINDS.iter().flat_map(|kind| files_below(&place, kind)).collect() } else { vec![place] };
        for file in files {
            let name = file.strip_prefix(root).unwrap().display().to_string();
            if OTHERS.iter().any(|other| name.starts_with(other)) {
                continue;
            }
            // A few files of tests are not UTF-8, on purpose.
            let Ok(text) = fs::read_to_string(&file) else { continue };
            for (number, line) in text.lines().enumerate() {
                said.extend(found(line).into_iter().map(|(word, instead)| format!("{name}:{}: {word} (write: {instead})", number + 1)));
            }
        }
    }
    assert!(said.is_empty(), "{} places:\n{}", said.len(), said.join("\n"));
}

#[test]
fn words_are_found_as_a_reader_finds_them() {
    for (line, words) in [
        ("/// Whoever asks, wants it.", vec!["wants", "whoever"]),
        ("`x` is no name, and `y` is\tno name either", vec!["is no"]),
        ("it is no longer there, there is no other, and there is none", vec![]),
        ("fn wants_more() and stands_alone", vec![]),
        ("the token is over.", vec!["token is over"]),
    ] {
        assert_eq!(found(line).into_iter().map(|(word, _)| word).collect::<Vec<_>>(), words, "{line}");
    }
}
