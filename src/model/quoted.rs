//! Texts of other authors in our messages: short, and without the control characters that could forge a log line.

use std::fmt::Write;

use crate::redact::is_invisible;

/// How much of a text is shown, in characters.
const SHOWN: usize = 80;

/// A text in quotes, escaped, cut at 80 characters.
pub fn quoted(text: &str) -> String {
    let shown = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    };
    visible(&shown)
}

/// A text with an escape for each character that cannot be seen, or that changes the order of the characters around it.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) {
            // The target is a string, so this cannot fail.
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A text escaped and cut at 80 characters, without quotes: for keys and labels.
pub fn clean(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    visible(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_or_hostile_text_is_harmless() {
        assert_eq!(quoted("a\nb\0"), r#""a\nb\0""#);
        assert_eq!(clean("a\u{1b}[31m"), r"a\u{1b}[31m");
        // Characters that Rust itself takes for visible.
        assert_eq!(quoted("a\u{3164}\u{fe0f}"), r#""a\u{3164}\u{fe0f}""#);
        assert_eq!(clean("a\u{ffa0}b"), r"a\u{ffa0}b");
        assert_eq!(visible("a\u{202e}b\u{200b}\nc"), "a\\u{202e}b\\u{200b}\nc");
        assert_eq!(quoted(&"ü".repeat(81)), format!("\"{}\"...", "ü".repeat(80)));
        assert_eq!(clean(&"ü".repeat(81)), format!("{}...", "ü".repeat(80)));
        assert_eq!(clean(&"ü".repeat(80)), "ü".repeat(80));
    }
}
