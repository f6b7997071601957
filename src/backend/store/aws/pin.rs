//! Pinned versions: what a class writes as `version`, by the rules of Secrets Manager and Parameter Store.

use std::ops::RangeInclusive;

use super::endpoint::Service;

/// The text before a stage that looks like an id.
const STAGE: &str = "stage:";

/// The text before an id that does not look like one.
const ID: &str = "id:";

/// The length of an id in characters (API reference of GetSecretValue).
const ID_LENGTH: RangeInclusive<usize> = 32..=64;

/// The longest stage and label in characters (their API references).
const MAX_STAGE: usize = 256;
const MAX_LABEL: usize = 100;

/// A version that is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Pin {
    /// For a parameter: a number or a label, which follows the name.
    Selector(String),
    /// For a secret: an id, a stage, or both for one version.
    Version { id: Option<String>, stage: Option<String> },
}

// === impl Pin ===

impl Pin {
    /// # Errors
    /// The service has no such version.
    pub(super) fn of(service: Service, version: &str) -> Result<Self, String> {
        match service {
            Service::Parameters => selector(version).map(Self::Selector),
            Service::SecretsManager | Service::Tokens => of_secret(version),
        }
    }
}

/// Checks whether any of the services could have this version.
pub(super) fn check(version: &str) -> Result<(), String> {
    if version.is_empty()
        || version.chars().any(char::is_control)
        || version.chars().count() > MAX_STAGE + 2 * STAGE.len() + ID.len() + ID_LENGTH.end()
    {
        let shown: String = version.chars().take(40).collect();
        return Err(format!("{shown:?} is not a version (write an id, a stage, a number or a label)"));
    }
    Ok(())
}

/// Digits are a number: a label does not begin with a digit.
fn selector(version: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_label = !version.is_empty() && version.len() <= MAX_LABEL && version.chars().all(fits);
    let is_number = version.bytes().all(|byte| byte.is_ascii_digit());
    let begins = |with: &str| version.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    let is_reserved = begins("aws") || begins("ssm") || version.starts_with(|c: char| c.is_ascii_digit());
    match (is_label, is_number) {
        (true, true) if version.starts_with('0') => {
            Err(format!("{version:?} is not a version of a parameter (versions are numbers from 1, without zeros in front)"))
        }
        (true, true) => Ok(version.to_owned()),
        (true, false) if !is_reserved => Ok(version.to_owned()),
        _ => {
            let shown: String = version.chars().take(40).collect();
            Err(format!(
                "{shown:?} is neither the number nor the label of a parameter's version (a label has letters, digits and _.-, and does not \
                 begin with a digit, `aws` or `ssm`)"
            ))
        }
    }
}

fn of_secret(version: &str) -> Result<Pin, String> {
    let (id, stage) = match version.split_once(STAGE) {
        Some(("", stage)) => (None, Some(stage)),
        Some(_) | None if version.starts_with(ID) => of_any_id(&version[ID.len()..])?,
        Some((id, stage)) if id.strip_suffix(':').is_some_and(is_id) => (id.strip_suffix(':'), Some(stage)),
        Some(_) | None if is_id(version) => (Some(version), None),
        Some(_) | None => (None, Some(version)),
    };
    if let Some(stage) = stage.filter(|stage| stage.is_empty() || stage.chars().count() > MAX_STAGE || stage.chars().any(char::is_control))
    {
        let shown: String = stage.chars().take(40).collect();
        return Err(format!("{shown:?} is not the stage of a secret's version (1 to {MAX_STAGE} characters, such as AWSPREVIOUS)"));
    }
    Ok(Pin::Version { id: id.map(str::to_owned), stage: stage.map(str::to_owned) })
}

/// Any id, and perhaps a stage after it. The one who writes a version can choose its id, and AWS only limits its length.
fn of_any_id(text: &str) -> Result<(Option<&str>, Option<&str>), String> {
    let both = text.split_once(':').and_then(|(id, rest)| Some((id, Some(rest.strip_prefix(STAGE)?))));
    let (id, stage) = both.unwrap_or((text, None));
    if ID_LENGTH.contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Ok((Some(id), stage));
    }
    let shown: String = id.chars().take(40).collect();
    Err(format!("{shown:?} is not the id of a secret's version (32 to 64 ASCII characters without blanks and `:`)"))
}

/// An id that Secrets Manager made, or the one who wrote the version.
fn is_id(text: &str) -> bool {
    ID_LENGTH.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_ids_and_stages() {
        let id = "0f1e2d3c-0000-4000-8000-123456789abc";
        let pin = |text: &str| match Pin::of(Service::SecretsManager, text).unwrap() {
            Pin::Version { id, stage } => (id, stage),
            Pin::Selector(_) => unreachable!(),
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(pin(id), (some(id), None));
        assert_eq!(pin("AWSPREVIOUS"), (None, some("AWSPREVIOUS")));
        assert_eq!(pin("3"), (None, some("3")));
        assert_eq!(pin(&format!("stage:{id}")), (None, some(id)));
        assert_eq!(pin(&format!("{id}:stage:blue")), (some(id), some("blue")));
        assert_eq!(pin("green stage"), (None, some("green stage")));
        assert_eq!(pin("a:stage:b"), (None, some("a:stage:b")), "no id is in front");
        let other = "a_release.of_2026+with/other=characters";
        assert_eq!(pin(other), (None, some(other)), "it may be a stage");
        assert_eq!(pin(&format!("id:{other}")), (some(other), None));
        assert_eq!(pin(&format!("id:{id}")), (some(id), None));
        assert_eq!(pin(&format!("id:{other}:stage:id:x")), (some(other), some("id:x")));
        assert_eq!(pin(&format!("stage:id:{other}")), (None, some(&format!("id:{other}"))));
        let long = "x".repeat(257);
        let unfit =
            ["id:x".to_owned(), "id:".to_owned(), format!("id:{other}:x"), format!("id:{other} "), format!("id:{}", "x".repeat(65))];
        for text in unfit.iter().map(String::as_str).chain(["stage:", &format!("{id}:stage:"), &long]) {
            assert!(Pin::of(Service::SecretsManager, text).is_err(), "{text}");
        }
    }

    #[test]
    fn parameters_have_numbers_and_labels() {
        for text in ["3", "12", "prod", "a.b_c-1", "swan"] {
            assert_eq!(Pin::of(Service::Parameters, text).unwrap(), Pin::Selector(text.to_owned()));
        }
        for text in ["", "0", "03", "3a", "awsx", "AWSCURRENT", "SSM", "a b", "a:b", "ü", &"x".repeat(101)] {
            assert!(Pin::of(Service::Parameters, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_no_service_could_have_is_refused_before_the_service_is_known() {
        assert!(check("AWSCURRENT").is_ok() && check("3").is_ok());
        for text in ["", "a\nb", &"x".repeat(400)] {
            assert!(check(text).is_err(), "{text:?}");
        }
    }
}
