//! What the configuration says about an HTTP store: where a secret is, who asks for it, and what an answer means.

use std::fmt;
use std::path::PathBuf;

use http::header::{HeaderName, HeaderValue};

use super::content::{Expression, Format, VersionIn};
use super::status::Statuses;
use super::template::{Braces, Slot, Template, Values, escape_json};
use super::url::Url;
use super::version::is_version;
use crate::backend::remote::settings::{self, check_server_name, file, filled, refuse_tls};
use crate::backend::{CacheTimes, HangsOn};
use crate::model::{LoginTls, NamedFile};
use crate::yaml::{Faults, Node, Reader, unknown_key};

/// Headers of the connection itself, and headers that would change which server or what is asked.
const OWN_HEADERS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers whose values are secret by their nature.
const SECRET_HEADERS: [&str; 2] = ["authorization", "cookie"];

/// One entry of `kind: http`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpBackendConfig {
    pub(super) url: Url,
    pub(super) asking: Asking,
    pub(super) headers: Vec<(HeaderName, Header)>,
    pub(super) auth: Auth,
    pub(super) tls: LoginTls,
    pub(super) share: Share,
    pub(super) format: Format,
    pub(super) pins: Pins,
    pub(super) statuses: Statuses,
    /// The path of the request that checks whether the store is there.
    pub(super) check: Option<String>,
    pub(in crate::backend) cache: CacheTimes,
    /// Whether messages and logs show what the store says in its own words.
    pub(super) store_words: bool,
}

/// How Keyferry asks for a secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Asking {
    Get,
    /// With this JSON, if any.
    Post(Option<Template>),
}

/// A header's value. `Debug` does not show it.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum Header {
    File(PathBuf),
    Text(HeaderValue),
}

/// Who asks, if a header says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Auth {
    Basic {
        user: String,
        password: PathBuf,
    },
    BearerFile(PathBuf),
    /// The audience of the Pod's token.
    BearerPod(String),
    /// Other headers or the client certificate say it, or there is no login.
    None,
}

/// Which Pods may share an answer that one of them got with its token.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Share {
    #[default]
    Pod,
    ServiceAccount,
}

/// How Keyferry asks for a pinned version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Pins {
    Never,
    /// By a parameter of this name in the query.
    Query(String),
    /// `{version}` in the address or the body. If no version is pinned, its value is `latest`.
    Slot {
        latest: String,
    },
}

// === impl HttpBackendConfig ===

