//! Parsed values, without any I/O: all other modules use them.

mod ask;
mod below;
mod code;
mod diagnosis;
mod faults;
mod file;
mod ids;
mod keystore;
mod layout;
mod plan;
mod pod;
mod query;
mod quoted;
mod request;
mod secret;
mod template;
mod tenant;

pub use ask::{Args, Ask, Login, LoginKey, LoginTls};
pub use below::{Below, Listing, RENAMED};
pub use code::Code;
pub use diagnosis::{Diagnosis, Level, NamedFile};
pub use faults::{FaultList, MAX_FAULTS};
pub use file::{FileMode, FilePath, FolderPath, InvalidMode, InvalidOwner, InvalidPath, Owner};
pub use ids::{BackendName, FieldName, InvalidBackendName, InvalidFieldName, InvalidName, RequestId, SecretName, Version};
pub use keystore::{FieldOf, Keystore, PasswordOf};
pub use layout::{Claim, Clash, clashes};
pub use plan::{
    Catalogue, ClassFault, ClassFaults, ClassWarning, Delivers, Encoding, FieldPattern, Label, Newline, Object, Parse, Part, Plan, Search,
    Select, Serving, Unresolved, VersionIds,
};
pub use pod::{Account, CSI_DRIVER, PodClaims, PodIdentity, PodToken, PodTokens, RawTokens};
pub use query::{InvalidQuery, Missing, Query, QueryError};
pub use quoted::{clean, quoted, visible};
pub use request::{MountCall, Parameters, Request, RequestFault, is_label, is_subdomain};
pub use secret::{
    Fetched, Field, FieldKind, Lease, LeaseFor, Method, RefParts, Response, Secret, SecretBytes, SecretPrefix, SecretRef, Shown, Source,
    UNASKED, Verb, is_seen,
};
pub use template::{MAX_TEMPLATE, Template, TemplateFault, Unrendered};
pub use tenant::Tenant;
