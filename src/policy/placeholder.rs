//! The Pod's names in a pattern, and texts that only look like them: `$namespace` matches only itself, and a rule with it matches nothing.

use super::foreign::widened;
use crate::model::PodIdentity;
use crate::nearest::nearest;

/// What a pattern may take from the Pod.
const PLACEHOLDERS: [&str; 2] = ["${namespace}", "${serviceAccount}"];

/// How other programs write a place for a value: what opens it, what closes it, and what shows that it is not a part of a name.
const FORMS: [(&str, &str, Counts); 14] = [
    ("$${", "}", Counts::Always),
    ("${", "}", Counts::Always),
    ("%{", "}", Counts::WithAWord),
    ("#{", "}", Counts::WithAWord),
    ("$(", ")", Counts::WithAWord),
    ("{{", "}}", Counts::WithAWord),
    ("{", "}", Counts::WithAWord),
    ("$$", "", Counts::WithOurs),
    ("$", "", Counts::WithOurs),
    ("<", ">", Counts::WithOurs),
    ("[", "]", Counts::WithOurs),
    ("%", "%", Counts::WithOurs),
    ("__", "__", Counts::WithOurs),
    (":", "", Counts::WithOurs),
];

/// When a form is a place for a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Counts {
    Always,
    /// With any word inside.
    WithAWord,
    /// With a word that means one of our placeholders: `$web` and `<x>` may be parts of a name.
    WithOurs,
}

/// A place for a value, as another program writes it.
struct Lookalike<'t> {
    /// The text as it is in the pattern.
    written: &'t str,
    /// The placeholder that is probably meant.
    meant: Option<&'static str>,
}

/// Checks that all places for values in it are known.
///
/// # Errors
/// The place that is not known, with the right spelling if Keyferry can find it.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let Some(Lookalike { written, meant }) = lookalike(pattern) else { return Ok(()) };
    let remedy = match meant {
        Some(meant) => format!("did you mean {:?}?", pattern.replacen(written, meant, 1)),
        None if written.contains(',') => "there are no alternatives: write a pattern for each".to_owned(),
        None => format!("there are {}", PLACEHOLDERS.join(", ")),
    };
    Err(format!("{pattern:?}: {written:?} is not a placeholder ({remedy})"))
}

/// The narrowest pattern that matches a name: `*` replaces what a pattern would read as something else.
pub fn literal(name: &str) -> String {
    let mut pattern = widened(&name.replace("${", "*{"));
    while let Some(Lookalike { written, .. }) = lookalike(&pattern) {
        pattern = pattern.replace(written, "*");
    }
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    pattern
}

/// Whether it takes something from the Pod.
pub(super) fn borrows(text: &str) -> bool {
    PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder))
}

/// The pattern with something in place of the placeholders.
pub(super) fn stand_in(pattern: &str, with: &str) -> String {
    PLACEHOLDERS.iter().fold(pattern.to_owned(), |text, placeholder| text.replace(placeholder, with))
}

/// The pattern with the Pod's names in it, taken literally: if a name could be read as a pattern, the result matches nothing.
pub(super) fn fill_in(pattern: &str, pod: &PodIdentity) -> Option<String> {
    let mut filled = pattern.to_owned();
    for (placeholder, value) in PLACEHOLDERS.iter().zip([&pod.namespace, &pod.service_account]) {
        if filled.contains(placeholder) {
            if value.is_empty() || value.contains(['*', '/', '$', '{']) {
                return None;
            }
            filled = filled.replace(placeholder, value);
        }
    }
    Some(filled)
}

/// Texts that the pattern matches: with one text for all its `*`, and one for all its `**`. If none of them can be meant, nothing that it
/// matches can. `across` replaces `**`, in addition to an empty text.
pub(super) fn samples(pattern: &str, across: &[&str]) -> Vec<String> {
    const WITHIN: [&str; 4] = ["x", "1", "s", ""];
    let bare = stand_in(pattern, "x");
    let mut samples = Vec::new();
    for across in across.iter().copied().map(Some).chain([None]) {
        let elements = bare.split('/').filter_map(|element| if element == "**" { across } else { Some(element) });
        let text = elements.collect::<Vec<_>>().join("/");
        samples.extend(WITHIN.map(|within| text.replace('*', within)));
    }
    samples.dedup();
    samples
}

fn lookalike(pattern: &str) -> Option<Lookalike<'_>> {
    let mut rest = pattern;
    loop {
        rest = &rest[rest.find(['$', '%', '#', '{', '<', '[', '_', ':'])?..];
        if let Some(known) = PLACEHOLDERS.iter().find(|placeholder| rest.starts_with(**placeholder)) {
            rest = &rest[known.len()..];
            continue;
        }
        if let Some(found) = FORMS.iter().find_map(|(open, close, counts)| within(rest, open, close, *counts)) {
            return Some(found);
        }
        if rest.starts_with("${") {
            return Some(Lookalike { written: rest.split('/').next().unwrap_or(rest), meant: None });
        }
        rest = &rest[1..];
    }
}

