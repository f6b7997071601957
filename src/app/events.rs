//! Sends the Events that mounts have left on the board, one after the other, by the configuration that is in force then.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::pods::PodWatch;
use crate::events::Reason;
use crate::pipeline::Pipeline;
use crate::telemetry::EventOutcome;

/// Runs until the future is dropped. What is on the board then is not sent.
pub(super) async fn run(pipeline: Arc<ArcSwap<Pipeline>>, pods: Arc<PodWatch>) -> Infallible {
    // It outlives reloads.
    let commons = Arc::clone(&pipeline.load().commons);
    loop {
        let notice = commons.board.next().await;
        let now = pipeline.load_full();
        // A Pod that is older than this process may have its first mount here, but the Pod did not start with that mount.
        let is_so = notice.reason != Reason::StartedStale || !pods.has_run(&notice.pod.uid, notice.at).await;
        match &now.teller {
            Some(teller) if is_so => teller.tell(&notice).await,
            Some(_) => {}
            None => now.metrics.event(EventOutcome::Dropped),
        }
        commons.board.done(notice);
    }
}
