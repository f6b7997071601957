//! Names in backticks that no schema lists: commands, targets of the Makefile, files of the repository, environment variables, and names of
//! two words such as `tokenRequests`. And what schemas list and one page has: the fields of an audit line, and the defaults of the configuration.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{Found, options, pages, quoted, root, unexplained};
use crate::deploy::{deploy, documents};
use crate::support::files_below;

/// Names of two words, and variables of the environment, that are nowhere in our sources.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("AWS_ENDPOINT_URL", "the AWS provider"),
    ("AWS_REGION", "the AWS provider"),
    ("AWS_USE_FIPS_ENDPOINT", "the AWS provider"),
    ("CAP_SYS_PTRACE", "Linux"),
    ("IPC_LOCK", "a capability of a container"),
    ("MALLOC_MMAP_THRESHOLD_", "glibc"),
    ("M_MMAP_THRESHOLD", "glibc"),
    ("O_EXCL", "Linux"),
    ("expirationSeconds", "a CSIDriver object"),
    ("objctName", "a misspelt key, in an example"),
    ("podName", "the driver's status object"),
    ("readFileSync", "Node"),
    ("shareProcessNamespace", "a Pod"),
    ("trustedCertEntry", "Java's keytool"),
];

/// Files that a page names and that are not there.
const OTHER_FILES: &[(&str, &str)] = &[("src/cli/allocator.rs", "a file of former versions, in a decision")];

/// Folders of the repository. The overlays and the components are in `deploy/manifests`.
const FOLDERS: [&str; 11] =
    ["benches/", "components/", "deploy/", "docs/", "fuzz/", "overlays/", "proto/", "schemas/", "src/", "tests/", ".github/"];

/// Every text that can name something: sources without tests, schemas, manifests.
fn sources() -> String {
    let folders = ["src", "schemas", "deploy", "proto"].map(|folder| root().join(folder));
    let kinds = ["json", "proto", "rs", "sh", "tpl", "txt", "yaml"];
    let mut files: Vec<_> = folders.iter().flat_map(|folder| kinds.iter().flat_map(|kind| files_below(folder, kind))).collect();
    files.extend(["Cargo.toml", "Makefile", "build.rs", ".cargo/config.toml", "deploy/Dockerfile"].map(|file| root().join(file)));
    let is_test = |path: &str| path.contains("/tests/") || path.ends_with("tests.rs");
    let texts = files.iter().filter(|file| !is_test(file.to_str().unwrap())).map(|file| fs::read_to_string(file).unwrap());
    texts.collect::<Vec<_>>().join("\n")
}

/// The words of letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// `last_fault` is `lastFault` in JSON.
fn camel(word: &str) -> String {
    let mut parts = word.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    let large = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    parts.filter(|part| !part.is_empty()).fold(first, |name, part| name + &large(part))
}

/// A name of two words, or a variable of the environment: what no sentence has by chance.
fn is_special(word: &str) -> bool {
    let is_variable = word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let is_camel = word.starts_with(|c: char| c.is_ascii_lowercase()) && word.contains(|c: char| c.is_ascii_uppercase());
    is_variable || is_camel && !word.contains('_')
}

