//! Writes only what every reader reads as the same bytes.
//!
//! - A shell expands `$` and a backtick in double quotes, and has no escape in single quotes.
//! - node's dotenv has only the escapes `\n` and `\r`, both in double quotes. For it, `\'` does not end single quotes.
//! - python-dotenv reads `\\` and `\'` in single quotes as one character, and replaces `${NAME}` in any quotes.
//! - All readers but the shells turn a carriage return into a line feed.

use thiserror::Error;
use zeroize::Zeroizing;

use super::is_name;

/// Variables whose value bash 5.2 computes (a command in it runs at once, in any quotes) or runs at its next prompt.
fn is_run(name: &str) -> bool {
    matches!(name, "HISTCMD" | "MAILCHECK" | "OPTIND" | "PROMPT_COMMAND" | "PS0" | "PS1" | "PS2" | "PS4" | "RANDOM" | "SRANDOM")
}

/// Variables in whose value a shell runs commands if they are exported (`set -a`): a shell that starts, or looks for mail, expands the
/// value.
fn is_expanded(name: &str) -> bool {
    matches!(name, "BASH_ENV" | "ENV" | "MAILPATH")
}

/// Variables to which bash 5.2 does not assign a value.
#[rustfmt::skip]
fn is_fixed(name: &str) -> bool {
    matches!(
        name,
        "BASHOPTS" | "BASHPID" | "BASH_ARGC" | "BASH_ARGV" | "BASH_ARGV0" | "BASH_COMMAND" | "BASH_LINENO" | "BASH_SOURCE" | "BASH_SUBSHELL"
            | "BASH_VERSINFO" | "DIRSTACK" | "EPOCHREALTIME" | "EPOCHSECONDS" | "EUID" | "FUNCNAME" | "GROUPS" | "LINENO" | "PPID" | "SECONDS"
            | "SHELLOPTS" | "UID" | "_"
    )
}

/// For each byte: whether it keeps its meaning without quotes.
const BARE: [bool; 256] = {
    let (mut bare, mut byte) = ([false; 256], 0_u8);
    while byte < u8::MAX {
        bare[byte as usize] = matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'%' | b'+'..=b'/' | b':' | b'=' | b'@' | b'_');
        byte += 1;
    }
    bare
};

/// Why a field cannot be written so that every reader reads the same. The message follows the field's name.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unwritable {
    /// Only for text that is read: the writer adds quotes where they are needed.
    #[error("needs quotes")]
    Bare,
    #[error("is not text")]
    Binary,
    #[error("has a carriage return, which node's dotenv and python-dotenv do not keep")]
    CarriageReturn,
    #[error("has `${{`, which python-dotenv replaces")]
    Expansion,
    #[error("has a name with other characters than letters, digits, `_`, `-` and `.`")]
    Name,
    #[error("has quotes, `$`, backticks or backslashes that sh, node's dotenv and python-dotenv do not read alike")]
    Quotes,
    #[error("has a name whose value bash runs or computes")]
    Run,
}

/// One line, or several where the value has line ends.
///
/// # Errors
/// The name or the value cannot be written in that way.
pub fn write(name: &str, value: &[u8]) -> Result<Zeroizing<String>, Unwritable> {
    check_name(name)?;
    let value = str::from_utf8(value).map_err(|_| Unwritable::Binary)?;
    let quote = quote_of(name, value)?;
    let mut line = Zeroizing::new(String::with_capacity(name.len() + value.len() + 4));
    line.push_str(name);
    line.push('=');
    line.push_str(quote);
    line.push_str(value);
    line.push_str(quote);
    line.push('\n');
    Ok(line)
}

/// The quotes in which all readers read this variable's value as the same bytes; none if it needs none.
///
/// # Errors
/// As [`write()`].
pub fn quote_of(name: &str, value: &str) -> Result<&'static str, Unwritable> {
    check_name(name)?;
    if is_expanded(name) && value.contains(['$', '`']) {
        return Err(Unwritable::Run);
    }
    quote_for(value)
}

fn check_name(name: &str) -> Result<(), Unwritable> {
    match () {
        () if !is_name(name) => Err(Unwritable::Name),
        () if is_run(name) => Err(Unwritable::Run),
        () => Ok(()),
    }
}

