//! The line ends at the end of a text: a password must have none, an SSH key needs one. Editors and `echo` add them, and stores keep them.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::model::{Newline, SecretBytes};

/// A text that is right already is shared. A value that is not text stays as it is.
pub(super) fn end(newline: Newline, contents: Arc<SecretBytes>) -> Arc<SecretBytes> {
    if newline == Newline::Keep {
        return contents;
    }
    let Ok(text) = str::from_utf8(contents.expose()) else { return contents };
    let wanted = match newline {
        Newline::Ensure if text.is_empty() || text.ends_with('\n') => return contents,
        Newline::Ensure => [text, "\n"],
        Newline::Keep => return contents,
        Newline::Strip => match text.trim_end_matches(['\n', '\r']) {
            stripped if stripped.len() == text.len() => return contents,
            stripped => [stripped, ""],
        },
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(wanted.iter().map(|part| part.len()).sum()));
    for part in wanted {
        bytes.extend_from_slice(part.as_bytes());
    }
    Arc::new(SecretBytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(newline: Newline, bytes: &[u8]) -> (Vec<u8>, bool) {
        let before = Arc::new(SecretBytes::new(bytes.to_vec()));
        let after = end(newline, Arc::clone(&before));
        (after.expose().to_vec(), Arc::ptr_eq(&before, &after))
    }

    #[test]
    fn passwords_have_none_and_keys_have_one() {
        for (stored, stripped, ensured) in
            [("x", "x", "x\n"), ("x\n", "x", "x\n"), ("x\r\n\n", "x", "x\r\n\n"), ("", "", ""), ("\n", "", "\n"), (" x \n", " x ", " x \n")]
        {
            assert_eq!(ended(Newline::Strip, stored.as_bytes()), (stripped.into(), stripped == stored), "{stored:?}");
            assert_eq!(ended(Newline::Ensure, stored.as_bytes()), (ensured.into(), ensured == stored), "{stored:?}");
            assert_eq!(ended(Newline::Keep, stored.as_bytes()), (stored.into(), true));
        }
    }

    /// A keystore may end in the byte of a line end.
    #[test]
    fn what_is_not_text_is_left_alone() {
        for newline in [Newline::Ensure, Newline::Keep, Newline::Strip] {
            assert_eq!(ended(newline, b"\xff\n"), (b"\xff\n".to_vec(), true));
        }
    }
}
