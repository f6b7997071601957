//! Writes volumes again when a file changes that their secrets come from. Keyferry looks at the files once per second. Each file vault has
//! one thread for that, however long its file system blocks the thread.
//!
//! Keyferry does not rely on inotify here: network file systems do not report what others write, and a folder that is replaced by another
//! (a ConfigMap, git-sync) takes its watches with it.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use crate::delivery::DeliveryMode;
use crate::pipeline::{Due, Pipeline};

/// The time from one look to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How long a change waits for its turn. After that it is due again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until the future is dropped. A write that has begun then still finishes.
pub(super) async fn run(pipeline: Arc<ArcSwap<Pipeline>>) -> Infallible {
    let (mut looking, mut at_work) = (JoinSet::new(), JoinSet::new());
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let now = pipeline.load_full();
                match now.deliverer.mode() {
                    DeliveryMode::Driver => now.commons.watch.clear(),
                    DeliveryMode::Provider => {
                        for look in now.commons.watch.looks(Instant::now()) {
                            looking.spawn_blocking(move || look.run());
                        }
                    }
                }
            }
            // The panic hook has logged it.
            Some(_ended) = looking.join_next() => {}
            Some(_ended) = at_work.join_next() => continue,
        }
        for due in pipeline.load().commons.watch.due(Instant::now()) {
            at_work.spawn(change(Arc::clone(&pipeline), due));
        }
    }
}

/// In the tenant's turn, and by the configuration that is in force then.
async fn change(pipeline: Arc<ArcSwap<Pipeline>>, due: Due) {
    let turns = pipeline.load().commons.watch.turns().clone();
    let turn = turns.take(due.tenant(), Instant::now() + PATIENCE).await;
    if turn.is_some() {
        Box::pin(pipeline.load_full().change(due)).await;
    }
}
