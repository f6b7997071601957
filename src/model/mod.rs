//! Parsed values, and nothing that does I/O: what every other room talks in.

mod ask;
mod code;
mod diagnosis;
mod faults;
mod file;
mod ids;
mod layout;
mod plan;
mod pod;
mod query;
mod quoted;
mod request;
mod secret;
mod tenant;

pub use ask::{Args, Ask, Login, LoginKey, LoginTls};
pub use code::Code;
pub use diagnosis::{Diagnosis, Level, NamedFile};
pub use faults::{FaultList, MAX_FAULTS};
pub use file::{FileMode, FilePath, FolderPath, InvalidMode, InvalidOwner, InvalidPath, Owner};
pub use ids::{BackendName, FieldName, InvalidBackendName, InvalidFieldName, InvalidName, RequestId, SecretName, Version};
pub use layout::{Claim, Clash, clashes};
pub use plan::{
    Catalogue, ClassFault, ClassFaults, ClassWarning, Encoding, FieldPattern, Label, Newline, Object, Parse, Part, Plan, Select, Serving,
    Unresolved, VersionIds,
};
pub use pod::{Account, CSI_DRIVER, PodClaims, PodIdentity, PodToken, PodTokens, RawTokens};
pub use query::{InvalidQuery, Missing, Query, QueryError};
pub use quoted::{clean, quoted, visible};
pub use request::{MountCall, Parameters, Request, RequestFault, is_label, is_subdomain};
pub use secret::{
    Fetched, Field, FieldKind, Lease, LeaseFor, Method, RefParts, Secret, SecretBytes, SecretPrefix, SecretRef, Shown, Source, UNASKED,
    Verb, is_seen,
};
pub use tenant::Tenant;
