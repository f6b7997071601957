//! The stores. The module of each backend looks at its own store.

use std::sync::Arc;

use futures_util::future::join_all;

use super::bounded;
use super::tokens::Given;
use crate::backend::StoreLimits;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::Diagnosis;

/// Looks at all of them at once.
pub async fn examine(config: &Config, given: &Given, clock: &Arc<dyn Clock>) -> Vec<Diagnosis> {
    let limits = StoreLimits { secret_bytes: config.limits.secret_bytes, remembered: 0, clients: 0, calls: 1 };
    let looks = config.backends.iter().map(|(name, backend)| async move {
        let visitor = backend.kind().facts().audience.and_then(|audience| given.visitor(audience.text));
        bounded(&format!("backend {name}"), Box::pin(backend.examine(name, limits, clock, visitor))).await
    });
    join_all(looks).await.concat()
}
