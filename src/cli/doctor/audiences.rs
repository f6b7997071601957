//! The tokens that kubelet sends with a mount: compares the ones that the CSIDriver object asks for with the ones that are needed.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::identity::Verify;
use crate::kube::{CsiDriver, KubeClient, KubeConfig};
use crate::model::{CSI_DRIVER, Diagnosis};

/// Looks at the CSIDriver object, if the API server allows it.
pub async fn examine(config: &Config) -> Vec<Diagnosis> {
    let wanted = wanted(config);
    if wanted.is_empty() {
        return vec![Diagnosis::ok(WHAT, "none is needed")];
    }
    match KubeConfig::in_cluster() {
        Ok(cluster) => ask(cluster, &wanted).await,
        Err(_) => vec![not_known(&wanted, "only a Pod can ask the API server")],
    }
}

const WHAT: &str = "token audiences";

/// Each audience, and the parts of the configuration that need it.
type Wanted = BTreeMap<String, Vec<String>>;

fn wanted(config: &Config) -> Wanted {
    let mut wanted = Wanted::new();
    if config.identity.verify != Verify::Driver {
        wanted.entry(config.identity.audience.clone()).or_default().push("identity".to_owned());
    }
    for (name, backend) in &config.backends {
        if let Some(audience) = backend.kind().facts().audience {
            wanted.entry(audience.text.to_owned()).or_default().push(format!("backend {name}"));
        }
    }
    wanted
}

pub(super) async fn ask(cluster: KubeConfig, wanted: &Wanted) -> Vec<Diagnosis> {
    let client = match KubeClient::new(cluster) {
        Ok(client) => client,
        Err(error) => return vec![not_known(wanted, &error.to_string())],
    };
    match client.csi_driver().await {
        Ok(Some(driver)) => held_against(&driver, wanted),
        Ok(None) => {
            let why = format!("there is no CSIDriver object {CSI_DRIVER}: the driver is not installed in this cluster");
            vec![Diagnosis::fail(WHAT, why, "install the Secrets Store CSI driver")]
        }
        Err(error) => vec![not_known(wanted, &error.what())],
    }
}

pub(super) fn held_against(driver: &CsiDriver, wanted: &Wanted) -> Vec<Diagnosis> {
    let asked: Vec<&str> = driver.token_requests.iter().map(|request| request.audience.as_str()).collect();
    let mut found: Vec<Diagnosis> = wanted
        .iter()
        .map(|(audience, by)| {
            let (what, by) = (format!("token audience {audience}"), by.join(", "));
            if asked.contains(&audience.as_str()) {
                return Diagnosis::ok(what, format!("the driver asks kubelet for it, and {by} needs it"));
            }
            // All providers share this list: its audiences stay.
            let all = asked.iter().copied().chain(wanted.keys().map(String::as_str).filter(|one| !asked.contains(one)));
            Diagnosis::fail(what, format!("the driver does not ask kubelet for it, and {by} needs it"), patch(all))
        })
        .collect();
    if !driver.pod_info_on_mount {
        let why = "podInfoOnMount is not true: kubelet does not say whose volume it is";
        found.push(Diagnosis::fail(
            format!("CSIDriver {CSI_DRIVER}"),
            why,
            "set it in the driver's manifest, then delete the object and create it again",
        ));
    }
    if !driver.requires_republish {
        let why = "requiresRepublish is not true: with driver 1.6.0 and newer, running Pods get no new secrets";
        let remedy = format!(
            "kubectl patch csidriver {CSI_DRIVER} --type=merge --patch='{{\"spec\":{{\"requiresRepublish\":true}}}}', or ignore this with older drivers"
        );
        found.push(Diagnosis::warn(format!("CSIDriver {CSI_DRIVER}"), why, remedy));
    }
    found
}

fn not_known(wanted: &Wanted, why: &str) -> Diagnosis {
    let listed: Vec<String> = wanted.iter().map(|(audience, by)| format!("{audience} ({})", by.join(", "))).collect();
    let remedy = format!(
        "check that the object has them, or let the daemon read it (`get` on csidrivers); if the object has no other audiences, run: {}",
        patch(wanted.keys().map(String::as_str))
    );
    Diagnosis::warn(WHAT, format!("not known: {why}. Needed in tokenRequests of {CSI_DRIVER}: {}", listed.join(", ")), remedy)
}

/// The command that makes the object ask for these audiences.
fn patch<'a>(audiences: impl Iterator<Item = &'a str>) -> String {
    let requests: Vec<_> = audiences.map(|audience| serde_json::json!({ "audience": audience })).collect();
    let spec = serde_json::json!({ "spec": { "tokenRequests": requests } });
    format!("kubectl patch csidriver {CSI_DRIVER} --type=merge --patch='{spec}'")
}
