use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use bytes::Bytes;
use clap::Parser;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};
use tower::Service;

use super::*;
use crate::cli::Shown;
use crate::cli::health::{self, HealthArgs};
use crate::clock::ManualClock;
use crate::server::proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use crate::server::proto::{Error, File, MountResponse, ObjectVersion, VersionRequest, VersionResponse};

const CLASS: &str = "\
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: { name: shop }
spec:
  provider: keyferry
  parameters:
    mode: \"0440\"
    role: from-the-class
    csi.storage.k8s.io/pod.name: forged
    objects: |
      - { secret: shop/db, field: password, path: db/password }
      - { secret: shop/app, path: app.conf }
";

/// A token's shape, signed by nobody: `{"exp":1900000000}`.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjE5MDAwMDAwMDB9.c2ln";

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Health(HealthArgs),
    Mount(Box<MountArgs>),
}

/// What the test's provider answers.
type Script = Box<dyn Fn() -> Result<MountResponse, Status> + Send + Sync>;

struct Provider {
    script: Script,
    contract: &'static str,
    asked: Mutex<Vec<(MountRequest, Option<String>)>>,
}

#[async_trait::async_trait]
impl CsiDriverProvider for Arc<Provider> {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        let version = self.contract.to_owned();
        Ok(Response::new(VersionResponse { version, runtime_name: "keyferry".to_owned(), runtime_version: "1.2.3".to_owned() }))
    }

    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        self.asked.lock().unwrap().push((request.into_inner(), timeout));
        let answer = (self.script)()?;
        if answer.object_version.iter().any(|object| object.id == "never") {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(answer))
    }
}

/// A provider in its own folder, with the command's inputs beside the socket.
struct Stage {
    dir: TempDir,
    provider: Arc<Provider>,
}

struct Outcome {
    result: Result<(), MountCommandError>,
    out: String,
    err: String,
}

impl Stage {
    fn new(script: impl Fn() -> Result<MountResponse, Status> + Send + Sync + 'static) -> Self {
        Self::speaking("v1alpha1", Box::new(script))
    }

