//! The `identity` mapping of the configuration: how Pods prove who they are.

use std::path::PathBuf;

use crate::yaml::{Faults, Reader, unknown_key};

/// The audience a token must be for, unless the configuration names another.
const DEFAULT_AUDIENCE: &str = "keyferry";

/// A checked `identity` mapping.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdentityConfig {
    /// What a Pod's token must be for; `tokenRequests` of the CSIDriver object asks kubelet for such tokens.
    pub audience: String,
    pub verify: Verify,
}

/// What is believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verify {
    /// Whatever the driver says.
    Driver,
    /// Tokens of this issuer, signed with one of the keys in the file.
    Jwks { issuer: String, file: PathBuf },
}

impl IdentityConfig {
    /// Reads the mapping; the caller ends the reading with [`Reader::finish`]. `None` where a fault was noted.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let verify = reader.parsed("verify", faults, mode);
        let asked = reader.get("verify").is_some();
        let audience = reader.parsed("audience", faults, filled);
        let issuer = reader.parsed("issuer", faults, filled);
        let file = key_file(reader, faults);
        let verify = match (verify, asked) {
            (None, true) => None,
            (Some(Mode::Driver), _) => Some(Verify::Driver),
            (Some(Mode::Jwks), _) | (None, false) => jwks(issuer, file, reader, faults),
        };
        let audience = audience.unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
        verify.filter(|_| faults.len() == before).map(|verify| Self { audience, verify })
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Driver,
    Jwks,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "driver" => Ok(Mode::Driver),
        "jwks" => Ok(Mode::Jwks),
        "token-review" => Err("token-review is not built yet (use `verify: jwks` with identity.jwks.file, or `verify: driver`)".to_owned()),
        other => Err(unknown_key(other, &["jwks", "token-review", "driver"]).replace("known key", "way to verify")),
    }
}

fn filled(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty") } else { Ok(text.to_owned()) }
}

fn key_file(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<PathBuf> {
    let mut jwks = reader.reader("jwks", faults)?;
    let file = jwks.parsed("file", faults, filled).map(PathBuf::from);
    for key in ["url", "ca", "tokenFile"] {
        if let Some(node) = jwks.get(key) {
            faults.add(node.at, jwks.path(key), "is not built yet (put the keys into a file: identity.jwks.file)");
        }
    }
    jwks.finish(faults);
    file
}

fn jwks(issuer: Option<String>, file: Option<PathBuf>, reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Verify> {
    // A value that was there and faulty has been noted already.
    if issuer.is_none() && reader.get("issuer").is_none() {
        let remedy = "the `iss` of the cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it; \
                      learning it from the daemon's own token is not built yet";
        reader.missing("issuer", remedy, faults);
    }
    if file.is_none() && reader.get("jwks").is_none() {
        let remedy = "a file with the cluster's keys: kubectl get --raw /openid/v1/jwks writes it; asking the API server is not built \
                      yet. Or `verify: driver`";
        reader.missing("jwks.file", remedy, faults);
    }
    Some(Verify::Jwks { issuer: issuer?, file: file? })
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
        config.ok_or(shown.join("\n"))
    }

    #[test]
    fn a_key_file_and_an_issuer_are_enough() {
        let config = read("issuer: https://oidc.example\njwks: { file: /etc/keyferry/jwks.json }").unwrap();
        assert_eq!(config.audience, "keyferry");
        assert_eq!(config.verify, Verify::Jwks { issuer: "https://oidc.example".into(), file: "/etc/keyferry/jwks.json".into() });
        assert_eq!(read("verify: driver\naudience: x").unwrap(), IdentityConfig { audience: "x".into(), verify: Verify::Driver });
    }

    #[test]
    fn each_fault_says_what_to_do() {
        insta::assert_snapshot!(read("").unwrap_err(), @"
        1: identity.issuer: is missing (the `iss` of the cluster's tokens: kubectl get --raw /.well-known/openid-configuration shows it; learning it from the daemon's own token is not built yet)
        1: identity.jwks.file: is missing (a file with the cluster's keys: kubectl get --raw /openid/v1/jwks writes it; asking the API server is not built yet. Or `verify: driver`)
        ");
        insta::assert_snapshot!(read("verify: token-review").unwrap_err(), @"1: identity.verify: token-review is not built yet (use `verify: jwks` with identity.jwks.file, or `verify: driver`)");
        insta::assert_snapshot!(read("verify: jkws").unwrap_err(), @"1: identity.verify: is no way to verify (did you mean `jwks`?)");
        insta::assert_snapshot!(read("audience: ''\nissuer: ' '\njwks:\n  file: ''\n  url: https://x\n  flie: x\n").unwrap_err(), @"
        1: identity.audience: is empty
        2: identity.issuer: is empty
        4: identity.jwks.file: is empty
        5: identity.jwks.url: is not built yet (put the keys into a file: identity.jwks.file)
        6: identity.jwks.flie: is no known key (did you mean `file`?)
        ");
    }
}
