//! `secretPath`: a path of the store's API as the peers accept it, with or without `/v1/` at the start and a query at the end.

use std::collections::HashSet;
use std::str::FromStr;

use crate::model::{Method, quoted};

/// The path under the store's name for it, and the values of its query.
#[derive(Debug, Eq, Hash, PartialEq)]
pub(super) struct SecretPath {
    pub name: String,
    /// `?version=N`: a pinned version of a KV secret. 0 means the latest, so it pins nothing.
    pub version: Option<String>,
    /// All other values, decoded.
    pub query: Vec<(String, String)>,
}

impl FromStr for SecretPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_prefix("v1/").unwrap_or(path);
        // The peers' client joins paths in this way, and sends no empty element.
        let name = path.split('/').filter(|element| !element.is_empty()).collect::<Vec<_>>().join("/");
        let (mut this, mut seen) = (Self { name, version: None, query: Vec::new() }, HashSet::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            this.read_pair(pair, &mut seen)?;
        }
        Ok(this)
    }
}

impl SecretPath {
    /// Only a read has versions. For any other request it is an argument like the others.
    pub(super) fn of(mut self, method: Method) -> Self {
        if method != Method::Get {
            self.query.extend(self.version.take().map(|version| ("version".to_owned(), version)));
        }
        self
    }

    /// `seen` are the names before it, without a `version` that pins nothing.
    fn read_pair(&mut self, pair: &str, seen: &mut HashSet<String>) -> Result<(), String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
            return Err(
                "has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)".to_owned()
            );
        };
        if seen.contains(&name) {
            return Err(format!("has {} twice in its query (remove one)", quoted(&name)));
        }
        if name == "version" && matches!(value.as_str(), "" | "0") {
            return Ok(());
        }
        seen.insert(name.clone());
        match name.as_str() {
            "version" => self.version = Some(value),
            _ => self.query.push((name, value)),
        }
        Ok(())
    }
}

/// As in a form: `+` is a space, `%XX` a byte. A `;` is refused, since it once meant `&`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b';' => return None,
            b'+' => b' ',
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                rest = after;
                let digits = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SecretPath {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_has_one_name_however_it_is_written() {
        for text in [
            "kv/data/shop/db",
            "/kv/data/shop/db",
            "v1/kv/data/shop/db",
            "/v1/kv/data/shop/db",
            "/v1//kv/data/shop//db/",
            "kv/data/shop/db?",
        ] {
            assert_eq!(path(text), SecretPath { name: "kv/data/shop/db".to_owned(), version: None, query: Vec::new() }, "{text}");
        }
        assert_eq!(path("/v1/v1/x").name, "v1/x", "a mount may be called so");
        assert_eq!(path("v1").name, "v1");
    }

    #[test]
    fn a_query_gives_version_and_arguments() {
        let read = path("/v1/kv/data/db?version=3");
        assert_eq!((read.name.as_str(), read.version.as_deref(), read.query.len()), ("kv/data/db", Some("3"), 0));
        assert_eq!(
            read.of(Method::Put),
            SecretPath { name: "kv/data/db".to_owned(), version: None, query: vec![("version".to_owned(), "3".to_owned())] }
        );
        for latest in ["db?version=0", "db?version=", "db?version"] {
            assert_eq!(path(latest).version, None, "{latest}");
        }
        let read = path("ssh/creds?ip=10.0.0.1&user=a+b%2Fc&&list=true&x?y=1");
        let pairs: Vec<_> = read.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["ip=10.0.0.1", "user=a b/c", "list=true", "x?y=1"]);
    }

    #[test]
    fn queries_that_could_mean_two_things_are_refused() {
        let refused = ["db?a=%4", "db?a=%zz", "db?a=1;b=2", "db?a=%ff", "db?a=1&a=2", "db?version=1&version=2", "db?a=%+1"];
        let problems: Vec<_> = refused.map(|text| text.parse::<SecretPath>().unwrap_err()).to_vec();
        insta::assert_snapshot!(problems.join("\n"), @r#"
        has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
        has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
        has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
        has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
        has "a" twice in its query (remove one)
        has "version" twice in its query (remove one)
        has a query that cannot be read (write `name=value`, several with `&` between, other characters as %XX)
        "#);
    }
}
