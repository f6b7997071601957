//! What a page names in backticks is in the program: metrics with their labels, options, and keys of the configuration. Codes too, in backticks or not.
//! `messages` does the same with the program's texts, `names` with what has no schema, and `numbers` with exit codes, limits and defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use keyferry::cli::Cli;
use keyferry::model::Code;
use keyferry::nearest::nearest;
use keyferry::server::status::grpc_code;
use keyferry::telemetry::Metrics;
use serde_json::Value;

use crate::alerts;
use crate::golden::grpc_name;
use crate::support::files_below;

mod messages;
mod names;
mod numbers;

/// Options of other programs.
const OTHER_OPTIONS: &[(&str, &str)] = &[
    ("--atomic", "Helm"),
    ("--bound-object-kind", "kubectl"),
    ("--bound-object-name", "kubectl"),
    ("--build-arg", "docker"),
    ("--force-conflicts", "kubectl"),
    ("--max-call-recv-msg-size", "the driver"),
    ("--provider-volume", "the driver"),
    ("--reload-strategy", "Reloader"),
    ("--restricted", "nano"),
    ("--rollback-on-failure", "Helm"),
    ("--root-dir", "kubelet"),
    ("--rotation-poll-interval", "the driver"),
];

/// Names with dots that look like keys of the configuration.
const OTHER_KEYS: &[(&str, &str)] = &[
    ("args.ratio", "a value of a class, in a message"),
    ("b.c", "a name that a shell does not take"),
    ("data.data", "a part of an answer of Vault"),
    ("data.metadata", "a part of an answer of Vault"),
    ("db.password", "a field of a secret, and of a template"),
    ("dialects.azure", "refused: not yet supported"),
    ("dialects.gcp", "refused: not yet supported"),
    ("linux.kubeletRootDir", "the driver's chart"),
    ("linux.providersDir", "the driver's chart"),
    ("projected.sources", "a volume of a Pod"),
    ("shop.web", "a name that a secret may have"),
    ("spring.config.import", "Spring Boot"),
    ("syncSecret.enabled", "the driver's chart"),
];

/// What such names end with if they are files or addresses.
const ENDS: [&str; 15] =
    ["com", "crt", "example", "io", "json", "jsonl", "key", "lock", "log", "rs", "sock", "state", "toml", "txt", "yaml"];

/// Words that are nearly a code.
const OTHER_WORDS: &[(&str, &str)] = &[("AccessDenied", "an answer of AWS"), ("InternalIP", "an address of a node")];

/// A text in backticks, or a name in one.
#[derive(Debug)]
struct Found {
    place: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Name and text of each page.
fn pages() -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = ["docs", "deploy"].iter().flat_map(|folder| files_below(&root().join(folder), "md")).collect();
    files.push(root().join("README.md"));
    let read = |file: &PathBuf| (file.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(file).unwrap());
    files.iter().map(read).collect()
}

/// Every text in backticks, outside of blocks.
fn quoted() -> Vec<Found> {
    let mut found = Vec::new();
    for (page, text) in pages() {
        for (first, paragraph) in paragraphs(&text) {
            assert!(paragraph.split('`').count() % 2 == 1, "{page}:{first}: a text in backticks has no end");
            let mut line = first;
            for (at, text) in paragraph.split('`').enumerate() {
                if at % 2 == 1 {
                    found.push(Found { place: format!("{page}:{line}"), text: text.replace('\n', " ") });
                }
                line += text.matches('\n').count();
            }
        }
    }
    assert!(found.len() > 2000, "only {} texts were found", found.len());
    found
}

/// The paragraphs of a page without its blocks, each with the number of its first line.
fn paragraphs(page: &str) -> Vec<(usize, String)> {
    let mut paragraphs: Vec<(usize, String)> = Vec::new();
    let (mut fenced, mut apart) = (false, true);
    for (number, line) in (1..).zip(page.lines()) {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if fenced || fence || line.trim().is_empty() || apart && line.starts_with("    ") {
            apart = true;
            continue;
        }
        // A backtick by itself is quoted in two.
        let line = line.replace("`` ` ``", "");
        match paragraphs.last_mut().filter(|_| !apart) {
            Some((_, paragraph)) => paragraph.push_str(&format!("\n{line}")),
            None => paragraphs.push((number, line)),
        }
        apart = false;
    }
    paragraphs
}

