//! Permits to fetch. They are in a separate file, so that even the policy's other parts make them only here.

use std::sync::{Arc, Weak};

use crate::model::{Plan, PodIdentity, SecretRef};

/// The policy's decision on a plan, for all Pods of one ServiceAccount: a rule allows each of its secrets. It is valid as long as the
/// policy that made it. Only [`PodRules::grant`](super::PodRules::grant) makes one.
#[derive(Debug)]
pub struct Granted {
    namespace: Arc<str>,
    service_account: Arc<str>,
    /// While this exists, no other plan can have its address.
    plan: Weak<Plan>,
    /// In the order of the plan's secrets: the number of the rule that allows each.
    rules: Vec<usize>,
}

/// The permit to fetch the secrets of one plan for one Pod.
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

    /// For one Pod. `None`: the decision is about another plan, or for another ServiceAccount.
    pub fn permits(self: Arc<Self>, pod: &Arc<PodIdentity>, plan: &Arc<Plan>) -> Option<Permits> {
        let is_theirs = self.namespace == pod.namespace && self.service_account == pod.service_account;
        let fits = is_theirs && Weak::as_ptr(&self.plan) == Arc::as_ptr(plan);
        fits.then(|| Permits { pod: Arc::clone(pod), plan: Arc::clone(plan), granted: self })
    }

    /// About how many bytes it needs.
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

    /// The plan that they are for.
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

    /// The rules of all secrets.
    pub fn rules(&self) -> &[usize] {
        &self.granted.rules
    }
}
