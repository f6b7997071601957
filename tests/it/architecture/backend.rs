//! The arrows inside the backend room: a store sees no other store and nothing that stands around it, what stands around a store sees no
//! store, and all of them see the door.

use super::circles::{Module, Tree};

/// The places of the room, and what each may import of the others besides the door (`mod.rs`) and itself. A file below none of them
/// is not known: say here what it may import.
const PLACES: [(&str, &[&str]); 19] = [
    ("backend", &[]),
    ("backend/caching", &[]),
    ("backend/catalogue", &["backend/config", "backend/kind", "backend/serving"]),
    ("backend/config", &["backend/examine", "backend/kind", "backend/store/file", "backend/store/http", "backend/store/vault"]),
    ("backend/examine", &[]),
    ("backend/kind", &["backend/caching", "backend/examine"]),
    ("backend/registry", &["backend/caching", "backend/catalogue", "backend/config", "backend/kind", "backend/stack"]),
    ("backend/remote", &[]),
    ("backend/serving", &["backend/config", "backend/kind"]),
    ("backend/stack", &[]),
    ("backend/stack/cache", &["backend/stack/asked", "backend/stack/decorator", "backend/sweep"]),
    ("backend/stack/coalesce", &["backend/stack/asked", "backend/stack/decorator"]),
    ("backend/stack/lease", &["backend/stack/decorator", "backend/stack/sealed"]),
    ("backend/stack/limit", &["backend/stack/decorator"]),
    ("backend/store/file", STORE),
    ("backend/store/http", STORE),
    ("backend/store/vault", STORE),
    ("backend/sweep", &[]),
    ("backend/testing", &["backend/kind"]),
];

/// What stands around a store and imports the door alone.
const ALONE: [&str; 4] = ["backend/stack/asked", "backend/stack/decorator", "backend/stack/sealed", "backend/store"];

const STORE: &[&str] = &["backend/caching", "backend/examine", "backend/kind", "backend/remote", "backend/sweep"];

#[test]
fn stores_and_what_stands_around_them_see_the_door_alone() {
    let tree = Tree::of_the_source();
    let mut wrong = Vec::new();
    for module in tree.modules().filter(|module| module[0] == "backend") {
        let Some(place) = place_of(module) else {
            wrong.push(format!(
                "{}: a file that is not known (say in tests/it/architecture/backend.rs what it may import)",
                module.join("/")
            ));
            continue;
        };
        let may = PLACES.iter().find(|(known, _)| *known == place).map_or(&[][..], |(_, may)| *may);
        for imported in tree.imported_by(module).filter(|imported| imported[0] == "backend") {
            let to = place_of(imported).unwrap_or_default();
            // `stack` is one place to those outside it.
            let allowed = to == place || to == "backend" || may.iter().any(|may| to == *may || to.starts_with(&format!("{may}/")));
            if !allowed {
                wrong.push(format!("{} imports {}", module.join("/"), imported.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows inside backend that are none of its plan:\n{}", wrong.join("\n"));
}

/// The deepest place that a module is in; a file at the door is a place of its own.
fn place_of(module: &Module) -> Option<&'static str> {
    let name = module.join("/");
    let known = PLACES.iter().map(|(place, _)| *place).chain(ALONE);
    let holds = |place: &&str| name == **place || name.starts_with(&format!("{place}/"));
    let place = known.filter(holds).max_by_key(|place| place.len())?;
    // What is at the door, or in `stack` or `store`, is named above.
    let is_new = matches!(place, "backend" | "backend/stack" | "backend/store") && name != place;
    (!is_new).then_some(place)
}
