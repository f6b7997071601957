//! Globs for one word (`*` is any run of characters), and for names with `/` (`*` stays within an element, `**` crosses them). For a word,
//! the time is proportional to the length of pattern and text together; for names, to the product of their elements. An attacker who writes
//! the pattern and the text cannot make them slow: names have at most 1,024 bytes, and their patterns are in the configuration.

/// A pattern for one word, split once for many words.
#[derive(Clone, Copy, Debug)]
pub struct Glob<'p> {
    /// Before the first `*`.
    first: &'p str,
    /// After the first `*`; `None`: the pattern has no `*`, and is one word.
    rest: Option<Rest<'p>>,
}

#[derive(Clone, Copy, Debug)]
struct Rest<'p> {
    /// Between the first `*` and the last one, with any `*` between them.
    middle: &'p str,
    /// After the last `*`.
    last: &'p str,
}

/// Whether `text` matches `pattern`; `*` matches any run of characters, also none.
pub fn matches(pattern: &str, text: &str) -> bool {
    Glob::new(pattern).matches(text, &mut 0)
}

// === impl Glob ===

impl<'p> Glob<'p> {
    pub fn new(pattern: &'p str) -> Self {
        let Some((first, rest)) = pattern.split_once('*') else { return Self { first: pattern, rest: None } };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        Self { first, rest: Some(Rest { middle, last }) }
    }

    /// Adds to `looked` how many bytes were looked at, at least one: at most as many as text and pattern have together.
    pub fn matches(self, text: &str, looked: &mut u64) -> bool {
        *looked += 1;
        let Some(Rest { middle, last }) = self.rest else { return self.first == text };
        let Some(mut text) = text.strip_prefix(self.first).and_then(|text| text.strip_suffix(last)) else { return false };
        *looked += (self.first.len() + last.len()) as u64;
        // Each part is taken where it comes first: so the rest has the most room. `find` takes time proportional to both of its texts.
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            let Some(at) = text.find(part) else {
                *looked += (text.len() + part.len()) as u64;
                return false;
            };
            *looked += (at + part.len()) as u64;
            text = &text[at + part.len()..];
        }
        true
    }
}

/// Whether the name matches the pattern. `*` matches any run within one element; an element `**` matches any number of whole elements, also
/// none.
pub fn matches_path(pattern: &str, name: &str) -> bool {
    // The same walk, one element at a time: on a mismatch the last `**` takes one more element. Elements are looked at when they are
    // needed: most patterns differ from a name in the first ones.
    let (mut patterns, mut names) = (pattern.split('/'), name.split('/'));
    let mut star = None;
    loop {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        let (mut after_pattern, mut after_name) = (patterns.clone(), names.clone());
        match (after_pattern.next(), after_name.next()) {
            (None, None) => return true,
            (Some("**"), _) => {
                patterns = after_pattern;
                star = Some((patterns.clone(), names.clone()));
            }
            // If `**` takes more, less is left for the rest of the pattern.
            (Some(_), None) => return false,
            (Some(element), Some(text)) if matches(element, text) => (patterns, names) = (after_pattern, after_name),
            (None | Some(_), Some(_)) => {
                let Some((behind, mut taken)) = star.take().filter(|(_, taken)| taken.clone().next().is_some()) else { return false };
                taken.next();
                (patterns, names) = (behind.clone(), taken.clone());
                star = Some((behind, taken));
            }
        }
    }
}

/// How many levels of folders a listing goes down.
pub const LEVELS: usize = 8;

/// Names for all that can be below a folder, one name per level. Their letter is in no pattern and in no name: only a star matches it, and
/// a star also matches every other name with as many elements. `folder` has no `/` at its end.
pub fn samples_below(folder: &str) -> impl Iterator<Item = String> + use<> {
    const ANY: &str = "/\0";
    let mut name = folder.to_owned();
    (0..LEVELS).map(move |_| {
        name.push_str(ANY);
        name.clone()
    })
}

