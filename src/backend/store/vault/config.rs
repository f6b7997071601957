//! The configuration of a Vault or OpenBao server, and how it changes a class's request.

use std::path::PathBuf;

use crate::backend::remote::settings::{self, check_server_name, file, filled, refuse_tls};
use crate::backend::{Audience, CacheTimes, Inadmissible, Origin};
use crate::http::Endpoint;
use crate::model::{InvalidName, Login, LoginKey, LoginTls, Method, NamedFile, RefParts, SecretName};
use crate::policy::ClassMay;
use crate::yaml::{Faults, Reader, unknown_key};

/// The audience of the Pods' tokens, unless the configuration names another. A peer's provider asks for it too.
pub(super) const DEFAULT_AUDIENCE: &str = "vault";

/// The audiences that the peers' providers ask for when nobody names one.
const PEERS_AUDIENCES: [&str; 2] = ["openbao", "vault"];

/// What a class calls the root namespace.
pub(super) const ROOT_NAMESPACE: &str = "root";

/// One entry of `kind: vault`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultConfig {
    pub address: Endpoint,
    pub tls: LoginTls,
    /// Where Keyferry logs in, and what names begin with. Empty: the root namespace.
    pub namespace: String,
    pub auth: Auth,
    pub share: Share,
    pub class_may: ClassMay,
    pub cache: CacheTimes,
    /// Whether messages and logs repeat the server's own words.
    pub store_words: bool,
}

/// As whom Keyferry logs in to the server, and with what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Auth {
    AppRole {
        mount: String,
        role_id: RoleId,
        /// `None`: the role needs none (`bind_secret_id=false`).
        secret_id: Option<PathBuf>,
    },
    /// The client certificate of the TLS connection.
    Cert { mount: String, role: Option<String> },
    /// As the Pod, with the Pod's token.
    /// `audience`: `None` where the configuration names none.
    Pod { method: PodMethod, mount: String, role: Option<String>, audience: Option<String> },
    /// A store token that somebody else renews or replaces.
    Token { file: PathBuf },
}

/// A role id is a name, not a secret. Some admins keep it in a file next to the secret id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RoleId {
    File(PathBuf),
    Text(String),
}

/// Who verifies the Pod's token for the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PodMethod {
    /// The server, with keys that it has.
    Jwt,
    /// The cluster's API server.
    Kubernetes,
}

/// Which Pods share a login, and may share an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Share {
    Pod,
    #[default]
    ServiceAccount,
}

// === impl VaultConfig ===

