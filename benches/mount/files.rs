//! The file vault: secrets that Keyferry has seen, secrets that it sees for the first time, and what it needs to run.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use keyferry::backend::store::file::Vault;
use keyferry::identity::Issuer;
use keyferry::model::{Field, SecretBytes};
use keyferry::server::proto::MountRequest;
use tokio::time::{Duration, Instant, sleep};

use crate::measure::{
    ISSUER, Outcome, Process, connect_when_ready, floor, median, mib, micros, p50, plain, request, resident, row, serve, throughput,
};

const PODS: usize = 250;
const SECRETS: usize = 10;
const BYTES: usize = 256;
/// The size of a field of the secret that has ten, in bytes.
const FIELD: usize = 32;

/// How many secrets a large vault may have.
const VAST: usize = 100_000;

pub async fn bench(factor: usize) -> Outcome<()> {
    let house = House::build("")?;
    let (ours, began) = (house.serve()?, Instant::now());
    let mut client = connect_when_ready(&house.socket()).await?;
    let ready = began.elapsed();
    sleep(Duration::from_millis(500)).await;
    let idle = resident(&ours)?;

    let requests = house.requests("small", PODS)?;
    let answer = client.mount(requests[0].clone()).await?.into_inner();
    assert_eq!((answer.files.len(), answer.files[0].contents.len()), (SECRETS, BYTES));

    let (floor, mut echo) = floor(house.folder.path(), &answer).await?;

    println!("10 files of 256 bytes, one connection, client on the same cores; floor: a bare tonic echo of the same bytes\n");
    println!("{:<44} {:>12} {:>12} {:>8}  wanted", "", "keyferry", "floor", "ratio");
    // Alternating rounds, so that a machine that changes its speed changes both.
    let (mut ours_p50, mut floor_p50) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        ours_p50.push(p50(&mut client, &requests[..1], 2_000 * factor).await?);
        floor_p50.push(p50(&mut echo, &requests[..1], 2_000 * factor).await?);
    }
    let (a, b) = (median(&mut ours_p50), median(&mut floor_p50));
    row("seen before, 1 in flight, p50", &micros(a), &micros(b), a / b, "<= 1.3");
    for in_flight in [16, 64] {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            ours.push(throughput(&client, &requests[..1], in_flight, 10_000 * factor).await?);
            floor.push(throughput(&echo, &requests[..1], in_flight, 10_000 * factor).await?);
        }
        let (a, b) = (median(&mut ours), median(&mut floor));
        row(
            &format!("seen before, {in_flight} in flight, mounts/s"),
            &format!("{a:.0}"),
            &format!("{b:.0}"),
            a / b,
            if in_flight == 16 { ">= 0.62" } else { "" },
        );
    }

    let (a, b) = first_sights(&house, &requests[0])?;
    row("first sight of 10 secrets (floor: 10 age decryptions)", &micros(a), &micros(b), a / b, "<= 1.2");

    let large = house.requests("large", 1)?;
    client.mount(large[0].clone()).await?;
    let (many, few) = (p50(&mut client, &large, 200).await? / 1000.0, p50(&mut client, &requests[..1], 2_000).await? / 10.0);
    row("1,000 secrets, each (floor: each of 10)", &micros(many), &micros(few), many / few, "<= 1");
    drop(floor);

    let busy = House::build("")?;
    let process = busy.serve()?;
    let client = connect_when_ready(&busy.socket()).await?;
    throughput(&client, &busy.requests("small", PODS)?, 16, PODS * 20 * factor).await?;
    let serving = resident(&process)?;
    if factor > 1 {
        busy.fill(VAST)?;
        let (vast, bare) = first_sights(&busy, &busy.requests("small", 1)?[0])?;
        row("first sight of 10 secrets among 100,000", &micros(vast), &micros(bare), vast / bare, "<= 1.2");
    }
    println!();
    plain("exec to socket ready", &format!("{:.1} ms", ready.as_secs_f64() * 1e3), "<= 50 ms");
    plain("idle RSS", &mib(idle), "<= 12 MiB");
    plain("RSS after 250 Pods x 10 secrets, 20 times", &mib(serving), "<= 25 MiB");
    plain("stripped binary", &mib(fs::metadata(env!("CARGO_BIN_EXE_keyferry"))?.len()), "<= 16 MiB");
    Ok(())
}

/// The medians of a mount and of its floor, ten bare decryptions. Each time every file is a new one that nobody has changed for a moment,
/// and the machine has been idle. So both sides start cold. The client runs on one thread, as the floor does: on an idle machine, one thread
/// takes 50 to 90 µs to wake another, and within the client this is not Keyferry's time.
fn first_sights(house: &House, request: &MountRequest) -> Outcome<(f64, f64)> {
    let (identity, mut ours, mut floor) = (house.identity()?, Vec::new(), Vec::new());
    let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measuring = async {
        let mut client = connect_when_ready(&house.socket()).await?;
        for _ in 0..41 {
            house.touch("small")?;
            sleep(Duration::from_millis(150)).await;
            let began = Instant::now();
            client.mount(request.clone()).await?;
            ours.push(began.elapsed().as_secs_f64());
            sleep(Duration::from_millis(150)).await;
            let began = Instant::now();
            house.decrypt(&identity)?;
            floor.push(began.elapsed().as_secs_f64());
        }
        Outcome::Ok((median(&mut ours), median(&mut floor)))
    };
    thread::scope(|scope| scope.spawn(move || one_thread.block_on(measuring)).join()).expect("it panicked")
}

