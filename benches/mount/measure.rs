//! What both tables need: a client, the floor, figures and their rows.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper_util::rt::TokioIo;
use keyferry::clock::SystemClock;
use keyferry::identity::Issuer;
use keyferry::model::PodClaims;
use keyferry::server::proto::csi_driver_provider_client::CsiDriverProviderClient;
use keyferry::server::proto::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use keyferry::server::proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, Instant, sleep};
use tonic::transport::{Channel, Endpoint, Server};

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
pub type Client = CsiDriverProviderClient<Channel>;

pub const ISSUER: &str = "https://bench.example";

pub fn row(what: &str, ours: &str, floor: &str, ratio: f64, wanted: &str) {
    println!("{what:<54} {ours:>12} {floor:>12} {ratio:>8.2}  {wanted}");
}

pub fn plain(what: &str, figure: &str, wanted: &str) {
    println!("{what:<54} {figure:>12} {:>12} {:>8}  {wanted}", "", "");
}

pub fn micros(seconds: f64) -> String {
    format!("{:.1} us", seconds * 1e6)
}

pub fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

#[allow(clippy::cast_precision_loss)] // megabytes for a person
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

pub async fn p50(client: &mut Client, requests: &[MountRequest], calls: usize) -> Outcome<f64> {
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls {
        let request = requests[call % requests.len()].clone();
        let began = Instant::now();
        client.mount(request).await?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(median(&mut times))
}

#[allow(clippy::cast_precision_loss)] // a rate
pub async fn throughput(client: &Client, requests: &[MountRequest], in_flight: usize, calls: usize) -> Outcome<f64> {
    let requests: Arc<[MountRequest]> = requests.into();
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (mut client, requests, next) = (client.clone(), Arc::clone(&requests), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call >= calls {
                    return Ok::<_, tonic::Status>(());
                }
                client.mount(requests[call % requests.len()].clone()).await?;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(calls as f64 / began.elapsed().as_secs_f64())
}

pub async fn connect_when_ready(socket: &Path) -> Outcome<Client> {
    // A server that is counted starts slowly.
    let deadline = Instant::now() + Duration::from_mins(1);
    while UnixStream::connect(socket).await.is_err() {
        assert!(Instant::now() < deadline, "{} never came up", socket.display());
        sleep(Duration::from_micros(200)).await;
    }
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(CsiDriverProviderClient::new(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?))
}

pub fn resident(process: &Process) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The processor time that a process has taken so far, in seconds: `utime` and `stime` of proc(5), in ticks of 10 ms.
#[allow(clippy::cast_precision_loss)] // hundredths of seconds for a person
pub fn processor(pid: u32) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let ticks: u64 = after_name.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// A child that does not outlive the bench.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command line of a provider.
pub fn serve(config: &Path) -> Vec<String> {
    [env!("CARGO_BIN_EXE_keyferry"), "serve", "--config"].map(str::to_owned).into_iter().chain([config.display().to_string()]).collect()
}

/// What the driver sends for the n-th Pod, with a token for each audience.
pub fn request(issuer: &Issuer, audiences: &[&str], n: usize, objects: &str) -> Outcome<MountRequest> {
    let pod = PodClaims { namespace: "bench".into(), name: format!("pod-{n}"), uid: format!("0000-{n}"), service_account: "bench".into() };
    let mut tokens = serde_json::Map::new();
    for audience in audiences {
        let token = issuer.token(&pod, audience, Duration::from_hours(1), &SystemClock)?;
        tokens.insert((*audience).to_owned(), serde_json::json!({ "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" }));
    }
    let attributes = serde_json::json!({
        "objects": objects,
        "secretProviderClass": "bench",
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": pod.name,
        "csi.storage.k8s.io/pod.namespace": pod.namespace,
        "csi.storage.k8s.io/pod.uid": pod.uid,
        "csi.storage.k8s.io/serviceAccount.name": pod.service_account,
        "csi.storage.k8s.io/serviceAccount.tokens": serde_json::Value::Object(tokens).to_string(),
    });
    Ok(MountRequest {
        attributes: attributes.to_string(),
        secrets: "null".to_owned(),
        target_path: format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/secrets/mount", pod.uid),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    })
}

/// Starts the floor: this program again, as a bare tonic echo of an answer.
pub async fn floor(folder: &Path, answer: &MountResponse) -> Outcome<(Process, Client)> {
    let (socket, file) = (folder.join("echo.sock"), folder.join("answer"));
    fs::write(&file, prost::Message::encode_to_vec(answer))?;
    let process = Process(Command::new(std::env::current_exe()?).arg("--echo").arg(&socket).arg(file).spawn()?);
    let client = connect_when_ready(&socket).await?;
    Ok((process, client))
}

/// The floor: tonic's own server, which answers every mount with the same message.
struct Echo(MountResponse);

/// Serves it.
pub async fn echo(socket: &str, answer: &str) -> Outcome<()> {
    let answer = prost::Message::decode(fs::read(answer)?.as_slice())?;
    let listener = tokio_stream::wrappers::UnixListenerStream::new(UnixListener::bind(socket)?);
    Ok(Server::builder().add_service(CsiDriverProviderServer::new(Echo(answer))).serve_with_incoming(listener).await?)
}

#[tonic::async_trait]
impl CsiDriverProvider for Echo {
    async fn version(&self, _: tonic::Request<VersionRequest>) -> Result<tonic::Response<VersionResponse>, tonic::Status> {
        Ok(tonic::Response::new(VersionResponse::default()))
    }

    async fn mount(&self, _: tonic::Request<MountRequest>) -> Result<tonic::Response<MountResponse>, tonic::Status> {
        Ok(tonic::Response::new(self.0.clone()))
    }
}
