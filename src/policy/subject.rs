//! Patterns in a rule's lists, compared with the existing stores. If a pattern names no store, or no name that its store could have, it
//! does nothing; and with a `deny` nobody would ever notice.

use std::fmt;
use std::iter::once;

use super::foreign;
use super::placeholder::{check as check_placeholders, samples, stand_in};
use crate::glob;
use crate::model::{InvalidName, SecretName};
use crate::nearest::nearest;

/// A configured backend, as patterns name it.
#[derive(Debug)]
pub struct Named<'k> {
    pub name: &'k str,
    /// `None`: its own entry has faults, and its kind is not known.
    pub store: Option<Store<'k>>,
}

pub type Canonical<'k> = Box<dyn Fn(&str) -> Result<SecretName, InvalidName> + 'k>;

/// Which names a store can have.
pub struct Store<'k> {
    /// As `Kind::canonical`.
    pub canonical: Canonical<'k>,
    /// The text before every name in the store's API; it is not a part of a name.
    pub version: Option<&'static str>,
    /// The required end of some names; empty: none.
    pub ending: &'static str,
    /// The first element of every name is one of these; empty: any.
    pub firsts: &'static [&'static str],
    /// The common beginning of every name; empty: none.
    pub namespace: String,
    /// Whether anything there is ever requested with the verb `update`.
    pub updates: bool,
}

