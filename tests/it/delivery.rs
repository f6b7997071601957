//! `delivery: provider`: the real binary writes the volumes itself, on real tmpfs mounts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyferry::model::PodClaims;
use keyferry::server::proto::{MountRequest, MountResponse};
use tokio::runtime::Runtime;
use tonic::Status;

use crate::support::{House, Provider, apart, keyferry, mount, pod, run, tmpfs, web, with_mounts};

/// A node: a provider that writes volumes itself, and the kubelet's folder.
pub struct Node {
    pub house: House,
    pub kubelet: PathBuf,
    pub runtime: Runtime,
}

impl Node {
    pub fn new(dir: &Path, extra: &str) -> Self {
        let kubelet = dir.join("kubelet");
        fs::create_dir_all(kubelet.join("pods")).unwrap();
        let house = House::new(&format!("delivery: provider\nkubeletDir: {}\n{extra}", kubelet.display()));
        Self { house, kubelet, runtime: Runtime::new().unwrap() }
    }

    /// A node with a provider that serves, and a volume of that size for the Pod `web`.
    pub fn serving(dir: &Path, extra: &str, size: &str) -> (Self, PathBuf, Provider) {
        let node = Self::new(dir, extra);
        let volume = node.volume(&web(), &format!("size={size}"));
        let provider = node.house.serve();
        (node, volume, provider)
    }

    pub fn target(&self, pod: &PodClaims) -> PathBuf {
        self.kubelet.join("pods").join(&pod.uid).join("volumes/kubernetes.io~csi/secrets/mount")
    }

    /// What the driver does before it calls: a tmpfs at the target.
    pub fn volume(&self, pod: &PodClaims, options: &str) -> PathBuf {
        tmpfs(&self.target(pod), options)
    }

    pub fn request(&self, pod: &PodClaims, objects: &str) -> MountRequest {
        MountRequest { target_path: self.target(pod).display().to_string(), ..self.house.request(pod, objects) }
    }

    pub fn mount(&self, provider: &Provider, objects: &str) -> Result<MountResponse, Status> {
        self.runtime.block_on(provider.mount(self.request(&web(), objects)))
    }

    /// The message of a mount that fails, without this test's folders.
    fn refusal(&self, provider: &Provider, objects: &str) -> String {
        let error = self.mount(provider, objects).unwrap_err();
        format!("{:?} {}", error.code(), error.message()).replace(self.kubelet.to_str().unwrap(), "KUBELET")
    }
}

/// What a Pod sees: `path mode owner contents`. A link that leads nowhere does not exist: a write may be going on.
pub fn seen(volume: &Path) -> Vec<String> {
    fn look(path: &Path, shown: &str, seen: &mut Vec<String>) {
        let Ok(found) = fs::metadata(path) else { return };
        if found.is_dir() {
            for name in names(path) {
                look(&path.join(&name), &format!("{shown}/{name}"), seen);
            }
        } else if let Ok(text) = fs::read_to_string(path) {
            seen.push(format!("{shown} {:04o} {}:{} {text}", found.mode() & 0o7777, found.uid(), found.gid()));
        }
    }
    let mut found = Vec::new();
    for name in names(volume).iter().filter(|name| !name.starts_with("..")) {
        look(&volume.join(name), name, &mut found);
    }
    found
}

pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The state of a folder that a write would change.
fn stamp(volume: &Path) -> (i64, i64, i64, PathBuf) {
    let found = fs::metadata(volume).unwrap();
    (found.mtime(), found.mtime_nsec(), found.ctime_nsec(), fs::read_link(volume.join("..data")).unwrap())
}

/// A user namespace of an ordinary user maps one user alone, as 0.
pub fn other_id() -> u32 {
    if fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") { 1000 } else { 0 }
}

const PASSWORD: &str = "- { secret: shop/db, field: password, path: db/password, mode: 0400 }";

