//! YAML: one line per value. Every text is in double quotes, so that no reader takes `no` for a boolean or `1e3` for a number. Nested
//! values are in the flow style, as in JSON.

use super::json::{self, Spelling};
use super::{Out, Unfit, Value, text};

/// A longer name before a colon is not a key (YAML 1.2.2, 7.4.2: 1,024 characters).
const LONGEST_NAME: usize = 1000;

pub const SPELLING: Spelling =
    Spelling { format: "yaml", colon: ": ", comma: ", ", null: Some("null"), number, longest_name: LONGEST_NAME, twice: false };

pub fn write(name: &str, value: Value<'_>, out: &mut Out) -> Result<(), Unfit> {
    let before = out.len();
    text::quote(name, out);
    if out.len() - before > LONGEST_NAME {
        return Err(Unfit::LongName);
    }
    out.push(": ");
    json::write(value, &SPELLING, out)?;
    out.push("\n");
    Ok(())
}

/// `1e3` is a text for readers of YAML 1.1: there, a number with an exponent has a point, and the exponent has a sign.
#[allow(clippy::unnecessary_wraps)] // other forms refuse some
fn number(digits: &str, out: &mut Out) -> Result<(), Unfit> {
    let Some((mantissa, exponent)) = digits.split_once(['e', 'E']) else {
        out.push(digits);
        return Ok(());
    };
    out.push(mantissa);
    out.push(if mantissa.contains('.') { "e" } else { ".0e" });
    out.push(if exponent.starts_with(['+', '-']) { "" } else { "+" });
    out.push(exponent);
    Ok(())
}
