//! A file system that never answers. A store looks like this if its network is gone.
//!
//! It is FUSE without anybody behind it, in a mount namespace of the provider's own. Nobody outside sees it, and it is gone with the provider.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{House, Provider, apart, keyferry};

/// Secrets under this name hang when they are read.
pub const SLOW: &str = "shop/slow";

impl House {
    /// Starts the daemon where reading a secret under [`SLOW`] never ends.
    pub fn serve_hanging(&self) -> Provider {
        self.serve_hanging_at(&self.path("vault").join(SLOW))
    }

    /// The daemon's program where reading below [`SLOW`] never ends.
    pub fn hanging_command(&self) -> Command {
        hanging_command_at(&self.path("vault").join(SLOW))
    }

    /// Starts the daemon where looking at anything in this folder never ends.
    pub fn serve_hanging_at(&self, place: &Path) -> Provider {
        self.serve_by(hanging_command_at(place))
    }
}

fn hanging_command_at(place: &Path) -> Command {
    fs::create_dir_all(place).unwrap();
    let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    assert!(fuse.is_ok(), "this test needs /dev/fuse, read-write (modprobe fuse; run as root, or chmod 666 /dev/fuse): {fuse:?}");
    let mut command = apart("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    let script = "exec 3<>/dev/fuse; mount -i -n -t fuse -o fd=3,rootmode=40000,user_id=$(id -u),group_id=$(id -g) hang \"$0\" || exit 3; \
                  exec \"$@\"";
    command.args(["sh", "-c", script]).arg(place).arg(keyferry().get_program());
    command
}

/// A class of one object that hangs.
pub fn hanging(number: usize) -> String {
    format!("- secret: {SLOW}/{number}\n")
}