impl HttpBackendConfig {
    /// Reads the mapping; the caller ends the reading. `None`: a fault was noted.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let url = reader.parsed("url", faults, Url::parse);
        if reader.get("url").is_none() {
            reader.missing("url", "where a secret is, such as https://secrets.example/v1/{name}", faults);
        }
        let asking = asking(reader, faults);
        check_name(reader, url.as_ref(), &asking, faults);
        let headers = headers(reader, faults);
        let tls = settings::tls(reader, faults);
        if let Some(url) = url.as_ref().filter(|url| !url.endpoint.is_https()) {
            refuse_tls(reader, &format!("url is of {}", url.endpoint), faults);
        }
        if let Some(url) = &url {
            check_server_name(reader, &url.endpoint, &tls, "url", faults);
        }
        let auth = auth(reader, faults);
        check_authorization(reader, &headers, &auth, faults);
        let share = share(reader, &auth, faults);
        let pins = pins(reader, url.as_ref(), &asking, faults);
        let config = Self {
            url: url?,
            asking,
            headers,
            auth,
            tls,
            share,
            format: format(reader, faults),
            pins,
            statuses: Statuses::parse(reader, faults),
            check: reader.parsed("check", faults, check),
            cache: CacheTimes::of_backend(reader, faults),
            store_words: reader.boolean("storeWords", faults).unwrap_or(true),
        };
        (faults.len() == before).then_some(config)
    }

    pub(super) fn files(&self) -> Vec<NamedFile> {
        let mut files = settings::files(&self.tls);
        for (name, header) in &self.headers {
            if let Header::File(path) = header {
                files.push(NamedFile::secret(format!("headers.{name}.file"), path));
            }
        }
        match &self.auth {
            Auth::Basic { password, .. } => files.push(NamedFile::secret("auth.basic.passwordFile", password)),
            Auth::BearerFile(path) => files.push(NamedFile::secret("auth.bearer.file", path)),
            Auth::BearerPod(_) | Auth::None => {}
        }
        files
    }

    /// Every setting that can change an answer. `statuses`, `check`, `cache` and `storeWords` change no answer.
    pub(super) fn written(&self) -> HangsOn {
        let Self { url, asking, headers, auth, tls, share, format, pins, .. } = self;
        let mut all = HangsOn::default().and("kind", "http").and("url", url);
        all = match asking {
            Asking::Get => all,
            Asking::Post(body) => all.and("method", "POST").and_some("body", body.as_ref()),
        };
        for (name, header) in headers {
            all = match header {
                Header::File(path) => all.and(format!("headers.{name}.file"), path.display()),
                Header::Text(value) => all.and(format!("headers.{name}"), String::from_utf8_lossy(value.as_bytes())),
            };
        }
        all = match auth {
            Auth::Basic { user, password } => all.and("auth.basic.user", user).and("auth.basic.passwordFile", password.display()),
            Auth::BearerFile(path) => all.and("auth.bearer.file", path.display()),
            Auth::BearerPod(audience) => all.and("auth.bearer.podToken", audience),
            Auth::None => all,
        };
        all = match share {
            Share::Pod => all,
            Share::ServiceAccount => all.and("share", "serviceAccount"),
        };
        let (kind, fields, version) = match format {
            Format::Json { fields, version } => (None, fields.as_ref(), version),
            Format::Raw { version } => (Some("raw"), None, version),
        };
        all = all.and_some("format", kind).and_some("fields", fields.map(Expression::as_str));
        all = match version {
            Some(VersionIn::Body(expression)) => all.and("version", expression.as_str()),
            Some(VersionIn::Header(name)) => all.and("versionHeader", name),
            None => all,
        };
        match pins {
            Pins::Never => all,
            Pins::Query(name) => all.and("versionQuery", name),
            Pins::Slot { latest } => all.and("latest", latest),
        }
        .and_tls(tls)
    }

    /// Whether requests contain the Pod's namespace or ServiceAccount.
    pub(super) fn names_pod(&self) -> bool {
        let in_body = |slot| matches!(&self.asking, Asking::Post(Some(body)) if body.holds(slot));
        [Slot::Namespace, Slot::ServiceAccount].into_iter().any(|slot| self.url.holds(slot) || in_body(slot))
    }
}

// === reading ===

fn asking(reader: &mut Reader<'_>, faults: &mut Faults) -> Asking {
    let method = reader.parsed("method", faults, |text| match text {
        "GET" | "POST" => Ok(text.to_owned()),
        other => Err(unknown_key(other, &["GET", "POST"]).replace("known key", "method to read with")),
    });
    let body = reader.parsed("body", faults, |text| {
        let body = Template::parse(text, Braces::Text)?;
        match serde_json::from_str::<serde::de::IgnoredAny>(&body.fill(Values::SAMPLE, |_, value| escape_json(value))) {
            Ok(_) => Ok(body),
            Err(_) => Err("is not JSON (put placeholders inside its texts, such as {\"path\": \"{name}\"})".to_owned()),
        }
    });
    if method.as_deref() == Some("POST") {
        return Asking::Post(body);
    }
    if let Some(node) = reader.get("body").filter(|_| reader.get("method").is_none() || method.is_some()) {
        faults.add(node.at, reader.path("body"), "works only with method: POST (set that, or remove it)");
    }
    Asking::Get
}

/// Without the name in the request, the store would give the same secret for every name.
fn check_name(reader: &mut Reader<'_>, url: Option<&Url>, asking: &Asking, faults: &mut Faults) {
    let named = [Slot::Name, Slot::NameEscaped];
    let in_body = matches!(asking, Asking::Post(Some(body)) if named.iter().any(|slot| body.holds(*slot)));
    let says = in_body || url.is_none_or(|url| named.iter().any(|slot| url.holds(*slot)));
    if let (Some(node), false) = (reader.get("url"), says) {
        faults.add(node.at, reader.path("url"), "does not say where the secret's name goes (put {name} into its path or query)");
    }
}

