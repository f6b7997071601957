//! Writes volumes when a file changes that their secrets come from. Each second the files are looked at: one thread for each file vault,
//! however long its file system keeps that thread.
//!
//! There is no inotify: network file systems do not tell what others write, and a folder that is swapped for another (a ConfigMap, git-sync)
//! takes its watches along.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use crate::delivery::DeliveryMode;
use crate::pipeline::{Due, Pipeline};

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How long a change waits for its turn. It is due again after that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Until the future is dropped. A write that has begun then ends by itself.
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
            // The hook has logged a panic.
            Some(_ended) = looking.join_next() => {}
            Some(_ended) = at_work.join_next() => continue,
        }
        for due in pipeline.load().commons.watch.due(Instant::now()) {
            at_work.spawn(change(Arc::clone(&pipeline), due));
        }
    }
}

/// In the tenant's turn, and by the configuration as it is then.
async fn change(pipeline: Arc<ArcSwap<Pipeline>>, due: Due) {
    let turns = pipeline.load().commons.watch.turns().clone();
    let turn = turns.take(due.tenant(), Instant::now() + PATIENCE).await;
    if turn.is_some() {
        Box::pin(pipeline.load_full().change(due)).await;
    }
}
