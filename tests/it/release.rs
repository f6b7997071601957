//! What `make release` makes, without compiling: archives and bills of materials have the same bytes wherever and whenever they are made, and it
//! refuses what cannot become a release. `make release-twice` does the rest: it compiles two times.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::folder;
use crate::support::{apart, files_below, run, tool};

/// 2026-11-27T12:00:00Z
const EPOCH: &str = "1795780800";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Python, for the scripts of `deploy/release` or a program that imports them. They run cargo too.
fn python() -> Command {
    let mut command = with_cargo(tool("python"));
    command.env("PYTHONPATH", root().join("deploy/release")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn with_cargo(mut command: Command) -> Command {
    let kept = ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    command.envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

fn succeed(command: &mut Command) -> String {
    let (code, out, err) = run(command, "");
    assert_eq!(code, 0, "{out}{err}");
    out
}

/// What a machine may say about itself, and what no file of a release may repeat.
fn elsewhere(command: &mut Command, folder: &Path) {
    command.current_dir(folder).envs([("TZ", "Pacific/Kiritimati"), ("LC_ALL", "C.UTF-8"), ("SOURCE_DATE_EPOCH", "1")]);
}

/// A file with another owner's settings: another mode and another time.
fn write(path: &Path, contents: &str, mode: u32, seconds: u64) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

// === The image ===

fn image(folder: &Path, certificates: &str, mode: u32, seconds: u64) -> (Vec<u8>, String) {
    for (name, contents) in [("amd64", "the binary"), ("arm64", "another"), ("bundle", certificates)] {
        write(&folder.join(name), contents, mode, seconds);
    }
    let mut command = python();
    elsewhere(command.arg(root().join("deploy/release/image.py")), folder);
    command.args(["image.tar", "--epoch", EPOCH, "--commit", "c0ffee", "--certificates", "bundle", "arm64=arm64", "amd64=amd64"]);
    let digest = succeed(&mut command);
    (fs::read(folder.join("image.tar")).unwrap(), digest.trim().to_owned())
}

#[test]
fn an_image_has_the_same_bytes_wherever_and_whenever_it_is_made() {
    let (one, other) = (folder::new(), folder::new());
    let first = image(one.path(), "certificates", 0o644, 1);
    let second = image(other.path(), "certificates", 0o400, 1_900_000_000);
    assert!(first == second, "the same files gave two images");
    assert!(first != image(other.path(), "other certificates", 0o644, 1), "other files gave the same image");
}

#[test]
fn an_image_has_all_processors_and_starts_as_that_of_the_dockerfile() {
    let made = folder::new();
    let (_, digest) = image(made.path(), "certificates", 0o644, 1);
    succeed(apart("tar").args(["-xf", "image.tar"]).current_dir(made.path()));
    let blob = |digest: &Value| made.path().join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let of = |descriptor: &Value| {
        let path = blob(&descriptor["digest"]);
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
        assert_eq!(succeed(apart("sha256sum").arg(&path)).split(' ').next().unwrap(), name);
        assert_eq!(descriptor["size"], bytes.len());
        path
    };
    let layout = read(&made.path().join("index.json"));
    assert_eq!(layout["manifests"].as_array().unwrap().len(), 1, "what copies an archive takes its only entry");
    assert_eq!(layout["manifests"][0]["digest"], digest);
    let name = &layout["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*name, format!("registry.example/keyferry:{}", env!("CARGO_PKG_VERSION")), "what manifests and chart ask for");
    let index = read(&of(&layout["manifests"][0]));
    let processors: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|manifest| manifest["platform"]["architecture"].clone()).collect();
    assert_eq!(processors, ["amd64", "arm64"]);
    for manifest in index["manifests"].as_array().unwrap() {
        let manifest = read(&of(manifest));
        let config = read(&of(&manifest["config"]));
        let layer = of(&manifest["layers"][0]);
        assert_eq!(config["created"], "2026-11-27T12:00:00Z");
        assert_eq!(config["config"]["Entrypoint"], json!(["/keyferry"]));
        assert_eq!(config["config"]["Cmd"], json!(["serve", "--config", "/etc/keyferry/keyferry.yaml"]));
        assert_eq!(config["config"]["User"], "0:0");
        assert_eq!(config["config"]["Env"], json!(["SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]));
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(labels["org.opencontainers.image.revision"], "c0ffee");
        let listed = succeed(apart("tar").env("TZ", "UTC").args(["--list", "--verbose", "--numeric-owner", "-zf"]).arg(layer));
        let listed = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listed: Vec<_> = listed.map(|words| format!("{} {} {}", words[0], words[1], words[5])).collect();
        let folders = ["etc/", "etc/ssl/", "etc/ssl/certs/"].map(|folder| format!("drwxr-xr-x 0/0 {folder}"));
        assert_eq!(listed[..3], folders);
        assert_eq!(listed[3..], ["-r--r--r-- 0/0 etc/ssl/certs/ca-certificates.crt", "-r-xr-xr-x 0/0 keyferry"]);
    }
}

/// An instruction that is added to the Dockerfile must reach the image too.
#[test]
fn an_instruction_that_is_not_known_is_an_error() {
    let program = "import image; image.last_stage('FROM a AS build\\nFROM scratch\\n# Why.\\nUSER 0:0\\nVOLUME /data\\n')";
    let (code, _, err) = run(python().args(["-c", program]), "");
    assert_eq!(code, 1);
    assert_snapshot!(err, @"Dockerfile: VOLUME is not known in the last stage (teach it to deploy/release/image.py)");
}

// === The chart ===

#[test]
fn a_chart_has_the_same_bytes_whenever_helm_packs_it() {
    let made = folder::new();
    let pack = |name: &str, seconds: u64| {
        let chart = made.path().join(name).join("keyferry");
        fs::create_dir_all(chart.join("templates")).unwrap();
        write(&chart.join("Chart.yaml"), "apiVersion: v2\nname: keyferry\nversion: 1.2.3\n", 0o600, seconds);
        write(&chart.join("templates/a.yaml"), "kind: ConfigMap\n", 0o644, seconds);
        let helm = root().join(".tools/helm-4.1.4");
        succeed(apart(helm).arg("package").arg(&chart).arg("--destination").arg(made.path().join(name)).env("HOME", made.path()));
        let archive = made.path().join(name).join("keyferry-1.2.3.tgz");
        let program =
            format!("import archive, sys; p = {archive:?}; d = open(p, 'rb').read(); open(p, 'wb').write(archive.repacked(d, {EPOCH}))");
        succeed(python().args(["-c", &program]));
        let listed = succeed(apart("tar").arg("-tzf").arg(&archive));
        (fs::read(&archive).unwrap(), listed)
    };
    let (first, second) = (pack("one", 1), pack("another", 1_900_000_000));
    assert!(first == second, "the same chart gave two archives");
    assert_snapshot!(first.1, @"
    keyferry/
    keyferry/templates/
    keyferry/Chart.yaml
    keyferry/templates/a.yaml
    ");
}

// === The bill of materials ===

/// A program, a library that it links, and what only runs while it is built or tested.
fn program(folder: &Path) {
    let package = |name: &str, more: &str, code: &str| {
        let home = if name == "program" { folder.to_owned() } else { folder.join(name) };
        fs::create_dir_all(home.join("src")).unwrap();
        let manifest = format!("[package]\nname = {name:?}\nversion = \"1.2.3\"\nedition = \"2024\"\nlicense = \"MIT/Apache-2.0\"\n{more}");
        fs::write(home.join("Cargo.toml"), manifest).unwrap();
        fs::write(home.join(if name == "program" { "src/main.rs" } else { "src/lib.rs" }), code).unwrap();
    };
    let needs = r"
        [dependencies]
        linked = { path = 'linked' }
        derives = { path = 'derives' }
        [build-dependencies]
        generates = { path = 'generates' }
        [dev-dependencies]
        tries = { path = 'tries' }
        [target.'cfg(windows)'.dependencies]
        windows = { path = 'windows' }
        [features]
        more = ['linked/more']";
    package("program", needs, "fn main() { linked::call(); derives::nothing!(); }");
    fs::write(folder.join("build.rs"), "fn main() { generates::call() }").unwrap();
    let linked = r"
        description = '''
            What is
            linked'''
        [dependencies]
        both = { path = '../both' }
        unused = { path = '../unused', optional = true }
        [features]
        more = ['dep:unused']";
    package("linked", linked, "pub fn call() { both::call() }");
    let derives = r"
        [lib]
        proc-macro = true
        [dependencies]
        both = { path = '../both' }
        parses = { path = '../parses' }";
    let code = "use proc_macro::TokenStream;\n#[proc_macro]\npub fn nothing(_: TokenStream) -> TokenStream { both::call(); parses::call(); TokenStream::new() }";
    package("derives", derives, code);
    for name in ["both", "generates", "parses", "tries", "unused", "windows"] {
        package(name, "", "pub fn call() {}");
    }
}

fn bill(folder: &Path) -> String {
    program(folder);
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = with_cargo(apart("cargo"));
    cargo.args(["check", "--quiet", "--offline", "--message-format=json", "--target", &target]).current_dir(folder);
    fs::write(folder.join("messages"), succeed(&mut cargo)).unwrap();
    write(&folder.join("binary"), "the binary", 0o755, 1);
    let mut command = python();
    elsewhere(command.arg(root().join("deploy/release/sbom.py")), folder);
    command.args(["--manifest", "Cargo.toml", "--messages", "messages", "--binary", "binary"]);
    succeed(command.args(["--target", &target, "--epoch", EPOCH, "--commit", "c0ffee"]))
}

#[test]
fn a_bill_of_materials_tells_what_is_in_the_binary_from_what_only_ran_during_the_build() {
    let (one, other) = (folder::new(), folder::new());
    let text = bill(one.path());
    let deeper = other.path().join("deeper");
    fs::create_dir(&deeper).unwrap();
    assert_eq!(text, bill(&deeper), "the same program gave two bills");
    assert!(!text.contains(one.path().to_str().unwrap()), "a path of this machine: {text}");
    let bill: Value = serde_json::from_str(&text).unwrap();
    let listed = bill["components"].as_array().unwrap().iter().map(|component| format!("{} {}", component["name"], component["scope"]));
    // Not `tries` (only tests), `unused` (a feature that is off), `windows` (another system).
    assert_snapshot!(listed.collect::<Vec<_>>().join("\n"), @r#"
    "both" "required"
    "derives" "excluded"
    "generates" "excluded"
    "linked" "required"
    "parses" "excluded"
    "#);
    assert_snapshot!(serde_json::to_string_pretty(&bill["metadata"]).unwrap().replace(std::env::consts::ARCH, "ARCH"), @r#"
    {
      "timestamp": "2026-11-27T12:00:00Z",
      "component": {
        "type": "application",
        "bom-ref": "pkg:cargo/program@1.2.3",
        "name": "program",
        "version": "1.2.3",
        "purl": "pkg:cargo/program@1.2.3",
        "licenses": [
          {
            "expression": "MIT OR Apache-2.0"
          }
        ],
        "hashes": [
          {
            "alg": "SHA-256",
            "content": "c9798c8b717225ba988b01e15f41967cbab9a4974dc4ac448866bd06a0619259"
          }
        ],
        "properties": [
          {
            "name": "keyferry:commit",
            "value": "c0ffee"
          },
          {
            "name": "keyferry:target",
            "value": "ARCH-unknown-linux-gnu"
          }
        ]
      }
    }
    "#);
    assert_snapshot!(serde_json::to_string(&bill["dependencies"]).unwrap(), @r#"[{"ref":"pkg:cargo/both@1.2.3","dependsOn":[]},{"ref":"pkg:cargo/derives@1.2.3","dependsOn":["pkg:cargo/both@1.2.3","pkg:cargo/parses@1.2.3"]},{"ref":"pkg:cargo/generates@1.2.3","dependsOn":[]},{"ref":"pkg:cargo/linked@1.2.3","dependsOn":["pkg:cargo/both@1.2.3"]},{"ref":"pkg:cargo/parses@1.2.3","dependsOn":[]},{"ref":"pkg:cargo/program@1.2.3","dependsOn":["pkg:cargo/derives@1.2.3","pkg:cargo/generates@1.2.3","pkg:cargo/linked@1.2.3"]}]"#);
}

// === What is refused ===

/// What a function of release.py says of a checkout, which has the scripts and what they read.
fn refusal(checkout: &Path, call: &str) -> String {
    let program = format!("import release; release.{call}");
    let mut python = python();
    // What Python leaves behind by default must not count as a change.
    python.env_remove("PYTHONDONTWRITEBYTECODE").env("PYTHONPATH", checkout.join("deploy/release")).args(["-c", &program]);
    let (code, _, err) = run(&mut python, "");
    assert!(code == 0 || code == 2, "{err}");
    err
}

fn checkout() -> tempfile::TempDir {
    let made = folder::new();
    fs::create_dir_all(made.path().join("deploy/release")).unwrap();
    for script in files_below(&root().join("deploy/release"), "py") {
        fs::copy(&script, made.path().join("deploy/release").join(script.file_name().unwrap())).unwrap();
    }
    fs::copy(root().join("deploy/Dockerfile"), made.path().join("deploy/Dockerfile")).unwrap();
    fs::write(made.path().join("CHANGELOG.md"), "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-27\n").unwrap();
    fs::copy(root().join(".gitignore"), made.path().join(".gitignore")).unwrap();
    for arguments in ["init --quiet", "add .", "-c user.name=one -c user.email=one@example.com commit --quiet -m one"] {
        succeed(apart("git").args(arguments.split(' ')).current_dir(made.path()));
    }
    made
}

#[test]
fn a_tag_that_promises_something_else_is_refused() {
    let made = checkout();
    let refusal = |tag: &str, version: &str| refusal(made.path(), &format!("refuse_wrong_tag({tag:?}, {version:?})"));
    assert_eq!(refusal("v1.2.3", "1.2.3"), "");
    for tag in ["v1.2.4", "1.2.3", "v1.2.3-rc.1", "V1.2.3"] {
        assert!(refusal(tag, "1.2.3").contains("does not fit"), "{tag}");
    }
    assert_snapshot!(refusal("v1.2.4", "1.2.3"), @"make release: the tag v1.2.4 does not fit Cargo.toml, whose version is 1.2.3 (tag v1.2.3, or change the version)");
    assert_snapshot!(refusal("v1.2.4", "1.2.4"), @"make release: CHANGELOG.md: no section [1.2.4] (rename the section [Unreleased])");
    // Not the section of another version that begins alike.
    assert_ne!(refusal("v1.2", "1.2"), "");
}

/// A release names its commit: everybody must be able to build the same from it.
#[test]
fn a_checkout_that_differs_from_its_commit_is_refused() {
    let made = checkout();
    let refusal = || refusal(made.path(), "refuse_changes()");
    fs::create_dir(made.path().join("target")).unwrap();
    fs::write(made.path().join("target/built"), "").unwrap();
    assert_eq!(refusal(), "");
    assert_eq!(refusal(), "", "the second run");
    fs::write(made.path().join("not known to git"), "").unwrap();
    assert_snapshot!(refusal(), @r#"make release: the checkout differs from its commit: "not known to git" (commit, or put it aside with `git stash --include-untracked`)"#);
    fs::remove_file(made.path().join("not known to git")).unwrap();
    fs::remove_file(made.path().join("CHANGELOG.md")).unwrap();
    assert_snapshot!(refusal(), @"make release: the checkout differs from its commit: CHANGELOG.md (commit, or put it aside with `git stash --include-untracked`)");
    for name in ["a", "b", "c", "d"] {
        fs::write(made.path().join(name), "").unwrap();
    }
    assert_snapshot!(refusal(), @"make release: the checkout differs from its commit: CHANGELOG.md, a, b and 2 more (commit, or put it aside with `git stash --include-untracked`)");
}

#[test]
fn an_architecture_that_is_not_known_is_refused() {
    assert_snapshot!(refusal(root(), "chosen('amd64 x86')"), @"make release: ARCHITECTURES: 'x86' is not known (choose from amd64, arm64, with a space between two)");
    for good in ["arm64", "arm64 amd64", " amd64", ""] {
        assert_eq!(refusal(root(), &format!("chosen({good:?})[0]")), "", "{good}");
    }
}
