//! The disk of the sealed folder fails: Keyferry gives nothing from it, and readiness says so. All is well again when the disk is.
//!
//! The disk is a tmpfs in a mount namespace of a process of its own, in which the daemons run. Nobody outside sees it, and it is gone with that
//! process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{Outage, STALE, sealed};
use crate::bao::Proxy;
use crate::stores::Store;
use crate::support::{Provider, apart, eventually, keyferry, web};

/// A second secret.
const OTHER: &str = "- {secret: kv/data/shop/other, field: password, path: p}";

/// The process that has the disk.
struct Disk {
    keeper: Child,
    folder: PathBuf,
}

impl Disk {
    fn new(store: &Store, options: &str) -> Self {
        let folder = store.house.path("cache");
        fs::create_dir_all(&folder).unwrap();
        let mut command = apart("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["sh", "-c", "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && chmod 700 \"$0\" && echo mounted && exec sleep 1000"])
            .arg(&folder);
        let spawned = command.arg(options).stdout(Stdio::piped()).spawn();
        let mut keeper = spawned.expect("this test needs `unshare` (apt install util-linux)");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { keeper, folder }
    }

    /// A program that sees the disk.
    fn within(&self, program: &str) -> Command {
        let mut command = apart("nsenter");
        command.arg(format!("--target={}", self.keeper.id())).arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(program);
        command
    }

    fn remount(&self, how: &str) {
        let done = self.within("mount").args(["-o", &format!("remount,{how}")]).arg(&self.folder).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn seen(&self, path: &str) -> PathBuf {
        let inside = self.folder.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.keeper.id())).join(inside).join(path)
    }

    fn answers(&self) -> usize {
        fs::read_dir(self.seen("answers")).map_or(0, Iterator::count)
    }

    /// The disk has no room for one more file.
    fn fill(&self) {
        fs::create_dir_all(self.seen("filler")).unwrap();
        let made = (0..10_000).take_while(|n| fs::File::create(self.seen(&format!("filler/{n}"))).is_ok()).count();
        assert!(made < 10_000);
    }

    fn clear(&self) {
        fs::remove_dir_all(self.seen("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl Outage {
    async fn on(options: &str) -> (Self, Disk) {
        let store = Store::new().await;
        let proxy = Proxy::start(store.bao.address());
        store.configure(&store.bao.url_at(proxy.address), STALE, &sealed(&store));
        store.bao.put("kv", "shop/other", json!({ "password": "other" })).await;
        let disk = Disk::new(&store, options);
        let provider = store.house.serve_by(disk.within(keyferry().get_program().to_str().unwrap()));
        (Self { store, proxy, provider }, disk)
    }

    /// The daemon ends, in order or not, and another one starts.
    fn again_on(&mut self, disk: &Disk, end: Signal) {
        self.provider.signal(end);
        self.provider.wait();
        self.provider = self.store.house.serve_by(disk.within(keyferry().get_program().to_str().unwrap()));
    }

    async fn mount_other(&self) -> Result<String, String> {
        self.mount_with(&web(), &json!({ "objects": OTHER })).await
    }

    async fn is_unready(&self) -> bool {
        let ready = self.provider.get("/readyz").await;
        ready.contains("cache.sealed.dir: ") && ready.contains("Keyferry gives no answer from there") && !ready.starts_with("HTTP/1.1 200")
    }

    /// Keyferry gives nothing of the disk now.
    async fn gives_nothing(&self, what: &str) {
        let refused = self.mount(&web()).await;
        assert!(refused.as_ref().is_err_and(|message| message.starts_with("BackendUnavailable: ")), "{what}: {refused:?}");
    }

    /// Waits for what the daemon tries every 5 s.
    async fn is_well(&self, provider: &Provider) {
        let until = Instant::now() + Duration::from_secs(20);
        while provider.get("/readyz").await.contains("cache.sealed.dir") {
            assert!(Instant::now() < until, "{}", provider.log());
            sleep(Duration::from_millis(50)).await;
        }
        assert!(provider.log().contains("the sealed folder can be written again"), "{}", provider.log());
    }
}

#[tokio::test]
async fn a_disk_that_becomes_read_only() {
    let (mut outage, disk) = Outage::on("size=300m").await;
    let (good, other) = (Ok("correct horse".to_owned()), Ok("other".to_owned()));
    assert_eq!((outage.mount(&web()).await, outage.mount_other().await), (good.clone(), other.clone()));
    eventually("both are on the disk", async || disk.answers() == 2).await;
    outage.again_on(&disk, Signal::TERM);
    disk.remount("ro");
    // The daemon finds out when it must withdraw an answer. A denied Pod is denied all the same.
    outage.store.bao.must("DELETE", "kv/data/shop/other", Value::Null).await;
    assert!(outage.mount_other().await.unwrap_err().starts_with("SecretNotFound: "));
    assert!(outage.is_unready().await, "{}", outage.provider.get("/readyz").await);
    assert_eq!(disk.answers(), 2);
    outage.cut();
    outage.gives_nothing("what was removed may still be there").await;
    // A daemon that starts there.
    outage.again_on(&disk, Signal::TERM);
    assert!(outage.is_unready().await, "{}", outage.provider.get("/readyz").await);
    outage.gives_nothing("after a restart").await;
    disk.remount("rw");
    outage.is_well(&outage.provider).await;
    assert_eq!(outage.mount(&web()).await, good);
    assert_eq!(outage.last_object()["source"], "stale");
    disk.remount("ro");
    outage.repair();
    let refused = outage.ask(&web()).await;
    assert_eq!(refused, good, "the store itself needs no disk");
}

/// The daemon remembers what it could not withdraw, and withdraws it as soon as it can.
#[tokio::test]
async fn what_was_taken_back_on_a_bad_disk_goes_when_the_disk_is_well() {
    let (outage, disk) = Outage::on("size=300m").await;
    assert_eq!(outage.mount_other().await, Ok("other".to_owned()));
    eventually("it is on the disk", async || disk.answers() == 1).await;
    disk.remount("ro");
    outage.store.bao.must("DELETE", "kv/data/shop/other", Value::Null).await;
    assert!(outage.mount_other().await.unwrap_err().starts_with("SecretNotFound: "));
    assert_eq!(disk.answers(), 1);
    disk.remount("rw");
    outage.is_well(&outage.provider).await;
    assert_eq!(disk.answers(), 0);
}

#[tokio::test]
async fn a_disk_without_room_for_a_mark() {
    let (mut outage, disk) = Outage::on("size=300m,nr_inodes=100").await;
    let good = Ok("correct horse".to_owned());
    assert_eq!(outage.mount(&web()).await, good);
    eventually("it is on the disk", async || disk.answers() == 1).await;
    disk.fill();
    let bao = &outage.store.bao;
    bao.must("DELETE", "auth/jwt/role/csi", Value::Null).await;
    for accessor in bao.accessors().await {
        if bao.token_of(&accessor).await.is_some_and(|token| token["path"] == "auth/jwt/login") {
            bao.revoke_token(&accessor).await;
        }
    }
    let refused = outage.mount(&web()).await.unwrap_err();
    assert!(refused.starts_with("BackendLoginFailed: "), "{refused}");
    assert!(outage.is_unready().await, "{}", outage.provider.get("/readyz").await);
    outage.cut();
    outage.gives_nothing("its login is refused").await;
    // Without the mark, the next process does not know of the login. It cannot write, so it gives nothing.
    outage.again_on(&disk, Signal::KILL);
    assert!(outage.is_unready().await, "{}", outage.provider.get("/readyz").await);
    outage.gives_nothing("after a kill").await;
    outage.repair();
    let bao = &outage.store.bao;
    bao.jwt_role("jwt", "csi", "bao", json!({ "policies": ["csi"], "ttl": "1h" })).await;
    assert_eq!(outage.ask(&web()).await, good);
    disk.clear();
    outage.is_well(&outage.provider).await;
    outage.again_on(&disk, Signal::TERM);
    outage.cut();
    assert_eq!(outage.mount(&web()).await, good, "the login succeeded since");
}

/// A file is where the folder was: nobody can write there.
#[tokio::test]
async fn a_file_in_the_folders_place() {
    let mut outage = Outage::with(sealed).await;
    let good = Ok("correct horse".to_owned());
    let folder = outage.store.house.path("cache");
    assert_eq!(outage.mount(&web()).await, good);
    eventually("it is on the disk", async || fs::read_dir(folder.join("answers")).is_ok_and(|files| files.count() == 1)).await;
    outage.provider.signal(Signal::TERM);
    outage.provider.wait();
    outage.provider = outage.store.house.serve();
    let (room, away) = (folder.join("answers"), folder.join("away"));
    fs::rename(&room, &away).unwrap();
    fs::write(&room, "").unwrap();
    outage.store.bao.must("DELETE", "kv/data/shop/db", Value::Null).await;
    assert!(outage.mount(&web()).await.unwrap_err().starts_with("SecretNotFound: "));
    assert!(outage.is_unready().await, "{}", outage.provider.get("/readyz").await);
    outage.cut();
    outage.gives_nothing("a file is in the folder's place").await;
    fs::remove_file(&room).unwrap();
    fs::rename(&away, &room).unwrap();
    outage.is_well(&outage.provider).await;
    assert_eq!(fs::read_dir(&room).unwrap().count(), 0, "what was withdrawn is gone now");
}
