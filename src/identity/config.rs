//! The `identity` mapping of the configuration: how Pods prove who they are.

use std::path::PathBuf;

use crate::files::absolute;
use crate::http::Endpoint;
use crate::kube::OwnToken;
use crate::yaml::{Faults, Reader, unknown_key};

/// The audience that a token must be for, unless the configuration names another.
const DEFAULT_AUDIENCE: &str = "keyferry";

/// A checked `identity` mapping.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdentityConfig {
    /// The audience of the Pods' tokens; `tokenRequests` of the CSIDriver object makes kubelet send such tokens.
    pub audience: String,
    pub verify: Verify,
}

/// What Keyferry believes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verify {
    /// Whatever the driver says.
    Driver,
    /// Tokens of this issuer, signed with one of its keys. `None`: the issuer of the daemon's own token.
    Jwks { issuer: Option<String>, keys: Keys },
    /// Tokens that the API server of this cluster calls valid.
    TokenReview,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Keys {
    /// The API server of the cluster that the daemon runs in.
    ApiServer,
    File(PathBuf),
    /// An `https` address, the CA of its certificate (`None`: the system's), and the token to send (`None`: none).
    Url {
        url: String,
        ca: Option<PathBuf>,
        token: Option<OwnToken>,
    },
}

impl IdentityConfig {
    /// Reads the mapping; the caller ends the reading with [`Reader::finish`]. `None` if there was a fault.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let verify = reader.parsed("verify", faults, mode);
        let audience = reader.parsed("audience", faults, filled);
        let issuer = reader.parsed("issuer", faults, filled);
        let keys = keys(reader, faults);
        let audience = audience.unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
        let verify = match verify {
            Some(Mode::Driver) => Verify::Driver,
            Some(Mode::TokenReview) => Verify::TokenReview,
            // The fault of a wrong value is already noted.
            Some(Mode::Jwks) | None => Verify::Jwks { issuer, keys: keys? },
        };
        (faults.len() == before).then_some(Self { audience, verify })
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Driver,
    Jwks,
    TokenReview,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "driver" => Ok(Mode::Driver),
        "jwks" => Ok(Mode::Jwks),
        "token-review" => Ok(Mode::TokenReview),
        other => Err(unknown_key(other, &["jwks", "token-review", "driver"]).replace("known key", "way to verify")),
    }
}

fn filled(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty (write a value, or leave the key out)") } else { Ok(text.to_owned()) }
}

/// Without TLS, anybody on the way could replace the keys.
fn https(text: &str) -> Result<String, String> {
    let uri = text.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    let Some(uri) = uri else {
        return Err(format!("{text:?} is not an https address (write for example https://oidc.example/openid/v1/jwks)"));
    };
    let endpoint = Endpoint::of(&uri).map_err(|problem| problem.to_string())?;
    endpoint.check_server_name(None).map(|()| text.to_owned())
}

