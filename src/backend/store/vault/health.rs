//! Whether the server could serve a mount now, in words for a person.

use tokio::time::Instant;

use super::VaultBackend;
use super::config::{Auth, RoleId};
use super::fault::{Needles, Refusal, of_status, words};
use super::wire::{Call, Reply, Server};
use crate::backend::Fault;
use crate::backend::remote::credential;
use crate::backend::remote::health::TIME;
use crate::http::Repeat;

impl VaultBackend {
    pub(super) async fn ask_health(&self) -> Result<(), Refusal> {
        let (server, reply) = self.health_answer().await?;
        meaning(&server, &reply)
    }

    /// Whether the server serves requests. A gateway that does not know `sys/health` says nothing about that.
    ///
    /// # Errors
    /// There is no answer, or the server does not serve.
    pub(super) async fn look_at_health(&self) -> Result<(), Refusal> {
        let (server, reply) = self.call_health(Instant::now() + TIME).await?;
        if reply.status.is_server_error() { meaning(&server, &reply) } else { Ok(()) }
    }

    /// What the server answers now, whatever that means.
    ///
    /// # Errors
    /// There was no answer, or the daemon has nothing to log in with.
    pub(super) async fn health_answer(&self) -> Result<(Server, Reply), Refusal> {
        let deadline = Instant::now() + TIME;
        self.has_credentials(deadline).await?;
        self.clients.check_files(&self.own_server(), deadline).await?;
        self.call_health(deadline).await
    }

    fn own_server(&self) -> Server {
        Server { endpoint: self.config.address.clone(), tls: self.config.tls.clone(), below: None, named_by: None }
    }

    async fn call_health(&self, deadline: Instant) -> Result<(Server, Reply), Refusal> {
        let server = self.own_server();
        // A standby is fine: it forwards requests to the active node.
        let path = "sys/health?standbyok=true&perfstandbyok=true".to_owned();
        let call = Call { method: http::Method::GET, path, token: None, body: None, repeat: Repeat::Never, payer: None };
        let reply = self.clients.call(&server, call, deadline).await?;
        Ok((server, reply))
    }

    /// Checks that the daemon's own credentials are there.
    async fn has_credentials(&self, deadline: Instant) -> Result<(), Refusal> {
        let (of_role, other) = match &self.config.auth {
            Auth::AppRole { role_id: RoleId::File(file), secret_id, .. } => (Some(file), secret_id.as_ref()),
            Auth::AppRole { role_id: RoleId::Text(_), secret_id, .. } => (None, secret_id.as_ref()),
            Auth::Token { file } => (None, Some(file)),
            Auth::Cert { .. } | Auth::Pod { .. } => (None, None),
        };
        for file in of_role.into_iter().chain(other) {
            credential::read(&self.clients.desk, file, deadline).await?;
        }
        Ok(())
    }
}

/// The codes are those of `sys/health` (its API page).
pub(super) fn meaning(server: &Server, reply: &Reply) -> Result<(), Refusal> {
    let refusal = |problem: String| Err(Refusal::new(Fault::Down, problem));
    match reply.status.as_u16() {
        200 | 429 => Ok(()),
        501 => refusal(format!("the store at {server} is not initialised (an operator must run `bao operator init`)")),
        503 => refusal(format!("the store at {server} is sealed (an operator must unseal it: `bao operator unseal`)")),
        404 => refusal(format!("the server at {server} is not Vault or OpenBao (correct `address`)")),
        other => {
            let told = words(reply, Needles::default());
            match of_status(reply, &told) {
                Some(refusal) => Err(refusal),
                None => refusal(format!("the store at {server} answers {other} to sys/health (is `address` that of Vault or OpenBao?)")),
            }
        }
    }
}
