//! Asks AWS for secrets, with a login: one by one, or several at once. It compares each answer with what was asked for.

use tokio::time::Instant;

use super::config::AwsConfig;
use super::content;
use super::endpoint::Service;
use super::error::{Said, identified};
use super::identity::Session;
use super::name::Named;
use super::parameters;
use super::pin::Pin;
use super::role::is_account;
use super::secretsmanager::{self as secrets, Answered};
use super::wire::{Call, Reply, Wire};
use crate::backend::remote::refusal::Refusal;
use crate::backend::{Fault, FetchContext};
use crate::budget::Payer;
use crate::model::{Secret, SecretName, SecretRef, Tenant, Version, clean};

/// The part that is the same for all who ask.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: AwsConfig,
    pub(super) wire: Wire,
    /// The most bytes that the fields of one secret may hold.
    pub(super) max_secret_bytes: usize,
}

/// One secret that is asked for, and by whom.
pub(super) struct Asked {
    pub(super) name: SecretName,
    pub(super) service: Service,
    /// The name as it is sent, without the pinned version.
    pub(super) id: String,
    pub(super) pin: Option<Pin>,
    pub(super) on: Account,
}

/// Who pays for a call.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) tenant: Tenant,
    pub(super) payer: Option<Payer>,
    pub(super) deadline: Instant,
}

// === impl Account ===

impl Account {
    pub(super) fn of(cx: &FetchContext) -> Self {
        Self { tenant: cx.tenant(), payer: cx.payer.clone(), deadline: cx.deadline }
    }
}

// === impl Asked ===

impl Asked {
    /// # Errors
    /// The name is not in the backend's own spelling.
    pub(super) fn of(config: &AwsConfig, secret: &SecretRef, cx: &FetchContext) -> Result<Self, Refusal> {
        let foreign = || Refusal::new(Fault::Invalid, "the name does not belong to this backend (write secretsmanager/NAME or ssm/NAME)");
        let named = Named::of(&secret.name).ok_or_else(foreign)?;
        let pin = secret.version.as_ref().map(|version| Pin::of(named.service, version.as_str())).transpose();
        let pin = pin.map_err(|problem| Refusal::new(Fault::Invalid, format!("version: {problem}")))?;
        Ok(Self { name: secret.name.clone(), service: named.service, id: named.id(config), pin, on: Account::of(cx) })
    }

    /// As it is sent.
    pub(super) fn sent(&self) -> String {
        parameters::selected(&self.id, self.pin.as_ref())
    }

    /// A batch of secrets has the latest version of each. For parameters, the version is in the name.
    pub(super) fn can_be_batched(&self) -> bool {
        self.service == Service::Parameters || self.pin.is_none()
    }

    fn is(&self, config: &AwsConfig, name: &str, arn: Option<&str>) -> bool {
        Named::of(&self.name).is_some_and(|named| named.is(config, &self.id, name, arn))
    }
}

// === impl Core ===

impl Core {
    async fn call(
        &self,
        service: Service,
        operation: &'static str,
        body: String,
        session: &Session,
        on: &Account,
    ) -> Result<Reply, Refusal> {
        let credentials = session.credentials();
        let Account { tenant, payer, deadline } = on;
        let payer = payer.clone();
        self.wire.call(Call { service, operation, body, credentials: &credentials, tenant, payer, deadline: *deadline }).await
    }

    /// Reads one secret with its own call.
    ///
    /// # Errors
    /// AWS does not give it, or gives another one.
    pub(super) async fn one(&self, session: &Session, asked: &Asked) -> Result<Secret, Refusal> {
        if asked.service == Service::Parameters {
            return self.parameter(session, asked).await;
        }
        let body = secrets::one(&asked.id, asked.pin.as_ref());
        let reply = self.call(asked.service, "GetSecretValue", body, session, &asked.on).await?;
        let read = secrets::read_one(&reply.body).and_then(|answered| {
            let is_pinned = match &asked.pin {
                Some(Pin::Version { id: Some(id), .. }) => answered.version == *id,
                Some(Pin::Selector(_) | Pin::Version { id: None, .. }) | None => true,
            };
            if is_pinned { self.secret(asked, answered) } else { Err(another(&answered)) }
        });
        read.map_err(|refusal| identified(refusal, reply.request.as_deref()))
    }

    /// A name of one element may begin with a `/` in AWS. It has the same ARN as the name without the `/`.
    async fn parameter(&self, session: &Session, asked: &Asked) -> Result<Secret, Refusal> {
        let (mut name, is_single) = (asked.sent(), !asked.id.contains(['/', ':']));
        loop {
            let body = parameters::several(std::iter::once(name.as_str()));
            let reply = self.call(asked.service, "GetParameters", body, session, &asked.on).await?;
            let read = parameters::read(&reply.body).and_then(|answer| match answer.read.into_iter().next() {
                Some((answered, selector)) => self.selected(asked, answered, selector.as_deref()).map(Some),
                None if is_single && !name.starts_with('/') => Ok(None),
                None => Err(parameters::absent()),
            });
            match read.map_err(|refusal| identified(refusal, reply.request.as_deref()))? {
                Some(secret) => return Ok(secret),
                None => name.insert(0, '/'),
            }
        }
    }

