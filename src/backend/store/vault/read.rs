//! One request of a mount: Keyferry sends it with the login's store token, and reads the answer as a secret.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::join_all;
use http::{Method as HttpMethod, StatusCode};
use tokio::time::{Duration, Instant, timeout_at};
use zeroize::Zeroizing;

use super::VaultBackend;
use super::answer::{Answer, Issued};
use super::config::Auth;
use super::entry::{Entry, sharers, within};
use super::fault::{Needles, Refusal, Words, of_status, or_status, warnings, words};
use super::lease::as_it_stands;
use super::login::log_in;
use super::made;
use super::own;
use super::raw;
use super::sessions::{Key, Session};
use super::token::{Pulse, StoreToken, Term, digest_of};
use super::wire::{Call, Reply};
use crate::backend::remote::credential;
use crate::backend::remote::refusal::short;
use crate::backend::remote::slot::no_turn;
use crate::backend::{Fault, FetchContext};
use crate::http::{Repeat, escape_element, escape_path};
use crate::model::{Lease, Method, Response, Secret, SecretBytes, SecretRef, Verb, clean};

/// How long Keyferry may take to revoke a token that made room for another.
const LET_GO: Duration = Duration::from_secs(5);

/// A request on its way: what it asks for, and with which login.
struct Request<'r> {
    secret: &'r SecretRef,
    entry: Entry,
    session: Arc<Session>,
    cx: &'r FetchContext,
}

