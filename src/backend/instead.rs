//! Another secret for when the store of one is out: what a class says for itself, as `kind: failover` is what a configuration says. Each of the
//! two has a permit, and may have a name and a store of its own.
//!
//! Only an outage leads to the other one. What the first store denies or does not have is its answer.

use super::failover::order::{self, FIRST, SECOND, Side};
use super::{BackendError, Fault, FetchContext};
use crate::model::{Fetched, Shown};

/// The answer, with the place of the one that gave it.
pub(super) async fn fetch(sides: [Side<'_>; 2], cx: &FetchContext) -> Result<(usize, Fetched), BackendError> {
    let first = match order::fetch_first(sides[FIRST], cx).await {
        Ok(fetched) => return Ok((FIRST, fetched)),
        Err(error) if !error.fault.is_outage() => return Err(error),
        Err(error) => error,
    };
    let second = match order::fetch_second(sides, cx).await {
        Ok(fetched) => return Ok((SECOND, fetched)),
        // The mount asks again, once it has memory for the answer.
        Err(error) if error.fault == Fault::Short => return Err(error),
        Err(error) => error,
    };
    let error = both(&first, &second, sides[SECOND]);
    order::newest(sides, cx, &error.reason).await.ok_or(error)
}

/// The first is out, and the other does not help: that is an outage of the first's kind, whatever the other says.
fn both(first: &BackendError, second: &BackendError, instead: Side<'_>) -> BackendError {
    let other = Shown(&instead.secret.backend, &instead.secret.name);
    let told = |one: &str, two: &str| format!("{one}; {other}, asked for instead: {two}");
    let has_more = first.source.is_some() || second.source.is_some();
    let full = has_more.then(|| told(&first.reason_in_full(), &second.reason_in_full()));
    BackendError::with(first.fault, first.backend.clone(), first.secret.clone(), told(&first.reason, &second.reason), full)
}
