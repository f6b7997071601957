//! The formats in which applications read many values from one file. Each is written so that all readers of the format agree.
//!
//! Files of whole secrets are written here. dotenv has its own module ([`crate::dotenv`]), since commands read and write it too. Nothing
//! here uses a secret or a class.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

mod json;
pub mod pem;
pub mod pkcs12;
mod properties;
mod text;
mod toml;
mod yaml;

pub use json::check as check_json;
pub use properties::escape_value as properties_value;
pub use text::{in_quotes, quote};
#[cfg(test)]
mod tests;

/// The deepest nesting of a value: a program that reads it recurses that deep.
pub const MAX_DEPTH: usize = 64;

/// A format that a file may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    Dotenv(Names),
    Json,
    Pem(pem::Part),
    Properties(Names),
    Toml,
    Yaml,
}

/// How names are written in a file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Names {
    /// As in their secret.
    #[default]
    AsStored,
    /// Names of environment variables: `db.password` becomes `DB_PASSWORD`.
    Env,
}

/// A value as its store has it.
#[derive(Clone, Copy)]
pub enum Value<'v> {
    Binary(&'v [u8]),
    /// A value that is not a text, as JSON.
    Json(&'v str),
    Text(&'v str),
}

/// Why a value cannot be written in a format. The message follows the field's name.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Unfit {
    #[error("is binary, which {format} cannot hold (deliver it with `field`, and name the other fields with `fields`)")]
    Binary { format: &'static str },
    #[error("is nested more than {MAX_DEPTH} levels deep (store it flatter, or deliver it with `field`)")]
    Deep,
    #[error("{0} (store another value, or deliver it with `field`)")]
    Dotenv(crate::dotenv::Unwritable),
    #[error("has half a character in it (half of a surrogate pair: write the secret again)")]
    Half,
    #[error("has a name of more than 1000 characters, which not every YAML reader takes (use a shorter name)")]
    LongName,
    #[error(
        "has a name that cannot be a variable's: use letters, digits and `_`, no digit first, and not a variable that a shell sets \
         itself (add `keys: env`, or rename it)"
    )]
    Name,
    #[error("has the name of a variable whose value bash runs or computes (rename it)")]
    Runs,
    #[error("came as JSON and cannot be read as such")]
    NotJson,
    #[error(
        "is null in the store, or has a null in it, which {format} cannot hold (give it a value, or name the other fields with `fields`)"
    )]
    Null { format: &'static str },
    #[error("is or has a number that TOML cannot hold: an integer has 64 bits there (store it as a text)")]
    Number,
    #[error("has a member twice in one object, which {format} does not allow (write the secret again)")]
    Twice { format: &'static str },
}

/// A buffer with a maximum length. A longer text is counted to its end and not kept. A growing buffer leaves no copy.
pub struct Out {
    length: usize,
    most: usize,
    /// `None`: the text is only counted.
    bytes: Option<Zeroizing<Vec<u8>>>,
}

// === impl Format ===

impl Format {
    /// The word for it in a class.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dotenv(_) => "dotenv",
            Self::Json => "json",
            Self::Pem(_) => "pem",
            Self::Properties(_) => "properties",
            Self::Toml => "toml",
            Self::Yaml => "yaml",
        }
    }

    /// A field's name in the file. `None`: the name has no letter or digit that a variable's name could be made of.
    pub fn name(self, field: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::Dotenv(Names::Env) | Self::Properties(Names::Env) => variable(field).map(Cow::Owned),
            Self::Dotenv(Names::AsStored) | Self::Properties(Names::AsStored) | Self::Json | Self::Pem(_) | Self::Toml | Self::Yaml => {
                Some(Cow::Borrowed(field))
            }
        }
    }

    /// Writes all values, each with its name. Certificates are written by [`pem`].
    ///
    /// # Errors
    /// The position of the first value that cannot be written.
    pub fn write(self, values: &[(&str, Value<'_>)], out: &mut Out) -> Result<(), (usize, Unfit)> {
        match self {
            Self::Json => out.push("{"),
            Self::Yaml if values.is_empty() => out.push("{}\n"),
            Self::Dotenv(_) | Self::Pem(_) | Self::Properties(_) | Self::Toml | Self::Yaml => {}
        }
        for (position, (name, value)) in values.iter().enumerate() {
            if position > 0 && self == Self::Json {
                out.push(",");
            }
            self.write_one(name, *value, out).map_err(|unfit| (position, unfit))?;
        }
        if self == Self::Json {
            out.push("}");
        }
        Ok(())
    }

    fn write_one(self, name: &str, value: Value<'_>, out: &mut Out) -> Result<(), Unfit> {
        let format = self.as_str();
        match (self, value) {
            (_, Value::Binary(_)) => Err(Unfit::Binary { format }),
            (Self::Dotenv(_) | Self::Properties(_) | Self::Toml, Value::Json("null")) => Err(Unfit::Null { format }),
            (Self::Dotenv(_), Value::Json(text) | Value::Text(text)) => write_variable(name, text, out),
            (Self::Json | Self::Pem(_), value) => {
                text::quote(name, out);
                out.push(":");
                json::write(value, &json::PLAIN, out)
            }
            (Self::Properties(_), Value::Json(text) | Value::Text(text)) => {
                properties::write(name, text, out);
                Ok(())
            }
            (Self::Toml, value) => toml::write(name, value, out),
            (Self::Yaml, value) => yaml::write(name, value, out),
        }
    }
}

/// JSON in the spelling of another format: JSON itself, YAML or TOML.
///
/// # Errors
/// That format cannot hold it.
pub fn respell(format: Format, json: &str, out: &mut Out) -> Result<(), Unfit> {
    let spelling = match format {
        Format::Toml => &toml::SPELLING,
        Format::Yaml => &yaml::SPELLING,
        Format::Dotenv(_) | Format::Json | Format::Pem(_) | Format::Properties(_) => &json::PLAIN,
    };
    json::write(Value::Json(json), spelling, out)
}

fn write_variable(name: &str, text: &str, out: &mut Out) -> Result<(), Unfit> {
    use crate::dotenv::Unwritable;
    if name.is_empty() || !crate::dotenv::fits_a_shell(name) {
        return Err(Unfit::Name);
    }
    let quote = crate::dotenv::quote_of(name, text).map_err(|why| match why {
        Unwritable::Name => Unfit::Name,
        Unwritable::Run => Unfit::Runs,
        Unwritable::Bare | Unwritable::Binary | Unwritable::CarriageReturn | Unwritable::Expansion | Unwritable::Quotes => {
            Unfit::Dotenv(why)
        }
    })?;
    for part in [name, "=", quote, text, quote, "\n"] {
        out.push(part);
    }
    Ok(())
}

/// Capitals and digits; everything else is `_`.
fn variable(field: &str) -> Option<String> {
    let has_sign = field.bytes().any(|byte| byte.is_ascii_alphanumeric());
    let before = if field.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    let signs = field.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    has_sign.then(|| before.chars().chain(signs).collect())
}

// === impl Out ===

impl Out {
    /// Keeps only the number of bytes written.
    pub fn counting() -> Self {
        Self { length: 0, most: 0, bytes: None }
    }

    /// Keeps at most so many bytes. It has room for `guess` of them from the start.
    pub fn within(most: usize, guess: usize) -> Self {
        Self { length: 0, most, bytes: Some(Zeroizing::new(Vec::with_capacity(guess.min(most)))) }
    }

    pub fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    pub fn push_bytes(&mut self, text: &[u8]) {
        self.length += text.len();
        let Some(bytes) = &mut self.bytes else { return };
        if self.length > self.most {
            self.bytes = None;
            return;
        }
        if bytes.capacity() < self.length {
            let mut grown = Zeroizing::new(Vec::with_capacity((2 * self.length).min(self.most)));
            grown.extend_from_slice(bytes);
            *bytes = grown;
        }
        bytes.extend_from_slice(text);
    }

    fn push_char(&mut self, c: char) {
        self.push(c.encode_utf8(&mut [0; 4]));
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the text is too long to be kept.
    pub fn is_over(&self) -> bool {
        self.length > self.most
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The whole text.
    ///
    /// # Errors
    /// It is too long: the error has its length in bytes.
    pub fn into_bytes(self) -> Result<Zeroizing<Vec<u8>>, usize> {
        self.bytes.ok_or(self.length)
    }

    /// What was written, if it is text and within the limit; else nothing.
    pub fn into_text(self) -> String {
        let mut bytes = self.into_bytes().unwrap_or_default();
        String::from_utf8(std::mem::take(&mut *bytes)).unwrap_or_default()
    }
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("length", &self.length).finish_non_exhaustive()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(redacted)")
    }
}
