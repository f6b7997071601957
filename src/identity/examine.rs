//! A check of the base of proofs, for `keyferry doctor`: once, with nothing kept and nothing left running.

use std::path::Path;

use super::keysource::KeySource;
use super::keyurl::{API_SERVER_KEYS, download};
use super::{IdentityConfig, Keys, Verify, api_server, own_issuer};
use crate::kube::{KubeClient, KubeConfig};
use crate::model::{Diagnosis, Level, SecretBytes};

/// What to do if a check needs the daemon's own token, and the doctor does not run in the daemon's Pod.
const IN_THE_POD: &str = "run the doctor in the daemon's Pod: kubectl exec -n keyferry ds/keyferry -- /keyferry doctor";

/// Whether Keyferry could identify Pods now.
pub async fn examine(config: &IdentityConfig) -> Vec<Diagnosis> {
    match &config.verify {
        Verify::Driver => vec![Diagnosis::warn(
            "identity",
            "verify is driver: Keyferry believes what the driver says about a Pod, without proof",
            "set verify: jwks if kubelet can send tokens",
        )],
        Verify::Jwks { issuer, keys } => vec![of_issuer(issuer.as_deref(), keys), of_keys(keys).await],
        Verify::TokenReview => vec![of_review(&config.audience).await],
    }
}

fn of_issuer(issuer: Option<&str>, keys: &Keys) -> Diagnosis {
    let what = "identity: issuer";
    match issuer {
        Some(issuer) => Diagnosis::ok(what, issuer),
        None => match own_issuer(keys) {
            Ok(issuer) => Diagnosis::ok(what, format!("{issuer}, from the daemon's own token")),
            Err(problem) => unless_outside(what, &problem),
        },
    }
}

async fn of_keys(keys: &Keys) -> Diagnosis {
    let what = "identity: keys";
    match keys {
        Keys::File(file) => of_file(what, file.clone()).await,
        Keys::ApiServer => match api_server() {
            Ok(client) => of_address(what, &client, API_SERVER_KEYS).await,
            Err(problem) => unless_outside(what, &problem),
        },
        Keys::Url { url, ca, token } => {
            let config = KubeConfig { base: url.clone(), ca: ca.clone(), token: token.clone() };
            match KubeClient::new(config) {
                Ok(client) => of_address(what, &client, "").await,
                Err(error) => Diagnosis::of_error(Level::Fail, what, &error.to_string()),
            }
        }
    }
}

/// A file may be on a volume that hangs: so this runs on a thread that may block.
async fn of_file(what: &str, file: std::path::PathBuf) -> Diagnosis {
    let opened = tokio::task::spawn_blocking({
        let file = file.clone();
        move || KeySource::open(&file)
    });
    match opened.await {
        Ok(Ok(source)) => {
            let keys = source.recent().await.map_or(0, |keys| keys.iter().count());
            Diagnosis::ok(what, format!("{}: {}", file.display(), counted(keys)))
        }
        Ok(Err(problem)) => Diagnosis::of_error(Level::Fail, what, &problem),
        Err(_) => Diagnosis::fail(what, format!("{}: could not be read", file.display()), ""),
    }
}

async fn of_address(what: &str, client: &KubeClient, path: &str) -> Diagnosis {
    match download(client, path).await {
        Ok((_, keys)) => {
            let address = format!("{}{path}", client.config().base);
            match keys.emptiness() {
                Some(why) => Diagnosis::fail(what, format!("{address}: {why}"), "see what the issuer lists there"),
                None => Diagnosis::ok(what, format!("{address}: {}", counted(keys.iter().count()))),
            }
        }
        Err(problem) => Diagnosis::fail(what, problem.what, problem.remedy),
    }
}

/// Asks the API server about a text that is not a token: it answers "no", so the daemon may ask.
async fn of_review(audience: &str) -> Diagnosis {
    let what = "identity: token-review";
    let client = match api_server() {
        Ok(client) => client,
        Err(problem) => return unless_outside(what, &problem),
    };
    match client.review_token(&SecretBytes::new(b"doctor".to_vec()), audience).await {
        Ok(_) => Diagnosis::ok(what, format!("{} reviews tokens for the daemon", client.config().base)),
        Err(error) => Diagnosis::of_error(Level::Fail, what, &error.to_string()),
    }
}

/// Outside of the daemon's Pod it is not a fault that its files are missing.
fn unless_outside(what: &str, problem: &str) -> Diagnosis {
    if KubeConfig::in_cluster().is_err() && !Path::new("/var/run/secrets/kubernetes.io").exists() {
        return Diagnosis::warn(what, "not known: only the daemon's Pod can ask the API server as the daemon", IN_THE_POD);
    }
    Diagnosis::of_error(Level::Fail, what, problem)
}

fn counted(keys: usize) -> String {
    format!("{keys} {}", if keys == 1 { "key" } else { "keys" })
}
