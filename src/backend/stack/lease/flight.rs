//! One request for a lease, shared by all who wait for it. The caller that began it may go away before it ends. If the store was called by then,
//! the request goes on in a task of its own: the table keeps the credential for the next mount. Otherwise nobody would have it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::backend::{BackendError, Called};

/// For those who wait. If the channel has an error, the request was given up, or panicked.
pub(super) type Flight = Shared<oneshot::Receiver<Landing>>;

/// How the request ended.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    Failed(BackendError),
    /// The table has it.
    Kept,
    /// The answer has no lease: each asks for its own.
    Plain,
}

/// Runs in its caller's task. If the caller drops it after a store was called, it goes on in a task of its own. If it has only waited for its turn,
/// it ends with its caller: otherwise many unneeded requests would hold memory and make leases for nobody.
pub(super) struct HandOver<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    called: Called,
}

impl<T: Send + 'static> HandOver<T> {
    /// `called` is marked once the work has called a store.
    pub fn new(called: Called, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), called }
    }
}

impl<T: Send + 'static> Future for HandOver<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out, so that work that panics does not go on in another task.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for HandOver<T> {
    fn drop(&mut self) {
        if let (Some(work), true, Ok(runtime)) = (self.work.take(), self.called.is_marked(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}