/// The `jwks` mapping; if it is absent or empty, the API server. `None` if there was a fault.
fn keys(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Keys> {
    let before = faults.len();
    if reader.get("jwks").is_none() {
        return Some(Keys::ApiServer);
    }
    let mut jwks = reader.reader("jwks", faults)?;
    let file = jwks.parsed("file", faults, absolute);
    let url = jwks.parsed("url", faults, https);
    let ca = jwks.parsed("ca", faults, absolute);
    let token = jwks.parsed("tokenFile", faults, absolute).map(OwnToken::at);
    let (has_file, has_url) = (jwks.get("file").is_some(), jwks.get("url").is_some());
    if let (true, Some(node)) = (has_file, jwks.get("url")) {
        faults.add(node.at, jwks.path("url"), "cannot be used together with `file`: keys come from one of them (remove the other)");
    }
    for key in ["ca", "tokenFile"] {
        if let (false, Some(node)) = (has_url, jwks.get(key)) {
            faults.add(node.at, jwks.path(key), "needs `url`, which is not there (the API server of this cluster needs neither)");
        }
    }
    jwks.finish(faults);
    let keys = match (file, url) {
        (Some(file), _) => Keys::File(file),
        (None, Some(url)) => Keys::Url { url, ca, token },
        (None, None) => Keys::ApiServer,
    };
    (faults.len() == before).then_some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn read(text: &str) -> Result<IdentityConfig, String> {
        let node = yaml::parse(text).unwrap();
        let mut faults = Faults::default();
        let mut reader = Reader::of(&node, "identity", &mut faults).unwrap();
        let config = IdentityConfig::parse(&mut reader, &mut faults);
        reader.finish(&mut faults);
        let shown: Vec<_> = faults.into_sorted().iter().map(|fault| format!("{}: {fault}", fault.at.line)).collect();
        assert!(config.is_some() == shown.is_empty() || shown.iter().any(|fault| fault.contains("no known key")));
        config.filter(|_| shown.is_empty()).ok_or(shown.join("\n"))
    }

    #[test]
    fn a_key_file_and_an_issuer_are_read() {
        let config = read("issuer: https://oidc.example\njwks: { file: /etc/keyferry/jwks.json }").unwrap();
        assert_eq!(config.audience, "keyferry");
        let keys = Keys::File("/etc/keyferry/jwks.json".into());
        assert_eq!(config.verify, Verify::Jwks { issuer: Some("https://oidc.example".into()), keys });
        assert_eq!(read("verify: driver\naudience: x").unwrap(), IdentityConfig { audience: "x".into(), verify: Verify::Driver });
        assert_eq!(read("verify: token-review").unwrap().verify, Verify::TokenReview);
    }

    #[test]
    fn in_a_cluster_nothing_need_be_set() {
        for text in ["", "{}", "jwks: {}", "jwks:", "jwks: { file: }", "verify: jwks"] {
            assert_eq!(read(text).unwrap().verify, Verify::Jwks { issuer: None, keys: Keys::ApiServer }, "{text}");
        }
    }

    #[test]
    fn an_address_may_have_a_ca_and_a_token() {
        let Verify::Jwks { keys, .. } = read("jwks: { url: \"https://x.example/jwks\", ca: /ca.crt, tokenFile: /token }").unwrap().verify
        else {
            panic!("jwks is the default")
        };
        let (ca, token) = (Some("/ca.crt".into()), Some(OwnToken::at("/token")));
        assert_eq!(keys, Keys::Url { url: "https://x.example/jwks".into(), ca, token });
    }

    #[test]
    fn each_fault_says_what_to_do() {
        insta::assert_snapshot!(read("verify: jkws").unwrap_err(), @"1: identity.verify: is not a way to verify (did you mean `jwks`?)");
        insta::assert_snapshot!(read("audience: ''\nissuer: ' '\njwks:\n  file: ''\n  url: https://x\n  flie: x\n").unwrap_err(), @r#"
        1: identity.audience: is empty (write a value, or leave the key out)
        2: identity.issuer: is empty (write a value, or leave the key out)
        4: identity.jwks.file: is empty (write a path that starts with /, or leave the key out)
        5: identity.jwks.url: cannot be used together with `file`: keys come from one of them (remove the other)
        6: identity.jwks.flie: is not a known key (did you mean `file`?)
        "#);
        insta::assert_snapshot!(read("jwks:\n  url: http://oidc.example/jwks\n").unwrap_err(), @r#"2: identity.jwks.url: "http://oidc.example/jwks" is not an https address (write for example https://oidc.example/openid/v1/jwks)"#);
        insta::assert_snapshot!(read("jwks: { file: /x, ca: /y, tokenFile: /z }").unwrap_err(), @"
        1: identity.jwks.ca: needs `url`, which is not there (the API server of this cluster needs neither)
        1: identity.jwks.tokenFile: needs `url`, which is not there (the API server of this cluster needs neither)
        ");
    }
}
