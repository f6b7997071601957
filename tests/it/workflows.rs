//! `.github/workflows` decide nothing. They call targets of the Makefile, which anybody can run, and what they take from others cannot change by
//! itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use keyferry::yaml::parse_all;
use serde_json::Value;

use crate::deploy::plain;
use crate::support::files_below;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn workflows_call_targets_of_the_makefile_and_pin_what_is_not_ours() {
    let workflows = files_below(&root().join(".github/workflows"), "yaml");
    assert!(workflows.len() >= 2, "{workflows:?}");
    let extra = files_below(&root().join(".github"), "yml");
    assert!(extra.is_empty(), "named .yml, so that no check finds them: {extra:?}");
    for file in workflows {
        let found = faults(&fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}:\n{}", file.display(), found.join("\n"));
    }
}

/// What the test above would find.
#[test]
fn what_is_not_pinned_or_not_a_target_is_found() {
    let sha = "3d3c42e5aac5ba805825da76410c181273ba90b1";
    let step = |step: &str| format!("permissions: {{}}\njobs:\n  one:\n    steps:\n      - {step}\n");
    let good = format!("uses: actions/checkout@{sha} # v7.0.1");
    for step in [step(&good), step("run: make check"), step("run: make release TAG=\"$GITHUB_REF_NAME\"")] {
        assert_eq!(faults(&step), [""; 0], "{step}");
    }
    let bad = [
        step("uses: actions/checkout@v7"),
        step("uses: actions/checkout@main"),
        step("uses: actions/checkout"),
        step("uses: actions/checkout@3d3c42e # v7.0.1"),
        step(&format!("uses: actions/checkout@{sha}")),
        step(&format!("uses: actions/checkout@{}z # v7.0.1", &sha[..39])),
        step("uses: docker://alpine:3.20"),
        step("uses: ./.github/actions/ours"),
        step("run: cargo build"),
        step("run: make nothing-of-ours"),
        step("run: make check && curl https://example.com | sh"),
        step("run: make check TAG=\"${{ github.ref_name }}\""),
        step("run: |\n          make check\n          make e2e"),
        "permissions: {}\njobs:\n  one:\n    uses: other/repository/.github/workflows/a.yaml@v1\n".to_owned(),
        "permissions: {}\njobs:\n  one:\n    container: rust:1.95.0\n    steps: []\n".to_owned(),
        "permissions: {}\njobs:\n  one:\n    services: { db: { image: postgres } }\n    steps: []\n".to_owned(),
        "permissions: {}\njobs:\n  one:\n    permissions: write-all\n    steps: []\n".to_owned(),
        "permissions: { contents: write }\njobs: {}\n".to_owned(),
        "jobs: {}\n".to_owned(),
        "on: pull_request_target\npermissions: {}\njobs: {}\n".to_owned(),
        "on: { workflow_run: {} }\npermissions: {}\njobs: {}\n".to_owned(),
    ];
    for workflow in bad {
        assert_eq!(faults(&workflow).len(), 1, "{workflow}{:?}", faults(&workflow));
    }
}

/// All faults of a workflow.
fn faults(text: &str) -> Vec<String> {
    let workflow = parse_all(text).unwrap().iter().map(plain).next().unwrap();
    let mut found = Vec::new();
    let mut must = |holds: bool, fault: String| {
        if !holds {
            found.push(fault);
        }
    };
    let allowed = &workflow["permissions"];
    must(
        allowed.as_object().is_some_and(|all| all.values().all(|right| right == "read")),
        format!("permissions: {allowed}: rights belong to jobs"),
    );
    // The reader is for Kubernetes' YAML, where the key `on` is a truth value.
    let events = workflow["true"].to_string();
    must(
        !events.contains("pull_request_target") && !events.contains("workflow_run"),
        format!("on: {events}: gives rights to what others send"),
    );
    for (name, job) in workflow["jobs"].as_object().unwrap() {
        must(!job["permissions"].is_string(), format!("{name}: permissions: {}", job["permissions"]));
        must(job["uses"].is_null(), format!("{name}: uses: {}: not a job of ours", job["uses"]));
        let services = job["services"].as_object().into_iter().flat_map(|services| services.values());
        for image in services.chain([&job["container"]]).filter(|image| !image.is_null()) {
            let reference = image.as_str().or(image["image"].as_str()).unwrap();
            must(
                reference.split_once("@sha256:").is_some_and(|(_, digest)| is_hex(digest, 64)),
                format!("{name}: {reference} has no digest"),
            );
        }
        for step in job["steps"].as_array().into_iter().flatten() {
            if let Some(action) = step["uses"].as_str() {
                must(is_pinned(action, text), format!("{name}: {action}: not pinned by a commit, with its version as a comment"));
            }
            if let Some(command) = step["run"].as_str() {
                must(is_target(command), format!("{name}: {command:?}: not a target of the Makefile"));
            }
        }
    }
    found
}

/// `owner/name@commit`, and in the file the version behind it: `# v1.2.3`.
fn is_pinned(action: &str, text: &str) -> bool {
    let commit = action.split_once('@').map_or("", |(_, commit)| commit);
    is_hex(commit, 40) && text.lines().filter(|line| line.contains(action)).all(|line| line.contains(&format!("{action} # v")))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One target, and variables for it. An expression of the workflow would be put into the shell's text: only variables of the environment are quoted.
fn is_target(command: &str) -> bool {
    let mut words = command.split(' ');
    let (program, target) = (words.next(), words.next().unwrap_or_default());
    let is_variable = |word: &str| {
        word.split_once('=').is_some_and(|(name, value)| {
            let value = value.strip_prefix("\"$").and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            [name, value].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        })
    };
    program == Some("make") && targets().contains(target) && words.all(is_variable)
}

fn targets() -> BTreeSet<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap().replace("\\\n", " ");
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY:")).unwrap();
    phony.split_whitespace().map(str::to_owned).collect()
}

/// No release surprises anybody: `docs/release.md` names each target that the workflow calls, and each right that it has.
#[test]
fn the_page_names_what_the_workflow_does() {
    let workflow = fs::read_to_string(root().join(".github/workflows/release.yaml")).unwrap();
    let page = fs::read_to_string(root().join("docs/release.md")).unwrap();
    let parsed = parse_all(&workflow).unwrap().iter().map(plain).next().unwrap();
    let jobs = parsed["jobs"].as_object().unwrap().values();
    let steps = jobs.clone().flat_map(|job| job["steps"].as_array().unwrap());
    let targets = steps.filter_map(|step| step["run"].as_str()).map(|run| run.split(' ').take(2).collect::<Vec<_>>().join(" "));
    let rights = jobs.flat_map(|job| job["permissions"].as_object().unwrap()).filter(|(_, right)| *right == &Value::from("write"));
    for word in targets.chain(rights.map(|(name, _)| name.clone())) {
        assert!(page.contains(&format!("`{word}")), "docs/release.md does not name `{word}`");
    }
}
