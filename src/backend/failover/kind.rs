//! What is known of a failover before it is opened: what its members know, if both know the same.

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;

use super::config::{FailoverConfig, Member};
use super::{Denials, Failover};
use crate::backend::{Backend, BackendError, Facts, HangsOn, Inadmissible, Kind, StoreLimits, Visitor};
use crate::clock::Clock;
use crate::model::{BackendName, Diagnosis, InvalidName, Level, Login, LoginKey, Method, RefParts, SecretName, Version};
use crate::policy::Bounds;

#[async_trait]
impl Kind for FailoverConfig {
    fn facts(&self) -> Facts<'_> {
        let [first, _] = &self.members;
        let Facts { dialects, bounds, ending, firsts, updates, version, .. } = first.config.kind().facts();
        let members = self.members.iter().map(|member| member.name.clone()).collect();
        Facts { dialects, bounds: Bounds { members, ..bounds }, ending, firsts, updates, version, ..Facts::default() }
    }

    /// It keeps nothing itself.
    fn hangs_on(&self) -> HangsOn {
        self.members.iter().fold(HangsOn::default().and("kind", "failover"), |all, member| all.and("of", &member.name))
    }

    /// Members are of one kind, and in one namespace.
    fn canonical(&self, name: &str) -> Result<SecretName, InvalidName> {
        self.first().canonical(name)
    }

    fn pin(&self, _: &str) -> Result<Version, String> {
        let [first, second] = self.names();
        Err(format!(
            "cannot be pinned in a failover: {first} and {second} each count their own versions (remove it; or name one of them as \
             the backend)"
        ))
    }

    /// The request must mean the same to both members. Parts of the login that both configurations set are left out. If only one of them sets a
    /// part, it is kept, and left out when that member is asked.
    fn admit(&self, asked: RefParts) -> Result<RefParts, Inadmissible> {
        for key in [LoginKey::Address, LoginKey::Tls] {
            if asked.login.said().iter().any(|(said, _)| *said == key) {
                let [first, second] = self.names();
                let problem = format!("a failover has the two addresses of {first} and {second}, so a class cannot choose one (remove it)");
                return Err(Inadmissible::Login { key, problem });
            }
        }
        if asked.method == Method::Get && asked.args.has("version") {
            let problem = "have a version, but the members of a failover each count their own versions (remove it)".to_owned();
            return Err(Inadmissible::Request { key: "args", problem });
        }
        let admitted = |member: &Member| member.config.kind().admit(RefParts { backend: member.name.clone(), ..asked.clone() });
        let [first, second] = self.members.each_ref().map(admitted);
        let (first, second) = (first?, second?);
        Ok(RefParts { backend: asked.backend, login: joined(first.login, second.login), ..first })
    }

    /// Only its members, without the decorators around them: the registry builds a failover above their stacks.
    fn open(&self, name: &BackendName, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Backend>, BackendError> {
        let [first, second] = self.members.each_ref().map(|member| member.config.kind().open(&member.name, limits, clock));
        let (members, answered) = ([first?, second?], [Counter::default(), Counter::default()]);
        Ok(Arc::new(Failover::new(name, self.clone(), members, Denials::new(name, limits.remembered, None), answered)))
    }

    /// Each member is examined separately. Here it is whether one of them could serve the failover's mounts.
    async fn examine(
        &self,
        name: &BackendName,
        limits: StoreLimits,
        clock: &Arc<dyn Clock>,
        _: Option<Visitor>,
    ) -> Result<Vec<Diagnosis>, BackendError> {
        let [first, second] = &self.members;
        let (what, [one, other]) = (format!("backend {name}"), self.names());
        let found = tokio::join!(first.look(limits, clock), second.look(limits, clock));
        let diagnosis = match found {
            (Ok(()), Ok(())) => Diagnosis::ok(what, format!("{one} answers, and {other} answers too, for when {one} is out")),
            (Ok(()), Err(error)) => {
                Diagnosis::of_error(Level::Warn, what, &format!("{other} could not replace {one}: {}", error.reason_in_full()))
            }
            (Err(error), Ok(())) => {
                Diagnosis::of_error(Level::Warn, what, &format!("{other} answers mounts in place of {one}: {}", error.reason_in_full()))
            }
            (Err(first), Err(second)) => {
                let words = format!("{one}: {}; {other}: {}", first.reason_in_full(), second.reason_in_full());
                Diagnosis::of_error(Level::Fail, what, &words)
            }
        };
        Ok(vec![diagnosis])
    }
}

impl FailoverConfig {
    fn first(&self) -> &dyn Kind {
        let [first, _] = &self.members;
        first.config.kind()
    }

    pub(in crate::backend) fn names(&self) -> [&BackendName; 2] {
        self.members.each_ref().map(|member| &member.name)
    }
}

impl Member {
    async fn look(&self, limits: StoreLimits, clock: &Arc<dyn Clock>) -> Result<(), BackendError> {
        self.config.kind().open(&self.name, limits, clock)?.check().await
    }
}

/// The parts that either login sets. If both set one, it is the same: what the class has set.
fn joined(one: Login, other: Login) -> Login {
    Login {
        address: one.address.or(other.address),
        audience: one.audience.or(other.audience),
        mount: one.mount.or(other.mount),
        namespace: one.namespace.or(other.namespace),
        role: one.role.or(other.role),
        tls: one.tls.or(other.tls),
    }
}
