//! A look at one store, for `keyferry doctor`: what it needs, and whether it could serve a mount now, in the words of readiness.

use super::{Backend, BackendError};
use crate::model::{BackendName, Diagnosis, Level, PodIdentity, PodTokens};

/// Whose tokens an admin gave to try a login with. Nobody has verified them: the store will.
#[derive(Debug)]
pub struct Visitor {
    pub pod: PodIdentity,
    pub tokens: PodTokens,
}

/// A store of which there is no more to say than whether it answers. `well` is what a good check means.
pub(super) async fn checked(backend: &dyn Backend, name: &BackendName, well: String) -> Vec<Diagnosis> {
    match backend.check().await {
        Ok(()) => vec![Diagnosis::ok(format!("backend {name}"), well)],
        Err(error) => vec![failure(name, &error)],
    }
}

pub(super) fn failure(name: &BackendName, error: &BackendError) -> Diagnosis {
    Diagnosis::of_error(Level::Fail, format!("backend {name}"), &error.reason_in_full())
}