/// Whether a shell may run commands in the value of a variable of this name.
pub fn is_run_by_a_shell(name: &str) -> bool {
    is_run(name) || is_expanded(name)
}

/// Whether a shell assigns a value to a variable of this name.
pub fn fits_a_shell(name: &str) -> bool {
    let is_a_variable = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_a_variable && !name.starts_with(|c: char| c.is_ascii_digit()) && !is_fixed(name)
}

fn quote_for(value: &str) -> Result<&'static str, Unwritable> {
    let mut why = Unwritable::Quotes;
    for quote in ["", "'", "\""] {
        match spelled(value, quote) {
            Ok(()) => return Ok(quote),
            Err(other) => why = other,
        }
    }
    Err(why)
}

/// Whether all readers read a value in these quotes as the same bytes; no quotes: without any.
pub(super) fn spelled(value: &str, quote: &str) -> Result<(), Unwritable> {
    let is_bare = || value.bytes().all(|byte| BARE[usize::from(byte)]);
    let fits = match quote {
        // The value has none of the characters below.
        "" if is_bare() => return Ok(()),
        "" => false,
        "'" => !value.contains('\'') && !value.contains(r"\\") && !value.ends_with('\\'),
        _ => !value.contains(['$', '`', '\\', '"']),
    };
    if value.contains('\0') {
        Err(Unwritable::Binary)
    } else if value.contains('\r') {
        Err(Unwritable::CarriageReturn)
    } else if value.contains("${") {
        Err(Unwritable::Expansion)
    } else if fits {
        Ok(())
    } else if quote.is_empty() {
        Err(Unwritable::Bare)
    } else {
        Err(Unwritable::Quotes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_bare_or_in_the_first_quotes_that_all_readers_take_alike() {
        for (value, line) in [
            ("", "A=\n"),
            ("AZaz09_./:@%+,=-", "A=AZaz09_./:@%+,=-\n"),
            ("two words", "A='two words'\n"),
            ("$(id) `id` \"x\" #", "A='$(id) `id` \"x\" #'\n"),
            ("two\nlines\n", "A='two\nlines\n'\n"),
            (r"C:\n", "A='C:\\n'\n"),
            ("it's", "A=\"it's\"\n"),
            ("it's\n# two lines", "A=\"it's\n# two lines\"\n"),
            ("~", "A='~'\n"),
            ("ö", "A='ö'\n"),
        ] {
            assert_eq!(write("A", value.as_bytes()).as_deref().map(String::as_str), Ok(line));
        }
    }

    #[test]
    fn what_no_quotes_fit_is_not_written() {
        for (value, why) in [
            ("it's `id`", Unwritable::Quotes),
            ("it's $HOME", Unwritable::Quotes),
            ("it's \"x\"", Unwritable::Quotes),
            (r"it's C:\", Unwritable::Quotes),
            (r"\\server\share", Unwritable::Quotes),
            ("a\rb", Unwritable::CarriageReturn),
            ("a\r\n", Unwritable::CarriageReturn),
            ("${HOME}", Unwritable::Expansion),
            ("a\0", Unwritable::Binary),
        ] {
            assert_eq!(write("A", value.as_bytes()), Err(why), "{value:?}");
        }
        assert_eq!(write("A", &[0xff]), Err(Unwritable::Binary));
        assert_eq!(write("RANDOM", b"a[$(touch ran)]"), Err(Unwritable::Run));
        for name in ["BASH_ENV", "ENV", "MAILPATH"] {
            assert_eq!(write(name, b"$(touch ran)"), Err(Unwritable::Run), "{name}");
            assert!(write(name, b"production").is_ok(), "{name}");
        }
        for name in ["", "a b", "a=b", "ö", "a\nb"] {
            assert_eq!(write(name, b"x"), Err(Unwritable::Name), "{name:?}");
        }
    }

    #[test]
    fn names_that_a_shell_does_not_take_are_told_apart() {
        assert!(["A", "_a", "a1", "export", "HOME", "ENV"].iter().all(|name| fits_a_shell(name)));
        assert!(["b.c", "b-c", "1a", "UID", "_", "."].iter().all(|name| !fits_a_shell(name)));
    }
}