fn headers(reader: &mut Reader<'_>, faults: &mut Faults) -> Vec<(HeaderName, Header)> {
    let Some(inner) = reader.reader("headers", faults) else { return Vec::new() };
    let mut headers: Vec<(HeaderName, Header)> = Vec::new();
    for (key, node) in inner.entries() {
        let path = inner.path(&key.text);
        let name = match header_name(&key.text) {
            Ok(name) if headers.iter().any(|(known, _)| *known == name) => {
                faults.add(key.at, path, "is there twice: capital letters make no difference in a header's name (remove one)");
                continue;
            }
            Ok(name) => name,
            Err(problem) => {
                faults.add(key.at, path, problem);
                continue;
            }
        };
        if let Some(value) = header(&name, node, &path, faults) {
            headers.push((name, value));
        }
    }
    headers
}

fn header_name(text: &str) -> Result<HeaderName, &'static str> {
    let name: HeaderName = text.parse().map_err(|_| "is not a header's name (letters, digits and `-`)")?;
    if OWN_HEADERS.contains(&name.as_str()) { Err("is a header of the connection itself, and cannot be set (remove it)") } else { Ok(name) }
}

fn header(name: &HeaderName, node: &Node, path: &str, faults: &mut Faults) -> Option<Header> {
    if let Some(text) = node.text() {
        return match header_text(name, text) {
            Ok(value) => Some(Header::Text(value)),
            Err(problem) => {
                faults.add(node.at, path, problem);
                None
            }
        };
    }
    let mut inner = Reader::of(node, path, faults)?;
    let file = file(&mut inner, "file", faults);
    if inner.get("file").is_none() {
        inner.missing("file", "the file that holds the value", faults);
    }
    inner.finish(faults);
    file.map(Header::File)
}

fn header_text(name: &HeaderName, text: &str) -> Result<HeaderValue, &'static str> {
    if SECRET_HEADERS.contains(&name.as_str()) {
        return Err("is secret, and must not be in this file (write { file: ... }, or use `auth`)");
    }
    if Template::parse(text, Braces::Text).is_ok_and(|template| {
        [Slot::Name, Slot::Namespace, Slot::ServiceAccount, Slot::Version].into_iter().any(|slot| template.holds(slot))
    }) {
        return Err("has a placeholder, and only `url` and `body` can have one (write the text itself)");
    }
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "has a character that a header cannot have (use letters, digits and other characters of ASCII)")?;
    value.set_sensitive(true);
    Ok(value)
}

fn auth(reader: &mut Reader<'_>, faults: &mut Faults) -> Auth {
    let Some(mut inner) = reader.reader("auth", faults) else { return Auth::None };
    let (bearer, basic) = (bearer(&mut inner, faults), basic(&mut inner, faults));
    match (inner.get("bearer"), inner.get("basic")) {
        (Some(_), Some(node)) => faults.add(node.at, inner.path("basic"), "cannot be used together with `bearer` (remove one)"),
        (None, None) => inner.missing("bearer", "write bearer or basic; without a login, remove `auth`", faults),
        (Some(_), None) | (None, Some(_)) => {}
    }
    inner.finish(faults);
    bearer.or(basic).unwrap_or(Auth::None)
}

fn bearer(auth: &mut Reader<'_>, faults: &mut Faults) -> Option<Auth> {
    let mut inner = auth.reader("bearer", faults)?;
    let (audience, file) = (inner.parsed("podToken", faults, filled), file(&mut inner, "file", faults));
    match (inner.get("podToken"), inner.get("file")) {
        (Some(_), Some(node)) => faults.add(node.at, inner.path("file"), "cannot be used together with `podToken` (remove one)"),
        (None, None) => inner.missing("podToken", "the audience of the Pod's token; or file, a file with a token", faults),
        (Some(_), None) | (None, Some(_)) => {}
    }
    inner.finish(faults);
    audience.map(Auth::BearerPod).or(file.map(Auth::BearerFile))
}

fn basic(auth: &mut Reader<'_>, faults: &mut Faults) -> Option<Auth> {
    let mut inner = auth.reader("basic", faults)?;
    // RFC 7617, section 2: the first colon ends the name.
    let user = inner.parsed("user", faults, |text| {
        if text.is_empty() || text.contains(':') || text.contains(char::is_control) {
            Err("must be a name without colons")
        } else {
            Ok(text.to_owned())
        }
    });
    let password = file(&mut inner, "passwordFile", faults);
    for (key, what) in [("user", "who asks"), ("passwordFile", "the file that holds the password")] {
        if inner.get(key).is_none() {
            inner.missing(key, what, faults);
        }
    }
    inner.finish(faults);
    Some(Auth::Basic { user: user?, password: password? })
}

