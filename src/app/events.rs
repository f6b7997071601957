//! Tells the Events that mounts have left on the board, one after the other, by the configuration that is in force then.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::pods::PodWatch;
use crate::events::Reason;
use crate::pipeline::Pipeline;
use crate::telemetry::EventOutcome;

/// Until the future is dropped. What is on the board then is not told.
pub(super) async fn run(pipeline: Arc<ArcSwap<Pipeline>>, pods: Arc<PodWatch>) -> Infallible {
    // It outlives reloads.
    let commons = Arc::clone(&pipeline.load().commons);
    loop {
        let notice = commons.board.next().await;
        let now = pipeline.load_full();
        // A Pod that was there before this process may have its first mount here, but it has not started from that.
        let is_so = notice.reason != Reason::StartedStale || !pods.has_run(&notice.pod.uid, notice.at).await;
        match &now.teller {
            Some(teller) if is_so => teller.tell(&notice).await,
            Some(_) => {}
            None => now.metrics.event(EventOutcome::Dropped),
        }
        commons.board.done(notice);
    }
}
