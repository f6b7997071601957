//! The dotenv form of a secret: one line `NAME=value` per field.
//!
//! There is no standard, and the programs that read such files disagree. What Keyferry writes here ([`write()`]) has one meaning for `sh`,
//! node's dotenv and python-dotenv, and runs nothing in a shell. [`read()`] reads as node's dotenv does; [`read_own()`] reads only what
//! [`write()`] writes.

mod own;
mod read;
mod write;

pub use own::{Variable, read_own};
pub use read::{Difference, Entry, read};
pub use write::{Unwritable, fits_a_shell, is_run_by_a_shell, quote_of, write};

/// A name that every reader accepts, except the shells.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}
