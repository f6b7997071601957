//! The tokens of `--token`: what they say about themselves, and whether the daemon would accept them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::super::mount::{MountCommandError, read_token};
use crate::backend::Visitor;
use crate::clock::Clock;
use crate::identity::{self, IdentityConfig, TokenClaims, Verify};
use crate::model::{Diagnosis, Level, PodIdentity, PodToken, PodTokens, RawTokens, SecretBytes, clean};

/// Tokens by audience, and the files they came from.
#[derive(Debug, Default)]
pub struct Given {
    tokens: BTreeMap<String, (PathBuf, Arc<SecretBytes>)>,
}

/// A path that can never be a folder: keys that are fetched for a look are not kept.
const NOWHERE: &str = "/dev/null/keyferry";

impl Given {
    /// # Errors
    /// A file cannot be read, or has no token.
    pub fn read(tokens: &[(String, String)]) -> Result<Self, MountCommandError> {
        let mut given = Self::default();
        for (audience, file) in tokens {
            let token = Arc::new(read_token(Path::new(file))?);
            given.tokens.insert(audience.clone(), (PathBuf::from(file), token));
        }
        Ok(given)
    }

    pub fn has(&self, audience: &str) -> bool {
        self.tokens.contains_key(audience)
    }

    /// For the login to stores: the Pod that the token for this audience names, with this one token. The admin is believed.
    pub fn visitor(&self, audience: &str) -> Option<Visitor> {
        let (_, token) = self.tokens.get(audience)?;
        let claims = TokenClaims::read(token.expose()).ok()?;
        let service_account_uid = claims.service_account_uid.map(Into::into);
        let pod = PodIdentity { service_account_uid, verified: true, ..PodIdentity::believed(&claims.pod?) };
        let token = PodToken { jwt: Arc::clone(token), expires: claims.expires? };
        Some(Visitor { pod, tokens: PodTokens::new(BTreeMap::from([(audience.to_owned(), token)])) })
    }

    fn raw(&self) -> RawTokens {
        self.tokens.iter().map(|(audience, (_, token))| (audience.clone(), Arc::clone(token))).collect()
    }
}

/// Looks at each token, and verifies the token for the daemon itself, as a mount would.
pub async fn examine(given: &Given, config: &IdentityConfig, clock: &Arc<dyn Clock>) -> Vec<Diagnosis> {
    let mut found: Vec<Diagnosis> = given.tokens.iter().map(|(audience, (file, token))| look(audience, file, token, clock.now())).collect();
    // If a token is wrong already, the lines above say so.
    let sound = found.iter().all(|found| found.level == Level::Ok);
    if config.verify != Verify::Driver && given.has(&config.audience) && sound {
        found.push(verified(given, config, clock).await);
    }
    found
}

fn look(audience: &str, file: &Path, token: &SecretBytes, now: Timestamp) -> Diagnosis {
    let (what, at) = (format!("token {audience}"), file.display());
    let claims = match TokenClaims::read(token.expose()) {
        Ok(claims) => claims,
        Err(error) => return Diagnosis::fail(what, format!("{at}: {}", error.problem), "make one as `keyferry doctor --help` shows"),
    };
    let audiences: Vec<String> = claims.audiences.iter().map(|audience| clean(audience)).collect();
    let Some(pod) = &claims.pod else {
        return Diagnosis::fail(
            what,
            format!("{at}: is not bound to a Pod"),
            "make one with --bound-object-kind Pod, as `keyferry doctor --help` shows",
        );
    };
    let whose = format!("of Pod {}/{} and ServiceAccount {}", clean(&pod.namespace), clean(&pod.name), clean(&pod.service_account));
    let ends = claims.expires.map_or_else(|| "does not expire".to_owned(), |ends| format!("ends at {ends}"));
    if !claims.audiences.iter().any(|one| one == audience) {
        let why = format!("{at}: is for {}", if audiences.is_empty() { "no audience".to_owned() } else { audiences.join(", ") });
        return Diagnosis::fail(what, why, format!("make one with --audience {audience}"));
    }
    if claims.expires.is_some_and(|ends| ends <= now) {
        return Diagnosis::fail(what, format!("{at}: expired at {}", claims.expires.unwrap_or(now)), "make a new one");
    }
    Diagnosis::ok(what, format!("{at}: {whose}, for {}, issued by {}, {ends}", audiences.join(", "), clean(&claims.issuer)))
}

/// By the daemon's own verifier.
async fn verified(given: &Given, config: &IdentityConfig, clock: &Arc<dyn Clock>) -> Diagnosis {
    let what = format!("token {}: verified", config.audience);
    let own = given.tokens.get(&config.audience).and_then(|(_, token)| TokenClaims::read(token.expose()).ok()?.pod);
    let Some(claims) = own else { return Diagnosis::fail(what, "it does not name a Pod", "") };
    let identity = match identity::build(config, Path::new(NOWHERE), Arc::clone(clock)) {
        Ok(identity) => identity,
        Err(problem) => return Diagnosis::of_error(Level::Warn, what, &format!("not known: {problem}")),
    };
    match identity.attest(&claims, &given.raw()).await {
        Ok(attested) => {
            let others: Vec<String> = attested.tokens.audiences().map(clean).collect();
            let others = if others.is_empty() { "no other token".to_owned() } else { format!("the tokens for: {}", others.join(", ")) };
            Diagnosis::ok(what, format!("a mount would accept it, and would give the stores {others}"))
        }
        Err(error) => Diagnosis::of_error(Level::Fail, what, &error.to_string()),
    }
}
