//! What a class asks of a backend, before the backend has checked it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::time::Duration;

use super::{LeaseFor, Method};

/// One request as a class writes it: a [`Catalogue`](super::Catalogue) makes a [`SecretRef`](super::SecretRef) of it.
#[derive(Clone, Debug, Default)]
pub struct Ask<'c> {
    /// `None`: the only one there is.
    pub backend: Option<&'c str>,
    pub name: &'c str,
    /// The object asks for all secrets below it: the name is a folder's, without the `/` at its end.
    pub below: bool,
    pub version: Option<&'c str>,
    pub method: Method,
    pub args: Args,
    pub lease: LeaseFor,
    pub keep: Option<Duration>,
    pub login: Login,
}

/// Arguments of a request, by name, in a fixed order. Their values may be secret: `Debug` shows only the names.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Args(BTreeMap<String, String>);

/// How and as whom Keyferry logs in to a store, as far as a class says it.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Login {
    pub address: Option<String>,
    pub audience: Option<String>,
    /// Where the store's login is, such as `kubernetes` or `jwt`.
    pub mount: Option<String>,
    pub namespace: Option<String>,
    pub role: Option<String>,
    pub tls: Option<Box<LoginTls>>,
}

/// How Keyferry checks a store's certificate, and which certificate it shows to the store.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LoginTls {
    /// PEM certificates: a file, or a folder of them.
    pub ca: Option<PathBuf>,
    /// Keyferry's own certificate, with its key; both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    pub server_name: Option<String>,
    pub skip_verify: bool,
}

/// A part of [`Login`], under the native format's word for it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LoginKey {
    Address,
    Audience,
    Mount,
    Namespace,
    Role,
    Tls,
    /// The files among the TLS settings: all of them are below one folder.
    TlsDir,
}

// === impl Args ===

impl Args {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text, or any other JSON value.
    pub fn insert(&mut self, name: impl Into<String>, value: &Value) {
        self.0.insert(name.into(), value.to_string());
    }

    /// A value that is JSON already. Two spellings of one value count as two values.
    pub fn insert_json(&mut self, name: impl Into<String>, json: String) {
        self.0.insert(name.into(), json);
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The value with a name, if it is a text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(|json| serde_json::from_str(json).ok())
    }

    /// How many bytes of text they are.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// As a JSON object, for a body.
    pub fn to_json(&self) -> String {
        let members: Vec<String> = self.0.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
        format!("{{{}}}", members.join(","))
    }

    /// As names and texts, for a query: a text stays as it is, anything else becomes JSON.
    pub fn to_pairs(&self) -> Vec<(&str, String)> {
        let text = |json: &String| serde_json::from_str::<String>(json).unwrap_or_else(|_| json.clone());
        self.0.iter().map(|(name, json)| (name.as_str(), text(json))).collect()
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

// === impl Login ===

impl Login {
    /// Its parts that have a value.
    pub fn said(&self) -> Vec<(LoginKey, &str)> {
        let texts = [
            (LoginKey::Address, &self.address),
            (LoginKey::Audience, &self.audience),
            (LoginKey::Mount, &self.mount),
            (LoginKey::Namespace, &self.namespace),
            (LoginKey::Role, &self.role),
        ];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text.as_deref()?)));
        texts.chain(self.tls.as_ref().map(|_| (LoginKey::Tls, "its own settings"))).collect()
    }

    /// The files that it names.
    pub fn files(&self) -> Vec<(LoginKey, &str)> {
        let files = self.tls.iter().flat_map(|tls| tls.files());
        // They are made of texts, so they are texts.
        files.filter_map(|file| Some((LoginKey::TlsDir, file.to_str()?))).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.said().is_empty()
    }

    /// Removes the value of a key. Says whether there was one.
    pub fn forget(&mut self, key: LoginKey) -> bool {
        match key {
            LoginKey::Address => self.address.take().is_some(),
            LoginKey::Audience => self.audience.take().is_some(),
            LoginKey::Mount => self.mount.take().is_some(),
            LoginKey::Namespace => self.namespace.take().is_some(),
            LoginKey::Role => self.role.take().is_some(),
            LoginKey::Tls | LoginKey::TlsDir => self.tls.take().is_some(),
        }
    }
}

// === impl LoginTls ===

impl LoginTls {
    /// Every file (or folder) that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(client).map(PathBuf::as_path)
    }
}

// === impl LoginKey ===

impl LoginKey {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Audience => "audience",
            Self::Mount => "mount",
            Self::Namespace => "namespace",
            Self::Role => "role",
            Self::Tls => "tls",
            Self::TlsDir => "tlsDir",
        }
    }
}

impl fmt::Display for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_one_request_whatever_their_order() {
        let args = |pairs: &[(&str, Value)]| {
            let mut args = Args::default();
            for (name, value) in pairs {
                args.insert(*name, value);
            }
            args
        };
        let one = args(&[("ttl", json!("24h")), ("alt", json!(["a", "b"])), ("n", json!(u64::MAX))]);
        let other = args(&[("n", json!(u64::MAX)), ("alt", json!(["a", "b"])), ("ttl", json!("24h"))]);
        assert_eq!(one, other);
        assert_eq!(one.to_json(), r#"{"alt":["a","b"],"n":18446744073709551615,"ttl":"24h"}"#);
        assert_eq!(one.to_pairs()[0], ("alt", r#"["a","b"]"#.to_owned()));
        assert_eq!(one.to_pairs()[2], ("ttl", "24h".to_owned()));
        assert!(!format!("{one:?}").contains("24h"));
    }

    #[test]
    fn a_part_is_forgotten_once() {
        let mut login = Login { audience: Some("own".to_owned()), ..Login::default() };
        assert!(login.forget(LoginKey::Audience) && !login.forget(LoginKey::Audience) && !login.forget(LoginKey::Tls));
        assert!(login.is_empty());
    }
}
