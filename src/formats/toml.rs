//! TOML 1.0: one line per value, with a quoted key. A nested value is an inline table or an array.

use super::json::{self, Spelling};
use super::{Out, Unfit, Value, text};

pub const SPELLING: Spelling =
    Spelling { format: "toml", colon: " = ", comma: ", ", null: None, number, longest_name: usize::MAX, twice: false };

pub fn write(name: &str, value: Value<'_>, out: &mut Out) -> Result<(), Unfit> {
    text::quote(name, out);
    out.push(" = ");
    json::write(value, &SPELLING, out)?;
    out.push("\n");
    Ok(())
}

/// Readers do not have to accept an integer with more than 64 bits, and many do not.
fn number(digits: &str, out: &mut Out) -> Result<(), Unfit> {
    let is_integer = !digits.contains(['.', 'e', 'E']);
    if is_integer && digits.parse::<i64>().is_err() {
        return Err(Unfit::Number);
    }
    out.push(digits);
    Ok(())
}
