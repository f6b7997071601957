//! A store over a network: a real OpenBao, 5 ms away.

use std::error::Error;
use std::fs;
use std::process::{Command, Stdio};

use http::Request;
use keyferry::http::{HttpClient, HttpConfig};
use keyferry::identity::Issuer;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::bao::{Bao, Options, Proxy};
use crate::measure::{
    ISSUER, Outcome, Process, connect_when_ready, floor, median, mib, micros, millis, p50, plain, processor, request, resident, row, serve,
    throughput,
};

const OBJECTS: usize = 100;
const ROUNDS: u32 = 21;
const PODS: usize = 250;
pub const SECRETS: usize = 10;
const BYTES: usize = 256;
/// One way: a store in another zone.
const AWAY: Duration = Duration::from_micros(2_500);
pub const AUDIENCES: [&str; 2] = ["keyferry", "bao"];

pub async fn bench(factor: usize) -> Outcome<()> {
    let store = Store::build().await?;
    println!("\nOpenBao over TLS, 5 ms away by a proxy of this program; {OBJECTS} or {SECRETS} files of {BYTES} bytes\n");
    println!("{:<54} {:>12} {:>12} {:>8}  wanted", "", "keyferry", "floor", "ratio");
    store.hundred_objects().await?;
    store.many_pods().await?;
    store.cached(factor).await?;
    store.out(factor).await
}

pub struct Store {
    bao: Bao,
    proxy: Proxy,
    pub issuer: Issuer,
}

/// A provider of the store, in a folder of its own.
struct House {
    folder: tempfile::TempDir,
    process: Process,
}

