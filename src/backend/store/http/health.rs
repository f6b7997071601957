//! Whether the store could serve a mount now: a server answers there, and not with a failure of its own.

use bytes::Bytes;
use http::{Method, Request};
use tokio::time::Instant;

use super::config::HttpBackendConfig;
use super::credentials::Credentials;
use crate::backend::Fault;
use crate::backend::remote::health::TIME;
use crate::backend::remote::refusal::Refusal;
use crate::files::Desk;
use crate::http::{HttpClient, HttpError};

/// Whether a server answers there at all. Every answer counts, because a broken request of a tenant gets such answers too.
pub(super) async fn reach(client: &HttpClient) -> Result<(), Refusal> {
    let server = client.endpoint();
    let unfit = |error: HttpError| Refusal::unanswered(server, &error, "");
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::HEAD;
    *request.uri_mut() = server.uri("/").map_err(unfit)?;
    match client.send(request, Instant::now() + TIME).await {
        Ok(_) | Err(HttpError::Broken(_) | HttpError::Redirect { .. } | HttpError::TooLarge { .. } | HttpError::Coded { .. }) => Ok(()),
        Err(error) => Err(unfit(error)),
    }
}

/// Asks without a login: a refusal also shows that the store is there.
pub(super) async fn ask(client: &HttpClient, desk: &Desk, config: &HttpBackendConfig) -> Result<(), Refusal> {
    let deadline = Instant::now() + TIME;
    Credentials::check(desk, config, deadline).await?;
    let (method, path) = config.check.as_deref().map_or((Method::HEAD, "/"), |path| (Method::GET, path));
    let server = client.endpoint();
    let unfit = |error: HttpError| Refusal::unanswered(server, &error, "");
    client.check_files().await.map_err(unfit)?;
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = server.uri(path).map_err(unfit)?;
    match client.send(request, deadline).await {
        Ok(answer) if answer.status().as_u16() < 500 || answer.status().as_u16() == 501 => Ok(()),
        Ok(answer) => Err(Refusal::new(Fault::Unavailable, format!("{server}{path} answers {} (see the store's log)", answer.status()))),
        // It answers, if only with a web page or a redirect to one.
        Err(HttpError::Redirect { .. } | HttpError::TooLarge { .. }) => Ok(()),
        Err(HttpError::Coded { status, .. }) if !status.is_server_error() => Ok(()),
        Err(error) => Err(unfit(error)),
    }
}
