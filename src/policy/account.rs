//! Patterns under a rule's `pods`, for names in Kubernetes, which allow few characters. If a pattern can match none of them, the rule is
//! for nobody.

/// The kind of name that a pattern is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Whose {
    Namespace,
    ServiceAccount,
}

impl Whose {
    /// The longest name: that of a label (RFC 1123), or of a whole domain.
    const fn longest(self) -> usize {
        match self {
            Self::Namespace => 63,
            Self::ServiceAccount => 253,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Namespace => "namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends",
            Self::ServiceAccount => "ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends",
        }
    }

    /// # Errors
    /// No name of Kubernetes can match it. The message has the right spelling if Keyferry can find it.
    pub(super) fn check(self, pattern: &str) -> Result<String, String> {
        if self.fits(pattern) {
            return Ok(pattern.to_owned());
        }
        let remedy = match (account(pattern), self.nearest(pattern)) {
            (Some((namespace, name)), _) => format!("did you mean {{ namespace: {namespace}, serviceAccount: {name} }}?"),
            (None, Some(near)) => format!("did you mean {near:?}?"),
            (None, None) => "`*` is any run of characters, and nothing else is special".to_owned(),
        };
        Err(format!("{pattern:?} fits no {}; {remedy})", self.what()))
    }

    /// Whether a name of Kubernetes could match it.
    fn fits(self, pattern: &str) -> bool {
        let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '*';
        let is_inner = |c: char| is_end(c) || c == '-' || c == '.' && self == Self::ServiceAccount;
        let ends = [pattern.chars().next(), pattern.chars().next_back()];
        ends.iter().all(|end| end.is_some_and(is_end))
            && pattern.chars().all(is_inner)
            && !["..", ".-", "-."].iter().any(|apart| pattern.contains(apart))
            && pattern.chars().filter(|c| *c != '*').count() <= self.longest()
    }

    fn nearest(self, pattern: &str) -> Option<String> {
        let plain = pattern.trim().to_ascii_lowercase().replace(['_', ' '], "-").replace(".*", "*");
        let near = plain.trim_matches(|c: char| matches!(c, '^' | '$' | '/')).to_owned();
        self.fits(&near).then_some(near)
    }
}

/// A ServiceAccount with its namespace, as tokens and people write it.
fn account(pattern: &str) -> Option<(&str, &str)> {
    let (namespace, name) =
        pattern.strip_prefix("system:serviceaccount:").map_or_else(|| pattern.split_once('/'), |rest| rest.split_once(':'))?;
    (Whose::Namespace.fits(namespace) && Whose::ServiceAccount.fits(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_no_name_of_kubernetes_is_told_with_the_right_spelling() {
        let told = |pattern: &str| Whose::Namespace.check(pattern).unwrap_err();
        let all = [
            "",
            "Shop",
            "shop_web",
            "team-.*",
            "^shop$",
            "shop/web",
            "system:serviceaccount:shop:web",
            "a.b",
            "-x",
            "*-",
            "a,b",
            "${namespace}",
            "shop ",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r#"
        "" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "Shop" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop"?)
        "shop_web" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop-web"?)
        "team-.*" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "team-*"?)
        "^shop$" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop"?)
        "shop/web" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean { namespace: shop, serviceAccount: web }?)
        "system:serviceaccount:shop:web" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean { namespace: shop, serviceAccount: web }?)
        "a.b" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "-x" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "*-" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "a,b" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "${namespace}" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
        "shop " fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop"?)
        "#);
        let told = |pattern: &str| Whose::ServiceAccount.check(pattern).unwrap_err();
        insta::assert_snapshot!(["Web", "a..b", "a.-b", ".a", "shop/web", "shop/*", "web?"].map(told).join("\n"), @r#"
        "Web" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; did you mean "web"?)
        "a..b" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; `*` is any run of characters, and nothing else is special)
        "a.-b" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; `*` is any run of characters, and nothing else is special)
        ".a" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; `*` is any run of characters, and nothing else is special)
        "shop/web" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; did you mean { namespace: shop, serviceAccount: web }?)
        "shop/*" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; did you mean { namespace: shop, serviceAccount: * }?)
        "web?" fits no ServiceAccount (1 to 253 of a-z, 0-9, `-` and `.`, a letter or digit beside each `.` and at both ends; `*` is any run of characters, and nothing else is special)
        "#);
        for fine in ["*", "**", "shop", "team-*", "*-prod", "s*p", "1", "a*-b"] {
            assert_eq!(Whose::Namespace.check(fine).as_deref(), Ok(fine));
        }
        for fine in ["web.api", "*.web", "a.*", "web-*"] {
            assert_eq!(Whose::ServiceAccount.check(fine).as_deref(), Ok(fine));
        }
        assert!(Whose::Namespace.check(&"x".repeat(64)).is_err() && Whose::ServiceAccount.check(&"x".repeat(253)).is_ok());
        assert!(Whose::Namespace.check(&format!("{}*", "x".repeat(63))).is_ok());
    }
}
