//! Whether a store could serve a mount now. Probes come from several sides, so the store is asked at most once in a few seconds.

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::refusal::Refusal;

/// How long a store may take to answer.
pub(in crate::backend) const TIME: Duration = Duration::from_secs(2);

/// How long an answer is used again.
const GOOD: Duration = Duration::from_secs(5);

/// The last answer.
#[derive(Debug, Default)]
pub(in crate::backend) struct Health(Mutex<Option<(Instant, Result<(), Refusal>)>>);

impl Health {
    /// Callers that ask at the same time share one call.
    pub(in crate::backend) async fn check(&self, ask: impl Future<Output = Result<(), Refusal>>) -> Result<(), Refusal> {
        let mut last = self.0.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < GOOD) {
            return answer.clone();
        }
        let answer = ask.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}