/// The place that begins here, if it has this form.
fn within<'t>(text: &'t str, open: &str, close: &str, counts: Counts) -> Option<Lookalike<'t>> {
    let inner = text.strip_prefix(open)?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let length = if close.is_empty() { inner.find(|c| !is_word(c)).unwrap_or(inner.len()) } else { inner.find(close)? };
    let (word, written) = (inner[..length].trim(), &text[..open.len() + length + close.len()]);
    let fits = !word.is_empty() && word.chars().all(|c| is_word(c) || matches!(c, '.' | '-' | ' ' | ',' | ':'));
    let meant = meant(word);
    let is_place = match counts {
        Counts::Always => true,
        Counts::WithAWord => fits,
        Counts::WithOurs => fits && meant.is_some(),
    };
    is_place.then_some(Lookalike { written, meant })
}

/// The placeholder of a word: `Namespace`, `service_account`, `pod.namespace`, `sa`.
fn meant(word: &str) -> Option<&'static str> {
    let plain: String = word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let names = [("namespace", PLACEHOLDERS[0]), ("serviceaccount", PLACEHOLDERS[1]), ("ns", PLACEHOLDERS[0]), ("sa", PLACEHOLDERS[1])];
    let found = match plain.as_str() {
        "ns" | "sa" => Some(plain.as_str()),
        // `service_account_namespace` is a namespace.
        plain if plain.ends_with("namespace") => Some("namespace"),
        plain if plain.contains("serviceaccount") => Some("serviceaccount"),
        plain => nearest(plain, ["namespace", "serviceaccount"]),
    };
    names.into_iter().find(|(name, _)| found == Some(*name)).map(|(_, placeholder)| placeholder)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_a_placeholder_is_told_with_the_right_spelling() {
        let told = |pattern: &str| check(pattern).err().unwrap_or_else(|| "fine".to_owned());
        let all = [
            "files/$namespace/**",
            "files/{namespace}/**",
            "files/{{ .Namespace }}/**",
            "files/$(serviceAccount)/x",
            "files/${serviceaccount}/x",
            "files/${service_account}/x",
            "files/<namespace>/x",
            "files/${namespcae}/x",
            "bao/kv/{{identity.entity.aliases.k8s.metadata.service_account_namespace}}/*",
            "files/$ns/x",
            "files/${pod}/x",
            "files/{db,web}",
            "files/${/x",
            "files/$${namespace}/x",
            "files/$$namespace/x",
            "files/%{namespace}/x",
            "files/#{ns}/x",
            "files/[namespace]/x",
            "files/__NAMESPACE__/x",
            "files/%NAMESPACE%/x",
            "files/:namespace/x",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r##"
        "files/$namespace/**": "$namespace" is not a placeholder (did you mean "files/${namespace}/**"?)
        "files/{namespace}/**": "{namespace}" is not a placeholder (did you mean "files/${namespace}/**"?)
        "files/{{ .Namespace }}/**": "{{ .Namespace }}" is not a placeholder (did you mean "files/${namespace}/**"?)
        "files/$(serviceAccount)/x": "$(serviceAccount)" is not a placeholder (did you mean "files/${serviceAccount}/x"?)
        "files/${serviceaccount}/x": "${serviceaccount}" is not a placeholder (did you mean "files/${serviceAccount}/x"?)
        "files/${service_account}/x": "${service_account}" is not a placeholder (did you mean "files/${serviceAccount}/x"?)
        "files/<namespace>/x": "<namespace>" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/${namespcae}/x": "${namespcae}" is not a placeholder (did you mean "files/${namespace}/x"?)
        "bao/kv/{{identity.entity.aliases.k8s.metadata.service_account_namespace}}/*": "{{identity.entity.aliases.k8s.metadata.service_account_namespace}}" is not a placeholder (did you mean "bao/kv/${namespace}/*"?)
        "files/$ns/x": "$ns" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/${pod}/x": "${pod}" is not a placeholder (there are ${namespace}, ${serviceAccount})
        "files/{db,web}": "{db,web}" is not a placeholder (there are no alternatives: write a pattern for each)
        "files/${/x": "${" is not a placeholder (there are ${namespace}, ${serviceAccount})
        "files/$${namespace}/x": "$${namespace}" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/$$namespace/x": "$$namespace" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/%{namespace}/x": "%{namespace}" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/#{ns}/x": "#{ns}" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/[namespace]/x": "[namespace]" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/__NAMESPACE__/x": "__NAMESPACE__" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/%NAMESPACE%/x": "%NAMESPACE%" is not a placeholder (did you mean "files/${namespace}/x"?)
        "files/:namespace/x": ":namespace" is not a placeholder (did you mean "files/${namespace}/x"?)
        "##);
        for fine in [
            "files/${namespace}/${serviceAccount}",
            "files/$web/x",
            "files/a{b",
            "files/<x>",
            "files/a$",
            "files/{}",
            "files/x${namespace}y",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }

    proptest! {
        /// A rule can be written for any secret's name.
        #[test]
        fn every_name_has_a_pattern(name in "[a$ns{}<>(*.,/ %#\\[\\]|!^:_]{1,12}|[ab]{0,2}(\\$\\{namespace\\}|\\{sa\\}|\\$ns|\\{\\{x\\}\\}|\\$\\(x\\)|__ns__|:sa|%ns%){1,3}[}{$]{0,2}") {
            let pattern = literal(&name);
            prop_assert_eq!(check(&pattern), Ok(()));
            prop_assert_eq!(crate::policy::foreign::check(&pattern), Ok(()));
            prop_assert!(crate::glob::matches(&pattern, &name), "{} {}", pattern, name);
            prop_assert!(pattern.split('/').all(|element| !element.contains("**")));
        }
    }
}
