//! Circles of imports between the files of one folder: two files that need each other are one file in two places.
//!
//! A file imports what its paths name: `super::`, `self::`, `crate::` and a child's name, in `use` and in code. A name that a module hands on by
//! `use` belongs to its owner. A parent that declares a child, or hands on its names, does not import it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::code_of;

/// The place of a module below `src`, such as `["identity", "token"]`.
pub type Module = Vec<String>;

/// Folders without a circle: each must stay so. A folder is its files, and the file with its name next to it.
const FOLDERS: [&str; 9] =
    ["audit", "backend/store/http", "config", "delivery", "files", "identity", "kube", "server/authority", "telemetry"];

#[test]
fn files_of_a_folder_do_not_import_each_other_in_a_circle() {
    let tree = Tree::of_the_source();
    let mut circles = Vec::new();
    for folder in FOLDERS {
        let modules: BTreeSet<_> = tree.files.keys().filter(|module| is_in(module, folder)).collect();
        assert!(modules.len() > 1, "no files in src/{folder}: correct FOLDERS");
        circles.extend(tree.circle(&modules));
    }
    assert!(circles.is_empty(), "files that import each other in a circle:\n{}", circles.join("\n"));
}

fn is_in(module: &Module, folder: &str) -> bool {
    let name = module.join("/");
    name == folder || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The source as files that import each other.
pub struct Tree {
    files: BTreeMap<Module, File>,
}

/// What a file names.
#[derive(Default)]
struct File {
    /// Each path in full: its module, and the rest.
    imports: Vec<Vec<String>>,
    /// What others may name through it: a name, and the path that it comes from.
    handed_on: BTreeMap<String, Vec<String>>,
}

impl Tree {
    pub fn of_the_source() -> Self {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        Self::read(crate::support::files_below(&src, "rs").into_iter().map(|path| {
            let inside = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            (inside, std::fs::read_to_string(&path).unwrap())
        }))
    }

    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.files.keys()
    }

    /// The modules that a module imports; never itself.
    pub fn imported_by<'t>(&'t self, module: &'t Module) -> impl Iterator<Item = &'t Module> {
        let owners: BTreeSet<_> = self.files[module].imports.iter().filter_map(|path| self.owner(path)).collect();
        owners.into_iter().filter(move |owner| *owner != module)
    }

    fn read(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let sources: BTreeMap<Module, String> = sources
            .into_iter()
            .filter(|(path, _)| !path.ends_with("tests.rs") && !path.contains("/tests/") && path != "lib.rs" && path != "main.rs")
            .map(|(path, text)| (module_of(&path), text))
            .collect();
        let known: BTreeSet<Module> = sources.keys().cloned().collect();
        let files = sources.iter().map(|(module, text)| (module.clone(), File::read(module, text, &known))).collect();
        Self { files }
    }

    /// The module that has what a path names.
    fn owner(&self, path: &[String]) -> Option<&Module> {
        // A name may be handed on a few times, but not in a circle.
        let mut path = path.to_vec();
        for _ in 0..8 {
            let depth = (1..=path.len()).rev().find(|depth| self.files.contains_key(&path[..*depth]))?;
            let (module, file) = self.files.get_key_value(&path[..depth])?;
            match path.get(depth).and_then(|name| file.handed_on.get(name)).filter(|from| from.starts_with(&path[..1])) {
                Some(from) => path.clone_from(from),
                None => return Some(module),
            }
        }
        None
    }

    /// A circle among these modules, as one line.
    fn circle(&self, modules: &BTreeSet<&Module>) -> Option<String> {
        let mut done = BTreeSet::new();
        modules.iter().find_map(|module| self.walk(module, modules, &mut Vec::new(), &mut done))
    }

    fn walk<'t>(
        &'t self,
        module: &'t Module,
        within: &BTreeSet<&Module>,
        way: &mut Vec<&'t Module>,
        done: &mut BTreeSet<&'t Module>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|passed| *passed == module) {
            let names = way[start..].iter().chain([&module]).map(|module| module.join("/"));
            return Some(names.collect::<Vec<_>>().join(" -> "));
        }
        if !done.insert(module) {
            return None;
        }
        way.push(module);
        let imported = self.imported_by(module).filter(|owner| within.contains(owner));
        let found = imported.collect::<Vec<_>>().into_iter().find_map(|owner| self.walk(owner, within, way, done));
        way.pop();
        found
    }
}

