//! The proxy for an endpoint, from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, or the same in lower case.
//!
//! The rules are those of Go's `golang.org/x/net/http/httpproxy`, because admins write these lists for Kubernetes' own programs.

use std::net::IpAddr;

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::error::chain;
use super::{Endpoint, HttpError};

/// A proxy that uses HTTP/1.1 without TLS. A connection through it to an `https` endpoint is TLS from end to end.
#[derive(Clone)]
pub(super) struct Proxy {
    /// Host and port.
    authority: String,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy for an endpoint, if it needs one. `variable` reads the environment.
    pub(super) fn of(endpoint: &Endpoint, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, HttpError> {
        let (Some(host), Some(port)) = (endpoint.host(), endpoint.port()) else { return Ok(None) };
        let either = |upper: &'static str| {
            let set = |name: String| Some((upper, variable(&name).filter(|value| !value.trim().is_empty())?));
            set(upper.to_owned()).or_else(|| set(upper.to_ascii_lowercase()))
        };
        let Some((name, address)) = either(if endpoint.is_https() { "HTTPS_PROXY" } else { "HTTP_PROXY" }) else { return Ok(None) };
        if is_direct(host, port, &either("NO_PROXY").unwrap_or_default().1) {
            return Ok(None);
        }
        // The address may hold a password: the message does not repeat it.
        let fault = || HttpError::Proxy(format!("{name} names no proxy that can be used (write http://[user:password@]host:port)"));
        Self::parse(address.trim()).ok_or_else(fault).map(Some)
    }

    fn parse(address: &str) -> Option<Self> {
        let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = address.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
        let endpoint: Endpoint = format!("{}://{place}", uri.scheme_str()?).parse().ok()?;
        if endpoint.is_https() {
            return None;
        }
        let authorization = match user {
            Some(user) => Some(basic(user)?),
            None => None,
        };
        Some(Self { authority: endpoint.authority(), authorization })
    }

    pub(super) fn uri(&self) -> Result<Uri, HttpError> {
        format!("http://{}/", self.authority).parse().map_err(|_| self.fault("its address cannot be read"))
    }

    /// The header that a request must have if the proxy itself reads it.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Asks the proxy for a connection to `target` (RFC 9110, section 9.3.6).
    pub(super) async fn tunnel(&self, connection: TcpStream, target: &str) -> Result<TcpStream, HttpError> {
        let mut request = Request::builder().method(Method::CONNECT).uri(target).header(HOST, target);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|_| HttpError::Request("its host cannot be asked of a proxy".to_owned()))?;
        let broken = |error: hyper::Error| HttpError::Connect(self.told(&chain(&error)));
        let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await.map_err(broken)?;
        // Ends with the tunnel's request: the bytes after it belong to the code that gets the connection.
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            let told = self.told(&format!("it answered {status} to CONNECT {target}"));
            return Err(if status.is_server_error() { HttpError::Connect(told) } else { HttpError::Proxy(told) });
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            // In TLS and HTTP the server does not speak first: bytes that are already there are not from it.
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(self.fault("it sent something of its own after it had answered CONNECT")),
        }
    }

    pub(super) fn told(&self, problem: &str) -> String {
        format!("the proxy {}: {problem}", self.authority)
    }

    fn fault(&self, problem: &str) -> HttpError {
        HttpError::Proxy(self.told(problem))
    }
}

/// Whether the list of exceptions applies, or the endpoint is on this machine.
fn is_direct(host: &str, port: u16, exceptions: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exceptions.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, of_port) = split_port(&entry);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if of_port.is_some_and(|of_port| of_port != port) {
            return false;
        }
        match address {
            _ if name == "*" => true,
            Some(address) => name.parse() == Ok(address) || is_in_network(address, name),
            None => is_of_domain(host, name),
        }
    })
}

/// `example.com` means itself and all names below it; `.example.com` and `*.example.com` mean all names below it.
fn is_of_domain(host: &str, name: &str) -> bool {
    let below = name.trim_start_matches('*').trim_start_matches('.');
    let parent = host.strip_suffix(below).and_then(|head| head.strip_suffix('.'));
    (host == below && below == name) || parent.is_some_and(|head| !head.is_empty())
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        // An IPv6 address without brackets also has colons.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => port.parse().map_or((entry, None), |port| (name, Some(port))),
        _ => (entry, None),
    }
}

/// Whether an address is in `network/bits`.
fn is_in_network(address: IpAddr, entry: &str) -> bool {
    let Some((network, bits)) = entry.split_once('/') else { return false };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let (one, other, width) = match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits()), u128::from(other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (one ^ other).checked_shr(width - bits).unwrap_or(0) == 0
}

/// `user:password` as a header (RFC 7617), with `%XX` decoded.
fn basic(user: &str) -> Option<HeaderValue> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = Zeroizing::new(unescaped(name)?.to_vec());
    plain.push(b':');
    plain.extend_from_slice(&unescaped(password)?);
    let mut header = HeaderValue::try_from(format!("Basic {}", BASE64.encode(&plain))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn unescaped(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (mut bytes, mut rest) = (Zeroizing::new(Vec::with_capacity(text.len())), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
