//! A mount request, parsed from what the driver sends (PROTOCOL: Mount request).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Code, FileMode, PodClaims, RawTokens, SecretBytes};

/// The driver's call as it came over the wire. Attributes and secrets may hold tokens: `Debug` shows neither.
pub struct MountCall {
    pub attributes: String,
    pub secrets: String,
    pub target_path: String,
    pub permission: String,
}

/// A request whose every part has been read.
#[derive(Debug)]
pub struct Request {
    pub claims: PodClaims,
    /// The SecretProviderClass's name, where the driver said it.
    pub class: Option<String>,
    /// The class's parameters and the volume's attributes, merged by the driver; without the keys that hold tokens.
    pub parameters: BTreeMap<String, String>,
    pub tokens: RawTokens,
    /// From `nodePublishSecretRef`, without tokens.
    pub secrets: BTreeMap<String, Arc<SecretBytes>>,
    pub permission: FileMode,
    pub target_path: String,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestFault {
    /// The part at fault: `attributes`, `secrets`, `permission`, `target_path`, or a key of the attributes.
    pub key: String,
    pub problem: String,
    pub code: Code,
}

impl fmt::Debug for MountCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountCall")
            .field("attributes", &format_args!("({} bytes, redacted)", self.attributes.len()))
            .field("secrets", &format_args!("({} bytes, redacted)", self.secrets.len()))
            .field("target_path", &self.target_path)
            .field("permission", &self.permission)
            .finish()
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}
