//! Looks at one store for `keyferry doctor`: what the store needs, and whether it could serve a mount now. The words are those of readiness.

use super::{Backend, BackendError};
use crate::model::{BackendName, Diagnosis, Level, PodIdentity, PodTokens};

/// A Pod and its tokens, which an admin gave to try a login. Keyferry believes the admin, and the store verifies the tokens.
#[derive(Debug)]
pub struct Visitor {
    pub pod: PodIdentity,
    pub tokens: PodTokens,
}

/// For a store that can only say whether it answers. `well` is the text if it does.
pub(super) async fn checked(backend: &dyn Backend, name: &BackendName, well: String) -> Vec<Diagnosis> {
    match backend.check().await {
        Ok(()) => vec![Diagnosis::ok(format!("backend {name}"), well)],
        Err(error) => vec![failure(name, &error)],
    }
}

pub(super) fn failure(name: &BackendName, error: &BackendError) -> Diagnosis {
    Diagnosis::of_error(Level::Fail, format!("backend {name}"), &error.reason_in_full())
}
