//! What docs/check.md gives for pre-commit and for GitHub Actions: its command lines are run as these programs run them.

use std::fs;
use std::path::Path;

use keyferry::yaml::parse_all;
use serde_json::Value;

use crate::deploy::plain;
use crate::support::{apart, keyferry, run};

const GOOD: &str = "apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: { name: shop, namespace: shop }
spec:
  provider: keyferry
  parameters:
    objects: |
      - secret: shop/db
        field: password
";

const OTHER: &str = "{ apiVersion: apps/v1, kind: Deployment, metadata: { name: web } }\n";

/// The snippets of the page.
fn snippets() -> Vec<Value> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md")).unwrap();
    let texts = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    texts.map(|text| parse_all(text).unwrap().iter().map(plain).next().unwrap()).collect()
}

/// A repository with a file in its folder of classes.
fn with_class(text: &str) -> tempfile::TempDir {
    let folder = crate::folder::new();
    fs::create_dir(folder.path().join("classes")).unwrap();
    fs::write(folder.path().join("classes/shop.yaml"), text).unwrap();
    folder
}

#[test]
fn pre_commit_refuses_a_faulty_class() {
    let snippets = snippets();
    let repository = snippets.iter().find_map(|snippet| snippet.pointer("/repos/0")).unwrap();
    let hook = &repository["hooks"][0];
    assert!(repository["repo"] == "local" && hook["language"] == "system", "{repository}");
    assert!("classes/shop.yaml".starts_with(hook["files"].as_str().unwrap().strip_prefix('^').unwrap()), "{hook}");
    let faulty = GOOD.replace("field", "feild");
    // Without a shell, and with the changed files behind.
    let words: Vec<&str> = hook["entry"].as_str().unwrap().split(' ').collect();
    assert_eq!(words[0], "keyferry");
    for (text, expected) in [(GOOD, 0), (OTHER, 0), (faulty.as_str(), 1)] {
        let folder = with_class(text);
        let (code, out, errors) = run(keyferry().args(&words[1..]).arg("classes/shop.yaml").current_dir(folder.path()), "");
        assert_eq!(code, expected, "{out}{errors}");
        assert_eq!(code == 1, out.starts_with("classes/shop.yaml:9:9: error: "), "{out}");
    }
}

#[test]
fn a_pull_request_shows_a_faulty_class() {
    let snippets = snippets();
    let step = snippets.iter().find_map(|snippet| snippet[0]["run"].as_str()).unwrap();
    let faulty = GOOD.replace("field", "feild");
    let program = Path::new(env!("CARGO_BIN_EXE_keyferry")).parent().unwrap().display();
    for (text, expected) in [(GOOD, 0), (faulty.as_str(), 1)] {
        let folder = with_class(text);
        // As a runner runs it, where the workflow names no shell.
        let mut shell = apart("bash");
        shell.args(["-e", "-c", step]).env("PATH", format!("{program}:/usr/local/bin:/usr/bin:/bin")).current_dir(folder.path());
        let (code, out, errors) = run(&mut shell, "");
        assert_eq!(code, expected, "{out}{errors}");
        assert_eq!(code == 1, out.starts_with("::error file=classes/shop.yaml,line=9,col=9::"), "{out}");
    }
}