fn check_authorization(reader: &mut Reader<'_>, headers: &[(HeaderName, Header)], auth: &Auth, faults: &mut Faults) {
    let twice = *auth != Auth::None && headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION);
    if let (Some(node), true) = (reader.get("auth"), twice) {
        faults.add(node.at, reader.path("auth"), "cannot be used together with a header Authorization, which it would set (remove one)");
    }
}

fn share(reader: &mut Reader<'_>, auth: &Auth, faults: &mut Faults) -> Share {
    let share = reader.parsed("share", faults, |text| match text {
        "pod" => Ok(Share::Pod),
        "serviceAccount" => Ok(Share::ServiceAccount),
        other => Err(unknown_key(other, &["pod", "serviceAccount"]).replace("known key", "way to share")),
    });
    if let (Some(node), false) = (reader.get("share"), matches!(auth, Auth::BearerPod(_))) {
        faults.add(
            node.at,
            reader.path("share"),
            "works only with auth.bearer.podToken: without that, all Pods are the same to the store (remove it)",
        );
    }
    share.unwrap_or_default()
}

fn format(reader: &mut Reader<'_>, faults: &mut Faults) -> Format {
    let raw = reader.parsed("format", faults, |text| match text {
        "json" => Ok(false),
        "raw" => Ok(true),
        other => Err(unknown_key(other, &["json", "raw"]).replace("known key", "format of an answer")),
    });
    let fields = reader.parsed("fields", faults, str::parse::<Expression>);
    let version = reader.parsed("version", faults, str::parse::<Expression>);
    let header = reader
        .parsed("versionHeader", faults, |text| text.parse::<HeaderName>().map_err(|_| "is not a header's name (write for example ETag)"));
    if let (Some(_), Some(node)) = (reader.get("version"), reader.get("versionHeader")) {
        faults.add(node.at, reader.path("versionHeader"), "cannot be used together with `version` (remove one)");
    }
    let version = version.map(VersionIn::Body).or(header.map(VersionIn::Header));
    if raw != Some(true) {
        return Format::Json { fields, version };
    }
    for key in ["fields", "version"] {
        if let Some(node) = reader.get(key) {
            faults.add(node.at, reader.path(key), "searches JSON, and format: raw does not read JSON (remove one)");
        }
    }
    Format::Raw { version }
}

fn pins(reader: &mut Reader<'_>, url: Option<&Url>, asking: &Asking, faults: &mut Faults) -> Pins {
    let query = reader.parsed("versionQuery", faults, filled);
    let latest = reader.parsed("latest", faults, |text| if is_version(text) { Ok(text.to_owned()) } else { Err("is not a version") });
    let has_slot =
        url.is_some_and(|url| url.holds(Slot::Version)) || matches!(asking, Asking::Post(Some(body)) if body.holds(Slot::Version));
    match (has_slot, reader.get("versionQuery"), reader.get("latest")) {
        (true, Some(node), _) => faults.add(node.at, reader.path("versionQuery"), "cannot be used together with {version} (remove one)"),
        (true, None, None) => reader.missing("latest", "the value for {version} if a class pins none, such as latest", faults),
        (false, _, Some(node)) if url.is_some() => {
            faults.add(node.at, reader.path("latest"), "is the value for {version}, and neither url nor body has {version} (remove it)");
        }
        _ => {}
    }
    match (has_slot, latest, query) {
        (true, Some(latest), _) => Pins::Slot { latest },
        (false, _, Some(query)) => Pins::Query(query),
        (true, None, _) | (false, _, None) => Pins::Never,
    }
}

fn check(text: &str) -> Result<String, &'static str> {
    let fits = text.starts_with('/') && !text.starts_with("//") && text.parse::<http::Uri>().is_ok() && !text.contains('#');
    if fits { Ok(text.to_owned()) } else { Err("must be a path at the url's host, such as /healthz") }
}

// === impl Header ===

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

#[cfg(test)]
mod tests;