/// The names that are strange and that no exception explains, and the exceptions that nothing needs.
fn unexplained(strange: &[Found], exceptions: &[(&str, &str)]) -> Vec<String> {
    let is_excepted = |found: &&Found| exceptions.iter().any(|(name, _)| *name == found.text);
    let unknown = strange.iter().filter(|found| !is_excepted(found)).map(|Found { place, text }| format!("{place}: {text}"));
    let unused = exceptions.iter().filter(|(name, _)| strange.iter().all(|found| found.text != *name));
    unknown.chain(unused.map(|(name, why)| format!("an exception without use: {name} ({why})"))).collect()
}

#[tokio::test]
async fn metrics_of_the_pages_are_those_of_a_daemon() {
    // A daemon has this one as soon as its cache has dropped an answer.
    let late = Metrics::new();
    late.cache("bao").evicted("full", 1);
    let text = alerts::metrics().await + &late.encode();
    let mut types = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE keyferry_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        types.insert(format!("keyferry_{name}{ending}"), kind.to_owned());
    }
    let (mut wrong, mut named) = (Vec::new(), BTreeSet::new());
    for Found { place, text: query } in quoted().iter().filter(|found| found.text.contains("keyferry_")) {
        let metric = query.split('{').next().unwrap();
        named.insert(metric.to_owned());
        // Dots are any value. A histogram has series of other names, and a page means all of them.
        let query = if query.contains("...") { metric } else { query.as_str() };
        if types.get(query).is_none_or(|kind| kind != "histogram") {
            wrong.extend(alerts::missing(query, &text).into_iter().map(|why| format!("{place}: {why}")));
        }
    }
    wrong.extend(types.into_keys().filter(|metric| !named.contains(metric)).map(|metric| format!("no page names {metric}")));
    assert!(wrong.is_empty(), "{}\n{text}", wrong.join("\n"));
}

/// The options of each command, by its words, such as `vault set`.
fn options() -> BTreeMap<String, BTreeSet<String>> {
    fn walk(path: &str, command: &Command, found: &mut BTreeMap<String, BTreeSet<String>>) {
        let names = command.get_arguments().filter_map(clap::Arg::get_long_and_visible_aliases).flatten();
        found.insert(path.to_owned(), names.map(|name| format!("--{name}")).collect());
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            walk(format!("{path} {}", below.get_name()).trim(), below, found);
        }
    }
    let (mut command, mut found) = (Cli::command(), BTreeMap::new());
    command.build();
    walk("", &command, &mut found);
    found
}

/// The options of a text that are not those of the command that it names, or of any command if it names none. Other programs have their own.
fn strange_options(text: &str, options: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().take_while(|word| *word != "--").collect();
    let is_known = |option: &String| match words[0] {
        "keyferry" => {
            let path = (1..=words.len()).rev().map(|end| words[1..end].join(" ")).find(|path| options.contains_key(path));
            options[&path.unwrap()].contains(option)
        }
        first if first.starts_with(['-', '[']) || options.keys().any(|path| path.split(' ').any(|word| word == first)) => {
            options.values().any(|of_one| of_one.contains(option))
        }
        _ => true,
    };
    let option = |word: &&str| -> Option<String> {
        let rest = word.trim_start_matches('[').strip_prefix("--").filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))?;
        Some(format!("--{}", rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>()))
    };
    words.iter().filter_map(option).filter(|option| !is_known(option)).collect()
}