/// Whether a pattern matches every name below a folder.
pub fn covers(pattern: &str, folder: &str) -> bool {
    samples_below(folder).all(|name| matches_path(pattern, &name))
}

/// Whether a pattern matches some name below a folder.
pub fn reaches(pattern: &str, folder: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let described = walk(&pattern, folder, |_, _| true);
    described[..pattern.len()].contains(&true)
}

/// The same, but the pattern's element `p` may match the name's element `n` only if `may(p, n)`; both are counted from 0. `**` asks for
/// each element that it takes. The time is the product of both lengths. A walk with one way back, as above, would not find that an earlier
/// `**` may take what the last one may not.
pub fn matches_path_where(pattern: &str, name: &str, may: impl Fn(usize, usize) -> bool) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    walk(&pattern, name, may)[pattern.len()]
}

/// The starts of the pattern, by their length, that match the name.
fn walk(pattern: &[&str], name: &str, may: impl Fn(usize, usize) -> bool) -> Vec<bool> {
    let mut described = vec![false; pattern.len() + 1];
    described[0] = true;
    take_none(pattern, &mut described);
    for (n, text) in name.split('/').enumerate() {
        let mut next = vec![false; pattern.len() + 1];
        for (p, element) in pattern.iter().enumerate().filter(|(p, _)| described[*p]) {
            match *element {
                "**" => next[p] |= may(p, n),
                element => next[p + 1] |= matches(element, text) && may(p, n),
            }
        }
        take_none(pattern, &mut next);
        described = next;
    }
    described
}

