//! The dotenv form of a secret: a line `NAME=value` for each field.
//!
//! There is no standard, and the programs that read such files disagree. What is written here ([`write()`]) is read alike by `sh`, node's
//! dotenv and python-dotenv, and runs nothing in a shell. What is read ([`read()`]) is read as node's dotenv does;
//! [`read_own()`] reads what was written here, and nothing else.

mod own;
mod read;
mod write;

pub use own::{Variable, read_own};
pub use read::{Difference, Entry, read};
pub use write::{Unwritable, fits_a_shell, is_run_by_a_shell, quote_of, write};

/// A name that every reader takes but the shells.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}
