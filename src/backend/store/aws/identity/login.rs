//! How a login to AWS is made: the first key, and then each role of the chain.

use std::sync::Arc;

use tokio::time::Instant;

use super::session::{Issued, Session};
use super::sts::Becoming;
use super::{Identities, NOBODY, Role, Way, keys, name};
use crate::backend::remote::refusal::Refusal;
use crate::backend::store::aws::config::Assume;
use crate::backend::store::aws::error::Failure;
use crate::backend::{Fault, FetchContext, Scope};
use crate::model::{PodToken, clean, quoted};

impl Identities {
    pub(super) async fn log_in(&self, role: &Role, who: &Scope, cx: &FetchContext) -> Result<Session, Refusal> {
        let session = name::of(who, &cx.pod);
        let first = match &self.way {
            Way::Agent { audience, agent } => {
                let token = token(audience, cx)?;
                agent.log_in(&token.jwt, &cx.pod, &*self.clock, cx.deadline).await?
            }
            Way::Irsa { audience, .. } => self.with_token(role, &session, audience, cx).await?,
            Way::Instance(_) | Way::Keys { .. } => return self.with_own(&session, cx).await,
        };
        self.chain(Session::issued(first, None), &session, cx).await.map_err(|(refusal, _)| refusal)
    }

    async fn with_token(&self, role: &Role, session: &str, audience: &str, cx: &FetchContext) -> Result<Issued, Refusal> {
        let (token, arn) = (token(audience, cx)?, role.as_text().unwrap_or_default());
        let becoming = Becoming { role: arn, session, external_id: None };
        let issued = self.sts.with_token(becoming, &token.jwt, cx.deadline).await;
        issued.map_err(|failure| {
            let account = format!("{}/{}", cx.pod.namespace, cx.pod.service_account);
            let whence = match role {
                Role::Annotated(_) => format!(", the role that ServiceAccount {account} is annotated with,"),
                Role::Chosen(_) | Role::Filled(_) | Role::Unsaid => String::new(),
            };
            let audience = clean(audience);
            let remedy = match failure.code() {
                "InvalidIdentityToken" => format!(
                    "the role's account needs the cluster's OIDC issuer as an identity provider, with {audience} among its audiences: `aws \
                     iam create-open-id-connect-provider`"
                ),
                "ExpiredTokenException" => "kubelet renews the token; check the node's clock".to_owned(),
                "RegionDisabledException" => "turn STS on for this region in the role's account: IAM, account settings".to_owned(),
                _ => format!(
                    "does the role exist, and does its trust policy allow sts:AssumeRoleWithWebIdentity to the cluster's OIDC provider, for \
                     the subject system:serviceaccount:{}:{} and the audience {audience}?",
                    cx.pod.namespace, cx.pod.service_account
                ),
            };
            let is_said = matches!(failure, Failure::Said(_));
            let refusal = failure.of_login(&format!("{arn}{whence} with the Pod's token for {audience}"), &remedy);
            // The namespace has chosen this role, and AWS may never answer for it.
            let is_chosen = is_said && refusal.fault == Fault::Unavailable && matches!(role, Role::Annotated(_) | Role::Chosen(_));
            if is_chosen { Refusal { fault: Fault::NoLogin, ..refusal } } else { refusal }
        })
    }

    /// Assumes a role with the daemon's own key. If AWS no longer accepts that key, this tries once more with another one.
    async fn with_own(&self, name: &str, cx: &FetchContext) -> Result<Session, Refusal> {
        let own = self.own(cx.deadline).await?;
        match self.chain(Session::again(&own), name, cx).await {
            Ok(session) => Ok(session),
            Err((refusal, false)) => Err(refusal),
            Err((refusal, true)) => {
                own.refuse();
                let other = self.own(cx.deadline).await?;
                if Arc::ptr_eq(&own, &other) {
                    return Err(refusal);
                }
                self.chain(Session::again(&other), name, cx).await.map_err(|(refusal, is_of_the_key)| {
                    if is_of_the_key {
                        other.refuse();
                    }
                    refusal
                })
            }
        }
    }

    /// Assumes one role after the other. The error says whether the first key is the reason.
    async fn chain(&self, first: Session, name: &str, cx: &FetchContext) -> Result<Session, (Refusal, bool)> {
        let mut session = first;
        for (at, Assume { role, external_id }) in self.assume.iter().enumerate() {
            let arn = self.filled("auth.assumeRole", role, &cx.pod).map_err(|refusal| (refusal, false))?;
            let becoming = Becoming { role: &arn, session: name, external_id: external_id.as_deref() };
            let issued = self.sts.assume(becoming, &session.credentials(), cx.deadline).await.map_err(|failure| {
                let is_first = at == 0 && failure.is_of_the_key();
                let remedy = "the role's trust policy must allow sts:AssumeRole to the one before it in the chain, with auth.assumeRole's \
                              externalId if it asks for one, and that one must be allowed to assume it";
                let remedy = if is_first { self.own_remedy() } else { remedy };
                (failure.of_login(&format!("{arn}, auth.assumeRole of the backend"), remedy), is_first)
            })?;
            session = Session::issued(issued, session.own().cloned());
        }
        Ok(session)
    }

    /// The session of the daemon's own key.
    pub(super) async fn own(&self, deadline: Instant) -> Result<Arc<Session>, Refusal> {
        self.own.enter(None, &NOBODY.into(), deadline, async { Box::pin(self.own_login(deadline)).await }).await
    }

    async fn own_login(&self, deadline: Instant) -> Result<Arc<Session>, Refusal> {
        let before = self.own.pass();
        match &self.way {
            Way::Instance(instance) => {
                let issued = instance.log_in(&*self.clock, deadline).await?;
                Ok(Arc::new(Session::own_issued(issued).in_place_of(before.as_deref())))
            }
            Way::Keys { files, desk } => {
                let read = keys::read(desk, files, deadline).await?;
                // If the key is the same, the session stays the same.
                let same = before.as_ref().filter(|known| !known.is_refused() && known.holds(&read));
                same.inspect(|known| known.seen());
                Ok(same.map_or_else(|| Arc::new(Session::kept(read, before.as_deref())), Arc::clone))
            }
            Way::Agent { .. } | Way::Irsa { .. } => {
                Err(Refusal::new(Fault::Unauthenticated, "the Pods log in themselves here (check auth.method)"))
            }
        }
    }

    pub(super) fn own_remedy(&self) -> &'static str {
        match &self.way {
            Way::Keys { .. } => {
                "is the key in the files of `auth` the right one, and is it still active? if not, write a new one into them"
            }
            Way::Instance(_) => "check the instance's role in EC2 and IAM",
            Way::Agent { .. } | Way::Irsa { .. } => "kubelet tries again by itself",
        }
    }
}

fn token<'c>(audience: &str, cx: &'c FetchContext) -> Result<&'c PodToken, Refusal> {
    cx.tokens.find(audience).ok_or_else(|| {
        let audience = clean(audience);
        let sent: Vec<String> = cx.tokens.audiences().map(quoted).collect();
        let sent = if sent.is_empty() {
            "no verified token of it came".to_owned()
        } else {
            format!("verified tokens came for {}", sent.join(", "))
        };
        let reason = format!(
            "to log in to AWS, the Pod's token for the audience {audience:?} is needed, and {sent} (add audience: {audience} to \
             tokenRequests of the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"
        );
        Refusal::new(Fault::Unauthenticated, reason)
    })
}
