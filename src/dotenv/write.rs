//! Writing: only what every reader takes for the same bytes.
//!
//! - A shell expands `$` and a backtick in double quotes, and knows no escape in single quotes.
//! - node's dotenv knows no escape but `\n` and `\r`, both in double quotes, and takes `\'` for no end of single quotes.
//! - python-dotenv takes `\\` and `\'` in single quotes for one character, and replaces `${NAME}` in any quotes.
//! - All make a line feed of a carriage return, but for the shells.

use thiserror::Error;
use zeroize::Zeroizing;

use super::is_name;

/// Variables whose value bash 5.2 computes (a command in it runs at once, whatever its quotes) or runs at its next prompt.
const RUN: [&str; 10] = ["HISTCMD", "MAILCHECK", "OPTIND", "PROMPT_COMMAND", "PS0", "PS1", "PS2", "PS4", "RANDOM", "SRANDOM"];

/// Variables in whose value a shell runs commands once they are exported (`set -a`): a shell that starts, or looks for mail, expands it.
const EXPANDED: [&str; 3] = ["BASH_ENV", "ENV", "MAILPATH"];

/// Variables that bash 5.2 does not take a value for.
const FIXED: [&str; 22] = [
    "BASHOPTS",
    "BASHPID",
    "BASH_ARGC",
    "BASH_ARGV",
    "BASH_ARGV0",
    "BASH_COMMAND",
    "BASH_LINENO",
    "BASH_SOURCE",
    "BASH_SUBSHELL",
    "BASH_VERSINFO",
    "DIRSTACK",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "LINENO",
    "PPID",
    "SECONDS",
    "SHELLOPTS",
    "UID",
    "_",
];

/// Why a field has no form that every reader takes. The message follows the field's name.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unwritable {
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
/// The name or the value has no such form.
pub fn write(name: &str, value: &[u8]) -> Result<Zeroizing<String>, Unwritable> {
    if !is_name(name) {
        return Err(Unwritable::Name);
    }
    if RUN.contains(&name) {
        return Err(Unwritable::Run);
    }
    let value = str::from_utf8(value).ok().filter(|value| !value.contains('\0')).ok_or(Unwritable::Binary)?;
    if EXPANDED.contains(&name) && value.contains(['$', '`']) {
        return Err(Unwritable::Run);
    }
    let quote = quote_for(value)?;
    let mut line = Zeroizing::new(String::with_capacity(name.len() + value.len() + 4));
    line.push_str(name);
    line.push('=');
    line.push_str(quote);
    line.push_str(value);
    line.push_str(quote);
    line.push('\n');
    Ok(line)
}

/// Whether a shell takes a value for a variable of this name.
pub fn fits_a_shell(name: &str) -> bool {
    let is_a_variable = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_a_variable && !name.starts_with(|c: char| c.is_ascii_digit()) && !FIXED.contains(&name)
}

fn quote_for(value: &str) -> Result<&'static str, Unwritable> {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(&byte);
    if value.contains('\r') {
        Err(Unwritable::CarriageReturn)
    } else if value.contains("${") {
        Err(Unwritable::Expansion)
    } else if value.bytes().all(is_bare) {
        Ok("")
    } else if !value.contains('\'') && !value.contains(r"\\") && !value.ends_with('\\') {
        Ok("'")
    } else if !value.contains(['$', '`', '\\', '"']) {
        Ok("\"")
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
