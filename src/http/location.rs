//! The target of a redirect: a reference, resolved as in RFC 3986 (section 5.2). The caller then decides by the target's origin whether to
//! follow it.

use http::{HeaderValue, Uri};

/// The parts of a reference (RFC 3986, appendix B). The fragment is only for a browser.
struct Reference<'r> {
    scheme: Option<&'r str>,
    authority: Option<&'r str>,
    path: &'r str,
    query: Option<&'r str>,
}

/// A `Location`, relative to the address that answered with it. `None`: it cannot be read, or names no server.
pub(super) fn resolved(from: &Uri, location: &HeaderValue) -> Option<Uri> {
    let reference = Reference::of(location.to_str().ok()?);
    let (base, query) = (from.path(), reference.query);
    // As in section 5.2.2: the base gives the parts that the reference does not have.
    let (scheme, authority, path, query) = match (reference.scheme, reference.authority) {
        (Some(scheme), authority) => (scheme, authority?, without_dots(reference.path), query),
        (None, Some(authority)) => (from.scheme_str()?, authority, without_dots(reference.path), query),
        (None, None) => {
            let (path, query) = match reference.path {
                "" => (base.to_owned(), query.or(from.query())),
                path if path.starts_with('/') => (without_dots(path), query),
                path => (without_dots(&format!("{}/{path}", base.rsplit_once('/').map_or("", |(folder, _)| folder))), query),
            };
            (from.scheme_str()?, from.authority()?.as_str(), path, query)
        }
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let to = format!("{scheme}://{authority}{slash}{path}{query}").parse::<Uri>().ok()?;
    // The result must mean the same when it is read again: an authority with a slash in it would become another one.
    (to.authority().map(http::uri::Authority::as_str) == Some(authority)).then_some(to)
}

impl<'r> Reference<'r> {
    fn of(text: &'r str) -> Self {
        let text = text.split('#').next().unwrap_or_default();
        let (rest, query) = text.split_once('?').map_or((text, None), |(rest, query)| (rest, Some(query)));
        let (scheme, rest) = match rest.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
            Some(_) | None => (None, rest),
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, rest),
        };
        Self { scheme, authority, path, query }
    }
}

/// Section 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Section 5.2.4, for a path that begins with a slash or is empty.
fn without_dots(path: &str) -> String {
    let (mut kept, last) = (Vec::new(), path.rsplit('/').next().unwrap_or_default());
    for element in path.split('/').skip(1) {
        match element {
            "." => {}
            ".." => _ = kept.pop(),
            element => kept.push(element),
        }
    }
    if matches!(last, "." | "..") {
        kept.push("");
    }
    kept.iter().map(|element| format!("/{element}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen_from(base: &str, location: &str) -> String {
        let from: Uri = base.parse().unwrap();
        resolved(&from, &HeaderValue::from_str(location).unwrap()).map_or_else(|| "none".to_owned(), |to| to.to_string())
    }

    /// The examples of RFC 3986, sections 5.4.1 and 5.4.2, without fragments; a scheme that is not http's names no server.
    #[test]
    fn as_the_rfc_has_it() {
        for (reference, target) in [
            ("g:h", "none"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("g;x", "http://a/b/c/g;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("../../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            (".g", "http://a/b/c/.g"),
            ("g..", "http://a/b/c/g.."),
            ("..g", "http://a/b/c/..g"),
            ("./../g", "http://a/b/g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/./h", "http://a/b/c/g/h"),
            ("g/../h", "http://a/b/c/h"),
            ("g;x=1/./y", "http://a/b/c/g;x=1/y"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/./x", "http://a/b/c/g?y/./x"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("http:g", "none"),
        ] {
            assert_eq!(seen_from("http://a/b/c/d;p?q", reference), target, "{reference}");
        }
        assert_eq!(seen_from("https://a:8200", "g"), "https://a:8200/g");
        assert_eq!(seen_from("https://a:8200/b", "https://a:8200/x/../y?z"), "https://a:8200/y?z");
        assert_eq!(seen_from("https://a/b", "/x:y"), "https://a/x:y");
        assert_eq!(seen_from("https://a/b/c", "x/y:z"), "https://a/b/x/y:z");
    }

    /// The target is compared with the origin: so it must be read as clients read it.
    #[test]
    fn another_server_is_seen_as_one() {
        for (reference, target) in [
            ("//evil.example/x", "https://evil.example/x"),
            ("//user@evil.example/x", "https://user@evil.example/x"),
            ("https://a@evil.example/", "https://a@evil.example/"),
            ("/..//evil.example/x", "https://a//evil.example/x"),
            ("./..//evil.example/x", "https://a//evil.example/x"),
            ("HTTPS://evil.example/x", "https://evil.example/x"),
            ("///evil.example/x", "none"),
            ("//", "none"),
            ("javascript:alert(1)", "none"),
            ("https:evil.example", "none"),
            ("https:/evil.example", "none"),
            ("//evil.example?x", "https://evil.example/?x"),
            ("//a\\@evil.example/", "none"),
            ("/ x", "none"),
        ] {
            assert_eq!(seen_from("https://a/b/c", reference), target, "{reference}");
        }
    }
}
