//! Other people's text in our messages: short, and without the control characters that could forge a log line.

/// How much of a text is shown, in characters.
const SHOWN: usize = 80;

/// A text in quotes, escaped, cut at 80 characters.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A text escaped and cut at 80 characters, without quotes: for keys and labels.
pub fn clean(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_or_hostile_text_is_harmless() {
        assert_eq!(quoted("a\nb\0"), r#""a\nb\0""#);
        assert_eq!(clean("a\u{1b}[31m"), r"a\u{1b}[31m");
        assert_eq!(quoted(&"ü".repeat(81)), format!("\"{}\"...", "ü".repeat(80)));
        assert_eq!(clean(&"ü".repeat(81)), format!("{}...", "ü".repeat(80)));
        assert_eq!(clean(&"ü".repeat(80)), "ü".repeat(80));
    }
}