impl VaultBackend {
    pub(super) async fn read(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Secret, Refusal> {
        let entry = Entry::of(&self.config, &secret.login, Some(&cx.pod.namespace))?;
        let who = sharers(&self.config, &cx.pod);
        // Reading its files counts for this namespace.
        self.clients.to(&entry.server, &cx.pod.namespace, cx.deadline).await?;
        let key = Key { entry: entry.clone(), who };
        let (session, idle) = self.sessions.enter(key.clone(), &cx.pod);
        join_all(idle.into_iter().map(|idle| self.let_go(idle))).await;
        let request = Request { secret, entry, session, cx };
        let token = self.token(&request, None).await.inspect_err(|_| self.sessions.leave(&key, &request.session))?;
        let began = Instant::now();
        let reply = self.ask(&request, &token).await?;
        if reply.status != StatusCode::FORBIDDEN {
            return self.secret(&request, &token, &reply);
        }
        if let Some(denial) = self.sessions.denial(&token, secret.name.as_str()) {
            return Err(denial);
        }
        let pulse = match self.pulse(&request, &token, began).await {
            Ok(pulse) => pulse,
            Err(unknown) => return Err(self.denied_by_somebody(&request, &token, &reply, &unknown)),
        };
        match pulse {
            Pulse::Alive => Err(self.denied(&request, &token, &reply).await),
            Pulse::Dead => self.read_anew(&request, &token).await,
        }
    }

    /// Revokes a token that another login has pushed out of the table. This goes on also when the mount ends earlier.
    async fn let_go(&self, token: Arc<StoreToken>) {
        let (clients, backend) = (Arc::clone(&self.clients), self.name.clone());
        let giving = tokio::spawn(async move {
            if let Err(refusal) = token.revoke(&clients, Instant::now() + LET_GO).await {
                tracing::debug!(%backend, reason = refusal.for_admin(), "a store token that made room was not revoked; it ends by itself");
            }
        });
        // The panic hook logs a panic.
        let _ = giving.await;
    }

    /// Logs in once more, because the token is not valid any more, and asks again.
    async fn read_anew(&self, request: &Request<'_>, dead: &Arc<StoreToken>) -> Result<Secret, Refusal> {
        let token = self.token(request, Some(dead)).await?;
        let reply = self.ask(request, &token).await?;
        match reply.status {
            // The token was made for this request, so it is valid.
            StatusCode::FORBIDDEN => Err(self.denied(request, &token, &reply).await),
            _ => self.secret(request, &token, &reply),
        }
    }

    /// The session's token, renewed in time. It is another one than `dead`.
    async fn token(&self, request: &Request<'_>, dead: Option<&Arc<StoreToken>>) -> Result<Arc<StoreToken>, Refusal> {
        let Request { entry, session, cx, .. } = request;
        let replaced = self.replaced(session, dead, cx.deadline).await?;
        // Boxed: few calls log in.
        let log_in = Box::pin(async { log_in(&self.clients, &self.config.auth, entry, cx).await.map(Arc::new) });
        let token = session.enter(replaced.as_ref().or(dead), &cx.pod.uid, cx.deadline, log_in).await?;
        token.renew_when_due(&self.clients, (2, 3), cx.deadline).await;
        Ok(token)
    }

    /// The token that was in the file before somebody wrote another into it.
    async fn replaced(
        &self,
        session: &Session,
        dead: Option<&Arc<StoreToken>>,
        deadline: Instant,
    ) -> Result<Option<Arc<StoreToken>>, Refusal> {
        let Auth::Token { file } = &self.config.auth else { return Ok(None) };
        let Some(token) = session.pass() else { return Ok(None) };
        let same = digest_of(&credential::read(&self.clients.desk, file, deadline).await?) == token.digest();
        if same && dead.is_some_and(|dead| Arc::ptr_eq(dead, &token)) {
            let reason = format!(
                "the store does not accept the token in {} any more: it expired or was revoked, or has no policy that allows anything here \
                 (write a new one into the file; Keyferry uses it at once)",
                file.display()
            );
            return Err(Refusal::new(Fault::Unauthenticated, reason));
        }
        Ok((!same).then_some(token))
    }

    async fn ask(&self, request: &Request<'_>, token: &StoreToken) -> Result<Reply, Refusal> {
        if let Some(reply) = self.confirm_engine(request, token).await? {
            return Ok(reply);
        }
        let (path, secret) = (self.target(request.secret), request.secret);
        let mut call = Call { payer: request.cx.payer.clone(), ..Call::get(path, &token.value) };
        match secret.method {
            Method::Get | Method::List => {}
            Method::Post | Method::Put => {
                call.method = if secret.method == Method::Post { HttpMethod::POST } else { HttpMethod::PUT };
                call.body = Some(Zeroizing::new(secret.args.to_json().into_bytes()));
                call.repeat = Repeat::Never;
            }
        }
        self.clients.call(&request.entry.server, call, request.cx.deadline).await
    }

    /// The path with its query, escaped.
    fn target(&self, secret: &SecretRef) -> String {
        target(secret, &self.path(secret))
    }

    /// The path to ask for. For a folder: where the store lists it.
    fn path<'s>(&self, secret: &'s SecretRef) -> Cow<'s, str> {
        if secret.name.is_folder() { own::listed_at(secret, &self.config.namespace) } else { secret.name.as_str().into() }
    }

    /// Asks in which engine a name is. The name may be a path of the store's own, in a namespace that is called like a word of KV v2. Keyferry
    /// asks as the store's own command line does. It asks before anything else, because the request could make something. Where the store
    /// does not say, this answer is the answer to the request.
    async fn confirm_engine(&self, request: &Request<'_>, token: &StoreToken) -> Result<Option<Reply>, Refusal> {
        let Request { secret, entry, cx, .. } = request;
        let Some(root) = own::doubtful(secret, &self.config.namespace) else { return Ok(None) };
        let elements: Vec<&str> = secret.name.as_str().split('/').collect();
        let (namespace, inner) = elements.split_at(own::depth(secret, &self.config.namespace));
        let path = within(&namespace.join("/"), &format!("sys/internal/ui/mounts/{}", inner.join("/")));
        let reply = self.clients.call(&entry.server, Call::get(path, &token.value), cx.deadline).await?;
        if !reply.status.is_success() {
            return Ok(Some(reply));
        }
        if Mount::of(&reply.body).is_some_and(|mount| mount.is_kv() && mount.has(inner, root - namespace.len())) {
            return Ok(None);
        }
        let (word, namespace) = (elements[root], elements[..root].join("/"));
        let reason = format!(
            "the store does not say that this is a secret of a KV engine, so it may be one of the store's own paths below {word}, in the \
             namespace {namespace} (set the namespace with the class's own key for it, and spell {word} in a rule of the policy)"
        );
        Err(Refusal::new(Fault::Denied, reason))
    }

    /// Whether the refused token is still valid. Callers at the same time share one question to the store.
    async fn pulse(&self, request: &Request<'_>, token: &Arc<StoreToken>, began: Instant) -> Result<Pulse, Refusal> {
        let Request { session, cx, .. } = request;
        let Ok(_turn) = timeout_at(cx.deadline, session.turn.lock()).await else { return Err(no_turn()) };
        match session.pass() {
            // Another caller has already found out.
            Some(current) if !Arc::ptr_eq(&current, token) => Ok(Pulse::Dead),
            _ if token.is_dead() => Ok(Pulse::Dead),
            _ if token.was_alive_after(began) => Ok(Pulse::Alive),
            _ => token.look_up(&self.clients, cx.deadline).await,
        }
    }

    /// The store's policy refuses. For a while, Keyferry does not look at the token again for this path.
    async fn denied(&self, request: &Request<'_>, token: &Arc<StoreToken>, reply: &Reply) -> Refusal {
        let Request { secret, entry, session: _, cx } = request;
        let (told, whom) = (words(reply, needles(secret, token)), entry.whom(&self.config.auth));
        let told = if told.shown().is_empty() { "403" } else { told.shown() };
        let capability = match secret.method {
            Method::Get => "read",
            Method::List => "list",
            Method::Post | Method::Put => "create and update",
        };
        let mistaken = if secret.method == Method::Get { self.meant(secret, entry, token, cx).await } else { None };
        let remedy = mistaken.unwrap_or_else(|| {
            let of = if matches!(self.config.auth, Auth::Pod { .. }) { format!("of {whom} ") } else { String::new() };
            format!("does the policy {of}allow {capability} on {}?", self.path(secret))
        });
        let asked = asked(secret.method);
        let refusal = Refusal::new(Fault::Denied, format!("{} refused {asked}: {told} for {whom} ({remedy})", self.name));
        self.sessions.remember_denial(&cx.pod.namespace, token, secret.name.as_str(), &refusal);
        refusal
    }

    /// The store refuses, and does not say whether it still accepts the token. It may be the store's policy, so no kept answer serves.
    fn denied_by_somebody(&self, request: &Request<'_>, token: &Arc<StoreToken>, reply: &Reply, unknown: &Refusal) -> Refusal {
        let told = words(reply, needles(request.secret, token));
        let told = if told.shown().is_empty() { "403" } else { told.shown() };
        let (asked, whom) = (asked(request.secret.method), request.entry.whom(&self.config.auth));
        let reason = |unknown: &str| {
            format!("{} refused {asked}: {told} for {whom}, and does not say whether it still accepts its token: {unknown}", self.name)
        };
        Refusal::new(Fault::Denied, reason(&unknown.reason)).in_full(reason(unknown.for_admin()))
    }

    /// The name that was probably meant, where this one is in an engine of KV v2 but without its `data/`. Keyferry asks as the store's own
    /// command line does: a caller that may do anything in an engine may also know where it is.
    async fn meant(&self, secret: &SecretRef, entry: &Entry, token: &StoreToken, cx: &FetchContext) -> Option<String> {
        let name = secret.name.as_str();
        let inner = name.strip_prefix(&format!("{}/", entry.namespace)).unwrap_or(name);
        let call = Call::get(entry.path(&format!("sys/internal/ui/mounts/{inner}")), &token.value);
        let reply = self.clients.call(&entry.server, call, cx.deadline).await.ok().filter(|reply| reply.status.is_success())?;
        let answer = serde_json::from_slice::<serde_json::Value>(short(&reply.body)).ok()?;
        let mount = answer.pointer("/data/path")?.as_str()?;
        let is_second = answer.pointer("/data/options/version")?.as_str()? == "2";
        let rest = inner.strip_prefix(mount)?;
        let known = ["data/", "metadata/", "delete/", "undelete/", "destroy/", "subkeys/", "config"];
        let wrong = is_second && !known.iter().any(|known| rest.starts_with(known));
        let outer = &name[..name.len() - inner.len()];
        wrong.then(|| format!("did you mean {outer}{mount}data/{rest}? {} is an engine of KV v2", mount.trim_end_matches('/')))
    }

    /// The secret in the store's answer, for any status but 403.
    fn secret(&self, request: &Request<'_>, token: &Arc<StoreToken>, reply: &Reply) -> Result<Secret, Refusal> {
        let secret = request.secret;
        if !reply.status.is_success() {
            return Err(refused(secret, reply, needles(secret, token)));
        }
        Refusal::of_partial(reply.status)?;
        if reply.body.expose().trim_ascii().is_empty() {
            let asked = asked(secret.method);
            let reason = format!("the store did {asked} and answered nothing: there is nothing to deliver (ask for a path that answers)");
            return Err(Refusal::new(Fault::Unsupported, reason));
        }
        let answer = Answer::parse(&reply.body).map_err(|refusal| raw::explained(refusal, &secret.name))?;
        self.heed_warnings(secret, reply, &answer, token);
        let content = answer.content(&secret.name)?;
        let response = delivered(&answer, token)?;
        // A folder needs only the names.
        let response = (!secret.name.is_folder()).then(|| Response::Answer(Arc::new(response)));
        let version = content.version();
        let fields = content.fields(self.max_secret_bytes)?;
        let lease = self.lease(secret, token, &answer);
        Ok(Secret { fields, response, version, lease })
    }

    fn lease(&self, secret: &SecretRef, token: &Arc<StoreToken>, answer: &Answer<'_>) -> Option<Lease> {
        let since = self.clock.now();
        if let Some(Issued { id, renewable, lasts }) = answer.issued() {
            let term = Term { ends: Instant::now() + lasts, renewable };
            token.bear(digest_of(&id), Some(term));
            self.sessions.keep(token);
            let id = Arc::new(id);
            let (token_value, secret) = (Arc::clone(&token.value), secret.clone());
            let lease = Lease { id, renewable, since, ends: since, token: token_value, secret, while_asked: false };
            return Some(as_it_stands(lease, token));
        }
        // What the store made lives without the token: nobody can renew it, and it outlives the token.
        let is_kept = secret.verb() == Verb::Update && secret.keep != Some(Duration::ZERO);
        is_kept.then(|| Lease::of_made(secret, since, made::ends(answer, since)))
    }

    /// Logs each warning once.
    fn heed_warnings(&self, secret: &SecretRef, reply: &Reply, answer: &Answer<'_>, token: &StoreToken) {
        let warnings = warnings(reply, answer.warnings(), || needles(secret, token));
        for warning in warnings.iter().map(Words::shown).filter(|warning| !warning.is_empty()) {
            let said = format!("{} {warning}", secret.name);
            if self.warned.find(&said).is_none() {
                tracing::warn!(backend = %self.name, secret = %secret.name, warning, "the store warns");
                self.warned.insert(said, ());
            }
        }
    }
}

