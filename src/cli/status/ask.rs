//! Asks the daemon: one GET over the status socket, with a bound for length and time.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Duration, timeout};

use crate::app::status::{FORM, Report, STATUS_PAGE};
use crate::model::clean;

/// The daemon first looks at its stores, keys and sockets, and gives them 12 s.
const LIMIT: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes. Every list in an answer is bounded, so answers are much shorter.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// The answer as JSON, and as a report.
#[derive(Debug)]
pub(super) struct Answer {
    pub document: serde_json::Value,
    pub report: Report,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error("{socket}: cannot connect: {cause} ({remedy})", socket = socket.display(), remedy = remedy(cause))]
    Connect { socket: PathBuf, cause: io::Error },
    #[error("{socket}: the answer was cut off (the daemon may have ended meanwhile: run the command again, and see its log)", socket = socket.display())]
    Cut { socket: PathBuf },
    #[error("{socket}: the answer cannot be understood: {problem} (use the `keyferry` of the daemon's version, such as the one in its container)", socket = socket.display())]
    Foreign { socket: PathBuf, problem: String },
    #[error("{socket}: {said}", socket = socket.display())]
    Refused { socket: PathBuf, said: String },
    #[error("{socket}: no answer within {} s (the daemon is stopped or overloaded: see its log, and `keyferry health`)", LIMIT.as_secs(), socket = socket.display())]
    TimedOut { socket: PathBuf },
}

pub(super) async fn ask(socket: &Path) -> Result<Answer, AskError> {
    let late = || AskError::TimedOut { socket: socket.to_owned() };
    let (status, body) = timeout(LIMIT, get(socket)).await.unwrap_or_else(|_| Err(late()))?;
    let foreign = |problem: String| AskError::Foreign { socket: socket.to_owned(), problem };
    match status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => {
            return Err(AskError::Refused { socket: socket.to_owned(), said: clean_line(&body) });
        }
        other => return Err(foreign(format!("it is {other}"))),
    }
    let document: serde_json::Value = serde_json::from_slice(&body).map_err(|_| foreign("it is not JSON".to_owned()))?;
    let form = document.get("v").and_then(serde_json::Value::as_u64);
    if form != Some(FORM.into()) {
        let form = form.map_or_else(|| "none".to_owned(), |form| form.to_string());
        return Err(foreign(format!("its form is {form}, and this command reads form {FORM}")));
    }
    let report = Report::deserialize(&document).map_err(|error| foreign(clean(&error.to_string())))?;
    Ok(Answer { document, report })
}

async fn get(socket: &Path) -> Result<(StatusCode, Bytes), AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|cause| AskError::Connect { socket: socket.to_owned(), cause })?;
    let cut = || AskError::Cut { socket: socket.to_owned() };
    let foreign = |problem: &str| AskError::Foreign { socket: socket.to_owned(), problem: problem.to_owned() };
    let broken = |error: &hyper::Error| if error.is_parse() { foreign("it is not HTTP") } else { cut() };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = Request::get(STATUS_PAGE).header(header::HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| foreign(&error.to_string()))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(_) => cut(),
            Err(_) => foreign("it is too long"),
        });
        Ok((status, body?.to_bytes()))
    };
    // The connection moves the bytes, and ends with the answer.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// The first line of the daemon's answer.
fn clean_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect();
    if line.is_empty() { "it refuses to answer".to_owned() } else { line }
}

#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            "is `keyferry serve` running here, and is this its stateDir? If it is, its log says why it could not make the socket"
        }
        io::ErrorKind::ConnectionRefused => "no daemon listens there any more: its log says why it ended",
        io::ErrorKind::PermissionDenied => "run the command as root, or as the daemon's user",
        io::ErrorKind::WouldBlock => "too many others ask: try again",
        _ => "is it the state folder of a daemon on this machine?",
    }
}
