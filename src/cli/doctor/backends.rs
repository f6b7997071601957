//! The stores, each looked at by its own room.

use std::sync::Arc;

use futures_util::future::join_all;

use super::bounded;
use super::tokens::Given;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::Diagnosis;

/// Looks at all of them at once.
pub async fn examine(config: &Config, _given: &Given, clock: &Arc<dyn Clock>) -> Vec<Diagnosis> {
    let most = config.limits.secret_bytes;
    let looks = config
        .backends
        .iter()
        .map(|(name, backend)| async move { bounded(&format!("backend {name}"), backend.examine(name, most, clock)).await });
    join_all(looks).await.concat()
}
