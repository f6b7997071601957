//! The driver's end of the socket: how the Secrets Store CSI driver calls a provider, for the commands that play the driver.
//!
//! What the driver does with an answer before it writes it is in `answer.rs`.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Duration, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, TimeoutExpired};
use tower::service_fn;

use super::answer::{Answer, RefusedAnswer};
use crate::server::CONTRACT;
use crate::server::proto::csi_driver_provider_client::CsiDriverProviderClient;
use crate::server::proto::{MountRequest, VersionRequest, VersionResponse};
use crate::server::status::TRAP;

/// Where a provider of the default name listens on a node.
pub const DEFAULT_SOCKET: &str = "/var/run/secrets-store-csi-providers/keyferry.sock";

/// The most bytes of an answer that are read. It is more than the driver accepts, so that the message can show the size of a large answer.
const MAX_READ: usize = 64 * 1024 * 1024;

/// A connection to a provider.
pub type Client = CsiDriverProviderClient<Channel>;

/// Why nobody answers at a socket.
#[derive(Debug, Error)]
#[error("cannot connect to {socket}: {cause} ({remedy})", socket = socket.display(), remedy = connect_remedy(cause))]
pub struct ConnectError {
    pub socket: PathBuf,
    pub cause: io::Error,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The driver would not take the answer.
    #[error(transparent)]
    Refused(#[from] RefusedAnswer),
    /// The provider refused. The message has the form of the driver's own library, so that a search finds both.
    #[error("rpc error: code = {code} desc = {message}", code = code_name(.0.code()), message = .0.message())]
    Status(Status),
    #[error("no answer within {0:?} (is the provider overloaded, or stopped? see its log)")]
    TimedOut(Duration),
}

/// Connects to a provider, with `localhost` as the authority, as drivers from v1.6.0 on do.
pub async fn connect(socket: &Path) -> Result<Client, ConnectError> {
    Ok(CsiDriverProviderClient::new(channel(socket).await?).max_decoding_message_size(MAX_READ))
}

/// The same for any service at a socket.
pub async fn channel(socket: &Path) -> Result<Channel, ConnectError> {
    let path = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    channel.map_err(|error| ConnectError { socket: socket.to_owned(), cause: io_cause(&error) })
}

/// Asks for the version of the provider's contract: the driver's health check.
pub async fn version(client: &mut Client, limit: Duration) -> Result<VersionResponse, CallError> {
    let request = VersionRequest { version: CONTRACT.to_owned() };
    within(limit, request, async |request| client.version(request).await).await
}

/// Asks for a volume, and checks the answer as the driver would.
///
/// Unlike the driver, this does not try the call again on UNAVAILABLE: a person must see the first answer.
pub async fn mount(client: &mut Client, request: MountRequest, limit: Duration) -> Result<Answer, CallError> {
    let response = within(limit, request, async |request| client.mount(request).await).await?;
    Ok(Answer::check(response)?)
}

/// Whether kubelet reads a code as "the mount may still be running". It then keeps the volume's folder, and a Pod may start with an empty one.
pub fn is_trap(status: &Status) -> bool {
    TRAP.contains(&status.code())
}

/// Sends the limit with the call (`grpc-timeout`), and applies it here too.
async fn within<Q, A>(
    limit: Duration,
    message: Q,
    call: impl AsyncFnOnce(Request<Q>) -> Result<Response<A>, Status>,
) -> Result<A, CallError> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    match timeout(limit, call(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if is_own_timeout(&status) => Err(CallError::TimedOut(limit)),
        Ok(Err(status)) => Err(CallError::Status(status)),
        Err(_) => Err(CallError::TimedOut(limit)),
    }
}

/// tonic's client applies the limit too, and may be the first to notice.
fn is_own_timeout(status: &Status) -> bool {
    successors(status.source(), |&error| error.source()).any(<dyn Error>::is::<TimeoutExpired>)
}

/// The system's error, from below the layers of the transport.
fn io_cause(error: &tonic::transport::Error) -> io::Error {
    let chain = successors(Some(error as &dyn Error), |&error| error.source());
    match chain.filter_map(|error| error.downcast_ref::<io::Error>()).last() {
        Some(found) => found.raw_os_error().map_or_else(|| io::Error::new(found.kind(), found.to_string()), io::Error::from_raw_os_error),
        None => io::Error::other(error.to_string()),
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn connect_remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "no socket is there: is `keyferry serve` running, and is --socket its socket?",
        io::ErrorKind::ConnectionRefused => "nobody listens there: is it a socket, and is `keyferry serve` running?",
        io::ErrorKind::PermissionDenied => "the socket is for root: run this command as root",
        _ => "is it the socket of a provider?",
    }
}

/// A code's name as grpc-go prints it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
