//! What the readers in applications have read, replayed. `make readers` runs them, and tests/golden/readers.json has their answers. Here the tests
//! render the same files again, and compare every byte: so each program still reads them as it did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};

use crate::support::{House, keyferry, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> Value {
    let path = root().join("tests/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A class's files by `keyferry render`, which is the daemon's own code.
fn rendered(class: &Path, values: &Path) -> BTreeMap<String, String> {
    let (code, out, errors) = run(keyferry().args(["render", "-o", "json", "-f"]).arg(class).arg("--values").arg(values), "");
    assert_eq!(code, 0, "{}: {errors}", class.display());
    let document: Value = serde_json::from_str(&out).unwrap();
    let files = document["files"].as_array().unwrap().iter();
    files.map(|file| (file["path"].as_str().unwrap().to_owned(), file["text"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn the_cookbooks_files_are_those_that_programs_have_read() {
    let (recipes, values) = (golden("readers.json"), golden("cookbook.json"));
    let recipes = recipes["recipes"].as_object().unwrap();
    assert!(recipes.len() >= 8, "{}", recipes.len());
    for (example, recipe) in recipes {
        let files = rendered(&root().join(format!("deploy/examples/{example}.yaml")), &root().join("tests/golden/cookbook.json"));
        assert_eq!(json!(files), recipe["files"], "{example}: run `GOLDEN=write make readers`");
        let readers = recipe["read"].as_object().unwrap();
        assert!(!readers.is_empty());
        for (reader, read) in readers {
            for (place, value) in read.as_object().unwrap() {
                let (secret, field) = place.split_once('.').unwrap();
                assert_eq!(value, &values[secret][field], "{example}: {reader} reads another {place}");
            }
        }
    }
}

#[test]
fn drawn_values_are_written_as_programs_have_read_them() {
    let (drawn, values) = (golden("readers.json")["drawn"].clone(), golden("drawn.json"));
    let named = |values: &Value| -> Map<String, Value> {
        let values = values.as_array().unwrap();
        assert_eq!(values.len(), 1_000);
        values.iter().enumerate().map(|(n, value)| (format!("V{n}"), value.clone())).collect()
    };
    let text = |value: &Value| json!({ "text": value });
    let fields = |values: &Value| named(values).into_iter().map(|(name, value)| (name, text(&value))).collect::<Map<_, _>>();
    let secrets = json!({
        "all": fields(&values["all"]),
        "variables": fields(&values["dotenv"]),
        "list": { "list": text(&values["all"].to_string().into()) },
        "lines": { "list": text(&values["lines"].to_string().into()) },
    });
    let secrets = json!({ "format": "keyferry-export-1", "secrets": secrets });
    let house = House::bare();
    let (class, file): (PathBuf, PathBuf) = (house.path("class.yaml"), house.path("values.json"));
    let text = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": { "name": "drawn" },
        "spec": { "provider": "keyferry", "parameters": { "objects": drawn["objects"].to_string() } },
    });
    fs::write(&class, text.to_string()).unwrap();
    fs::write(&file, secrets.to_string()).unwrap();
    let hashes: BTreeMap<String, String> = rendered(&class, &file)
        .into_iter()
        .map(|(path, text)| (path, HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())))
        .collect();
    assert_eq!(json!(hashes), drawn["files"], "run `GOLDEN=write make readers`");
    assert!(drawn["readers"].as_array().unwrap().len() >= 12);
}

/// The page says of each recipe which programs read it, and shows no other files than the example has.
#[test]
fn the_cookbook_names_each_recipe_and_its_readers() {
    let page = fs::read_to_string(root().join("docs/cookbook.md")).unwrap();
    for (example, recipe) in golden("readers.json")["recipes"].as_object().unwrap() {
        let link = format!("(../deploy/examples/{example}.yaml)");
        let section =
            page.split("\n## ").find(|section| section.contains(&link)).unwrap_or_else(|| panic!("{example} is not in the cookbook"));
        for reader in recipe["read"].as_object().unwrap().keys() {
            assert!(section.contains(reader.as_str()), "{example}: {reader} is not named");
        }
        for file in recipe["files"].as_object().unwrap().keys() {
            assert!(section.contains(&format!("`/secrets/{file}`")), "{example}: {file} is not named");
        }
    }
}