/// All of an answer that Keyferry may deliver. It refuses an answer that has the login's own token in it, wherever that is. It leaves out a
/// warning that quotes the token.
fn delivered(answer: &Answer<'_>, token: &StoreToken) -> Result<SecretBytes, Refusal> {
    let whole = answer.response(answer.warnings());
    if !token.is_in(&whole) {
        return Ok(whole);
    }
    let unwarned = answer.response(None);
    if !token.is_in(&unwarned) {
        return Ok(unwarned);
    }
    let reason = "the answer contains Keyferry's own store token, or its accessor, so it is not delivered (remove the object from \
                  the class)";
    Err(Refusal::new(Fault::Denied, reason))
}

/// What `sys/internal/ui/mounts` says of the engine that a path is in.
#[derive(serde::Deserialize)]
struct Mount {
    /// From its namespace or from the root on, with a slash at its end.
    path: String,
    #[serde(rename = "type")]
    kind: String,
    accessor: String,
}

impl Mount {
    fn of(body: &SecretBytes) -> Option<Self> {
        serde_json::from_str(Answer::parse(body).ok()?.data?.get()).ok()
    }

    /// `generic` is an old name of KV. A login's mount may have any name, also that of an engine.
    fn is_kv(&self) -> bool {
        matches!(self.kind.as_str(), "generic" | "kv") && !self.accessor.starts_with("auth_")
    }

