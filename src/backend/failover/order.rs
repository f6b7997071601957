//! In which order two stores are asked, and for how long: the first, then the second if the first is out, then the newest old answer.

use tokio::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, Called, Fault, FetchContext};
use crate::model::{Fetched, SecretRef};

/// How long a store may take if there is another way after it: as long as the client's tries may take if no server is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The part of a mount's time that is left for what comes after its secrets.
const REST: Duration = Duration::from_secs(1);

/// The places of the two.
pub(in crate::backend) const FIRST: usize = 0;
pub(in crate::backend) const SECOND: usize = 1;

/// A store, and the request to it.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Side<'a> {
    pub backend: &'a dyn Backend,
    pub secret: &'a SecretRef,
}

/// Asks the first store. If it hangs, there is time left for the other one.
pub(in crate::backend) async fn fetch_first(side: Side<'_>, cx: &FetchContext) -> Result<Fetched, BackendError> {
    let Side { backend, secret } = side;
    let now = Instant::now();
    let share = cx.deadline.saturating_duration_since(now) / 2;
    let (patience, deadline) = (Some(PATIENCE.min(share)), now + share);
    let mut answer = backend.fetch(secret, &FetchContext { patience, deadline, ..live(cx) }).await;
    if let Err(error) = &mut answer
        && error.fault == Fault::NoTurn
    {
        // Other requests were before this one, at a store that may well answer.
        if backend.is_out(secret, cx) {
            error.fault = Fault::TimedOut;
        } else {
            answer = backend.fetch(secret, &live(cx)).await;
        }
    }
    answer
}

/// Asks the second store. If there is an old answer, it does not wait as long as it could.
pub(in crate::backend) async fn fetch_second(sides: [Side<'_>; 2], cx: &FetchContext) -> Result<Fetched, BackendError> {
    let Side { backend, secret } = sides[SECOND];
    if ages(sides, cx).await == [None, None] {
        return backend.fetch(secret, &live(cx)).await;
    }
    let rest = REST.min(cx.deadline.saturating_duration_since(Instant::now()) / 10);
    let (patience, deadline) = (Some(PATIENCE), cx.deadline - rest);
    backend.fetch(secret, &FetchContext { patience, deadline, ..live(cx) }).await
}

/// The old answer that may be given while both are out, with the place of the store that has it.
pub(in crate::backend) async fn newest(sides: [Side<'_>; 2], cx: &FetchContext, cause: &str) -> Option<(usize, Fetched)> {
    let order = match ages(sides, cx).await {
        [Some(first), Some(second)] if first <= second => [FIRST, SECOND],
        [_, Some(_)] => [SECOND, FIRST],
        [Some(_), None] => [FIRST, SECOND],
        [None, None] => return None,
    };
    for at in order {
        let Side { backend, secret } = sides[at];
        if let Some(fetched) = backend.stale(secret, cx, cause).await {
            return Some((at, fetched));
        }
    }
    None
}

async fn ages([first, second]: [Side<'_>; 2], cx: &FetchContext) -> [Option<Duration>; 2] {
    [first.backend.stale_age(first.secret, cx).await, second.backend.stale_age(second.secret, cx).await]
}

/// For a request that must not get an old answer, because the next store is asked first. Each request records by itself whether a store was called.
pub(in crate::backend) fn live(cx: &FetchContext) -> FetchContext {
    FetchContext { live: true, called: Called::default(), ..cx.clone() }
}
