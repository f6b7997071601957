//! The arrows inside the backend room. A store sees no other store, and nothing that is around it. What is around a store sees no store. All of them
//! see the door.

use super::circles::{Module, Tree};

/// The places of the room, and what each may import of the others, in addition to the door (`mod.rs`) and itself. A folder of `store` is a store
/// like all others. If the test finds a file that is not named here, say what it may import.
const PLACES: [(&str, &[&str]); 24] = [
    ("backend", &[]),
    ("backend/caching", &[]),
    ("backend/catalogue", &["backend/config", "backend/kind", "backend/serving"]),
    ("backend/config", &["backend/examine", "backend/failover", "backend/kind", "backend/store"]),
    ("backend/examine", &[]),
    // Its members are entries of the configuration, and it sees what their kinds say. What the first one denied is on the disk together with the
    // answers: one thread writes there, and one fault stops all of it.
    ("backend/failover", &["backend/config", "backend/examine", "backend/kind", "backend/stack/asked", "backend/stack/cache"]),
    // A class's own failover, which asks in the same order.
    ("backend/instead", &["backend/failover"]),
    ("backend/kind", &["backend/caching", "backend/examine"]),
    (
        "backend/registry",
        &["backend/caching", "backend/catalogue", "backend/config", "backend/failover", "backend/instead", "backend/kind", "backend/stack"],
    ),
    ("backend/remote", &[]),
    ("backend/serving", &["backend/config", "backend/kind"]),
    ("backend/stack/asked", &[]),
    ("backend/stack/breaker", &["backend/stack/asked", "backend/stack/circuits", "backend/stack/decorator"]),
    (
        "backend/stack/cache",
        &[
            "backend/stack/asked",
            "backend/stack/circuits",
            "backend/stack/decorator",
            "backend/stack/sealed",
            "backend/stack/written",
            "backend/sweep",
        ],
    ),
    ("backend/stack/circuits", &["backend/stack/asked"]),
    ("backend/stack/coalesce", &["backend/stack/asked", "backend/stack/decorator"]),
    ("backend/stack/decorator", &[]),
    ("backend/stack/lease", &["backend/stack/decorator", "backend/stack/sealed", "backend/stack/written"]),
    ("backend/stack/limit", &["backend/stack/decorator"]),
    ("backend/stack/sealed", &[]),
    ("backend/stack/written", &[]),
    ("backend/store/", &["backend/caching", "backend/examine", "backend/kind", "backend/remote", "backend/sweep"]),
    ("backend/sweep", &[]),
    ("backend/testing", &["backend/kind"]),
];

/// Nothing but the list of what is in them.
const LISTS: [&str; 2] = ["backend/stack", "backend/store"];

#[test]
fn stores_and_what_stands_around_them_see_the_door_alone() {
    let tree = Tree::of_the_source();
    let mut wrong = Vec::new();
    for module in tree.modules().filter(|module| module[0] == "backend" && !LISTS.contains(&module.join("/").as_str())) {
        let place = place_of(module);
        let Some((_, may)) = PLACES.iter().find(|(known, _)| *known == place || known.ends_with('/') && place.starts_with(known)) else {
            wrong.push(format!("{place}: is not known (say in tests/it/architecture/backend.rs what it may import)"));
            continue;
        };
        for imported in tree.imported_by(module).filter(|imported| imported[0] == "backend") {
            let to = place_of(imported);
            let named = may.iter().any(|may| to == *may || to.starts_with(&format!("{may}/")));
            if !(named || to == place || to == "backend" || LISTS.contains(&to.as_str())) {
                wrong.push(format!("{} imports {}", module.join("/"), imported.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows inside backend that its plan does not have:\n{}", wrong.join("\n"));
}

/// A file or folder at the door; in `stack` and `store`, what is there.
fn place_of(module: &Module) -> String {
    let depth = if matches!(module.get(1).map(String::as_str), Some("stack" | "store")) { 3 } else { 2 };
    module[..module.len().min(depth)].join("/")
}
