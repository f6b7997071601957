//! An endpoint: the place of a server, as it was configured. It is parsed once and is separate from the paths, so a call can add to its
//! path but never change its host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::Uri;
use rustls::pki_types::ServerName;
use thiserror::Error;

use super::HttpError;

/// `http://host[:port][/base]`, `https://host[:port][/base]` or `unix:///path/to.sock`. Equal endpoints are the same server and base path:
/// the host is in lower case, and the scheme's default port and a slash at the end are removed.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    place: Place,
    /// Before every path: empty, or with a slash at its start and no slash at its end.
    base: String,
}

#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Place {
    Http { host: String, port: u16 },
    Https { host: String, port: u16 },
    Unix(PathBuf),
}

/// The longest path of a Unix socket in bytes (Linux `sun_path` less its NUL).
const MAX_SOCKET: usize = 107;

/// A text that is not an endpoint. The text may hold a password, so messages do not repeat it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum InvalidEndpoint {
    #[error("has a fragment (leave out the # and what follows)")]
    Fragment,
    #[error("has no host that could be reached (write https://host:port, http://host:port or unix:///path/to.sock)")]
    Host,
    #[error("has no port from 1 to 65535 (write for example https://store.example:8200)")]
    Port,
    #[error("has a query (leave out the ? and what follows)")]
    Query,
    #[error("does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)")]
    Scheme,
    #[error("is not the path of a socket (write unix:///path/to.sock)")]
    Socket,
    #[error("has a path of over {MAX_SOCKET} bytes, which the system does not allow for a socket (choose a shorter one)")]
    SocketLength,
    #[error("has a user in it (leave out what is before the @)")]
    User,
}

// === impl Endpoint ===

impl Endpoint {
    /// The server of an absolute `http` or `https` address, without path and query.
    ///
    /// # Errors
    /// It has no host, an impossible port, or a user.
    pub fn of(uri: &Uri) -> Result<Self, InvalidEndpoint> {
        let authority = uri.authority().ok_or(InvalidEndpoint::Host)?;
        if authority.as_str().contains('@') {
            return Err(InvalidEndpoint::User);
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() || host == "[]" {
            return Err(InvalidEndpoint::Host);
        }
        let port = |default| match &authority.as_str()[host.len()..] {
            "" => Ok(default),
            rest => rest.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(InvalidEndpoint::Port),
        };
        let place = match uri.scheme_str() {
            Some("http") => Place::Http { port: port(80)?, host },
            Some("https") => Place::Https { port: port(443)?, host },
            _ => return Err(InvalidEndpoint::Scheme),
        };
        Ok(Self { place, base: String::new() })
    }

    /// The address of a path below the base path, with the path's query if it has one. It is sent unchanged: [`escape_path`] and
    /// [`escape_element`] make text fit.
    ///
    /// # Errors
    /// [`HttpError::Request`]: it has a `#`, or characters that no address may have.
    pub fn uri(&self, path: &str) -> Result<Uri, HttpError> {
        let fault = || HttpError::Request("its path has characters that no address may have".to_owned());
        if path.contains('#') {
            return Err(fault());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{}{}{slash}{path}", self.origin(), self.base).parse().map_err(|_| fault())
    }

    /// Whether an address has this endpoint's scheme, host and port.
    pub fn is_origin_of(&self, uri: &Uri) -> bool {
        let seen = match &self.place {
            // A request over a socket names no host of its own.
            Place::Unix(_) => return uri.scheme_str() == Some("http") && uri.authority().is_some_and(|name| name == "localhost"),
            Place::Http { .. } | Place::Https { .. } => Self::of(uri),
        };
        seen.is_ok_and(|seen| seen.place == self.place)
    }

    /// The host without brackets. `None`: a Unix socket.
    pub fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Http { host, .. } | Place::Https { host, .. } => Some(host.trim_start_matches('[').trim_end_matches(']')),
            Place::Unix(_) => None,
        }
    }