    fn speaking(contract: &'static str, script: Script) -> Self {
        let dir = crate::folder::new();
        fs::write(dir.path().join("class.yaml"), CLASS).unwrap();
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let provider = Arc::new(Provider { script, contract, asked: Mutex::default() });
        let service = CsiDriverProviderServer::new(Arc::clone(&provider));
        let listener = UnixListener::bind(dir.path().join("keyferry.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    assert_eq!(request.uri().authority().map(http::uri::Authority::as_str), Some("localhost"));
                    service.clone().call(request)
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { dir, provider }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs `keyferry mount` with these flags, and with the usual ones if they are not given. `@` is the stage's folder.
    async fn mount(&self, flags: &[&str]) -> Outcome {
        let usual = [
            ("--socket", "@/keyferry.sock"),
            ("--class", "@/class.yaml"),
            ("--namespace", "shop"),
            ("--pod", "web-0"),
            ("--uid", "u-1"),
            ("--service-account", "web"),
        ];
        let usual = usual.iter().filter(|(flag, _)| !flags.contains(flag)).flat_map(|(flag, value)| [flag, value]);
        let flags = ["keyferry", "mount"].iter().chain(usual).chain(flags);
        let flags = flags.map(|flag| flag.replace('@', self.dir.path().to_str().unwrap()));
        let Command::Mount(args) = super::super::parsed::<Cli>(flags).unwrap_or_else(|error| panic!("{error}")).command else { panic!() };
        let clock = ManualClock::at(Timestamp::from_second(1_767_323_045).unwrap());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = run(&args, &clock, &mut out, &mut err).await;
        let shown = |text: Vec<u8>| String::from_utf8(text).unwrap().replace(self.dir.path().to_str().unwrap(), "@");
        Outcome { result, out: shown(out), err: shown(err) }
    }

    async fn dry_run(&self) -> Outcome {
        self.mount(&["--dry-run"]).await
    }
}

impl Outcome {
    #[track_caller]
    fn ok(&self) -> &Self {
        assert!(self.result.is_ok(), "{:?}", self.result);
        self
    }

    /// The exit code and the message.
    #[track_caller]
    fn failure(&self, stage: &Stage) -> String {
        let error = self.result.as_ref().unwrap_err();
        format!("{}: {error}", error.exit_code()).replace(stage.dir.path().to_str().unwrap(), "@")
    }
}

fn file(path: &str, mode: i32, contents: &'static str) -> File {
    File { path: path.to_owned(), mode, contents: Bytes::from_static(contents.as_bytes()) }
}

fn object(id: &str, version: &str) -> ObjectVersion {
    ObjectVersion { id: id.to_owned(), version: version.to_owned() }
}

#[allow(clippy::unnecessary_wraps)] // a script
fn good() -> Result<MountResponse, Status> {
    Ok(MountResponse {
        object_version: vec![object("files/shop/db", "3"), object("files/shop/app", "hmac-1f2e")],
        error: None,
        files: vec![file("db/password", 0o440, "hunter2"), file("app.conf", 0o444, "url = x\n")],
    })
}

#[tokio::test]
async fn a_dry_run_shows_a_table_and_writes_nothing() {
    let stage = Stage::new(good);
    let outcome = stage.mount(&["--dry-run", "--target", "@/volume"]).await;
    insta::assert_snapshot!(outcome.ok().out, @r#"
    PATH         MODE  SIZE  FROM            VERSION
    db/password  0440  7     files/shop/db   3
    app.conf     0444  8     files/shop/app  hmac-1f2e

    Dry run: nothing was written.
    "#);
    assert_eq!(outcome.err, "");
    assert!(!fs::exists(stage.path("volume")).unwrap());
}

#[tokio::test]
async fn a_mount_writes_the_volume_and_shows_the_tree() {
    let stage = Stage::new(good);
    let outcome = stage.mount(&["--target", "@/new/volume"]).await;
    insta::assert_snapshot!(outcome.ok().out, @r#"
    @/new/volume
    ├── 0444 app.conf  8 bytes
    └── 0755 db/
        └── 0440 password  7 bytes

    Written.
    "#);
    if is_in_memory(fs::File::open(stage.dir.path()).unwrap()).unwrap() {
        assert_eq!(outcome.err, "");
    } else {
        insta::assert_snapshot!(outcome.err, @"warning: @/new/volume is not in memory: its files are secrets in the clear on a disk");
    }
    assert_eq!(fs::read(stage.path("new/volume/db/password")).unwrap(), b"hunter2");
    assert_eq!(fs::metadata(stage.path("new/volume/db/password")).unwrap().permissions().mode() & 0o7777, 0o440);
    assert!(fs::read_link(stage.path("new/volume/db")).unwrap().starts_with("..data"));
    let again = stage.mount(&["--target", "@/new/volume"]).await;
    assert!(again.ok().out.ends_with("\nUnchanged: the volume already held these files.\n"), "{}", again.out);
    let json = stage.mount(&["--target", "@/new/volume", "--output", "json"]).await;
    let json: Json = serde_json::from_str(&json.ok().out).unwrap();
    assert_eq!((&json["written"], &json["files"][0]["from"]), (&json!("unchanged"), &json!("files/shop/db")));
}

#[tokio::test]
async fn the_provider_is_sent_what_the_driver_sends() {
    let stage = Stage::new(good);
    fs::write(stage.path("secrets.yaml"), "clientid: me\nclientsecret: '1234'\n").unwrap();
    let flags = [
        "--dry-run",
        "--token",
        "keyferry=@/token",
        "--token",
        "=@/token",
        "--secrets",
        "@/secrets.yaml",
        "--permission",
        "0600",
        "--attribute",
        "role=from-the-pod",
        "--attribute",
        "csi.storage.k8s.io/pod.uid=forged",
        "--timeout",
        "30s",
    ];
    stage.mount(&flags).await.ok();
    let asked = stage.provider.asked.lock().unwrap();
    let (request, timeout) = &asked[0];
    let attributes: Json = serde_json::from_str(&request.attributes).unwrap();
    insta::assert_snapshot!(format!("{attributes:#}"), @r#"
    {
      "csi.storage.k8s.io/ephemeral": "true",
      "csi.storage.k8s.io/pod.name": "web-0",
      "csi.storage.k8s.io/pod.namespace": "shop",
      "csi.storage.k8s.io/pod.uid": "u-1",
      "csi.storage.k8s.io/serviceAccount.name": "web",
      "csi.storage.k8s.io/serviceAccount.tokens": "{\"\":{\"token\":\"eyJhbGciOiJub25lIn0.eyJleHAiOjE5MDAwMDAwMDB9.c2ln\",\"expirationTimestamp\":\"2030-03-17T17:46:40Z\"},\"keyferry\":{\"token\":\"eyJhbGciOiJub25lIn0.eyJleHAiOjE5MDAwMDAwMDB9.c2ln\",\"expirationTimestamp\":\"2030-03-17T17:46:40Z\"}}",
      "mode": "0440",
      "objects": "- { secret: shop/db, field: password, path: db/password }\n- { secret: shop/app, path: app.conf }\n",
      "role": "from-the-pod",
      "secretProviderClass": "shop"
    }
    "#);
    insta::assert_snapshot!(request.target_path, @"/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/secrets/mount");
    assert_eq!(request.secrets, r#"{"clientid":"me","clientsecret":"1234"}"#);
    assert_eq!(request.permission, "384");
    assert_eq!(timeout.as_deref(), Some("30000000u"));
}

#[tokio::test]
async fn without_tokens_and_secrets_their_keys_are_as_the_driver_leaves_them() {
    let stage = Stage::new(good);
    stage.mount(&["--dry-run", "--kubelet-dir", "/var/lib/k0s/kubelet"]).await.ok();
    let asked = stage.provider.asked.lock().unwrap();
    let (request, timeout) = &asked[0];
    assert!(!request.attributes.contains("serviceAccount.tokens"));
    assert_eq!((request.secrets.as_str(), request.permission.as_str()), ("null", "420"));
    assert_eq!(timeout.as_deref(), Some("120000m"));
    assert!(request.target_path.starts_with("/var/lib/k0s/kubelet/pods/u-1/"));
}

#[tokio::test]
async fn a_token_that_is_no_jwt_expires_in_an_hour() {
    let now = Timestamp::from_second(1_767_323_045).unwrap();
    let sent = token_json(&SecretBytes::new(b"opaque".to_vec()), now);
    assert_eq!(sent["expirationTimestamp"], "2026-01-02T04:04:05Z");
}

#[tokio::test]
async fn a_status_is_shown_as_the_driver_shows_it() {
    let stage = Stage::new(|| Err(Status::not_found("SecretNotFound: object 1 (db/password): no such secret")));
    let outcome = stage.dry_run().await;
    insta::assert_snapshot!(outcome.failure(&stage), @"1: rpc error: code = NotFound desc = SecretNotFound: object 1 (db/password): no such secret");
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", ""));
}

#[tokio::test]
async fn codes_that_kubelet_misreads_are_warned_of() {
    let stage = Stage::new(|| Err(Status::unavailable("store down")));
    let outcome = stage.dry_run().await;
    insta::assert_snapshot!(outcome.failure(&stage), @"1: rpc error: code = Unavailable desc = store down");
    insta::assert_snapshot!(outcome.err, @r#"warning: kubelet takes this code as "may still be going on": the Pod may start with an empty volume"#);
    let stage = Stage::new(|| Err(Status::cancelled("enough")));
    insta::assert_snapshot!(stage.dry_run().await.failure(&stage), @"1: rpc error: code = Canceled desc = enough");
}

#[tokio::test]
async fn an_answer_the_driver_would_refuse_is_refused() {
    let stage = Stage::new(|| Ok(MountResponse { error: Some(Error { code: "Denied".to_owned() }), ..good()? }));
    insta::assert_snapshot!(stage.dry_run().await.failure(&stage), @"1: mount request failed with provider error code Denied (the driver drops the message; see the provider's log)");
    let stage = Stage::new(|| Ok(MountResponse { object_version: Vec::new(), ..good()? }));
    insta::assert_snapshot!(stage.dry_run().await.failure(&stage), @"1: missing object versions (the driver accepts no answer without one)");
    let stage = Stage::new(|| Ok(MountResponse { files: vec![file("../etc/passwd", 0o644, "x")], ..good()? }));
    let outcome = stage.mount(&["--target", "@/volume"]).await;
    insta::assert_snapshot!(outcome.failure(&stage), @r#"1: the answer has the path "../etc/passwd", which has the element "..": the driver refuses the whole mount"#);
    assert!(!fs::exists(stage.path("volume")).unwrap());
    let large = || Ok(MountResponse { files: vec![File { contents: vec![b'x'; 5 << 20].into(), ..file("a", 0, "") }], ..good()? });
    let stage = Stage::new(large);
    insta::assert_snapshot!(stage.dry_run().await.failure(&stage), @"1: the answer has 5242942 bytes: the driver receives at most 4194304 (its --max-call-recv-msg-size)");
}

#[tokio::test]
async fn an_answer_without_files_leaves_the_folder_alone() {
    let stage = Stage::new(|| Ok(MountResponse { files: Vec::new(), ..good()? }));
    fs::create_dir(stage.path("volume")).unwrap();
    fs::write(stage.path("volume/mine"), "").unwrap();
    let mounted = stage.mount(&["--target", "@/volume"]).await.ok().out.clone();
    insta::assert_snapshot!(mounted, @"
    The answer has no files: to the driver this means that the provider wrote the volume itself, in /var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/secrets/mount, and the driver changes nothing there.

    Its objects:
    OBJECT          VERSION
    files/shop/db   3
    files/shop/app  hmac-1f2e
    ");
    assert_eq!(fs::read_dir(stage.path("volume")).unwrap().count(), 1);
    assert_eq!(stage.dry_run().await.ok().out, mounted);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_in_time_is_left() {
    let stage = Stage::new(|| Ok(MountResponse { object_version: vec![object("never", "")], ..good()? }));
    insta::assert_snapshot!(stage.mount(&["--dry-run", "--timeout", "200ms"]).await.failure(&stage), @"1: no answer within 200ms (is the provider overloaded, or stopped? see its log)");
}

#[tokio::test]
async fn sockets_where_nobody_answers_say_what_to_do() {
    let stage = Stage::new(good);
    let failure = async |socket: &str| stage.mount(&["--dry-run", "--socket", socket]).await.failure(&stage);
    insta::assert_snapshot!(failure("@/none.sock").await, @"1: cannot connect to @/none.sock: No such file or directory (os error 2) (no socket is there: is `keyferry serve` running, and is --socket its socket?)");
    drop(std::os::unix::net::UnixListener::bind(stage.path("stale.sock")).unwrap());
    insta::assert_snapshot!(failure("@/stale.sock").await, @"1: cannot connect to @/stale.sock: Connection refused (os error 111) (nobody listens there: is it a socket, and is `keyferry serve` running?)");
    insta::assert_snapshot!(failure("@/class.yaml").await, @"1: cannot connect to @/class.yaml: Connection refused (os error 111) (nobody listens there: is it a socket, and is `keyferry serve` running?)");
}

#[tokio::test]
async fn what_would_go_otherwise_in_a_cluster_is_warned_of() {
    let stage = Stage::new(good);
    let class = CLASS.replace("{ name: shop }", "{ name: shop, namespace: other }").replace("provider: keyferry", "provider: vault");
    fs::write(stage.path("class.yaml"), class).unwrap();
    insta::assert_snapshot!(stage.dry_run().await.ok().err, @r#"
    warning: the class is in the namespace other, the Pod in shop: the driver looks for a class only in the Pod's namespace
    warning: the class names the provider vault: the driver would call the socket vault.sock, not @/keyferry.sock
    "#);
}

#[tokio::test]
async fn faulty_inputs_are_exit_code_two_and_never_shown() {
    let stage = Stage::new(good);
    fs::write(stage.path("empty"), "\n").unwrap();
    fs::write(stage.path("two"), "hunter2\nhunter3\n").unwrap();
    fs::write(stage.path("secrets"), "a: {b: hunter2}\nc: 1234\n").unwrap();
    for (flags, shown) in [
        (["--class", "@/none"], "2: cannot read @/none: No such file or directory (os error 2)"),
        (
            ["--class", "@/empty"],
            "2: @/empty:1:1: no SecretProviderClass is in here (it starts with `apiVersion: secrets-store.csi.x-k8s.io/v1` and `kind: SecretProviderClass`)",
        ),
        (["--token", "keyferry=@/empty"], "2: @/empty: is not a token: it is empty (`keyferry mount --help` has a command that makes one)"),
        (
            ["--token", "keyferry=@/two"],
            "2: @/two: is not a token: it has a space or a second line in it (`keyferry mount --help` has a command that makes one)",
        ),
        (
            ["--secrets", "@/secrets"],
            "2: @/secrets:1:4: a: is a mapping, but must be a text (a YAML list goes into a text with `|` after the key)\n@/secrets:2:4: c: is a number to Kubernetes, but must be a text (put it in quotes)",
        ),
    ] {
        assert_eq!(stage.mount(&[&["--dry-run"], &flags[..]].concat()).await.failure(&stage), shown);
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_said() {
    let stage = Stage::new(good);
    insta::assert_snapshot!(stage.mount(&["--target", "@/class.yaml"]).await.failure(&stage), @"1: --target @/class.yaml: Not a directory (os error 20)");
    fs::create_dir(stage.path("volume")).unwrap();
    fs::write(stage.path("volume/app.conf"), "mine").unwrap();
    insta::assert_snapshot!(stage.mount(&["--target", "@/volume"]).await.failure(&stage), @"1: --target @/volume: cannot write the volume: app.conf is already there, and no writer of volumes made it (move it elsewhere)");
}

#[test]
fn the_command_line_is_checked() {
    let parse = |flags: &str| super::super::parsed::<Cli>(format!("keyferry {flags}").split_whitespace()).map(|_| ());
    let usual = "mount --class c --namespace n --pod p --uid u --service-account s";
    for wrong in
        ["", "--dry-run --timeout 0s", "--dry-run --timeout soon", "--dry-run --permission 0999", "--dry-run --token x", "--target"]
    {
        assert_eq!(parse(&format!("{usual} {wrong}")).unwrap_err().exit_code(), 2, "{wrong}");
    }
    parse(&format!("{usual} --target x --timeout 2m")).unwrap();
    parse("health").unwrap();
    let help = parse("mount --help").unwrap_err().to_string();
    assert!(help.contains("Examples:") && help.contains("--token <AUDIENCE=FILE>"), "{help}");
}

#[tokio::test]
async fn health_is_one_line() {
    let health = async |socket: String| {
        let mut out = Vec::new();
        let result = health::run(&HealthArgs { socket: socket.into(), wait: None, shown: Shown::TEXT }, &mut out, &mut Vec::new()).await;
        result.map(|()| String::from_utf8(out).unwrap())
    };
    let stage = Stage::new(good);
    let shown = |text: String, stage: &Stage| text.replace(stage.dir.path().to_str().unwrap(), "@");
    insta::assert_snapshot!(shown(health(stage.path("keyferry.sock")).await.unwrap(), &stage), @"ok: keyferry 1.2.3 answers at @/keyferry.sock");
    insta::assert_snapshot!(shown(health(stage.path("none")).await.unwrap_err().to_string(), &stage), @"cannot connect to @/none: No such file or directory (os error 2) (no socket is there: is `keyferry serve` running, and is --socket its socket?)");
    let stage = Stage::speaking("v2", Box::new(good));
    insta::assert_snapshot!(shown(health(stage.path("keyferry.sock")).await.unwrap_err().to_string(), &stage), @r#"@/keyferry.sock answers with the contract "v2", not with v1alpha1 (is it a provider of the Secrets Store CSI driver?)"#);
}

#[tokio::test(start_paused = true)]
async fn health_gives_up_on_a_socket_that_nobody_accepts() {
    let dir = crate::folder::new();
    let socket = dir.path().join("deaf.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = health::run(&HealthArgs { socket, wait: None, shown: Shown::TEXT }, &mut Vec::new(), &mut Vec::new()).await.unwrap_err();
    insta::assert_snapshot!(error, @"no answer within 5s (is the provider overloaded, or stopped? see its log)");
}

#[test]
fn a_short_form_needs_neither_name_nor_uid() {
    let args =
        |words: &[&str]| match super::super::parsed::<Cli>(["keyferry", "mount", "--dry-run"].iter().chain(words)).map(|cli| cli.command) {
            Ok(Command::Mount(args)) => Ok(args),
            Ok(Command::Health(_)) => panic!("another command"),
            Err(error) => Err(error.to_string().lines().next().unwrap().to_owned()),
        };
    let pod = |words: &[&str]| args(words).unwrap().pod().unwrap();
    let short = pod(&["-f", "c.yaml", "--as", "shop/web"]);
    assert_eq!((&*short.namespace, &*short.service_account, &*short.name), ("shop", "web", "web-0"));
    assert_eq!(short.uid.len(), 36);
    let long = pod(&["--file", "c.yaml", "-n", "shop", "--service-account", "web", "--pod", "web-0"]);
    assert_eq!(long.uid, short.uid);
    assert_ne!(pod(&["-f", "c.yaml", "--as", "shop/web", "--pod", "web-1"]).uid, short.uid);
    assert_eq!(pod(&["-f", "c.yaml", "--as", "shop/web", "--uid", "u-1"]).uid, "u-1");
    for words in [&["-f", "c.yaml", "--as", "shop/web", "-n", "shop"][..], &["-f", "c.yaml"], &["-f", "c.yaml", "--as", "web"]] {
        assert!(args(words).is_err(), "{words:?}");
    }
}

#[test]
fn a_watch_tells_what_changed_and_no_contents() {
    let answer = |files: &[(&str, &'static str)], version: &str| Answer {
        files: files
            .iter()
            .map(|(path, text)| crate::cli::answer::AnswerFile {
                path: path.parse().unwrap(),
                mode: FileMode::DEFAULT,
                contents: Bytes::from_static(text.as_bytes()),
            })
            .collect(),
        objects: vec![object("files/db", version)],
        warnings: Vec::new(),
    };
    let (before, after) =
        (answer(&[("a", "hunter2"), ("b", "x"), ("c", "y")], "1"), answer(&[("a", "hunter3"), ("c", "y"), ("d", "z")], "2"));
    assert_eq!(changes(&before, &before), "");
    assert_eq!(changes(&before, &after), "~ a\n+ d\n- b\n  files/db: version 1 -> 2\n");
}
