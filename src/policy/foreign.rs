//! Signs that are patterns in other programs but not in the policy, and invisible characters. A rule with one of them would match nothing.

/// Elsewhere these mean a class of characters, an alternative, an anchor or a "not".
const SIGNS: [char; 5] = ['!', '[', ']', '^', '|'];

/// Checks one pattern.
///
/// # Errors
/// The sign that the policy would take literally, and what to write instead.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    check_seen(pattern)?;
    match pattern.split('/').find_map(sign) {
        Some(sign) => {
            Err(format!("{pattern:?}: {sign:?} is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)"))
        }
        None => Ok(()),
    }
}

/// Checks that people can see everything in the pattern.
///
/// # Errors
/// What they cannot see.
pub(super) fn check_seen(pattern: &str) -> Result<(), String> {
    if pattern.contains(is_unseen) {
        return Err(format!("{pattern:?} has a character that nobody sees (remove it; `*` matches a name that has one)"));
    }
    if pattern.split('/').any(|element| element.trim() != element) {
        return Err(format!("{pattern:?} has a blank at an end of an element (remove it; `*` matches a name that has one)"));
    }
    Ok(())
}

/// The name with `*` in place of what `check` refuses.
pub(super) fn widened(name: &str) -> String {
    let elements = name.split('/').map(|element| {
        let trimmed = element.trim();
        let wide: String = trimmed
            .char_indices()
            .map(|(at, c)| {
                // In the middle of an element these two mean only themselves.
                let is_itself = at > 0 && matches!(c, '!' | '^');
                if is_unseen(c) || SIGNS.contains(&c) && !is_itself { '*' } else { c }
            })
            .collect();
        let edges = if trimmed == element { "" } else { "*" };
        format!("{edges}{wide}{edges}")
    });
    elements.collect::<Vec<_>>().join("/")
}

/// The part of an element that has a meaning in other programs.
fn sign(element: &str) -> Option<&str> {
    let class = element.find('[').and_then(|from| Some(&element[from..=from + element[from..].find(']')?]));
    let alternative = || element.contains('|').then_some(element);
    class.or_else(alternative).or_else(|| element.starts_with(['!', '^']).then(|| &element[..1]))
}

/// Control characters, and characters that have no width or change the direction of the text after them.
fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_other_programs_are_told() {
        let told = |pattern: &str| check(pattern).err().unwrap_or_else(|| "fine".to_owned());
        let all = [
            "files/[abc]/x",
            "files/(a|b)/x",
            "files/shop|bank/x",
            "files/!x",
            "files/^x$",
            "files/x ",
            "files/ x/y",
            "files/x\u{200b}",
            "files/\u{202e}x",
            "files/x\ty",
        ];
        insta::assert_snapshot!(all.map(told).join("\n"), @r#"
        "files/[abc]/x": "[abc]" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "files/(a|b)/x": "(a|b)" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "files/shop|bank/x": "shop|bank" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "files/!x": "!" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "files/^x$": "^" is not a part of a pattern (only `*` and `**` are special: write a pattern for each name)
        "files/x " has a blank at an end of an element (remove it; `*` matches a name that has one)
        "files/ x/y" has a blank at an end of an element (remove it; `*` matches a name that has one)
        "files/x\u{200b}" has a character that nobody sees (remove it; `*` matches a name that has one)
        "files/\u{202e}x" has a character that nobody sees (remove it; `*` matches a name that has one)
        "files/x\ty" has a character that nobody sees (remove it; `*` matches a name that has one)
        "#);
        for (name, wide) in [("rds!db-1", "rds!db-1"), ("!a/a^2/^b", "*a/a^2/*b"), ("a|b/[c]", "a*b/*c*"), (" !x ", "**x*")] {
            assert_eq!(widened(name), wide);
        }
        for fine in ["files/a b/x", "files/a]b", "files/a!b", "files/a[b", "files/db (old)", "files/größe", "files/a^2"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }
}
