//! Looks at the server for `keyferry doctor`: its readiness, its clock, and a login of the daemon or of a given Pod. Keyferry tries the
//! login, and then revokes its token.

use std::sync::Arc;

use serde::Deserialize;
use tokio::time::{Duration, Instant};

use super::VaultBackend;
use super::answer::Answer;
use super::config::Auth;
use super::entry::Entry;
use super::health::meaning;
use super::login::log_in;
use super::token::StoreToken;
use super::wire::Call;
use crate::backend::{FetchContext, Visitor};
use crate::model::{Diagnosis, Level, Login, PodClaims, PodIdentity, PodTokens, clean};

/// How long a login and what follows it may take.
const TIME: Duration = Duration::from_secs(5);

/// More seconds between two clocks are too many: a token's leeway is at most a minute or two (RFC 7519 leaves it to the reader).
const FAR: i64 = 30;
const TOO_FAR: i64 = 5 * 60;

/// What `sys/health` says besides its status (its API page). A listener can be configured to hide the version.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    version: String,
    standby: bool,
    /// Seconds since 1970.
    server_time_utc: Option<i64>,
}

impl VaultBackend {
    /// One line per thing that it looks at. `visitor` has a token for this backend's audience.
    pub async fn examine(&self, visitor: Option<Visitor>) -> Vec<Diagnosis> {
        let what = format!("backend {}", self.name);
        let mut found: Vec<Diagnosis> = self.unguarded(&what).into_iter().collect();
        let (server, reply) = match self.health_answer().await {
            Ok(answered) => answered,
            Err(refusal) => {
                found.push(Diagnosis::of_error(Level::Fail, what, refusal.for_admin()));
                return found;
            }
        };
        let told: Told = serde_json::from_slice(reply.body.expose()).unwrap_or_default();
        if let Err(refusal) = meaning(&server, &reply) {
            found.push(Diagnosis::of_error(Level::Fail, &what, refusal.for_admin()));
            found.extend(self.clock_of(&what, &told));
            return found;
        }
        let version = if told.version.is_empty() { "a version that it does not show".to_owned() } else { clean(&told.version) };
        let standby = if told.standby { ", a standby: it hands requests on" } else { "" };
        found.push(Diagnosis::ok(&what, format!("{server} serves, {version}{standby}")));
        found.extend(self.clock_of(&what, &told));
        found.push(self.login(format!("{what}: login"), visitor).await);
        found
    }

    /// Warns where somebody between Keyferry and the server can read along.
    fn unguarded(&self, what: &str) -> Option<Diagnosis> {
        let address = &self.config.address;
        let is_here = |host: &str| host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        let guarded = address.is_https() || address.host().is_none_or(is_here);
        let why = format!("{address}: anyone between Keyferry and the server can read tokens and secrets");
        (!guarded).then(|| Diagnosis::warn(format!("{what}: TLS"), why, "reach it by https, and name the CA of its certificate in `ca`"))
    }

    fn clock_of(&self, what: &str, told: &Told) -> Option<Diagnosis> {
        let what = format!("{what}: clock");
        let theirs = told.server_time_utc?;
        let apart = theirs.saturating_sub(self.clock.now().as_second());
        let side = if apart < 0 { "behind" } else { "ahead of" };
        // The server's time is in whole seconds.
        let why = match apart.abs() {
            0..=1 => "the server's and this node's are the same, to the second".to_owned(),
            apart => format!("the server's is {apart} s {side} this node's"),
        };
        let remedy = "set both by NTP: tokens are refused as not yet valid, or as expired";
        Some(match apart.abs() {
            0..=FAR => Diagnosis::ok(what, why),
            far if far <= TOO_FAR => Diagnosis::warn(what, why, remedy),
            _ => Diagnosis::fail(what, why, remedy),
        })
    }

