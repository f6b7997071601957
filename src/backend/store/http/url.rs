//! The address of a secret: a host that is fixed, and a path and query with places for what is asked for.
//!
//! The two are split before anything else, and never joined as text again. So nothing in a class can change the host, the scheme or the
//! port.

use std::fmt;

use http::Uri;

use super::template::{Braces, Slot, Template, Values};
use crate::backend::Fault;
use crate::backend::remote::refusal::Refusal;
use crate::http::{Endpoint, escape_element, escape_path};

/// `https://host[:port]/path?query`. The host has no places.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Url {
    pub(super) endpoint: Endpoint,
    path: Template,
    query: Option<Template>,
}

/// As the configuration writes it.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.endpoint, self.path)?;
        self.query.iter().try_for_each(|query| write!(f, "?{query}"))
    }
}

impl Url {
    /// # Errors
    /// It is not an address, has a place in its host, or has an unknown place.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let host = text.find("://").map_or(0, |end| end + 3);
        let end = text[host..].find(['/', '?', '#']).map_or(text.len(), |end| host + end);
        let (origin, rest) = text.split_at(end);
        if origin.contains(['{', '}']) {
            return Err(
                "has a placeholder in its host (write the host itself: it is the same for every secret; only path and query can have placeholders)"
                    .to_owned(),
            );
        }
        if origin.eq_ignore_ascii_case("unix://") {
            return Err("is a socket, which a store of this kind cannot be (write https://host/path)".to_owned());
        }
        let endpoint = origin.parse::<Endpoint>().map_err(|error| error.to_string())?;
        if rest.contains('#') {
            return Err("has a fragment (leave out the # and what follows, or write %23)".to_owned());
        }
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let url = Self {
            endpoint,
            path: Template::parse(path, Braces::Refused)?,
            query: query.map(|query| Template::parse(query, Braces::Refused)).transpose()?,
        };
        match url.fill(Values::SAMPLE, None) {
            Ok(_) => Ok(url),
            Err(_) => {
                Err("has characters that no address may have, or an element `.` or `..` (escape them as %XX, or leave them out)".to_owned())
            }
        }
    }

    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.path.holds(slot) || self.query.as_ref().is_some_and(|query| query.holds(slot))
    }

    /// The whole address, with one more parameter in its query.
    ///
    /// # Errors
    /// It would have an element that servers read as another folder.
    pub(super) fn fill(&self, values: Values<'_>, parameter: Option<(&str, &str)>) -> Result<Uri, Refusal> {
        let path = self.path.fill(values, |slot, value| match slot {
            Slot::Name => escape_path(value),
            Slot::NameEscaped | Slot::Namespace | Slot::ServiceAccount | Slot::Version => escape_element(value),
        });
        let invalid = |problem: &str| Refusal::new(Fault::Invalid, format!("its address {problem} (correct the name in the class)"));
        if path.split('/').any(|element| matches!(element, "." | "..")) {
            return Err(invalid("would have an element `.` or `..`"));
        }
        let query = self.query.iter().map(|query| query.fill(values, |_, value| escape_element(value)));
        let parameter = parameter.map(|(name, value)| format!("{}={}", escape_element(name), escape_element(value)));
        let query = query.chain(parameter).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let uri =
            self.endpoint.uri(&format!("{path}{mark}{query}")).map_err(|_| invalid("would have characters that an address cannot have"))?;
        if self.endpoint.is_origin_of(&uri) { Ok(uri) } else { Err(invalid("would be another host's")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(name: &str) -> Values<'_> {
        Values { name, namespace: "shop", service_account: "web", version: "3" }
    }

    fn filled(url: &str, name: &str) -> String {
        Url::parse(url).unwrap().fill(values(name), None).unwrap().to_string()
    }

    #[test]
    fn a_name_is_a_path_or_a_value_and_nothing_else() {
        assert_eq!(filled("https://s.example/v1/{name}", "shop/db"), "https://s.example/v1/shop/db");
        assert_eq!(filled("https://s.example/v1/{nameEscaped}/value", "a b/c.d"), "https://s.example/v1/a%20b%2Fc.d/value");
        assert_eq!(filled("https://s.example?path={nameEscaped}", "a/b&c"), "https://s.example/?path=a%2Fb%26c");
        assert_eq!(filled("https://s.example/v1/{name}/value", "a b&c=d"), "https://s.example/v1/a%20b%26c%3Dd/value");
        assert_eq!(filled("https://s.example?path={name}&x=y", "a/b&c"), "https://s.example/?path=a%2Fb%26c&x=y");
        assert_eq!(
            filled("https://s.example/{namespace}/{serviceAccount}/{name}/versions/{version}:access", "k"),
            "https://s.example/shop/web/k/versions/3:access"
        );
        let url = Url::parse("https://s.example/{name}?x=y").unwrap();
        let pinned = url.fill(values("k"), Some(("v", "1&2"))).unwrap();
        assert_eq!(pinned, "https://s.example/k?x=y&v=1%262");
    }

    /// This also tests names that are never canonical names: this code does not rely on other code.
    #[test]
    fn nothing_changes_the_host() {
        let url = Url::parse("https://s.example:8443/v1{name}?q={name}").unwrap();
        for hostile in [
            "@evil.example",
            "//evil.example",
            "/../../x",
            "%2f%2fevil.example",
            "\\\\evil.example",
            "..%2f",
            ":80@evil.example",
            "?x#y",
            "https://evil.example",
            "ünï.example",
            "\u{202e}evil",
            "\r\nHost: evil.example",
            ".evil.example",
            "\0",
            " ",
        ] {
            match url.fill(values(hostile), Some(("v", hostile))) {
                Ok(uri) => assert_eq!(uri.authority().unwrap(), "s.example:8443", "{uri}"),
                Err(refusal) => assert!(hostile.contains(".."), "{refusal:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        let told = |text: &str| format!("{text}: {}", Url::parse(text).unwrap_err());
        let all = [
            "https://{name}.example/x",
            "https://s.example:{name}/x",
            "{name}",
            "unix:///run/x.sock",
            "ftp://s.example/{name}",
            "https://user:canary@s.example/{name}",
            "https://good\\@evil/{name}",
            "https://s.example/{nmae}",
            "https://s.example/{secret}",
            "https://s.example/{name}}",
            "https://s.example/{}",
            "https://s.example/{name}#x",
            "https://s.example/a b/{name}",
            "https://s.example/../{name}",
            "https://s.example/${name}",
            "https://s.example/$(name)/{name}",
            "https://s.example/x?n={{name}}",
            "https://s.example/{{ Namespace }}/{name}",
            "https://s.example/%{name}",
            "https://s.example/{name}?ns=$namespace",
            "https://s.example/{{secret}}",
            "https://s.example/{{.Name}}",
            "https://s.example/${secret}",
            "https://s.example/{ name }",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r"
        https://{name}.example/x: has a placeholder in its host (write the host itself: it is the same for every secret; only path and query can have placeholders)
        https://s.example:{name}/x: has a placeholder in its host (write the host itself: it is the same for every secret; only path and query can have placeholders)
        {name}: has a placeholder in its host (write the host itself: it is the same for every secret; only path and query can have placeholders)
        unix:///run/x.sock: is a socket, which a store of this kind cannot be (write https://host/path)
        ftp://s.example/{name}: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
        https://user:canary@s.example/{name}: has a user in it (leave out what is before the @)
        https://good\@evil/{name}: has no host that could be reached (write https://host:port, http://host:port or unix:///path/to.sock)
        https://s.example/{nmae}: {nmae} is not a placeholder (did you mean {name}?)
        https://s.example/{secret}: {secret} is not a placeholder (there are {name}, {nameEscaped}, {namespace}, {serviceAccount}, {version})
        https://s.example/{name}}: has a brace that is not part of a placeholder (write %7B or %7D)
        https://s.example/{}: has a brace that is not part of a placeholder (write %7B or %7D)
        https://s.example/{name}#x: has a fragment (leave out the # and what follows, or write %23)
        https://s.example/a b/{name}: has characters that no address may have, or an element `.` or `..` (escape them as %XX, or leave them out)
        https://s.example/../{name}: has characters that no address may have, or an element `.` or `..` (escape them as %XX, or leave them out)
        https://s.example/${name}: has ${name}, which is not a placeholder (write {name})
        https://s.example/$(name)/{name}: has $(name), which is not a placeholder (write {name})
        https://s.example/x?n={{name}}: has {{name}}, which is not a placeholder (write {name})
        https://s.example/{{ Namespace }}/{name}: has {{ Namespace }}, which is not a placeholder (write {namespace})
        https://s.example/%{name}: has %{name}, which is not a placeholder (write {name})
        https://s.example/{name}?ns=$namespace: has $namespace, which is not a placeholder (write {namespace})
        https://s.example/{{secret}}: has {{secret}}, which is not a placeholder (there are {name}, {nameEscaped}, {namespace}, {serviceAccount}, {version})
        https://s.example/{{.Name}}: has {{.Name}}, which is not a placeholder (write {name})
        https://s.example/${secret}: has ${secret}, which is not a placeholder (there are {name}, {nameEscaped}, {namespace}, {serviceAccount}, {version})
        https://s.example/{ name }: has { name }, which is not a placeholder (write {name})
        ");
    }

    proptest! {
        #[test]
        fn no_value_changes_the_host(name in "\\PC{0,20}", version in "\\PC{0,8}") {
            let url = Url::parse("https://s.example/v1/{name}/{nameEscaped}/{version}?q={name}").unwrap();
            if let Ok(uri) = url.fill(Values { version: &version, ..values(&name) }, Some(("v", &name))) {
                prop_assert_eq!(uri.authority().unwrap().as_str(), "s.example");
                prop_assert!(uri.path().starts_with("/v1/"));
                prop_assert!(uri.path().split('/').all(|element| element != ".."));
            }
        }
    }
}
