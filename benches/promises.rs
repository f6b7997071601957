//! A second floor for the warm mount: what Keyferry's promises would cost any program. `make instructions` counts it.
//!
//! It is the echo again, but with the wiping allocator. Before each answer it parses the attributes, hashes the token and looks at ten
//! files. It is not in the program of the first floor, because a program has one allocator.

#![allow(clippy::print_stdout)] // a table for a person

use std::fs;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use keyferry::identity::Issuer;
use keyferry::server::proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use keyferry::server::proto::{File, MountRequest, MountResponse, ObjectVersion, VersionRequest, VersionResponse};
use serde_json::{Map, Value};
use tikv_jemallocator::Jemalloc;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use zeroizing_alloc::ZeroAlloc;

use counts::{Counted, heading, missing};
use measure::{ISSUER, Outcome, request};

#[path = "mount/counts.rs"]
mod counts;
#[allow(dead_code)] // the other bench has more rows
#[path = "mount/measure.rs"]
mod measure;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

const FILES: usize = 10;
const BYTES: usize = 256;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        return runtime.block_on(serve(PathBuf::from(&arguments[at + 1])));
    }
    if let Some(tool) = missing() {
        println!("not counted: {tool} is not installed (apt install valgrind strace)");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for n in 0..FILES {
        fs::write(folder.path().join(format!("s{n}")), "x")?;
    }
    let objects: String = (0..FILES).map(|n| format!("- secret: small/s{n}\n  path: s{n}\n")).collect();
    let request = request(&Issuer::new(ISSUER)?, &["keyferry"], 0, &objects)?;
    let server = vec![std::env::current_exe()?.display().to_string(), "--serve".to_owned(), folder.path().display().to_string()];
    heading();
    let counted = Counted { what: "what the promises cost", before: Vec::new(), server, socket: folder.path().join("echo.sock"), request };
    runtime.block_on(counted.count(folder.path()))
}

async fn serve(folder: PathBuf) -> Outcome<()> {
    let listener = tokio_stream::wrappers::UnixListenerStream::new(UnixListener::bind(folder.join("echo.sock"))?);
    Ok(Server::builder().add_service(CsiDriverProviderServer::new(Promises { folder })).serve_with_incoming(listener).await?)
}

struct Promises {
    folder: PathBuf,
}

#[tonic::async_trait]
impl CsiDriverProvider for Promises {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse::default()))
    }

    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let wrong = || Status::invalid_argument("not what the driver sends");
        let attributes: Map<String, Value> = serde_json::from_str(&request.get_ref().attributes).map_err(|_| wrong())?;
        let tokens = attributes.get("csi.storage.k8s.io/serviceAccount.tokens").and_then(Value::as_str).ok_or_else(wrong)?;
        let tokens: Map<String, Value> = serde_json::from_str(tokens).map_err(|_| wrong())?;
        for token in tokens.values() {
            let token = token.get("token").and_then(Value::as_str).ok_or_else(wrong)?;
            std::hint::black_box(digest(&SHA256, token.as_bytes()));
        }
        let files = (0..FILES).map(|n| {
            let name = format!("s{n}");
            std::hint::black_box(fs::metadata(self.folder.join(&name)).is_ok());
            File { path: name, mode: 0o644, contents: vec![b'v'; BYTES].into() }
        });
        let files = files.collect();
        let object_version = (0..FILES).map(|n| ObjectVersion { id: format!("files/small/s{n}"), version: "1".to_owned() }).collect();
        Ok(Response::new(MountResponse { object_version, error: None, files }))
    }
}
