//! `keyferry explain`: the documentation of a code or of a key, from the binary itself. Its only sources are `docs/errors.md` and the schemas.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use serde_json::{Value as Json, json};

use super::check::{SCHEMA_OF_CLASS, SCHEMA_OF_CONFIG};
use super::streams::write;
use super::{Failure, Format, Shown};
use crate::nearest::nearest;

const ERRORS: &str = include_str!("../../docs/errors.md");

/// In a path: any name that the user chooses.
const ANY: &str = "NAME";

/// No schema of Keyferry is as deep as this. None of their definitions contains itself.
const MAX_DEPTH: usize = 16;

const EXAMPLES: &str = "\
Examples:
  keyferry explain PolicyDenied            # a code, as a failed mount shows it
  keyferry explain limits.mounts           # a key of the configuration
  keyferry explain backends.bao.auth
  keyferry explain objects.mode            # a key of a class

Exit code 1: there is no such code or key.";

/// Explain an error code, or a key of a class or of the configuration.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArgs {
    /// A code such as PolicyDenied, or a key such as `limits.mounts`. The last words of a key are enough. Without it: the list of all codes and keys.
    #[arg(value_name = "CODE|KEY")]
    word: Option<String>,

    #[command(flatten)]
    pub(super) shown: Shown,
}

/// # Errors
/// The word is unknown (exit code 1).
pub fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let keys = keys()?;
    let Some(word) = args.word.as_deref().map(str::trim) else {
        let codes: Vec<&str> = sections().map(|(code, _)| code).collect();
        return match args.shown.output {
            Format::Json => write(out, &format!("{:#}\n", json!({ "codes": codes, "keys": keys.keys().collect::<Vec<_>>() }))),
            Format::Text => {
                let names = codes.into_iter().chain(keys.keys().map(String::as_str));
                write(out, &names.map(|name| format!("{name}\n")).collect::<String>())
            }
        };
    };
    // The start of a message works too: `PolicyDenied: object 1 ...`.
    let code = word.split(':').next().unwrap_or_default();
    if let Some((_, section)) = sections().find(|(known, _)| known.eq_ignore_ascii_case(code)) {
        let text = plain(section.trim_end());
        return match args.shown.output {
            Format::Json => {
                let (code, text) = text.split_once('\n').unwrap_or((&text, ""));
                write(out, &format!("{:#}\n", json!({ "code": code, "text": text.trim_start() })))
            }
            Format::Text => write(out, &format!("{text}\n")),
        };
    }
    let query: Vec<&str> = word.trim_matches('`').split('.').collect();
    let found: Vec<(&String, &Key)> = keys.iter().filter(|(path, _)| fits(&split(path), &query)).collect();
    if found.is_empty() {
        return Err(Failure::fault(unknown(word, &keys)));
    }
    match args.shown.output {
        Format::Json => {
            let keys: Vec<Json> = found.iter().map(|(path, key)| json!({ "key": path, "lines": key.lines, "keys": key.below })).collect();
            write(out, &format!("{:#}\n", json!({ "keys": keys })))
        }
        Format::Text => write(out, &found.iter().map(|(path, key)| key.show(path)).collect::<Vec<_>>().join("\n")),
    }
}

/// The codes' sections of the page: those whose heading is one word.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    ERRORS.split("\n## ").skip(1).filter_map(|section| {
        let heading = section.lines().next()?;
        let is_code = heading.starts_with(|c: char| c.is_ascii_uppercase()) && heading.chars().all(|c| c.is_ascii_alphanumeric());
        is_code.then_some((heading, section))
    })
}

