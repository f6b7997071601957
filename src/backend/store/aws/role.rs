//! An IAM role, as ARNs name it; and a template of a role, from which each Pod's ServiceAccount gets its role.

use std::fmt;
use std::str::FromStr;

/// The places for the Pod's own names.
const NAMESPACE: &str = "${namespace}";
const ACCOUNT: &str = "${serviceAccount}";

/// The longest name of a role, without its path, and the longest ARN (IAM's own limits).
const MAX_NAME: usize = 64;
const MAX_ARN: usize = 2048;

/// `arn:aws:iam::111122223333:role/NAME`, where `${namespace}` and `${serviceAccount}` are the Pod's.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct RoleTemplate(String);

// === impl RoleTemplate ===

impl RoleTemplate {
    /// As the configuration writes it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all ServiceAccounts get the same role.
    pub(super) fn is_fixed(&self) -> bool {
        !self.0.contains("${")
    }

    /// Whether no two ServiceAccounts get the same role. The name of a ServiceAccount may have `-` and `.`, the name of a namespace only
    /// `-`. So the text between the two must have another character.
    pub(super) fn tells_apart(&self) -> bool {
        let (Some(namespace), Some(account)) = (self.0.find(NAMESPACE), self.0.find(ACCOUNT)) else {
            // Without the ServiceAccount, each namespace has one role, and a namespace is one tenant.
            return self.0.contains(NAMESPACE);
        };
        let parts = |byte: u8| !byte.is_ascii_lowercase() && !byte.is_ascii_digit() && byte != b'-';
        if namespace < account {
            return self.0.as_bytes()[namespace + NAMESPACE.len()..account].iter().any(|byte| parts(*byte));
        }
        self.0.as_bytes()[account + ACCOUNT.len()..namespace].iter().any(|byte| parts(*byte) && *byte != b'.')
    }

    /// The role for a ServiceAccount.
    ///
    /// # Errors
    /// With these names the role is over a limit of IAM.
    pub(super) fn fill(&self, namespace: &str, account: &str) -> Result<String, String> {
        // Neither name can hold a placeholder.
        let role = self.0.replace(NAMESPACE, namespace).replace(ACCOUNT, account);
        check(&role).map_err(|problem| format!("{role}: {problem}"))?;
        Ok(role)
    }
}

