//! "Did you mean ...?": finds the known word that is most similar to a misspelt one.

/// The candidate that the author probably meant, if one is similar enough: at most a third of its letters differ, without regard to case.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let length = lower.chars().count();
    let reach = |candidate: &str| (candidate.len() / 3).max(1);
    candidates
        .into_iter()
        // Such a difference in length is enough to decide: a hostile word of a megabyte is never compared letter by letter.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= reach(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= reach(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_typos_and_leaves_strangers_alone() {
        let known = ["secret", "path", "mode", "encoding", "optional", "fields", "field"];
        assert_eq!(nearest("secrte", known), Some("secret"));
        assert_eq!(nearest("Mode", known), Some("mode"));
        assert_eq!(nearest("feild", known), Some("field"));
        assert_eq!(nearest("filePermission", known), None);
    }
}
