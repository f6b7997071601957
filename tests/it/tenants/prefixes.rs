//! Prefixes below which there is as much as a namespace can write: names, folders, and patterns over them.

use std::fs;

use super::flood::Calls;
use super::kind::{Kind, objects, of_all_pods};
use super::node::Node;

/// Names in one folder: more than any class may have of secrets, and fewer than are looked at.
const NAMES: usize = 10_000;

/// As many as a mount of these limits may have.
const SECRETS: usize = 500;

const fn kind(name: &'static str, may: &'static [&'static str], calls: fn(&Node, &str) -> Calls) -> Kind {
    Kind { name, at_once: 64, may, victims: "files", calls }
}

/// Files that no identity opens: the listing is enough.
fn write_names(node: &Node, folder: &str, names: usize) {
    let folder = node.house.path("vault").join(folder);
    fs::create_dir_all(&folder).unwrap();
    for number in 0..names {
        fs::write(folder.join(format!("{}{number}.age", "a".repeat(60))), "").unwrap();
    }
}

/// Sixteen patterns over ten thousand names for each of sixty objects: no name matches.
pub const PATTERNS_OVER_NAMES: Kind =
    kind("patterns over ten thousand names", &["SecretNotFound", "TooLarge", "Overloaded"], |node, namespace| {
        write_names(node, &format!("{namespace}/many"), NAMES);
        let patterns = (0..16).map(|number| format!("\"*a*a*a*a*x{number}\"")).collect::<Vec<_>>().join(", ");
        let object = |object: usize| format!("- {{ prefix: {namespace}/many/, include: [{patterns}], path: d{object}/ }}\n");
        of_all_pods(node, namespace, "files", &objects(60, object))
    });

#[tokio::test(flavor = "multi_thread")]
async fn patterns_over_ten_thousand_names() {
    PATTERNS_OVER_NAMES.try_out().await;
}

/// As many secrets as there may be, each renamed by a template that does what it can.
pub const RENAMED: Kind = kind("renamed secrets", &["OK", "TooLarge", "Overloaded"], |node, namespace| {
    for number in 0..SECRETS {
        node.set_small(namespace, &format!("all/{number:03}"));
    }
    let object = format!("- {{ prefix: {namespace}/all/, rename: \"{{% set n = name ~ name %}}{{{{ n ~ n }}}}\", path: all/ }}\n");
    of_all_pods(node, namespace, "files", &object)
});

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_renamed() {
    RENAMED.try_out().await;
}

/// More folders than a mount lists, some inside of others.
pub const FOLDERS: Kind = kind("folders without end", &["TooLarge"], |node, namespace| {
    for number in 0..1_000 {
        fs::create_dir_all(node.house.path("vault").join(format!("{namespace}/wide/{number}/a/b/c/d/e/f/g/h/i"))).unwrap();
    }
    of_all_pods(node, namespace, "files", &format!("- {{ prefix: {namespace}/wide/ }}\n"))
});

#[tokio::test(flavor = "multi_thread")]
async fn folders_without_end() {
    FOLDERS.try_out().await;
}
