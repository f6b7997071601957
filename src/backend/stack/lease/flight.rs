//! One issuing under way, for all who wait for it. Whoever began it may be gone before it ends. If the store was called by then, it goes on
//! in a task of its own: a credential that a store has made is kept for the next mount, where a dropped call would leave it to nobody.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::backend::{BackendError, Called};

/// For those who wait. An error of the channel: the issuing was given up, or panicked.
pub(super) type Flight = Shared<oneshot::Receiver<Landing>>;

/// How an issuing ended.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    Failed(BackendError),
    /// The table has it.
    Kept,
    /// The answer has no lease: each asks for its own.
    Plain,
}

/// Runs in its caller's task; when the caller drops it after a store was called, in one of its own. What has only waited for its turn ends
/// with its caller: many that nobody wants any more would hold memory, and make leases for nobody.
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
        // Taken out, so that work that panics is not handed over.
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
