//! The rights that `deploy/manifests` leaves the daemon are enough. Root without any capability serves a node's Pods. With two capabilities it
//! writes volumes whose files have owners.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use keyferry::delivery::volume::{Owner, VolumeFile, Written, write};
use keyferry::model::FileMode;

use super::support::{House, apart, keyferry, run, web};

/// Set in the confined child: the folder to write.
const INSIDE: &str = "KEYFERRY_TEST_CONFINED_IN";

/// Runs a program as root with these capabilities and no others, as a container runtime does. If need be, it is root only of a user namespace.
pub fn confined(program: &Path, capabilities: &str) -> Command {
    let drop_all = format!("-all{capabilities}");
    let setpriv = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--bounding-set"];
    let mut command = if is_root() {
        apart(setpriv[0])
    } else {
        let mut command = apart("unshare");
        command.args(["--user", "--map-root-user", setpriv[0]]);
        command
    };
    command.args(&setpriv[1..]).arg(drop_all).arg(program);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_without_a_capability_serves() {
    let house = House::new("allowedPeers: [0]");
    let mut daemon = confined(env!("CARGO_BIN_EXE_keyferry").as_ref(), "");
    daemon.arg("serve").arg("--config").arg(house.path("keyferry.yaml")).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon(daemon.spawn().expect("this test needs `setpriv` and `unshare` (apt install util-linux)"));
    let socket = house.path("sockets/keyferry.sock");
    let healthy = || run(confined(env!("CARGO_BIN_EXE_keyferry").as_ref(), "").arg("health").arg("--socket").arg(&socket), "").0 == 0;
    let is_up = (0..200).any(|_| {
        std::thread::park_timeout(Duration::from_millis(100));
        healthy()
    });
    assert!(is_up, "the probe of the manifests does not succeed");

    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!((line("CapEff:"), line("CapBnd:"), line("NoNewPrivs:")), ("0".repeat(16), "0".repeat(16), "1".to_owned()));

    let (pod, class) = (web(), house.path("class.yaml"));
    fs::write(house.path("token"), house.token(&pod, "keyferry")).unwrap();
    let objects = "[{ secret: shop/db, field: password }]";
    fs::write(
        &class,
        format!("kind: SecretProviderClass\napiVersion: secrets-store.csi.x-k8s.io/v1\nmetadata: {{ name: shop }}\nspec: {{ provider: keyferry, parameters: {{ objects: '{objects}' }} }}\n"),
    )
    .unwrap();
    let mut mount = keyferry();
    mount.arg("mount").arg("--socket").arg(&socket).arg("--class").arg(class).args(["--dry-run", "--namespace", &pod.namespace]);
    mount.args(["--pod", &pod.name, "--uid", &pod.uid, "--service-account", &pod.service_account]);
    let (code, out, err) = run(mount.arg(format!("--token=keyferry={}", house.path("token").display())), "");
    assert!(code == 0 && out.contains("password"), "{out}{err}");
}

#[test]
fn two_capabilities_write_files_of_other_owners_and_see_that_nothing_changed() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return write_twice(Path::new(&dir));
    }
    let dir = crate::folder::new();
    let test = std::env::current_exe().unwrap();
    let mut child = confined(&test, ",+chown,+dac_read_search");
    child.args(["--exact", "confined::two_capabilities_write_files_of_other_owners_and_see_that_nothing_changed", "--nocapture"]);
    let (code, out, err) = run(child.env(INSIDE, dir.path()), "");
    assert!(code == 0 && out.contains("1 passed"), "{out}{err}");
}

fn write_twice(dir: &Path) {
    // In a user namespace of one user there is no other owner.
    let id = if is_root() && fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") { 1000 } else { 0 };
    let (path, mode) = ("id".parse().unwrap(), "0400".parse::<FileMode>().unwrap());
    let put = |contents: &[u8]| {
        let file = VolumeFile { path: &path, mode, contents, owner: Some(Owner { uid: id, gid: id }) };
        write(fs::File::open(dir).unwrap(), &[file], Timestamp::UNIX_EPOCH).unwrap()
    };
    assert!(matches!(put(b"first"), Written::Changed));
    assert!(matches!(put(b"first"), Written::Unchanged), "the daemon could not read it again");
    assert!(matches!(put(b"second"), Written::Changed));
    let file = fs::metadata(dir.join("id")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777), (id, 0o400));
}
