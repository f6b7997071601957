//! Logging in: one call turns a Pod's token, or a credential of the daemon, into a store token.

use std::sync::Arc;

use http::StatusCode;
use zeroize::Zeroizing;

use super::answer::Answer;
use super::config::{Auth, PodMethod, RoleId};
use super::entry::Entry;
use super::fault::{Needles, Refusal, of_status, or_status, words};
use super::token::StoreToken;
use super::wire::{Call, Clients, Reply, json};
use crate::backend::remote::credential;
use crate::backend::{Fault, FetchContext};
use crate::http::Repeat;
use crate::model::{SecretBytes, clean};

/// What Keyferry sends to log in, and which parts of it must never be repeated.
struct Attempt {
    body: Zeroizing<Vec<u8>>,
    needles: Needles,
    repeat: Repeat,
}

/// Logs in for this Pod, or reads the token file.
///
/// # Errors
/// There is nothing to log in with, the store refuses it, or there was no answer.
pub(super) async fn log_in(clients: &Clients, auth: &Auth, entry: &Entry, cx: &FetchContext) -> Result<StoreToken, Refusal> {
    if let Auth::Token { file } = auth {
        return from_file(clients, entry, credential::read(&clients.desk, file, cx.deadline).await?, cx).await;
    }
    let attempt = attempt(clients, auth, entry, cx).await?;
    let call = Call::post(entry.path(&format!("auth/{}/login", entry.mount)), None, attempt.body, attempt.repeat);
    let reply = clients.call(&entry.server, call, cx.deadline).await?;
    if !reply.status.is_success() {
        return Err(refused(auth, entry, cx, &reply, attempt.needles));
    }
    Refusal::of_partial(reply.status)?;
    token(&reply, entry)
}

/// A token that somebody else made. Keyferry asks once how long it lives.
async fn from_file(clients: &Clients, entry: &Entry, value: SecretBytes, cx: &FetchContext) -> Result<StoreToken, Refusal> {
    let token = StoreToken::found(Arc::new(value), entry.clone(), false);
    // A token without the default policy may not look itself up, but may still read. The request itself shows that.
    token.look_up(clients, cx.deadline).await?;
    Ok(token)
}

async fn attempt(clients: &Clients, auth: &Auth, entry: &Entry, cx: &FetchContext) -> Result<Attempt, Refusal> {
    match auth {
        Auth::AppRole { role_id, secret_id, .. } => by_approle(clients, role_id, secret_id.as_deref(), cx).await,
        Auth::Cert { .. } => {
            let role: Vec<_> = entry.role.iter().map(|role| ("name", role.as_str())).collect();
            Ok(Attempt { body: json(&role), needles: Needles::default(), repeat: Repeat::Safe })
        }
        Auth::Pod { .. } => {
            let Some(token) = cx.tokens.find(&entry.audience) else { return Err(no_token(entry, cx)) };
            let jwt = text(&token.jwt)?;
            let mut members = vec![("jwt", jwt)];
            members.extend(entry.role.iter().map(|role| ("role", role.as_str())));
            Ok(Attempt { body: json(&members), needles: Needles::default().secret(&token.jwt), repeat: Repeat::Safe })
        }
        // Its file is read instead.
        Auth::Token { .. } => Ok(Attempt { body: json(&[]), needles: Needles::default(), repeat: Repeat::Never }),
    }
}

/// A secret id may be valid for only one login: Keyferry does not send it twice.
async fn by_approle(
    clients: &Clients,
    role_id: &RoleId,
    secret_id: Option<&std::path::Path>,
    cx: &FetchContext,
) -> Result<Attempt, Refusal> {
    let role_id = match role_id {
        RoleId::File(file) => credential::read(&clients.desk, file, cx.deadline).await?,
        RoleId::Text(text) => SecretBytes::new(text.clone().into_bytes()),
    };
    let mut needles = Needles::default().secret(&role_id);
    let mut members = vec![("role_id", text(&role_id)?)];
    let secret_id = match secret_id {
        Some(file) => Some(credential::read(&clients.desk, file, cx.deadline).await?),
        None => None,
    };
    if let Some(secret_id) = &secret_id {
        needles = needles.secret(secret_id);
        members.push(("secret_id", text(secret_id)?));
    }
    Ok(Attempt { body: json(&members), needles, repeat: Repeat::Never })
}

fn text(secret: &SecretBytes) -> Result<&str, Refusal> {
    let unfit = |_| Refusal::new(Fault::Unauthenticated, "the credential to log in with is not a text (see the file it comes from)");
    str::from_utf8(secret.expose()).map_err(unfit)
}

fn no_token(entry: &Entry, cx: &FetchContext) -> Refusal {
    let audience = clean(&entry.audience);
    let sent: Vec<String> = cx.tokens.audiences().map(|audience| format!("{audience:?}")).collect();
    let sent = match sent.len() {
        0 => "no verified token of it came".to_owned(),
        _ => format!("verified tokens came for {}", sent.join(", ")),
    };
    let reason = format!(
        "to log in there, the Pod's token for the audience {audience:?} is needed, and {sent} (add audience: {audience} to tokenRequests of \
         the CSIDriver object secrets-store.csi.k8s.io; identity.verify must be jwks or token-review)"
    );
    Refusal::new(Fault::Unauthenticated, reason)
}

