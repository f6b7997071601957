//! Another secret for when the store of the first one is out. A class sets this for one secret; `kind: failover` sets it in the configuration. Each
//! of the two secrets has its own permit, and may have another name and another store.
//!
//! Only an outage leads to the other secret. If the first store denies the request or does not have the secret, that is the answer.

use super::failover::order::{self, FIRST, SECOND, Side};
use super::{BackendError, Fault, FetchContext};
use crate::model::{Fetched, Shown};

/// The answer, and the place of the secret that it belongs to.
pub(super) async fn fetch(sides: [Side<'_>; 2], cx: &FetchContext) -> Result<(usize, Fetched), BackendError> {
    let first = match order::fetch_first(sides[FIRST], cx).await {
        Ok(fetched) => return Ok((FIRST, fetched)),
        Err(error) if !error.fault.is_outage() => return Err(error),
        Err(error) => error,
    };
    let second = match order::fetch_second(sides, cx).await {
        Ok(fetched) => return Ok((SECOND, fetched)),
        // The mount asks again when it has memory for the answer.
        Err(error) if error.fault == Fault::Short => return Err(error),
        Err(error) => error,
    };
    let error = both(&first, &second, sides[SECOND]);
    order::newest(sides, cx, &error.reason).await.ok_or(error)
}

/// The first store is out, and the other one does not help. The error is an outage of the first store's kind, whatever the other one says.
fn both(first: &BackendError, second: &BackendError, instead: Side<'_>) -> BackendError {
    let other = Shown(&instead.secret.backend, &instead.secret.name);
    let told = |one: &str, two: &str| format!("{one}; {other}, asked for instead: {two}");
    let has_more = first.source.is_some() || second.source.is_some();
    let full = has_more.then(|| told(&first.reason_in_full(), &second.reason_in_full()));
    BackendError::with(first.fault, first.backend.clone(), first.secret.clone(), told(&first.reason, &second.reason), full)
}