/// A part of the page for a terminal: a link is its words, and the page's path in the repository. Blocks are indented, and nothing is in bold.
fn plain(section: &str) -> String {
    let paragraph = |text: &str| if text.starts_with("    ") { text.to_owned() } else { unlinked(text) };
    indented(section).split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// Fenced blocks as indented ones.
fn indented(section: &str) -> String {
    let mut is_fenced = false;
    let mut lines = Vec::new();
    for line in section.lines() {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced {
            lines.push(format!("    {line}"));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

fn unlinked(paragraph: &str) -> String {
    let mut text = if paragraph.starts_with("**") { paragraph.replacen("**", "", 2) } else { paragraph.to_owned() };
    while let Some((before, words, target, after)) = link(&text) {
        let place = match (target.strip_prefix('#'), target.strip_prefix("../")) {
            // `keyferry explain` has the section of another code too.
            (Some(anchor), _) if words.eq_ignore_ascii_case(anchor) => String::new(),
            (Some(_), _) => format!(" (docs/errors.md{target})"),
            (None, Some(path)) => format!(" ({path})"),
            (None, None) if target.starts_with("http") => format!(" ({target})"),
            (None, None) => format!(" (docs/{target})"),
        };
        text = format!("{before}{words}{place}{after}");
    }
    text
}

/// The first link of a text: what is before it, its words, its target, and what is behind it.
fn link(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, tail) = text.split_once("](")?;
    let (before, words) = head.rsplit_once('[')?;
    let (target, after) = tail.split_once(')')?;
    Some((before, words, target, after))
}

fn unknown(word: &str, keys: &BTreeMap<String, Key>) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let lasts: Vec<String> = keys.keys().map(|path| last(path)).collect();
    let codes: Vec<&str> = sections().map(|(code, _)| code).collect();
    // Only codes begin with a capital letter.
    let code = nearest(word, codes.iter().copied().filter(|_| word.starts_with(char::is_uppercase)));
    let near = code.or_else(|| nearest(word, codes.iter().copied().chain(keys.keys().map(String::as_str))));
    let near = near.or_else(|| nearest(&last(word), lasts.iter().map(String::as_str)));
    match near {
        Some(near) => format!("{word:?}: is not a code or a key (did you mean {near}?)"),
        None => format!("{word:?}: is not a code or a key (`keyferry explain` lists all; the codes are {})", codes.join(", ")),
    }
}

/// Whether a path ends with the query. `NAME` means any name, and may be left out.
fn fits(path: &[&str], query: &[&str]) -> bool {
    match (path.split_last(), query.split_last()) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some((&ANY, above)), Some((_, rest))) => fits(above, rest) && !rest.is_empty() || fits(above, query),
        (Some((last, above)), Some((word, rest))) => last.eq_ignore_ascii_case(word) && fits(above, rest),
    }
}

fn split(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

/// What the schemas say about one key. Several kinds of stores may have a key of this name.
#[derive(Debug, Default)]
struct Key {
    lines: Vec<String>,
    below: Vec<String>,
}

impl Key {
    fn show(&self, path: &str) -> String {
        let mut text = format!("{path}\n");
        text.extend(self.lines.iter().map(|line| format!("  {line}\n")));
        if !self.below.is_empty() {
            text.push_str(&format!("  keys: {}\n", self.below.join(", ")));
        }
        text
    }

    fn add(&mut self, line: String) {
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }
}

/// Every key of both schemas by its path.
fn keys() -> Result<BTreeMap<String, Key>, Failure> {
    let mut keys = BTreeMap::new();
    let parsed = |text| serde_json::from_str::<Json>(text).map_err(|error| Failure::fault(format!("a bug: a schema is not JSON: {error}")));
    let (config, class) = (parsed(SCHEMA_OF_CONFIG)?, parsed(SCHEMA_OF_CLASS)?);
    let mut walk = |root: &Json, node: &Json, path: &[String]| Walk { root, keys: &mut keys }.node(node, path, 0);
    walk(&config, &config, &[]);
    walk(&class, &class, &[]);
    // `objects` is a text in the class, so the schema of the class has no reference to its keys.
    for list in ["objects", "peerObjects", "awsObjects"] {
        walk(&class, &class["$defs"][list], &["objects".to_owned()]);
    }
    Ok(keys)
}

struct Walk<'w> {
    root: &'w Json,
    keys: &'w mut BTreeMap<String, Key>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Json, path: &[String], depth: usize) {
        if depth > MAX_DEPTH || !node.is_object() {
            return;
        }
        if !path.is_empty() {
            self.describe(node, &path.join("."));
        }
        if let Some(target) = node["$ref"].as_str().and_then(|target| self.root.pointer(target.strip_prefix('#')?)) {
            self.node(target, path, depth + 1);
        }
        for key in ["then", "else", "items"] {
            self.node(&node[key], path, depth + 1);
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            node[key].as_array().into_iter().flatten().for_each(|part| self.node(part, path, depth + 1));
        }
        let properties = node["properties"].as_object().into_iter().flatten();
        let named = properties.map(|(key, node)| (key.as_str(), node));
        let any = node["additionalProperties"].as_object().map(|_| (ANY, &node["additionalProperties"]));
        for (key, below) in named.chain(any) {
            let above = path.join(".");
            let mut path = path.to_vec();
            path.push(key.to_owned());
            let name = path.join(".");
            self.keys.entry(name).or_default();
            if let Some(above) = self.keys.get_mut(&above).filter(|_| key != ANY)
                && !above.below.iter().any(|known| known == key)
            {
                above.below.push(key.to_owned());
            }
            self.node(below, &path, depth + 1);
        }
    }

    fn describe(&mut self, node: &Json, path: &str) {
        let key = self.keys.entry(path.to_owned()).or_default();
        if let Some(text) = node["description"].as_str() {
            key.add(text.to_owned());
        }
        if let Some(values) = node["enum"].as_array() {
            key.add(format!("one of: {}", values.iter().map(shown).collect::<Vec<_>>().join(", ")));
        }
        for (word, value) in [("default", &node["default"]), ("for example", &node["examples"][0])] {
            if !value.is_null() {
                key.add(format!("{word}: {}", shown(value)));
            }
        }
    }
}