#[test]
fn options_of_the_pages_are_those_of_the_commands() {
    let options = options();
    let texts = quoted();
    let texts = texts.iter().filter(|found| found.text.contains("--"));
    let of_one = |found: &Found| -> Vec<Found> {
        strange_options(&found.text, &options).into_iter().map(|text| Found { place: found.place.clone(), text }).collect()
    };
    assert!(texts.clone().count() > 100);
    let wrong = unexplained(&texts.flat_map(of_one).collect::<Vec<_>>(), OTHER_OPTIONS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a schema says of a key of this mapping, also by references and alternatives.
fn below<'s>(schema: &'s Value, node: &'s Value, key: &str) -> Vec<&'s Value> {
    let any = Some(&node["additionalProperties"]).filter(|any| any.is_object());
    let mut found: Vec<&Value> = node["properties"].get(key).or(any).into_iter().collect();
    let target = node["$ref"].as_str().and_then(|target| schema.pointer(target.strip_prefix('#')?));
    let alternatives = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|word| node[word].as_array()).flatten();
    let others = ["else", "items", "then"].into_iter().filter_map(|word| node.get(word));
    for part in target.into_iter().chain(alternatives).chain(others) {
        found.extend(below(schema, part, key));
    }
    found
}

fn leads(schema: &Value, node: &Value, path: &[&str]) -> bool {
    path.split_first().is_none_or(|(key, rest)| below(schema, node, key).into_iter().any(|found| leads(schema, found, rest)))
}

/// Whether the keys of the path follow each other somewhere in the schema.
fn has(schema: &Value, node: &Value, path: &[&str]) -> bool {
    node["properties"].get(path[0]).is_some() && leads(schema, node, path)
        || match node {
            Value::Array(items) => items.iter().any(|item| has(schema, item, path)),
            Value::Object(entries) => entries.values().any(|value| has(schema, value, path)),
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => false,
        }
}

/// `limits.memory` or `limits.memory: 64MiB`, as its keys.
fn key(text: &str) -> Option<Vec<&str>> {
    let path: Vec<&str> = text.split(": ").next()?.split('.').collect();
    let is_key = |part: &&str| part.starts_with(|c: char| c.is_ascii_lowercase()) && part.chars().all(|c| c.is_ascii_alphanumeric());
    (path.len() > 1 && path.iter().all(is_key)).then_some(path)
}

fn schemas() -> Vec<Value> {
    // The values of the chart have keys of their own.
    let files = ["schemas/config.json", "deploy/helm/keyferry/values.schema.json"];
    files.iter().map(|file| serde_json::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap()).collect()
}

#[test]
fn keys_of_the_pages_are_those_of_the_configuration() {
    let schemas = schemas();
    let (mut strange, mut known) = (Vec::new(), BTreeSet::new());
    for Found { place, text } in quoted() {
        let Some(path) = key(&text) else { continue };
        let name = path.join(".");
        if schemas.iter().any(|schema| has(schema, schema, &path)) {
            known.insert(name);
        } else if path.last().is_none_or(|last| !ENDS.contains(last)) {
            strange.push(Found { place, text: name });
        }
    }
    assert!(known.len() > 50, "{known:?}");
    let wrong = unexplained(&strange, OTHER_KEYS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_codes_is_that_of_the_program() {
    let page = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let row = |line: &str| -> Option<(String, String)> {
        let (code, rest) = line.strip_prefix("| [")?.split_once("](#")?;
        Some((code.to_owned(), rest.split(" | ").nth(1)?.to_owned()))
    };
    let rows: Vec<(String, String)> = page.lines().filter_map(row).collect();
    assert_eq!(rows, Code::ALL.map(|code| (code.to_string(), grpc_name(grpc_code(code)))));
}

/// Whether a word is several ones, such as `PolicyDenied`.
fn is_name(word: &str) -> bool {
    let large = word.chars().filter(char::is_ascii_uppercase).count();
    word.starts_with(|c: char| c.is_ascii_uppercase()) && large > 1 && large < word.len()
}

#[test]
fn no_page_misspells_a_code() {
    let (mut strange, mut count) = (Vec::new(), 0);
    for (page, text) in pages() {
        for (number, line) in (1..).zip(text.lines()) {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_name(word)) {
                match nearest(word, Code::ALL.map(Code::as_str)) {
                    Some(code) if code == word => count += 1,
                    Some(_) => strange.push(Found { place: format!("{page}:{number}"), text: word.to_owned() }),
                    None => {}
                }
            }
        }
    }
    assert!(count > 200, "{count}");
    let wrong = unexplained(&strange, OTHER_WORDS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the tests above would find.
#[test]
fn what_a_page_names_and_the_program_has_not_is_found() {
    let page = "a `b\nc` d\n\n    `block`\n\n    `more`\n- `e`\n```\n`fence`\n```\n`` ` `` and `f`\n";
    assert_eq!(paragraphs(page), [(1, "a `b\nc` d".to_owned()), (7, "- `e`".to_owned()), (11, " and `f`".to_owned())]);
    let options = options();
    for (text, strange) in [
        ("keyferry check --strict", ""),
        ("keyferry check --dry-run", "--dry-run"),
        ("keyferry vault set NAME --field=x", "--field"),
        ("keyferry exec -- git --verbose", ""),
        ("--dry-run", ""),
        ("[--dry-rn]", "--dry-rn"),
        ("check --alow ID", "--alow"),
        ("git tag --sign", ""),
    ] {
        assert_eq!(strange_options(text, &options).join(" "), strange, "{text}");
    }
    let schemas = schemas();
    for (text, known) in [
        ("limits.memory: 64MiB", true),
        ("backends.bao.auth.role", true),
        ("auth.role", true),
        ("identity.jwks.url", true),
        ("limits.memry", false),
        ("limit.memory", false),
        ("identity.url", false),
    ] {
        assert_eq!(has(&schemas[0], &schemas[0], &key(text).unwrap()), known, "{text}");
    }
    assert!(key("a.Mount").is_none() && key("limits").is_none() && key("../a").is_none());
}