/// A vault, a configuration and an issuer of tokens, in a temporary folder.
pub struct House {
    pub folder: tempfile::TempDir,
    issuer: Issuer,
}

impl House {
    /// `extra`: more lines of the configuration.
    pub fn build(extra: &str) -> Outcome<Self> {
        let house = Self { folder: tempfile::tempdir()?, issuer: Issuer::new(ISSUER)? };
        house.vault(&["init"], None)?;
        let value = "v".repeat(BYTES);
        for n in 0..SECRETS {
            house.vault(&["set", &format!("small/s{n}"), "value=-"], Some(&value))?;
        }
        for n in 0..1000 {
            house.vault(&["set", &format!("large/s{n}"), "value=-"], Some(&value))?;
        }
        let fields: Vec<String> = (0..SECRETS).map(|n| format!("field{n}={}", "v".repeat(FIELD))).collect();
        let set = ["set", "form/ten"].into_iter().chain(fields.iter().map(String::as_str));
        house.vault(&set.collect::<Vec<_>>(), None)?;
        fs::write(house.path("jwks.json"), house.issuer.jwks())?;
        let root = house.folder.path().display();
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\nallowedPeers: [{}]\nlog: {{ level: error }}\naudit: {{ file: {root}/audit.log }}\n\
             identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
             backends: {{ files: {{ kind: file, vault: {root}/vault, identity: {root}/age.key }} }}\n\
             policy:\n  - pods: {{ namespace: bench }}\n    read: [\"files/form/*\", \"files/small/*\", \"files/large/*\"]\nlimits: {{ objects: 2000 }}\n{extra}",
            rustix::process::geteuid().as_raw()
        );
        fs::write(house.path("keyferry.yaml"), config)?;
        Ok(house)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("sockets/keyferry.sock")
    }

    pub fn serve(&self) -> Outcome<Process> {
        let line = self.command();
        Ok(Process(Command::new(&line[0]).args(&line[1..]).stdout(Stdio::null()).spawn()?))
    }

    pub fn command(&self) -> Vec<String> {
        serve(&self.path("keyferry.yaml"))
    }

    fn vault(&self, arguments: &[&str], input: Option<&str>) -> Outcome<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry"));
        command.arg("vault").args(arguments).env("KEYFERRY_VAULT", self.path("vault")).env("KEYFERRY_IDENTITY", self.path("age.key"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        stdin.write_all(input.unwrap_or_default().as_bytes())?;
        drop(stdin);
        if child.wait()?.success() { Ok(()) } else { Err(format!("vault {arguments:?} failed").into()) }
    }

    /// Puts this many more secrets into the vault.
    fn fill(&self, count: usize) -> Outcome<()> {
        let vault = Vault::open_for_writing(self.path("vault"))?;
        let fields = [("value".parse()?, Field::of_bytes(SecretBytes::new(vec![b'v'; BYTES])))].into();
        for n in 0..count {
            vault.set(&format!("vast/{}/s{n}", n % 100).parse()?, &fields)?;
        }
        Ok(())
    }

    /// Makes every file of a folder look new, by putting a copy in its place.
    fn touch(&self, folder: &str) -> Outcome<()> {
        for entry in fs::read_dir(self.path("vault").join(folder))? {
            let path = entry?.path();
            let copy = path.with_extension("copy");
            fs::copy(&path, &copy)?;
            fs::rename(&copy, &path)?;
        }
        Ok(())
    }

    /// The key, as the age library takes it.
    fn identity(&self) -> Outcome<age::x25519::Identity> {
        let text = fs::read_to_string(self.path("age.key"))?;
        Ok(text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).ok_or("no key")?.parse()?)
    }

    /// Reads and decrypts the ten small secrets with the age library alone, one after another.
    fn decrypt(&self, identity: &age::x25519::Identity) -> Outcome<()> {
        for n in 0..SECRETS {
            let sealed = fs::read(self.path("vault").join(format!("small/s{n}.age")))?;
            let mut plain = Vec::new();
            age::Decryptor::new(&sealed[..])?.decrypt(std::iter::once(identity as &dyn age::Identity))?.read_to_end(&mut plain)?;
        }
        Ok(())
    }

    /// One request per Pod, each with a token of its own, for a class with every secret of a folder.
    pub fn requests(&self, folder: &str, pods: usize) -> Outcome<Vec<MountRequest>> {
        let count = if folder == "small" { SECRETS } else { 1000 };
        let objects: Vec<String> = (0..count).map(|n| format!("- secret: {folder}/s{n}\n  path: s{n}\n")).collect();
        let objects = objects.concat();
        (0..pods).map(|n| request(&self.issuer, &["keyferry"], n, &objects)).collect()
    }

    /// For a class with one secret of ten fields: delivered whole, and as what `object` makes of it.
    pub fn formed(&self, object: &str) -> Outcome<MountRequest> {
        request(&self.issuer, &["keyferry"], 0, &format!("- secret: form/ten\n  path: whole\n{object}"))
    }
}