fn token(reply: &Reply, entry: &Entry) -> Result<StoreToken, Refusal> {
    let refusal = |problem: &str| Refusal::new(Fault::Unauthenticated, format!("auth/{} answers {problem}", entry.mount));
    if reply.body.expose().trim_ascii().is_empty() {
        return Err(refusal("with nothing, so without a token (correct the backend's address and auth.mount)"));
    }
    let not_json = |_| refusal("with something that is not JSON (is the backend's address that of Vault or OpenBao itself?)");
    let answer = Answer::parse(&reply.body).map_err(not_json)?;
    let Some(auth) = answer.auth else {
        return Err(match answer.wrap_info {
            Some(_) => refusal("with a wrapped token (take the wrapping TTL off the login's role)"),
            None => refusal("without a token: it is not a login (correct auth.mount)"),
        });
    };
    if auth.client_token.is_empty() {
        return Err(match auth.mfa_requirement {
            Some(_) => refusal("that it needs a second factor (a Pod has none: take this login out of the MFA enforcement)"),
            None => refusal("without a token (see the store's log)"),
        });
    }
    let value = Arc::new(SecretBytes::new(auth.client_token.as_bytes().to_vec()));
    // A token with a limited number of uses would end in the middle of a mount, and cannot be shared.
    if auth.num_uses > 0 {
        return Err(refusal("with a token of limited uses, which Keyferry cannot keep (set token_num_uses=0 on its role)"));
    }
    let token = StoreToken::made(value, entry.clone(), auth.lease_duration, auth.renewable);
    token.known_by(&auth.accessor);
    Ok(token)
}

/// What the store's refusal means, and what to do.
fn refused(auth: &Auth, entry: &Entry, cx: &FetchContext, reply: &Reply, needles: Needles) -> Refusal {
    let told = words(reply, needles);
    if let Some(refusal) = of_status(reply, &told) {
        return refusal;
    }
    let whom = entry.whom(auth);
    let told = or_status(&told, reply);
    let at = format!("auth/{}", entry.mount);
    let pod = &cx.pod;
    let account = format!("{}/{}", pod.namespace, pod.service_account);
    let place = if entry.namespace.is_empty() { String::new() } else { format!(" in namespace {}", entry.namespace) };
    let remedy = match auth {
        _ if entry.mount.starts_with("auth/") => {
            "leave the `auth/` out of the mount, in the class or in auth.mount of the backend: Keyferry adds it itself".to_owned()
        }
        _ if reply.status == StatusCode::NOT_FOUND => {
            format!("is a login of that kind enabled at {at}{place}? see the mount that the class names, or auth.mount of the backend")
        }
        Auth::Pod { method: PodMethod::Kubernetes, .. } => format!(
            "does {whom} exist at {at}{place}, bound to ServiceAccount {account} and audience {}? the store also says no when it cannot \
             reach the cluster's API server",
            clean(&entry.audience)
        ),
        Auth::Pod { method: PodMethod::Jwt, .. } => format!(
            "does {whom} exist at {at}{place}, with bound_audiences {} and claims that a token of ServiceAccount {account} has?",
            clean(&entry.audience)
        ),
        Auth::AppRole { .. } => "is the role id right, and the secret id not used up or expired? write a new one into its file".to_owned(),
        Auth::Cert { .. } => format!("does a role at {at}{place} trust the CA of clientCert?"),
        Auth::Token { file } => format!("write a new token into {}", file.display()),
    };
    let with = if entry.audience.is_empty() { String::new() } else { format!(" with the Pod's token for {}", clean(&entry.audience)) };
    Refusal::new(Fault::Unauthenticated, format!("the store refuses to log in {whom} at {at}{place}{with}: {told} ({remedy})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::store::vault::wire::Server;
    use crate::model::LoginTls;

    fn refused(status: StatusCode, body: &str) -> Refusal {
        let endpoint = "https://bao:8200".parse().unwrap();
        let entry = Entry {
            server: Server { endpoint, tls: LoginTls::default(), below: None, named_by: None },
            namespace: String::new(),
            mount: "kubernetes".to_owned(),
            role: None,
            audience: "vault".to_owned(),
        };
        token(&Reply::of(status, body, true), &entry).err().unwrap()
    }

    #[test]
    fn an_answer_without_a_token_is_a_failed_login() {
        let bodies = ["", "\n", "<html>", "{}", "null", r#"{"auth":null,"data":{}}"#, r#"{"auth":{"client_token":""}}"#];
        let refused: Vec<_> =
            bodies.iter().map(|body| refused(StatusCode::OK, body)).chain([refused(StatusCode::NO_CONTENT, "")]).collect();
        assert!(refused.iter().all(|refusal| refusal.fault == Fault::Unauthenticated));
        insta::assert_snapshot!(refused.into_iter().map(|refusal| refusal.reason).collect::<Vec<_>>().join("\n"), @"
        auth/kubernetes answers with nothing, so without a token (correct the backend's address and auth.mount)
        auth/kubernetes answers with nothing, so without a token (correct the backend's address and auth.mount)
        auth/kubernetes answers with something that is not JSON (is the backend's address that of Vault or OpenBao itself?)
        auth/kubernetes answers without a token: it is not a login (correct auth.mount)
        auth/kubernetes answers with something that is not JSON (is the backend's address that of Vault or OpenBao itself?)
        auth/kubernetes answers without a token: it is not a login (correct auth.mount)
        auth/kubernetes answers without a token (see the store's log)
        auth/kubernetes answers with nothing, so without a token (correct the backend's address and auth.mount)
        ");
    }
}