    /// Whether it ends before this element of the name, counted from 0.
    fn has(&self, name: &[&str], root: usize) -> bool {
        let mount: Vec<&str> = self.path.trim_end_matches('/').split('/').collect();
        mount.len() <= root && name.starts_with(&mount)
    }
}

fn target(secret: &SecretRef, path: &str) -> String {
    let mut query: Vec<String> = Vec::new();
    if secret.verb() == Verb::Read {
        let pairs = secret.args.to_pairs();
        query.extend(pairs.iter().map(|(name, value)| format!("{}={}", escape_element(name), escape_element(value))));
    }
    if let Some(version) = &secret.version {
        query.push(format!("version={}", escape_element(version.as_str())));
    }
    if secret.method == Method::List {
        query.push("list=true".to_owned());
    }
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}{mark}{}", escape_path(path), query.join("&"))
}

/// What Keyferry must not repeat from the store's words.
fn needles(secret: &SecretRef, token: &StoreToken) -> Needles {
    Needles::default().secret(&token.value).json(&Zeroizing::new(secret.args.to_json()))
}

/// Completes "the store refused ...".
fn asked(method: Method) -> &'static str {
    match method {
        Method::Get => "the read",
        Method::List => "the list",
        Method::Post => "the POST",
        Method::Put => "the PUT",
    }
}

