//! Which paths cannot be in one volume together: the same file twice, or a file at the place of a folder.
//!
//! This is separate from paths themselves, because a class is checked twice: as it is written, and again when the names of a secret's
//! fields are known.

use std::cmp::Ordering;

use crate::steps::{Spent, Steps};

/// A path that a class claims in the volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim<'p> {
    pub path: &'p str,
    /// A folder may be claimed often; nothing else may have its path.
    pub folder: bool,
}

/// Two claims that exclude each other, as positions in the given list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clash {
    /// A file ...
    pub file: usize,
    /// ... and the claim of the same path, or of a path below it.
    pub other: usize,
}

/// Every claim that clashes, each once: with the file of the same path, else with the innermost file that it would be in.
///
/// # Errors
/// There are fewer steps than the bytes of all paths, times the logarithm of their number.
pub fn clashes(claims: &[Claim<'_>], steps: &Steps) -> Result<Vec<Clash>, Spent> {
    let text: usize = claims.iter().map(|claim| claim.path.len() + 1).sum();
    steps.charge(text as u64 * u64::from(claims.len().checked_ilog2().unwrap_or(0) + 4))?;
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by(|a, b| compare(claims[*a], claims[*b]).then(a.cmp(b)));
    // In this order all paths below a file's path come directly after the file.
    let mut found = Vec::new();
    let mut around: Vec<usize> = Vec::new();
    for position in order {
        let claim = claims[position];
        while around.pop_if(|file| !is_within(claim.path, claims[*file].path)).is_some() {}
        if let Some(file) = around.last() {
            found.push(Clash { file: *file, other: position });
        }
        if !claim.folder && around.last().is_none_or(|file| claims[*file].path != claim.path) {
            around.push(position);
        }
    }
    Ok(found)
}

/// `/` before every other character, so that no path comes between `a` and `a/b`; a file before a folder with its path.
fn compare(a: Claim<'_>, b: Claim<'_>) -> Ordering {
    #[cfg(test)]
    tests::note(a.path, b.path);
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    a.path.bytes().map(key).cmp(b.path.bytes().map(key)).then(a.folder.cmp(&b.folder))
}

fn is_within(path: &str, file: &str) -> bool {
    #[cfg(test)]
    tests::note(path, file);
    path.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// A kind of text, and one of this size.
    type Kind = (&'static str, fn(usize) -> String);

    thread_local! {
        /// How many bytes of paths were compared with each other.
        static LOOKED: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn note(a: &str, b: &str) {
        let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        LOOKED.set(LOOKED.get() + same as u64 + 1);
    }

    fn clashes(claims: &[Claim<'_>]) -> Vec<Clash> {
        super::clashes(claims, &Steps::unbounded()).unwrap()
    }

    fn file(path: &str) -> Claim<'_> {
        Claim { path, folder: false }
    }

    #[test]
    fn what_excludes_each_other() {
        assert_eq!(clashes(&[file("a"), file("a-b"), file("a.b"), file("b/a"), file("b/c")]), []);
        assert_eq!(clashes(&[file("a"), file("x"), file("a")]), [Clash { file: 0, other: 2 }]);
        assert_eq!(clashes(&[file("a/b/c"), file("a-b"), file("a")]), [Clash { file: 2, other: 0 }]);
        let nested = [file("a/b"), file("a/b"), file("a"), file("c")];
        assert_eq!(clashes(&nested), [Clash { file: 2, other: 0 }, Clash { file: 0, other: 1 }]);
        let folder = Claim { path: "a", folder: true };
        assert_eq!(clashes(&[folder, file("a/b"), folder]), []);
        assert_eq!(clashes(&[folder, file("a")]), [Clash { file: 1, other: 0 }]);
    }

    /// The real work is within the steps, and grows as they do.
    #[test]
    fn twice_the_paths_take_twice_the_steps() {
        let kinds: [Kind; 5] = [
            ("apart", |n| format!("f{}", n * 7919 % 10_007)),
            ("in one deep folder", |n| format!("{}{}", "f/".repeat(200), n * 7919 % 10_007)),
            ("the same", |_| "a/b/c".to_owned()),
            ("within each other", |n| format!("a{}", "/a".repeat(n % 100))),
            ("of one beginning", |n| "a".repeat(1 + n % 500)),
        ];
        for (kind, path) in kinds {
            let [once, twice] = [1_000, 2_000].map(|n| {
                let paths: Vec<String> = (0..n).map(path).collect();
                let claims: Vec<Claim<'_>> = paths.iter().map(|path| file(path)).collect();
                let steps = Steps::unbounded();
                LOOKED.set(0);
                super::clashes(&claims, &steps).unwrap();
                assert!(LOOKED.get() <= steps.spent(), "{kind}: {} of {}", LOOKED.get(), steps.spent());
                (LOOKED.get(), steps.spent())
            });
            assert!(twice.1 * 10 <= once.1 * 22, "{kind}: {once:?}, {twice:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(paths in proptest::collection::vec(("[ab-](/[ab.])?(/[a])?", any::<bool>()), 0..8)) {
            let claims: Vec<Claim<'_>> = paths.iter().map(|(path, folder)| Claim { path, folder: *folder }).collect();
            let some = claims.iter().enumerate().any(|(a, claim)| {
                !claim.folder && claims.iter().enumerate().any(|(b, other)| a != b && is_within(other.path, claim.path))
            });
            prop_assert_eq!(!clashes(&claims).is_empty(), some);
        }
    }
}