fn shown(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Code;

    fn explain(word: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let done = run(&ExplainArgs { word: Some(word.to_owned()), shown: Shown::TEXT }, &mut out).map_err(|failure| failure.to_string());
        done.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_code_has_its_section() {
        for code in Code::ALL {
            let text = explain(code.as_str()).unwrap();
            assert!(text.starts_with(&format!("{code}\n")) && !text.contains("\n## "), "{text}");
            assert!(!["](", "**Find it", "\n```"].iter().any(|markdown| text.contains(markdown)), "{text}");
        }
        assert_eq!(explain("policydenied"), explain("PolicyDenied: object 1 (db): files/x: no rule"));
    }

    #[test]
    fn a_link_is_shown_with_its_page() {
        let page = "**Find it:** `a/**`, [Shares of\nnamespaces](configuration.md#shares), [Overloaded](#overloaded), [the trap](#the-trap), [how](../SECURITY.md)\n\n    [a](b)\n\n```console\n$ c\n```";
        insta::assert_snapshot!(plain(page), @"
        Find it: `a/**`, Shares of
        namespaces (docs/configuration.md#shares), Overloaded, the trap (docs/errors.md#the-trap), how (SECURITY.md)

            [a](b)

            $ c
        ");
    }

    #[test]
    fn keys_are_found_by_their_last_words_and_by_the_users_own_names() {
        insta::assert_snapshot!(explain("defaultBackend").unwrap(), @r#"
        defaultBackend
          The backend of classes that name none. Needed once there are several backends; the only backend is the default.
          for example: files
        "#);
        assert!(explain("backends.bao.auth.method").unwrap().starts_with("backends.NAME.auth.method\n"));
        assert!(explain("backends.auth.method").unwrap().starts_with("backends.NAME.auth.method\n"));
        assert!(explain("mounts").unwrap().contains("limits.mounts\n"));
        assert!(explain("objects.mode").unwrap().starts_with("objects.mode\n"));
        assert!(explain("secretObjects.data").unwrap().contains("keys: objectName, key"));
    }

    #[test]
    fn what_is_unknown_has_the_nearest() {
        insta::assert_snapshot!(explain("PolicyDeny").unwrap_err(), @r#""PolicyDeny": is not a code or a key (did you mean PolicyDenied?)"#);
        insta::assert_snapshot!(explain("limits.mount").unwrap_err(), @r#""limits.mount": is not a code or a key (did you mean limits.mounts?)"#);
        insta::assert_snapshot!(explain("defaultbakend").unwrap_err(), @r#""defaultbakend": is not a code or a key (did you mean defaultBackend?)"#);
        insta::assert_snapshot!(explain("quite unknown").unwrap_err(), @r#""quite unknown": is not a code or a key (`keyferry explain` lists all; the codes are AuditUnavailable, BackendDenied, BackendLoginFailed, BackendTimeout, BackendUnavailable, IdentityUnverified, Internal, InvalidRequest, Overloaded, PolicyDenied, SecretCorrupt, SecretNotFound, TooLarge)"#);
        assert!(explain("").is_err());
    }
}
