//! One call of the server's API over the HTTP client: its path, token and body go out, status and body come back.
//!
//! A namespace is a part of the path (`/v1/team-a/kv/data/x`), never a header: Keyferry sends exactly what policy has seen.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use tokio::time::{Duration, Instant};
use zeroize::Zeroizing;

use super::fault::Refusal;
use crate::backend::Fault;
use crate::budget::{Payer, Spent};
use crate::files::{Desk, Late};
use crate::http::{ClientCertificate, Endpoint, HttpClient, HttpConfig, HttpError, Names, Repeat};
use crate::model::{LoginTls, SecretBytes, Tenant};
use crate::shelf::Shelf;
use crate::turns::Turns;

/// Threads that read files: a file system that hangs blocks no more than these.
const THREADS: usize = 4;

/// How many names of the configuration's addresses are looked up at once, each by a thread.
const LOOK_UPS: usize = 4;

/// The tenant of what the daemon does for itself.
const NOBODY: &str = "";

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");

/// The header that agents in between may require (`require_request_header`).
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// A server and how it is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    pub(super) tls: LoginTls,
    /// The folder that the files of `tls` are below, where a class has named them.
    pub(super) below: Option<PathBuf>,
    /// The namespace whose class has named the address; `None`: the configuration has, or it is not known any more.
    pub(super) named_by: Option<Tenant>,
}

/// The clients in use, each with its connections.
#[derive(Debug)]
pub(super) struct Clients {
    max_body: usize,
    /// Whether Keyferry may repeat the server's words.
    store_words: bool,
    /// For clients of servers that classes name, in bytes.
    kept: usize,
    /// By weight. A namespace whose classes lead to many servers pushes out its own, and not the backend's.
    known: Mutex<Shelf<Server, HttpClient>>,
    names: Turns,
    /// Where files are read that classes name, and those of logins.
    pub(super) desk: Desk,
}

/// One request.
pub(super) struct Call<'c> {
    pub(super) method: Method,
    /// Escaped, below `/v1/`, with its query.
    pub(super) path: String,
    pub(super) token: Option<&'c SecretBytes>,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    pub(super) repeat: Repeat,
    /// Who pays for the answer; `None`: it is the daemon's own.
    pub(super) payer: Option<Payer>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: SecretBytes,
    /// ` after 3 tries`, or nothing.
    pub(super) after: String,
    /// The earliest time for the next request, where the store said one.
    pub(super) retry_after: Option<Duration>,
    /// Whether Keyferry may repeat its words.
    pub(super) told: bool,
    /// What it has cost, and what is made of it.
    _cost: Option<Arc<Spent>>,
}

// === impl Clients ===

impl Clients {
    pub(super) fn new(max_body: usize, kept: usize, store_words: bool) -> Self {
        Self {
            max_body,
            store_words,
            kept,
            known: Mutex::new(Shelf::of_bytes(kept)),
            names: Turns::new(LOOK_UPS),
            desk: Desk::new(THREADS),
        }
    }

    /// Makes the client of a configured server, on the caller's thread.
    ///
    /// # Errors
    /// The TLS files cannot be used.
    pub(super) fn open(&self, server: &Server) -> Result<(), Refusal> {
        let client = HttpClient::with_names(server.endpoint.clone(), self.config(server), self.names(server))
            .map_err(|error| unusable(server, &error))?;
        // It weighs nothing: it is always there, so it never has to go.
        self.keep(NOBODY, server, client, 0);
        Ok(())
    }

    /// The client of a server that a class may have named, and whose files may hang. `tenant` is the namespace that asks.
    ///
    /// # Errors
    /// The TLS files cannot be used, or not in time.
    pub(super) async fn to(&self, server: &Server, tenant: &str, deadline: Instant) -> Result<HttpClient, Refusal> {
        if let Some(client) = self.lock().find(server) {
            return Ok(client.clone());
        }
        let (endpoint, config, names) = (server.endpoint.clone(), self.config(server), self.names(server));
        let made = self.desk.run(tenant, deadline, move || HttpClient::with_names(endpoint, config, names)).await;
        let late = |late: Late| match &server.below {
            Some(_) => Refusal::class_files(late.into(), &late.to_string()),
            None => Refusal::new(late.into(), format!("{server}: a TLS file of the backend cannot be read: {late}")),
        };
        let client = made.map_err(late)?.map_err(|error| unusable(server, &error))?;
        // The daemon asks for a class's server only after the class's namespace has asked for it.
        if tenant != NOBODY {
            // A client larger than the limit for all is kept until another needs the room: to make it again for each call takes longer.
            self.keep(tenant, server, client.clone(), client.weight().min(self.kept));
        }
        Ok(client)
    }

    #[cfg(test)]
    pub(super) fn knows(&self, server: &Server) -> bool {
        self.lock().find(server).is_some()
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.lock().weight()
    }

    /// Clients that have to go are dropped after the lock is released.
    fn keep(&self, tenant: &str, server: &Server, client: HttpClient, weight: usize) {
        let gone = self.lock().put(tenant, server.clone(), client, weight, |_| false);
        drop(gone);
    }