/// A status that is neither success nor 403.
fn refused(secret: &SecretRef, reply: &Reply, needles: Needles) -> Refusal {
    let told = words(reply, needles);
    if let Some(refusal) = of_status(reply, &told) {
        return refusal;
    }
    if reply.status == StatusCode::NOT_FOUND {
        return absent(secret, reply, &told);
    }
    let told = or_status(&told, reply);
    let asked = asked(secret.method);
    let refusal = |fault, remedy: &str| Refusal::new(fault, format!("the store refused {asked}: {told} ({remedy})"));
    match reply.status.as_u16() {
        401 => refusal(Fault::Unauthenticated, "something in front of the store needs a login of its own"),
        405 => refusal(Fault::Invalid, &format!("the path does not take {}: see `method`", secret.method)),
        413 => refusal(Fault::TooLarge, "send less in the arguments"),
        300..=399 => refusal(Fault::Unhelpful, "name the address that answers without a redirect"),
        _ => refusal(Fault::Invalid, "correct the class: the path, the method or the arguments"),
    }
}

/// 404: says so if the version of KV v2 was deleted or destroyed, or if the path lacks the engine's `data/`. Else the secret is not there.
fn absent(secret: &SecretRef, reply: &Reply, told: &Words) -> Refusal {
    let pinned = secret.version.as_ref().map(crate::model::Version::as_str);
    let not_found = |reason: String| Refusal::new(Fault::NotFound, reason);
    if let Ok(answer) = Answer::parse(&reply.body) {
        if let Some(metadata) = answer.metadata() {
            return not_found(metadata.absence(pinned));
        }
        let warned = warnings(reply, answer.warnings(), Needles::default);
        if warned.iter().any(|warning| warning.say("versioned K/V")) {
            return not_found(format!(
                "there is no such path: it is in an engine of KV v2, where secrets are read below data/ (did you mean {}?)",
                with_data(secret.name.as_str())
            ));
        }
    }
    if told.say("no handler for route") {
        return not_found(format!("no secrets engine is mounted there (correct the path{})", namespace_hint(secret)));
    }
    let told = if told.shown().is_empty() { String::new() } else { format!(": {}", told.shown()) };
    if secret.name.is_folder() {
        return not_found(format!("there are no secrets below it{told} (write one, correct the prefix, or set `optional: true`)"));
    }
    match pinned {
        Some(version) => not_found(format!("there is no version {} of it, or no such secret{told} (pin another, or none)", clean(version))),
        None => not_found(format!("there is no such secret{told} (write it, or correct the path)")),
    }
}