impl VaultConfig {
    /// Reads the mapping; the caller ends the reading. `None` where it noted a fault.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let address = reader.parsed("address", faults, str::parse::<Endpoint>);
        if reader.get("address").is_none() {
            reader.missing("address", "where the server is, such as https://bao.bao.svc:8200", faults);
        }
        let tls = settings::tls(reader, faults);
        if let Some(address) = address.as_ref().filter(|address| !address.is_https()) {
            refuse_tls(reader, &format!("address is {address}"), faults);
        }
        if let Some(address) = &address {
            check_server_name(reader, address, &tls, "address", faults);
        }
        let namespace = reader.parsed("namespace", faults, path).unwrap_or_default();
        let auth = auth(reader, tls.client.is_some(), faults);
        let share = reader.parsed("share", faults, share).unwrap_or_default();
        let class_may = class_may(reader, auth.as_ref(), faults);
        // Where nobody names an audience, each peer's classes may use the default of that peer.
        let open = matches!(auth, Some(Auth::Pod { audience: None, .. }));
        let class_may = if open { class_may.and(LoginKey::Audience, &PEERS_AUDIENCES) } else { class_may };
        let cache = CacheTimes::of_backend(reader, faults);
        let store_words = reader.boolean("storeWords", faults).unwrap_or(true);
        let (address, auth) = (address?, auth?);
        (faults.len() == before).then_some(Self { address, tls, namespace, auth, share, class_may, cache, store_words })
    }

    pub(super) fn files(&self) -> Vec<NamedFile> {
        let mut files = settings::files(&self.tls);
        match &self.auth {
            Auth::AppRole { role_id, secret_id, .. } => {
                if let RoleId::File(path) = role_id {
                    files.push(NamedFile::public("auth.roleIdFile", path));
                }
                files.extend(secret_id.iter().map(|path| NamedFile::secret("auth.secretIdFile", path)));
            }
            Auth::Token { file } => files.push(NamedFile::secret("auth.tokenFile", file)),
            Auth::Cert { .. } | Auth::Pod { .. } => {}
        }
        files
    }

    /// The audience that the Pods' tokens must have; `None`: the daemon logs in as itself.
    pub(super) fn audience(&self) -> Option<Audience<'_>> {
        let Auth::Pod { audience, .. } = &self.auth else { return None };
        Some(Audience { key: "auth.audience", text: audience.as_deref().unwrap_or(DEFAULT_AUDIENCE), named: audience.is_some() })
    }

    /// Where the server is, and as whom Keyferry logs in there. Version 0.1.0 began to write this text, and kept leases are found by it.
    /// Later keys of `auth` are left out where the configuration does not set them, so that the text of older leases stays the same.
    pub(super) fn origin(&self) -> Origin {
        let Self { address, namespace, auth, .. } = self;
        let auth = match auth {
            Auth::AppRole { mount, role_id, secret_id } => {
                let role_id = match role_id {
                    RoleId::File(path) => format!("File({:?})", path.to_string_lossy()),
                    RoleId::Text(text) => format!("Text({text:?})"),
                };
                format!("AppRole {{ mount: {mount:?}, role_id: {role_id}, secret_id: {secret_id:?} }}")
            }
            Auth::Cert { mount, role } => format!("Cert {{ mount: {mount:?}, role: {role:?} }}"),
            Auth::Pod { method, mount, role, audience } => {
                let method = match method {
                    PodMethod::Jwt => "Jwt",
                    PodMethod::Kubernetes => "Kubernetes",
                };
                format!("Pod {{ method: {method}, mount: {mount:?}, role: {role:?}, audience: {audience:?} }}")
            }
            Auth::Token { file } => format!("Token {{ file: {:?} }}", file.to_string_lossy()),
        };
        Origin::new(format!("(Endpoint({address}), {namespace:?}, {auth})"))
    }

    pub(super) fn check_login(&self, login: &Login) -> Result<(), Inadmissible> {
        let roleless = matches!(&self.auth, Auth::Pod { method: PodMethod::Kubernetes, role: None, .. });
        if roleless && login.role.is_none() {
            let problem = "is missing: neither the class nor the configuration names a role to log in as (set it in the class, or set \
                           auth.role of the backend)";
            return Err(refused(LoginKey::Role, problem));
        }
        let own = match &self.auth {
            Auth::AppRole { .. } => "AppRole",
            Auth::Cert { .. } => "client certificate",
            Auth::Token { .. } => "token",
            Auth::Pod { .. } => return Ok(()),
        };
        let foreign = login.said().into_iter().find(|(key, _)| *key != LoginKey::Namespace);
        match foreign {
            Some((key, value)) if !self.says(key, value, login) => {
                let problem = format!("Keyferry logs in to this backend with its own {own}, so a class cannot choose it (remove it)");
                Err(refused(key, problem))
            }
            _ => Ok(()),
        }
    }

    /// Whether the configuration says the same.
    fn says(&self, key: LoginKey, value: &str, login: &Login) -> bool {
        let (mount, role, audience) = match &self.auth {
            Auth::Pod { mount, role, audience, .. } => (Some(mount), role.as_ref(), Some(audience.as_deref().unwrap_or(DEFAULT_AUDIENCE))),
            Auth::AppRole { mount, .. } => (Some(mount), None, None),
            Auth::Cert { mount, role } => (Some(mount), role.as_ref(), None),
            Auth::Token { .. } => (None, None, None),
        };
        let same = |own: Option<&String>| own.is_some_and(|own| own == value);
        match key {
            LoginKey::Address => value.parse::<Endpoint>().is_ok_and(|endpoint| endpoint == self.address),
            LoginKey::Audience => audience == Some(value),
            LoginKey::Mount => mount.is_some_and(|mount| path(value).is_ok_and(|value| value == *mount)),
            LoginKey::Namespace => canonical_namespace(value).is_ok_and(|value| value == self.namespace),
            LoginKey::Role => same(role),
            LoginKey::Tls | LoginKey::TlsDir => login.tls.as_deref() == Some(&self.tls),
        }
    }

    pub(super) fn without_equals(&self, login: &Login) -> Result<Login, Inadmissible> {
        let mut own = Login::default();
        for (key, value) in login.said().into_iter().filter(|(key, value)| !self.says(*key, value, login)) {
            let said = || spelled(key, value).map_err(|problem| refused(key, problem));
            match key {
                LoginKey::Address => own.address = Some(said()?),
                LoginKey::Audience => own.audience = Some(said()?),
                LoginKey::Mount => own.mount = Some(said()?),
                LoginKey::Namespace => own.namespace = Some(said()?),
                LoginKey::Role => own.role = Some(said()?),
                LoginKey::Tls | LoginKey::TlsDir => own.tls.clone_from(&login.tls),
            }
        }
        Ok(own)
    }
}