/// `**` also matches no element.
fn take_none(pattern: &[&str], described: &mut [bool]) {
    for (p, element) in pattern.iter().enumerate() {
        described[p + 1] |= described[p] && *element == "**";
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// How many elements of names were compared with one of a pattern.
        pub(super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

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

    fn looked(pattern: &str, text: &str) -> u64 {
        let mut looked = 0;
        Glob::new(pattern).matches(text, &mut looked);
        looked
    }

    #[test]
    fn a_word_is_looked_at_once() {
        type Case = fn(usize) -> (String, String);
        let kinds: [(&str, Case); 6] = [
            ("many stars", |n| ("*a".repeat(n), "a".repeat(n))),
            ("a star and many letters", |n| (format!("*{}b", "a".repeat(n)), "a".repeat(2 * n))),
            ("parts that nearly match", |n| (format!("*{}b*c", "a".repeat(n / 2)), "a".repeat(n) + "c")),
            ("a part that comes often", |n| ("*ab*ab*abc".to_owned(), "ab".repeat(n))),
            ("all", |n| ("*".to_owned(), "a".repeat(n))),
            ("stars alone", |n| ("*".repeat(n), "a".repeat(n))),
        ];
        for (kind, case) in kinds {
            for n in [100, 1_000] {
                let [once, twice] = [n, 2 * n].map(case).map(|(pattern, text)| {
                    let looked = looked(&pattern, &text);
                    assert!(looked <= (pattern.len() + text.len()) as u64 + 1, "{kind}: {looked}");
                    looked
                });
                assert!(twice * 10 <= once * 22, "{kind}: {once}, {twice}");
            }
        }
        assert_eq!((looked("*", "anything"), looked("tls.*", "password"), looked("password", "password")), (1, 1, 1));
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let pattern = "*a".repeat(2_000);
        assert!(!matches(&pattern, &"a".repeat(1_999)));
        let pattern = "**/a/".repeat(500) + "b";
        assert!(!matches_path(&pattern, &"a/".repeat(499)));
    }

    /// The longest names have 512 elements. A pattern with another start looks at none of them.
    #[test]
    fn a_name_is_looked_at_as_far_as_it_matches() {
        let compared = |pattern: &str, elements: usize| {
            COMPARED.set(0);
            assert!(!matches_path(pattern, &format!("bao{}", "/a".repeat(elements))));
            COMPARED.get()
        };
        for pattern in ["files/**", "bao/b/**", "*/b*/**/c"] {
            assert!(compared(pattern, 511) <= 3, "{pattern}");
        }
        for pattern in ["*/**/root/**", "**/b", "**/a/b/**", "bao/**/a/**/a/c*"] {
            let (once, twice) = (compared(pattern, 250), compared(pattern, 500));
            assert!(once < 1_100 && twice * 10 <= once * 22, "{pattern}: {once}, {twice}");
        }
    }

    #[test]
    fn what_covers_a_folder_leaves_nothing_out() {
        for pattern in
            ["files/shop/certs/**", "files/**", "**", "files/shop/**/**", "*/shop/certs/*/**", "files/**/certs/**", "files/shop/certs/**/*"]
        {
            assert!(covers(pattern, "files/shop/certs"), "{pattern}");
        }
        for pattern in [
            "files/shop/certs",
            "files/shop/certs/*",
            "files/shop/certs/a*/**",
            "files/shop/certs/**/key",
            "files/shop/*/*/*",
            "files/bank/**",
        ] {
            assert!(!covers(pattern, "files/shop/certs"), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_reaches_the_folders_on_its_way() {
        for (pattern, folder) in [("**", "a"), ("*/key", "a"), ("a/b/**", "a"), ("a/b/**", "a/b/c"), ("**/key", "a/b"), ("a/*/c", "a/b")] {
            assert!(reaches(pattern, folder), "{pattern} {folder}");
        }
        for (pattern, folder) in [("*", "a"), ("b/**", "a"), ("a/b", "a/b"), ("a/*/c", "a/b/c"), ("*/key", "a/b")] {
            assert!(!reaches(pattern, folder), "{pattern} {folder}");
        }
    }

    #[test]
    fn an_element_that_must_be_spelled_is_no_wildcards() {
        // In the name, the elements 1 and 2 must be spelled out in the pattern, without a star.
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

    /// The definition, which may be slow.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (Some((p, ps)), Some((t, ts))) => p == t && naive(ps, ts),
            _ => false,
        }
    }

    /// The definition of [`matches_path_where`], which may be slow.
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
        fn a_covering_pattern_describes_what_is_below(
            pattern in "(a|b|\\*|a\\*|\\*\\*)(/(a|b|\\*|a\\*|\\*\\*)){0,4}", folder in "(a|b)(/(a|b)){0,2}", below in "(a|b|ab)(/(a|b|ab)){0,4}",
        ) {
            let name = format!("{folder}/{below}");
            if covers(&pattern, &folder) {
                prop_assert!(matches_path(&pattern, &name));
            }
            if matches_path(&pattern, &name) {
                prop_assert!(reaches(&pattern, &folder));
            }
        }

        /// If nothing must be spelled out, both walks agree.
        #[test]
        fn a_path_agrees_with_the_definition(
            pattern in "(a|b|ab|\\*|a\\*|\\*\\*)(/(a|b|ab|\\*|a\\*|\\*\\*)){0,5}", name in "(a|b|ab)(/(a|b|ab)){0,5}",
        ) {
            let elements: Vec<_> = pattern.split('/').enumerate().collect();
            let names: Vec<_> = name.split('/').enumerate().collect();
            prop_assert_eq!(matches_path(&pattern, &name), naive_where(&elements, &names, &|_, _| true));
        }

        #[test]
        fn any_word_agrees_with_the_definition(pattern in "[aü*]{0,8}", text in "[aü]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_literal_path_matches_itself_alone(name in "[a-z]{1,3}(/[a-z]{1,3}){0,3}", other in "[a-z]{1,3}(/[a-z]{1,3}){0,3}") {
            prop_assert!(matches_path(&name, &name));
            prop_assert_eq!(matches_path(&name, &other), name == other);
        }
    }
}
