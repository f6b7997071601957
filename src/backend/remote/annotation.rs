//! What an annotation of a Pod's ServiceAccount says about its login, as the tools of a cloud write it. Keyferry reads it from the API
//! server once for all Pods of the ServiceAccount, and again after a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use super::refusal::Refusal;
use super::slot::{Pass, Slots, Standing};
use crate::backend::Fault;
use crate::kube::{KubeClient, KubeConfig, ServiceAccountError};
use crate::model::{Account, PodIdentity, quoted};

/// How long an annotation counts as current, and how long it is used if the API server cannot be asked.
const FRESH: Duration = Duration::from_mins(10);
const KEPT: Duration = Duration::from_hours(1);

/// The most ServiceAccounts that are remembered (fewer if their names are long), and the bytes that one counts for besides its texts.
pub(in crate::backend) const MAX_NOTED: usize = 4_096;
pub(in crate::backend) const NOTED: usize = 512;

/// An annotation, in the words of the store that it is for.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Annotation {
    pub(in crate::backend) key: &'static str,
    /// What it names: `role`.
    pub(in crate::backend) names: &'static str,
    pub(in crate::backend) example: &'static str,
    /// What a class can say instead, and what the configuration can say instead.
    pub(in crate::backend) in_class: &'static str,
    pub(in crate::backend) in_configuration: &'static str,
    /// Checks the value. The error says why it cannot be right.
    pub(in crate::backend) check: fn(&str) -> Result<(), String>,
}

/// One annotation of this cluster's ServiceAccounts.
#[derive(Debug)]
pub(in crate::backend) struct Annotations {
    annotation: Annotation,
    /// Or why there is no client.
    kube: Result<KubeClient, String>,
    noted: Mutex<Slots<Account, Noted>>,
}

/// The annotation of a ServiceAccount.
#[derive(Debug)]
pub(in crate::backend) struct Noted {
    pub(in crate::backend) value: String,
    at: Instant,
    doubted: AtomicBool,
}

// === impl Annotations ===

impl Annotations {
    /// For the cluster that this process runs in. Outside of a cluster, only a Pod that needs an annotation gets an error: a class may name
    /// the role instead.
    pub(in crate::backend) fn in_cluster(annotation: Annotation) -> Self {
        let client = |config| KubeClient::new(config).map_err(|error| error.to_string());
        Self::of(annotation, KubeConfig::in_cluster().and_then(client))
    }

    pub(in crate::backend) fn of(annotation: Annotation, kube: Result<KubeClient, String>) -> Self {
        Self { annotation, kube, noted: Mutex::new(Slots::of_bytes(MAX_NOTED * NOTED)) }
    }

    /// The annotation of the Pod's ServiceAccount.
    ///
    /// # Errors
    /// The ServiceAccount has no annotation, or is not the one that the Pod's token is for, or the API server does not answer.
    pub(in crate::backend) async fn of_pod(&self, pod: &PodIdentity, deadline: Instant) -> Result<Arc<Noted>, Refusal> {
        let Some(account) = pod.proven_account() else {
            let reason = format!(
                "{}: no verified token shows which one it is (set identity.verify to jwks or token-review, or {})",
                shown(pod),
                self.annotation.in_class
            );
            return Err(Refusal::new(Fault::Unauthenticated, reason));
        };
        let weight = NOTED + 2 * (account.namespace.len() + account.name.len());
        let (slot, _) = self.lock().enter(&pod.namespace, account, &pod.uid, weight);
        slot.enter(None, &pod.uid, deadline, async { Box::pin(self.read(pod)).await }).await
    }

    pub(in crate::backend) fn forget(&self, pod: &str) {
        let gone = self.lock().forget(pod);
        drop(gone);
    }

    async fn read(&self, pod: &PodIdentity) -> Result<Arc<Noted>, Refusal> {
        let Annotation { key, names, example, in_class, in_configuration, check } = self.annotation;
        let unasked = |fault, problem: String| {
            let reason = format!("{}: its annotation {key}, which names its {names}, cannot be read: {problem}", shown(pod));
            Refusal::new(fault, reason)
        };
        let kube =
            self.kube.as_ref().map_err(|problem| unasked(Fault::Unhelpful, format!("{problem} ({in_class}, or {in_configuration})")))?;
        let found = kube.service_account(&pod.namespace, &pod.service_account).await.map_err(|error| match &error {
            // The API server is down, not the store.
            ServiceAccountError::Passing(_) => unasked(Fault::NoLogin, error.to_string()),
            ServiceAccountError::Wrong(_) => unasked(Fault::Unhelpful, error.to_string()),
        })?;
        let refused = |problem: String| Err(Refusal::new(Fault::Unauthenticated, format!("{}: {problem}", shown(pod))));
        let Some(found) = found else { return refused("there is no such ServiceAccount (any more)".to_owned()) };
        if pod.service_account_uid.as_deref() != Some(found.uid.as_str()) {
            return refused("it was deleted and made again after the Pod got its token (restart the Pod)".to_owned());
        }
        let Some(value) = found.annotations.get(key).map(|value| value.trim()).filter(|value| !value.is_empty()) else {
            return refused(format!(
                "no {names} is known for it (kubectl annotate serviceaccount -n {} {} {key}={example}, or {in_class})",
                pod.namespace, pod.service_account
            ));
        };
        if let Err(problem) = check(value) {
            return refused(format!("its annotation {key}: {} {problem}", quoted(value)));
        }
        Ok(Arc::new(Noted { value: value.to_owned(), at: Instant::now(), doubted: AtomicBool::new(false) }))
    }

    /// With the same API server, and without remembered annotations.
    #[cfg(test)]
    pub(in crate::backend) fn again(&self) -> Self {
        Self::of(self.annotation, self.kube.clone())
    }

    /// The weight of all, and of those of a namespace.
    #[cfg(test)]
    pub(in crate::backend) fn weights(&self, namespace: &str) -> (usize, usize) {
        let noted = self.lock();
        (noted.weight(), noted.weight_of(namespace))
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one call of a map's method.
    fn lock(&self) -> MutexGuard<'_, Slots<Account, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(pod: &PodIdentity) -> String {
    format!("ServiceAccount {}/{}", pod.namespace, pod.service_account)
}

// === impl Noted ===

impl Noted {
    /// The store refused the role that it names: the next request reads the annotation again.
    pub(in crate::backend) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }
}

impl Pass for Noted {
    const REMEMBERED: Duration = Duration::from_secs(2);

    fn standing(&self) -> Standing {
        match self.at.elapsed() {
            _ if self.doubted.load(Ordering::Relaxed) => Standing::Spent,
            age if age < FRESH => Standing::Fresh,
            age if age < KEPT => Standing::Due,
            _ => Standing::Spent,
        }
    }
}