impl File {
    fn read(module: &Module, text: &str, known: &BTreeSet<Module>) -> Self {
        let words = words(text);
        let has_child = |name: &str| known.contains(&[module.as_slice(), &[name.to_owned()]].concat());
        let mut file = Self::default();
        let mut handed_on_only = Vec::new();
        // The names that the file uses itself: without what it declares, and without what it hands on.
        let mut used = BTreeSet::new();
        let mut at = 0;
        while at < words.len() {
            let starts = matches!(words[at], "crate" | "super" | "self") || has_child(words[at]);
            if !starts || words.get(at + 1) != Some(&"::") {
                if at == 0 || words[at - 1] != "mod" {
                    used.insert(words[at]);
                }
                at += 1;
                continue;
            }
            let is_use = at > 0 && words[at - 1] == "use";
            let is_pub = at > 1 && matches!(words[at - 2], "pub" | ")");
            let mut paths = Vec::new();
            at = read_paths(&words, at, &[], &mut paths);
            for path in paths {
                let path = in_full(module, &path);
                let name = path.last().cloned().unwrap_or_default();
                if is_use {
                    file.handed_on.insert(name.clone(), path.clone());
                }
                if is_use && is_pub {
                    handed_on_only.push((name, path));
                } else {
                    file.imports.push(path);
                }
            }
        }
        file.imports.extend(handed_on_only.into_iter().filter(|(name, _)| used.contains(name.as_str())).map(|(_, path)| path));
        file
    }
}

fn module_of(path: &str) -> Module {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// The paths that begin at a word, with all branches of their braces, and the place where they end.
fn read_paths(words: &[&str], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        if words[at] == "{" {
            at += 1;
            while words[at] != "}" {
                at = read_paths(words, at, &path, found);
                at += usize::from(words[at] == ",");
            }
            return at + 1;
        }
        path.push(words[at].to_owned());
        at += 1;
        let goes_on = words.get(at) == Some(&"::") && words.get(at + 1).is_some_and(|next| is_name(next) || matches!(*next, "{" | "*"));
        if !goes_on {
            found.push(path);
            return if words.get(at) == Some(&"as") { at + 2 } else { at };
        }
        at += 1;
    }
}

/// From the crate's root down.
fn in_full(module: &Module, path: &[String]) -> Vec<String> {
    let mut full = module.clone();
    for word in path {
        match word.as_str() {
            "crate" => full.clear(),
            "self" => {}
            "super" => _ = full.pop(),
            name => full.push(name.to_owned()),
        }
    }
    full
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// A file's names and marks, without comments, texts, and the tests at its end.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code_of(text);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            text_length(rest)
        } else if is_name(rest) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else if rest.starts_with("'\"'") {
            3
        } else {
            first.len_utf8()
        };
        let word = &rest[..length];
        if !word.starts_with("//") && !first.is_whitespace() && first != '"' {
            words.push(word);
        }
        rest = &rest[length..];
    }
    words
}

fn text_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

#[test]
fn the_reader_of_circles_sees_them() {
    fn circle(sources: &[(&str, &str)]) -> String {
        let tree = Tree::read(sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
        tree.circle(&tree.files.keys().collect()).unwrap_or_default()
    }
    let keys = ("id/keys.rs", "use super::token::Digest;");
    assert_eq!(circle(&[("id/mod.rs", "mod keys; mod token;"), keys, ("id/token.rs", "struct Digest;")]), "");
    // Through a parent that hands a name on, in code and in braces.
    let parent = ("id/mod.rs", "mod keys;\nmod token;\npub use keys::{Key, Set};\n");
    assert_eq!(circle(&[parent, keys, ("id/token.rs", "struct Digest(super::Key);")]), "id/keys -> id/token -> id/keys");
    assert_eq!(circle(&[parent, keys, ("id/token.rs", "use crate::id::{self, a::{B, C}, Key as K};")]), "id/keys -> id/token -> id/keys");
    assert_eq!(circle(&[parent, keys, ("id/token.rs", "// super::Key\nconst A: &str = \"\\\"super::Key\";")]), "");
    // A parent that uses a child, and defines what the child uses.
    let uses = ("id.rs", "mod keys;\npub use keys::Key;\npub struct Error;\nfn f() -> Key { Key }");
    assert_eq!(circle(&[uses, ("id/keys.rs", "use super::Error;")]), "id -> id/keys -> id");
    let declares = ("id.rs", "mod keys;\npub use keys::Key;\npub struct Error;");
    assert_eq!(circle(&[declares, ("id/keys.rs", "use super::Error;")]), "");
}
