//! Whether the store could serve a mount now: somebody answers there, and not with a failure of its own.

use bytes::Bytes;
use http::{Method, Request};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::HttpBackend;
use super::credentials::Credentials;
use crate::backend::Fault;
use crate::backend::refusal::Refusal;
use crate::http::HttpError;

/// How long the store is given to answer.
const TIME: Duration = Duration::from_secs(2);

/// How long an answer is good: probes come from several sides.
const GOOD: Duration = Duration::from_secs(5);

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<(Instant, Result<(), Refusal>)>>);

impl Health {
    /// Those who come at once share one call.
    pub(super) async fn check(&self, backend: &HttpBackend) -> Result<(), Refusal> {
        let mut last = self.0.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < GOOD) {
            return answer.clone();
        }
        let answer = backend.ask_health().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

impl HttpBackend {
    /// Asks as nobody: that it refuses shows that it is there.
    async fn ask_health(&self) -> Result<(), Refusal> {
        Credentials::check(&self.config)?;
        let (method, path) = self.config.check.as_deref().map_or((Method::HEAD, "/"), |path| (Method::GET, path));
        let server = self.client.endpoint();
        let unfit = |error: HttpError| Refusal::unanswered(server, &error, "");
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method;
        *request.uri_mut() = server.uri(path).map_err(unfit)?;
        match self.client.send(request, Instant::now() + TIME).await {
            Ok(answer) if answer.status().as_u16() < 500 || answer.status().as_u16() == 501 => Ok(()),
            Ok(answer) => {
                Err(Refusal::new(Fault::Unavailable, format!("{server}{path} answers {} (see the store's log)", answer.status())))
            }
            // It answers, be it with a page for people or the way to one.
            Err(HttpError::Redirect { .. } | HttpError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(unfit(error)),
        }
    }
}
