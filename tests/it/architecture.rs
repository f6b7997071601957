//! The arrows of the house: which room may import which. The test reads the imports, so a wrong arrow fails here and not in a review.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files_below;

mod backend;
mod circles;

/// Rooms that all others may import.
const LEAVES: [&str; 22] = [
    "budget",
    "clock",
    "dotenv",
    "files",
    "formats",
    "gathered",
    "glob",
    "grace",
    "memo",
    "nearest",
    "redact",
    "shares",
    "shelf",
    "steps",
    "telemetry",
    "text",
    "turns",
    "units",
    "window",
    "work",
    "yaml",
    "model",
];

/// What each room may import, in addition to the leaves and itself.
fn allowed(room: &str) -> Option<&'static [&'static str]> {
    Some(match room {
        "identity" | "audit" => &["http", "kube"],
        "events" => &["kube"],
        "backend" => &["http", "kube", "policy"],
        leaf if LEAVES.contains(&leaf) => &[],
        "dialect" | "delivery" | "http" | "policy" | "render" => &[],
        "kube" => &["http"],
        "pipeline" => &["identity", "dialect", "policy", "backend", "render", "delivery", "audit", "events"],
        // `delivery` and `model` shapes become messages here.
        "server" => &["pipeline", "delivery"],
        // Each stage's own config type, never its implementation.
        "config" => &["identity", "policy", "backend", "delivery", "audit", "server"],
        "app" => &["config", "identity", "policy", "backend", "render", "delivery", "audit", "events", "dialect", "pipeline", "server"],
        // The commands that play the driver, keep a vault, judge or render a class or look after a node use those rooms' own parts.
        "cli" => &["app", "config", "server", "backend", "delivery", "dialect", "identity", "kube", "policy", "render"],
        "lib" | "main" => return None,
        _ => panic!("a new room {room:?}: say in tests/it/architecture.rs what it may import"),
    })
}

#[test]
fn arrows_point_down_only() {
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        let Some(allowed) = allowed(&room) else { continue };
        for (file, text) in files {
            for imported in imports(&text) {
                let known = LEAVES.contains(&imported.as_str()) && (room != "model" || imported != "telemetry");
                if imported != room && !known && !allowed.contains(&imported.as_str()) {
                    wrong.push(format!("{}: {room} imports {imported}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point up or across:\n{}", wrong.join("\n"));
}

#[test]
fn grpc_lives_in_the_server_and_its_client_alone() {
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        for (file, text) in files {
            let client = matches!(
                file.file_name().and_then(|name| name.to_str()),
                Some("answer.rs" | "client.rs" | "demo.rs" | "health.rs" | "mount.rs" | "plugin.rs" | "tests.rs")
            );
            let speaks = text.contains("tonic::") || text.contains("prost::");
            if speaks && room != "server" && !(room == "cli" && client) {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "tonic or prost outside the server:\n{}", wrong.join("\n"));
}

#[test]
fn secret_bytes_are_exposed_where_they_must_be_and_nowhere_else() {
    // Each of these hands the bytes on to the place that needs them. A new place needs a reason, here.
    const PLACES: [(&str, &str); 9] = [
        ("audit", ""),
        ("backend", "opens and seals the vault's files"),
        ("cli", "writes a volume; the vault command prints a field that was asked for"),
        ("delivery", "the HMAC that makes a version; the volume writer"),
        ("identity", "verifies tokens"),
        ("kube", "reads the API server's answers; sends it a token to review"),
        ("model", "defines it; tells text from binary"),
        ("render", "decodes and assembles files"),
        ("server", "puts contents on the wire"),
    ];
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        let may = PLACES.iter().any(|(place, reason)| *place == room && !reason.is_empty());
        wrong.extend(
            files.iter().filter(|(_, text)| !may && code_of(text).contains(".expose()")).map(|(file, _)| file.display().to_string()),
        );
    }
    assert!(wrong.is_empty(), "exposes secret bytes:\n{}", wrong.join("\n"));
}

/// What the tests start, and where they make their folders, does not depend on the machine.
#[test]
fn tests_are_apart_from_the_machine_that_runs_them() {
    // These clear the environment themselves, or make the folders.
    const PLACES: [&str; 4] = ["bao/daemon.rs", "bao/postgres.rs", "folder.rs", "support.rs"];
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut wrong = Vec::new();
    for path in files_below(&tests, "rs") {
        let file = path.strip_prefix(&tests).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        // In two parts, so that the test does not find this file.
        let calls = [(["Command::", "new("], "support::apart"), (["tempdir", "()"], "folder::new"), (["TempDir::", "new("], "folder::new")];
        for (call, instead) in calls.map(|(parts, instead)| (parts.concat(), instead)) {
            if text.contains(&call) && !PLACES.contains(&file) {
                wrong.push(format!("{file}: {call} (use {instead})"));
            }
        }
    }
    assert!(wrong.is_empty(), "sees the machine:\n{}", wrong.join("\n"));
}

type Rooms = BTreeMap<String, Vec<(PathBuf, String)>>;

fn rooms() -> Rooms {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut rooms = Rooms::new();
    for path in files_below(&src, "rs") {
        let inside = path.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        rooms.entry(first.trim_end_matches(".rs").to_owned()).or_default().push((inside.to_owned(), text));
    }
    rooms
}

/// The rooms that a file names by `crate::room`, without the tests at its end.
fn imports(text: &str) -> Vec<String> {
    let code = code_of(text);
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let names = code.match_indices("crate::").map(|(at, found)| {
        let rest = &code[at + found.len()..];
        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// A file without the tests at its end. A file of tests has no code at all.
fn code_of(text: &str) -> &str {
    if text.contains("test]\n") && !text.contains("#[cfg(test)]") { "" } else { text.split("#[cfg(test)]").next().unwrap_or(text) }
}

#[test]
fn the_reader_of_imports_sees_them() {
    let text = "use crate::model::X;\n// use crate::server;\nfn f() { crate::policy::g(); }\n#[cfg(test)]\nuse crate::cli;";
    assert_eq!(imports(text), ["model", "policy"]);
}
