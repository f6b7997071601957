//! The role that a ServiceAccount's annotation names, as the EKS tools write it there: read from the API server once for all Pods of the
//! ServiceAccount, and again after a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

use crate::backend::Fault;
use crate::backend::remote::refusal::Refusal;
use crate::backend::remote::slot::{Pass, Slots, Standing};
use crate::backend::store::aws::role;
use crate::kube::{KubeClient, KubeConfig, ServiceAccountError};
use crate::model::{Account, PodIdentity, quoted};

const ANNOTATION: &str = "eks.amazonaws.com/role-arn";

/// How long an annotation is believed, and how long it serves where the API server cannot be asked.
const FRESH: Duration = Duration::from_mins(10);
const KEPT: Duration = Duration::from_hours(1);

/// The most ServiceAccounts that are remembered, fewer where their names are long; and what one weighs besides its words.
pub(super) const MAX_NOTED: usize = 4_096;
pub(super) const NOTED: usize = 512;

/// The annotations of this cluster's ServiceAccounts.
#[derive(Debug)]
pub(super) struct Annotations {
    /// Or why there is none.
    kube: Result<KubeClient, String>,
    noted: Mutex<Slots<Account, Noted>>,
}

/// The role of a ServiceAccount.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) role: String,
    at: Instant,
    doubted: AtomicBool,
}

// === impl Annotations ===

impl Annotations {
    /// Of the cluster that this process runs in. Outside of a cluster, only a Pod that needs an annotation gets an error: a class may name
    /// its role.
    pub(super) fn in_cluster() -> Self {
        let client = |config| KubeClient::new(config).map_err(|error| error.to_string());
        Self::of(KubeConfig::in_cluster().and_then(client))
    }

    pub(super) fn of(kube: Result<KubeClient, String>) -> Self {
        Self { kube, noted: Mutex::new(Slots::of_bytes(MAX_NOTED * NOTED)) }
    }

    /// The role of the Pod's ServiceAccount.
    ///
    /// # Errors
    /// It has none, it is not the one that the Pod's token is for, or the API server does not say.
    pub(super) async fn role(&self, pod: &PodIdentity, deadline: Instant) -> Result<Arc<Noted>, Refusal> {
        let Some(account) = pod.proven_account() else {
            let reason = format!(
                "{}: nothing proves which one it is (set identity.verify to jwks or token-review, or `role` in the class)",
                shown(pod)
            );
            return Err(Refusal::new(Fault::Unauthenticated, reason));
        };
        let weight = NOTED + 2 * (account.namespace.len() + account.name.len());
        let (slot, _) = self.lock().enter(&pod.namespace, account, &pod.uid, weight);
        slot.enter(None, &pod.uid, deadline, async { Box::pin(self.read(pod)).await }).await
    }

    pub(super) fn forget(&self, pod: &str) {
        let gone = self.lock().forget(pod);
        drop(gone);
    }

    async fn read(&self, pod: &PodIdentity) -> Result<Arc<Noted>, Refusal> {
        let unasked = |fault, problem: String| {
            let reason = format!("{}: its annotation {ANNOTATION}, which names its role, cannot be read: {problem}", shown(pod));
            Refusal::new(fault, reason)
        };
        let kube = self
            .kube
            .as_ref()
            .map_err(|problem| unasked(Fault::Unhelpful, format!("{problem} (name a `role` in the class, or auth.role of the backend)")))?;
        let found = kube.service_account(&pod.namespace, &pod.service_account).await.map_err(|error| match &error {
            // It is the API server that is out, and not the store.
            ServiceAccountError::Passing(_) => unasked(Fault::NoLogin, error.to_string()),
            ServiceAccountError::Wrong(_) => unasked(Fault::Unhelpful, error.to_string()),
        })?;
        let refused = |problem: String| Err(Refusal::new(Fault::Unauthenticated, format!("{}: {problem}", shown(pod))));
        let Some(found) = found else { return refused("there is no such ServiceAccount (any more)".to_owned()) };
        if pod.service_account_uid.as_deref() != Some(found.uid.as_str()) {
            return refused("it was made again after the Pod's token was (restart the Pod)".to_owned());
        }
        let Some(role) = found.annotations.get(ANNOTATION).map(|role| role.trim()).filter(|role| !role.is_empty()) else {
            return refused(format!(
                "no role is known for it (kubectl annotate serviceaccount -n {} {} {ANNOTATION}=arn:aws:iam::111122223333:role/..., or name a \
                 `role` in the class)",
                pod.namespace, pod.service_account
            ));
        };
        if let Err(problem) = role::check(role) {
            return refused(format!("its annotation {ANNOTATION}: {} {problem}", quoted(role)));
        }
        Ok(Arc::new(Noted { role: role.to_owned(), at: Instant::now(), doubted: AtomicBool::new(false) }))
    }

    /// The same API server, and nothing noted.
    #[cfg(test)]
    pub(super) fn again(&self) -> Self {
        Self::of(self.kube.clone())
    }

    /// What all weigh, and those of a namespace.
    #[cfg(test)]
    pub(super) fn weights(&self, namespace: &str) -> (usize, usize) {
        let noted = self.lock();
        (noted.weight(), noted.weight_of(namespace))
    }

    /// A panic elsewhere cannot leave it half-changed: each step is one call of a map's.
    fn lock(&self) -> MutexGuard<'_, Slots<Account, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(pod: &PodIdentity) -> String {
    format!("ServiceAccount {}/{}", pod.namespace, pod.service_account)
}

// === impl Noted ===

impl Noted {
    /// AWS refused this role: the next one reads the annotation again.
    pub(super) fn doubt(&self) {
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