    async fn login(&self, what: String, visitor: Option<Visitor>) -> Diagnosis {
        let not_tried = |why: String, remedy: String| Diagnosis::warn(&what, format!("not tried: {why}"), remedy);
        let visitor = match (&self.config.auth, visitor) {
            (Auth::AppRole { .. }, _) => return not_tried("a secret id may be valid for only one login".to_owned(), String::new()),
            (Auth::Pod { .. }, None) => {
                let audience = self.config.audience().map_or("", |audience| audience.text);
                let why = format!("this needs the token of a Pod for the audience {audience}");
                return not_tried(why, format!("--token {audience}=FILE; keyferry doctor --help shows how to make one"));
            }
            (Auth::Pod { role: None, .. }, Some(_)) => {
                return not_tried(
                    "classes name the role, and auth.role is not set".to_owned(),
                    "keyferry mount asks as a class does".to_owned(),
                );
            }
            (Auth::Pod { .. }, Some(visitor)) => visitor,
            (Auth::Cert { .. } | Auth::Token { .. }, _) => nobody(),
        };
        let entry = match Entry::of(&self.config, &Login::default(), None) {
            Ok(entry) => entry,
            Err(refusal) => return Diagnosis::of_error(Level::Fail, what, refusal.for_admin()),
        };
        let deadline = Instant::now() + TIME;
        let cx = FetchContext::new(Arc::new(visitor.pod), Arc::new(visitor.tokens), deadline);
        match log_in(&self.clients, &self.config.auth, &entry, &cx).await {
            Ok(token) => self.entered(what, &entry, &token, deadline).await,
            Err(refusal) => Diagnosis::of_error(Level::Fail, what, refusal.for_admin()),
        }
    }

    /// Shows what the store token may do, and then revokes it.
    async fn entered(&self, what: String, entry: &Entry, token: &StoreToken, deadline: Instant) -> Diagnosis {
        let policies = self.policies(entry, token, deadline).await;
        let back = if token.is_ours() { token.revoke(&self.clients, deadline).await.err() } else { None };
        let as_whom = format!("as {}", entry.whom(&self.config.auth));
        match (policies, back) {
            (Err(problem), _) => Diagnosis::of_error(Level::Fail, what, &problem),
            (Ok(policies), None) => Diagnosis::ok(what, format!("{as_whom}, {policies}")),
            (Ok(policies), Some(refusal)) => {
                let why = format!("{as_whom}, {policies}; the store token of this try was not revoked: {}", refusal.for_admin());
                Diagnosis::warn(what, why, "it ends by itself")
            }
        }
    }

    async fn policies(&self, entry: &Entry, token: &StoreToken, deadline: Instant) -> Result<String, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Lookup {
            policies: Vec<String>,
            identity_policies: Vec<String>,
        }
        let call = Call::get(entry.path("auth/token/lookup-self"), &token.value);
        let reply = self.clients.call(&entry.server, call, deadline).await.map_err(|refusal| refusal.for_admin().to_owned())?;
        match reply.status.as_u16() {
            200 => {}
            // A token without the default policy may not look itself up. A token from a file may not be valid any more.
            _ if token.is_ours() => {
                return Ok(format!("which may not look itself up ({}): its policies are not known", reply.status.as_u16()));
            }
            status => return Err(format!("the store does not accept {}: {status} (write a new one)", entry.whom(&self.config.auth))),
        }
        let answer = Answer::parse(&reply.body).map_err(|refusal| refusal.for_admin().to_owned())?;
        let data = answer.data.map(serde_json::value::RawValue::get).unwrap_or_default();
        let Lookup { policies, identity_policies } = serde_json::from_str(data).unwrap_or_default();
        let all: Vec<String> = policies.iter().chain(&identity_policies).map(|policy| clean(policy)).collect();
        Ok(format!("with the policies {}", all.join(", ")))
    }
}

/// For logins without a Pod.
fn nobody() -> Visitor {
    let empty = PodClaims { namespace: String::new(), name: String::new(), uid: String::new(), service_account: String::new() };
    Visitor { pod: PodIdentity::believed(&empty), tokens: PodTokens::default() }
}
