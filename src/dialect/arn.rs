//! An ARN of a secret without its last characters. If the secret's name ends like those, the ARN means another secret.

/// The start of an ARN.
pub(super) const ARN: &str = "arn:";

/// How many characters Secrets Manager adds to a name in its ARN, after a `-`.
const ADDED: usize = 6;

/// A warning about an ARN that ends like a word: probably this end is a part of the secret's name. AWS adds six random characters to a
/// name, and one in two hundred of such ends has only small letters.
pub(super) fn doubt_of_end(arn: &str) -> Option<String> {
    let (_, resource) = arn.strip_prefix(ARN)?.split_once(":secret:")?;
    let (_, end) = resource.rsplit_once('-').filter(|(name, end)| !name.is_empty() && end.len() == ADDED)?;
    let is_word = end.bytes().all(|byte| byte.is_ascii_lowercase()) || end.bytes().all(|byte| byte.is_ascii_digit());
    is_word.then(|| {
        format!(
            "ends with `-{end}`: as in AWS, this counts as the six characters that AWS adds to a name, and not as a part of the name (if \
             it is a part of the name, write the whole ARN, or only the name)"
        )
    })
}
