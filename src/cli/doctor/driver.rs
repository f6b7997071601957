//! The Secrets Store CSI driver on this node, and kubelet's folder.
//!
//! The paths of the driver's sockets come from its manifests (deploy/secrets-store-csi-driver.yaml: `plugin-dir`, `registration-dir`) and from
//! its registrar, whose socket has the driver's name.

use std::fs;
use std::io;
use std::path::Path;

use tokio::time::{Duration, timeout};

use super::{plugin, rotation};
use crate::delivery::DeliveryMode;
use crate::kube::KubeConfig;
use crate::model::{CSI_DRIVER, Diagnosis};

/// Below kubelet's folder.
const PLUGIN: &str = "plugins/csi-secrets-store/csi.sock";
const REGISTRATIONS: &str = "plugins_registry";

/// A driver that is well answers at once.
const ANSWER: Duration = Duration::from_secs(3);

/// The remedy if the daemon's Pod does not see a part of the node.
const ON_THE_NODE: &str = "run the doctor on the node itself to see it";

/// Looks at kubelet's folder, and for the driver in it.
pub async fn examine(kubelet_dir: &Path, delivery: DeliveryMode) -> Vec<Diagnosis> {
    look(kubelet_dir, delivery, KubeConfig::in_cluster().is_ok()).await
}

pub(super) async fn look(kubelet_dir: &Path, delivery: DeliveryMode, in_pod: bool) -> Vec<Diagnosis> {
    let mut found = vec![kubelet(kubelet_dir, delivery, in_pod)];
    found.extend(driver(kubelet_dir, in_pod).await);
    found
}

fn kubelet(dir: &Path, delivery: DeliveryMode, in_pod: bool) -> Diagnosis {
    let what = format!("kubelet's folder {}", dir.display());
    let remedy =
        "kubeletDir must be kubelet's own folder: /var/lib/k0s/kubelet with k0s, /var/snap/microk8s/common/var/lib/kubelet with microk8s";
    match (fs::read_dir(dir.join("pods")), delivery) {
        (Ok(pods), _) => Diagnosis::ok(what, format!("is there (entries in pods/: {})", pods.count())),
        (Err(_), DeliveryMode::Driver) if in_pod => Diagnosis::warn(what, "not known: this Pod does not see its pods/", ON_THE_NODE),
        (Err(error), DeliveryMode::Driver) => Diagnosis::warn(what, format!("pods/: {error}"), remedy),
        (Err(error), DeliveryMode::Provider) => {
            Diagnosis::fail(what, format!("pods/: {error}, so Keyferry cannot write volumes (delivery: provider)"), remedy)
        }
    }
}

async fn driver(dir: &Path, in_pod: bool) -> Vec<Diagnosis> {
    let (what, socket, registrations) = ("driver", dir.join(PLUGIN), dir.join(REGISTRATIONS));
    if in_pod && !dir.join("plugins").exists() {
        let why = format!("not known: this Pod does not see {}", socket.display());
        return vec![Diagnosis::warn(what, why, ON_THE_NODE), rotation::not_known("this Pod does not see the driver's process")];
    }
    let answer = timeout(ANSWER, plugin::info(&socket)).await;
    let answer =
        answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", ANSWER.as_secs()))));
    match answer {
        Ok(info) if !is_registered(&registrations, &info.name) => {
            let why = format!(
                "{} answers, but is not registered with kubelet: there is no {}-reg.sock in {}",
                named(&info),
                info.name,
                registrations.display()
            );
            vec![Diagnosis::fail(what, why, "see the log of the driver's container node-driver-registrar")]
        }
        Ok(info) => {
            let answers = Diagnosis::ok(what, format!("{} answers, and is registered with kubelet", named(&info)));
            vec![answers, rotation::examine(&socket, &info.version).await]
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => absent(what, &socket, &registrations),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            vec![Diagnosis::warn(what, format!("not known: {}: {error}", socket.display()), "run the doctor as root")]
        }
        Err(error) => {
            let why = format!("{}: does not answer: {error}", socket.display());
            vec![Diagnosis::fail(what, why, "see the state of the driver's Pod on this node, and its log")]
        }
    }
}

/// Some distributions put the driver's socket elsewhere. kubelet's list still has it.
fn absent(what: &str, socket: &Path, registrations: &Path) -> Vec<Diagnosis> {
    if is_registered(registrations, CSI_DRIVER) {
        let why = format!("{CSI_DRIVER} is registered with kubelet; its version is not known: there is no {}", socket.display());
        return vec![Diagnosis::ok(what, why), rotation::not_known("the driver's socket is elsewhere")];
    }
    let why = format!("is not on this node: neither {} nor {CSI_DRIVER}-reg.sock in {}", socket.display(), registrations.display());
    vec![Diagnosis::fail(what, why, "install the Secrets Store CSI driver; if it is installed, kubeletDir must be kubelet's own folder")]
}

fn is_registered(registrations: &Path, name: &str) -> bool {
    registrations.join(format!("{name}-reg.sock")).exists()
}

fn named(info: &plugin::Info) -> String {
    format!("{} {}", info.name, info.version)
}