/// The mount is mostly the first element.
fn with_data(name: &str) -> String {
    match name.split_once('/') {
        Some((mount, rest)) => format!("{mount}/data/{rest}"),
        None => format!("{name}/data/..."),
    }
}

fn namespace_hint(secret: &SecretRef) -> &'static str {
    if secret.login.namespace.is_some() { " or the namespace" } else { "" }
}

#[cfg(test)]
mod tests {
    use percent::{once, strict};
    use proptest::prelude::*;

    use super::*;
    use crate::model::{RefParts, SecretName};

    mod percent {
        /// As most servers decode: what is not an escape stays as it is.
        pub fn once(text: &str) -> String {
            let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
            while let [first, after @ ..] = rest {
                let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok()).filter(|_| *first == b'%');
                let byte = digits.filter(|digits| !digits.starts_with('+')).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(byte.unwrap_or(*first));
                rest = if byte.is_some() { &after[2..] } else { after };
            }
            String::from_utf8(bytes).unwrap_or_else(|_| "not UTF-8".to_owned())
        }

        /// As Go does: what is not an escape is an error.
        pub fn strict(text: &str) -> Option<String> {
            let bad = text
                .match_indices('%')
                .any(|(at, _)| !text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
            (!bad).then(|| once(text))
        }
    }

    fn asked_for(name: &SecretName) -> String {
        target(&RefParts::read("bao".parse().unwrap(), name.clone()).into(), name.as_str())
    }

    #[test]
    fn a_name_is_escaped_byte_by_byte() {
        for (name, asked) in [
            ("kv/data/a#b", "kv/data/a%23b"),
            ("kv/data/100%", "kv/data/100%25"),
            ("kv/data/a%/b", "kv/data/a%25/b"),
            ("kv/data/a%zz", "kv/data/a%25zz"),
            ("kv/data/ü b+c", "kv/data/%C3%BC%20b%2Bc"),
        ] {
            assert_eq!(asked_for(&SecretName::escapable(name).unwrap()), asked);
        }
    }

    proptest! {
        /// A proxy between Keyferry and the store may decode too. It must not see a name that policy has not seen.
        #[test]
        fn what_a_server_sees_is_the_name_that_policy_saw(name in "([%#\\\\?.a-f0-9G/ +]|\\PC){0,16}") {
            if let Ok(name) = SecretName::escapable(&name) {
                let asked = asked_for(&name);
                prop_assert!(!asked.contains(['#', '?', '\\']), "{}", asked);
                let seen = once(&asked);
                prop_assert_eq!(&seen, name.as_str());
                prop_assert_eq!(&once(&seen), name.as_str());
                prop_assert_eq!(strict(&asked).unwrap(), name.as_str());
                prop_assert!(strict(&seen).is_none_or(|twice| twice == name.as_str()), "{}", seen);
            }
        }
    }
}