    /// `None`: a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.place {
            Place::Http { port, .. } | Place::Https { port, .. } => Some(*port),
            Place::Unix(_) => None,
        }
    }

    /// Whether a server's certificate can be for this name; `None`: for the host.
    ///
    /// # Errors
    /// It cannot, and the endpoint uses TLS.
    pub fn check_server_name(&self, name: Option<&str>) -> Result<(), String> {
        if self.is_https() { self.server_name(name).map(drop) } else { Ok(()) }
    }

    /// The name that the server must prove. It may be another than the name that is looked up.
    pub(super) fn server_name(&self, name: Option<&str>) -> Result<ServerName<'static>, String> {
        let name = name.or(self.host()).unwrap_or_default().to_owned();
        ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is not a name that a server's certificate could be for"))
    }

    pub fn socket(&self) -> Option<&Path> {
        match &self.place {
            Place::Http { .. } | Place::Https { .. } => None,
            Place::Unix(path) => Some(path),
        }
    }

    pub fn is_https(&self) -> bool {
        matches!(self.place, Place::Https { .. })
    }

    /// Host and port, in the form for CONNECT. Empty for a socket.
    pub(super) fn authority(&self) -> String {
        match &self.place {
            Place::Http { host, port } | Place::Https { host, port } => format!("{host}:{port}"),
            Place::Unix(_) => String::new(),
        }
    }

    /// The beginning of every address below this endpoint.
    fn origin(&self) -> String {
        match &self.place {
            Place::Http { host, port: 80 } => format!("http://{host}"),
            Place::Http { host, port } => format!("http://{host}:{port}"),
            Place::Https { host, port: 443 } => format!("https://{host}"),
            Place::Https { host, port } => format!("https://{host}:{port}"),
            Place::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        if let Some(path) = text.strip_prefix("unix://") {
            if path.len() > MAX_SOCKET {
                return Err(InvalidEndpoint::SocketLength);
            }
            let fit = path.len() > 1 && path.starts_with('/') && !path.ends_with('/') && !path.contains(char::is_control);
            return if fit { Ok(Self { place: Place::Unix(path.into()), base: String::new() }) } else { Err(InvalidEndpoint::Socket) };
        }
        if !["http://", "https://"].iter().any(|scheme| text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))) {
            return Err(InvalidEndpoint::Scheme);
        }
        // The parser would drop a fragment without an error.
        if text.contains('#') {
            return Err(InvalidEndpoint::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint::Host)?;
        if uri.query().is_some() {
            return Err(InvalidEndpoint::Query);
        }
        Ok(Self { base: uri.path().trim_end_matches('/').to_owned(), ..Self::of(&uri)? })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Http { .. } | Place::Https { .. } => write!(f, "{}{}", self.origin(), self.base),
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

// === escaping ===

/// A text as a path: every byte except letters, digits, `-._~` and `/` becomes `%XX` (RFC 3986, sections 2.1 and 2.3).
pub fn escape_path(text: &str) -> String {
    escaped(text, b"-._~/")
}

/// A text as one element of a path or one value of a query: as [`escape_path`], and a slash is escaped too.
pub fn escape_element(text: &str) -> String {
    escaped(text, b"-._~")
}

fn escaped(text: &str, kept: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn equal_servers_are_equal_endpoints() {
        for (one, other) in [
            ("https://Bao.Example", "https://bao.example:443/"),
            ("http://bao:80/a/", "http://bao/a"),
            ("HTTPS://[FD00::1]:8200", "https://[fd00::1]:8200/"),
        ] {
            assert_eq!(endpoint(one), endpoint(other));
        }
        assert_ne!(endpoint("https://bao"), endpoint("http://bao"));
        assert_ne!(endpoint("https://bao"), endpoint("https://bao:8200"));
        assert_ne!(endpoint("https://bao"), endpoint("https://bao/base"));
    }

    #[test]
    fn an_endpoint_is_written_as_it_is_read() {
        for text in ["https://bao.example:8200", "http://10.0.0.1/base/path", "https://[fd00::1]", "unix:///run/bao.sock"] {
            assert_eq!(endpoint(text).to_string(), text);
        }
        assert_eq!(endpoint("https://[fd00::1]").host(), Some("fd00::1"));
        assert_eq!(endpoint("unix:///run/bao.sock").socket(), Some(Path::new("/run/bao.sock")));
    }

    #[test]
    fn what_is_no_endpoint_is_told_without_being_repeated() {
        let told = |text: &str| format!("{text}: {}", text.parse::<Endpoint>().unwrap_err());
        let all = [
            "bao:8200",
            "ftp://bao",
            "https://",
            "https://:8200",
            "https://bao:99999",
            "https://bao:x",
            "https://user:canary@bao",
            "https://bao?token=canary",
            "https://bao#x",
            "https://b ao",
            "unix://run/bao.sock",
            "unix:///",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r#"
bao:8200: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
ftp://bao: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
https://: has no host that could be reached (write https://host:port, http://host:port or unix:///path/to.sock)
https://:8200: has no host that could be reached (write https://host:port, http://host:port or unix:///path/to.sock)
https://bao:99999: has no port from 1 to 65535 (write for example https://store.example:8200)
https://bao:x: has no port from 1 to 65535 (write for example https://store.example:8200)
https://user:canary@bao: has a user in it (leave out what is before the @)
https://bao?token=canary: has a query (leave out the ? and what follows)
https://bao#x: has a fragment (leave out the # and what follows)
https://b ao: has no host that could be reached (write https://host:port, http://host:port or unix:///path/to.sock)
unix://run/bao.sock: is not the path of a socket (write unix:///path/to.sock)
unix:///: is not the path of a socket (write unix:///path/to.sock)
"#);
    }

    #[test]
    fn a_path_never_changes_the_host() {
        let base = endpoint("https://bao:8200/base");
        for (path, uri) in [
            ("v1/a?list=true", "https://bao:8200/base/v1/a?list=true"),
            ("/v1/a", "https://bao:8200/base/v1/a"),
            ("//elsewhere.example/", "https://bao:8200/base//elsewhere.example/"),
            ("@elsewhere.example", "https://bao:8200/base/@elsewhere.example"),
            ("", "https://bao:8200/base/"),
        ] {
            let made = base.uri(path).unwrap();
            assert_eq!(made.to_string(), uri);
            assert!(base.is_origin_of(&made));
        }
        assert!(base.uri("a b").is_err() && base.uri("a#b").is_err() && base.uri("a\r\nb").is_err());
        let socket = endpoint("unix:///run/bao.sock");
        assert!(socket.is_origin_of(&socket.uri("/v1/a").unwrap()));
    }

    #[test]
    fn other_hosts_schemes_and_ports_are_other_origins() {
        let base = endpoint("https://bao");
        let same = |text: &str| base.is_origin_of(&text.parse().unwrap());
        assert!(same("https://BAO:443/x") && same("https://bao"));
        for other in ["http://bao/", "https://bao:8200/", "https://bao.example/", "https://x@bao/", "/v1/a"] {
            assert!(!same(other), "{other}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape_path("a b/ü?#%"), "a%20b/%C3%BC%3F%23%25");
        assert_eq!(escape_element("a/b.c-d_e~f&="), "a%2Fb.c-d_e~f%26%3D");
    }
}