#[test]
fn a_volume_from_first_mount_to_empty() {
    with_mounts("delivery::a_volume_from_first_mount_to_empty", |dir| {
        let (node, volume, provider) = Node::serving(dir, "", "1m");
        let both = format!("{PASSWORD}\n- {{ secret: shop/db, field: username, path: user }}");

        let answer = node.mount(&provider, &both).unwrap();
        assert!(answer.files.is_empty(), "the driver leaves the volume alone");
        assert_eq!(
            answer.object_version.iter().map(|one| (one.id.as_str(), one.version.as_str())).collect::<Vec<_>>(),
            [("files/shop/db", "1")]
        );
        assert_eq!(seen(&volume), ["db/password 0400 0:0 correct horse", "user 0644 0:0 app"]);

        let before = stamp(&volume);
        assert!(node.mount(&provider, &both).unwrap().files.is_empty());
        assert_eq!(stamp(&volume), before, "nothing is written when nothing changed");

        node.house.vault(&["set", "shop/db", "username=app", "password=new"]);
        assert_eq!(node.mount(&provider, &both).unwrap().object_version[0].version, "2");
        assert_eq!(seen(&volume), ["db/password 0400 0:0 new", "user 0644 0:0 app"]);

        node.mount(&provider, &both.replace("0400", "0440")).unwrap();
        assert_eq!(seen(&volume), ["db/password 0440 0:0 new", "user 0644 0:0 app"], "the mode alone");

        let id = other_id();
        let owned = both.replace("mode: 0400", &format!("mode: 0400, owner: \"{id}:{id}\""));
        node.mount(&provider, &owned).unwrap();
        assert_eq!(seen(&volume)[0], format!("db/password 0400 {id}:{id} new"), "mode and owner");
        let before = stamp(&volume);
        node.mount(&provider, &owned).unwrap();
        assert_eq!(stamp(&volume), before, "another's file is compared too");
        node.mount(&provider, &both).unwrap();
        assert_eq!(seen(&volume)[0], "db/password 0400 0:0 new", "the owner alone");

        node.mount(&provider, PASSWORD).unwrap();
        assert_eq!(seen(&volume), ["db/password 0400 0:0 new"], "what the class does not name any more is gone");

        let answer = node.mount(&provider, "[]").unwrap();
        assert_eq!((answer.files.len(), answer.object_version.len(), answer.object_version[0].id.as_str()), (0, 1, ".keyferry"));
        assert_eq!(seen(&volume), [""; 0]);
        assert_eq!(names(&volume).len(), 2, "..data and an empty folder: {:?}", names(&volume));

        // A driver that mounts again, as after a failed first mount, finds the volume filled again.
        let status = apart("umount").arg(&volume).status().unwrap();
        assert!(status.success(), "nothing of ours keeps the volume busy");
        tmpfs(&volume, "size=1m");
        node.mount(&provider, PASSWORD).unwrap();
        assert_eq!(seen(&volume), ["db/password 0400 0:0 new"]);
        assert_eq!(provider.stop().code(), Some(0));
    });
}

/// The real list of mounts, and a real restart.
/// A provider that was here before may have written its files itself, as AWS's does. The Pod runs on and must get changes from now on.
#[test]
fn a_running_pods_volume_is_taken_over_from_another_provider() {
    with_mounts("delivery::a_running_pods_volume_is_taken_over_from_another_provider", |dir| {
        let (node, volume, provider) = Node::serving(dir, "", "1m");
        fs::create_dir(volume.join("db")).unwrap();
        for (path, text) in [("db/password", "old"), ("user", "old"), ("withdrawn", "old")] {
            fs::write(volume.join(path), text).unwrap();
        }
        let both = format!("{PASSWORD}\n- {{ secret: shop/db, field: username, path: user }}");
        node.mount(&provider, &both).unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let expected = |user: &str| {
            let password = format!("db/password 0400 {uid}:{gid} correct horse");
            vec![password, format!("user 0644 {uid}:{gid} {user}"), format!("withdrawn 0644 {uid}:{gid} old")]
        };
        assert_eq!(seen(&volume), expected("app"));
        node.house.set("shop/db", &[("username", b"changed"), ("password", b"correct horse")]);
        node.mount(&provider, &both).unwrap();
        assert_eq!(seen(&volume), expected("changed"));
    });
}