#[test]
fn special_names_of_the_pages_are_somewhere_in_the_sources() {
    let sources = sources();
    let known: BTreeSet<String> = words(&sources).flat_map(|word| [word.to_owned(), camel(word)]).collect();
    let (mut strange, mut count) = (Vec::new(), 0);
    for Found { place, text } in quoted() {
        for word in words(&text).filter(|word| is_special(word)) {
            count += 1;
            if !known.contains(word) {
                strange.push(Found { place: place.clone(), text: word.to_owned() });
            }
        }
    }
    assert!(count > 500, "{count}");
    let wrong = unexplained(&strange, OTHER_NAMES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The paths of a text that begin with a folder of the repository, up to the first part with a pattern.
fn paths(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "/._-*".contains(c);
    let parts = text.split(|c: char| !is_part(c)).filter(|part| FOLDERS.iter().any(|folder| part.starts_with(folder)));
    let whole = |part: &str| part.split('*').next().unwrap_or_default().trim_end_matches(['.', '/', '-']).to_owned();
    parts.map(whole).collect()
}

#[test]
fn files_of_the_pages_are_there() {
    let (mut strange, mut count) = (Vec::new(), 0);
    for Found { place, text } in quoted() {
        for path in paths(&text) {
            count += 1;
            let is_there = [root().join(&path), root().join("deploy/manifests").join(&path)].iter().any(|path| path.exists());
            if !is_there {
                strange.push(Found { place: place.clone(), text: path });
            }
        }
    }
    assert!(count > 40, "{count}");
    let wrong = unexplained(&strange, OTHER_FILES);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The targets of the Makefile.
fn targets() -> BTreeSet<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let rules = makefile.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).filter_map(|line| line.split_once(':'));
    rules.flat_map(|(names, _)| names.split(' ')).map(str::to_owned).collect()
}

/// What such a text runs that is not there: a command of ours, or a target of the Makefile.
fn unknown_command(text: &str, targets: &BTreeSet<String>) -> Option<String> {
    let options = options();
    let is_name =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let mut words = text.split_whitespace().skip_while(|word| word.contains('=')).peekable();
    match words.next()? {
        "make" => words.take_while(|word| !word.contains('=')).find(|word| !targets.contains(*word)).map(str::to_owned),
        "keyferry" | "/keyferry" => {
            let first = words.next().filter(is_name)?;
            let has_more = options.keys().any(|path| path.starts_with(&format!("{first} ")));
            let path = words.next().filter(|word| has_more && is_name(word)).map_or(first.to_owned(), |word| format!("{first} {word}"));
            (!options.contains_key(&path)).then_some(path)
        }
        _ => None,
    }
}

#[test]
fn commands_of_the_pages_are_there() {
    let targets = targets();
    let texts = quoted();
    let of_commands: Vec<&Found> = texts.iter().filter(|found| found.text.contains("keyferry ") || found.text.contains("make ")).collect();
    assert!(of_commands.len() > 200, "{}", of_commands.len());
    let wrong = |Found { place, text }: &&Found| {
        let unknown = text.split(['&', '|', ';']).find_map(|command| unknown_command(command, &targets))?;
        Some(format!("{place}: {unknown}"))
    };
    let wrong: Vec<String> = of_commands.iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The keys of every mapping that a schema describes.
fn keys(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(entries) => {
            if let Some(properties) = entries.get("properties").and_then(Value::as_object) {
                found.extend(properties.keys().cloned());
            }
            entries.values().for_each(|value| keys(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
    }
}

/// The names in the first column of a page's tables that have the heading `field`.
fn fields(page: &str) -> BTreeSet<String> {
    let (mut found, mut inside) = (BTreeSet::new(), false);
    for line in page.lines() {
        inside = line.starts_with("| field |") || inside && line.starts_with('|');
        let first = line.split('|').nth(1).filter(|_| inside).unwrap_or_default();
        found.extend(first.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    found
}

#[test]
fn the_audit_page_has_every_field_of_a_line() {
    let page = fs::read_to_string(root().join("docs/audit.md")).unwrap();
    let schema = serde_json::from_str(&fs::read_to_string(root().join("schemas/audit.json")).unwrap()).unwrap();
    let mut known = BTreeSet::new();
    keys(&schema, &mut known);
    let fields = fields(&page);
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(fields.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "docs/audit.md has fields that no line has");
    assert_eq!(known.difference(&fields).collect::<Vec<_>>(), Vec::<&String>::new(), "docs/audit.md does not have these fields");
}

#[test]
fn each_schema_has_an_id() {
    for file in files_below(&root().join("schemas"), "json") {
        let schema: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(schema["$id"], format!("https://keyferry.example/schemas/{name}"));
    }
}

/// The defaults of a schema's keys by their paths, as a person writes them.
fn defaults(node: &Value, path: &str, found: &mut Vec<(String, String)>) {
    for (key, below) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{key}");
        let text = match &below["default"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other @ (Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Some(other.to_string().replace('"', "")),
        };
        found.extend(text.map(|text| (path.clone(), text)));
        defaults(below, &format!("{path}."), found);
    }
}

/// The keys under `backends` have other defaults for each kind, and other tables.
#[test]
fn the_page_of_the_configuration_has_the_defaults_of_the_schema() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let schema: Value = serde_json::from_str(&fs::read_to_string(root().join("schemas/config.json")).unwrap()).unwrap();
    let mut known = Vec::new();
    defaults(&schema, "", &mut known);
    assert!(known.len() > 20, "{known:?}");
    for (key, default) in known {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let column = row.and_then(|row| row.split(" | ").nth(1)).unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
        let shown = [format!("`{default}`"), format!("`\"{default}\"`")];
        assert!(shown.iter().any(|shown| column.ends_with(shown)), "docs/configuration.md: {key}: {column}: the schema has {default}");
    }
}

/// `create` and `patch` on `events`, as verbs and resource. Rights of a store have a path instead of a resource.
fn rights<'t>(text: &'t str) -> Vec<(Vec<&'t str>, &'t str)> {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let between = "` on `";
    let right = |(at, _)| {
        let resource = text[at + between.len()..].split('`').next()?;
        let before = text[..=at].rsplit(['.', ',', '(', ';']).next()?;
        let granted: Vec<&'t str> = before.split('`').skip(1).step_by(2).filter(|word| verbs.contains(word)).collect();
        (!granted.is_empty() && resource.chars().all(|c| c.is_ascii_lowercase())).then_some((granted, resource))
    };
    text.match_indices(between).filter_map(right).collect()
}

#[test]
fn rights_of_the_pages_are_in_the_manifests() {
    let files = files_below(&deploy("manifests"), "yaml").into_iter().filter(|file| file.ends_with("rbac.yaml"));
    let rules: Vec<Value> =
        files.flat_map(|file| documents(&file)).filter_map(|role| role["rules"].as_array().cloned()).flatten().collect();
    let has = |list: &Value, word: &str| list.as_array().is_some_and(|list| list.iter().any(|one| one == word));
    let mut count = 0;
    for (page, text) in pages() {
        for (verbs, resource) in rights(&text) {
            for verb in verbs {
                count += 1;
                let found = rules.iter().any(|rule| has(&rule["resources"], resource) && has(&rule["verbs"], verb));
                assert!(found, "{page}: no Role or ClusterRole of deploy/manifests has the verb {verb} on {resource}");
            }
        }
    }
    assert!(count > 4, "{count}");
}

/// What the tests above would find.
#[test]
fn a_name_that_is_nowhere_is_found() {
    assert_eq!(rights("x. `create` and `patch` on `events`, `list` on `kv/x`"), [(vec!["create", "patch"], "events")]);
    assert_eq!(words("a.lastFault: X_Y (`b-c`)").filter(|word| is_special(word)).collect::<Vec<_>>(), ["lastFault", "X_Y"]);
    assert_eq!([camel("last_fault"), camel("a"), camel("_x")], ["lastFault", "a", "X"]);
    assert_eq!(paths("see `docs/runbooks/*.md`, overlays/openbao. x/docs/no"), ["docs/runbooks", "overlays/openbao"]);
    let targets = targets();
    for (text, unknown) in [
        ("make e2e SCENARIO=outage", None),
        ("SHORT=1 make tset", Some("tset")),
        ("keyferry vault list -o wide", None),
        ("keyferry vault lst", Some("vault lst")),
        ("keyferry staus", Some("staus")),
        ("keyferry explain PolicyDenied", None),
        ("keyferry --version", None),
        ("kubectl staus", None),
    ] {
        assert_eq!(unknown_command(text, &targets).as_deref(), unknown, "{text}");
    }
    assert_eq!(fields("| field | x |\n|---|---|\n| `a`, `b` | `c` |\n\n| `d` | |\n").into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