impl Store {
    pub async fn build() -> Outcome<Self> {
        let (bao, issuer) = (Bao::configured(Options { tls: true, ..Options::default() }).await, Issuer::new(ISSUER)?);
        bao.kv2("kv").await;
        for n in 0..OBJECTS {
            bao.put("kv", &format!("bench/s{n}"), json!({ "value": "v".repeat(BYTES) })).await;
        }
        bao.policy("bench", "path \"kv/data/bench/*\" { capabilities = [\"read\"] }").await;
        bao.jwt("jwt", &issuer.jwks()).await;
        bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["bench"], "ttl": "1h" })).await;
        let proxy = Proxy::start(bao.address());
        proxy.delay(AWAY);
        Ok(Self { bao, proxy, issuer })
    }

    /// A provider with these settings of its cache.
    fn serve(&self, cache: &str) -> Outcome<House> {
        let (folder, line) = self.configure(cache)?;
        let process = Process(Command::new(&line[0]).args(&line[1..]).stdout(Stdio::null()).spawn()?);
        Ok(House { folder, process })
    }

    /// The provider's folder and its command line.
    pub fn configure(&self, cache: &str) -> Outcome<(tempfile::TempDir, Vec<String>)> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().display();
        fs::write(folder.path().join("jwks.json"), self.issuer.jwks())?;
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{}]\nlog: {{ level: error }}\naudit: {{ file: {root}/audit.log }}\n\
             identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
             backends: {{ bao: {{ kind: vault, address: \"{}\", ca: {}, cache: {{ {cache} }},\n  \
               auth: {{ method: jwt, mount: jwt, role: csi, audience: bao }} }} }}\n\
             policy:\n  - pods: {{ namespace: bench }}\n    read: [\"bao/kv/data/bench/*\"]\n",
            rustix::process::geteuid().as_raw(),
            self.bao.url_at(self.proxy.address),
            self.bao.ca_file().display(),
        );
        let file = folder.path().join("keyferry.yaml");
        fs::write(&file, config)?;
        Ok((folder, serve(&file)))
    }

    /// After login. On these few cores most of the time is the store's own work. So the bench asks the same without the distance too, and counts
    /// in round trips what the distance adds.
    async fn hundred_objects(&self) -> Outcome<()> {
        let house = self.serve("fresh: 0s")?;
        let mut client = house.client().await?;
        let warm = request(&self.issuer, &AUDIENCES, 0, &objects(1))?;
        client.mount(warm).await?;
        let hundred = request(&self.issuer, &AUDIENCES, 0, &objects(OBJECTS))?;
        let direct = HttpClient::new(self.bao.url_at(self.proxy.address).parse()?, self.trusting())?;
        let (mut near, mut away, mut trips) = (Vec::new(), Vec::new(), Vec::new());
        let worked = || Ok::<_, Box<dyn Error + Send + Sync>>((processor(house.process.0.id())?, processor(self.bao.pid())?));
        let before = worked()?;
        for _ in 0..ROUNDS {
            self.proxy.delay(Duration::ZERO);
            near.push(timed(client.mount(hundred.clone())).await?);
            self.proxy.delay(AWAY);
            away.push(timed(client.mount(hundred.clone())).await?);
            let status = Request::get("/v1/sys/seal-status").body(bytes::Bytes::new())?;
            trips.push(timed(direct.send(status, Instant::now() + Duration::from_secs(5))).await?);
        }
        let after = worked()?;
        let each = |before: f64, after: f64| millis((after - before) / f64::from(2 * ROUNDS));
        plain("100 objects: processor time of the provider", &each(before.0, after.0), "");
        plain("100 objects: processor time of the server", &each(before.1, after.1), "");
        let (near, away, trip) = (median(&mut near), median(&mut away), median(&mut trips));
        plain("100 objects, after login, no distance", &millis(near), "");
        plain("100 objects, after login, 5 ms away", &millis(away), "");
        row("what the distance adds (floor: one round trip)", &millis(away - near), &millis(trip), (away - near) / trip, "<= 4");
        Ok(())
    }

    async fn many_pods(&self) -> Outcome<()> {
        let house = self.serve("fresh: 2m")?;
        let client = house.client().await?;
        self.bao.requests();
        let mut mounts = JoinSet::new();
        for n in 0..PODS {
            let (mut client, request) = (client.clone(), request(&self.issuer, &AUDIENCES, n, &objects(SECRETS))?);
            mounts.spawn(async move { client.mount(request).await });
        }
        let began = Instant::now();
        while let Some(mounted) = mounts.join_next().await {
            mounted??;
        }
        let took = began.elapsed();
        let counted = self.bao.counted();
        let of = |start: &str| counted.iter().filter(|(call, _)| call.starts_with(start)).map(|(_, calls)| calls).sum::<usize>();
        plain("250 Pods x 10 secrets at once: logins", &of("update auth/jwt/login").to_string(), "1");
        plain("250 Pods x 10 secrets at once: reads", &of("read kv/data/bench/").to_string(), "10");
        plain("250 Pods x 10 secrets at once: all served in", &millis(took.as_secs_f64()), "");
        Ok(())
    }

    async fn cached(&self, factor: usize) -> Outcome<()> {
        let house = self.serve("fresh: 10m")?;
        let mut client = house.client().await?;
        sleep(Duration::from_millis(500)).await;
        let idle = resident(&house.process)?;
        let seen = [request(&self.issuer, &AUDIENCES, 0, &objects(SECRETS))?];
        let answer = client.mount(seen[0].clone()).await?.into_inner();
        let used = resident(&house.process)?;
        let (_floor, mut echo) = floor(house.folder.path(), &answer).await?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            ours.push(p50(&mut client, &seen, 2_000 * factor).await?);
            bare.push(p50(&mut echo, &seen, 2_000 * factor).await?);
        }
        let (a, b) = (median(&mut ours), median(&mut bare));
        row("from the fresh cache, 1 in flight, p50", &micros(a), &micros(b), a / b, "<= 1.4");
        let (a, b) = (throughput(&client, &seen, 16, 10_000 * factor).await?, throughput(&echo, &seen, 16, 10_000 * factor).await?);
        row("from the fresh cache, 16 in flight, mounts/s", &format!("{a:.0}"), &format!("{b:.0}"), a / b, ">= 0.55");
        plain("idle RSS with this backend", &mib(idle), "");
        plain("RSS after its first mount", &mib(used), "");
        Ok(())
    }

    /// The server has stopped for good: mounts get older answers, and Keyferry does not ask the store.
    async fn out(&self, factor: usize) -> Outcome<()> {
        let house = self.serve("fresh: 1s, stale: 24h")?;
        let mut client = house.client().await?;
        let seen = [request(&self.issuer, &AUDIENCES, 0, &objects(SECRETS))?];
        let answer = client.mount(seen[0].clone()).await?.into_inner();
        self.bao.stop();
        sleep(Duration::from_secs(2)).await;
        client.mount(seen[0].clone()).await?;
        let (_floor, mut echo) = floor(house.folder.path(), &answer).await?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            ours.push(p50(&mut client, &seen, 2_000 * factor).await?);
            bare.push(p50(&mut echo, &seen, 2_000 * factor).await?);
        }
        let (a, b) = (median(&mut ours), median(&mut bare));
        row("while the store is out, 1 in flight, p50", &micros(a), &micros(b), a / b, "<= 1.5");
        Ok(())
    }

    fn trusting(&self) -> HttpConfig {
        HttpConfig { ca: Some(self.bao.ca_file()), ..HttpConfig::default() }
    }
}

impl House {
    async fn client(&self) -> Outcome<crate::measure::Client> {
        connect_when_ready(&self.folder.path().join("sockets/keyferry.sock")).await
    }
}

/// How long a call takes, in seconds.
async fn timed<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<f64, E> {
    let began = Instant::now();
    call.await?;
    Ok(began.elapsed().as_secs_f64())
}

pub fn objects(count: usize) -> String {
    (0..count).map(|n| format!("- {{secret: kv/data/bench/s{n}, field: value, path: s{n}}}\n")).collect()
}