pub(super) fn canonical(name: &str) -> Result<SecretName, InvalidName> {
    let element = name.split('/').find(|element| element.starts_with(' ') || element.ends_with(' '));
    match element {
        Some(_) => {
            Err(InvalidName::Store("has an element that begins or ends with a blank (write the name as its store lists it)".to_owned()))
        }
        None => SecretName::escapable(name),
    }
}

pub(super) fn check_request(asked: &RefParts) -> Result<(), Inadmissible> {
    let problem = |key, problem: &str| Err(Inadmissible::Request { key, problem: problem.to_owned() });
    match asked.method {
        Method::List | Method::Post | Method::Put if asked.version.is_some() => {
            problem("version", "can be used only with GET: only a read has versions (remove it)")
        }
        Method::Get if asked.version.is_some() && asked.args.names().any(|name| name == "version") => {
            problem("args", "have a version, and the object itself has one too (remove one)")
        }
        Method::Get | Method::List | Method::Post | Method::Put => Ok(()),
    }
}

/// The one spelling of a value that a class sets for its login.
fn spelled(key: LoginKey, value: &str) -> Result<String, String> {
    match key {
        LoginKey::Address => value.parse().map(|endpoint: Endpoint| endpoint.to_string()).map_err(|error| error.to_string()),
        LoginKey::Audience | LoginKey::Role => filled(value).map_err(str::to_owned),
        LoginKey::Mount => path(value),
        LoginKey::Namespace => {
            canonical_namespace(value).map(|namespace| if namespace.is_empty() { ROOT_NAMESPACE.to_owned() } else { namespace })
        }
        LoginKey::Tls | LoginKey::TlsDir => Ok(value.to_owned()),
    }
}

pub(super) fn refused(key: LoginKey, problem: impl Into<String>) -> Inadmissible {
    Inadmissible::Login { key, problem: problem.into() }
}

/// Without slashes at its ends; the root namespace is empty.
pub(super) fn canonical_namespace(text: &str) -> Result<String, String> {
    match text.trim_matches('/') {
        "" | ROOT_NAMESPACE => Ok(String::new()),
        text => path(text),
    }
}

/// A mount or a namespace: it becomes elements of an address's path.
fn path(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    // People write these by hand, and need no escaped characters.
    match canonical(path).and_then(|_| path.parse::<SecretName>()) {
        Ok(path) => Ok(path.to_string()),
        Err(cause) => Err(format!("{cause}")),
    }
}

// === reading ===

fn share(text: &str) -> Result<Share, String> {
    match text {
        "pod" => Ok(Share::Pod),
        "serviceAccount" => Ok(Share::ServiceAccount),
        other => Err(unknown_key(other, &["serviceAccount", "pod"]).replace("known key", "way to share")),
    }
}

fn class_may(reader: &mut Reader<'_>, auth: Option<&Auth>, faults: &mut Faults) -> ClassMay {
    let Some(mut inner) = reader.reader("classMay", faults) else { return ClassMay::default() };
    let may = ClassMay::parse(&mut inner, spelled, faults);
    let own = matches!(auth, Some(Auth::AppRole { .. } | Auth::Cert { .. } | Auth::Token { .. }));
    for key in [LoginKey::Address, LoginKey::Tls].into_iter().filter(|key| own && may.grants(*key)) {
        let at = inner.get(key.as_str()).map_or(inner.at(), |node| node.at);
        let problem = "cannot be granted here: a class could send the daemon's own credentials to any server (log in as the Pod, \
                       by kubernetes or jwt; or remove it)";
        faults.add(at, inner.path(key.as_str()), problem);
    }
    inner.finish(faults);
    may
}

