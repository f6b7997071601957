//! Where values come from: a person at a terminal, or a stream. Keyferry asks the person, and the terminal does not show what they type.

use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::model::SecretBytes;

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const DELETE: u8 = 127;

/// Standard input, and what the person behind it can see.
pub struct Input<'a> {
    pub stream: &'a mut dyn Read,
    /// Whether standard input is a terminal.
    pub terminal: bool,
    /// Whether standard error is one.
    pub shows_progress: bool,
}

/// The answer to a question.
pub enum Answer {
    Given(SecretBytes),
    /// Ctrl-C.
    Stopped,
}

impl Input<'_> {
    /// Asks for one line. The terminal does not show it. The answer has no line break. `longest` is its bound in bytes.
    pub fn hidden(&mut self, question: &str, longest: usize, err: &mut dyn Write) -> io::Result<Answer> {
        let _hidden = Hidden::begin()?;
        write!(err, "{question}: ")?;
        err.flush()?;
        let answer = self.line(longest);
        writeln!(err)?;
        answer
    }

    /// Whether the answer starts with y or Y.
    pub fn confirms(&mut self, question: &str, err: &mut dyn Write) -> io::Result<bool> {
        write!(err, "{question} [y/N] ")?;
        err.flush()?;
        let mut answer = Vec::new();
        while let Some(byte) = self.byte()?.filter(|byte| *byte != b'\n') {
            answer.push(byte);
        }
        Ok(answer.trim_ascii_start().first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'y')))
    }

    /// Reads byte by byte, because a terminal's own lines end after 4,096 bytes.
    fn line(&mut self, longest: usize) -> io::Result<Answer> {
        // A growing buffer would leave copies of the secret in memory.
        let mut line = Zeroizing::new(Vec::with_capacity(longest + 1));
        loop {
            match self.byte()? {
                Some(CTRL_C) => return Ok(Answer::Stopped),
                None | Some(CTRL_D | b'\n' | b'\r') => return Ok(Answer::Given(SecretBytes::new(line.to_vec()))),
                Some(BACKSPACE | DELETE) => erase_character(&mut line),
                Some(CTRL_U) => line.clear(),
                Some(_) if line.len() == longest => return Err(io::Error::other(format!("more than {longest} bytes"))),
                Some(byte) => line.push(byte),
            }
        }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes the last character, with all its bytes.
fn erase_character(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {}
}

/// While it lives, the terminal does not show what the person types, and gives each byte at once. Ctrl-C is a byte too: a signal would end the
/// process, and the terminal would still show nothing.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut mute = before.clone();
        mute.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        mute.special_codes[SpecialCodeIndex::VMIN] = 1;
        mute.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &mute)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<Vec<u8>> {
        let mut keys = keys;
        let mut input = Input { stream: &mut keys, terminal: true, shows_progress: false };
        match input.line(100).unwrap() {
            Answer::Given(bytes) => Some(bytes.expose().to_vec()),
            Answer::Stopped => None,
        }
    }

    #[test]
    fn a_line_is_what_was_typed_without_its_end_and_what_was_erased() {
        assert_eq!(typed(b"hunter2\n").unwrap(), b"hunter2");
        assert_eq!(typed(b"hunter2\rmore").unwrap(), b"hunter2");
        assert_eq!(typed(b"wrong\x15hunter3\x7f2").unwrap(), b"hunter2");
        assert_eq!(typed("hunté\x7f\x08\x08\x7f\x7f\x7f\x7fé\n".as_bytes()).unwrap(), "é".as_bytes());
        assert_eq!(typed(b"\n").unwrap(), b"");
        assert_eq!(typed(b"hunter2\x04").unwrap(), b"hunter2");
        assert_eq!(typed(b"hunter2\x03\n"), None);
        let mut long = &[b'x'; 101][..];
        assert!(Input { stream: &mut long, terminal: true, shows_progress: false }.line(100).is_err());
    }
}
