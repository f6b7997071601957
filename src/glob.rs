//! Globs: over one word (`*` is any run of characters), and over `/`-separated names (`*` stays within an element, `**` crosses them).
//! Both run in time proportional to pattern times text: a hostile pattern cannot make them slow.

/// Whether `text` is what `pattern` describes; `*` stands for any run of characters, also none.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    // One point to go back to: the last `*`, and how much of the text it has taken.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether the name is what the pattern describes. `*` stands for any run within one element; an element `**` stands for any
/// number of whole elements, also none.
pub fn matches_path(pattern: &str, name: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    // The same walk an element at a time: on a mismatch the last `**` takes one element more.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&"**") {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|element| matches(element, name[n])) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|element| *element == "**")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stays_within_its_element() {
        assert!(matches_path("files/shop/*", "files/shop/db"));
        assert!(!matches_path("files/shop/*", "files/shop/db/x"));
        assert!(!matches_path("files/*", "files/shop/db"));
        assert!(matches_path("files/shop/d*b", "files/shop/d-long-b"));
        assert!(!matches_path("files/shop/*", "files/shop"));
    }

    #[test]
    fn two_stars_cross_elements() {
        assert!(matches_path("files/shop/**", "files/shop/a/b/c"));
        assert!(matches_path("*/**/root/**", "bao/kv/data/root/x"));
        assert!(matches_path("*/**/root/**", "bao/root"));
        assert!(!matches_path("*/**/root/**", "bao/kv/rooted/x"));
        assert!(matches_path("**", "anything/at/all"));
        assert!(!matches_path("files/shop/**", "files/shopping/a"));
        assert!(!matches_path("files/shop**", "files/shop/a"), "`**` is special only as a whole element");
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let pattern = "*a".repeat(2_000);
        assert!(!matches(&pattern, &"a".repeat(1_999)));
        let pattern = "**/a/".repeat(500) + "b";
        assert!(!matches_path(&pattern, &"a/".repeat(499)));
    }

    /// The definition, without regard to time.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (Some((p, ps)), Some((t, ts))) => p == t && naive(ps, ts),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_literal_path_matches_itself_alone(name in "[a-z]{1,3}(/[a-z]{1,3}){0,3}", other in "[a-z]{1,3}(/[a-z]{1,3}){0,3}") {
            prop_assert!(matches_path(&name, &name));
            prop_assert_eq!(matches_path(&name, &other), name == other);
        }
    }
}