/// Checks one pattern, of `update` or of another list.
///
/// # Errors
/// What is wrong with it, with the right spelling if Keyferry can find it.
pub(super) fn check(pattern: &str, update: bool, backends: &[Named<'_>]) -> Result<String, String> {
    check_one(pattern, backends)?;
    check_placeholders(pattern)?;
    foreign::check(pattern)?;
    let bare = stand_in(pattern, "x");
    if !bare.contains('/') || bare.split('/').any(str::is_empty) {
        let meant = with_empty_elements(pattern, backends).map(|meant| format!("did you mean {meant:?}?"));
        return Err(format!("{pattern:?} is not a <backend>/<name> pattern ({})", meant.unwrap_or_else(|| slashes(pattern))));
    }
    if bare.split('/').any(|element| element != "**" && element.contains("**")) {
        return Err(format!("{pattern:?}: `**` must be alone between slashes (such as files/**/db); within an element write `*`"));
    }
    check_escapes(pattern)?;
    // If an entry has faults, these must be corrected first.
    let meant = meant(pattern, backends)?.into_iter().map(|backend| Some((backend.name, backend.store.as_ref()?)));
    let Some(stores) = meant.collect::<Option<Vec<_>>>() else { return Ok(pattern.to_owned()) };
    if update && !stores.is_empty() && stores.iter().all(|(_, store)| !store.updates) {
        let names = stores.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return Err(format!("{pattern:?}: {names} only reads, and nothing is updated there (write it under `read`, or remove it)"));
    }
    let refusals = stores.iter().map(|(_, store)| store.refusal(pattern)).collect::<Option<Vec<_>>>();
    match refusals.as_deref() {
        Some([problem, ..]) => Err(format!("{pattern:?}: {problem}")),
        Some([]) | None => Ok(pattern.to_owned()),
    }
}

/// A text is one pattern: `files/a, files/b` is the name `a, files/b`.
fn check_one(pattern: &str, backends: &[Named<'_>]) -> Result<(), String> {
    let begins = |piece: &str| backends.iter().any(|backend| piece.strip_prefix(backend.name).is_some_and(|rest| rest.starts_with('/')));
    let pieces: Vec<&str> = pattern.split([',', ';', '|', ' ', '\n']).filter(|piece| !piece.is_empty()).collect();
    if pieces.iter().filter(|piece| begins(piece)).count() < 2 {
        return Ok(());
    }
    let meant = pieces.iter().map(|piece| format!("{piece:?}")).collect::<Vec<_>>().join(", ");
    Err(format!("{pattern:?}: a text is one pattern (did you mean {meant}?)"))
}

/// The pattern as it must be written for a store whose names may have empty elements.
fn with_empty_elements(pattern: &str, backends: &[Named<'_>]) -> Option<String> {
    let (first, rest) = pattern.split_once('/').filter(|(first, rest)| !first.is_empty() && !rest.ends_with('/'))?;
    let store = backends.iter().find(|backend| backend.name == first)?.store.as_ref()?;
    let sample = stand_in(rest, "x").replace('*', "x");
    (store.canonical)(&sample).ok().map(|_| format!("{first}/{}", SecretName::without_empty(rest)))
}

/// What somebody probably means by a slash at an end, or by two slashes in a row.
fn slashes(pattern: &str) -> String {
    if let Some((scheme, _)) = pattern.split_once("://") {
        return format!("{scheme}:// begins an address, and a pattern begins with the backend's name: such as files/shop/*");
    }
    let elements: Vec<&str> = pattern.split('/').filter(|element| !element.is_empty()).collect();
    let below = if pattern.ends_with('/') { "/**" } else { "" };
    match format!("{}{below}", elements.join("/")) {
        meant if elements.len() > 1 => format!("did you mean {meant:?}?"),
        _ => "such as files/shop/* or files/${namespace}/**".to_owned(),
    }
}

/// A name is the store's own name for a secret. An escape is only the way an address writes it.
fn check_escapes(pattern: &str) -> Result<(), String> {
    let Some(at) = escapes(pattern).next() else { return Ok(()) };
    let escape = &pattern[at..at + 3];
    let remedy = match unescaped(pattern) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => "write the character itself".to_owned(),
    };
    Err(format!("{pattern:?}: {escape:?} is an escape of addresses, and policy sees names as their store lists them ({remedy})"))
}

/// The places of the escapes.
fn escapes(pattern: &str) -> impl Iterator<Item = usize> + '_ {
    let is_escape = |at: &usize| pattern.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    pattern.match_indices('%').map(|(at, _)| at).filter(is_escape)
}

/// The pattern without its escapes, if the result is a pattern.
fn unescaped(pattern: &str) -> Option<String> {
    let (mut bytes, mut from) = (Vec::new(), 0);
    for at in escapes(pattern) {
        bytes.extend_from_slice(pattern.get(from..at)?.as_bytes());
        bytes.push(u8::from_str_radix(&pattern[at + 1..at + 3], 16).ok()?);
        from = at + 3;
    }
    bytes.extend_from_slice(&pattern.as_bytes()[from..]);
    let meant = String::from_utf8(bytes).ok()?;
    let is_pattern = foreign::check(&meant).is_ok() && check_placeholders(&meant).is_ok() && check_escapes(&meant).is_ok();
    let is_path = meant.split('/').all(|element| !matches!(element, "" | "." | ".."));
    (is_pattern && is_path).then_some(meant)
}

/// The backends that the first element names.
fn meant<'b, 'k>(pattern: &str, backends: &'b [Named<'k>]) -> Result<Vec<&'b Named<'k>>, String> {
    let (first, rest) = pattern.split_once('/').unwrap_or((pattern, ""));
    let glob = stand_in(first, "*");
    let found: Vec<_> = backends.iter().filter(|backend| glob::matches(&glob, backend.name)).collect();
    if !found.is_empty() || backends.is_empty() {
        return Ok(found);
    }
    let names = || backends.iter().map(|backend| backend.name);
    let near = nearest(&first.replace('*', ""), names()).map(|near| format!("{near}/{rest}"));
    let remedy = match (near, backends) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, [only]) => format!("it comes first: did you mean {:?}?", format!("{}/{pattern}", only.name)),
        (None, _) => format!("it comes first, and is one of {}", names().collect::<Vec<_>>().join(", ")),
    };
    let problem = if glob.contains('*') { format!("no backend is called {first:?}") } else { format!("there is no backend {first:?}") };
    Err(format!("{pattern:?}: {problem} ({remedy})"))
}

// === impl Store ===

impl Store<'_> {
    /// Why no name of the store can match the pattern, if none can.
    fn refusal(&self, pattern: &str) -> Option<String> {
        let (first, rest) = pattern.split_once('/')?;
        if let Some(meant) = self.without_version(first, rest) {
            let version = self.version.unwrap_or_default();
            return Some(format!("`{version}/` belongs to the API, not to the name (did you mean {meant:?}?)"));
        }
        let cause = |text: &str| match (self.canonical)(text) {
            Ok(name) if name.as_str() == text => None,
            Ok(name) => Some(another_spelling(&format!("{first}/{name}"))),
            Err(InvalidName::Store(problem)) => Some(format!("the name {problem}")),
            Err(problem) => Some(format!("the name {problem} (write it as its store lists it)")),
        };
        // `**` may match more than the backend.
        let name = if first == "**" { pattern } else { rest };
        let across: Vec<String> = self.firsts.iter().map(|first| format!("{first}/x")).chain(["x".to_owned()]).collect();
        let across: Vec<&str> = across.iter().rev().map(String::as_str).collect();
        let (head, tail) = name.split_once('/').unwrap_or((name, ""));
        let spelled = self.firsts.iter().filter(|first| glob::matches(head, first)).map(|first| format!("{first}/{tail}"));
        let mut samples: Vec<String> = once(name.to_owned()).chain(spelled).flat_map(|name| samples(&name, &across)).collect();
        // A star at the end also matches the required end.
        if name.ends_with('*') && !self.ending.is_empty() {
            samples.extend(samples.clone().into_iter().map(|sample| sample + self.ending));
        }
        if let Some(causes) = samples.iter().map(|sample| cause(sample)).collect::<Option<Vec<_>>>() {
            // The right spelling is the best remedy.
            let spelled = samples.iter().position(|sample| (self.canonical)(sample).is_ok()).unwrap_or_default();
            return causes.into_iter().nth(spelled);
        }
        let outside = !self.namespace.is_empty() && first != "**" && !begins(rest, &self.namespace);
        outside.then(|| {
            let inside = format!("{first}/{}/{rest}", self.namespace);
            format!("names there begin with the backend's namespace, {:?} (did you mean {inside:?}?)", self.namespace)
        })
    }
}

