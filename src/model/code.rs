//! The word that names a failure: the message begins with it, and metrics and audit lines have it.

use std::fmt;

/// Why a mount failed, in one word. `docs/errors.md` has a section for each.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Code {
    AuditUnavailable,
    BackendDenied,
    BackendLoginFailed,
    BackendTimeout,
    BackendUnavailable,
    IdentityUnverified,
    Internal,
    InvalidRequest,
    Overloaded,
    PolicyDenied,
    SecretCorrupt,
    SecretNotFound,
    TooLarge,
}

impl Code {
    /// Every code, in alphabetical order.
    pub const ALL: [Self; 13] = [
        Self::AuditUnavailable,
        Self::BackendDenied,
        Self::BackendLoginFailed,
        Self::BackendTimeout,
        Self::BackendUnavailable,
        Self::IdentityUnverified,
        Self::Internal,
        Self::InvalidRequest,
        Self::Overloaded,
        Self::PolicyDenied,
        Self::SecretCorrupt,
        Self::SecretNotFound,
        Self::TooLarge,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuditUnavailable => "AuditUnavailable",
            Self::BackendDenied => "BackendDenied",
            Self::BackendLoginFailed => "BackendLoginFailed",
            Self::BackendTimeout => "BackendTimeout",
            Self::BackendUnavailable => "BackendUnavailable",
            Self::IdentityUnverified => "IdentityUnverified",
            Self::Internal => "Internal",
            Self::InvalidRequest => "InvalidRequest",
            Self::Overloaded => "Overloaded",
            Self::PolicyDenied => "PolicyDenied",
            Self::SecretCorrupt => "SecretCorrupt",
            Self::SecretNotFound => "SecretNotFound",
            Self::TooLarge => "TooLarge",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