/// Keys of `auth`, and the methods they go with.
const AUTH_KEYS: [(&str, &[&str]); 8] = [
    ("mount", &["kubernetes", "jwt", "approle", "cert"]),
    ("role", &["kubernetes", "jwt", "cert"]),
    ("audience", &["kubernetes", "jwt"]),
    ("roleId", &["approle"]),
    ("roleIdFile", &["approle"]),
    ("secretIdFile", &["approle"]),
    ("tokenFile", &["token"]),
    ("method", &METHODS),
];

const METHODS: [&str; 5] = ["kubernetes", "jwt", "approle", "cert", "token"];

fn auth(reader: &mut Reader<'_>, has_certificate: bool, faults: &mut Faults) -> Option<Auth> {
    let Some(mut inner) = reader.reader("auth", faults) else {
        if reader.get("auth").is_none() {
            reader.missing("auth", "how Keyferry logs in to the server, such as { method: kubernetes, role: csi }", faults);
        }
        return None;
    };
    let method = inner.parsed("method", faults, method);
    if inner.get("method").is_none() {
        inner.missing("method", &format!("one of {}", METHODS.join(", ")), faults);
    }
    let auth = method.and_then(|method| auth_of(method, &mut inner, faults));
    if let (Some(Auth::Cert { .. }), false) = (&auth, has_certificate) {
        let problem = "cert logs in with a client certificate, and there is none (set clientCert and clientKey of the backend)";
        faults.add(inner.at(), inner.path("method"), problem);
    }
    // The keys of other methods are known, but wrong here.
    for (key, methods) in AUTH_KEYS {
        if let (Some(node), Some(method)) = (inner.get(key), method.filter(|method| !methods.contains(method))) {
            faults.add(node.at, inner.path(key), format!("works only with {}, not with {method} (remove it)", methods.join(", ")));
        }
    }
    inner.finish(faults);
    auth
}

fn auth_of(method: &'static str, inner: &mut Reader<'_>, faults: &mut Faults) -> Option<Auth> {
    let mount = inner.parsed("mount", faults, path).unwrap_or_else(|| method.to_owned());
    let role = inner.parsed("role", faults, filled);
    match method {
        "approle" => Some(Auth::AppRole { mount, role_id: role_id(inner, faults)?, secret_id: file(inner, "secretIdFile", faults) }),
        "cert" => Some(Auth::Cert { mount, role }),
        "token" => {
            if inner.get("tokenFile").is_none() {
                inner.missing("tokenFile", "the file that holds the store token", faults);
            }
            Some(Auth::Token { file: file(inner, "tokenFile", faults)? })
        }
        method => {
            let audience = inner.parsed("audience", faults, filled);
            let method = if method == "jwt" { PodMethod::Jwt } else { PodMethod::Kubernetes };
            Some(Auth::Pod { method, mount, role, audience })
        }
    }
}

fn method(text: &str) -> Result<&'static str, String> {
    let known = METHODS.into_iter().find(|method| *method == text);
    known.ok_or_else(|| unknown_key(text, &METHODS).replace("known key", "way to log in"))
}

fn role_id(inner: &mut Reader<'_>, faults: &mut Faults) -> Option<RoleId> {
    let (text, file) = (inner.parsed("roleId", faults, filled), file(inner, "roleIdFile", faults));
    match (inner.get("roleId"), inner.get("roleIdFile")) {
        (Some(_), Some(node)) => faults.add(node.at, inner.path("roleIdFile"), "cannot be used together with `roleId` (remove one)"),
        (None, None) => inner.missing("roleId", "the role's id, or roleIdFile, a file that holds it", faults),
        (Some(_), None) | (None, Some(_)) => {}
    }
    text.map(RoleId::Text).or(file.map(RoleId::File))
}

// === impl PodMethod ===

impl PodMethod {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Kubernetes => "kubernetes",
        }
    }
}

#[cfg(test)]
mod tests;