impl Store<'_> {
    /// The pattern without the API's version, which is before the name or after the namespace.
    fn without_version(&self, first: &str, rest: &str) -> Option<String> {
        let version = self.version?;
        let stripped = |rest: &str| rest.strip_prefix(version).and_then(|behind| behind.strip_prefix('/')).map(ToOwned::to_owned);
        if let Some(behind) = stripped(rest) {
            return Some(format!("{first}/{behind}"));
        }
        let inner = rest.strip_prefix(&self.namespace)?.strip_prefix('/')?;
        Some(format!("{first}/{}/{}", self.namespace, stripped(inner)?))
    }
}

impl fmt::Debug for Store<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("namespace", &self.namespace).field("updates", &self.updates).finish_non_exhaustive()
    }
}

/// A store may read several spellings of a name. Policy sees only one of them, so a pattern in another one matches nothing.
fn another_spelling(seen: &str) -> String {
    format!("policy never sees a name in this spelling, but for example {seen:?} (write the pattern in that spelling)")
}

/// Whether a name that matches the pattern can begin with these elements.
fn begins(pattern: &str, elements: &str) -> bool {
    let mut patterns = pattern.split('/');
    for element in elements.split('/') {
        match patterns.next() {
            Some("**") => return true,
            Some(pattern) if glob::matches(&stand_in(pattern, "*"), element) => {}
            Some(_) | None => return false,
        }
    }
    patterns.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vault that refuses names with a dot at the start, a server with an API and one without, one with a namespace, and one with faults.
    fn backends() -> Vec<Named<'static>> {
        let store = |updates, version, namespace: &str| {
            Some(Store {
                canonical: Box::new(|name| match name.parse::<SecretName>() {
                    Ok(name) if name.as_str().split('/').any(|element| element.starts_with('.')) => {
                        Err(InvalidName::Store("has an element with a dot before it (choose another name)".to_owned()))
                    }
                    other => other,
                }),
                ending: "",
                firsts: &[],
                version,
                namespace: namespace.to_owned(),
                updates,
            })
        };
        vec![
            Named { name: "bao", store: store(true, Some("v1"), "") },
            Named { name: "broken", store: None },
            Named { name: "files", store: store(false, None, "") },
            Named { name: "team", store: store(true, None, "team-a/web") },
            Named { name: "tns", store: store(true, Some("v1"), "team-a") },
        ]
    }

    fn told(pattern: &str) -> String {
        check(pattern, false, &backends()).unwrap_err()
    }

    /// If names begin with one of two words, a pattern may match both.
    #[test]
    fn a_wildcard_stands_for_the_first_element_of_every_name() {
        let canonical = |name: &str| match name.parse::<SecretName>() {
            Ok(parsed) if name.starts_with("one/") || name.starts_with("two/") => Ok(parsed),
            _ => Err(InvalidName::Store("does not begin with one/ or two/".to_owned())),
        };
        let store = Store {
            canonical: Box::new(canonical),
            ending: "",
            firsts: &["one", "two"],
            version: None,
            namespace: String::new(),
            updates: false,
        };
        let backends = [Named { name: "amazon", store: Some(store) }];
        for pattern in ["amazon/**", "amazon/*/shop/**", "amazon/**/db", "amazon/t*/db", "amazon/two/${namespace}/*", "**/db"] {
            assert_eq!(check(pattern, false, &backends).as_deref(), Ok(pattern), "{pattern}");
        }
        for pattern in ["amazon/three/**", "amazon/shop/*"] {
            assert!(check(pattern, false, &backends).is_err(), "{pattern}");
        }
    }

    /// If some names need a certain end, a star at a pattern's end also matches that.
    #[test]
    fn a_wildcard_stands_for_the_end_that_a_name_has_to_have() {
        let canonical = |name: &str| match name.parse::<SecretName>() {
            Ok(parsed) if name.ends_with("-end") || !name.contains(':') => Ok(parsed),
            _ => Err(InvalidName::Store("does not end with -end".to_owned())),
        };
        let (canonical, namespace) = (Box::new(canonical), String::new());
        let store = Store { canonical, ending: "-end", firsts: &[], version: None, namespace, updates: false };
        let backends = [Named { name: "amazon", store: Some(store) }];
        for pattern in
            ["amazon/1:shop/*", "amazon/1:shop/**", "amazon/1:*", "amazon/1:db-end", "amazon/1:${namespace}/*-end", "amazon/shop/*"]
        {
            assert_eq!(check(pattern, false, &backends).as_deref(), Ok(pattern), "{pattern}");
        }
        for pattern in ["amazon/1:shop/db", "amazon/1:*/db"] {
            assert!(check(pattern, false, &backends).is_err(), "{pattern}");
        }
    }

    /// Policy sees only the store's own spelling. A deny rule in another one would match nothing, and nobody would notice.
    #[test]
    fn a_pattern_in_another_spelling_than_policy_sees_is_refused() {
        let canonical = |name: &str| match name.strip_prefix("arn:") {
            Some(rest) if rest.starts_with("other/") && !rest.ends_with("-end") => {
                Err(InvalidName::Store("does not end with -end".to_owned()))
            }
            Some(rest) => rest.strip_suffix("-end").unwrap_or(rest).parse(),
            None => SecretName::without_empty(name).parse::<SecretName>(),
        };
        let store =
            Store { canonical: Box::new(canonical), ending: "-end", firsts: &[], version: None, namespace: String::new(), updates: false };
        let backends = [Named { name: "amazon", store: Some(store) }];
        let told = [
            "amazon/arn:shop/db-end",
            "amazon/arn:shop/*",
            "amazon/arn:${namespace}/**",
            "amazon/arn:other/*",
            "amazon//shop/db",
            "amazon/shop//*",
            "amazon/shop/",
        ]
        .map(|pattern| check(pattern, false, &backends).unwrap_err());
        insta::assert_snapshot!(told.join("\n"), @r#"
        "amazon/arn:shop/db-end": policy never sees a name in this spelling, but for example "amazon/shop/db" (write the pattern in that spelling)
        "amazon/arn:shop/*": policy never sees a name in this spelling, but for example "amazon/shop/x" (write the pattern in that spelling)
        "amazon/arn:${namespace}/**": policy never sees a name in this spelling, but for example "amazon/x/x" (write the pattern in that spelling)
        "amazon/arn:other/*": policy never sees a name in this spelling, but for example "amazon/other/x" (write the pattern in that spelling)
        "amazon//shop/db" is not a <backend>/<name> pattern (did you mean "amazon/~/shop/db"?)
        "amazon/shop//*" is not a <backend>/<name> pattern (did you mean "amazon/shop/~/*"?)
        "amazon/shop/" is not a <backend>/<name> pattern (did you mean "amazon/shop/**"?)
        "#);
        for fine in ["amazon/shop/db", "amazon/~/shop/*", "amazon/**", "*/shop/**", "amazon/*/db"] {
            assert_eq!(check(fine, false, &backends).as_deref(), Ok(fine));
        }
    }

    #[test]
    fn what_says_nothing_is_told_with_the_right_spelling() {
        let all = [
            "file/shop/db",
            "Files/shop/db",
            "shop/db",
            "intranet*/x",
            "fil/**",
            "files/../x",
            "files/./x",
            "files/.x",
            "files/**/.x/*",
            "files/.*",
            "files/a?b",
            "files/shop%2Fdb",
            "bao/kv/data/a%20b",
            "files/%00x",
            "bao/v1/kv/data/db",
            "tns/team-a/v1/kv/data/db",
            "bao/%2e%2e/x",
            "bao/a%20b%2Fc",
            "https://x/y",
            "files/x,files/y",
            "files/x files/y",
            "files/x, files/y/**",
            "files/[ab]",
            "team/kv/data/db",
            "team/team-a/kv",
            "files",
            "/files/x",
            "files/x/",
            "files/a**",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r#"
        "file/shop/db": there is no backend "file" (did you mean "files/shop/db"?)
        "Files/shop/db": there is no backend "Files" (did you mean "files/shop/db"?)
        "shop/db": there is no backend "shop" (it comes first, and is one of bao, broken, files, team, tns)
        "intranet*/x": no backend is called "intranet*" (it comes first, and is one of bao, broken, files, team, tns)
        "fil/**": there is no backend "fil" (it comes first, and is one of bao, broken, files, team, tns)
        "files/../x": the name has the element ".." (write it as its store lists it)
        "files/./x": the name has the element "." (write it as its store lists it)
        "files/.x": the name has an element with a dot before it (choose another name)
        "files/**/.x/*": the name has an element with a dot before it (choose another name)
        "files/.*": the name has an element with a dot before it (choose another name)
        "files/a?b": the name has the character '?', which stores read as an escape or a query (write it as its store lists it)
        "files/shop%2Fdb": "%2F" is an escape of addresses, and policy sees names as their store lists them (did you mean "files/shop/db"?)
        "bao/kv/data/a%20b": "%20" is an escape of addresses, and policy sees names as their store lists them (did you mean "bao/kv/data/a b"?)
        "files/%00x": "%00" is an escape of addresses, and policy sees names as their store lists them (write the character itself)
        "bao/v1/kv/data/db": `v1/` belongs to the API, not to the name (did you mean "bao/kv/data/db"?)
        "tns/team-a/v1/kv/data/db": `v1/` belongs to the API, not to the name (did you mean "tns/team-a/kv/data/db"?)
        "bao/%2e%2e/x": "%2e" is an escape of addresses, and policy sees names as their store lists them (write the character itself)
        "bao/a%20b%2Fc": "%20" is an escape of addresses, and policy sees names as their store lists them (did you mean "bao/a b/c"?)
        "https://x/y" is not a <backend>/<name> pattern (https:// begins an address, and a pattern begins with the backend's name: such as files/shop/*)
        "files/x,files/y": a text is one pattern (did you mean "files/x", "files/y"?)
        "files/x files/y": a text is one pattern (did you mean "files/x", "files/y"?)
        "files/x, files/y/**": a text is one pattern (did you mean "files/x", "files/y/**"?)
        "files/[ab]": "[ab]" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "team/kv/data/db": names there begin with the backend's namespace, "team-a/web" (did you mean "team/team-a/web/kv/data/db"?)
        "team/team-a/kv": names there begin with the backend's namespace, "team-a/web" (did you mean "team/team-a/web/team-a/kv"?)
        "files" is not a <backend>/<name> pattern (such as files/shop/* or files/${namespace}/**)
        "/files/x" is not a <backend>/<name> pattern (did you mean "files/x"?)
        "files/x/" is not a <backend>/<name> pattern (did you mean "files/x/**"?)
        "files/a**": `**` must be alone between slashes (such as files/**/db); within an element write `*`
        "#);
        let one = &backends()[2..3];
        insta::assert_snapshot!(check("shop/db", false, one).unwrap_err(), @r#""shop/db": there is no backend "shop" (it comes first: did you mean "files/shop/db"?)"#);
        insta::assert_snapshot!(["files/shop/db", "file*/**"].map(|pattern| check(pattern, true, &backends()).unwrap_err()).join("\n"), @r#"
        "files/shop/db": files only reads, and nothing is updated there (write it under `read`, or remove it)
        "file*/**": files only reads, and nothing is updated there (write it under `read`, or remove it)
        "#);
    }

    #[test]
    fn what_some_name_fits_is_taken() {
        for fine in [
            "files/shop/db",
            "*/**/root/**",
            "**",
            "**/x",
            "files/**",
            "f*/x",
            "files/*.x",
            "files/x@3",
            "bao/v1*/x",
            "bao/v1",
            "bao/v2/x",
            "team/team-a/web/kv",
            "team/*/web/kv",
            "team/**",
            "team/${namespace}/web/x",
            "broken/.x/../y",
            "*/.x",
            "${namespace}/x",
            "bao/a%x",
        ] {
            let judged = check(fine, false, &backends());
            if fine == "bao/a%x" {
                // The names' own parser decides.
                assert_eq!(judged.is_ok(), "a%x".parse::<SecretName>().is_ok());
                continue;
            }
            if fine == "**" {
                assert!(judged.is_err(), "no slash");
                continue;
            }
            assert_eq!(judged.as_deref(), Ok(fine));
        }
        assert_eq!(check("*/x", true, &backends()).as_deref(), Ok("*/x"), "one of them is updated");
        assert_eq!(check("any/x", false, &[]).as_deref(), Ok("any/x"), "where no backend is known, all are");
    }
}