#[test]
fn own_volumes_have_their_part_of_the_memory() {
    with_mounts("delivery::own_volumes_have_their_part_of_the_memory", |dir| {
        let node = Node::new(dir, "limits: { memory: 256MiB, volumeBytes: 320KiB }");
        node.house.vault(&["set", "shop/big", &format!("value={}", "x".repeat(50_000))]);
        let big = "- { secret: shop/big, field: value, path: big }";
        let on = |provider: &Provider, pod: &PodClaims, objects: &str| {
            node.runtime.block_on(provider.mount(node.request(pod, objects))).map(drop).map_err(|error| error.message().to_owned())
        };
        let (old, new) = (web(), pod("shop", "new", "web"));
        let (there, next) = (node.volume(&old, "size=1m"), node.volume(&new, "size=1m"));
        let provider = node.house.serve();
        on(&provider, &old, big).unwrap();
        insta::assert_snapshot!(on(&provider, &new, big).unwrap_err(), @"TooLarge: target_path: cannot write the volume: it needs 120 KiB of limits.volumeBytes, and its namespace cannot have that much now (the former files stay: deliver fewer files, stop Pods of the namespace on this node, or ask for a higher limits.volumeBytes)");
        assert_eq!(names(&next).len(), 0);
        node.house.vault(&["set", "shop/big", &format!("value={}", "y".repeat(50_000))]);
        on(&provider, &old, big).unwrap();
        on(&provider, &new, PASSWORD).unwrap();

        // Pages of a former process are still there.
        provider.stop();
        let provider = node.house.serve();
        assert!(on(&provider, &new, big).is_err());
        assert_eq!(seen(&next), ["db/password 0400 0:0 correct horse"]);
        on(&provider, &old, big).unwrap();
        assert!(apart("umount").arg(&there).status().unwrap().success());
        node.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1100)).await });
        on(&provider, &new, big).unwrap();
        assert_eq!(names(&next).len(), 3);
    });
}