impl FromStr for RoleTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sample = text.replace(NAMESPACE, "n").replace(ACCOUNT, "a");
        if sample.contains('$') {
            return Err(format!("{text:?} has an unknown placeholder (write {NAMESPACE} or {ACCOUNT})"));
        }
        if !text.starts_with(sample.split('/').next().unwrap_or_default()) {
            return Err(format!("{text:?} has a placeholder before the role's name (write the account's number itself)"));
        }
        check(&sample).map_err(|problem| format!("{text:?} {problem}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RoleTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether it is the ARN of a role.
///
/// # Errors
/// Why not. The text continues a sentence that begins with the ARN.
pub(super) fn check(arn: &str) -> Result<(), String> {
    const REMEDY: &str = "write for example arn:aws:iam::111122223333:role/web";
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, role] = parts.as_slice() else { return Err(format!("is not the ARN of a role ({REMEDY})")) };
    if partition.strip_prefix("aws").is_none_or(|rest| !rest.is_empty() && !rest.starts_with('-')) || !is_account(account) {
        return Err(format!("is not the ARN of a role ({REMEDY})"));
    }
    let Some(path) = role.strip_prefix("role/") else { return Err(format!("is not the ARN of a role ({REMEDY})")) };
    let name = path.rsplit('/').next().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/+=,.@_-".contains(&byte);
    match () {
        () if !path.bytes().all(fits) || path.contains("//") => {
            Err("has characters that a role cannot have (use letters, digits and +=,.@_-)".to_owned())
        }
        () if name.is_empty() => Err("needs the name of a role (write it after `role/`)".to_owned()),
        () if name.len() > MAX_NAME => {
            Err(format!("has a name of {} characters, and at most {MAX_NAME} are allowed (choose a shorter one)", name.len()))
        }
        () if arn.len() > MAX_ARN => Err(format!("is over {MAX_ARN} characters (choose a shorter path)")),
        () => Ok(()),
    }
}

/// Twelve digits.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "arn:aws:iam::111122223333:role/";

    #[test]
    fn a_template_becomes_the_role_of_a_service_account() {
        let template: RoleTemplate = format!("{HEAD}{NAMESPACE}/{ACCOUNT}").parse().unwrap();
        assert_eq!(template.fill("shop", "web").unwrap(), format!("{HEAD}shop/web"));
        assert!(!template.is_fixed());
        assert!(format!("{HEAD}web").parse::<RoleTemplate>().unwrap().is_fixed());
        assert_eq!(
            template.fill("shop", &"a".repeat(65)).unwrap_err().split(": has").nth(1).unwrap(),
            " a name of 65 characters, and at most 64 are allowed (choose a shorter one)"
        );
    }

    /// Namespace `a-b`, ServiceAccount `c`; and namespace `a`, ServiceAccount `b-c`.
    #[test]
    fn a_dash_does_not_tell_service_accounts_apart() {
        for (template, tells) in [
            ("${namespace}-${serviceAccount}", false),
            ("${namespace}${serviceAccount}", false),
            ("${namespace}-x-${serviceAccount}", false),
            ("${serviceAccount}.${namespace}", false),
            ("${serviceAccount}", false),
            ("web", false),
            ("${namespace}", true),
            ("${namespace}.${serviceAccount}", true),
            ("${namespace}/${serviceAccount}", true),
            ("${namespace}-_${serviceAccount}", true),
            ("${serviceAccount}@${namespace}", true),
        ] {
            assert_eq!(format!("{HEAD}{template}").parse::<RoleTemplate>().unwrap().tells_apart(), tells, "{template}");
        }
    }

    #[test]
    fn what_is_not_a_role_says_so() {
        let texts = [
            String::new(),
            "web".to_owned(),
            "arn:aws:iam::1111:role/web".to_owned(),
            "arn:awsfoo:iam::111122223333:role/web".to_owned(),
            "arn:aws:iam::111122223333:user/web".to_owned(),
            "arn:aws:sts::111122223333:assumed-role/web/x".to_owned(),
            HEAD.to_owned(),
            format!("{HEAD}a b"),
            format!("{HEAD}a//b"),
            format!("{HEAD}{}", "x".repeat(65)),
            format!("{HEAD}${{pod}}"),
            format!("{HEAD}$namespace"),
            "arn:aws:iam::${namespace}:role/x".to_owned(),
        ];
        let said: Vec<_> = texts.iter().map(|text| text.parse::<RoleTemplate>().unwrap_err()).collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        "" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "arn:aws:iam::1111:role/web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "arn:awsfoo:iam::111122223333:role/web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "arn:aws:iam::111122223333:user/web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "arn:aws:sts::111122223333:assumed-role/web/x" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
        "arn:aws:iam::111122223333:role/" needs the name of a role (write it after `role/`)
        "arn:aws:iam::111122223333:role/a b" has characters that a role cannot have (use letters, digits and +=,.@_-)
        "arn:aws:iam::111122223333:role/a//b" has characters that a role cannot have (use letters, digits and +=,.@_-)
        "arn:aws:iam::111122223333:role/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" has a name of 65 characters, and at most 64 are allowed (choose a shorter one)
        "arn:aws:iam::111122223333:role/${pod}" has an unknown placeholder (write ${namespace} or ${serviceAccount})
        "arn:aws:iam::111122223333:role/$namespace" has an unknown placeholder (write ${namespace} or ${serviceAccount})
        "arn:aws:iam::${namespace}:role/x" has a placeholder before the role's name (write the account's number itself)
        "#);
    }
}