    /// Reads several with one call. The results are in the same order; `None`: this one has to be asked for by itself. All are of one
    /// service, and none is there twice.
    ///
    /// # Errors
    /// The call as a whole has failed.
    pub(super) async fn several(
        &self,
        session: &Session,
        asked: &[Asked],
        on: &Account,
    ) -> Result<Vec<Option<Result<Secret, Refusal>>>, Refusal> {
        if asked.first().is_some_and(|asked| asked.service == Service::Parameters) {
            return self.several_parameters(session, asked, on).await;
        }
        let body = secrets::several(asked.iter().map(|asked| asked.id.as_str()));
        let reply = self.call(Service::SecretsManager, "BatchGetSecretValue", body, session, on).await?;
        let request = reply.request.as_deref();
        let told = |refusal| identified(refusal, request);
        let secrets::Batch { read, unread } = secrets::read_several(&reply.body).map_err(told)?;
        let mut found: Vec<_> = asked.iter().map(|_| None).collect();
        let place = |name: &str, arn: Option<&str>| asked.iter().position(|asked| asked.is(&self.config, name, arn));
        for answer in read {
            let (at, read) = match answer {
                Ok(answered) => {
                    let at = place(&answered.name, answered.arn.as_deref());
                    (at, at.map(|at| self.secret(&asked[at], answered)))
                }
                Err((name, arn, refusal)) => (place(&name, arn.as_deref()), Some(Err(refusal))),
            };
            if let (Some(at), Some(read)) = (at, read) {
                found[at] = Some(read.map_err(told));
            }
        }
        let needles = session.credentials().needles();
        for entry in unread {
            let Some(at) = asked.iter().position(|asked| asked.id == entry.secret_id) else { continue };
            let code = (entry.error_code.as_str(), entry.message.as_deref().unwrap_or_default());
            let said = Said::entry("GetSecretValue", code, request, (&needles, self.wire.words));
            found[at] = Some(Err(said.into_refusal()));
        }
        Ok(found)
    }

    async fn several_parameters(
        &self,
        session: &Session,
        asked: &[Asked],
        on: &Account,
    ) -> Result<Vec<Option<Result<Secret, Refusal>>>, Refusal> {
        let sent: Vec<String> = asked.iter().map(Asked::sent).collect();
        let body = parameters::several(sent.iter().map(String::as_str));
        let reply = self.call(Service::Parameters, "GetParameters", body, session, on).await?;
        let told = |refusal| identified(refusal, reply.request.as_deref());
        let parameters::Several { read, invalid } = parameters::read(&reply.body).map_err(told)?;
        let mut found: Vec<_> = asked.iter().map(|_| None).collect();
        for (answered, selector) in read {
            if let Some(at) = asked.iter().position(|asked| asked.is(&self.config, &answered.name, answered.arn.as_deref())) {
                found[at] = Some(self.selected(&asked[at], answered, selector.as_deref()).map_err(told));
            }
        }
        for name in invalid {
            // A name of one element may exist with a `/`: Keyferry asks for it once more.
            if let Some(at) = sent.iter().position(|sent| *sent == name).filter(|at| asked[*at].id.contains(['/', ':'])) {
                found[at] = Some(Err(told(parameters::absent())));
            }
        }
        Ok(found)
    }

    fn selected(&self, asked: &Asked, answered: Answered, selector: Option<&str>) -> Result<Secret, Refusal> {
        if let Some(Pin::Selector(pinned)) = &asked.pin {
            let is_number = pinned.bytes().all(|byte| byte.is_ascii_digit());
            let is_other = selector.is_some_and(|selector| selector.trim_start_matches(':') != pinned);
            if is_other || is_number && answered.version != *pinned {
                return Err(another(&answered));
            }
        }
        self.secret(asked, answered)
    }

    fn secret(&self, asked: &Asked, answered: Answered) -> Result<Secret, Refusal> {
        if !asked.is(&self.config, &answered.name, answered.arn.as_deref()) {
            return Err(self.of_another_account(asked, &answered).unwrap_or_else(|| another(&answered)));
        }
        content::secret(answered.content, Version::new(answered.version), self.max_secret_bytes)
    }

    /// The secret was found under its plain name in an account that is not the configured one: probably that is wrong in the configuration.
    fn of_another_account(&self, asked: &Asked, answered: &Answered) -> Option<Refusal> {
        let own = self.config.account.as_deref().filter(|_| Named::of(&asked.name).is_some_and(|named| named.account.is_none()))?;
        let account = answered.arn.as_deref()?.split(':').nth(4).filter(|account| is_account(account) && *account != own)?;
        let reason = format!(
            "AWS answers with a secret of the account {account}, and `account` of the backend is {own} (the cluster's admin can correct \
             `account`: it is the account of the role that reads)"
        );
        Some(Refusal::new(Fault::Denied, reason))
    }

    /// A page of the names below a folder, as AWS spells the folder.
    ///
    /// # Errors
    /// AWS does not list them.
    pub(super) async fn page(
        &self,
        session: &Session,
        (service, below): (Service, &str),
        next: Option<&str>,
        on: &Account,
    ) -> Result<secrets::Page, Refusal> {
        if service == Service::Parameters {
            let reply = self.call(service, "DescribeParameters", parameters::list(below, next), session, on).await?;
            return parameters::read_list(&reply.body).map_err(|refusal| identified(refusal, reply.request.as_deref()));
        }
        let reply = self.call(service, "ListSecrets", secrets::list(below, next), session, on).await?;
        secrets::read_list(&reply.body).map_err(|refusal| identified(refusal, reply.request.as_deref()))
    }
}

/// Policy has checked one name, and AWS has read another one.
fn another(answered: &Answered) -> Refusal {
    let said = answered.arn.as_deref().unwrap_or(&answered.name);
    let said = if said.is_empty() { "one without a name" } else { said };
    let reason = format!("AWS answers with another secret or version, {} (write the whole ARN, or the name as AWS lists it)", clean(said));
    Refusal::new(Fault::Denied, reason)
}

/// Equal means: the same secret, for any caller.
impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("name", &self.name).field("pin", &self.pin).finish_non_exhaustive()
    }
}
