//! Whether AWS could serve a mount now, and a look at it for `keyferry doctor`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::AwsBackend;
use super::endpoint::Service;
use super::role::is_account;
use crate::backend::remote::health::TIME;
use crate::backend::remote::refusal::Refusal;
use crate::backend::{FetchContext, Visitor};
use crate::model::{Diagnosis, Level, PodClaims, PodIdentity, PodTokens, SecretRef};

/// How long a look may take: a login is one more call.
const LOOK: Duration = Duration::from_secs(5);

/// Clocks with this difference in seconds are too far apart.
const FAR: i64 = 30;

impl AwsBackend {
    /// # Errors
    /// Neither service answers, or the daemon's own key is refused.
    pub(super) async fn ask_health(&self) -> Result<(), Refusal> {
        let deadline = Instant::now() + TIME;
        self.identities.check(deadline).await?;
        // A network may have a way to only one of them: the first that answers is enough.
        let (secrets, parameters) = (self.reach(Service::SecretsManager, deadline), self.reach(Service::Parameters, deadline));
        tokio::pin!(secrets, parameters);
        tokio::select! {
            found = &mut secrets => if found.is_ok() { found } else { parameters.await.or(found) },
            found = &mut parameters => if found.is_ok() { found } else { secrets.await },
        }
    }

    /// # Errors
    /// The service does not answer.
    pub(super) async fn reach(&self, service: Service, deadline: Instant) -> Result<(), Refusal> {
        self.core.wire.reach(service, deadline).await.map(drop)
    }

    /// A line for each check. The checks run together: one that gets no answer does not delay the others.
    pub(super) async fn examine(&self, visitor: Option<Visitor>) -> Vec<Diagnosis> {
        let (what, deadline) = (format!("backend {}", self.name), Instant::now() + LOOK);
        let (mut found, mut ahead) = (Vec::new(), None);
        let reach = |service| self.core.wire.reach(service, deadline);
        let (login, tokens) = (self.login(format!("{what}: login"), visitor, deadline), self.identities.reach(deadline));
        let (secrets, parameters, tokens, login) =
            tokio::join!(reach(Service::SecretsManager), reach(Service::Parameters), tokens, Box::pin(login));
        for (service, reached) in [(Service::SecretsManager, secrets), (Service::Parameters, parameters)] {
            let endpoint = self.core.config.endpoint(service);
            found.push(match reached {
                Ok(theirs) => {
                    ahead = ahead.or(theirs);
                    Diagnosis::ok(&what, format!("{} answers at {endpoint}", service.name()))
                }
                Err(refusal) => Diagnosis::of_error(Level::Warn, &what, refusal.for_admin()),
            });
        }
        if found.iter().all(|diagnosis| diagnosis.level == Level::Warn) {
            for diagnosis in &mut found {
                diagnosis.level = Level::Fail;
            }
        }
        // Without STS no Pod can log in.
        found.extend(tokens.map(|reached| match reached {
            Ok(()) => Diagnosis::ok(&what, format!("{} answers at {}", Service::Tokens.name(), self.core.config.endpoint(Service::Tokens))),
            Err(refusal) => Diagnosis::of_error(Level::Fail, &what, refusal.for_admin()),
        }));
        found.extend(ahead.map(|ahead| clock(format!("{what}: clock"), ahead)));
        found.push(login);
        found
    }

    async fn login(&self, what: String, visitor: Option<Visitor>, deadline: Instant) -> Diagnosis {
        match self.identities.check(deadline).await {
            Ok(Some(arn)) => self.assumed(what, &arn, deadline).await,
            Ok(None) => self.login_as_pod(what, visitor, deadline).await,
            Err(refusal) => Diagnosis::of_error(Level::Fail, what, refusal.for_admin()),
        }
    }

    /// AWS accepts the daemon's own key, whose owner this ARN names. Each role of `auth.assumeRole` must accept it as well.
    async fn assumed(&self, what: String, owner: &str, deadline: Instant) -> Diagnosis {
        let roles = &self.core.config.assume;
        let Some(last) = roles.last() else { return self.logged_in(what, format!("as {owner}"), owner) };
        if !roles.iter().all(|assume| assume.role.is_fixed()) {
            let why = format!("as {owner}; not tried: the roles of auth.assumeRole, which are different for each Pod");
            return Diagnosis::warn(what, why, "mount a class: if a role refuses, the message names it");
        }
        let nobody = PodClaims { namespace: String::new(), name: String::new(), uid: String::new(), service_account: String::new() };
        let tokens = Arc::new(PodTokens::new(BTreeMap::new()));
        let cx = FetchContext::new(Arc::new(PodIdentity::believed(&nobody)), tokens, deadline);
        let Ok(name) = "secretsmanager/x".parse() else { return Diagnosis::ok(what, format!("as {owner}")) };
        match self.identities.session(&SecretRef::read(self.name.clone(), name), &cx).await {
            Ok(_) => self.logged_in(what, format!("as {owner}, and then as {}", last.role), last.role.as_str()),
            Err(refusal) => Diagnosis::of_error(Level::Fail, what, refusal.for_admin()),
        }
    }

    /// `arn`: of the one who reads. AWS finds plain names in the account of that one.
    fn logged_in(&self, what: String, how: String, arn: &str) -> Diagnosis {
        let own = self.core.config.account.as_deref();
        let account = arn.split(':').nth(4).filter(|account| is_account(account) && own.is_some_and(|own| own != *account));
        let (Some(own), Some(account)) = (own, account) else { return Diagnosis::ok(what, how) };
        let why = format!("{how}, of the account {account}; but `account` of the backend is {own}, so Keyferry refuses every plain name");
        Diagnosis::warn(what, why, "correct `account`")
    }

    /// Tries the login of a given Pod.
    async fn login_as_pod(&self, what: String, visitor: Option<Visitor>, deadline: Instant) -> Diagnosis {
        let audience = self.core.config.audience().map_or("", |audience| audience.text);
        let not_tried = |why: String, remedy: String| Diagnosis::warn(&what, format!("not tried: {why}"), remedy);
        let Some(Visitor { pod, tokens }) = visitor else {
            let why = format!("this needs a Pod's token for the audience {audience}");
            return not_tried(why, format!("--token {audience}=FILE; keyferry doctor --help shows how to make one"));
        };
        let cx = FetchContext::new(Arc::new(pod), Arc::new(tokens), deadline);
        let Ok(name) = "secretsmanager/x".parse() else { return not_tried(String::new(), String::new()) };
        match self.identities.session(&SecretRef::read(self.name.clone(), name), &cx).await {
            Ok(session) => Diagnosis::ok(what, format!("as the Pod, with the access key {}", session.credentials().shown())),
            Err(refusal) => Diagnosis::of_error(Level::Fail, what, refusal.for_admin()),
        }
    }
}

/// AWS accepts a signature that is five minutes off. After a refusal, Keyferry signs by AWS's clock. For tokens of Pods there is no such
/// correction.
fn clock(what: String, ahead: i64) -> Diagnosis {
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let why = match ahead.abs() {
        // AWS gives whole seconds.
        0..=1 => "AWS's clock and this node's are the same to the second".to_owned(),
        apart => format!("AWS's clock is {apart} s {side} this node's"),
    };
    let remedy = "set this node's clock by NTP: AWS refuses what is signed for another time, and tokens seem expired";
    match ahead.abs() {
        0..=FAR => Diagnosis::ok(what, why),
        _ => Diagnosis::warn(what, why, remedy),
    }
}
