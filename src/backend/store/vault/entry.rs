//! Where a request goes, and as whom Keyferry logs in for it: the configuration's settings, or the class's instead.

use std::sync::Arc;

use super::config::{Auth, DEFAULT_AUDIENCE, PodMethod, Share, VaultConfig, canonical_namespace};
use super::fault::Refusal;
use super::wire::Server;
use crate::backend::{Fault, Scope};
use crate::http::escape_path;
use crate::model::{Login, LoginTls, PodIdentity, Tenant};

/// A way to log in to a store. For the same Pod (or the daemon), two equal ones give the same login.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Entry {
    pub(super) server: Server,
    /// The namespace of the login; empty: the root namespace.
    pub(super) namespace: String,
    /// Empty where there is no login: a token from a file.
    pub(super) mount: String,
    pub(super) role: Option<String>,
    /// The audience of the Pod's token; empty where the daemon logs in as itself.
    pub(super) audience: String,
}

impl Entry {
    /// # Errors
    /// The class's address is not valid. `tenant` is the namespace of the class.
    pub(super) fn of(config: &VaultConfig, login: &Login, tenant: Option<&str>) -> Result<Self, Refusal> {
        let invalid = |key: &str, problem: &str| Refusal::new(Fault::Invalid, format!("{key} {problem} (correct it in the class)"));
        let mut server = Server { endpoint: config.address.clone(), tls: config.tls.clone(), below: None, named_by: None };
        if let Some(address) = &login.address {
            server.endpoint = address.parse().map_err(|error: crate::http::InvalidEndpoint| invalid("address", &error.to_string()))?;
            server.named_by = tenant.map(Tenant::from);
            // The configuration's client certificate and server name are only for the configuration's address.
            server.tls = LoginTls { ca: config.tls.ca.clone(), ..LoginTls::default() };
        }
        if let Some(tls) = &login.tls {
            server.tls.clone_from(tls);
            // Policy has refused files without a folder. But a lease of an earlier process may be of another configuration.
            match config.class_may.tls_dir() {
                Some(folder) => server.below = Some(folder.to_owned()),
                None if tls.files().next().is_none() => {}
                None => return Err(Refusal::class_files(Fault::Invalid, "classMay.tlsDir names no folder for it")),
            }
        }
        let said = |word: &Option<String>, own: &str| word.clone().unwrap_or_else(|| own.to_owned());
        let namespace = config.namespace.clone();
        Ok(match &config.auth {
            Auth::AppRole { mount, .. } => Self { server, namespace, mount: mount.clone(), role: None, audience: String::new() },
            Auth::Cert { mount, role } => Self { server, namespace, mount: mount.clone(), role: role.clone(), audience: String::new() },
            Auth::Token { .. } => Self { server, namespace, mount: String::new(), role: None, audience: String::new() },
            Auth::Pod { mount, role, audience, .. } => {
                let namespace = match &login.namespace {
                    Some(namespace) => canonical_namespace(namespace).map_err(|problem| invalid("namespace", &problem))?,
                    None => namespace,
                };
                let role = login.role.clone().or_else(|| role.clone());
                let audience = audience.as_deref().unwrap_or(DEFAULT_AUDIENCE);
                Self { server, namespace, mount: said(&login.mount, mount), role, audience: said(&login.audience, audience) }
            }
        })
    }

    /// The bytes of its texts.
    pub(super) fn weight(&self) -> usize {
        let Self { server: Server { endpoint, tls, below: _, named_by: _ }, namespace, mount, role, audience } = self;
        let files = tls.files().map(|file| file.as_os_str().len()).sum::<usize>();
        let names = [tls.server_name.as_ref(), role.as_ref()].into_iter().flatten().map(String::len).sum::<usize>();
        endpoint.to_string().len() + files + names + namespace.len() + mount.len() + audience.len()
    }

    /// An address of the API in the login's namespace, escaped.
    pub(super) fn path(&self, rest: &str) -> String {
        within(&self.namespace, rest)
    }

    /// As a message names it: `role csi`.
    pub(super) fn whom(&self, auth: &Auth) -> String {
        match (auth, &self.role) {
            (Auth::AppRole { .. }, _) => "the daemon's approle".to_owned(),
            (Auth::Cert { .. }, None) => "the daemon's client certificate".to_owned(),
            (Auth::Token { file }, _) => format!("the token in {}", file.display()),
            (Auth::Cert { .. } | Auth::Pod { .. }, Some(role)) => format!("role {}", crate::model::clean(role)),
            (Auth::Pod { method: PodMethod::Jwt | PodMethod::Kubernetes, .. }, None) => format!("the default role of auth/{}", self.mount),
        }
    }
}

/// A path in a namespace, escaped.
pub(super) fn within(namespace: &str, rest: &str) -> String {
    if namespace.is_empty() { escape_path(rest) } else { escape_path(&format!("{namespace}/{rest}")) }
}

/// Who logs in: the Pods that share a login.
pub(super) fn sharers(config: &VaultConfig, pod: &PodIdentity) -> Scope {
    match (&config.auth, config.share, pod.proven_account()) {
        (Auth::AppRole { .. } | Auth::Cert { .. } | Auth::Token { .. }, _, _) => Scope::Node,
        (Auth::Pod { .. }, Share::ServiceAccount, Some(account)) => Scope::Account(account),
        (Auth::Pod { .. }, Share::Pod | Share::ServiceAccount, _) => Scope::Pod(Arc::clone(&pod.uid)),
    }
}
