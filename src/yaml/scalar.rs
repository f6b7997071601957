//! What a scalar means: the rules of gopkg.in/yaml.v3 and of sigs.k8s.io/yaml, which differ in a few spellings.
//!
//! Both read YAML 1.1 with their own changes (`resolve.go` of each): `0644` and `0o644` are octal, `1_000` is a number, `1e999` is a text,
//! since a float cannot be so large. `yes` and `y` are booleans in a manifest and texts in `objects`.

use data_encoding::BASE64;

use super::Schema;
use super::time::{is_time, rfc3339};

/// What a scalar is to the program that reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Boolean(bool),
    Float(f64),
    /// Of 64 bits, with a sign or without.
    Integer(i128),
    Text,
    /// A date, with or without a time. Manifests have none: there it is a text.
    Time,
}

/// A scalar as the parser gives it.
pub(super) struct Plain<'t> {
    pub text: &'t str,
    pub quoted: bool,
    /// Such as `int` of `!!int`.
    pub tag: Option<&'t str>,
}

/// A scalar that was read.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Is(Kind),
    /// A text that differs from the written one: `!!binary`, decoded.
    Decoded(String),
}

// === impl Plain ===

impl Plain<'_> {
    /// # Errors
    /// A tag that does not fit the text, or is not supported: what to do.
    pub(super) fn read(&self, schema: Schema) -> Result<Scalar, String> {
        let tag = match self.tag {
            None if self.quoted => return Ok(Scalar::Is(Kind::Text)),
            None => return Ok(resolve(schema, self.text, true)),
            Some("str") => return Ok(Scalar::Is(Kind::Text)),
            Some("binary") => return self.decoded(),
            Some(tag) => tag,
        };
        let found = resolve(schema, self.text, tag == "timestamp");
        let found = match (tag, found) {
            ("float", Scalar::Is(Kind::Integer(n))) => Scalar::Is(i64::try_from(n).map_or(Kind::Integer(n), |n| Kind::Float(go_float(n)))),
            ("timestamp", Scalar::Is(Kind::Text)) if schema == Schema::Kubernetes && is_time(self.text) => {
                return Ok(Scalar::Is(Kind::Text));
            }
            (_, found) => found,
        };
        let fits = match found {
            Scalar::Null => tag == "null",
            Scalar::Is(Kind::Boolean(_)) => tag == "bool",
            Scalar::Is(Kind::Float(_)) => tag == "float",
            Scalar::Is(Kind::Integer(_)) => tag == "int",
            Scalar::Is(Kind::Time) => tag == "timestamp",
            Scalar::Is(Kind::Text) | Scalar::Decoded(_) => false,
        };
        match tag {
            _ if fits => Ok(found),
            "bool" | "float" | "int" | "null" | "timestamp" => {
                Err(format!("the value does not fit its tag `!!{tag}` (remove the tag, or write another value)"))
            }
            _ => Err(super::unread_tag(Some(tag))),
        }
    }

    /// Line ends within the text are fine.
    fn decoded(&self) -> Result<Scalar, String> {
        let text: String = self.text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| "the value of `!!binary` is not base64 (correct it)".to_owned())?;
        String::from_utf8(bytes)
            .map(Scalar::Decoded)
            .map_err(|_| "the value of `!!binary` is not UTF-8 text (JSON cannot hold it)".to_owned())
    }
}

/// A whole number of 64 bits as the nearest float: the result of Go's conversion.
#[allow(clippy::cast_precision_loss)]
fn go_float(n: i64) -> f64 {
    n as f64
}

/// `times`: whether dates exist.
fn resolve(schema: Schema, text: &str, times: bool) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Is(Kind::Boolean(true)),
        "false" | "False" | "FALSE" => return Scalar::Is(Kind::Boolean(false)),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Is(Kind::Float(f64::NAN)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Is(Kind::Float(f64::INFINITY)),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Is(Kind::Float(f64::NEG_INFINITY)),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" if schema == Schema::Kubernetes => return Scalar::Is(Kind::Boolean(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" if schema == Schema::Kubernetes => return Scalar::Is(Kind::Boolean(false)),
        _ => {}
    }
    Scalar::Is(match text.as_bytes()[0] {
        b'.' if underscores_are_between_digits(text) => float(&text.replace('_', "")).map_or(Kind::Text, Kind::Float),
        b'0'..=b'9' if times && schema == Schema::V3 && is_time(text) => Kind::Time,
        b'0'..=b'9' | b'+' | b'-' => number(schema, &text.replace('_', "")).unwrap_or(Kind::Text),
        _ => Kind::Text,
    })
}

