//! What every command does with its two streams. Standard output has what the user asked for, and nothing else. Each line of standard error begins
//! with `error:`, `warning:` or `note:`; only prompts, and the progress that a terminal shows, do not.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};

use clap::{Command, CommandFactory, FromArgMatches};

use super::Failure;
use crate::telemetry::logs::shows_colours;

const WORDS: [&str; 3] = ["error: ", "warning: ", "note: "];

/// Writes the result.
///
/// # Errors
/// Nothing more can be written (exit code 1). A reader may stop reading (`| head`): that is not a failure.
pub(super) fn write(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::fault(format!("cannot write the output: {error}"))),
        _ => Ok(()),
    }
}

/// Why a command failed, in the form for standard error.
pub(super) fn errors(text: &str) -> String {
    said("error: ", text)
}

/// Writes a warning. If standard error is closed, the exit code is still there.
pub(super) fn warn(err: &mut dyn Write, text: &str) {
    let _ = err.write_all(said("warning: ", text).as_bytes());
}

/// Writes a note.
pub(super) fn note(err: &mut dyn Write, text: &str) {
    let _ = err.write_all(said("note: ", text).as_bytes());
}

/// Puts the word before each line. A line that already has such a word keeps it. No control character of a name or of a
/// store's answer reaches the terminal.
fn said(word: &str, text: &str) -> String {
    let mut said = String::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if !WORDS.iter().any(|word| line.starts_with(word)) {
            said.push_str(word);
        }
        for c in line.chars() {
            if c.is_control() { said.extend(c.escape_default()) } else { said.push(c) }
        }
        said.push('\n');
    }
    said
}

/// Reads the arguments.
///
/// # Errors
/// They are wrong (exit code 2). Or they ask for the help or the version, which is printed (exit code 0).
pub(super) fn parse<P: CommandFactory + FromArgMatches>(arguments: &[OsString]) -> Result<P, Failure> {
    // A command that needs another word says so, instead of showing its help as an error.
    fn plain(command: Command) -> Command {
        let has_commands = command.has_subcommands();
        let command = if has_commands { command.arg_required_else_help(false) } else { command };
        command.mut_subcommands(plain)
    }
    let mut command = plain(P::command());
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| P::from_arg_matches(&matches));
    parsed.map_err(|error| refused(&error, &named(&command, arguments)))
}

#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn refused(error: &clap::Error, command: &str) -> Failure {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            let text = if shows_colours(&io::stdout()) { error.render().ansi().to_string() } else { error.render().to_string() };
            write(&mut io::stdout(), &text).err().unwrap_or_else(|| Failure::silent(0))
        }
        _ => Failure::usage(format!("{}\nnote: `{command} --help` explains the arguments and has examples", usage(error))),
    }
}

/// clap's own words: the first paragraph is the error, the others are notes.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut lines: Vec<String> = Vec::new();
    for paragraph in paragraphs.filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with("For more information")) {
        let paragraph = paragraph.strip_prefix("tip: ").unwrap_or(&paragraph);
        match paragraph.strip_prefix("Usage: ") {
            Some(usage) => lines.push(format!("note: usage: {usage}")),
            None if lines.is_empty() => lines.push(paragraph.to_owned()),
            None => lines.push(format!("note: {paragraph}")),
        }
    }
    lines.join("\n")
}

/// The command that the arguments name, such as `keyferry vault set`.
fn named(command: &Command, arguments: &[OsString]) -> String {
    let (mut command, mut words) = (command, vec![command.get_name()]);
    for below in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(found) = command.find_subcommand(below) {
            command = found;
            words.push(found.get_name());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_word_and_no_control_characters() {
        let mut err = Vec::new();
        warn(&mut err, "one\n\ntwo\u{1b}[31m\r\nnote: three");
        note(&mut err, "four");
        let said = String::from_utf8(err).unwrap() + &errors("five\nwarning: six");
        assert_eq!(said, "warning: one\nwarning: two\\u{1b}[31m\nnote: three\nnote: four\nerror: five\nwarning: six\n");
    }

    #[test]
    fn a_reader_that_stops_reading_is_no_failure_and_a_full_disk_is_one() {
        struct Full(ErrorKind);
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(write(&mut Full(ErrorKind::BrokenPipe), "x").is_ok());
        let failure = write(&mut Full(ErrorKind::StorageFull), "x").unwrap_err();
        assert_eq!((failure.code(), failure.to_string().as_str()), (1, "cannot write the output: no storage space"));
    }
}
