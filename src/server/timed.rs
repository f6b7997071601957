//! The time of every call: the code that answers the call gets it; if that code gives no answer in time, the call is answered in its place.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::calls::Lane;
use super::intake::take_in;
use super::seats::{Busy, Seat};
use crate::model::{Code, RequestId};
use crate::pipeline::{Commons, MountContext, Paid};

/// How long a client may take to read an answer that came at the last moment.
const TO_READ: Duration = Duration::from_secs(30);

/// How long after its own deadline a client still counts as present.
const MARGIN: Duration = Duration::from_secs(1);

/// Gives every call its time, and answers in its place when the time has ended.
#[derive(Clone, Debug)]
pub(super) struct Timed<S> {
    inner: S,
    name: Arc<str>,
    longest: Duration,
    /// The connection's own number.
    lane: Lane,
    seat: Arc<Seat>,
    commons: Arc<Commons>,
    /// Set if the peer may not connect at all: every call gets this answer.
    refusal: Option<Arc<str>>,
}

/// An answer on its way: until its last byte is written to the socket, its connection is busy and its bytes are paid.
struct Underway {
    body: Body,
    held: Arc<Held>,
    /// Until it is encoded.
    paid: Option<Paid>,
}

/// What is held until an answer is sent.
struct Held {
    _busy: Busy,
    /// In a lock, because it is added late: with the first part.
    paid: OnceLock<Paid>,
}

/// A part of it. h2 takes whole parts and keeps them while the client does not read.
struct Part {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl<S> Timed<S> {
    pub(super) fn new(
        inner: S,
        name: Arc<str>,
        longest: Duration,
        lane: Lane,
        refusal: Option<Arc<str>>,
        seat: Arc<Seat>,
        commons: Arc<Commons>,
    ) -> Self {
        Self { inner, name, longest, lane, seat, commons, refusal }
    }
}

// === impl Timed ===

impl<S> Service<http::Request<hyper::body::Incoming>> for Timed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    /// The service is always ready: it is a value, and each call has its own clone.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<hyper::body::Incoming>) -> Self::Future {
        if let Some(refusal) = &self.refusal {
            let status = Status::permission_denied(&**refusal);
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let caller = request.headers().get("grpc-timeout").and_then(|value| parse_grpc_timeout(value.to_str().ok()?));
        let cx = MountContext::new(next_request_id(), Arc::clone(&self.name), Instant::now(), caller, self.longest);
        let last = cx.last;
        let taken_by = caller.map_or(last + TO_READ, |caller| (cx.arrived + caller + MARGIN).min(last + TO_READ));
        let busy = Busy::new(&self.seat, taken_by);
        request.extensions_mut().insert(cx);
        let (lane, commons, mut inner) = (self.lane.clone(), Arc::clone(&self.commons), self.inner.clone());
        let placed = async move {
            let (head, body) = request.into_parts();
            // Before any wait: a call that is not read keeps the calls after it from being read.
            match take_in(body, &commons.budget).await {
                Ok((message, room)) => {
                    let _place = lane.place().await;
                    let mut request = http::Request::from_parts(head, message);
                    request.extensions_mut().insert(room);
                    inner.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        };
        Box::pin(async move {
            let Ok(answer) = timeout_at(last, placed).await.unwrap_or_else(|_| {
                let words = "the call was not complete in time (did the client send its whole request?)";
                Ok(Status::failed_precondition(format!("{}: {words}", Code::BackendTimeout)).into_http())
            });
            let mut answer = answer;
            let paid = answer.extensions_mut().remove::<Arc<Mutex<Option<Paid>>>>();
            let paid = paid.and_then(|paid| paid.lock().unwrap_or_else(PoisonError::into_inner).take());
            let held = Arc::new(Held { _busy: busy, paid: OnceLock::new() });
            Ok(answer.map(|body| Body::new(Underway { body, held, paid })))
        })
    }
}

// === impl Underway ===

impl hyper::body::Body for Underway {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(mut paid) = self.paid.take() {
            paid.encoded();
            // Before this it is empty.
            let _ = self.held.paid.set(paid);
        }
        let part = |bytes| Bytes::from_owner(Part { bytes, _held: Arc::clone(&self.held) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Different for each call of this process, and probably different from those in another process's log.
fn next_request_id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let start = *START.get_or_init(|| {
        let mut bytes = [0; 8];
        // Without randomness ids merely start at zero.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
    RequestId::new(start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// `TimeoutValue TimeoutUnit` of the gRPC wire protocol (gRPC over HTTP/2, "Request-Headers"): 1 to 8 digits and one of H M S m u n.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (text, millis) in [("2M", 120_000), ("119999m", 119_999), ("5S", 5_000), ("1H", 3_600_000), ("99999999n", 99), ("2500u", 2)] {
            assert_eq!(parse_grpc_timeout(text).map(|time| time.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "5 S", "５S"] {
            assert_eq!(parse_grpc_timeout(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn answers_come_before_the_callers_deadline() {
        let now = Instant::now();
        let times = |caller: Option<u64>| {
            let cx = MountContext::new(RequestId::new(1), "keyferry".into(), now, caller.map(Duration::from_secs), Duration::from_secs(90));
            ((cx.queue_until - now).as_secs_f64(), (cx.deadline - now).as_secs_f64())
        };
        assert_eq!(times(Some(120)), (85.0, 90.0));
        assert_eq!(times(Some(60)), (50.0, 55.0));
        assert_eq!(times(Some(4)), (1.8, 2.0));
        assert_eq!(times(None), (85.0, 90.0));
    }
}
