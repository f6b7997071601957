//! Leave to fetch. Apart, so that even policy's other parts make it in one place.

use std::sync::{Arc, Weak};

use crate::model::{Plan, PodIdentity, SecretRef};

/// What was decided of a plan, for all Pods of one ServiceAccount: each of its secrets is allowed by a rule. It holds as long as the policy
/// that decided it. Only [`PodRules::grant`](super::PodRules::grant) makes one.
#[derive(Debug)]
pub struct Granted {
    namespace: Arc<str>,
    service_account: Arc<str>,
    /// While this is here, no other plan has its address.
    plan: Weak<Plan>,
    /// Beside the plan's secrets: the number of the rule that allows each.
    rules: Vec<usize>,
}

/// Leave to fetch the secrets of one plan for one Pod.
#[derive(Clone, Debug)]
pub struct Permits {
    pod: Arc<PodIdentity>,
    plan: Arc<Plan>,
    granted: Arc<Granted>,
}

// === impl Granted ===

impl Granted {
    pub(super) fn new(pod: &PodIdentity, plan: &Arc<Plan>, rules: Vec<usize>) -> Arc<Self> {
        let (namespace, service_account) = (Arc::clone(&pod.namespace), Arc::clone(&pod.service_account));
        Arc::new(Self { namespace, service_account, plan: Arc::downgrade(plan), rules })
    }

    /// For one Pod. `None`: what was decided is of another plan, or for another ServiceAccount.
    pub fn permits(self: Arc<Self>, pod: &Arc<PodIdentity>, plan: &Arc<Plan>) -> Option<Permits> {
        let is_theirs = self.namespace == pod.namespace && self.service_account == pod.service_account;
        let fits = is_theirs && Weak::as_ptr(&self.plan) == Arc::as_ptr(plan);
        fits.then(|| Permits { pod: Arc::clone(pod), plan: Arc::clone(plan), granted: self })
    }

    /// About what it costs to keep, in bytes.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 512;
        FIXED + 2 * (self.namespace.len() + self.service_account.len()) + self.rules.len() * size_of::<usize>()
    }
}

// === impl Permits ===

/// Secrets are named by their places in the plan.
impl Permits {
    pub fn pod(&self) -> &Arc<PodIdentity> {
        &self.pod
    }

    /// What it is that they permit.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn secrets(&self) -> &[SecretRef] {
        &self.plan.secrets
    }

    pub fn secret(&self, place: usize) -> &SecretRef {
        &self.plan.secrets[place]
    }

    /// The number of the rule that allowed it.
    pub fn rule(&self, place: usize) -> usize {
        self.granted.rules[place]
    }

    /// Those of all secrets.
    pub fn rules(&self) -> &[usize] {
        &self.granted.rules
    }
}
