//! Whether a store could serve a mount now, asked no more often than every few seconds: probes come from several sides.

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::refusal::Refusal;

/// How long a store is given to answer.
pub(in crate::backend) const TIME: Duration = Duration::from_secs(2);

/// How long an answer is good.
const GOOD: Duration = Duration::from_secs(5);

/// The last answer.
#[derive(Debug, Default)]
pub(in crate::backend) struct Health(Mutex<Option<(Instant, Result<(), Refusal>)>>);

impl Health {
    /// Those who come at once share one call.
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