    /// A panic elsewhere cannot leave the shelf half-changed: each step is one call to a map.
    fn lock(&self) -> MutexGuard<'_, Shelf<Server, HttpClient>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self, server: &Server) -> Names {
        match &server.named_by {
            Some(tenant) => Names::of_classes(tenant.clone()),
            None => Names::new(self.names.clone(), NOBODY.into()),
        }
    }

    fn config(&self, server: &Server) -> HttpConfig {
        let LoginTls { ca, client, server_name, skip_verify } = server.tls.clone();
        HttpConfig {
            ca,
            certificate: client.map(|(chain, key)| ClientCertificate { chain, key }),
            files_below: server.below.clone(),
            max_body: self.max_body,
            server_name,
            verify: !skip_verify,
            ..HttpConfig::default()
        }
    }

    /// # Errors
    /// The TLS files cannot be used as they are now; the last ones may be in force.
    pub(super) async fn check_files(&self, server: &Server, deadline: Instant) -> Result<(), Refusal> {
        self.to(server, NOBODY, deadline).await?.check_files().await.map_err(|error| unusable(server, &error))
    }

    /// # Errors
    /// There was no answer.
    pub(super) async fn call(&self, server: &Server, call: Call<'_>, deadline: Instant) -> Result<Reply, Refusal> {
        let client = self.to(server, NOBODY, deadline).await?;
        let repeat = call.repeat;
        let outcome = client.call(request(call)?, repeat, deadline).await;
        let (after, retry_after) = (outcome.after(), outcome.retry_after);
        match outcome.answer {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                if head.status.is_success() {
                    Refusal::of_charset(&head.headers)?;
                }
                Ok(Reply { status: head.status, body, after, retry_after, told: self.store_words, _cost: head.extensions.get().cloned() })
            }
            Err(error) => Err(Refusal::unanswered(server, &error, &after)),
        }
    }
}

fn unusable(server: &Server, error: &HttpError) -> Refusal {
    Refusal::unanswered(server, error, "")
}

fn request(call: Call<'_>) -> Result<Request<Bytes>, Refusal> {
    let mut request = Request::builder().method(call.method).uri(format!("/v1/{}", call.path)).header(REQUEST, "true");
    if let Some(token) = call.token {
        request = request.header(TOKEN, header(token)?);
    }
    let body = match call.body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Bytes::from_owner(body)
        }
        None => Bytes::new(),
    };
    if let Some(payer) = call.payer {
        request = request.extension(payer);
    }
    request
        .body(body)
        .map_err(|error| Refusal::new(Fault::Invalid, format!("the request cannot be sent: {error} (correct the name in the class)")))
}

fn header(token: &SecretBytes) -> Result<HeaderValue, Refusal> {
    let unfit = |_| Refusal::new(Fault::Unauthenticated, "the store token has characters that no token has (see where it comes from)");
    let mut header = HeaderValue::from_bytes(token.expose()).map_err(unfit)?;
    header.set_sensitive(true);
    Ok(header)
}

// === impl Reply ===

#[cfg(test)]
impl Reply {
    pub(super) fn of(status: StatusCode, body: &str, told: bool) -> Self {
        Self { status, body: SecretBytes::new(body.into()), after: String::new(), retry_after: None, told, _cost: None }
    }
}

// === impl Call ===

impl<'c> Call<'c> {
    pub(super) fn get(path: impl Into<String>, token: &'c SecretBytes) -> Self {
        Self { method: Method::GET, path: path.into(), token: Some(token), body: None, repeat: Repeat::Safe, payer: None }
    }

    pub(super) fn post(path: impl Into<String>, token: Option<&'c SecretBytes>, body: Zeroizing<Vec<u8>>, repeat: Repeat) -> Self {
        Self { method: Method::POST, path: path.into(), token, body: Some(body), repeat, payer: None }
    }
}

// === impl Server ===

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// A JSON object of texts, in memory that is wiped.
pub(super) fn json(members: &[(&str, &str)]) -> Zeroizing<Vec<u8>> {
    // Room for what every character may become: a buffer that grows leaves copies behind.
    let room: usize = members.iter().map(|(name, text)| 6 * (name.len() + text.len()) + 6).sum();
    let mut json = Zeroizing::new(Vec::with_capacity(room + 2));
    json.push(b'{');
    for (at, (name, text)) in members.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        append(&mut json, name);
        json.push(b':');
        append(&mut json, text);
    }
    json.push(b'}');
    json
}

fn append(json: &mut Vec<u8>, text: &str) {
    // A vector takes all that is written to it, and a text is always JSON.
    let _ = serde_json::to_writer(json, text);
}

#[cfg(test)]
mod tests {
    use tower::Service;

    use super::*;

    #[test]
    fn bodies_are_json_whatever_they_hold() {
        let text = "a\"b\\\u{0}\nü";
        let body = json(&[("role", "csi"), ("jwt", text)]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), serde_json::json!({ "role": "csi", "jwt": text }));
        assert_eq!(json(&[]).as_slice(), b"{}");
    }

    /// The turns are taken as look-ups that hang would take them.
    #[tokio::test]
    async fn names_that_classes_give_leave_the_configurations_own_alone() {
        let server = |named_by: Option<Tenant>| Server {
            endpoint: "http://localhost:8200".parse().unwrap(),
            tls: LoginTls::default(),
            below: None,
            named_by,
        };
        let (one, other) = (Clients::new(1024, 1024, false), Clients::new(1024, 1024, false));
        let hostile = |n: usize| Tenant::from(format!("hostile-{n}").as_str());
        let mut hung = Vec::new();
        for n in 0..64 {
            let names = one.names(&server(Some(hostile(n))));
            while let Some(turn) = names.threads().take(&hostile(n), Instant::now()).await {
                hung.push(turn);
            }
        }
        assert_eq!(hung.len(), 16);
        let shop = Tenant::from("shop");
        assert!(
            other.names(&server(Some(shop.clone()))).threads().take(&shop, Instant::now()).await.is_none(),
            "another backend, other threads"
        );
        for clients in [&one, &other] {
            clients.names(&server(None)).call("localhost".parse().unwrap()).await.unwrap();
        }
    }
}
