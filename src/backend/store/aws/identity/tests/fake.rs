//! A server that answers as a test says: STS, the agent of Pod Identity or an instance's metadata, if moto cannot.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

/// It is gone when dropped.
pub(super) struct Fake {
    pub(super) url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) path: String,
    headers: http::HeaderMap,
    pub(super) body: String,
}

pub(super) struct Reply {
    status: u16,
    date: Option<String>,
    body: String,
    after: Duration,
}

// === impl Fake ===

impl Fake {
    /// `answer` gets the call, and how many there were before it.
    pub(super) async fn start(answer: impl Fn(&Call, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (calls, answer) = (Arc::<Mutex<Vec<Call>>>::default(), Arc::new(answer));
        let seen = Arc::clone(&calls);
        let count = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen, count) = (Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&count));
                tokio::spawn(async move {
                    let service = service_fn(move |request| respond(request, Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&count)));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, calls, serving }
    }

    /// The calls since the last time this was asked.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    answer: Arc<impl Fn(&Call, usize) -> Reply>,
    seen: Arc<Mutex<Vec<Call>>>,
    count: Arc<AtomicUsize>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let call = Call { method: head.method.to_string(), path: head.uri.to_string(), headers: head.headers, body };
    seen.lock().unwrap().push(call.clone());
    let before = count.fetch_add(1, Ordering::Relaxed);
    let Reply { status, date, body, after } = answer(&call, before);
    sleep(after).await;
    let mut response = hyper::Response::builder().status(status);
    if let Some(date) = date {
        response = response.header("date", date);
    }
    Ok(response.body(Full::from(body)).unwrap())
}

// === impl Call ===

impl Call {
    /// A parameter of a form, with escapes resolved.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let found = self.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        let mut bytes = Vec::new();
        let mut rest = found.as_bytes();
        while let [first, behind @ ..] = rest {
            if *first == b'%' {
                bytes.push(u8::from_str_radix(str::from_utf8(&behind[..2]).unwrap(), 16).unwrap());
                rest = &behind[2..];
            } else {
                bytes.push(*first);
                rest = behind;
            }
        }
        Some(String::from_utf8(bytes).unwrap())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

// === impl Reply ===

impl Reply {
    pub(super) fn of(status: u16, body: impl Into<String>) -> Self {
        Self { status, date: None, body: body.into(), after: Duration::ZERO }
    }

    /// An error as STS sends it.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::of(
            status,
            format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}\
                 </Message></Error><RequestId>3f2a-77</RequestId></ErrorResponse>"
            ),
        )
    }

    /// A key as STS gives it, for an hour.
    pub(super) fn key(action: &str, id: &str) -> Self {
        Self::key_until(
            action,
            id,
            &crate::clock::Clock::now(&crate::clock::SystemClock).saturating_add(jiff::SignedDuration::from_hours(1)).unwrap().to_string(),
        )
    }

    pub(super) fn key_until(action: &str, id: &str, ends: &str) -> Self {
        Self::of(
            200,
            format!(
                "<{action}Response><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>secret-of-{id}\
                 </SecretAccessKey><SessionToken>token-of-{id}</SessionToken><Expiration>{ends}</Expiration></Credentials></{action}Result>\
                 </{action}Response>"
            ),
        )
    }

    pub(super) fn at(self, date: &str) -> Self {
        Self { date: Some(date.to_owned()), ..self }
    }

    pub(super) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}