fn number(schema: Schema, text: &str) -> Option<Kind> {
    if let Some(integer) = integer(text) {
        return Some(Kind::Integer(integer));
    }
    if let Some(float) = float(text) {
        return Some(Kind::Float(float));
    }
    // Both programs also accept a sign after the prefix, by chance.
    let octal = text.strip_prefix("0o").filter(|_| schema == Schema::V3).map(|rest| (rest, 8));
    let (rest, radix) = text.strip_prefix("0b").map(|rest| (rest, 2)).or(octal)?;
    signed(rest, |digits| u64::from_str_radix(digits, radix).ok()).map(Kind::Integer)
}

/// As `strconv.ParseInt` and `ParseUint` with base 0.
fn integer(text: &str) -> Option<i128> {
    signed(text, |digits| {
        let prefixed = digits.get(..2).map(str::to_ascii_lowercase);
        let (digits, radix) = match (prefixed.as_deref(), digits) {
            (Some("0b"), _) => (&digits[2..], 2),
            (Some("0o"), _) => (&digits[2..], 8),
            (Some("0x"), _) => (&digits[2..], 16),
            (_, "0") => (digits, 10),
            _ => digits.strip_prefix('0').map_or((digits, 10), |rest| (rest, 8)),
        };
        // The standard library would accept a sign here.
        u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
    })
}

/// A number of 64 bits. A number with a sign must fit into a signed one.
fn signed(text: &str, magnitude: impl Fn(&str) -> Option<u64>) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => return magnitude(text).map(i128::from),
    };
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    let number = sign * i128::from(magnitude(digits)?);
    i64::try_from(number).ok().map(i128::from)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, as long as a float can be so large.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['-', '+']).unwrap_or(exponent));
    let exponent_fits = exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    text.parse().ok().filter(|float: &f64| mantissa_fits && exponent_fits && float.is_finite())
}

fn underscores_are_between_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    // It starts with a point.
    (1..bytes.len()).all(|at| bytes[at] != b'_' || is_digit(at - 1) && is_digit(at + 1))
}

// === impl Kind ===

impl Kind {
    /// The JSON that Go's `encoding/json` writes of a value that yaml.v3 has read.
    ///
    /// # Errors
    /// JSON has no such value.
    pub fn to_json(self, text: &str) -> Result<String, &'static str> {
        match self {
            Self::Boolean(value) => Ok(value.to_string()),
            Self::Float(value) if !value.is_finite() => Err("is a number that JSON does not have"),
            Self::Float(value) if value != 0.0 && !(1e-6..1e21).contains(&value.abs()) => {
                Ok(format!("{value:e}").replace('e', "e+").replace("e+-", "e-"))
            }
            Self::Float(value) => Ok(value.to_string()),
            Self::Integer(value) => Ok(value.to_string()),
            Self::Text => Ok(serde_json::Value::from(text).to_string()),
            Self::Time => {
                rfc3339(text).map(|time| format!("\"{time}\"")).ok_or("is a time with an offset of a day or more, which JSON does not have")
            }
        }
    }

    /// The text that sigs.k8s.io/yaml makes of a value if the program needs a text. It keeps 32 bits of a number with a dot (`yaml.go`).
    pub fn to_text(self, text: &str) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Float(value) => text_of_float(value),
            Self::Integer(value) => value.to_string(),
            Self::Text | Self::Time => text.to_owned(),
        }
    }

    /// The text that a key of a manifest becomes. `None`: Kubernetes accepts no such key.
    pub(super) fn to_key(self, text: &str) -> Option<String> {
        match self {
            Self::Boolean(value) => Some(value.to_string()),
            Self::Float(value) => Some(key_of_float(value)),
            Self::Integer(value) => i64::try_from(value).ok().map(|value| value.to_string()),
            Self::Text | Self::Time => Some(text.to_owned()),
        }
    }
}

fn key_of_float(value: f64) -> String {
    match text_of_float(value).as_str() {
        "NaN" => ".nan".to_owned(),
        "+Inf" => ".inf".to_owned(),
        "-Inf" => "-.inf".to_owned(),
        text => text.to_owned(),
    }
}

/// Go's `strconv.FormatFloat(value, 'g', -1, 32)`.
#[allow(clippy::cast_possible_truncation)] // that is what it does
fn text_of_float(value: f64) -> String {
    let value = value as f32;
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    general(&format!("{value:e}"), || value.to_string())
}

/// Go's format `g` of the shortest digits, from both forms of a number.
fn general(scientific: &str, plain: impl FnOnce() -> String) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    if (-4..6).contains(&exponent) { plain() } else { format!("{mantissa}e{sign}{:02}", exponent.abs()) }
}
