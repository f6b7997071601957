//! Which paths cannot stand in one volume together: the same file twice, or a file where another one needs a folder.
//!
//! Apart from paths themselves, because a class is checked twice: once as it is written, and once when the names of a secret's
//! fields are known.

use std::cmp::Ordering;

/// A path that somebody wants in the volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim<'p> {
    pub path: &'p str,
    /// A folder may be claimed often; nothing else may stand at its path.
    pub folder: bool,
}

/// Two claims that exclude each other, as positions in the list that was asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clash {
    /// A file ...
    pub file: usize,
    /// ... and what wants the same path, or a path within it.
    pub other: usize,
}

/// Every claim that clashes, each once: with the file it repeats, else with the innermost file it would stand in.
/// Takes time proportional to the text of the paths, times the logarithm of their number.
pub fn clashes(claims: &[Claim<'_>]) -> Vec<Clash> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by(|a, b| compare(claims[*a], claims[*b]).then(a.cmp(b)));
    // In this order everything within a file's path follows directly behind the file.
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
    found
}

/// `/` before every other character, so that nothing comes between `a` and `a/b`; a file before a folder of its path.
fn compare(a: Claim<'_>, b: Claim<'_>) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    a.path.bytes().map(key).cmp(b.path.bytes().map(key)).then(a.folder.cmp(&b.folder))
}

fn is_within(path: &str, file: &str) -> bool {
    path.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
