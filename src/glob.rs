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

/// The same, where the pattern's element `p` may stand for the name's element `n` only if `may(p, n)`; both are counted from 0. `**` asks
/// for each element that it takes. The time is the product of both lengths: a walk with one way back, as above, would miss that an earlier
/// `**` may take what the last one may not.
pub fn matches_path_where(pattern: &str, name: &str, may: impl Fn(usize, usize) -> bool) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    // Which beginnings of the pattern, by their length, describe what was read of the name.
    let mut described = vec![false; pattern.len() + 1];
    described[0] = true;
    take_none(&pattern, &mut described);
    for (n, text) in name.split('/').enumerate() {
        let mut next = vec![false; pattern.len() + 1];
        for (p, element) in pattern.iter().enumerate().filter(|(p, _)| described[*p]) {
            match *element {
                "**" => next[p] |= may(p, n),
                element => next[p + 1] |= matches(element, text) && may(p, n),
            }
        }
        take_none(&pattern, &mut next);
        described = next;
    }
    described[pattern.len()]
}

/// `**` stands for no element too.
fn take_none(pattern: &[&str], described: &mut [bool]) {
    for (p, element) in pattern.iter().enumerate() {
        described[p + 1] |= described[p] && *element == "**";
    }
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

    #[test]
    fn an_element_that_must_be_spelled_is_no_wildcards() {
        // Of the name, the elements 1 and 2; of a pattern, those without a star are spelled.
        let spelled = |pattern: &str, name: &str| {
            let elements: Vec<_> = pattern.split('/').collect();
            matches_path_where(pattern, name, |p, n| !(1..=2).contains(&n) || !elements[p].contains('*'))
        };
        let name = "bao/sys/tools/random";
        for pattern in [
            "bao/sys/tools/random",
            "bao/sys/tools/*",
            "*/sys/tools/**",
            "**/sys/tools/random",
            "bao/**/sys/tools/**",
            "**/sys/**/tools/**",
        ] {
            assert!(spelled(pattern, name), "{pattern}");
        }
        for pattern in
            ["**", "bao/**", "bao/*/tools/random", "bao/sys/*/random", "bao/sys/**", "bao/s*s/tools/**", "**/tools/random", "**/random"]
        {
            assert!(matches_path(pattern, name) && !spelled(pattern, name), "{pattern}");
        }
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

    /// The definition of [`matches_path_where`], without regard to time.
    fn naive_where(pattern: &[(usize, &str)], name: &[(usize, &str)], may: &dyn Fn(usize, usize) -> bool) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&(p, "**"), rest)), _) => {
                naive_where(rest, name, may) || name.first().is_some_and(|(n, _)| may(p, *n)) && naive_where(pattern, &name[1..], may)
            }
            (Some((&(p, element), ps)), Some((&(n, text), ns))) => matches(element, text) && may(p, n) && naive_where(ps, ns, may),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_must_be_spelled_agrees_with_the_definition(
            pattern in "(a|b|\\*|\\*\\*)(/(a|b|\\*|\\*\\*)){0,5}", name in "[ab](/[ab]){0,5}", guarded in proptest::collection::vec(any::<bool>(), 6),
        ) {
            let elements: Vec<_> = pattern.split('/').enumerate().collect();
            let names: Vec<_> = name.split('/').enumerate().collect();
            let may = |p: usize, n: usize| !guarded[n] || !elements[p].1.contains('*');
            prop_assert_eq!(matches_path_where(&pattern, &name, may), naive_where(&elements, &names, &may));
        }

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