#[test]
fn only_the_pods_own_tmpfs_is_written() {
    with_mounts("delivery::only_the_pods_own_tmpfs_is_written", |dir| {
        let node = Node::new(dir, "");
        let provider = node.house.serve();
        let target = node.target(&web());
        let holder = target.parent().unwrap();
        let refusal = || node.refusal(&provider, PASSWORD);

        insta::assert_snapshot!(refusal(), @"InvalidArgument InvalidRequest: target_path: cannot open KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount: No such file or directory (os error 2) (is `kubeletDir` mounted into the provider, with mount propagation HostToContainer?)");
        fs::create_dir_all(&target).unwrap();
        insta::assert_snapshot!(refusal(), @"InvalidArgument InvalidRequest: target_path: nothing is mounted at KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount (the driver mounts a tmpfs there first)");
        mount(&["--rbind", "/proc", target.to_str().unwrap()]);
        insta::assert_snapshot!(refusal(), @"InvalidArgument InvalidRequest: target_path: KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount is not in memory (a secret must not touch a disk; the driver mounts a tmpfs there first)");
        mount(&["-t", "tmpfs", "-o", "ro", "tmpfs", target.to_str().unwrap()]);
        insta::assert_snapshot!(refusal().replace(|c: char| c.is_ascii_digit(), "0"), @"InvalidArgument InvalidRequest: target_path: cannot make the folder ..0000_00_00_00_00_00.000000000k in the volume: Read-only file system (os error 00) (the volume is mounted read-only: mount it read-write for its writer)");

        // Links, in place of the target and on the way to it.
        let other = node.volume(&pod("shop", "other", "web"), "size=1m");
        let elsewhere = holder.with_file_name("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        symlink(&other, elsewhere.join("mount")).unwrap();
        symlink(other.parent().unwrap(), holder.with_file_name("linked")).unwrap();
        for name in ["elsewhere", "linked"] {
            let mut request = node.request(&web(), PASSWORD);
            request.target_path = holder.with_file_name(name).join("mount").display().to_string();
            let error = node.runtime.block_on(provider.mount(request)).unwrap_err();
            let message = error.message().replace(node.kubelet.to_str().unwrap(), "KUBELET").replace(name, "NAME");
            insta::allow_duplicates! {
                insta::assert_snapshot!(message, @"InvalidRequest: target_path: cannot open KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/NAME/mount: Too many levels of symbolic links (os error 40) (a link or a file is there instead of a folder; Keyferry follows no link)");
            }
        }

        // Another Pod's volume, and paths of other shapes.
        let mut messages = Vec::new();
        let kubelet = node.kubelet.display();
        for wrong in [
            other.display().to_string(),
            format!("{kubelet}/pods/{}/volumes/kubernetes.io~empty-dir/secrets/mount", web().uid),
            format!("{kubelet}/plugins/secrets"),
            format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/secrets/mount", web().uid),
            "/etc/cron.d".to_owned(),
        ] {
            let request = MountRequest { target_path: wrong, ..node.request(&web(), PASSWORD) };
            let error = node.runtime.block_on(provider.mount(request)).unwrap_err();
            messages.push(format!("{:?} {}", error.code(), error.message()).replace(&kubelet.to_string(), "KUBELET"));
        }
        insta::assert_snapshot!(messages.join("\n"), @r#"
        InvalidArgument InvalidRequest: target_path: is a volume of the Pod with the uid "uid-shop-other", but csi.storage.k8s.io/pod.uid is "uid-shop-web-0" (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
        InvalidArgument InvalidRequest: target_path: KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~empty-dir/secrets/mount is not of the form KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/<volume>/mount (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)
        InvalidArgument InvalidRequest: target_path: KUBELET/plugins/secrets is not of the form KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/<volume>/mount (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)
        InvalidArgument InvalidRequest: target_path: /var/lib/kubelet/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount is not of the form KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/<volume>/mount (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)
        InvalidArgument InvalidRequest: target_path: /etc/cron.d is not of the form KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/<volume>/mount (Keyferry writes only this Pod's own CSI volumes; is `kubeletDir` right?)
        "#);
        assert_eq!(names(&other).len(), 0, "the other Pod's volume was never touched");

        // A wrong call does no harm to the next one.
        node.volume(&web(), "size=1m");
        node.mount(&provider, PASSWORD).unwrap();

        provider.stop();
        // The audit has all of it as what it is. Keyferry found out about the read-only one after its line that says "delivered".
        let (delivered, failed): (Vec<_>, Vec<_>) = node.house.audit().into_iter().partition(|line| line["outcome"] == "delivered");
        assert_eq!(delivered.len(), 2);
        assert_eq!(failed.len(), 11, "each has its line");
        assert!(failed.iter().all(|line| line["code"] == "InvalidRequest"), "{failed:?}");
        let outcome = |line: &serde_json::Value| line["objects"][0]["outcome"].clone();
        assert_eq!(failed.iter().map(outcome).filter(|outcome| outcome == "failed").count(), 1);
    });
}

#[test]
fn the_drivers_word_is_enough_for_the_pods_own_volume_alone() {
    with_mounts("delivery::the_drivers_word_is_enough_for_the_pods_own_volume_alone", |dir| {
        let node = Node::new(dir, "identity: { verify: driver }");
        let (volume, other) = (node.volume(&web(), "size=1m"), node.volume(&pod("shop", "other", "web"), "size=1m"));
        let provider = node.house.serve();
        node.mount(&provider, PASSWORD).unwrap();
        assert_eq!(seen(&volume).len(), 1);
        let request = MountRequest { target_path: other.display().to_string(), ..node.request(&web(), PASSWORD) };
        assert!(node.runtime.block_on(provider.mount(request)).is_err());
        assert_eq!(names(&other).len(), 0);
    });
}

#[test]
fn a_full_volume_keeps_its_files_and_says_so_twice() {
    with_mounts("delivery::a_full_volume_keeps_its_files_and_says_so_twice", |dir| {
        let (node, volume, provider) = Node::serving(dir, "", "64k");
        node.mount(&provider, PASSWORD).unwrap();
        node.house.vault(&["set", "--replace", "shop/db", &format!("password={}", "x".repeat(100_000))]);
        insta::assert_snapshot!(node.refusal(&provider, PASSWORD), @"FailedPrecondition TooLarge: target_path: cannot write db/password in the volume: No space left on device (os error 28) (the former files stay; the volume's file system is full: give it more room, or deliver less)");
        assert_eq!(seen(&volume), ["db/password 0400 0:0 correct horse"]);
        assert_eq!(names(&volume).len(), 3, "the unfinished write is cleaned: {:?}", names(&volume));
        node.house.vault(&["set", "--replace", "shop/db", "password=small"]);
        node.mount(&provider, PASSWORD).unwrap();
        assert_eq!(seen(&volume), ["db/password 0400 0:0 small"]);

        // The line before the write, and the line that corrects it.
        provider.stop();
        let lines: Vec<String> = (node.house.audit().iter())
            .map(|line| format!("{} {} {} {}", line["outcome"], line["code"], line["objects"][0]["outcome"], line["objects"][0]["version"]))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        "delivered" null "delivered" "1"
        "delivered" null "delivered" "2"
        "failed" "TooLarge" "failed" "2"
        "delivered" null "delivered" "3"
        "#);
        let audit = node.house.audit();
        assert_eq!(audit[1]["request"], audit[2]["request"]);
    });
}

#[test]
fn without_its_audit_line_nothing_is_written() {
    with_mounts("delivery::without_its_audit_line_nothing_is_written", |dir| {
        let (node, volume, provider) = Node::serving(dir, "audit: { file: /dev/full, failClosed: true }", "1m");
        let refusal = node.refusal(&provider, PASSWORD);
        assert!(refusal.starts_with("FailedPrecondition AuditUnavailable: "), "{refusal}");
        assert_eq!(names(&volume).len(), 0);
    });
}

#[test]
fn mounts_of_one_volume_wait_for_each_other() {
    with_mounts("delivery::mounts_of_one_volume_wait_for_each_other", |dir| {
        let (node, volume, provider) = Node::serving(dir, "", "8m");
        let classes = [PASSWORD.to_owned(), format!("{PASSWORD}\n- {{ secret: shop/db, field: username }}")];
        let answers = node.runtime.block_on(async {
            let client = provider.client().await;
            let calls = (0..60).map(|n| {
                let (mut client, request) = (client.clone(), node.request(&web(), &classes[n % 2]));
                async move { client.mount(request).await }
            });
            futures_util::future::join_all(calls).await
        });
        for answer in answers {
            answer.unwrap();
        }
        let found = seen(&volume);
        assert!(found.len() == 1 || found.len() == 2, "{found:?}");
        assert_eq!(names(&volume).len(), found.len() + 2, "{:?}", names(&volume));
    });
}

#[test]
fn the_documented_capabilities_are_enough() {
    with_mounts("delivery::the_documented_capabilities_are_enough", |dir| {
        if other_id() == 0 {
            return; // an ordinary user's namespace has no second user to give a file to
        }
        let node = Node::new(dir, "");
        let volume = node.volume(&web(), "size=1m,mode=0755");
        let confined = |capabilities: &str| {
            let mut command = apart("setpriv");
            command.arg(format!("--bounding-set=-all{capabilities}")).args(["--inh-caps=-all", env!("CARGO_BIN_EXE_keyferry")]);
            node.house.serve_by(command)
        };
        let owned = "- { secret: shop/db, field: password, mode: 0400, owner: \"1000:2000\" }";
        let provider = confined("");
        node.mount(&provider, PASSWORD).unwrap();
        node.mount(&provider, PASSWORD).unwrap();
        insta::assert_snapshot!(node.refusal(&provider, owned), @"InvalidArgument InvalidRequest: target_path: cannot set the owner of password in the volume: Operation not permitted (os error 1) (to change a file's owner, Keyferry needs the capability CHOWN; see docs/delivery.md)");
        assert_eq!(seen(&volume), ["db/password 0400 0:0 correct horse"]);
        provider.stop();

        let provider = confined(",+chown,+dac_read_search");
        node.mount(&provider, owned).unwrap();
        assert_eq!(seen(&volume), ["password 0400 1000:2000 correct horse"]);
        let before = stamp(&volume);
        node.mount(&provider, owned).unwrap();
        assert_eq!(stamp(&volume), before);
        node.mount(&provider, PASSWORD).unwrap();
        assert_eq!(seen(&volume), ["db/password 0400 0:0 correct horse"]);
    });
}

#[test]
fn an_owner_is_for_the_daemon_to_give() {
    let runtime = Runtime::new().unwrap();
    let house = House::new("");
    let provider = house.serve();
    let objects = "- { secret: shop/db, owner: \"1000:1000\" }\n- { secret: shop/db, path: b, owner: app }";
    let error = runtime.block_on(provider.mount(house.request(&web(), objects))).unwrap_err();
    insta::assert_snapshot!(error.message(), @r#"InvalidRequest: object 1 (db): owner: works with `delivery: provider` only: on this node the driver writes the files, and they belong to root (remove it, and let others read the file with `mode`); object 2 (b): owner: "app" is not an owner: an owner is the user's and the group's number, such as "1000:1000" (write both numbers, in quotes)"#);
}

#[test]
fn a_missing_kubelet_folder_is_said_at_once() {
    let house = House::new("delivery: provider\nkubeletDir: /nonexistent/kubelet");
    let log = house.serve().log();
    assert!(log.contains("/nonexistent/kubelet/pods: No such file or directory (os error 2) (is kubeletDir right,"), "{log}");
}

/// A volume changes between two secrets: each file of a generation has its number.
struct Generations;

impl Generations {
    const FIELDS: usize = 40;

    /// Stores both.
    fn store(node: &Node) {
        for generation in 0..2 {
            let file = node.house.path("value");
            fs::write(&file, format!("{generation}{}", "x".repeat(3000))).unwrap();
            let fields: Vec<String> = (0..Self::FIELDS).map(|n| format!("f{n}=@{}", file.display())).collect();
            let name = format!("shop/many{generation}");
            let mut arguments = vec!["set", name.as_str()];
            arguments.extend(fields.iter().map(String::as_str));
            node.house.vault(&arguments);
        }
    }

    fn class(generation: usize) -> String {
        let secret = format!("secret: shop/many{generation}");
        format!("- {{ {secret}, fields: \"*\", path: many/ }}\n- {{ {secret}, field: f0, path: top }}")
    }

    /// The one generation that all files in force belong to; `None` if another came into force during the look.
    fn seen(volume: &Path) -> Option<usize> {
        let pointed = || fs::read_link(volume.join("..data"));
        let name = pointed().ok()?;
        let mut generations = BTreeSet::new();
        for file in (0..Self::FIELDS).map(|n| format!("many/f{n}")).chain(["top".to_owned()]) {
            match fs::read_to_string(volume.join(&name).join(&file)) {
                Ok(text) => {
                    assert_eq!(text.len(), 3001, "{file} is cut short");
                    generations.insert(text[..1].parse::<usize>().unwrap());
                }
                Err(error) => {
                    assert_ne!(pointed().unwrap(), name, "{file}: {error}, in the folder that is in force");
                    return None;
                }
            }
        }
        assert_eq!(generations.len(), 1, "generations are mixed");
        generations.pop_first()
    }
}

/// Waits until a writer has begun in a volume that holds `before` names, and then a little; or until the call has ended.
fn until_writing<T>(volume: &Path, before: usize, call: &tokio::task::JoinHandle<T>, little: u32) {
    while !call.is_finished() && names(volume).len() <= before {}
    (0..little).for_each(|_| drop(fs::symlink_metadata(volume)));
}

/// The daemon dies a hundred times in the middle of a write, while a Pod reads: it sees one generation, whole, each time.
#[test]
fn kill_nine_in_the_middle_of_a_write_leaves_one_generation_whole() {
    with_mounts("delivery::kill_nine_in_the_middle_of_a_write_leaves_one_generation_whole", |dir| {
        let node = Node::new(dir, "");
        let volume = node.volume(&web(), "size=8m");
        Generations::store(&node);
        node.mount(&node.house.serve(), &Generations::class(0)).unwrap();
        let tidy = names(&volume).len();

        let stop = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (volume, stop) = (volume.clone(), Arc::clone(&stop));
            move || {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    reads += usize::from(Generations::seen(&volume).is_some());
                    std::thread::park_timeout(Duration::from_micros(500));
                }
                reads
            }
        });
        let (mut in_force, mut interrupted, mut switched) = (0, 0, 0);
        for round in 0..100 {
            let wished = 1 - in_force;
            let mut provider = node.house.serve();
            let before = names(&volume).len();
            let (request, mut client) = (node.request(&web(), &Generations::class(wished)), node.runtime.block_on(provider.client()));
            let call = node.runtime.spawn(async move { client.mount(request).await });
            until_writing(&volume, tidy.max(before), &call, round * 3);
            provider.signal(rustix::process::Signal::KILL);
            assert_eq!(provider.wait().signal(), Some(9));
            let answered = node.runtime.block_on(call).unwrap().is_ok();
            interrupted += u32::from(names(&volume).len() > tidy);
            let found = Generations::seen(&volume).unwrap();
            assert!(!answered || found == wished, "answered, but not delivered");
            switched += u32::from(found == wished);
            in_force = found;
        }
        stop.store(true, Ordering::Relaxed);
        println!(
            "{interrupted} of 100 kills left something half done, after {switched} the new files were in force; {} reads",
            reader.join().unwrap()
        );
        assert!(interrupted >= 3, "{interrupted}: the kills did not hit the writes");
        node.mount(&node.house.serve(), &Generations::class(1 - in_force)).unwrap();
        assert_eq!(Generations::seen(&volume), Some(1 - in_force));
        assert_eq!(names(&volume).len(), tidy, "swept: {:?}", names(&volume));
    });
}

/// A volume that is unmounted while Keyferry writes: the mount fails or has ended, and Keyferry never writes to what is below.
#[test]
fn a_volume_that_goes_in_the_middle_harms_nobody() {
    with_mounts("delivery::a_volume_that_goes_in_the_middle_harms_nobody", |dir| {
        let node = Node::new(dir, "");
        let volume = node.volume(&web(), "size=8m");
        Generations::store(&node);
        let provider = node.house.serve();
        let mut failures = BTreeSet::new();
        for round in 0..60 {
            let (request, mut client) = (node.request(&web(), &Generations::class(round % 2)), node.runtime.block_on(provider.client()));
            let call = node.runtime.spawn(async move { client.mount(request).await });
            // To start a process takes about as long as a mount: either may be first.
            let mut umount = apart("umount").arg("--lazy").arg(&volume).spawn().unwrap();
            assert!(umount.wait().unwrap().success());
            if let Err(error) = node.runtime.block_on(call).unwrap() {
                failures.insert(format!("{:?} {}", error.code(), error.message()).replace(volume.to_str().unwrap(), "TARGET"));
            }
            assert_eq!(names(&volume).len(), 0, "written to the folder below the mount");
            tmpfs(&volume, "size=8m");
        }
        println!("{failures:#?}");
        assert!(failures.iter().all(|failure| failure.starts_with("InvalidArgument InvalidRequest: target_path: ")), "{failures:?}");
        node.mount(&provider, &Generations::class(1)).unwrap();
        assert_eq!(Generations::seen(&volume), Some(1));
    });
}

#[test]
fn keyferry_mount_says_where_the_provider_wrote() {
    with_mounts("delivery::keyferry_mount_says_where_the_provider_wrote", |dir| {
        let node = Node::new(dir, "");
        let provider = node.house.serve();
        let token = node.house.path("token");
        fs::write(&token, node.house.token(&web(), "keyferry")).unwrap();
        let class = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: { name: shop }\n\
                     spec:\n  provider: keyferry\n  parameters:\n    objects: |\n      - { secret: shop/db, field: password, mode: 0400 }\n";
        let mount = |more: &[&str]| {
            let PodClaims { namespace, name, uid, service_account } = web();
            let mut command = keyferry();
            command.arg("mount").arg("--socket").arg(&provider.socket).args(["--class", "-", "--namespace", &namespace, "--pod", &name]);
            command.args(["--uid", &uid, "--service-account", &service_account, "--token"]).arg(format!("keyferry={}", token.display()));
            command.arg("--kubelet-dir").arg(&node.kubelet).args(more);
            let (code, out, err) = run(&mut command, class);
            format!("exit {code}\n{out}{err}").replace(node.kubelet.to_str().unwrap(), "KUBELET").replace(dir.to_str().unwrap(), "DIR")
        };
        let target = dir.join("target");
        insta::assert_snapshot!(mount(&["--target", target.to_str().unwrap()]), @"
        exit 1
        error: rpc error: code = InvalidArgument desc = InvalidRequest: target_path: cannot open KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount: No such file or directory (os error 2) (is `kubeletDir` mounted into the provider, with mount propagation HostToContainer?)
        ");
        let volume = node.volume(&web(), "size=1m");
        insta::assert_snapshot!(mount(&["--dry-run"]), @"
        exit 0
        The answer has no files: to the driver this means that the provider wrote the volume itself, in KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount, and the driver changes nothing there.

        Its objects:
        OBJECT         VERSION
        files/shop/db  1
        ");
        insta::assert_snapshot!(mount(&["--target", target.to_str().unwrap()]), @"
        exit 0
        The answer has no files: to the driver this means that the provider wrote the volume itself, in KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount, and the driver changes nothing there.

        Its objects:
        OBJECT         VERSION
        files/shop/db  1
        ");
        insta::assert_snapshot!(mount(&["--target", target.to_str().unwrap(), "--output", "json"]), @r#"
        exit 0
        {
          "written": "provider",
          "target": "KUBELET/pods/uid-shop-web-0/volumes/kubernetes.io~csi/secrets/mount",
          "files": [],
          "objects": [
            {
              "id": "files/shop/db",
              "version": "1"
            }
          ]
        }
        "#);
        assert!(!target.exists());
        assert_eq!(seen(&volume), ["password 0400 0:0 correct horse"]);
    });
}
