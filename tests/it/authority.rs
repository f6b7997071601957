//! Calls of a gRPC C-core client, which sends the socket's path as `:authority` as drivers before v1.6.0 do.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use keyferry::server::authority::RepairAuthority;
use keyferry::server::proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use keyferry::server::proto::{File, MountRequest, MountResponse, ObjectVersion, VersionRequest, VersionResponse};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tonic::{Request, Response, Status};

use crate::support::apart;

/// Answers with what it was asked.
struct Echo;

#[tonic::async_trait]
impl CsiDriverProvider for Echo {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        let version = request.into_inner().version;
        Ok(Response::new(VersionResponse { version, runtime_name: "echo".into(), runtime_version: "0.0.1".into() }))
    }

    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        if request.target_path.is_empty() {
            return Err(Status::invalid_argument("no target_path"));
        }
        let file = File { path: "attributes".into(), mode: 0o640, contents: request.attributes.into() };
        let version = ObjectVersion { id: request.secrets, version: request.permission };
        Ok(Response::new(MountResponse { object_version: vec![version], error: None, files: vec![file] }))
    }
}

/// Serves `Echo` on each connection to a socket in a folder of its own, as long as the folder exists.
fn serve<S>(wrap: fn(UnixStream) -> S) -> TempDir
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let folder = crate::folder::new();
    let listener = UnixListener::bind(folder.path().join("echo.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(CsiDriverProviderServer::new(Echo));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(wrap(stream)), service));
        }
    });
    folder
}

/// The driver's answers, one per call, and whether it ended with success.
async fn driver(folder: &TempDir, arguments: &[&str]) -> (Vec<Value>, bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(
        python.exists(),
        "no .venv: run `python3 -m venv .venv && .venv/bin/pip install -r tests/requirements.txt` in {}",
        root.display()
    );
    let output = Command::from(apart(python))
        .arg(root.join("tests/clients/driver.py"))
        .arg(folder.path().join("echo.sock"))
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let answers = String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(output.status.code() != Some(2) && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (answers, output.status.success())
}

fn version() -> Value {
    json!({ "version": "v1alpha1", "runtime_name": "echo", "runtime_version": "0.0.1" })
}

#[tokio::test]
async fn a_c_core_client_with_its_default_authority_is_served() {
    let folder = serve(RepairAuthority::new);
    assert_eq!(driver(&folder, &["version"]).await, (vec![version()], true));
}

/// This test does not show what we wish. If it fails, h2 takes a path for an authority, and we can remove our repair.
#[tokio::test]
async fn without_the_repair_it_is_reset() {
    let folder = serve(|stream| stream);
    let (answers, success) = driver(&folder, &["version", "--deadline", "20"]).await;
    assert!(!success);
    assert_eq!(answers[0]["code"], "INTERNAL");
    assert_eq!(driver(&folder, &["version", "--authority", "localhost"]).await, (vec![version()], true));
}

#[tokio::test]
async fn calls_of_one_connection_share_its_dynamic_table() {
    let folder = serve(RepairAuthority::new);
    assert_eq!(driver(&folder, &["version", "--repeat", "200"]).await, (vec![version(); 200], true));
}

#[tokio::test]
async fn any_authority_is_served() {
    let folder = serve(RepairAuthority::new);
    for authority in
        ["localhost", "/var/run/secrets-store-csi-providers/keyferry.sock", "unix:///run/keyferry.sock", "a:b:c", "/run/{a}^ b.sock"]
    {
        assert_eq!(
            driver(&folder, &["version", "--repeat", "3", "--authority", authority]).await,
            (vec![version(); 3], true),
            "{authority}"
        );
    }
}

#[tokio::test]
async fn a_mount_and_its_refusal_reach_a_c_core_client() {
    let folder = serve(RepairAuthority::new);
    let request = folder.path().join("request.json");
    let mount = async |content: Value| {
        std::fs::write(&request, content.to_string()).unwrap();
        driver(&folder, &["mount", "--json", request.to_str().unwrap()]).await
    };
    let (answers, success) = mount(json!({ "attributes": { "a": "b" }, "target_path": "/t" })).await;
    assert!(success);
    let file = json!({ "path": "attributes", "mode": 0o640, "contents_base64": data_encoding::BASE64.encode(br#"{"a": "b"}"#) });
    assert_eq!(answers, [json!({ "files": [file], "object_version": [{ "id": "null", "version": "420" }] })]);

    let (answers, success) = mount(json!({})).await;
    assert!(!success);
    assert_eq!(answers, [json!({ "code": "INVALID_ARGUMENT", "message": "no target_path" })]);
}
